using System.Text.Json;
using Lancet.ChatTemplates;
using Lancet.Data;
using Lancet.Tokenization;

namespace Lancet.Tests.Data;

/// <summary>Rows as people bring them: role names, tool calls, columns of other names, and what is wrong with them.</summary>
public class ConversationTests
{
    private static readonly Tokenizer s_tokenizer = Tokenizer.Load(Path.Combine(TestFiles.Root(), "models", "lancet-dotnet-base"));

    [Theory]
    [InlineData("human", "user")]
    [InlineData("User", "user")]
    [InlineData("gpt", "assistant")]
    [InlineData("bot", "assistant")]
    [InlineData("model", "assistant")]
    [InlineData("chatbot", "assistant")]
    [InlineData("observation", "tool")]
    [InlineData("function", "tool")]
    [InlineData("developer", "developer")]
    public void Role_names_of_other_formats_become_those_of_openai(string given, string expected) =>
        Assert.Equal(expected, Assert.Single(Read($$"""{"conversations": [{"from": "{{given}}", "value": "x"}]}""").Messages).Role);

    [Fact]
    public void Tool_calls_reach_the_template_as_they_are()
    {
        const string Row = """
            {"messages": [
              {"role": "user", "content": "Weather?"},
              {"role": "assistant", "content": null, "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Bern", "days": 2}}}]},
              {"role": "tool", "tool_call_id": "c1", "content": "rain"},
              {"role": "assistant", "content": "Rain."}],
             "tools": "[{\"type\": \"function\", \"function\": {\"name\": \"weather\"}}]"}
            """;
        var template = ChatTemplate.Parse(
            "{% for t in tools %}T:{{ t.function.name }};{% endfor %}{% for m in messages %}{% if m.tool_calls %}{% for c in m.tool_calls %}C:{{ c.function.arguments if c.function.arguments is string else c.function.arguments | tojson }}{{ m.content is none }};{% endfor %}" +
            "{% else %}{{ m.role }}{{ m.tool_call_id if m.tool_call_id is defined }}:{{ m.content }};{% endif %}{% endfor %}");
        Assert.Equal("T:weather;user:Weather?;C:{\"city\": \"Bern\", \"days\": 2}True;toolc1:rain;assistant:Rain.;", Render(template, Row).Text);
        Assert.Contains("C:{\"a\":1}True", Render(template, Row.Replace("{\"city\": \"Bern\", \"days\": 2}", "\"{\\\"a\\\":1}\"", StringComparison.Ordinal)).Text);
        Assert.Equal("C:{\"city\": \"Bern\", \"days\": 2}True;assistant:Rain.;", Render(template, Row).Trained);
    }

    [Theory]
    [InlineData("\"content\": null, ", "none")]
    [InlineData("\"content\": \"\", ", "text")]
    [InlineData("\"content\": \"Let me see.\", ", "text Let me see.")]
    [InlineData("", "undefined")]
    public void A_template_sees_whether_a_turn_that_calls_has_text_none_or_no_content(string content, string expected)
    {
        var row = """{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", CONTENT"tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {}}}]}]}""".Replace("CONTENT", content, StringComparison.Ordinal);
        var template = ChatTemplate.Parse("{% for m in messages if m.tool_calls %}{{ 'undefined' if m.content is undefined else 'none' if m.content is none else ('text ' + m.content) | trim }}{% for c in m.tool_calls %}|{{ c.function.name }}{% endfor %}{% endfor %}");
        Assert.Equal(expected + "|f", Render(template, row).Text);
    }

    [Fact]
    public void A_function_call_of_sharegpt_is_a_tool_call_and_its_system_message_comes_first()
    {
        var row = Read("""{"system": "S", "conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {\"x\": 1}}"}, {"from": "observation", "value": "1"}, {"from": "gpt", "value": "a"}]}""");
        Assert.Equal(["system", "user", "assistant", "tool", "assistant"], row.Messages.Select(message => message.Role));
        Assert.Equal("f", row.Messages[2].Fields["tool_calls"][0].GetProperty("function").GetProperty("name").GetString());
    }

    [Theory]
    // Gemma 3's way, Llama 3.2's, and Mistral's, which is for text alone.
    [InlineData("{% if m.content is string %}{{ m.content | trim }}{% elif m.content is iterable %}{% for p in m.content %}{% if p['type'] == 'text' %}{{ p['text'] | trim }}{% endif %}{% endfor %}{% endif %}", "abc")]
    [InlineData("{{ m.content if m.content is string else m.content | map(attribute='text') | join('+') }}", "a + bc")]
    [InlineData("{{ m.content[0].text if m.content is not string else 'text' }}", "a ")]
    [InlineData("{{ '<' + m.content + '>' }}", "<a  bc>")]
    [InlineData("{{ m.content }}", "a  bc")]
    public void A_template_that_reads_parts_gets_them(string body, string expected)
    {
        const string Row = """{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": [{"type": "text", "text": "a "}, {"type": "text", "text": " bc"}]}]}""";
        var rendered = Render(ChatTemplate.Parse("{% for m in messages %}{% if m.role == 'assistant' %}" + body + "{% else %}?{% endif %}{% endfor %}"), Row);
        Assert.Equal("?" + expected, rendered.Text);
        Assert.Equal(expected, rendered.Trained);
    }

    [Fact]
    public void Content_may_come_in_parts_and_messages_as_a_json_string()
    {
        Assert.Equal("ab", Read("""{"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]}""").Messages[0].Content);
        Assert.Equal("x", Read("""{"messages": "[{\"role\": \"user\", \"content\": \"x\"}]"}""").Messages[0].Content);
    }

    [Fact]
    public void A_row_may_set_variables_of_the_template_and_wins_over_the_run()
    {
        var template = ChatTemplate.Parse("{{ enable_thinking }}{% for m in messages %}{{ m.content }}{% endfor %}");
        var renderer = new RowRenderer(s_tokenizer, template) { TemplateVariables = new Dictionary<string, JsonElement> { ["enable_thinking"] = Parse("true") } };
        Assert.StartsWith("True", s_tokenizer.Decode(renderer.Render(Parse("""{"prompt": "a", "completion": "b"}"""), "here").InputIds, false));
        Assert.StartsWith("False", s_tokenizer.Decode(renderer.Render(Parse("""{"prompt": "a", "completion": "b", "chat_template_kwargs": {"enable_thinking": false}}"""), "here").InputIds, false));
    }

    [Fact]
    public void A_turn_of_weight_0_is_read_but_not_trained() => Assert.Equal(
        "D<|im_end|>\n",
        Render(ChatTemplate.ChatMl, """{"messages": [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B", "weight": 0}, {"role": "user", "content": "C"}, {"role": "assistant", "content": "D", "weight": 1}]}""").Trained);

    [Fact]
    public void Columns_of_other_names_are_mapped_and_the_shape_is_theirs()
    {
        var columns = ColumnMapping.Parse("prompt=question, completion=answer");
        var row = Parse("""{"text": "not this", "question": "q", "answer": "a"}""");
        Assert.Equal(["q", "a"], Conversation.Read(row, columns, "here").Messages.Select(message => message.Content));
        Assert.Contains("no column answer, which --columns names as completion. The row has question", Message(() => Conversation.Read(Parse("""{"question": "q"}"""), columns, "f:7")));
        Assert.Contains("'prompt'", Message(() => ColumnMapping.Parse("prompt")));
        Assert.Contains("'a=b'", Message(() => ColumnMapping.Parse("a=b")));
        Assert.Contains("twice", Message(() => ColumnMapping.Parse("text=a,text=b")));
    }

    [Theory]
    [InlineData("""{"text": "t", "messages": [{"role": "user", "content": "q"}]}""", RowShape.Messages)]
    [InlineData("""{"text": "t", "instruction": "i", "output": "o"}""", RowShape.Instruction)]
    [InlineData("""{"text": "t", "messages": null}""", RowShape.Text)]
    [InlineData("""{"text": "t", "input_ids": [1]}""", RowShape.Tokens)]
    public void The_more_detailed_shape_wins(string row, RowShape expected) => Assert.Equal(expected, RowShapes.Detect(Parse(row), ColumnMapping.None, "here"));

    [Theory]
    [InlineData("""{"messages": []}""", "messages must be a non-empty list")]
    [InlineData("""{"messages": "{"}""", "messages is a string but not valid JSON")]
    [InlineData("""{"messages": [{"role": "user", "content": "a"}, {"content": "b"}]}""", "message 2: it has no role")]
    [InlineData("""{"messages": [{"role": "assistant"}]}""", "message 1: it has no text content and no tool_calls")]
    [InlineData("""{"messages": [{"role": "assistant", "content": null}]}""", "message 1: it has no text content and no tool_calls")]
    [InlineData("""{"messages": [{"role": "user", "content": [{"type": "image"}]}]}""", "only parts of type text")]
    [InlineData("""{"conversations": [{"from": "function_call", "value": "{}"}]}""", "name and arguments")]
    [InlineData("""{"prompt": "a", "completion": "b", "tools": {"x": 1}}""", "tools must be a list")]
    [InlineData("""{"prompt": "a", "completion": "b", "chat_template_kwargs": "[]"}""", "chat_template_kwargs must be an object")]
    [InlineData("""{"prompt": "a\ud800", "completion": "b"}""", "surrogate")]
    [InlineData("""{"question": "a", "answer": "b"}""", "--columns")]
    public void Wrong_rows_are_named_with_what_is_wrong(string row, string expected)
    {
        var message = Message(() => new RowRenderer(s_tokenizer, null).Render(Parse(row), "rows.jsonl:9"));
        Assert.StartsWith("rows.jsonl:9", message);
        Assert.Contains(expected, message);
    }

    [Fact]
    public void A_file_of_several_shapes_names_the_rows_of_the_rarer_ones()
    {
        var folder = Directory.CreateTempSubdirectory("lancet-shapes").FullName;
        try
        {
            var path = Path.Combine(folder, "mixed.jsonl");
            File.WriteAllLines(path, ["""{"text": "one"}""", """{"prompt": "q", "completion": "a"}""", """{"text": "two"}"""]);
            var notes = SftDataset.Load(path, new RowRenderer(s_tokenizer, null)).Notes;
            Assert.Equal($"{path}: 3 rows: 2 plain text, 1 prompts with completions", notes[0]);
            Assert.Contains($"prompts with completions at {path}:2.", notes[1]);
            File.WriteAllLines(path, ["""{"text": "one"}"""]);
            Assert.Equal([$"{path}: 1 rows: plain text"], SftDataset.Load(path, new RowRenderer(s_tokenizer, null)).Notes);
        }
        finally
        {
            Directory.Delete(folder, true);
        }
    }

    private static JsonElement Parse(string json) => JsonDocument.Parse(json).RootElement;

    private static Conversation Read(string row) => Conversation.Read(Parse(row), ColumnMapping.None, "here");

    private static string Message(Action action) => Assert.Throws<LancetException>(action).Message;

    private static (string Text, string Trained) Render(ChatTemplate template, string row)
    {
        var rendered = new RowRenderer(s_tokenizer, template).Render(Parse(row), "here");
        return (s_tokenizer.Decode(rendered.InputIds, false), s_tokenizer.Decode([.. rendered.Labels.Where(label => label >= 0)], false));
    }
}
