using System.Diagnostics.CodeAnalysis;
using System.IO.Compression;
using System.Text;
using System.Text.Json;
using Lancet.Data.Parquet;
using ZstdSharp;

namespace Lancet.Data;

/// <summary>
/// Rows of data files: JSONL (one JSON object a line), JSON (an array of objects), and CSV or TSV with a header (every value a string), each also
/// compressed with gzip (<c>.gz</c>) or Zstandard (<c>.zst</c>), and Parquet. A folder stands for all such files in it, a pattern such as <c>data/*.jsonl</c> for those that it matches, in
/// order of their names.
/// </summary>
public static class RowReader
{
    private const string Known = ".jsonl, .ndjson, .json, .csv and .tsv are read, each also with .gz or .zst behind it, and .parquet";
    private static readonly string[] s_extensions = [".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet"];

    // Bytes that are no UTF-8 are an error rather than question marks in the training data.
    private static readonly UTF8Encoding s_utf8 = new(false, true);

    /// <summary>Reads all rows, each with its place for messages (<c>file:line</c>).</summary>
    /// <param name="path">A file, a folder or a pattern.</param>
    /// <exception cref="LancetException">A file is missing or damaged, or a row is not what its file promises; the message names file and row.</exception>
    public static IEnumerable<(JsonElement Row, string Place)> Read(string path) => Files(path).SelectMany(file => ReadFile(file, null));

    /// <summary>Reads all rows, going on behind those that cannot be read. Damage that hides where the next row begins ends its file, never the files after it.</summary>
    /// <param name="path">A file, a folder or a pattern.</param>
    /// <param name="refused">Receives what <see cref="Read(string)"/> would have thrown, once for each such row, in order with the rows.</param>
    /// <exception cref="LancetException">There is no such file.</exception>
    public static IEnumerable<(JsonElement Row, string Place)> Read(string path, Action<LancetException> refused) => Files(path).SelectMany(file => ReadFile(file, refused));

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

    private static string ExtensionOf(string path) => Path.GetExtension(IsGzip(path) || IsZstandard(path) ? Path.ChangeExtension(path, null) : path).ToLowerInvariant();

    private static bool IsGzip(string path) => path.EndsWith(".gz", StringComparison.OrdinalIgnoreCase);

    private static bool IsZstandard(string path) => path.EndsWith(".zst", StringComparison.OrdinalIgnoreCase);

    private static IEnumerable<(JsonElement Row, string Place)> ReadFile(string path, Action<LancetException>? refused) => ExtensionOf(path) switch
    {
        ".json" => Array(path, refused),
        ".jsonl" or ".ndjson" => Lines(path, refused),
        ".csv" or ".tsv" => SeparatedValues.Read(path, Open(path), ExtensionOf(path) == ".tsv", refused),
        ".parquet" => IsGzip(path) || IsZstandard(path)
            ? throw new LancetException($"{path}: Parquet is read from its end and compresses its own columns; unpack the file first.")
            : ParquetRows.Read(path, refused),
        var other => throw new LancetException($"{path}: {(other.Length == 0 ? "no file extension" : other)}; {Known}."),
    };

    private static StreamReader Open(string path, Encoding? encoding = null)
    {
        Stream stream = File.OpenRead(path);
        if (IsGzip(path)) stream = new GZipStream(stream, CompressionMode.Decompress);
        else if (IsZstandard(path)) stream = new DecompressionStream(stream, leaveOpen: false);
        return new StreamReader(stream, encoding ?? s_utf8);
    }

    private static IEnumerable<(JsonElement, string)> Lines(string path, Action<LancetException>? refused)
    {
        // Bytes as characters: lines end at the same places, and text that is no UTF-8 spoils its own line only.
        using var reader = Open(path, Encoding.Latin1);
        for (var number = 1; ; number++)
        {
            var place = $"{path}:{number}";
            if (!IsRead(() => Guarded(path, place, reader.ReadLine), refused, out var line) || line is null) yield break;
            if (!string.IsNullOrWhiteSpace(line) && IsRead(() => Object(Parse(Decoded(reader, line, place), place), place), refused, out var row)) yield return (row, place);
        }
    }

    private static IEnumerable<(JsonElement, string)> Array(string path, Action<LancetException>? refused)
    {
        using var reader = Open(path);
        if (!IsRead(() => ArrayIn(Guarded(path, path, reader.ReadToEnd), path), refused, out var rows)) yield break;
        var number = 0;
        foreach (var item in rows.EnumerateArray())
        {
            var place = $"{path}: row {++number}";
            if (IsRead(() => Object(item, place), refused, out var row)) yield return (row, place);
        }
    }

    private static JsonElement ArrayIn(string text, string path) => Parse(text, path) is { ValueKind: JsonValueKind.Array } rows ? rows
        : throw new LancetException($"{path}: a JSON array of rows is expected; for one object a line use the extension .jsonl.");

    /// <summary>The text of a line of bytes; a file that began with a byte order mark has been decoded by it.</summary>
    private static string Decoded(StreamReader reader, string line, string place)
    {
        if (reader.CurrentEncoding.CodePage != Encoding.Latin1.CodePage) return line;
        try
        {
            return s_utf8.GetString(Encoding.Latin1.GetBytes(line));
        }
        catch (DecoderFallbackException error)
        {
            throw new LancetException($"{place}: not valid UTF-8.", error);
        }
    }

    /// <summary>Reads something and says whether that went well. What does not is given to <paramref name="refused"/>, or thrown without one.</summary>
    internal static bool IsRead<T>(Func<T> read, Action<LancetException>? refused, [MaybeNullWhen(false)] out T value)
    {
        try
        {
            value = read();
            return true;
        }
        catch (LancetException error) when (refused is not null)
        {
            refused(error);
            value = default;
            return false;
        }
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
        catch (Exception error) when (error is InvalidDataException or ArgumentException or EndOfStreamException or ZstdException)
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
