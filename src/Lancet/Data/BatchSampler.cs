namespace Lancet.Data;

/// <summary>
/// Which rows form which micro-batch. Without packing these are consecutive rows, wrapping at the end of the data; with packing they are
/// bins filled best-fit (each row, longest first, goes into the fullest bin that still has room). The order follows from seed and epoch, so
/// that any micro-batch can be named without replaying the run.
/// </summary>
public sealed class BatchSampler
{
    private readonly SftDataset _dataset;
    private readonly int _batchSize;
    private readonly bool _shuffles;
    private readonly long _seed;
    private readonly IReadOnlyList<int[]> _units;
    private int[]? _order;
    private int _orderEpoch = -1;

    /// <summary>Prepares the units of a dataset.</summary>
    /// <param name="dataset">Rows.</param>
    /// <param name="batchSize">Rows, or bins, of a micro-batch.</param>
    /// <param name="binTokens">Tokens of a bin; 0 for no packing.</param>
    /// <param name="shuffles">Whether each epoch has an order of its own.</param>
    /// <param name="seed">Seed of the orders.</param>
    public BatchSampler(SftDataset dataset, int batchSize, int binTokens, bool shuffles, long seed)
    {
        (_dataset, _batchSize, _shuffles, _seed) = (dataset, batchSize, shuffles, seed);
        _units = binTokens > 0 ? Pack(dataset, binTokens) : [.. Enumerable.Range(0, dataset.Rows.Count).Select(row => (int[])[row])];
        var longest = _units.Select(unit => unit.Sum(row => dataset.Rows[row].InputIds.Length)).OrderDescending().Take(batchSize).ToArray();
        // With fewer units than a batch takes, some are taken more than once.
        MaxTokens = shuffles || batchSize >= _units.Count ? longest.Sum() + (longest[0] * Math.Max(0, batchSize - longest.Length)) : Enumerable.Range(0, _units.Count).Max(first => Tokens(first));
        MaxSequences = batchSize * _units.Max(unit => unit.Length);
    }

    /// <summary>Rows, or bins, of one epoch.</summary>
    public int UnitCount => _units.Count;

    /// <summary>Most tokens that a micro-batch can have.</summary>
    public int MaxTokens { get; }

    /// <summary>Most sequences that a micro-batch can have.</summary>
    public int MaxSequences { get; }

    /// <summary>Share of the bins' room that holds tokens; 1 without packing.</summary>
    public double FillRate(int binTokens) => binTokens == 0 ? 1 : _dataset.Rows.Sum(row => (double)row.InputIds.Length) / ((double)_units.Count * binTokens);

    /// <summary>Fills in a micro-batch.</summary>
    /// <param name="index">Number of the micro-batch since the start of the run.</param>
    /// <param name="batch">Receives the rows.</param>
    public void Fill(long index, PackedBatch batch)
    {
        batch.Clear();
        for (var i = 0; i < _batchSize; i++)
        {
            var at = (index * _batchSize) + i;
            foreach (var row in _units[Unit((int)(at / _units.Count), (int)(at % _units.Count))]) batch.Add(_dataset.Rows[row].InputIds, _dataset.Rows[row].Labels);
        }
    }

    /// <summary>Best-fit decreasing bins of row numbers.</summary>
    public static IReadOnlyList<int[]> Pack(SftDataset dataset, int binTokens)
    {
        var bins = new List<List<int>>();
        // Bins by room left; the fullest that still fits is the first whose room is not below the row's length.
        var byRoom = new SortedSet<(int Room, int Bin)>();
        foreach (var row in Enumerable.Range(0, dataset.Rows.Count).OrderByDescending(row => dataset.Rows[row].InputIds.Length).ThenBy(row => row))
        {
            var length = dataset.Rows[row].InputIds.Length;
            if (length > binTokens) throw new ArgumentException($"Row {row} has {length} tokens, a bin {binTokens}.");
            var fit = byRoom.GetViewBetween((length, 0), (int.MaxValue, int.MaxValue)).FirstOrDefault((-1, -1));
            if (fit.Item1 < 0)
            {
                fit = (binTokens, bins.Count);
                bins.Add([]);
            }
            else
            {
                byRoom.Remove(fit);
            }
            bins[fit.Item2].Add(row);
            byRoom.Add((fit.Item1 - length, fit.Item2));
        }
        return [.. bins.Select(bin => bin.ToArray())];
    }

    private int Tokens(int first) => Enumerable.Range(first, _batchSize).Sum(at => _units[at % _units.Count].Sum(row => _dataset.Rows[row].InputIds.Length));

    private int Unit(int epoch, int at)
    {
        if (!_shuffles) return at;
        if (_orderEpoch != epoch)
        {
            _order = [.. Enumerable.Range(0, _units.Count)];
            var random = new DeterministicRandom(_seed, epoch + 1);
            for (var i = _order.Length - 1; i > 0; i--)
            {
                var j = random.NextInt32(i + 1);
                (_order[i], _order[j]) = (_order[j], _order[i]);
            }
            _orderEpoch = epoch;
        }
        return _order![at];
    }
}
