using System.Text.Json;

namespace Lancet.Data;

/// <summary>How a row says what is to be learnt.</summary>
public enum RowShape
{
    /// <summary><c>input_ids</c> and perhaps <c>labels</c>.</summary>
    Tokens,

    /// <summary><c>messages</c>, OpenAI's conversations.</summary>
    Messages,

    /// <summary><c>conversations</c>, those of ShareGPT.</summary>
    Conversations,

    /// <summary><c>prompt</c> and <c>completion</c>.</summary>
    PromptCompletion,

    /// <summary><c>instruction</c>, perhaps <c>input</c>, and <c>output</c>, as in Alpaca.</summary>
    Instruction,

    /// <summary><c>text</c>.</summary>
    Text,
}

/// <summary>Tells shapes of rows apart, the more detailed one first where a row has several.</summary>
public static class RowShapes
{
    /// <summary>The shape of a row.</summary>
    /// <param name="row">JSON object.</param>
    /// <param name="columns">Columns of other names.</param>
    /// <param name="place">Where the row is, for messages.</param>
    /// <exception cref="LancetException">The row has none; the message lists its keys and what is known.</exception>
    public static RowShape Detect(JsonElement row, ColumnMapping columns, string place)
    {
        columns.Check(row, place);
        return Has("input_ids") ? RowShape.Tokens
            : Has("messages") ? RowShape.Messages
            : Has("conversations") ? RowShape.Conversations
            : Has("prompt") && Has("completion") ? RowShape.PromptCompletion
            : Has("instruction") && Has("output") ? RowShape.Instruction
            : Has("text") ? RowShape.Text
            : throw new LancetException(
                $"{place}: unknown row shape with keys {KeysOf(row)}. Expected messages (or conversations), prompt + completion, instruction (+ input) + output, text, or input_ids (+ labels). " +
                "Columns of other names are given as --columns prompt=question,completion=answer.");

        bool Has(string part) => columns.TryGet(row, part, out _);
    }

    /// <summary>A shape in words.</summary>
    public static string Describe(RowShape shape) => shape switch
    {
        RowShape.Tokens => "tokens (input_ids)",
        RowShape.Messages => "conversations (messages)",
        RowShape.Conversations => "conversations (ShareGPT's conversations)",
        RowShape.PromptCompletion => "prompts with completions",
        RowShape.Instruction => "instructions with outputs",
        _ => "plain text",
    };

    /// <summary>Keys of a row, for messages.</summary>
    internal static string KeysOf(JsonElement row) => row.EnumerateObject().Select(property => property.Name).ToList() is { Count: > 0 } keys ? string.Join(", ", keys) : "no keys";
}
