using System.Globalization;
using System.Text.Json;

namespace Lancet.Data;

/// <summary>One of several sources of rows.</summary>
/// <param name="Path">A file, a folder or a pattern.</param>
/// <param name="Weight">Its weight in a mixture; null where none is given.</param>
public sealed record DataSource(string Path, double? Weight)
{
    /// <summary>The files that it stands for, where it is no path itself but a data set of the hub; else null.</summary>
    public IReadOnlyList<string>? Files { get; init; }

    /// <summary>Its rows, see <see cref="RowReader"/>.</summary>
    /// <param name="refused">Receives what cannot be read; null to throw it.</param>
    /// <exception cref="LancetException">A row cannot be read, or a file is missing.</exception>
    public IEnumerable<(JsonElement Row, string Place)> Read(Action<LancetException>? refused = null) => (Files ?? [Path]).SelectMany(file => refused is null ? RowReader.Read(file) : RowReader.Read(file, refused));
}

/// <summary>Where rows come from: a file, folder or pattern, or several separated by commas, such as <c>chat.jsonl,code.parquet</c> (one behind the other) or <c>chat.jsonl=2,code.parquet=1</c> (mixed by weight).</summary>
public sealed class DataSources
{
    private readonly string _text;

    private DataSources(string text, IReadOnlyList<DataSource> items) => (_text, Items) = (text, items);

    /// <summary>The sources in the order in which they were given.</summary>
    public IReadOnlyList<DataSource> Items { get; }

    /// <summary>Whether rows are mixed by weight; a source without one then has 1.</summary>
    public bool IsWeighted => Items.Any(item => item.Weight is not null);

    /// <summary>Reads a list of sources. What exists under its whole name is one path, whatever commas and equals signs it has.</summary>
    /// <param name="text">As on the command line.</param>
    /// <exception cref="LancetException">A weight is not a number above 0, or a name is missing.</exception>
    public static DataSources Parse(string text)
    {
        if (Exists(text)) return new(text, [new(text, null)]);
        return new(text, [.. text.Split(',').Select(item => ParseItem(item.Trim(), text))]);
    }

    /// <summary>The same sources with the files that some of them stand for.</summary>
    /// <param name="filesOf">The files of a source, or null where it is a path.</param>
    public DataSources With(Func<string, IReadOnlyList<string>?> filesOf) => new(_text, [.. Items.Select(item => item with { Files = filesOf(item.Path) })]);

    /// <summary>Rows of all sources, one behind the other, see <see cref="RowReader"/>.</summary>
    /// <param name="refused">Receives what cannot be read; null to throw it.</param>
    /// <exception cref="LancetException">A row cannot be read, or a file is missing.</exception>
    public IEnumerable<(JsonElement Row, string Place)> Read(Action<LancetException>? refused = null) => Items.SelectMany(item => item.Read(refused));

    /// <summary>The rows that <see cref="SftDataset.Split"/> holds out.</summary>
    /// <param name="share">Between 0 and 1.</param>
    /// <exception cref="LancetException">A row cannot be read, or a file is missing.</exception>
    public IEnumerable<(JsonElement Row, string Place)> ReadHeldOut(double share) =>
        IsWeighted ? Items.SelectMany(item => Held(item.Read(), share)) : Held(Read(), share);

    /// <inheritdoc/>
    public override string ToString() => _text;

    private static IEnumerable<(JsonElement Row, string Place)> Held(IEnumerable<(JsonElement Row, string Place)> rows, double share) => rows.Where((_, i) => SftDataset.IsHeldOut(i, share));

    private static DataSource ParseItem(string item, string text)
    {
        var equals = item.LastIndexOf('=');
        if (equals < 0 || Exists(item)) return item.Length > 0 ? new(item, null) : throw new LancetException($"{text}: a file is missing before or behind a comma.");
        var (path, weight) = (item[..equals].Trim(), item[(equals + 1)..].Trim());
        if (path.Length == 0) throw new LancetException($"{text}: there is no file before ={weight}.");
        return double.TryParse(weight, NumberStyles.Float, CultureInfo.InvariantCulture, out var value) && double.IsFinite(value) && value > 0
            ? new(path, value)
            : throw new LancetException($"{path}: its weight is {(weight.Length > 0 ? weight : "missing")}; expected a number above 0, such as {path}=2. To use none of it, leave it out.");
    }

    private static bool Exists(string path) => File.Exists(path) || Directory.Exists(path);
}
