using Lancet.Kernels;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Devices.Cuda.SelfTest;

// What mixtures of experts add.
internal static partial class KernelCases
{
    private static IEnumerable<KernelCase> Experts()
    {
        foreach (var (tokens, experts, chosen, isNormalized) in ((int, int, int, bool)[])[(5, 6, 3, false), (300, 8, 2, true), (70, 128, 8, true)])
        {
            yield return new("router", $"{tokens} x {experts}, {chosen} chosen", s_float, (lab, dtype) =>
            {
                var accumulator = dtype.Accumulator();
                Tensor logits = lab.Random(accumulator, new Shape(tokens, experts), 4), indices = lab.Of(new int[tokens * chosen]).Reshape(new Shape(tokens, chosen)), weights = lab.Output(accumulator, indices.Shape);
                Tensor dw = lab.Random(accumulator, indices.Shape), dz = lab.Output(dtype, logits.Shape);
                var kernel = new RouterKernel(experts, chosen, isNormalized);
                kernel.Forward(lab.Device, logits, indices, weights);
                kernel.Backward(lab.Device, logits, indices, weights, dw, dz);
                lab.Result("probabilities", logits);
                lab.Result("indices", indices);
                lab.Result("weights", weights);
                lab.Result("gradient", dz);
            });
        }
        foreach (var (tokens, chosen, experts, columns) in ((int, int, int, int)[])[(7, 3, 5, 41), (700, 2, 8, 576), (300, 8, 128, 1100)])
        {
            yield return new("rows of experts", $"{tokens} x {chosen} to {experts}, {columns} columns", s_float, (lab, dtype) =>
            {
                var rows = Sort(lab, lab.Integers(tokens * chosen, experts), experts, 64, out var place, out var order);
                place = place.Reshape(new Shape(tokens, chosen));
                var kernel = new ExpertRowsKernel(chosen, columns);
                Tensor x = lab.Random(dtype, new Shape(tokens, columns)), gathered = lab.Output(dtype, new Shape(rows.Count, columns)), sum = lab.Output(dtype, x.Shape);
                kernel.Gather(lab.Device, x, order, gathered);
                kernel.Sum(lab.Device, gathered, place, x, sum);
                Tensor gateUp = lab.Random(dtype, new Shape(rows.Count, 2 * columns), 4), weights = lab.Random(dtype.Accumulator(), place.Shape), h = lab.Output(dtype, gathered.Shape);
                Tensor dh = lab.Random(dtype, gathered.Shape), dw = lab.Output(dtype.Accumulator(), place.Shape);
                var activation = new RoutedActivationKernel(GatedActivation.Silu, columns);
                activation.Forward(lab.Device, gateUp, weights, order, h);
                activation.Backward(lab.Device, gateUp, weights, order, dh, dw);
                foreach (var (name, tensor) in ((string, Tensor)[])[("starts", rows.Starts), ("blocks", rows.Blocks), ("place", place), ("gathered", gathered), ("sum", sum), ("h", h), ("gradients", gateUp), ("h again", dh), ("weights' gradient", dw)])
                    lab.Result(name, tensor);
            });
        }
        foreach (var (rows, experts, n, k) in ((int, int, int, int)[])[(70, 5, 57, 40), (600, 4, 256, 192), (2, 8, 64, 64)])
        {
            yield return new("products of experts", $"{rows} rows, {experts} of {n} x {k}", s_all, (lab, dtype) =>
            {
                // The first expert has no rows.
                var sorted = Sort(lab, Array.ConvertAll(lab.Integers(rows, experts - 1), index => index + 1), experts, GroupedGemmKernel.BlockRows(dtype, rows, experts), out _, out _);
                Tensor a = lab.Random(dtype, new Shape(rows, k)), b = lab.Random(dtype, new Shape(experts, n * k)), c = lab.Random(dtype, new Shape(rows, n));
                foreach (var isTransposed in (bool[])[true, false])
                {
                    GroupedGemmKernel.Multiply(lab.Device, new GroupedMatMul { Rows = sorted, N = n, K = k, A = a, B = new Stack(b, isTransposed), C = c, Alpha = 0.25f, Beta = 1 });
                    lab.Result(isTransposed ? "T" : "N", c);
                }
                var gradient = lab.Random(dtype.Accumulator(), new Shape(experts, n * k));
                GroupedGemmKernel.Accumulate(lab.Device, new GroupedGradient { Rows = sorted, M = n, N = k, A = lab.Random(dtype, c.Shape), B = a, C = new Stack(gradient, false), Alpha = 0.5f });
                lab.Result("gradient", gradient);
            });
        }
    }

    private static ExpertRows Sort(SelfTestLab lab, int[] indices, int experts, int blockRows, out Tensor place, out Tensor order)
    {
        var sort = new ExpertSortKernel(experts);
        var count = indices.Length;
        (place, order) = (lab.Of(new int[count]), lab.Of(new int[count]));
        var blocks = ExpertRows.MostBlocks(count, experts, blockRows);
        var rows = new ExpertRows(count, lab.Of(new int[experts + 1]), lab.Of(new int[2 * blocks]).Reshape(new Shape(blocks, 2)), blockRows);
        sort.Sort(lab.Device, lab.Of(indices), lab.Zeros(DType.Int32, sort.WorkspaceShape(count)), rows.Starts, place, order);
        sort.WriteBlocks(lab.Device, rows);
        return rows;
    }

    private sealed class Stack(Tensor all, bool isTransposed) : IExpertMatrices
    {
        public int Count => (int)all.Shape[0];

        public MatMulOperand this[int expert] => new(all.Rows(expert, 1), isTransposed);
    }
}
