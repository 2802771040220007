namespace Lancet.Data;

/// <summary>A source of a mixture.</summary>
/// <param name="Source">Its name, for messages.</param>
/// <param name="Rows">Rows, which follow those of the part before.</param>
/// <param name="Weight">Its share of an epoch, compared with the others'.</param>
public sealed record MixturePart(string Source, int Rows, double Weight);

/// <summary>
/// The order of units (rows, or bins) that are mixed by weight. An epoch has as many units as all sources together. Each source has the same number of them in every epoch, its share rounded (largest remainders), and they are
/// spread as evenly as whole units allow (Sainte-Laguë), so shares are right in any stretch of a run. From one epoch to the next a source goes on where it stopped: none of its units comes again before all
/// have been used, each pass in an order of its own.
/// </summary>
internal sealed class MixtureOrder
{
    private readonly long _seed;
    private readonly bool _shuffles;
    private readonly int[] _sizes;
    private readonly int[] _firsts;
    private readonly int[][] _orders;
    private readonly long[] _passes;

    /// <param name="parts">Sources with their weights.</param>
    /// <param name="sizes">Units of each.</param>
    /// <param name="shuffles">Whether each pass through a source has an order of its own.</param>
    /// <param name="seed">Seed of the orders.</param>
    /// <exception cref="LancetException">A weight is so small that its source would never be used.</exception>
    public MixtureOrder(IReadOnlyList<MixturePart> parts, int[] sizes, bool shuffles, long seed)
    {
        (_sizes, _shuffles, _seed) = (sizes, shuffles, seed);
        _orders = new int[sizes.Length][];
        _passes = [.. sizes.Select(_ => -1L)];
        _firsts = new int[sizes.Length];
        for (var i = 1; i < sizes.Length; i++) _firsts[i] = _firsts[i - 1] + sizes[i - 1];
        Counts = Shares([.. parts.Select(part => part.Weight)], sizes.Sum());
        for (var i = 0; i < sizes.Length; i++)
            if (Counts[i] == 0) throw new LancetException($"{parts[i].Source}: a weight of {parts[i].Weight} leaves it none of the {sizes.Sum()} rows (or bins) of an epoch. Raise it, or leave the file out.");
    }

    /// <summary>Units of each source in an epoch.</summary>
    public int[] Counts { get; }

    /// <summary>Whole numbers in the proportion of weights, with a given sum: rounded down, and what is left to the largest remainders, the first of equal ones first.</summary>
    public static int[] Shares(double[] weights, int sum)
    {
        // Scaled by the largest, so that no sum of weights overflows.
        var largest = weights.Max();
        var total = weights.Sum(weight => weight / largest);
        double[] exact = [.. weights.Select(weight => weight / largest / total * sum)];
        int[] shares = [.. exact.Select(share => (int)Math.Floor(share))];
        var left = sum - shares.Sum();
        foreach (var i in Enumerable.Range(0, weights.Length).OrderByDescending(i => exact[i] - shares[i]).ThenBy(i => i).Take(left)) shares[i]++;
        return shares;
    }

    /// <summary>Writes the units of an epoch in their order.</summary>
    public void Fill(int epoch, int[] order)
    {
        var drawn = new int[_sizes.Length];
        for (var at = 0; at < order.Length; at++)
        {
            var next = 0;
            for (var i = 1; i < drawn.Length; i++)
                if (IsEarlier(i, next)) next = i;
            order[at] = UnitOf(next, ((long)epoch * Counts[next]) + drawn[next]);
            drawn[next]++;
        }

        // The n-th of k units of a source stands at (n + ½) / k of the epoch.
        bool IsEarlier(int i, int than) => (UInt128)((2L * drawn[i]) + 1) * (ulong)Counts[than] < (UInt128)((2L * drawn[than]) + 1) * (ulong)Counts[i];
    }

    private int UnitOf(int part, long index)
    {
        var (pass, at) = Math.DivRem(index, _sizes[part]);
        if (!_shuffles) return _firsts[part] + (int)at;
        if (_passes[part] != pass)
        {
            BatchSampler.Shuffle(_orders[part] ??= new int[_sizes[part]], new DeterministicRandom(_seed, ((part + 1L) << 40) + pass));
            _passes[part] = pass;
        }
        return _firsts[part] + _orders[part][at];
    }
}
