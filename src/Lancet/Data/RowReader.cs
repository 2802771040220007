using System.IO.Compression;
using System.Text;
using System.Text.Json;

namespace Lancet.Data;

/// <summary>
/// Rows of data files: JSONL (one JSON object a line), JSON (an array of objects), and CSV or TSV with a header (every value a string), each also
/// compressed with gzip (<c>.gz</c>). A folder stands for all such files in it, a pattern such as <c>data/*.jsonl</c> for those that it matches, in
/// order of their names.
/// </summary>
public static class RowReader
{
    private const string Known = ".jsonl, .ndjson, .json, .csv and .tsv are read, each also with .gz behind it";
    private static readonly string[] s_extensions = [".jsonl", ".ndjson", ".json", ".csv", ".tsv"];

    // Bytes that are no UTF-8 are an error rather than question marks in the training data.
    private static readonly UTF8Encoding s_utf8 = new(false, true);

    /// <summary>Reads all rows, each with its place for messages (<c>file:line</c>).</summary>
    /// <param name="path">A file, a folder or a pattern.</param>
    /// <exception cref="LancetException">A file is missing or damaged, or a row is not what its file promises; the message names file and row.</exception>
    public static IEnumerable<(JsonElement Row, string Place)> Read(string path) => Files(path).SelectMany(ReadFile);

    private static IReadOnlyList<string> Files(string path)
    {
        if (File.Exists(path)) return [path];
        if (Directory.Exists(path)) return Sorted(path, "*", $"{path}: the folder holds no data file; {Known}.");
        if (path.AsSpan().IndexOfAny('*', '?') < 0) throw new LancetException($"{path}: data file not found.");
        var folder = Path.GetDirectoryName(path) is { Length: > 0 } named ? named : ".";
        if (!Directory.Exists(folder)) throw new LancetException($"{path}: data file not found; there is no folder {folder}.");
        return Sorted(folder, Path.GetFileName(path), $"{path}: no data file matches; {Known}.");
    }

    private static IReadOnlyList<string> Sorted(string folder, string pattern, string ifNone)
    {
        string[] files = [.. Directory.EnumerateFiles(folder, pattern).Where(file => s_extensions.Contains(ExtensionOf(file))).Order(StringComparer.Ordinal)];
        return files.Length > 0 ? files : throw new LancetException(ifNone);
    }

    private static string ExtensionOf(string path) => Path.GetExtension(IsCompressed(path) ? path[..^3] : path).ToLowerInvariant();

    private static bool IsCompressed(string path) => path.EndsWith(".gz", StringComparison.OrdinalIgnoreCase);

    private static IEnumerable<(JsonElement Row, string Place)> ReadFile(string path) => ExtensionOf(path) switch
    {
        ".json" => Array(path),
        ".jsonl" or ".ndjson" => Lines(path),
        ".csv" or ".tsv" => SeparatedValues.Read(path, Open(path), ExtensionOf(path) == ".tsv"),
        var other => throw new LancetException($"{path}: {(other.Length == 0 ? "no file extension" : other)}; {Known}."),
    };

    private static StreamReader Open(string path, Encoding? encoding = null)
    {
        Stream stream = File.OpenRead(path);
        return new StreamReader(IsCompressed(path) ? new GZipStream(stream, CompressionMode.Decompress) : stream, encoding ?? s_utf8);
    }

    private static IEnumerable<(JsonElement, string)> Lines(string path)
    {
        using var reader = Open(path);
        for (var number = 1; ; number++)
        {
            var place = $"{path}:{number}";
            if (Guarded(path, place, reader.ReadLine) is not { } line) yield break;
            if (!string.IsNullOrWhiteSpace(line)) yield return (Object(Parse(line, place), place), place);
        }
    }

    private static IEnumerable<(JsonElement, string)> Array(string path)
    {
        using var reader = Open(path);
        var root = Parse(Guarded(path, path, reader.ReadToEnd), path);
        if (root.ValueKind != JsonValueKind.Array) throw new LancetException($"{path}: a JSON array of rows is expected; for one object a line use the extension .jsonl.");
        var number = 0;
        foreach (var row in root.EnumerateArray()) yield return (Object(row, $"{path}: row {++number}"), $"{path}: row {number}");
    }

    /// <summary>What a damaged file throws, in words.</summary>
    internal static T Guarded<T>(string path, string place, Func<T> read)
    {
        try
        {
            return read();
        }
        catch (DecoderFallbackException error)
        {
            throw new LancetException($"{path}:{FirstInvalidLine(path)}: not valid UTF-8.", error);
        }
        catch (Exception error) when (error is InvalidDataException or ArgumentException or EndOfStreamException)
        {
            throw new LancetException($"{place}: {error.Message.ReplaceLineEndings(" ")}", error);
        }
    }

    // Text is decoded many lines at a time, so the line is looked for once it is known that there is one.
    private static int FirstInvalidLine(string path)
    {
        using var reader = Open(path, Encoding.Latin1);
        for (var number = 1; reader.ReadLine() is { } line; number++)
        {
            try
            {
                s_utf8.GetCharCount(Encoding.Latin1.GetBytes(line));
            }
            catch (DecoderFallbackException)
            {
                return number;
            }
        }
        return 0;
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
