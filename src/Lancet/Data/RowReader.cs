using System.Diagnostics.CodeAnalysis;
using System.Text.Json;
using Lancet.Data.Parquet;

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

    /// <summary>Reads all rows, each with its place for messages (<c>file:line</c>).</summary>
    /// <param name="path">A file, a folder or a pattern.</param>
    /// <exception cref="LancetException">A file is missing or damaged, or a row is not what its file promises; the message names file and row.</exception>
    public static IEnumerable<(JsonElement Row, string Place)> Read(string path) => Files(path).SelectMany(file => ReadFile(file, null));

    /// <summary>Reads all rows, going on behind those that cannot be read. Damage that hides where the next row begins ends its file, never the files after it.</summary>
    /// <param name="path">A file, a folder or a pattern.</param>
    /// <param name="refused">Receives what <see cref="Read(string)"/> would have thrown, once for each such row, in order with the rows.</param>
    /// <exception cref="LancetException">There is no such file.</exception>
    public static IEnumerable<(JsonElement Row, string Place)> Read(string path, Action<LancetException> refused) => Files(path).SelectMany(file => ReadFile(file, refused));

    /// <summary>Whether a file's name is that of a data file.</summary>
    public static bool IsDataFile(string path) => s_extensions.Contains(DataFile.ExtensionOf(path));

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
        string[] files = [.. Directory.EnumerateFiles(folder, pattern).Where(IsDataFile).Order(StringComparer.Ordinal)];
        return files.Length > 0 ? files : throw new LancetException(ifNone);
    }

    private static IEnumerable<(JsonElement Row, string Place)> ReadFile(string path, Action<LancetException>? refused) => DataFile.ExtensionOf(path) switch
    {
        ".json" => JsonRows.Array(path, refused),
        ".jsonl" or ".ndjson" => JsonRows.Lines(path, refused),
        ".csv" or ".tsv" => SeparatedValues.Read(path, DataFile.ExtensionOf(path) == ".tsv", refused),
        ".parquet" => DataFile.IsGzip(path) || DataFile.IsZstandard(path)
            ? throw new LancetException($"{path}: Parquet is read from its end and compresses its own columns; unpack the file first.")
            : ParquetRows.Read(path, refused),
        var other => throw new LancetException($"{path}: {(other.Length == 0 ? "no file extension" : other)}; {Known}."),
    };

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
}
