using System.Text.Json;
using Lancet.ChatTemplates;

namespace Lancet.Data;

/// <summary>Messages in OpenAI's form (<c>role</c>, <c>content</c>, <c>tool_calls</c>) and ShareGPT's (<c>from</c>, <c>value</c>).</summary>
internal static class MessageReader
{
    private static readonly Dictionary<string, string> s_roles = new(StringComparer.OrdinalIgnoreCase)
    {
        ["system"] = "system",
        ["user"] = "user",
        ["human"] = "user",
        ["input"] = "user",
        ["assistant"] = "assistant",
        ["gpt"] = "assistant",
        ["bot"] = "assistant",
        ["ai"] = "assistant",
        ["model"] = "assistant",
        ["chatbot"] = "assistant",
        ["chatgpt"] = "assistant",
        ["output"] = "assistant",
        ["function_call"] = "assistant",
        ["tool"] = "tool",
        ["function"] = "tool",
        ["observation"] = "tool",
        ["tool_response"] = "tool",
        ["function_response"] = "tool",
    };

    /// <summary>A list of messages, or such a list as a JSON string (as tables keep them).</summary>
    /// <exception cref="LancetException">It is none, it is empty, or a message is malformed; the message says which.</exception>
    public static List<ChatMessage> ReadList(JsonElement list, string key, string place)
    {
        list = Decoded(list, key, place);
        if (list.ValueKind != JsonValueKind.Array || list.GetArrayLength() == 0) throw new LancetException($"{place}: {key} must be a non-empty list.");
        var result = new List<ChatMessage>(list.GetArrayLength());
        foreach (var message in list.EnumerateArray()) result.Add(Read(message, $"{place}: message {result.Count + 1}"));
        return result;
    }

    /// <summary>A value, or what a JSON string holds.</summary>
    public static JsonElement Decoded(JsonElement value, string key, string place)
    {
        if (value.ValueKind != JsonValueKind.String) return value;
        try
        {
            using var document = JsonDocument.Parse(value.GetString()!);
            return document.RootElement.Clone();
        }
        catch (JsonException error)
        {
            throw new LancetException($"{place}: {key} is a string but not valid JSON: {error.Message}", error);
        }
    }

    private static ChatMessage Read(JsonElement message, string place)
    {
        if (message.ValueKind != JsonValueKind.Object) throw new LancetException($"{place}: an object with role and content is expected.");
        var given = (message.TryGetProperty("role", out var name) || message.TryGetProperty("from", out name)) && name.ValueKind == JsonValueKind.String
            ? name.GetString()!
            : throw new LancetException($"{place}: it has no role.");
        var fields = message.EnumerateObject().Where(property => property.Name is not ("role" or "from" or "content" or "value" or "weight")).ToList();
        // Other roles are the template's business, which may know them.
        var role = s_roles.GetValueOrDefault(given, given);
        var hasContent = message.TryGetProperty("content", out var content) || message.TryGetProperty("value", out content);
        var calls = fields.Exists(property => property.Name is "tool_calls" or "function_call" && property.Value.ValueKind != JsonValueKind.Null);
        if (given.Equals("function_call", StringComparison.OrdinalIgnoreCase)) return new(role, "") { Fields = Fields([("tool_calls", CallsOf(content, place))]) };
        var text = hasContent && content.ValueKind != JsonValueKind.Null ? ContentOf(content, place)
            : calls ? null
            : throw new LancetException($"{place}: it has no text content{(role == "assistant" ? " and no tool_calls" : "")}.");
        var result = new ChatMessage(role, text) { HasContent = hasContent, Parts = hasContent && content.ValueKind == JsonValueKind.Array ? content : null, IsTrained = !message.TryGetProperty("weight", out var weight) || weight.ValueKind != JsonValueKind.Number || weight.GetDouble() != 0 };
        return fields.Count == 0 ? result : result with { Fields = Fields(fields.Select(property => (property.Name, property.Value))) };
    }

    private static Dictionary<string, JsonElement> Fields(IEnumerable<(string Name, JsonElement Value)> fields)
    {
        var result = new Dictionary<string, JsonElement>();
        foreach (var (name, value) in fields) result[name] = value;
        return result;
    }

    private static string ContentOf(JsonElement content, string place)
    {
        if (content.ValueKind == JsonValueKind.String) return content.GetString()!;
        if (content.ValueKind != JsonValueKind.Array) throw new LancetException($"{place}: its content must be a string or a list of parts.");
        return string.Concat(content.EnumerateArray().Select(part => part.ValueKind == JsonValueKind.Object && part.TryGetProperty("text", out var text) && text.ValueKind == JsonValueKind.String
            ? text.GetString()
            : throw new LancetException($"{place}: only parts of type text can be trained.")));
    }

    /// <summary>ShareGPT's function_call turn, a call or several as JSON, in OpenAI's form.</summary>
    private static JsonElement CallsOf(JsonElement value, string place)
    {
        var calls = Decoded(value, "function_call", place);
        var wrapped = new System.Buffers.ArrayBufferWriter<byte>();
        using (var json = new Utf8JsonWriter(wrapped))
        {
            json.WriteStartArray();
            foreach (var call in calls.ValueKind == JsonValueKind.Array ? [.. calls.EnumerateArray()] : (JsonElement[])[calls])
            {
                if (call.ValueKind != JsonValueKind.Object || !call.TryGetProperty("name", out _)) throw new LancetException($"{place}: a function_call holds JSON with name and arguments.");
                json.WriteStartObject();
                json.WriteString("type", "function");
                json.WritePropertyName("function");
                call.WriteTo(json);
                json.WriteEndObject();
            }
            json.WriteEndArray();
        }
        using var document = JsonDocument.Parse(wrapped.WrittenMemory);
        return document.RootElement.Clone();
    }
}
