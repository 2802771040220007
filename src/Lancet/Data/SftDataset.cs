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
    /// <summary>
    /// Most bytes of tokens that <see cref="Load(string, RowRenderer, long)"/> keeps in memory unless it is told otherwise: 256 MB, less where this process may use less than 4 GB.
    /// </summary>
    public static long DefaultMemoryLimit => Math.Min(256L << 20, GC.GetGCMemoryInfo().TotalAvailableMemoryBytes / 16);

    /// <summary>Longest row.</summary>
    public int MaxLength
    {
        get
        {
            var longest = 0;
            for (var row = 0; row < Rows.Count; row++) longest = Math.Max(longest, LengthOf(row));
            return longest;
        }
    }

    /// <summary>Tokens of all rows.</summary>
    public long TokenCount
    {
        get
        {
            var count = 0L;
            for (var row = 0; row < Rows.Count; row++) count += LengthOf(row);
            return count;
        }
    }

    /// <summary>What was found in the data files, in words: shapes of rows, and a warning where they mix.</summary>
    public IReadOnlyList<string> Notes { get; init; } = [];

    /// <summary>Sources that are mixed by weight, each with its rows behind those of the one before; empty where rows are simply taken in turn.</summary>
    public IReadOnlyList<MixturePart> Mixture { get; init; } = [];

    /// <summary>Reads and tokenises data files, see <see cref="RowReader"/>.</summary>
    /// <param name="data">A file, a folder or a pattern, or several of them, see <see cref="DataSources"/>.</param>
    /// <param name="renderer">Turns rows into tokens.</param>
    /// <param name="memoryLimit">Most bytes of tokens in memory, below 0 for <see cref="DefaultMemoryLimit"/>. Beyond it all of them lie in a temporary file (in TMPDIR, on Linux else /var/tmp) that ends with the process; batches are the same bit for bit.</param>
    /// <exception cref="LancetException">A row cannot be read or has no trained token; the message names file and row.</exception>
    public static SftDataset Load(string data, RowRenderer renderer, long memoryLimit = -1) => Load(DataSources.Parse(data), renderer, memoryLimit);

    /// <summary>Reads and tokenises data files, see <see cref="RowReader"/>.</summary>
    /// <param name="data">Files, with weights or without.</param>
    /// <param name="renderer">Turns rows into tokens.</param>
    /// <param name="memoryLimit">As above.</param>
    /// <exception cref="LancetException">A row cannot be read or has no trained token; the message names file and row.</exception>
    public static SftDataset Load(DataSources data, RowRenderer renderer, long memoryLimit = -1)
    {
        var rows = new TokenStore(memoryLimit < 0 ? DefaultMemoryLimit : memoryLimit);
        var notes = new List<string>();
        var parts = new List<MixturePart>();
        foreach (var source in data.Items)
        {
            var first = rows.Count;
            var census = new ShapeCensus();
            foreach (var (row, place) in source.Read())
            {
                rows.Add(renderer.RenderTrained(row, place, out var shape));
                census.Add(shape, place);
            }
            if (rows.Count == first) throw new LancetException($"{source.Path}: no rows.");
            notes.AddRange(census.Describe(source.Path));
            if (data.IsWeighted) parts.Add(new(source.Path, rows.Count - first, source.Weight ?? 1));
        }
        rows.Complete();
        return new SftDataset(rows) { Notes = notes, Mixture = parts };
    }

    /// <summary>Tokens of a row.</summary>
    public int LengthOf(int row) => Rows is IRowStore store ? store.LengthOf(row) : Rows[row].InputIds.Length;

    /// <summary>Appends a row to a batch.</summary>
    /// <exception cref="ArgumentException">The batch is full.</exception>
    public void AddTo(PackedBatch batch, int row)
    {
        if (Rows is IRowStore store) store.AddTo(batch, row);
        else batch.Add(Rows[row].InputIds, Rows[row].Labels);
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

    /// <summary>Splits off a share of the rows for evaluation, spread evenly over the file (of a mixture over each source), the same ones every time. The rest of a mixture is mixed; what is held out is not, so that each row counts once.</summary>
    /// <param name="share">Between 0 and 1.</param>
    /// <exception cref="LancetException">One of the two parts would be empty.</exception>
    public (SftDataset Training, SftDataset Evaluation) Split(double share)
    {
        var (training, evaluation, parts) = (new List<int>(), new List<int>(), new List<MixturePart>());
        var first = 0;
        foreach (var part in Mixture.Count > 0 ? Mixture : [new("", Rows.Count, 1)])
        {
            var before = training.Count;
            for (var i = 0; i < part.Rows; i++) (IsHeldOut(i, share) ? evaluation : training).Add(first + i);
            if (training.Count == before) throw new LancetException($"{(part.Source.Length > 0 ? part.Source + ": holding" : "Holding")} out {share} of {part.Rows} rows leaves nothing to train on.");
            if (Mixture.Count > 0) parts.Add(part with { Rows = training.Count - before });
            first += part.Rows;
        }
        return evaluation.Count > 0
            ? (new(new RowSelection(this, [.. training])) { Mixture = parts }, new(new RowSelection(this, [.. evaluation])))
            : throw new LancetException($"Holding out {share} of {Rows.Count} rows leaves nothing to evaluate.");
    }

    /// <summary>Whether <see cref="Split"/> holds out a row.</summary>
    /// <param name="row">Index of the row.</param>
    /// <param name="share">Between 0 and 1.</param>
    public static bool IsHeldOut(int row, double share) => Math.Floor((row + 1) * share) > Math.Floor(row * share);
}
