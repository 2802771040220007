using System.Text.Json;

namespace Lancet.Tokenization;

/// <summary>Reads the values of a section of a tokenizer.json.</summary>
internal static class Section
{
    /// <summary>The kind of a normaliser, pre-tokeniser, decoder or model.</summary>
    public static string Type(JsonElement json) => json.TryGetProperty("type", out var type) ? type.GetString() ?? "" : "";

    /// <summary>A truth value.</summary>
    public static bool Flag(JsonElement json, string key, bool fallback = false) => json.TryGetProperty(key, out var value) && value.ValueKind is JsonValueKind.True or JsonValueKind.False ? value.ValueKind == JsonValueKind.True : fallback;

    /// <summary>How a Metaspace marks spaces, and when it marks the start: always, first or never.</summary>
    public static (string Mark, string Scheme) Metaspace(JsonElement json) =>
        (Text(json, "replacement") ?? "▁", Text(json, "prepend_scheme") ?? (Flag(json, "add_prefix_space", true) ? "always" : "never"));

    /// <summary>A text, or null.</summary>
    public static string? Text(JsonElement json, string key) => json.TryGetProperty(key, out var value) && value.ValueKind == JsonValueKind.String ? value.GetString() : null;
}
