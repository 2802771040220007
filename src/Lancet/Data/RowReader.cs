using System.Text.Json;

namespace Lancet.Data;

/// <summary>Rows of a JSONL file (one JSON object a line) or a JSON file (an array of objects).</summary>
public static class RowReader
{
    /// <summary>Reads all rows, each with its place for messages (<c>file:line</c>).</summary>
    /// <exception cref="LancetException">The file is missing or a row is not a JSON object.</exception>
    public static IEnumerable<(JsonElement Row, string Place)> Read(string path)
    {
        if (!File.Exists(path)) throw new LancetException($"{path}: data file not found.");
        return Path.GetExtension(path).ToLowerInvariant() switch
        {
            ".json" => Array(path),
            ".jsonl" or ".ndjson" => Lines(path),
            var other => throw new LancetException($"{path}: {(other.Length == 0 ? "no file extension" : other)}; .jsonl and .json are read."),
        };
    }

    private static IEnumerable<(JsonElement, string)> Lines(string path)
    {
        var number = 0;
        foreach (var line in File.ReadLines(path))
        {
            number++;
            if (string.IsNullOrWhiteSpace(line)) continue;
            yield return (Object(Parse(line, $"{path}:{number}"), $"{path}:{number}"), $"{path}:{number}");
        }
    }

    private static IEnumerable<(JsonElement, string)> Array(string path)
    {
        var root = Parse(File.ReadAllText(path), path);
        if (root.ValueKind != JsonValueKind.Array) throw new LancetException($"{path}: a JSON array of rows is expected; for one object a line use the extension .jsonl.");
        var number = 0;
        foreach (var row in root.EnumerateArray()) yield return (Object(row, $"{path}: row {++number}"), $"{path}: row {number}");
    }

    private static JsonElement Parse(string text, string place)
    {
        try
        {
            using var document = JsonDocument.Parse(text);
            return document.RootElement.Clone();
        }
        catch (JsonException error)
        {
            throw new LancetException($"{place}: not valid JSON: {error.Message}", error);
        }
    }

    private static JsonElement Object(JsonElement row, string place) => row.ValueKind == JsonValueKind.Object ? row : throw new LancetException($"{place}: a JSON object is expected.");
}
