using Lancet.Kernels;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Devices.Cuda.SelfTest;

// Attention over packed sequences, forward and backward, and of one new token over a cache.
internal static partial class KernelCases
{
    private static IEnumerable<KernelCase> Attention()
    {
        (int[] Lengths, int Heads, int KeyHeads, int Dimension, int Window, double Cap)[] shapes =
        [
            ([64], 2, 2, 64, 0, 0), ([5, 1, 90, 33], 4, 2, 16, 0, 0), ([100, 37], 6, 2, 24, 20, 0), ([200, 56], 4, 1, 128, 0, 0), ([130], 2, 1, 64, 0, 20), ([300], 8, 2, 128, 0, 0), ([170, 60], 4, 2, 256, 0, 50), ([140], 18, 2, 64, 0, 0),
        ];
        foreach (var (lengths, heads, keyHeads, dimension, window, cap) in shapes)
        {
            var name = $"[{string.Join(' ', lengths)}] {heads}/{keyHeads} x {dimension}{(window > 0 ? $" window {window}" : "")}{(cap > 0 ? $" cap {cap}" : "")}";
            yield return new("attention", name, s_float, (lab, dtype) => Packed(lab, dtype, lengths, new(heads, keyHeads, dimension, 1 / Math.Sqrt(dimension), cap), window));
        }
        foreach (var (heads, keyHeads, dimension, window) in ((int, int, int, int)[])[(4, 2, 64, 0), (6, 2, 24, 10), (8, 8, 128, 0)])
            yield return new("decode attention", $"{heads}/{keyHeads} x {dimension} window {window}", s_float, (lab, dtype) => Decode(lab, dtype, new(heads, keyHeads, dimension, 1 / Math.Sqrt(dimension), 0), window));
    }

    private static void Packed(SelfTestLab lab, DType dtype, int[] lengths, AttentionShape shape, int window)
    {
        var tokens = lengths.Sum();
        int queryColumns = shape.QueryHeads * shape.HeadDimension, keyColumns = shape.KeyValueHeads * shape.HeadDimension, width = queryColumns + (2 * keyColumns);
        var offsets = new int[lengths.Length + 1];
        for (var i = 0; i < lengths.Length; i++) offsets[i + 1] = offsets[i] + lengths[i];
        var intervals = AttentionIntervals.Of(offsets, window, values => lab.Of(values));
        Tensor projected = lab.Random(dtype, new Shape(tokens, width), 2), gradients = lab.Output(dtype, projected.Shape);
        ColumnSlice q = ColumnSlice.Of(projected, 0), k = ColumnSlice.Of(projected, queryColumns), v = ColumnSlice.Of(projected, queryColumns + keyColumns);
        Tensor o = lab.Output(dtype, new Shape(tokens, queryColumns)), log = lab.Output(dtype.Accumulator(), new Shape(shape.QueryHeads, tokens));
        var dOut = lab.Random(dtype, o.Shape);
        var kernel = new AttentionKernel(shape);
        kernel.Forward(lab.Device, q, k, v, intervals, o, log);
        lab.Result("o", o);
        lab.Result("log-sum-exp", log);
        kernel.Backward(
            lab.Device, q, k, v, intervals, o, log, dOut, kernel.Workspace(lab.Device, dtype, tokens, lab.Output), ColumnSlice.Of(gradients, 0), ColumnSlice.Of(gradients, queryColumns), ColumnSlice.Of(gradients, queryColumns + keyColumns));
        lab.Result("dq", ColumnSlice.Of(gradients, 0), tokens, queryColumns);
        lab.Result("dk", ColumnSlice.Of(gradients, queryColumns), tokens, keyColumns);
        lab.Result("dv", ColumnSlice.Of(gradients, queryColumns + keyColumns), tokens, keyColumns);
    }

    private static void Decode(SelfTestLab lab, DType dtype, AttentionShape shape, int window)
    {
        const int sequences = 3, capacity = 150;
        int queryColumns = shape.QueryHeads * shape.HeadDimension, keyColumns = shape.KeyValueHeads * shape.HeadDimension;
        Tensor keys = lab.Random(dtype, new Shape(sequences * capacity, keyColumns)), values = lab.Random(dtype, keys.Shape), q = lab.Random(dtype, new Shape(sequences, queryColumns));
        Tensor positions = lab.Of(0, 70, 149), slots = lab.Of(0, capacity, 2 * capacity), fresh = lab.Random(dtype, new Shape(sequences, keyColumns)), o = lab.Output(dtype, q.Shape);
        DecodeAttentionKernel.Append(lab.Device, fresh, keys, positions, slots);
        new DecodeAttentionKernel(shape, window).Forward(lab.Device, q, keys, values, positions, slots, o);
        lab.Result("o", o);
        lab.Result("cache", keys);
    }
}
