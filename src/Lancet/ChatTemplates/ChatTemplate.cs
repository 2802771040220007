using Lancet.ChatTemplates.Jinja;

namespace Lancet.ChatTemplates;

/// <summary>A chat template: Jinja source as Hugging Face checkpoints carry it, run by an interpreter that can neither loop for ever nor touch files.</summary>
public sealed class ChatTemplate
{
    private readonly Template _template;

    private ChatTemplate(string source) => (Source, _template) = (source, Template.Parse(source));

    /// <summary>The default: turns between <c>&lt;|im_start|&gt;</c> and <c>&lt;|im_end|&gt;</c>.</summary>
    public static ChatTemplate ChatMl { get; } = new(NamedTemplates.Find("chatml")!);

    /// <summary>Names that <see cref="Named"/> knows.</summary>
    public static IReadOnlyList<string> Names => NamedTemplates.Names;

    /// <summary>Jinja source.</summary>
    public string Source { get; }

    /// <summary>Parses a template.</summary>
    /// <exception cref="LancetException">The template is malformed; the message names the line.</exception>
    public static ChatTemplate Parse(string source) => new(source);

    /// <summary>A template of a well-known format: chatml, llama-3, gemma, mistral, phi, qwen, alpaca, vicuna, zephyr.</summary>
    /// <exception cref="LancetException">There is none of that name; the message lists those there are.</exception>
    public static ChatTemplate Named(string name) => NamedTemplates.Find(name) is { } source
        ? new(source)
        : throw new LancetException($"There is no chat template '{name}'. Known: {string.Join(", ", Names)}.");

    /// <summary>The text of a conversation.</summary>
    /// <exception cref="LancetException">The template refuses the conversation or fails.</exception>
    public string Render(IReadOnlyList<ChatMessage> messages, ChatTemplateOptions options) => _template.Render(Variables(messages, options));

    /// <summary>
    /// The text of a conversation and the parts that the assistant wrote. A turn's part begins where the template's generation prompt for
    /// the turns before it ends, so that what is trained is exactly what the model has to write in a chat.
    /// </summary>
    /// <exception cref="LancetException">The template rewrites earlier turns, so that the parts cannot be told.</exception>
    public RenderedChat RenderWithSpans(IReadOnlyList<ChatMessage> messages, ChatTemplateOptions options)
    {
        var text = Render(messages, options);
        var spans = new List<(int, int)>();
        for (var i = 0; i < messages.Count; i++)
        {
            if (messages[i].Role != "assistant") continue;
            var before = i == 0 ? "" : Render([.. messages.Take(i)], options with { AddsGenerationPrompt = true });
            var after = i + 1 == messages.Count && !options.AddsGenerationPrompt ? text : Render([.. messages.Take(i + 1)], options with { AddsGenerationPrompt = false });
            var end = CommonPrefix(text, after);
            var start = CommonPrefix(text, before);
            if (start < before.Length && !messages[i].Content.StartsWith(before[start..], StringComparison.Ordinal) && text.IndexOf(messages[i].Content, start, StringComparison.Ordinal) < 0)
                throw new LancetException($"the chat template rewrites earlier turns, so the assistant's turn {i + 1} cannot be found in the text.");
            spans.Add((start, Math.Max(start, end)));
        }
        return new(text, spans);
    }

    private static int CommonPrefix(string a, string b) => a.AsSpan().CommonPrefixLength(b);

    private static Dictionary<string, object?> Variables(IReadOnlyList<ChatMessage> messages, ChatTemplateOptions options) => new()
    {
        ["messages"] = messages.Select(message => (object?)new Dictionary<string, object?> { ["role"] = message.Role, ["content"] = message.Content }).ToList(),
        ["add_generation_prompt"] = options.AddsGenerationPrompt,
        ["bos_token"] = options.BosToken ?? "",
        ["eos_token"] = options.EosToken ?? "",
    };
}
