namespace Lancet.Data;

/// <summary>A training example as tokens.</summary>
/// <param name="InputIds">Token ids.</param>
/// <param name="Labels">The id at each place that is trained, −100 elsewhere; not shifted.</param>
public readonly record struct TokenizedRow(int[] InputIds, int[] Labels)
{
    /// <summary>Places that take part in the loss; the first token of a row is never predicted.</summary>
    public int LabelTokenCount => Labels.AsSpan(Math.Min(1, Labels.Length)).Length - Labels.AsSpan(Math.Min(1, Labels.Length)).Count(PackedBatch.IgnoredLabel);

    /// <summary>The first tokens of the row, all if there are no more.</summary>
    public TokenizedRow Cut(int maxLength) => InputIds.Length <= maxLength ? this : new(InputIds[..maxLength], Labels[..maxLength]);
}

/// <summary>Tokenised examples in order.</summary>
/// <param name="Rows">Examples.</param>
public sealed record SftDataset(IReadOnlyList<TokenizedRow> Rows)
{
    /// <summary>Longest row.</summary>
    public int MaxLength => Rows.Count == 0 ? 0 : Rows.Max(row => row.InputIds.Length);

    /// <summary>What was found in the data files, in words: shapes of rows, and a warning where they mix.</summary>
    public IReadOnlyList<string> Notes { get; init; } = [];

    /// <summary>Reads and tokenises data files, see <see cref="RowReader"/>.</summary>
    /// <param name="path">A file, a folder or a pattern.</param>
    /// <param name="renderer">Turns rows into tokens.</param>
    /// <exception cref="LancetException">A row cannot be read or has no trained token; the message names file and row.</exception>
    public static SftDataset Load(string path, RowRenderer renderer)
    {
        var rows = new List<TokenizedRow>();
        var census = new ShapeCensus();
        foreach (var (row, place) in RowReader.Read(path))
        {
            rows.Add(renderer.RenderTrained(row, place, out var shape));
            census.Add(shape, place);
        }
        return rows.Count > 0 ? new SftDataset(rows) { Notes = [.. census.Describe(path)] } : throw new LancetException($"{path}: no rows.");
    }

    /// <summary>A hash (FNV-1a over 64 bits) of all ids and labels, which tells whether two runs see the same data.</summary>
    public ulong Fingerprint()
    {
        var hash = 14695981039346656037UL;
        foreach (var row in Rows)
        {
            Mix(row.InputIds.Length);
            foreach (var id in row.InputIds) Mix(id);
            foreach (var label in row.Labels) Mix(label);
        }
        return hash;

        void Mix(int value) => hash = unchecked((hash ^ (uint)value) * 1099511628211UL);
    }

    /// <summary>Splits off a share of the rows for evaluation, spread evenly over the file, the same ones every time.</summary>
    /// <param name="share">Between 0 and 1.</param>
    /// <exception cref="LancetException">One of the two parts would be empty.</exception>
    public (SftDataset Training, SftDataset Evaluation) Split(double share)
    {
        var parts = Rows.Select((row, i) => (Row: row, IsHeldOut: IsHeldOut(i, share))).ToLookup(item => item.IsHeldOut, item => item.Row);
        return parts.Count == 2
            ? (new([.. parts[false]]), new([.. parts[true]]))
            : throw new LancetException($"Holding out {share} of {Rows.Count} rows leaves nothing to {(parts.Contains(true) ? "train on" : "evaluate")}.");
    }

    /// <summary>Whether <see cref="Split"/> holds out a row.</summary>
    /// <param name="row">Index of the row.</param>
    /// <param name="share">Between 0 and 1.</param>
    public static bool IsHeldOut(int row, double share) => Math.Floor((row + 1) * share) > Math.Floor(row * share);
}
