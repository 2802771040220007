using System.Collections.ObjectModel;
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

    /// <summary>Renders conversations: the one given, else ChatML.</summary>
    public ChatTemplate Template { get; } = template ?? ChatTemplate.ChatMl;

    /// <summary>Columns of other names than the shapes'.</summary>
    public ColumnMapping Columns { get; init; } = ColumnMapping.None;

    /// <summary>Further variables of the chat template, such as <c>enable_thinking</c>; a row's own <c>chat_template_kwargs</c> win.</summary>
    public IReadOnlyDictionary<string, JsonElement> TemplateVariables { get; init; } = ReadOnlyDictionary<string, JsonElement>.Empty;

    /// <summary>Whether a row was rendered with the template.</summary>
    public bool HasRenderedChats { get; private set; }

    /// <summary>Tokens and labels of a row.</summary>
    /// <param name="row">JSON object.</param>
    /// <param name="place">Where it is, for messages.</param>
    /// <exception cref="LancetException">The row has no known shape or wrong values.</exception>
    public TokenizedRow Render(JsonElement row, string place) => Cut(RenderWhole(row, place, out _));

    /// <summary>Tokens and labels of a row before it is cut to <see cref="MaxLength"/>, and its shape.</summary>
    /// <exception cref="LancetException">The row has no known shape or wrong values.</exception>
    public TokenizedRow RenderWhole(JsonElement row, string place, out RowShape shape)
    {
        try
        {
            shape = RowShapes.Detect(row, Columns, place);
            return shape switch
            {
                RowShape.Tokens => PreTokenized(row, place),
                RowShape.Text => PlainText(Conversation.Text(Part(row, "text"), "text", Columns, place), place),
                _ => Chat(Conversation.Read(row, shape, Columns, place), place),
            };
        }
        catch (InvalidOperationException error)
        {
            // The one thing that valid JSON can say and a string cannot hold.
            throw new LancetException($"{place}: a text holds half of a surrogate pair (\\ud800 to \\udfff): {error.Message}", error);
        }
    }

    /// <summary>A row cut to <see cref="MaxLength"/>.</summary>
    public TokenizedRow Cut(TokenizedRow row) => row.Cut(MaxLength);

    /// <summary>Tokens and labels of a row as a run trains it: cut to <see cref="MaxLength"/>, with something left to learn.</summary>
    /// <exception cref="LancetException">The row has no known shape, wrong values, or no trained token.</exception>
    public TokenizedRow RenderTrained(JsonElement row, string place, out RowShape shape)
    {
        var tokens = Cut(RenderWhole(row, place, out shape));
        return tokens.LabelTokenCount > 0 ? tokens
            : throw new LancetException($"{place}: no token of this row is trained (after cutting to {MaxLength} tokens). Raise --max-seq-length, remove the row, or check its roles.");
    }

    private JsonElement Part(JsonElement row, string part) => Columns.TryGet(row, part, out var value) ? value : default;

    private TokenizedRow PreTokenized(JsonElement row, string place)
    {
        var tokens = Integers(Part(row, "input_ids"), "input_ids", place);
        foreach (var id in tokens)
            if (id < 0 || id >= VocabularySize) throw new LancetException($"{place}: token id {id} is outside the model's vocabulary of {VocabularySize}.");
        var labels = Columns.TryGet(row, "labels", out var list) ? Integers(list, "labels", place) : (int[])tokens.Clone();
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

    private TokenizedRow Chat(Conversation conversation, string place)
    {
        var needed = Needed(place).For(Template);
        HasRenderedChats = true;
        RenderedChat rendered;
        try
        {
            var options = new ChatTemplateOptions { BosToken = needed.BosToken, EosToken = needed.EosToken, Tools = conversation.Tools, Variables = Merged(conversation.Variables) };
            rendered = TrainsOnResponsesOnly
                ? Template.RenderWithSpans(conversation.Messages, options)
                : new(Template.Render(conversation.Messages, options), []);
        }
        catch (LancetException error)
        {
            throw new LancetException($"{place}: {error.Message}", error);
        }
        // The template writes the special tokens itself, so the tokenizer must not add a second beginning-of-text.
        var ids = needed.Encode(rendered.Text, false, out var starts);
        if (!TrainsOnResponsesOnly) return new(ids, (int[])ids.Clone());
        var labels = new int[ids.Length];
        var span = 0;
        for (var i = 0; i < ids.Length; i++)
        {
            // Starts and spans both ascend.
            while (span < rendered.Spans.Count && rendered.Spans[span].End <= starts[i]) span++;
            labels[i] = span < rendered.Spans.Count && starts[i] >= rendered.Spans[span].Start ? ids[i] : PackedBatch.IgnoredLabel;
        }
        return new(ids, labels);
    }

    private IReadOnlyDictionary<string, JsonElement> Merged(IReadOnlyDictionary<string, JsonElement> own)
    {
        if (own.Count == 0) return TemplateVariables;
        var all = new Dictionary<string, JsonElement>(TemplateVariables);
        foreach (var (name, value) in own) all[name] = value;
        return all;
    }

    private Tokenizer Needed(string place) => tokenizer ?? throw new LancetException($"{place}: the row is text, but the model folder has no tokenizer (tokenizer.json or tokenizer.model).");
}
