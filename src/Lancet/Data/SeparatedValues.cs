using System.Buffers;
using System.Text.Json;
using nietras.SeparatedValues;

namespace Lancet.Data;

/// <summary>CSV and TSV with a header, as objects whose values are strings. Sep finds the fields; quotes are checked here, so that damage is named by its line and never swallows rows.</summary>
internal static class SeparatedValues
{
    public static IEnumerable<(JsonElement Row, string Place)> Read(string path, bool isTabbed, Action<LancetException>? refused)
    {
        if (!RowReader.IsRead(() => DataFile.Guarded(path, $"{path}:1", () => DataFile.OpenText(path)), refused, out var text)) yield break;
        using (text)
        {
            if (!RowReader.IsRead(() => Header(path, text, isTabbed), refused, out var header)) yield break;
            var (reader, names) = header;
            using var owned = reader;
            var next = 2;
            while (RowReader.IsRead(() => DataFile.Guarded(path, $"{path}:{next}", reader.MoveNext), refused, out var isRow) && isRow)
            {
                var line = reader.Current.LineNumberFrom;
                next = reader.Current.LineNumberToExcl;
                if (reader.Current.ColCount == 1 && names.Length > 1 && reader.Current[0].Span.IsWhiteSpace()) continue;
                if (RowReader.IsRead(() => ObjectOf(reader, names, $"{path}:{line}"), refused, out var row)) yield return (row, $"{path}:{line}");
            }
        }
    }

    private static (SepReader Reader, string[] Names) Header(string path, StreamReader text, bool isTabbed)
    {
        // The separator is found from the header unless the extension says it.
        var reader = DataFile.Guarded(path, $"{path}:1", () => Sep.Reader(options => options with { Sep = isTabbed ? new Sep('\t') : null, DisableColCountCheck = true }).From(text));
        try
        {
            if (reader.Header.ColNames.Count == 0) throw new LancetException($"{path}: no rows.");
            return (reader, [.. reader.Header.ColNames.Select((name, i) => Unquoted(name, reader.Spec.Sep.Separator, () => $"{path}:1", $"column {i + 1}"))]);
        }
        catch
        {
            reader.Dispose();
            throw;
        }
    }

    private static JsonElement ObjectOf(SepReader reader, string[] names, string place)
    {
        var row = reader.Current;
        // An open quote takes the lines below it with it, so quotes are looked at first.
        var values = new string[row.ColCount];
        for (var i = 0; i < values.Length; i++) values[i] = Unquoted(row[i].Span, reader.Spec.Sep.Separator, () => place, i < names.Length ? names[i] : $"column {i + 1}");
        if (values.Length != names.Length) throw new LancetException($"{place}: {values.Length} values, but the header names {names.Length} columns ({string.Join(", ", names)}).");
        var buffer = new ArrayBufferWriter<byte>();
        using (var json = new Utf8JsonWriter(buffer))
        {
            json.WriteStartObject();
            for (var i = 0; i < names.Length; i++) json.WriteString(names[i], values[i]);
            json.WriteEndObject();
        }
        using var document = JsonDocument.Parse(buffer.WrittenMemory);
        return document.RootElement.Clone();
    }

    /// <summary>A field without its quotes: doubled ones inside are single again. Quotes inside an unquoted field are text, as long as they hide neither a separator nor a line's end.</summary>
    private static string Unquoted(ReadOnlySpan<char> field, char separator, Func<string> place, string column)
    {
        if (field.IndexOf('"') < 0) return field.ToString();
        if (field[0] != '"')
            return field.IndexOfAny(separator, '\n', '\r') < 0 && field.Count('"') % 2 == 0 ? field.ToString()
                : throw new LancetException($"{place()}: {column} has a quote inside a value that is not quoted. Put the whole value in quotes and double those inside.");
        var inner = field[1..];
        var end = 0;
        var isClosed = false;
        while (end < inner.Length && !isClosed)
        {
            if (inner[end] != '"') end++;
            else if (end + 1 < inner.Length && inner[end + 1] == '"') end += 2;
            else isClosed = true;
        }
        if (!isClosed) throw new LancetException($"{place()}: the quote that opens {column} is never closed.");
        if (end + 1 != inner.Length) throw new LancetException($"{place()}: {column} goes on after its closing quote. Double quotes that belong to the value.");
        return inner[..end].ToString().Replace("\"\"", "\"", StringComparison.Ordinal);
    }
}
