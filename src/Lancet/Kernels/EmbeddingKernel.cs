using Lancet.Devices;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Kernels;

/// <summary>
/// Token embedding and its gradient.
/// <code>
/// forward    y[t] = scale · E[id[t]]
/// backward   dE[i] += scale · Σ_{t: id[t] = i} dy[t]
/// </code>
/// The backward pass is given the tokens in order of their ids, so that every row of dE is summed by one program in order of t: no atomics,
/// the same bits every time.
/// </summary>
public static class EmbeddingKernel
{
    private const int Block = 1024;
    private static readonly KernelSet<(int Columns, DType Table, DType DType, double Scale)> ForwardKernels = new(TraceForward);
    private static readonly KernelSet<(int Columns, long Stride, DType DType, double Scale)> BackwardKernels = new(TraceBackward);

    /// <summary>y[t] = scale · E[id[t]].</summary>
    /// <param name="device">Device.</param>
    /// <param name="tokenIds">int32 [T], each within the table.</param>
    /// <param name="table">E [vocabulary, columns].</param>
    /// <param name="y">[T, columns] that is written.</param>
    /// <param name="scale">Factor (Gemma: √hidden, rounded to the compute dtype).</param>
    public static void Forward(Device device, Tensor tokenIds, Tensor table, Tensor y, double scale)
    {
        var columns = (int)table.Shape[1];
        device.Launch(ForwardKernels[(columns, table.DType, y.DType, scale)], new Grid((int)tokenIds.Count, Blocks.Of(columns, Block)), [tokenIds, table, y]);
    }

    /// <summary>dE += gradient of the table.</summary>
    /// <param name="device">Device.</param>
    /// <param name="tokenIds">int32 [T].</param>
    /// <param name="order">int32 [T]: token indices, sorted by token id, equal ids by index.</param>
    /// <param name="segmentEnds">int32 [T]: at the first place of each id in <paramref name="order"/> the place after its last, elsewhere 0.</param>
    /// <param name="dy">[T, columns], which may lie in a wider matrix.</param>
    /// <param name="gradient">[vocabulary, columns], in the accumulator's type.</param>
    /// <param name="scale">The forward pass's factor.</param>
    /// <param name="columns">Columns of the table; 0 if rows of <paramref name="dy"/> have no more.</param>
    public static void Backward(Device device, Tensor tokenIds, Tensor order, Tensor segmentEnds, ColumnSlice dy, Tensor gradient, double scale, int columns = 0)
    {
        if (columns == 0) columns = (int)dy.RowStride;
        device.Launch(BackwardKernels[(columns, dy.RowStride, dy.Tensor.DType, scale)], new Grid((int)tokenIds.Count, Blocks.Of(columns, Block)), [tokenIds, order, segmentEnds, dy.Tensor, gradient]);
    }

    /// <summary>Fills in the two index arrays of <see cref="Backward"/> on the host.</summary>
    public static void SortTokens(ReadOnlySpan<int> tokenIds, Span<long> scratch, Span<int> order, Span<int> segmentEnds)
    {
        for (var t = 0; t < tokenIds.Length; t++) scratch[t] = ((long)tokenIds[t] << 32) | (uint)t;
        var keys = scratch[..tokenIds.Length];
        keys.Sort();
        var start = 0;
        for (var i = 0; i < keys.Length; i++)
        {
            order[i] = (int)(keys[i] & 0xffffffff);
            segmentEnds[i] = 0;
            if (keys[i] >> 32 != keys[start] >> 32) start = i;
            segmentEnds[start] = i + 1;
        }
    }

    private static Kernel TraceForward((int Columns, DType Table, DType DType, double Scale) choice) => Kernel.Trace("embedding_forward", k =>
    {
        var ids = k.Pointer(DType.Int32, "token_ids");
        var table = k.Pointer(choice.Table, "table");
        var y = k.Pointer(choice.DType, "y");
        var row = k.ProgramId(0);
        var column = k.ProgramId(1) * Block + k.Range(Block);
        var inside = column < choice.Columns;
        var value = k.Load(table + (k.Load(ids + row).ToInt64() * choice.Columns + column), inside).To(choice.DType.Accumulator());
        if (choice.Scale != 1) value *= choice.Scale;
        k.Store(y + (row.ToInt64() * choice.Columns + column), value.To(choice.DType), inside);
    });

    private static Kernel TraceBackward((int Columns, long Stride, DType DType, double Scale) choice) => Kernel.Trace("embedding_backward", k =>
    {
        var accumulator = choice.DType.Accumulator();
        var ids = k.Pointer(DType.Int32, "token_ids");
        var order = k.Pointer(DType.Int32, "order");
        var ends = k.Pointer(DType.Int32, "segment_ends");
        var dy = k.Pointer(choice.DType, "dy");
        var gradient = k.Pointer(accumulator, "gradient");
        var start = k.ProgramId(0);
        var column = k.ProgramId(1) * Block + k.Range(Block);
        var inside = column < choice.Columns;
        var end = k.Load(ends + start);
        k.If(end > start, () =>
        {
            var sum = k.For(start, end, k.Constant(DType.Int32, 1), [k.Zeros(accumulator, Block)], (at, carried) =>
                [carried[0] + k.Load(dy + (k.Load(order + at).ToInt64() * choice.Stride + column), inside).ToFloat32()])[0];
            var target = gradient + (k.Load(ids + k.Load(order + start)).ToInt64() * choice.Columns + column);
            if (choice.Scale != 1) sum *= choice.Scale;
            k.Store(target, k.Load(target, inside) + sum, inside);
        });
    });
}
