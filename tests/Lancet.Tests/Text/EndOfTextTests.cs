using System.Text.Json;
using System.Text.Json.Nodes;
using Lancet.ChatTemplates;
using Lancet.Data;
using Lancet.Generation;
using Lancet.Tokenization;

namespace Lancet.Tests.Text;

/// <summary>The end of text is what ends a template's turns: in what is trained, in the files that are written, and when they are read again. Padding is never the end, and a chat has one beginning.</summary>
public sealed class EndOfTextTests : IDisposable
{
    private readonly string _root = Directory.CreateTempSubdirectory("lancet-test-").FullName;

    public void Dispose() => Directory.Delete(_root, true);

    public static TheoryData<string, string> TemplatesOfKinds
    {
        get
        {
            var data = new TheoryData<string, string>();
            foreach (var kind in (string[])["llama2", "llama3", "gemma", "mistral", "qwen2", "gpt2"])
                foreach (var name in ChatTemplate.Names) data.Add(kind, name);
            return data;
        }
    }

    [Theory]
    [MemberData(nameof(TemplatesOfKinds))]
    public void A_base_model_learns_to_end_as_the_template_ends_turns(string kind, string name)
    {
        var tokenizer = Base(kind);
        var template = ChatTemplate.Named(name);
        // The token is the one that ended texts, unless the vocabulary has the template's own.
        var written = name switch { "chatml" or "qwen" => "<|im_end|>", "llama-3" => "<|eot_id|>", "gemma" => "<end_of_turn>", "phi" => "<|end|>", _ => "</s>" };
        var end = tokenizer.IdOf(written) ?? tokenizer.IdOf("</s>")!.Value;
        var row = new RowRenderer(tokenizer, template).Render(Row("""{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}, {"role": "user", "content": "Bye"}, {"role": "assistant", "content": "So long"}]}"""), "row 1");
        Assert.Equal(2, row.Labels.Count(label => label == end));
        Assert.InRange(row.InputIds.Count(id => id == tokenizer.BosTokenId), 0, 1);
        Assert.Contains(end, ChatGeneration.StopTokens(tokenizer, template));

        var folder = Folder("out");
        tokenizer.SaveTo(folder, template);
        var saved = Tokenizer.Load(folder);
        Assert.Equal((end, written), (saved.EosTokenId, saved.EosToken));
        Assert.Equal(end, saved.IdOf(written));
        Assert.NotEqual(saved.EosTokenId, saved.PadTokenId);
        Assert.Equal(tokenizer.VocabularySize, saved.VocabularySize);
        // What was written needs nothing of what it was made from, and encodes as training did.
        Assert.Equal(template.Source, saved.ChatTemplate);
        var again = new RowRenderer(saved, ChatTemplate.Parse(saved.ChatTemplate!)).Render(Row("""{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}, {"role": "user", "content": "Bye"}, {"role": "assistant", "content": "So long"}]}"""), "row 1");
        Assert.Equal(row.InputIds, again.InputIds);
        Assert.Equal(row.Labels, again.Labels);
        Assert.Equal("a b", saved.Decode(saved.Encode("a b")));
        foreach (var text in TokenizerTests.Texts(kind).Where(text => !text.Contains("</s>", StringComparison.Ordinal))) Assert.Equal(tokenizer.Encode(text), saved.Encode(text));
    }

    [Theory]
    [InlineData("gemma")]
    [InlineData("llama3")]
    public void A_checkpoints_own_template_decides(string kind)
    {
        // As instruction-tuned Gemma and Phi-3: the tokenizer's end of text is not what ends a turn.
        const string Template = "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
        var tokenizer = Base(kind, config => config["chat_template"] = Template);
        var folder = Folder("out");
        var end = tokenizer.IdOf("<|im_end|>");
        File.WriteAllText(Path.Combine(folder, "config.json"), $$"""{"eos_token_id": 2, "pad_token_id": {{end}}, "hidden_size": 8}""");
        tokenizer.SaveTo(folder, ChatTemplate.Parse(Template));
        var saved = Tokenizer.Load(folder);
        Assert.Equal("<|im_end|>", saved.EosToken);
        Assert.False(File.Exists(Path.Combine(folder, Tokenizer.ChatTemplateFile)));
        Assert.Equal(File.ReadAllBytes(Path.Combine(TestFiles.Tokenizers, kind, "tokenizer.json")), File.ReadAllBytes(Path.Combine(folder, "tokenizer.json")));
        // Generation ends with either; the turn's end comes first, and padding is not it.
        foreach (var name in (string[])["config.json", "generation_config.json"]) Assert.Equal($"[{end},2]", Compact(folder, name, "eos_token_id"));
        Assert.Equal("3", Compact(folder, "config.json", "pad_token_id"));
        Assert.Equal("8", Compact(folder, "config.json", "hidden_size"));
    }

    [Fact]
    public void Another_template_takes_the_place_of_the_checkpoints_own()
    {
        var tokenizer = Base("llama2", config => config["chat_template"] = "{{ messages[0].content }}");
        var folder = Folder("out");
        tokenizer.SaveTo(folder, ChatTemplate.Named("zephyr"));
        Assert.Equal(ChatTemplate.Named("zephyr").Source, JsonNode.Parse(File.ReadAllText(Path.Combine(folder, "tokenizer_config.json")))!["chat_template"]!.GetValue<string>());
        Assert.Equal(ChatTemplate.Named("zephyr").Source, File.ReadAllText(Path.Combine(folder, Tokenizer.ChatTemplateFile)));
    }

    [Fact]
    public void Ends_that_generation_knows_are_kept()
    {
        var tokenizer = Base("llama3", source: folder => File.WriteAllText(Path.Combine(folder, "generation_config.json"), """{"eos_token_id": [2, 7], "temperature": 0.6}"""));
        var folder = Folder("out");
        tokenizer.SaveTo(folder, ChatTemplate.ChatMl);
        Assert.Equal($"[{tokenizer.IdOf("<|im_end|>")},2,7]", Compact(folder, "generation_config.json", "eos_token_id"));
        Assert.Equal("0.6", Compact(folder, "generation_config.json", "temperature"));
        // An adapter's folder has no model to say it of.
        Assert.False(File.Exists(Path.Combine(folder, "config.json")));
    }

    [Fact]
    public void Flags_of_special_tokens_stay()
    {
        var token = """{"content": "</s>", "lstrip": false, "special": true}""";
        var tokenizer = Base("llama2", config => config["eos_token"] = JsonNode.Parse(token), folder => File.WriteAllText(Path.Combine(folder, "special_tokens_map.json"), $$"""{"eos_token": {{token}}, "bos_token": "<s>"}"""));
        var folder = Folder("out");
        tokenizer.SaveTo(folder, ChatTemplate.Named("llama-3"));
        foreach (var name in (string[])["tokenizer_config.json", "special_tokens_map.json"])
            Assert.Equal("""{"content":"<|eot_id|>","lstrip":false,"special":true}""", JsonNode.Parse(File.ReadAllText(Path.Combine(folder, name)))!["eos_token"]!.ToJsonString(new() { Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping }));
    }

    [Theory]
    [InlineData("</s>", null, "<pad>")]
    [InlineData("<|im_end|>", "chatml", "<pad>")]
    [InlineData("</s>", "chatml", "</s>")]
    [InlineData("<unk>", "zephyr", "<unk>")]
    public void Padding_is_not_the_end(string pad, string? template, string expected)
    {
        var tokenizer = Base("mistral", config => config["pad_token"] = pad);
        var folder = Folder("out");
        tokenizer.SaveTo(folder, template is null ? null : ChatTemplate.Named(template));
        Assert.Equal(expected, JsonNode.Parse(File.ReadAllText(Path.Combine(folder, "tokenizer_config.json")))!["pad_token"]!.GetValue<string>());
    }

    [Fact]
    public void Where_no_token_can_pad_none_does()
    {
        BpeTrainer.Train(["some words"], 300, ["<|endoftext|>"], "<|endoftext|>", null, Folder("base"));
        var config = Path.Combine(_root, "base", "tokenizer_config.json");
        Assert.DoesNotContain("pad_token", File.ReadAllText(config), StringComparison.Ordinal);
        File.WriteAllText(config, """{"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}""");
        var folder = Folder("out");
        Tokenizer.Load(Path.Combine(_root, "base")).SaveTo(folder, ChatTemplate.ChatMl);
        // GPT-2 and Qwen begin texts with what ends them; all of its names change together.
        Assert.Equal("""{"eos_token":"<|im_end|>","bos_token":"<|im_end|>"}""", JsonNode.Parse(File.ReadAllText(Path.Combine(folder, "tokenizer_config.json")))!.ToJsonString(new() { Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping }));
    }

    [Fact]
    public void Without_a_template_the_files_are_copies()
    {
        var tokenizer = Base("llama2");
        var folder = Folder("out");
        tokenizer.SaveTo(folder);
        foreach (var name in (string[])["tokenizer.json", "tokenizer_config.json"]) Assert.Equal(File.ReadAllBytes(Path.Combine(_root, "base", name)), File.ReadAllBytes(Path.Combine(folder, name)));
    }

    [Fact]
    public void A_text_that_is_trained_ends_with_the_tokenizers_own_end_even_beside_chats()
    {
        var tokenizer = Base("llama2");
        var renderer = new RowRenderer(tokenizer, ChatTemplate.Named("phi"));
        var row = renderer.Render(Row("""{"text": "a</s>b"}"""), "row 1");
        Assert.Equal(2, row.InputIds.Count(id => id == tokenizer.EosTokenId));
        Assert.False(renderer.HasRenderedChats);
        renderer.Render(Row("""{"prompt": "a", "completion": "b"}"""), "row 2");
        Assert.True(renderer.HasRenderedChats);
    }

    private static JsonElement Row(string json) => JsonDocument.Parse(json).RootElement;

    private static string Compact(string folder, string file, string key) => JsonNode.Parse(File.ReadAllText(Path.Combine(folder, file)))![key]!.ToJsonString();

    private string Folder(string name) => Directory.CreateDirectory(Path.Combine(_root, name)).FullName;

    /// <summary>A tokenizer of tests/tokenizers as a base model has it: texts begin with &lt;s&gt; and end with &lt;/s&gt;.</summary>
    private Tokenizer Base(string kind, Action<JsonObject>? edit = null, Action<string>? source = null)
    {
        var folder = Folder("base");
        File.Copy(Path.Combine(TestFiles.Tokenizers, kind, "tokenizer.json"), Path.Combine(folder, "tokenizer.json"));
        var config = new JsonObject { ["bos_token"] = "<s>", ["eos_token"] = "</s>", ["unk_token"] = "<unk>", ["pad_token"] = "<pad>" };
        edit?.Invoke(config);
        File.WriteAllText(Path.Combine(folder, "tokenizer_config.json"), config.ToJsonString());
        source?.Invoke(folder);
        return Tokenizer.Load(folder);
    }
}
