using System.Text.Json;
using Lancet.ChatTemplates;

namespace Lancet.Data;

/// <summary>A conversational row: its turns, and what else of it the chat template sees.</summary>
/// <param name="Messages">Turns, with OpenAI's role names.</param>
/// <param name="Tools">The row's <c>tools</c>, or null.</param>
/// <param name="Variables">The row's <c>chat_template_kwargs</c>.</param>
public sealed record Conversation(IReadOnlyList<ChatMessage> Messages, JsonElement? Tools, IReadOnlyDictionary<string, JsonElement> Variables)
{
    /// <summary>Reads a row of any conversational shape.</summary>
    /// <param name="row">JSON object.</param>
    /// <param name="columns">Columns of other names.</param>
    /// <param name="place">Where the row is, for messages.</param>
    /// <exception cref="LancetException">The row is no conversation, or a message of it is malformed.</exception>
    public static Conversation Read(JsonElement row, ColumnMapping columns, string place) => Read(row, RowShapes.Detect(row, columns, place), columns, place);

    /// <summary>Reads a row if it is a conversation, else null.</summary>
    /// <exception cref="LancetException">The row has no known shape, or a message of it is malformed.</exception>
    public static Conversation? TryRead(JsonElement row, ColumnMapping columns, string place) =>
        RowShapes.Detect(row, columns, place) is var shape && shape is RowShape.Tokens or RowShape.Text ? null : Read(row, shape, columns, place);

    internal static Conversation Read(JsonElement row, RowShape shape, ColumnMapping columns, string place)
    {
        var messages = shape switch
        {
            RowShape.Messages => Turns("messages"),
            RowShape.Conversations => Turns("conversations"),
            RowShape.PromptCompletion => Pair(),
            RowShape.Instruction => Instruction(),
            _ => throw new LancetException($"{place}: the row is no conversation but {RowShapes.Describe(shape)}."),
        };
        // ShareGPT's and Alpaca's descendants keep the system message beside the turns.
        if (columns.TryGet(row, "system", out var system) && Text(system, "system", columns, place) is { Length: > 0 } text && messages[0].Role != "system") messages.Insert(0, new("system", text));
        return new(messages, ToolsOf(row, columns, place), VariablesOf(row, columns, place));

        List<ChatMessage> Turns(string part) => MessageReader.ReadList(Value(part), columns.ColumnOf(part), place);

        JsonElement Value(string part) => columns.TryGet(row, part, out var value) ? value : default;

        List<ChatMessage> Pair()
        {
            // Both may be lists of messages themselves.
            var (prompt, completion) = (Value("prompt"), Value("completion"));
            List<ChatMessage> turns = prompt.ValueKind == JsonValueKind.Array ? MessageReader.ReadList(prompt, columns.ColumnOf("prompt"), place) : [new("user", Text(prompt, "prompt", columns, place))];
            if (completion.ValueKind == JsonValueKind.Array) turns.AddRange(MessageReader.ReadList(completion, columns.ColumnOf("completion"), place));
            else turns.Add(new("assistant", Text(completion, "completion", columns, place)));
            return turns;
        }

        List<ChatMessage> Instruction()
        {
            var question = Text(Value("instruction"), "instruction", columns, place);
            if (columns.TryGet(row, "input", out var input) && Text(input, "input", columns, place) is { Length: > 0 } more) question += "\n\n" + more;
            return [new("user", question), new("assistant", Text(Value("output"), "output", columns, place))];
        }
    }

    internal static string Text(JsonElement value, string part, ColumnMapping columns, string place) =>
        value.ValueKind == JsonValueKind.String ? value.GetString()! : throw new LancetException($"{place}: {columns.ColumnOf(part)} must be a string.");

    private static JsonElement? ToolsOf(JsonElement row, ColumnMapping columns, string place)
    {
        if (!columns.TryGet(row, "tools", out var tools)) return null;
        tools = MessageReader.Decoded(tools, "tools", place);
        if (tools.ValueKind != JsonValueKind.Array) throw new LancetException($"{place}: {columns.ColumnOf("tools")} must be a list of tools, or that list as a JSON string.");
        return tools.GetArrayLength() > 0 ? tools : null;
    }

    private static Dictionary<string, JsonElement> VariablesOf(JsonElement row, ColumnMapping columns, string place)
    {
        var variables = new Dictionary<string, JsonElement>();
        if (!columns.TryGet(row, "chat_template_kwargs", out var given)) return variables;
        given = MessageReader.Decoded(given, "chat_template_kwargs", place);
        if (given.ValueKind != JsonValueKind.Object) throw new LancetException($"{place}: {columns.ColumnOf("chat_template_kwargs")} must be an object.");
        foreach (var property in given.EnumerateObject()) variables[property.Name] = property.Value;
        return variables;
    }
}
