using System.Text.Json;
using Lancet.ChatTemplates;
using Lancet.Data;
using Lancet.Tokenization;

namespace Lancet.Tests.Data;

/// <summary>Every row shape: what the model reads and which of it is trained.</summary>
public class RowRendererTests
{
    private static readonly Tokenizer s_tokenizer = Tokenizer.Load(Path.Combine(TestFiles.Root(), "models", "lancet-dotnet-base"));

    [Theory]
    [InlineData("""{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]}""")]
    [InlineData("""{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes?"}]}""")]
    [InlineData("""{"prompt": "Hi", "completion": "Yes?"}""")]
    [InlineData("""{"prompt": [{"role": "user", "content": "Hi"}], "completion": [{"role": "assistant", "content": "Yes?"}]}""")]
    [InlineData("""{"instruction": "Hi", "output": "Yes?"}""")]
    [InlineData("""{"instruction": "Hi", "input": "", "output": "Yes?"}""")]
    public void Shapes_of_one_conversation_are_the_same_to_the_model(string row)
    {
        var (text, trained) = Render(row);
        Assert.Equal("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes?<|im_end|>\n", text);
        Assert.Equal("Yes?<|im_end|>\n", trained);
    }

    [Fact]
    public void An_instruction_may_have_an_input() => Assert.StartsWith("<|im_start|>user\nAdd\n\n1 and 2<|im_end|>", Render("""{"instruction": "Add", "input": "1 and 2", "output": "3"}""").Text);

    [Fact]
    public void Every_assistant_turn_is_trained_and_nothing_else_unless_wanted()
    {
        const string row = """{"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}, {"role": "user", "content": "C"}, {"role": "assistant", "content": "D"}]}""";
        Assert.Equal("B<|im_end|>\nD<|im_end|>\n", Render(row).Trained);
        var all = Render(row, false);
        Assert.Equal(all.Text, all.Trained);
    }

    [Fact]
    public void Text_ends_with_an_end_of_text_and_is_trained_whole()
    {
        var row = new RowRenderer(s_tokenizer, null).Render(Parse("""{"text": "Some words."}"""), "here");
        Assert.Equal("Some words." + s_tokenizer.EosToken, s_tokenizer.Decode(row.InputIds, false));
        Assert.Equal(row.InputIds, row.Labels);
    }

    [Fact]
    public void A_text_that_holds_its_beginning_of_text_gets_no_second_one()
    {
        using var folder = new TokenizerFolder("llama2");
        var tokenizer = Tokenizer.Load(folder.Path);
        int[] Ids(string text) => new RowRenderer(tokenizer, null).Render(Parse($$"""{"text": "{{text}}"}"""), "here").InputIds;
        Assert.Equal(1, Ids("words")[0]);
        Assert.Equal(1, Ids("<s>words").Count(id => id == 1));
        Assert.Equal(2, Ids("words")[^1]);
    }

    [Fact]
    public void Token_rows_keep_their_labels_and_rows_are_cut_to_the_longest_length()
    {
        var renderer = new RowRenderer(null, null) { MaxLength = 3, VocabularySize = 10 };
        var row = renderer.Render(Parse("""{"input_ids": [1, 2, 3, 4], "labels": [-100, -100, 3, 4]}"""), "here");
        Assert.Equal([1, 2, 3], row.InputIds);
        Assert.Equal([-100, -100, 3], row.Labels);
        Assert.Equal(1, row.LabelTokenCount);
        Assert.Equal([1, 2], renderer.Render(Parse("""{"input_ids": [1, 2]}"""), "here").Labels);
    }

    [Fact]
    public void Json_and_jsonl_files_give_the_same_rows()
    {
        using var folder = new TokenizerFolder("llama2");
        string array = Path.Combine(folder.Path, "a.json"), lines = Path.Combine(folder.Path, "a.jsonl");
        File.WriteAllText(array, """[{"text": "a"}, {"text": "b"}]""");
        File.WriteAllText(lines, "{\"text\": \"a\"}\n\n{\"text\": \"b\"}");
        static List<string> Texts(string path) => [.. RowReader.Read(path).Select(item => item.Row.GetProperty("text").GetString()!)];
        Assert.Equal(["a", "b"], Texts(array));
        Assert.Equal(["a", "b"], Texts(lines));
        Assert.Equal([lines + ":1", lines + ":3"], RowReader.Read(lines).Select(item => item.Place));
    }

    private static JsonElement Parse(string json) => JsonDocument.Parse(json).RootElement;

    private static (string Text, string Trained) Render(string json, bool responsesOnly = true)
    {
        var row = new RowRenderer(s_tokenizer, ChatTemplate.ChatMl) { TrainsOnResponsesOnly = responsesOnly }.Render(Parse(json), "here");
        return (s_tokenizer.Decode(row.InputIds, false), s_tokenizer.Decode([.. row.Labels.Where(label => label >= 0)], false));
    }

    /// <summary>A copy of a golden tokenizer with a tokenizer_config.json that names its special tokens.</summary>
    private sealed class TokenizerFolder : IDisposable
    {
        public TokenizerFolder(string kind)
        {
            File.Copy(System.IO.Path.Combine(TestFiles.Tokenizers, kind, "tokenizer.json"), System.IO.Path.Combine(Path, "tokenizer.json"));
            File.WriteAllText(System.IO.Path.Combine(Path, "tokenizer_config.json"), """{"bos_token": "<s>", "eos_token": {"content": "</s>"}}""");
        }

        public string Path { get; } = Directory.CreateTempSubdirectory("lancet-test-").FullName;

        public void Dispose() => Directory.Delete(Path, true);
    }
}
