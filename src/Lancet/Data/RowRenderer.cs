using System.Text.Json;
using Lancet.ChatTemplates;
using Lancet.Tokenization;

namespace Lancet.Data;

/// <summary>
/// Turns a row into tokens and labels. Row shapes: <c>input_ids</c> (+ <c>labels</c>), <c>messages</c> or <c>conversations</c>,
/// <c>prompt</c> + <c>completion</c>, <c>instruction</c> (+ <c>input</c>) + <c>output</c>, and <c>text</c>.
/// </summary>
/// <param name="tokenizer">Tokenizer; null allows pre-tokenised rows only.</param>
/// <param name="template">Chat template for everything but <c>text</c> and <c>input_ids</c>.</param>
public sealed class RowRenderer(Tokenizer? tokenizer, ChatTemplate? template)
{
    /// <summary>Rows are cut to this many tokens.</summary>
    public int MaxLength { get; init; } = int.MaxValue;

    /// <summary>Bound on token ids of pre-tokenised rows.</summary>
    public int VocabularySize { get; init; } = int.MaxValue;

    /// <summary>Whether only assistant turns and completions are trained.</summary>
    public bool TrainsOnResponsesOnly { get; init; } = true;

    /// <summary>Tokens and labels of a row.</summary>
    /// <param name="row">JSON object.</param>
    /// <param name="place">Where it is, for messages.</param>
    /// <exception cref="LancetException">The row has no known shape or wrong values.</exception>
    public TokenizedRow Render(JsonElement row, string place)
    {
        var result = row.TryGetProperty("input_ids", out var ids) ? PreTokenized(row, ids, place)
            : row.TryGetProperty("text", out var text) && !row.TryGetProperty("messages", out _) ? PlainText(Text(text, "text", place), place)
            : Conversation(Messages(row, place), place);
        return result.InputIds.Length <= MaxLength ? result : new(result.InputIds[..MaxLength], result.Labels[..MaxLength]);
    }

    /// <summary>The messages of a conversational row.</summary>
    /// <exception cref="LancetException">The row has no known shape.</exception>
    public static List<ChatMessage> Messages(JsonElement row, string place)
    {
        if (row.TryGetProperty("messages", out var list) || row.TryGetProperty("conversations", out list))
        {
            if (list.ValueKind != JsonValueKind.Array || list.GetArrayLength() == 0) throw new LancetException($"{place}: messages must be a non-empty list.");
            return [.. list.EnumerateArray().Select(message => Message(message, place))];
        }
        if (row.TryGetProperty("prompt", out var prompt) && row.TryGetProperty("completion", out var completion))
        {
            // Both may be lists of messages themselves.
            if (prompt.ValueKind == JsonValueKind.Array && completion.ValueKind == JsonValueKind.Array)
                return [.. prompt.EnumerateArray().Concat(completion.EnumerateArray()).Select(message => Message(message, place))];
            return [new("user", Text(prompt, "prompt", place)), new("assistant", Text(completion, "completion", place))];
        }
        if (row.TryGetProperty("instruction", out var instruction) && row.TryGetProperty("output", out var output))
        {
            var question = Text(instruction, "instruction", place);
            if (row.TryGetProperty("input", out var input) && input.ValueKind == JsonValueKind.String && input.GetString()!.Length > 0) question += "\n\n" + input.GetString();
            return [new("user", question), new("assistant", Text(output, "output", place))];
        }
        throw new LancetException(
            $"{place}: unknown row shape with keys {string.Join(", ", row.EnumerateObject().Select(property => property.Name))}. " +
            "Expected messages (or conversations), prompt + completion, instruction (+ input) + output, text, or input_ids (+ labels).");
    }

    private static ChatMessage Message(JsonElement message, string place)
    {
        if (message.ValueKind != JsonValueKind.Object) throw new LancetException($"{place}: every message must be an object with role and content.");
        var role = Property("role") ?? Property("from") ?? throw new LancetException($"{place}: a message has no role.");
        var content = Property("content") ?? Property("value") ?? throw new LancetException($"{place}: a message has no text content.");
        return new ChatMessage(role switch { "human" or "user" => "user", "gpt" or "assistant" or "model" or "output" => "assistant", _ => role }, content);

        string? Property(string name) => message.TryGetProperty(name, out var value) && value.ValueKind == JsonValueKind.String ? value.GetString() : null;
    }

    private static string Text(JsonElement value, string key, string place) => value.ValueKind == JsonValueKind.String ? value.GetString()! : throw new LancetException($"{place}: {key} must be a string.");

    private TokenizedRow PreTokenized(JsonElement row, JsonElement ids, string place)
    {
        var tokens = Integers(ids, "input_ids", place);
        foreach (var id in tokens)
            if (id < 0 || id >= VocabularySize) throw new LancetException($"{place}: token id {id} is outside the model's vocabulary of {VocabularySize}.");
        var labels = row.TryGetProperty("labels", out var list) ? Integers(list, "labels", place) : (int[])tokens.Clone();
        if (labels.Length != tokens.Length) throw new LancetException($"{place}: {tokens.Length} input_ids but {labels.Length} labels.");
        foreach (var label in labels)
            if (label != PackedBatch.IgnoredLabel && (label < 0 || label >= VocabularySize)) throw new LancetException($"{place}: label {label} is neither -100 nor inside the model's vocabulary of {VocabularySize}.");
        return new(tokens, labels);
    }

    private static int[] Integers(JsonElement list, string key, string place)
    {
        if (list.ValueKind != JsonValueKind.Array) throw new LancetException($"{place}: {key} must be a list of integers.");
        var result = new int[list.GetArrayLength()];
        var i = 0;
        foreach (var item in list.EnumerateArray())
            if (item.ValueKind != JsonValueKind.Number || !item.TryGetInt32(out result[i++])) throw new LancetException($"{place}: {key} must be a list of integers.");
        return result;
    }

    private TokenizedRow PlainText(string text, string place)
    {
        var ids = Needed(place).Encode(text, true);
        // Rows that were rendered elsewhere often hold the beginning of text already; a second one is never meant.
        if (ids.Length > 1 && ids[0] == tokenizer!.BosTokenId && ids[1] == ids[0]) ids = ids[1..];
        // Without an end of text a model that was trained on plain rows would never stop.
        if (tokenizer!.EosTokenId is { } eos && (ids.Length == 0 || ids[^1] != eos)) ids = [.. ids, eos];
        return new(ids, (int[])ids.Clone());
    }

    private TokenizedRow Conversation(List<ChatMessage> messages, string place)
    {
        var needed = Needed(place);
        RenderedChat rendered;
        try
        {
            rendered = (template ?? ChatTemplate.ChatMl).RenderWithSpans(messages, new ChatTemplateOptions { BosToken = needed.BosToken, EosToken = needed.EosToken });
        }
        catch (LancetException error)
        {
            throw new LancetException($"{place}: {error.Message}", error);
        }
        // The template writes the special tokens itself, so the tokenizer must not add a second beginning-of-text.
        var ids = needed.Encode(rendered.Text, false, out var starts);
        var labels = new int[ids.Length];
        for (var i = 0; i < ids.Length; i++)
            labels[i] = !TrainsOnResponsesOnly || rendered.Spans.Any(span => starts[i] >= span.Start && starts[i] < span.End) ? ids[i] : PackedBatch.IgnoredLabel;
        return new(ids, labels);
    }

    private Tokenizer Needed(string place) => tokenizer ?? throw new LancetException($"{place}: the row is text, but the model folder has no tokenizer.json.");
}
