using Lancet.Devices;
using Lancet.Tensors;
using Lancet.Tile;
using static Lancet.Tile.TileMath;

namespace Lancet.Kernels;

/// <summary>
/// Attention of one new query per sequence over its cached keys and values:
/// <code>o = softmax(cap(scale·q·Kᵀ))·V over the last W positions of the sequence</code>
/// A sequence's result depends on that sequence alone, so generating in a batch gives the bits of generating alone.
/// </summary>
/// <param name="shape">Heads and scores.</param>
/// <param name="window">Sliding window W; 0 for none.</param>
public sealed class DecodeAttentionKernel(AttentionShape shape, int window)
{
    private const int KeyBlock = 64;
    private const double Log2E = 1.4426950408889634;
    private static readonly KernelSet<Choice> Kernels = new(Trace);
    private static readonly KernelSet<(DType DType, long Stride, int Columns)> AppendKernels = new(TraceAppend);

    /// <summary>o for one new token of each sequence, whose key and value are in the cache already.</summary>
    /// <param name="device">Device.</param>
    /// <param name="q">[sequences, query heads · head dimension].</param>
    /// <param name="keys">Cache [sequences · capacity, key/value heads · head dimension].</param>
    /// <param name="values">Like the keys.</param>
    /// <param name="positions">int32 [sequences]: position of the new token.</param>
    /// <param name="slots">int32 [sequences]: row of the cache where each sequence starts.</param>
    /// <param name="o">[sequences, query heads · head dimension].</param>
    public void Forward(Device device, ColumnSlice q, Tensor keys, Tensor values, Tensor positions, Tensor slots, Tensor o) => device.Launch(
        Kernels[new(shape, window, q.Tensor.DType, q.RowStride)], new Grid((int)positions.Count, shape.QueryHeads), [q.Tensor, keys, values, positions, slots, o]);

    /// <summary>Writes new keys (or values) into the cache: cache[slot[i] + position[i]] = x[i].</summary>
    /// <param name="device">Device.</param>
    /// <param name="x">[rows, columns].</param>
    /// <param name="cache">[sequences · capacity, columns].</param>
    /// <param name="positions">int32 [rows].</param>
    /// <param name="slots">int32 [rows]: where each row's sequence starts.</param>
    public static void Append(Device device, ColumnSlice x, Tensor cache, Tensor positions, Tensor slots) => device.Launch(
        AppendKernels[(cache.DType, x.RowStride, (int)cache.Shape[1])], new Grid((int)positions.Count), [x.Tensor, cache, positions, slots]);

    private static Kernel TraceAppend((DType DType, long Stride, int Columns) choice) => Kernel.Trace("cache_append", k =>
    {
        var x = k.Pointer(choice.DType, "x");
        var cache = k.Pointer(choice.DType, "cache");
        var positions = k.Pointer(DType.Int32, "positions");
        var slots = k.Pointer(DType.Int32, "slots");
        var row = k.ProgramId(0);
        var column = k.Range(Blocks.PowerOfTwo(choice.Columns));
        var inside = column < choice.Columns;
        var target = (k.Load(slots + row) + k.Load(positions + row)).ToInt64() * choice.Columns;
        k.Store(cache + (target + column), k.Load(x + (row.ToInt64() * choice.Stride + column), inside), inside);
    });

    private static Kernel Trace(Choice choice) => Kernel.Trace("attention_decode", k =>
    {
        var shape = choice.Shape;
        var accumulator = choice.DType.Accumulator();
        var q = k.Pointer(choice.DType, "q");
        var keys = k.Pointer(choice.DType, "keys");
        var values = k.Pointer(choice.DType, "values");
        var positions = k.Pointer(DType.Int32, "positions");
        var slots = k.Pointer(DType.Int32, "slots");
        var o = k.Pointer(choice.DType, "o");
        var (row, head) = (k.ProgramId(0), k.ProgramId(1));
        var width = Blocks.PowerOfTwo(shape.HeadDimension);
        var lane = k.Range(width);
        var inside = lane < shape.HeadDimension;
        var query = k.Load(q + (row.ToInt64() * choice.StrideQ + head * shape.HeadDimension + lane), inside).ToFloat32();
        var position = k.Load(positions + row);
        var slot = k.Load(slots + row).ToInt64();
        var begin = choice.Window > 0 ? Max(position - (choice.Window - 1), 0) : k.Constant(DType.Int32, 0);
        long stride = shape.KeyValueHeads * shape.HeadDimension;
        var state = k.For(
            begin, position + 1, k.Constant(DType.Int32, KeyBlock), [k.Full(accumulator, double.NegativeInfinity), k.Zeros(accumulator), k.Zeros(accumulator, width)],
            (start, carried) =>
            {
                var column = start + k.Range(KeyBlock);
                var address = ((slot + column) * stride).AsColumn() + (head / shape.Group * shape.HeadDimension + lane).AsRow();
                var mask = (column <= position).AsColumn() & inside.AsRow();
                var product = Sum(k.Load(keys + address, mask).ToFloat32() * query.AsRow(), 1);
                var s = shape.SoftCap == 0 ? product * (shape.Scale * Log2E) : Tanh(product * (shape.Scale / shape.SoftCap)) * (shape.SoftCap * Log2E);
                s = Select(column <= position, s, double.NegativeInfinity);
                var maximum = Max(carried[0], ReduceMax(s));
                var p = Exp2(s - maximum);
                var fade = Exp2(carried[0] - maximum);
                return [maximum, carried[1] * fade + Sum(p), carried[2] * fade + Sum(k.Load(values + address, mask).ToFloat32() * p.AsColumn(), 0)];
            });
        k.Store(o + (row * (shape.QueryHeads * shape.HeadDimension) + head * shape.HeadDimension + lane), (state[2] / state[1]).To(choice.DType), inside);
    });

    private readonly record struct Choice(AttentionShape Shape, int Window, DType DType, long StrideQ);
}
