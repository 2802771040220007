using Lancet.ChatTemplates;
using Lancet.Formats.Ollama;
using Lancet.Tokenization;

namespace Lancet.Tests.Export;

/// <summary>Modelfiles: Ollama's templates render what the chat templates render.</summary>
public class OllamaTests
{
    private static readonly string s_bundled = Path.Combine(TestFiles.Root(), "models", "lancet-dotnet-base");

    public static TheoryData<string> Names => [.. ChatTemplate.Names];

    [Theory]
    [MemberData(nameof(Names))]
    public void A_named_template_renders_the_same(string name)
    {
        (string Role, string Content)[] turns = [("user", "one"), ("assistant", "two\nlines"), ("user", "three \"quoted\"")];
        var options = new ChatTemplateOptions { AddsGenerationPrompt = true, BosToken = "<s>", EosToken = "</s>" };
        foreach (var conversation in ((string, string)[][])[turns, turns[..1], [("system", "be kind"), .. turns], [("system", "be kind"), turns[0]]])
        {
            var expected = ChatTemplate.Named(name).Render([.. conversation.Select(turn => new ChatMessage(turn.Item1, turn.Item2))], options);
            // Ollama puts the beginning of text in front itself.
            if (expected.StartsWith("<s>", StringComparison.Ordinal)) expected = expected[3..];
            Assert.Equal(expected, GoTemplate.Render(OllamaTemplates.Find(name, "</s>")!, conversation));
        }
        Assert.Equal(name, OllamaTemplates.NameOf(ChatTemplate.Named(name), "<s>", "</s>"));
    }

    [Fact]
    public void A_template_of_a_checkpoint_is_known_by_what_it_renders()
    {
        var tokenizer = Tokenizer.Load(s_bundled);
        var template = ChatTemplate.Parse(tokenizer.ChatTemplate!);
        Assert.NotEqual(ChatTemplate.ChatMl.Source, template.Source);
        var text = OllamaModelfile.Create("model.gguf", tokenizer, template, "You know \"everything\".", 4096);
        Assert.Contains("FROM ./model.gguf\n", text, StringComparison.Ordinal);
        Assert.Contains("TEMPLATE \"\"\"{{ range .Messages }}<|im_start|>{{ .Role }}\n", text, StringComparison.Ordinal);
        Assert.Contains("PARAMETER stop \"<|im_end|>\"\n", text, StringComparison.Ordinal);
        Assert.Contains("PARAMETER num_ctx 4096\n", text, StringComparison.Ordinal);
        Assert.Contains("SYSTEM \"\"\"You know \"everything\".\"\"\"\n", text, StringComparison.Ordinal);
    }

    [Fact]
    public void A_template_of_another_format_is_left_to_ollama()
    {
        var text = OllamaModelfile.Create("model.gguf", Tokenizer.Load(s_bundled), ChatTemplate.Parse("{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"));
        Assert.DoesNotContain("TEMPLATE", text, StringComparison.Ordinal);
        Assert.Contains("# The chat template is none of those", text, StringComparison.Ordinal);
    }
}
