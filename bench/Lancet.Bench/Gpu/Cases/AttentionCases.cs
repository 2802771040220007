using Lancet.Kernels;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Bench.Gpu.Cases;

/// <summary>Attention over packed sequences that are equally long, with q, k and v side by side in one row as in the engine.</summary>
internal static class AttentionCases
{
    private static readonly (int Sequences, int Length, AttentionShape Shape)[] s_shapes =
    [
        (4, 2048, Shape(32, 8, 128)), (4, 8192, Shape(32, 8, 128)), (1, 32768, Shape(32, 8, 128)), (4, 2048, Shape(32, 8, 64)), (4, 2048, Shape(16, 4, 256)), (4, 2048, Shape(8, 4, 256, 50)),
    ];

    public static IEnumerable<KernelCase> All
    {
        get
        {
            foreach (var (sequences, length, shape) in s_shapes)
            {
                foreach (var isBackward in (bool[])[false, true])
                {
                    var operations = Operations(shape, sequences, length);
                    yield return new(
                        isBackward ? "attention forward+backward" : "attention forward",
                        $"{sequences} × {length}, {shape.QueryHeads}/{shape.KeyValueHeads} heads of {shape.HeadDimension}{(shape.SoftCap > 0 ? $", soft cap {shape.SoftCap}" : "")}", DType.BFloat16, sequences * length,
                        (lab, dtype, rows) => Prepare(lab, dtype, rows, shape, rows == sequences * length ? length : 80, isBackward))
                    {
                        Operations = isBackward ? 3.5 * operations : operations,
                        Bytes = 1,
                        Comparison = Comparison.FewRows,
                        ComparedRows = 160,
                    };
                }
            }
        }
    }

    /// <summary>Operations of a causal forward pass, 4·d·heads·Σ n²/2.</summary>
    public static double Operations(AttentionShape shape, int sequences, double length) => 4.0 * shape.HeadDimension * shape.QueryHeads * sequences * length * length / 2;

    private static AttentionShape Shape(int heads, int keyHeads, int dimension, double softCap = 0) => new(heads, keyHeads, dimension, 1 / Math.Sqrt(dimension), softCap);

    private static PreparedKernel Prepare(BenchLab lab, DType dtype, int tokens, AttentionShape shape, int length, bool isBackward)
    {
        int queryColumns = shape.QueryHeads * shape.HeadDimension, keyColumns = shape.KeyValueHeads * shape.HeadDimension;
        int[] offsets = [.. Enumerable.Range(0, (tokens / length) + 1).Select(i => i * length)];
        var intervals = AttentionIntervals.Of(offsets, 0, values => lab.Of(values));
        Tensor projected = lab.Rows(dtype, tokens, queryColumns + (2 * keyColumns), 2), o = lab.Output(dtype, new Shape(tokens, queryColumns)), log = lab.Output(dtype.Accumulator(), new Shape(shape.QueryHeads, tokens));
        ColumnSlice q = ColumnSlice.Of(projected, 0), k = ColumnSlice.Of(projected, queryColumns), v = ColumnSlice.Of(projected, queryColumns + keyColumns);
        var kernel = new AttentionKernel(shape);
        if (!isBackward) return new(() => kernel.Forward(lab.Device, q, k, v, intervals, o, log), [], new("o", o), new("log-sum-exp", log, false));
        Tensor gradients = lab.Output(dtype, projected.Shape), dOut = lab.Rows(dtype, tokens, queryColumns);
        var workspace = kernel.Workspace(lab.Device, dtype, tokens, lab.Output);
        ColumnSlice dq = ColumnSlice.Of(gradients, 0), dk = ColumnSlice.Of(gradients, queryColumns), dv = ColumnSlice.Of(gradients, queryColumns + keyColumns);
        void Run()
        {
            kernel.Forward(lab.Device, q, k, v, intervals, o, log);
            kernel.Backward(lab.Device, q, k, v, intervals, o, log, dOut, workspace, dq, dk, dv);
        }
        return new(Run, [], new("o", o), new("dq, dk, dv", gradients));
    }
}
