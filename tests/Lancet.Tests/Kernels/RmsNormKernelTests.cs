using Lancet.Kernels;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Tests.Kernels;

public class RmsNormKernelTests
{
    /// <summary>Where the tests run; another device in derived classes.</summary>
    private protected virtual KernelLab NewLab(long seed = 1) => new(seed);

    private const double Epsilon = 1e-3;

    [Theory]
    [InlineData(1, 1, 7, false, 0)]
    [InlineData(5, 1, 123, true, 0)]
    [InlineData(3, 4, 16, false, 8)]
    [InlineData(70, 1, 5, false, 0)]
    public void Forward_and_gradients_in_fp64(int rows, int heads, int columns, bool plusOne, int padding)
    {
        using var lab = NewLab();
        var stride = (heads * columns) + padding;
        var x = lab.Random(DType.Float64, new Shape(rows, stride));
        var w = lab.Random(DType.Float64, new Shape(columns));
        var y = lab.New(DType.Float64, new Shape(rows, stride));
        var rstd = lab.New(DType.Float64, new Shape(rows * heads));
        var kernel = new RmsNormKernel(columns, heads, Epsilon, plusOne);
        void Run() => kernel.Forward(lab.Device, rows, x, w, y, rstd);
        Run();
        KernelLab.AssertClose(Reference(KernelLab.Values(x), KernelLab.Values(w), rows, heads, columns, stride, plusOne), KernelLab.Values(y), 1e-12);

        var dy = lab.New(DType.Float64, new Shape(rows, stride));
        var random = lab.Random(dy.Count);
        for (var i = 0; i < dy.Count; i++) KernelLab.Set(dy, i, i % stride < heads * columns ? random[i] : 0);
        var dx = lab.New(DType.Float64, new Shape(rows, stride));
        kernel.Backward(lab.Device, rows, dy, x, w, rstd, dx, false);
        var gradient = KernelLab.Values(dx);
        var dw = lab.New(DType.Float64, new Shape(columns));
        kernel.BackwardWeight(lab.Device, rows, dy, x, rstd, lab.New(DType.Float64, kernel.PartialShape(rows)), dw);
        double Loss()
        {
            Run();
            return KernelLab.Weighted(y, dy);
        }
        KernelLab.CheckGradient(x, gradient, Loss);
        KernelLab.CheckGradient(w, KernelLab.Values(dw), Loss);

        Run();
        kernel.Backward(lab.Device, rows, dy, x, w, rstd, dx, true);
        KernelLab.AssertClose([.. gradient.Select(value => 2 * value)], KernelLab.Values(dx), 1e-12);
        kernel.Backward(lab.Device, rows, dy, x, w, rstd, dy, false);
        for (var i = 0; i < dy.Count; i++) if (i % stride < heads * columns) Assert.Equal(gradient[i], KernelLab.Get(dy, i), 1e-12);
    }

    [Theory]
    [InlineData(DType.Float32)]
    [InlineData(DType.BFloat16)]
    public void Error_is_at_most_that_of_the_plain_computation(DType dtype)
    {
        const int rows = 9, columns = 200;
        using var lab = NewLab(3);
        var x = lab.Random(dtype, new Shape(rows, columns), 3);
        var w = lab.Random(DType.Float32, new Shape(columns));
        for (var i = 0; i < columns; i++) KernelLab.Set(w, i, (float)(BFloat16)(float)KernelLab.Get(w, i));
        var y = lab.New(dtype, new Shape(rows, columns));
        new RmsNormKernel(columns, 1, Epsilon, false).Forward(lab.Device, rows, x, w, y, lab.New(DType.Float32, new Shape(rows)));
        double[] xs = KernelLab.Values(x), ws = KernelLab.Values(w);
        var exact = Reference(xs, ws, rows, 1, columns, columns, false);
        // As transformers computes it: statistics in fp32, rounding to the dtype before the scale and after it.
        var plain = new double[exact.Length];
        for (var row = 0; row < rows; row++)
        {
            var sum = 0f;
            for (var i = 0; i < columns; i++) sum += (float)xs[(row * columns) + i] * (float)xs[(row * columns) + i];
            var r = 1 / MathF.Sqrt((sum / columns) + (float)Epsilon);
            for (var i = 0; i < columns; i++) plain[(row * columns) + i] = Rounding.To(dtype, Rounding.To(dtype, (float)xs[(row * columns) + i] * r) * (float)ws[i]);
        }
        Rounding.AssertNoWorse(exact, plain, KernelLab.Values(y));
    }

    private static double[] Reference(double[] x, double[] w, int rows, int heads, int columns, int stride, bool plusOne)
    {
        var y = new double[rows * stride];
        for (var row = 0; row < rows; row++)
        {
            for (var head = 0; head < heads; head++)
            {
                var at = (row * stride) + (head * columns);
                var mean = 0.0;
                for (var i = 0; i < columns; i++) mean += x[at + i] * x[at + i] / columns;
                for (var i = 0; i < columns; i++) y[at + i] = x[at + i] / Math.Sqrt(mean + Epsilon) * (plusOne ? 1 + w[i] : w[i]);
            }
        }
        return y;
    }
}
