using Lancet.Tensors;

namespace Lancet.Kernels;

/// <summary>Which tokens see which, as intervals of the flat token stream; int32 [T] each, never falling from token to token.</summary>
/// <param name="KeyBegin">First key that a query sees.</param>
/// <param name="KeyEnd">After the last key that a query sees.</param>
/// <param name="QueryBegin">First query that sees a key.</param>
/// <param name="QueryEnd">After the last query that sees a key.</param>
/// <param name="KeyOrder">In which order programs take up blocks of <see cref="Block"/> keys, see <see cref="OrderKeys"/>: int32 [blocks].</param>
/// <param name="QueryOrder">In which order they take up blocks of queries, see <see cref="OrderQueries"/>: int32 [blocks].</param>
public readonly record struct AttentionIntervals(Tensor KeyBegin, Tensor KeyEnd, Tensor QueryBegin, Tensor QueryEnd, Tensor KeyOrder, Tensor QueryOrder)
{
    /// <summary>Tokens of a block of <see cref="KeyOrder"/> and <see cref="QueryOrder"/>.</summary>
    public const int Block = 128;

    // Queries of a step of the gradients' programs.
    private const int QueryStep = 64;

    /// <summary>Tokens.</summary>
    public int Count => (int)KeyBegin.Count;

    /// <summary>Intervals of causal attention within each sequence, with the orders of their blocks, in arrays of their own.</summary>
    /// <param name="cuSeqlens">Offsets of the sequences, and the token count.</param>
    /// <param name="window">Sliding window W, 0 ≤ i − j &lt; W; 0 for none.</param>
    /// <param name="send">Copies an array to the device.</param>
    public static AttentionIntervals Of(ReadOnlySpan<int> cuSeqlens, int window, Func<int[], Tensor> send)
    {
        var tokens = cuSeqlens[^1];
        int[] keyBegin = new int[tokens], keyEnd = new int[tokens], queryBegin = new int[tokens], queryEnd = new int[tokens], keyOrder = new int[Blocks(tokens)], queryOrder = new int[keyOrder.Length];
        Fill(cuSeqlens, window, keyBegin, keyEnd, queryBegin, queryEnd);
        OrderKeys(queryBegin, queryEnd, keyOrder);
        OrderQueries(keyBegin, keyEnd, queryOrder);
        return new(send(keyBegin), send(keyEnd), send(queryBegin), send(queryEnd), send(keyOrder), send(queryOrder));
    }

    /// <summary>Fills in the intervals of causal attention within each sequence, on the host.</summary>
    /// <param name="cuSeqlens">Offsets of the sequences, and the token count.</param>
    /// <param name="window">Sliding window W, 0 ≤ i − j &lt; W; 0 for none.</param>
    /// <param name="keyBegin">[T].</param>
    /// <param name="keyEnd">[T].</param>
    /// <param name="queryBegin">[T].</param>
    /// <param name="queryEnd">[T].</param>
    public static void Fill(ReadOnlySpan<int> cuSeqlens, int window, Span<int> keyBegin, Span<int> keyEnd, Span<int> queryBegin, Span<int> queryEnd)
    {
        for (var sequence = 0; sequence + 1 < cuSeqlens.Length; sequence++)
        {
            var (start, end) = (cuSeqlens[sequence], cuSeqlens[sequence + 1]);
            for (var t = start; t < end; t++)
            {
                keyBegin[t] = window > 0 ? Math.Max(start, t - window + 1) : start;
                keyEnd[t] = t + 1;
                queryBegin[t] = t;
                queryEnd[t] = window > 0 ? (int)Math.Min(end, (long)t + window) : end;
            }
        }
    }

    /// <summary>Blocks of so many tokens.</summary>
    public static int Blocks(int tokens) => (tokens + Block - 1) / Block;

    /// <summary>The order of blocks of queries: what sees the most keys comes first, so that nothing long is left when all else is done; of equals the last.</summary>
    /// <param name="keyBegin">[T].</param>
    /// <param name="keyEnd">[T].</param>
    /// <param name="order">[blocks].</param>
    public static void OrderQueries(ReadOnlySpan<int> keyBegin, ReadOnlySpan<int> keyEnd, Span<int> order)
    {
        const int mostOnStack = 1024;
        // Ascending negative sizes, with the number below: larger blocks first, and of equals the later.
        var sizes = order.Length <= mostOnStack ? stackalloc long[order.Length] : new long[order.Length];
        for (var block = 0; block < order.Length; block++)
        {
            var last = Math.Min((block + 1) * Block, keyEnd.Length) - 1;
            sizes[block] = -((long)(keyEnd[last] - keyBegin[block * Block]) << 32 | (uint)block);
        }
        sizes.Sort();
        for (var place = 0; place < order.Length; place++) order[place] = (int)(-sizes[place]);
    }

    /// <summary>
    /// The order of blocks of keys: those whose queries no earlier block shares, then those that come behind one of these, and so on. Programs that run at the
    /// same time then have sequences of their own to add up rather than wait for each other, and those that see the most queries begin. Where that
    /// many programs work on one sequence anyway, they come as they are: what they add up is then more often still in the GPU's cache.
    /// </summary>
    /// <param name="queryBegin">[T].</param>
    /// <param name="queryEnd">[T].</param>
    /// <param name="order">[blocks].</param>
    public static void OrderKeys(ReadOnlySpan<int> queryBegin, ReadOnlySpan<int> queryEnd, Span<int> order)
    {
        const int longest = 32;
        var count = 0;
        for (var place = 0; count < order.Length; place++)
        {
            var placeOfBlock = -1;
            for (var block = 0; block < order.Length; block++)
            {
                var first = block * Block;
                var isBehind = block > 0 && queryEnd[first - 1] > queryBegin[first] / QueryStep * QueryStep;
                placeOfBlock = isBehind ? placeOfBlock + 1 : 0;
                if (placeOfBlock == place) order[count++] = block;
            }
            if (place < longest) continue;
            for (var block = 0; block < order.Length; block++) order[block] = block;
            return;
        }
    }
}

/// <summary>Memory of <see cref="AttentionKernel.Backward"/>, its contents unspecified before and after.</summary>
/// <param name="Delta">δ [query heads, T] in the accumulator's type.</param>
/// <param name="PartialSums">dq of blocks of queries while it is added up; absent where one program makes it.</param>
/// <param name="Flags">How far each of those is, and a counter of programs, int32; absent like them.</param>
public readonly record struct AttentionWorkspace(Tensor Delta, Tensor PartialSums, Tensor Flags);
