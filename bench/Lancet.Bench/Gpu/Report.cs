using System.Globalization;
using System.Text;
using System.Text.Json;

namespace Lancet.Bench.Gpu;

/// <summary>An entry of a table: text for people, and the number it shows if it shows one.</summary>
internal readonly record struct Cell(string Text, double? Value = null)
{
    public static implicit operator Cell(string text) => new(text);

    public static implicit operator Cell(int value) => new(value.ToString(CultureInfo.InvariantCulture), value);

    public static implicit operator Cell(long value) => new(value.ToString(CultureInfo.InvariantCulture), value);

    public static Cell Of(double value, string format = "F1") => new(value.ToString(format, CultureInfo.InvariantCulture), value);

    public static Cell Percent(double share) => new((share * 100).ToString("F1", CultureInfo.InvariantCulture) + " %", share);
}

/// <summary>Markdown tables, printed row by row as they are measured, and the same as JSON at the end.</summary>
internal sealed class Report : IDisposable
{
    private readonly List<Section> _sections = [];
    private readonly string? _json;
    private readonly string? _markdown;
    private readonly StringBuilder _text = new();

    /// <summary>Creates a report.</summary>
    /// <param name="json">File to write, or null.</param>
    /// <param name="markdown">File to write, or null.</param>
    public Report(string? json, string? markdown) => (_json, _markdown) = (json, markdown);

    /// <summary>Whether a check failed somewhere.</summary>
    public bool HasFailed { get; set; }

    /// <summary>Starts a table.</summary>
    public void Begin(string title, string note, params string[] headers)
    {
        _sections.Add(new(title, note, headers, []));
        Line("");
        Line($"### {title}");
        Line("");
        if (note.Length > 0)
        {
            Line(note);
            Line("");
        }
        Line($"| {string.Join(" | ", headers)} |");
        Line($"|{string.Concat(headers.Select(_ => "---|"))}");
    }

    /// <summary>Adds a row to the last table.</summary>
    public void Row(params Cell[] cells)
    {
        _sections[^1].Rows.Add(cells);
        Line($"| {string.Join(" | ", cells.Select(cell => cell.Text))} |");
    }

    /// <summary>Adds a line of text.</summary>
    public void Line(string text)
    {
        Console.WriteLine(text);
        _text.AppendLine(text);
    }

    /// <summary>Writes the files.</summary>
    public void Dispose()
    {
        Console.Out.Flush();
        if (_markdown is not null) File.WriteAllText(_markdown, _text.ToString());
        if (_json is null) return;
        using var stream = File.Create(_json);
        using var json = new Utf8JsonWriter(stream, new JsonWriterOptions { Indented = true });
        json.WriteStartArray();
        foreach (var section in _sections)
        {
            foreach (var row in section.Rows)
            {
                json.WriteStartObject();
                json.WriteString("table", section.Title);
                for (var i = 0; i < row.Length; i++)
                {
                    if (row[i].Value is { } value && double.IsFinite(value)) json.WriteNumber(section.Headers[i], value);
                    else json.WriteString(section.Headers[i], row[i].Text);
                }
                json.WriteEndObject();
            }
        }
        json.WriteEndArray();
    }

    private sealed record Section(string Title, string Note, string[] Headers, List<Cell[]> Rows);
}
