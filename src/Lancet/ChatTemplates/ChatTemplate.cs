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

    /// <summary>The token that a template of <see cref="Names"/> ends every turn with, if it names one itself; null where it asks the tokenizer, and for any other template.</summary>
    internal string? LibraryTurnEnd => NamedTemplates.TurnEnd(Source);

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
    public string Render(IReadOnlyList<ChatMessage> messages, ChatTemplateOptions options) => Track(messages, options).Text;

    /// <summary>
    /// The text of a conversation and the parts that the assistant wrote. They are noted while the template runs: what its
    /// <c>{% generation %}</c> blocks write, if it has any, else what its loop over the messages writes for an assistant's turn, less what the
    /// generation prompt would have written: exactly what the model has to write in a chat. For templates that write their turns in another
    /// way, the parts are where the renderings of the conversation up to a turn and with it differ.
    /// </summary>
    /// <exception cref="LancetException">The template rewrites earlier turns in a way that the parts cannot be told.</exception>
    public RenderedChat RenderWithSpans(IReadOnlyList<ChatMessage> messages, ChatTemplateOptions options)
    {
        var (text, tracker) = Track(messages, options);
        if (tracker.Generated.Count > 0 && !tracker.HasLostGeneration) return new(text, [.. tracker.Generated.Where(IsTrained)]);
        var spans = new List<(int, int)>();
        for (var i = 0; i < messages.Count; i++)
            if (messages[i] is { Role: "assistant", IsTrained: true } && (tracker.Turn(i) is { } turn ? WithinTurn(text, turn, messages, i, options) : BetweenRenderings(text, messages, i, options)) is var span && span.End > span.Start) spans.Add(span);
        return new(text, spans);

        bool IsTrained((int Start, int End) span)
        {
            for (var i = 0; i < messages.Count; i++)
                if (!messages[i].IsTrained && tracker.Turn(i) is { } turn && span.Start >= turn.Start && span.End <= turn.End) return false;
            return true;
        }
    }

    /// <summary>A turn less its opening, which is what the template writes behind the turns before it when it is asked for a generation prompt.</summary>
    private (int Start, int End) WithinTurn(string text, (int Start, int End) turn, IReadOnlyList<ChatMessage> messages, int index, ChatTemplateOptions options)
    {
        if (index == 0) return turn;
        var (before, tracker) = Track([.. messages.Take(index)], options with { AddsGenerationPrompt = true });
        var opening = before.AsSpan(tracker.LastTurnEnd);
        var written = text.AsSpan(turn.Start, turn.End - turn.Start);
        var shared = written.CommonPrefixLength(opening);
        // Where only a part of the opening is there (the start of a thought, for one), what follows must not be taken for the rest of it.
        if (shared < opening.Length && messages[index].Content is { } content && content.AsSpan().Trim() is { Length: > 0 } core && written.IndexOf(core) is >= 0 and var at) shared = Math.Min(shared, at);
        return (turn.Start + shared, turn.End);
    }

    private (int Start, int End) BetweenRenderings(string text, IReadOnlyList<ChatMessage> messages, int index, ChatTemplateOptions options)
    {
        var before = index == 0 ? "" : Render([.. messages.Take(index)], options with { AddsGenerationPrompt = true });
        var after = index + 1 == messages.Count && !options.AddsGenerationPrompt ? text : Render([.. messages.Take(index + 1)], options with { AddsGenerationPrompt = false });
        var end = CommonPrefix(text, after);
        var start = CommonPrefix(text, before);
        var content = messages[index].Content ?? "";
        if (start < before.Length && !content.StartsWith(before[start..], StringComparison.Ordinal) && text.IndexOf(content, start, StringComparison.Ordinal) < 0)
            throw new LancetException($"the chat template rewrites earlier turns, so the assistant's turn {index + 1} cannot be found in the text.");
        return (start, Math.Max(start, end));
    }

    private static int CommonPrefix(string a, string b) => a.AsSpan().CommonPrefixLength(b);

    private (string Text, OutputTracker Tracker) Track(IReadOnlyList<ChatMessage> messages, ChatTemplateOptions options)
    {
        var parts = messages.Select(message => message.Parts is { } list ? new ContentParts((List<object?>)Values.FromJson(list)!) : null).ToList();
        if (parts.TrueForAll(part => part is null)) return Track(messages, options, parts);
        try
        {
            var result = Track(messages, options, parts);
            if (parts.TrueForAll(part => part?.WasRead ?? true)) return result;
        }
        catch (LancetException)
        {
            // Templates for text alone fail on a list, or would write it as one.
        }
        return Track(messages, options, [.. messages.Select(_ => (ContentParts?)null)]);
    }

    private (string Text, OutputTracker Tracker) Track(IReadOnlyList<ChatMessage> messages, ChatTemplateOptions options, List<ContentParts?> parts)
    {
        List<object?> turns = [.. messages.Select((message, i) => Turn(message, parts[i]))];
        var variables = new Dictionary<string, object?>
        {
            ["messages"] = turns,
            // As Hugging Face does, these are none rather than undefined where there are none.
            ["tools"] = options.Tools is { } tools ? Values.FromJson(tools) : null,
            ["documents"] = null,
            ["add_generation_prompt"] = options.AddsGenerationPrompt,
            ["bos_token"] = options.BosToken ?? "",
            ["eos_token"] = options.EosToken ?? "",
        };
        foreach (var (name, value) in options.Variables) variables[name] = Values.FromJson(value);
        var text = _template.Render(variables, turns, out var tracker);
        return (text, tracker!);
    }

    private static object Turn(ChatMessage message, ContentParts? parts)
    {
        var turn = new Dictionary<string, object?> { ["role"] = message.Role };
        if (message.HasContent) turn["content"] = (object?)parts ?? message.Content;
        foreach (var (name, value) in message.Fields) turn[name] = Values.FromJson(value);
        return turn;
    }
}
