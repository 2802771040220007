using Lancet.Kernels;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Tests.Kernels;

public class NormKernelTests
{
    /// <summary>Where the tests run; another device in derived classes.</summary>
    private protected virtual KernelLab NewLab(long seed = 1) => new(seed);

    private const double Epsilon = 1e-3;

    [Theory]
    [InlineData(1, 1, 7, NormKind.RootMeanSquare, 0)]
    [InlineData(5, 1, 123, NormKind.RootMeanSquarePlusOne, 0)]
    [InlineData(3, 4, 16, NormKind.RootMeanSquare, 8)]
    [InlineData(70, 1, 5, NormKind.RootMeanSquare, 0)]
    [InlineData(1, 1, 7, NormKind.Layer, 0)]
    [InlineData(5, 1, 123, NormKind.Layer, 4)]
    [InlineData(70, 1, 5, NormKind.Layer, 0)]
    [InlineData(3, 4, 16, NormKind.Layer, 8)]
    [InlineData(5, 3, 12, NormKind.Layer, 8, true)]
    [InlineData(40, 6, 10, NormKind.Layer, 0, true)]
    [InlineData(4, 2, 6, NormKind.RootMeanSquare, 0, true)]
    [InlineData(1, 1, 300, NormKind.RootMeanSquare, 0)]
    [InlineData(1, 1, 300, NormKind.Layer, 3)]
    public void Forward_and_gradients_in_fp64(int rows, int heads, int columns, NormKind kind, int padding, bool hasHeadScales = false)
    {
        using var lab = NewLab();
        var stride = (heads * columns) + padding;
        var x = lab.Random(DType.Float64, new Shape(rows, stride));
        var w = lab.Random(DType.Float64, new Shape(hasHeadScales ? heads * columns : columns));
        var y = lab.New(DType.Float64, new Shape(rows, stride));
        var kernel = new NormKernel(columns, heads, Epsilon, kind, hasHeadScales);
        var statistics = lab.New(DType.Float64, new Shape(kernel.StatisticsCount(rows)));
        void Run() => kernel.Forward(lab.Device, rows, x, w, y, statistics);
        Run();
        var exact = Reference(KernelLab.Values(x), KernelLab.Values(w), rows, heads, columns, stride, kind, hasHeadScales);
        KernelLab.AssertClose(exact, KernelLab.Values(y), 1e-12);
        var added = lab.Random(DType.Float64, new Shape(rows, stride));
        double[] sum = [.. KernelLab.Values(added).Zip(exact, (residual, normed) => residual + (0.5 * normed))];
        kernel.ForwardAdded(lab.Device, rows, x, w, added, 0.5, added, statistics);
        KernelLab.AssertClose(sum, KernelLab.Values(added), 1e-12);

        var dy = lab.New(DType.Float64, new Shape(rows, stride));
        var random = lab.Random(dy.Count);
        for (var i = 0; i < dy.Count; i++) KernelLab.Set(dy, i, i % stride < heads * columns ? random[i] : 0);
        var dx = lab.New(DType.Float64, new Shape(rows, stride));
        kernel.Backward(lab.Device, rows, dy, x, w, statistics, dx, false);
        var gradient = KernelLab.Values(dx);
        var dw = lab.New(DType.Float64, w.Shape);
        kernel.BackwardWeight(lab.Device, rows, dy, x, statistics, lab.New(DType.Float64, kernel.PartialShape(rows)), dw);
        double Loss()
        {
            Run();
            return KernelLab.Weighted(y, dy);
        }
        KernelLab.CheckGradient(x, gradient, Loss);
        KernelLab.CheckGradient(w, KernelLab.Values(dw), Loss);

        Run();
        kernel.Backward(lab.Device, rows, dy, x, w, statistics, dx, true);
        KernelLab.AssertClose([.. gradient.Select(value => 2 * value)], KernelLab.Values(dx), 1e-12);
        kernel.Backward(lab.Device, rows, dy, x, w, statistics, dy, false);
        for (var i = 0; i < dy.Count; i++) if (i % stride < heads * columns) Assert.Equal(gradient[i], KernelLab.Get(dy, i), 1e-12);
    }

    [Theory]
    [InlineData(DType.Float32, NormKind.RootMeanSquare)]
    [InlineData(DType.BFloat16, NormKind.RootMeanSquare)]
    [InlineData(DType.Float32, NormKind.Layer)]
    [InlineData(DType.BFloat16, NormKind.Layer)]
    public void Error_is_at_most_that_of_the_plain_computation(DType dtype, NormKind kind)
    {
        const int rows = 9, columns = 200;
        using var lab = NewLab(3);
        var x = lab.Random(dtype, new Shape(rows, columns), 3);
        var w = lab.Random(DType.Float32, new Shape(columns));
        for (var i = 0; i < columns; i++) KernelLab.Set(w, i, (float)(BFloat16)(float)KernelLab.Get(w, i));
        var y = lab.New(dtype, new Shape(rows, columns));
        var kernel = new NormKernel(columns, 1, Epsilon, kind);
        kernel.Forward(lab.Device, rows, x, w, y, lab.New(DType.Float32, new Shape(kernel.StatisticsCount(rows))));
        double[] xs = KernelLab.Values(x), ws = KernelLab.Values(w);
        var exact = Reference(xs, ws, rows, 1, columns, columns, kind, false);
        // As transformers computes it: statistics in fp32, rounding to the dtype before the scale (except in layer norms) and after it.
        var plain = new double[exact.Length];
        for (var row = 0; row < rows; row++)
        {
            float total = 0, sum = 0;
            var isLayer = kind == NormKind.Layer;
            for (var i = 0; i < columns; i++) total += (float)xs[(row * columns) + i];
            var mean = isLayer ? total / columns : 0;
            for (var i = 0; i < columns; i++) sum += ((float)xs[(row * columns) + i] - mean) * ((float)xs[(row * columns) + i] - mean);
            var r = 1 / MathF.Sqrt((sum / columns) + (float)Epsilon);
            for (var i = 0; i < columns; i++)
            {
                var normed = ((float)xs[(row * columns) + i] - mean) * r;
                plain[(row * columns) + i] = Rounding.To(dtype, (isLayer ? normed : Rounding.To(dtype, normed)) * (float)ws[i]);
            }
        }
        Rounding.AssertNoWorse(exact, plain, KernelLab.Values(y));
    }

    private static double[] Reference(double[] x, double[] w, int rows, int heads, int columns, int stride, NormKind kind, bool hasHeadScales)
    {
        var y = new double[rows * stride];
        for (var row = 0; row < rows; row++)
        {
            for (var head = 0; head < heads; head++)
            {
                var at = (row * stride) + (head * columns);
                var mean = kind == NormKind.Layer ? x.AsSpan(at, columns).ToArray().Average() : 0;
                var square = 0.0;
                for (var i = 0; i < columns; i++) square += Math.Pow(x[at + i] - mean, 2) / columns;
                for (var i = 0; i < columns; i++) y[at + i] = (x[at + i] - mean) / Math.Sqrt(square + Epsilon) * (w[hasHeadScales ? (head * columns) + i : i] + (kind == NormKind.RootMeanSquarePlusOne ? 1 : 0));
            }
        }
        return y;
    }
}
