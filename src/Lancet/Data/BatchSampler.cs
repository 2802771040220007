namespace Lancet.Data;

/// <summary>
/// Which rows form which micro-batch. Without packing these are consecutive rows, wrapping at the end of the data; with packing they are
/// bins filled best-fit (each row, longest first, goes into the fullest bin that still has room). The order follows from seed and epoch, so
/// that any micro-batch can be named without replaying the run. Sources with weights are mixed by <see cref="MixtureOrder"/>, and packed each by itself.
/// </summary>
public sealed class BatchSampler
{
    private readonly SftDataset _dataset;
    private readonly int _batchSize;
    private readonly bool _shuffles;
    private readonly long _seed;

    // Without packing a unit is the row of its number; a list of them would cost more than anything else that is kept of a row.
    private readonly IReadOnlyList<int[]>? _bins;
    private readonly MixtureOrder? _mixture;
    private int[]? _order;
    private int _orderEpoch = -1;

    /// <summary>Prepares the units of a dataset.</summary>
    /// <param name="dataset">Rows.</param>
    /// <param name="batchSize">Rows, or bins, of a micro-batch.</param>
    /// <param name="binTokens">Tokens of a bin; 0 for no packing.</param>
    /// <param name="shuffles">Whether each epoch has an order of its own.</param>
    /// <param name="seed">Seed of the orders.</param>
    /// <exception cref="LancetException">A weight is so small that its source would never be used.</exception>
    public BatchSampler(SftDataset dataset, int batchSize, int binTokens, bool shuffles, long seed)
    {
        (_dataset, _batchSize, _shuffles, _seed) = (dataset, batchSize, shuffles, seed);
        int[] sizes = [.. dataset.Mixture.Select(part => part.Rows)];
        if (binTokens > 0 && sizes.Length > 0)
        {
            var bins = new List<int[]>();
            var first = 0;
            for (var i = 0; i < sizes.Length; i++)
            {
                var part = Pack(dataset, binTokens, first, sizes[i]);
                first += sizes[i];
                sizes[i] = part.Length;
                bins.AddRange(part);
            }
            _bins = bins;
        }
        else if (binTokens > 0)
        {
            _bins = Pack(dataset, binTokens);
        }
        UnitCount = _bins?.Count ?? dataset.Rows.Count;
        if (sizes.Length > 0) _mixture = new(dataset.Mixture, sizes, shuffles, seed);
        // In a mixture a unit may come again soon.
        MaxTokens = _mixture is not null ? batchSize * Enumerable.Range(0, UnitCount).Max(TokensOf)
            : shuffles || batchSize >= UnitCount ? MostOfShuffled() : MostInOrder();
        MaxSequences = batchSize * (_bins?.Max(bin => bin.Length) ?? 1);
    }

    /// <summary>Rows, or bins, of one epoch.</summary>
    public int UnitCount { get; }

    /// <summary>Most tokens that a micro-batch can have.</summary>
    public int MaxTokens { get; }

    /// <summary>Most sequences that a micro-batch can have.</summary>
    public int MaxSequences { get; }

    /// <summary>Share of the bins' room that holds tokens; 1 without packing.</summary>
    public double FillRate(int binTokens) => binTokens == 0 ? 1 : _dataset.TokenCount / ((double)UnitCount * binTokens);

    /// <summary>Fills in a micro-batch.</summary>
    /// <param name="index">Number of the micro-batch since the start of the run.</param>
    /// <param name="batch">Receives the rows.</param>
    public void Fill(long index, PackedBatch batch)
    {
        batch.Clear();
        for (var i = 0; i < _batchSize; i++)
        {
            var at = (index * _batchSize) + i;
            var unit = Unit((int)(at / UnitCount), (int)(at % UnitCount));
            if (_bins is null) _dataset.AddTo(batch, unit);
            else foreach (var row in _bins[unit]) _dataset.AddTo(batch, row);
        }
    }

    /// <summary>Best-fit decreasing bins of row numbers.</summary>
    public static IReadOnlyList<int[]> Pack(SftDataset dataset, int binTokens) => Pack(dataset, binTokens, 0, dataset.Rows.Count);

    private static int[][] Pack(SftDataset dataset, int binTokens, int firstRow, int rowCount)
    {
        var bins = new List<List<int>>();
        // Bins by room left; the fullest that still fits is the first whose room is not below the row's length.
        var byRoom = new SortedSet<(int Room, int Bin)>();
        foreach (var row in Enumerable.Range(firstRow, rowCount).OrderByDescending(dataset.LengthOf).ThenBy(row => row))
        {
            var length = dataset.LengthOf(row);
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

    private int TokensOf(int unit) => _bins is null ? _dataset.LengthOf(unit) : _bins[unit].Sum(_dataset.LengthOf);

    /// <summary>
    /// A micro-batch takes the last <c>a</c> units of one epoch, whole epochs, and the first <c>c</c> of another; in the worst case the longest ones both times.
    /// </summary>
    private int MostOfShuffled()
    {
        var longest = new PriorityQueue<int, int>();
        for (var unit = 0; unit < UnitCount; unit++)
        {
            var tokens = TokensOf(unit);
            if (longest.Count < _batchSize) longest.Enqueue(tokens, tokens);
            else longest.EnqueueDequeue(tokens, tokens);
        }
        // Sums of the 0, 1, 2 … longest.
        var top = new int[longest.Count + 1];
        int[] lengths = [.. longest.UnorderedItems.Select(item => item.Element).OrderDescending()];
        for (var i = 0; i < lengths.Length; i++) top[i + 1] = top[i] + lengths[i];
        var most = 0;
        // Epochs end only at multiples of the greatest common divisor within a micro-batch.
        var step = (int)System.Numerics.BigInteger.GreatestCommonDivisor(_batchSize, UnitCount);
        for (var a = 0; a <= Math.Min(_batchSize, UnitCount - 1); a += step)
        {
            var (whole, c) = Math.DivRem(_batchSize - a, UnitCount);
            most = Math.Max(most, top[a] + (whole > 0 ? whole * top[UnitCount] : 0) + top[c]);
        }
        return most;
    }

    private int MostInOrder()
    {
        var (most, tokens) = (0, 0);
        for (var unit = 0; unit < _batchSize; unit++) tokens += TokensOf(unit);
        for (var first = 0; first < UnitCount; first++)
        {
            most = Math.Max(most, tokens);
            tokens += TokensOf((first + _batchSize) % UnitCount) - TokensOf(first);
        }
        return most;
    }

    private int Unit(int epoch, int at)
    {
        if (!_shuffles && _mixture is null) return at;
        if (_orderEpoch != epoch)
        {
            _order ??= new int[UnitCount];
            if (_mixture is null) Shuffle(_order, new DeterministicRandom(_seed, epoch + 1));
            else _mixture.Fill(epoch, _order);
            _orderEpoch = epoch;
        }
        return _order![at];
    }

    /// <summary>Numbers from 0 on in a random order (Fisher and Yates).</summary>
    internal static void Shuffle(int[] order, DeterministicRandom random)
    {
        for (var i = 0; i < order.Length; i++) order[i] = i;
        for (var i = order.Length - 1; i > 0; i--)
        {
            var j = random.NextInt32(i + 1);
            (order[i], order[j]) = (order[j], order[i]);
        }
    }
}
