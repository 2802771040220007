using Lancet.Devices;
using Lancet.Tensors;
using Lancet.Tile;
using static Lancet.Tile.TileMath;

namespace Lancet.Kernels;

/// <summary>Where queries, keys and values lie, and how scores are made.</summary>
/// <param name="QueryHeads">Query heads.</param>
/// <param name="KeyValueHeads">Key/value heads; divides the query heads.</param>
/// <param name="HeadDimension">Elements of a head, 16 to 256.</param>
/// <param name="Scale">Factor of q·k; positive.</param>
/// <param name="SoftCap">c in c·tanh(s/c), or 0 for none.</param>
public readonly record struct AttentionShape(int QueryHeads, int KeyValueHeads, int HeadDimension, double Scale, double SoftCap)
{
    /// <summary>Query heads that share a key/value head.</summary>
    public int Group => QueryHeads / KeyValueHeads;
}

/// <summary>
/// Causal attention over packed sequences in the FlashAttention-2 form (Dao 2023): scores exist for one block at a time.
/// <code>
/// forward    s = scale·q·kᵀ     s ← c·tanh(s/c)     p = softmax over visible keys     o = p·v     L = log₂ Σ 2^(s·log₂e)
/// backward   δ = Σ do·o (per row)     p = 2^(s·log₂e − L)
///            dv = pᵀ·do     ds = p·(do·vᵀ − δ)·(1 − (s/c)²)     dq = scale·ds·k     dk = scale·dsᵀ·q
/// </code>
/// Which keys a query sees is an interval [keyBegin, keyEnd) of the flat token stream, and which queries see a key is [queryBegin, queryEnd):
/// causality, sequence borders and a sliding window (0 ≤ i − j &lt; W) are all in those four arrays, whose bounds never fall from token to
/// token, so a block of rows may straddle sequences. A row that sees nothing gives zeros. Kept: q, k, v, o and L.
///
/// dK/dV is computed with keys as rows, dQ with queries as rows, so nothing is added up between programs; s and p are made twice. Where warp groups
/// have registers for all three gradients, one kernel makes them once: a program of keys adds its part of dQ to what the programs of earlier keys
/// found, one after the other in that order. Where they have registers for one of them only, each has a kernel. Whichever it is, the same bits every time.
/// </summary>
/// <param name="shape">Heads and scores.</param>
public sealed partial class AttentionKernel(AttentionShape shape)
{
    private const double Log2E = 1.4426950408889634;
    private const int MostHeadsTogether = 4;

    private static readonly KernelSet<Choice> ForwardKernels = new(TraceForward);
    private static readonly KernelSet<Choice> DeltaKernels = new(TraceDelta);
    private static readonly KernelSet<Choice> QueryKernels = new(TraceQueryGradient);
    private static readonly KernelSet<Choice> KeyValueKernels = new(choice => TraceKeyValueGradient(choice, true, true));
    private static readonly KernelSet<Choice> KeyKernels = new(choice => TraceKeyValueGradient(choice, true, false));
    private static readonly KernelSet<Choice> ValueKernels = new(choice => TraceKeyValueGradient(choice, false, true));
    private static readonly KernelSet<Choice> GradientKernels = new(TraceGradients);

    /// <summary>o and L.</summary>
    /// <param name="device">Device.</param>
    /// <param name="q">[T, query heads · head dimension].</param>
    /// <param name="key">[T, key/value heads · head dimension].</param>
    /// <param name="v">Like the keys.</param>
    /// <param name="intervals">Visibility.</param>
    /// <param name="o">[T, query heads · head dimension].</param>
    /// <param name="logSumExp">L: [query heads, T] in the accumulator's type.</param>
    public void Forward(Device device, ColumnSlice q, ColumnSlice key, ColumnSlice v, AttentionIntervals intervals, ColumnSlice o, Tensor logSumExp)
    {
        var choice = new Choice(shape, q.Tensor.DType, q.RowStride, key.RowStride, v.RowStride, o.RowStride, 0, IsSmall(device), device.PlanTarget.HasWarpGroups);
        device.Launch(
            ForwardKernels[choice], InOrder(choice, intervals, shape.QueryHeads),
            [q.Tensor, key.Tensor, v.Tensor, o.Tensor, logSumExp, intervals.KeyBegin, intervals.KeyEnd, intervals.Count, intervals.QueryOrder]);
    }

    /// <summary>dq, dk and dv.</summary>
    /// <param name="device">Device.</param>
    /// <param name="q">As in the forward pass.</param>
    /// <param name="key">As in the forward pass.</param>
    /// <param name="v">As in the forward pass.</param>
    /// <param name="intervals">Visibility.</param>
    /// <param name="o">From the forward pass.</param>
    /// <param name="logSumExp">From the forward pass.</param>
    /// <param name="dOut">Gradient of o, dense.</param>
    /// <param name="workspace">From <see cref="Workspace"/>.</param>
    /// <param name="dq">Like q; the three gradients share a row stride.</param>
    /// <param name="dk">Like the keys.</param>
    /// <param name="dv">Like the values.</param>
    public void Backward(
        Device device, ColumnSlice q, ColumnSlice key, ColumnSlice v, AttentionIntervals intervals, ColumnSlice o, Tensor logSumExp, Tensor dOut, AttentionWorkspace workspace,
        ColumnSlice dq, ColumnSlice dk, ColumnSlice dv)
    {
        if (dq.RowStride != dk.RowStride || dk.RowStride != dv.RowStride) throw new ArgumentException("dq, dk and dv lie in one buffer.");
        var choice = new Choice(shape, q.Tensor.DType, q.RowStride, key.RowStride, v.RowStride, o.RowStride, dq.RowStride, IsSmall(device), device.PlanTarget.HasWarpGroups);
        var rowBlocks = Blocks.Of(intervals.Count, choice.RowBlock);
        var delta = workspace.Delta;
        if (choice.MakesGradientsTogether)
        {
            device.Launch(DeltaKernels[choice], new Grid(rowBlocks, shape.QueryHeads), [o.Tensor, dOut, delta, intervals.Count, workspace.Flags, dq.Tensor, intervals.KeyBegin, intervals.KeyEnd]);
            device.Launch(
                GradientKernels[choice], new Grid(rowBlocks * shape.KeyValueHeads),
                [
                    q.Tensor, key.Tensor, v.Tensor, dOut, logSumExp, delta, dk.Tensor, dv.Tensor, intervals.QueryBegin, intervals.QueryEnd, intervals.Count,
                    dq.Tensor, workspace.PartialSums, workspace.Flags, intervals.KeyOrder,
                ]);
            return;
        }
        device.Launch(DeltaKernels[choice], new Grid(rowBlocks, shape.QueryHeads), [o.Tensor, dOut, delta, intervals.Count]);
        foreach (var kernels in choice.MakesGradientsApart ? (ReadOnlySpan<KernelSet<Choice>>)[ValueKernels, KeyKernels] : [KeyValueKernels])
        {
            device.Launch(
                kernels[choice], InOrder(choice, intervals, shape.KeyValueHeads),
                [q.Tensor, key.Tensor, v.Tensor, dOut, logSumExp, delta, dk.Tensor, dv.Tensor, intervals.QueryBegin, intervals.QueryEnd, intervals.Count, intervals.KeyOrder]);
        }
        device.Launch(
            QueryKernels[choice], InOrder(choice, intervals, shape.QueryHeads),
            [q.Tensor, key.Tensor, v.Tensor, dOut, logSumExp, delta, dq.Tensor, intervals.KeyBegin, intervals.KeyEnd, intervals.Count, intervals.QueryOrder]);
    }

    /// <summary>What the backward pass needs besides, between its kernels.</summary>
    /// <param name="device">Device.</param>
    /// <param name="dtype">Dtype of q.</param>
    /// <param name="tokens">T.</param>
    /// <param name="allocate">Gives uninitialised memory of a dtype and shape.</param>
    public AttentionWorkspace Workspace(Device device, DType dtype, int tokens, Func<DType, Shape, Tensor> allocate) =>
        Workspace(device, dtype, tokens, allocate, static (allocate, dtype, shape) => allocate(dtype, shape));

    /// <summary>The same without a closure: <paramref name="memory"/> is handed to <paramref name="allocate"/>.</summary>
    internal AttentionWorkspace Workspace<TMemory>(Device device, DType dtype, int tokens, TMemory memory, Func<TMemory, DType, Shape, Tensor> allocate)
    {
        var choice = new Choice(shape, dtype, 0, 0, 0, 0, 0, IsSmall(device), device.PlanTarget.HasWarpGroups);
        var delta = allocate(memory, choice.Accumulator, new Shape(shape.QueryHeads, tokens));
        if (!choice.MakesGradientsTogether) return new(delta, default, default);
        var blocks = shape.QueryHeads * (long)Blocks.Of(tokens, choice.ColumnBlock);
        return new(delta, allocate(memory, choice.Accumulator, new Shape(blocks, choice.ColumnBlock * choice.Width)), allocate(memory, DType.Int32, new Shape(blocks + 1)));
    }

    // Programs that find their rows and head by Parts.Take.
    private static Grid InOrder(Choice choice, AttentionIntervals intervals, int heads) =>
        new(AttentionIntervals.Blocks(intervals.Count) * choice.BlockPrograms * HeadsTogether(heads), heads / HeadsTogether(heads));

    private static int HeadsTogether(int heads)
    {
        var number = Math.Min(heads, MostHeadsTogether);
        while (heads % number != 0) number--;
        return number;
    }

    // A100 and H100 give a program 160 KB of shared memory and more, other GPUs since Ampere about 100 KB.
    private static bool IsSmall(Device device) => device.PlanTarget.SharedMemoryPerProgram < 160 << 10;

    private static Kernel TraceForward(Choice choice) => Kernel.Trace("attention_forward", k =>
    {
        k.Warps = choice.ForwardWarps;
        var parts = new Parts(k, choice, choice.ForwardColumns);
        var q = k.Pointer(choice.DType, "q");
        var key = k.Pointer(choice.DType, "k");
        var v = k.Pointer(choice.DType, "v");
        var o = k.Pointer(choice.DType, "o");
        var logSumExp = k.Pointer(choice.Accumulator, "log_sum_exp");
        var begins = k.Pointer(DType.Int32, "key_begin");
        var ends = k.Pointer(DType.Int32, "key_end");
        var count = k.Scalar(DType.Int32, "count");
        var (first, head) = parts.Take(k.Pointer(DType.Int32, "query_order"), choice.Shape.QueryHeads);
        var row = first + k.Range(choice.RowBlock);
        var queries = parts.Load(q, row, count, head, choice.StrideQ);
        var begin = k.Load(begins + row, row < count, int.MaxValue);
        var end = k.Load(ends + row, row < count);
        var last = Min(first + choice.RowBlock, count) - 1;
        var edges = (k.Load(begins + last), k.Load(ends + Min(first, last)));
        var (low, high, columns) = (k.Load(begins + Min(first, last)), k.Load(ends + last), choice.ForwardColumns);
        Tile.Tile Values(Tile.Tile start) => parts.Load(v, start + k.Range(columns), count, head / choice.Shape.Group, choice.StrideV);
        Tile.Tile Scores(Tile.Tile start) => Dot(queries, parts.Load(key, start + k.Range(columns), count, head / choice.Shape.Group, choice.StrideK).Transposed());
        // Maximum and sum with a step's scores, what the sum until then is multiplied by, and the step's probabilities but for the sum.
        (Tile.Tile Maximum, Tile.Tile Sum, Tile.Tile Fade, Tile.Tile P) Add(Tile.Tile maximumBefore, Tile.Tile sumBefore, Tile.Tile start, Tile.Tile scores)
        {
            var s = parts.Mask(parts.Capped(scores), start + k.Range(columns), start, begin, end, edges, double.NegativeInfinity);
            var maximum = Max(maximumBefore, ReduceMax(s, 1));
            // A row that has seen nothing yet keeps −∞ as its maximum; 0 in its place makes the powers 0 instead of NaN.
            var pivot = Select(maximum > double.NegativeInfinity, maximum, 0) * parts.Unit;
            var p = Exp2(s * parts.Unit - pivot.AsColumn());
            var fade = Exp2(maximumBefore * parts.Unit - pivot);
            return (maximum, sumBefore * fade + Sum(p, 1), fade, p);
        }

        var (lowest, zero, zeros) = (k.Full(choice.Accumulator, double.NegativeInfinity, choice.RowBlock), k.Zeros(choice.Accumulator, choice.RowBlock), k.Zeros(choice.Accumulator, choice.RowBlock, choice.Width));
        Tile.Tile[] state;
        if (choice.HasProducer)
        {
            // Each step begins its scores before the product of the step before, and makes its probabilities while that one is made. It rounds them, and touches the
            // sum, when that one has ended: the driver's assembler would serialise all products otherwise (its notes C7513 and C7514).
            var lastValues = Values(low + Max(high - low - 1, 0) / columns * columns);
            var firstStep = Add(lowest, zero, low, Scores(low));
            var steps = k.For(low + columns, high, k.Constant(DType.Int32, columns), [firstStep.Maximum, firstStep.Sum, zeros, firstStep.P.To(choice.DType)], (start, carried) =>
            {
                var scores = Scores(start);
                var total = Dot(carried[3], Values(start - columns), carried[2]);
                var next = Add(carried[0], carried[1], start, scores);
                total *= next.Fade.AsColumn();
                return [next.Maximum, next.Sum, total, next.P.To(choice.DType)];
            }, stages: choice.Stages, warpSpecialized: true);
            state = [steps[0], steps[1], Dot(steps[3], lastValues, steps[2])];
        }
        else
        {
            state = k.For(low, high, k.Constant(DType.Int32, columns), [lowest, zero, zeros], (start, carried) =>
            {
                var next = Add(carried[0], carried[1], start, Scores(start));
                return [next.Maximum, next.Sum, Dot(next.P.To(choice.DType), Values(start), carried[2] * next.Fade.AsColumn())];
            }, stages: choice.Stages);
        }
        var sum = state[1];
        var isEmpty = sum.EqualTo(0);
        var inverse = 1 / Select(isEmpty, 1, sum);
        parts.Store(o, row, count, head, choice.StrideO, state[2] * inverse.AsColumn());
        // +∞ makes the backward pass's powers 0 in a row that sees nothing.
        k.Store(logSumExp + (head * count + row), Select(isEmpty, double.PositiveInfinity, state[0] * parts.Unit + Log2(sum)), row < count);
    });

    private static Kernel TraceDelta(Choice choice) => Kernel.Trace("attention_delta", k =>
    {
        k.Warps = choice.DeltaWarps;
        var parts = new Parts(k, choice, choice.ColumnBlock);
        var o = k.Pointer(choice.DType, "o");
        var dOut = k.Pointer(choice.DType, "d_o");
        var delta = k.Pointer(choice.Accumulator, "delta");
        var count = k.Scalar(DType.Int32, "count");
        var head = k.ProgramId(1);
        var row = k.ProgramId(0) * choice.RowBlock + k.Range(choice.RowBlock);
        var stride = choice.Shape.QueryHeads * choice.Shape.HeadDimension;
        var product = parts.Load(o, row, count, head, choice.StrideO).ToFloat32() * parts.Load(dOut, row, count, head, stride).ToFloat32();
        k.Store(delta + (head * count + row), Sum(product, 1), row < count);
        if (!choice.MakesGradientsTogether) return;
        // For the gradients' programs: no flag is given and no number drawn yet; and blocks of queries that see nothing have no program.
        var flags = k.Pointer(DType.Int32, "flags");
        var dq = k.Pointer(choice.DType, "d_q");
        var begins = k.Pointer(DType.Int32, "key_begin");
        var ends = k.Pointer(DType.Int32, "key_end");
        var block = k.ProgramId(0) * (choice.RowBlock / choice.ColumnBlock) + k.Range(choice.RowBlock / choice.ColumnBlock);
        var blocks = BlockCount(count, choice);
        k.Store(flags + (head * blocks + block), k.Zeros(DType.Int32, choice.RowBlock / choice.ColumnBlock), block < blocks);
        k.If(k.ProgramId(0).EqualTo(0) & head.EqualTo(0), () => k.Store(flags + blocks * choice.Shape.QueryHeads, k.Constant(DType.Int32, 0)));
        var seesNothing = k.Load(ends + row, row < count) <= k.Load(begins + row, row < count);
        parts.Store(dq, row, count, head, choice.StrideGradient, k.Zeros(choice.Accumulator, choice.RowBlock, choice.Width), seesNothing);
    });

    private static Kernel TraceQueryGradient(Choice choice) => Kernel.Trace("attention_backward_q", k =>
    {
        k.Warps = choice.BackwardWarps;
        var parts = new Parts(k, choice, choice.ColumnBlock);
        var q = k.Pointer(choice.DType, "q");
        var key = k.Pointer(choice.DType, "k");
        var v = k.Pointer(choice.DType, "v");
        var dOut = k.Pointer(choice.DType, "d_o");
        var logSumExp = k.Pointer(choice.Accumulator, "log_sum_exp");
        var delta = k.Pointer(choice.Accumulator, "delta");
        var dq = k.Pointer(choice.DType, "d_q");
        var begins = k.Pointer(DType.Int32, "key_begin");
        var ends = k.Pointer(DType.Int32, "key_end");
        var count = k.Scalar(DType.Int32, "count");
        var (first, head) = parts.Take(k.Pointer(DType.Int32, "query_order"), choice.Shape.QueryHeads);
        var row = first + k.Range(choice.RowBlock);
        var queries = parts.Load(q, row, count, head, choice.StrideQ);
        var gradients = parts.Load(dOut, row, count, head, choice.Shape.QueryHeads * choice.Shape.HeadDimension);
        var begin = k.Load(begins + row, row < count, int.MaxValue);
        var end = k.Load(ends + row, row < count);
        var rowLog = k.Load(logSumExp + (head * count + row), row < count, double.PositiveInfinity).AsColumn();
        var rowDelta = k.Load(delta + (head * count + row), row < count).AsColumn();
        var last = Min(first + choice.RowBlock, count) - 1;
        var edges = (k.Load(begins + last), k.Load(ends + Min(first, last)));
        var sum = k.For(
            k.Load(begins + Min(first, last)), k.Load(ends + last), k.Constant(DType.Int32, choice.ColumnBlock), [k.Zeros(choice.Accumulator, choice.RowBlock, choice.Width)],
            (start, carried) =>
            {
                var column = start + k.Range(choice.ColumnBlock);
                var keys = parts.Load(key, column, count, head / choice.Shape.Group, choice.StrideK);
                var values = parts.Load(v, column, count, head / choice.Shape.Group, choice.StrideV);
                var s = parts.Capped(Dot(queries, keys.Transposed()));
                var dp = Dot(gradients, values.Transposed());
                var p = parts.Mask(Exp2(s * parts.Unit - rowLog), column, start, begin, end, edges, 0);
                var ds = parts.UncappedGradient(p * (dp - rowDelta), s);
                return [Dot(ds.To(choice.DType), keys, carried[0])];
            }, stages: choice.QueryStages, startsAhead: choice.MakesGradientsApart)[0];
        parts.Store(dq, row, count, head, choice.StrideGradient, sum * choice.Shape.Scale);
    });

    // dK, dV or both: one of them where a warp group has no registers for two.
    private static Kernel TraceKeyValueGradient(Choice choice, bool makesKeys, bool makesValues) => Kernel.Trace("attention_backward_" + (makesKeys ? "k" : "") + (makesValues ? "v" : ""), k =>
    {
        k.Warps = choice.BackwardWarps;
        var columns = makesKeys ? choice.ColumnBlock : choice.ValueColumns;
        var own = new KeyRows(k, choice, columns);
        var (first, head) = own.Parts.Take(k.Pointer(DType.Int32, "key_order"), choice.Shape.KeyValueHeads);
        own.Take(first, head);
        var zeros = k.Zeros(choice.Accumulator, choice.RowBlock, choice.Width);
        var sums = k.For(0, choice.Shape.Group, 1, [zeros, zeros], (member, outer) =>
        {
            var queryHead = head * choice.Shape.Group + member;
            // From a multiple of four, so that statistics of neighbouring columns are loaded together.
            return k.For(k.Load(own.Begins + Min(own.First, own.Last)) / 4 * 4, k.Load(own.Ends + own.Last), k.Constant(DType.Int32, columns), outer, (start, carried) =>
            {
                var queries = own.Queries(queryHead, start);
                var (s, dp) = own.Products(queries);
                var p = own.Probabilities(queries, s);
                var sumOfValues = makesValues ? Dot(p.To(choice.DType), queries.Gradients, carried[1]) : carried[1];
                return [makesKeys ? Dot(own.ScoreGradients(queries, s, p, dp), queries.Rows, carried[0]) : carried[0], sumOfValues];
            }, stages: makesKeys ? choice.KeyStages : choice.Stages, startsAhead: makesKeys);
        });
        own.Store(makesKeys ? sums[0] : null, makesValues ? sums[1] : null);
    });

    // All gradients. Programs draw numbers, so that one waits only for programs that have started; queries go from last to first, so that a program trails
    // that of the keys before its own by a step and, seeing fewer queries, ends before it.
    private static Kernel TraceGradients(Choice choice) => Kernel.Trace("attention_backward", k =>
    {
        k.Warps = choice.BackwardWarps;
        var own = new KeyRows(k, choice, choice.ColumnBlock);
        var dq = k.Pointer(choice.DType, "d_q");
        var partialSums = k.Pointer(choice.Accumulator, "partial_sums");
        var flags = k.Pointer(DType.Int32, "flags");
        var order = k.Pointer(DType.Int32, "key_order");

        var (group, columns) = (choice.Shape.Group, choice.ColumnBlock);
        var count = own.Count;
        var blocks = BlockCount(count, choice);
        var number = k.AtomicAdd(flags + blocks * choice.Shape.QueryHeads, k.Constant(DType.Int32, 1));
        var head = number % choice.Shape.KeyValueHeads;
        var keyBlock = k.Load(order + number / choice.Shape.KeyValueHeads);
        own.Take(keyBlock * choice.RowBlock, head);
        // Blocks of queries before the first bound have a program before this one, those from the second on have one after it.
        var before = Select(own.First > 0, k.Load(own.Ends + Max(own.First - 1, 0)), 0);
        var next = own.First + choice.RowBlock;
        var after = Select(next < count, k.Load(own.Begins + Min(next, count - 1)) / columns, blocks);
        var (low, high) = (k.Load(own.Begins + own.First) / columns, (k.Load(own.Ends + own.Last) + (columns - 1)) / columns);
        (Tile.Tile Block, Tile.Tile Head, Tile.Tile Index) At(Tile.Tile step)
        {
            var (block, queryHead) = (high - 1 - step / group, head * group + step % group);
            return (block, queryHead, queryHead * blocks + block);
        }
        // Gives the next program its turn at what the former step, if there was one, added to.
        void SignalStepBefore(Tile.Tile step)
        {
            var (block, _, index) = At(step - 1);
            k.If((step > 0) & (block >= after), () => k.Signal(flags + index, keyBlock + 1));
        }
        var zeros = k.Zeros(choice.Accumulator, choice.RowBlock, choice.Width);
        var steps = (high - low) * group;
        var sums = k.For(k.Constant(DType.Int32, 0), steps, k.Constant(DType.Int32, 1), [zeros, zeros], (step, carried) =>
        {
            var (block, queryHead, index) = At(step);
            var start = block * columns;
            var queries = own.Queries(queryHead, start);
            var place = partialSums + index.ToInt64() * (columns * choice.Width);
            var (s, dp) = own.Products(queries);
            // While these products are made, it is this program's turn to add to the block.
            var isFirst = start >= before;
            k.If(!isFirst, () => k.Await(flags + index, keyBlock));
            var p = own.Probabilities(queries, s);
            var sumOfValues = Dot(p.To(choice.DType), queries.Gradients, carried[1]);
            var ds = own.ScoreGradients(queries, s, p, dp);
            var part = Dot(own.Keys.Transposed(), ds);
            var sumOfKeys = Dot(ds, queries.Rows, carried[0]);
            // All threads have met, to show each other ds, since they added to the block of the step before: it is the next program's turn there.
            SignalStepBefore(step);
            k.If((block >= after) & isFirst, () => k.StoreOpaque(place, part));
            k.If((block >= after) & !isFirst, () => k.AddOpaque(place, part));
            k.If(block < after, () =>
            {
                var sum = k.If(!isFirst, [part], () => [part + k.LoadOpaque(place, choice.Width, columns)])[0];
                own.Parts.Store(dq, queries.Column, count, queryHead, choice.StrideGradient, (sum * choice.Shape.Scale).Transposed());
            });
            return [sumOfKeys, sumOfValues];
        }, stages: choice.KeyStages, startsAhead: true);
        SignalStepBefore(steps);
        own.Store(sums[0], sums[1]);
    });

    // Blocks of queries, each of which has a flag for each head; behind them is the counter of programs.
    private static Tile.Tile BlockCount(Tile.Tile count, Choice choice) => (count + (choice.ColumnBlock - 1)) / choice.ColumnBlock;
}
