using System.Text.Json;

namespace Lancet.Data;

/// <summary>
/// Which column of the data plays which part, such as <c>prompt=question,completion=answer</c>. Parts that are mapped are read from their
/// columns; columns that would make a shape of their own but are not mapped are then ignored.
/// </summary>
public sealed class ColumnMapping
{
    // Parts that decide on the shape; the others only add to it.
    private static readonly string[] s_shaping = ["messages", "conversations", "prompt", "completion", "instruction", "input", "output", "text", "input_ids", "labels"];
    private static readonly string[] s_parts = [.. s_shaping, "system", "tools", "chat_template_kwargs"];
    private readonly Dictionary<string, string> _columns;

    private ColumnMapping(Dictionary<string, string> columns) => _columns = columns;

    /// <summary>Every part is read from the column of its own name.</summary>
    public static ColumnMapping None { get; } = new([]);

    /// <summary>Reads <c>part=column</c> pairs, separated by commas; null or nothing maps none.</summary>
    /// <exception cref="LancetException">A pair is malformed, or there is no such part.</exception>
    public static ColumnMapping Parse(string? text)
    {
        var columns = new Dictionary<string, string>();
        foreach (var pair in (text ?? "").Split(',', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries))
        {
            var equals = pair.IndexOf('=', StringComparison.Ordinal);
            var part = equals < 0 ? pair : pair[..equals].Trim();
            if (equals < 0 || equals == pair.Length - 1 || !s_parts.Contains(part))
                throw new LancetException($"--columns: '{pair}' is not part=column, such as prompt=question; parts are {string.Join(", ", s_parts)}.");
            if (!columns.TryAdd(part, pair[(equals + 1)..].Trim())) throw new LancetException($"--columns: {part} is given twice.");
        }
        return new(columns);
    }

    /// <summary>Column of a part, for messages.</summary>
    internal string ColumnOf(string part) => _columns.GetValueOrDefault(part, part);

    /// <summary>The value of a part of a row; null counts as missing.</summary>
    internal bool TryGet(JsonElement row, string part, out JsonElement value)
    {
        value = default;
        if (_columns.Count > 0 && !_columns.ContainsKey(part) && s_shaping.Contains(part)) return false;
        return row.TryGetProperty(ColumnOf(part), out value) && value.ValueKind != JsonValueKind.Null;
    }

    /// <summary>Refuses a row that lacks a mapped column.</summary>
    internal void Check(JsonElement row, string place)
    {
        foreach (var (part, column) in _columns)
            if (!row.TryGetProperty(column, out _)) throw new LancetException($"{place}: there is no column {column}, which --columns names as {part}. The row has {RowShapes.KeysOf(row)}.");
    }
}
