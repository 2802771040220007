using Lancet.Kernels;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Tests.Kernels;

public class CrossEntropyKernelTests
{
    /// <summary>Where the tests run; another device in derived classes.</summary>
    private protected virtual KernelLab NewLab(long seed = 1) => new(seed);

    [Theory]
    [InlineData(7, 1, 0)]
    [InlineData(130, 0.25, 0)]
    [InlineData(33, 1, 3)]
    [InlineData(33, 2, 1.5)]
    public void Loss_and_gradient_in_fp64(int vocabulary, double scale, double softCap)
    {
        const int rows = 4;
        using var lab = NewLab();
        var values = lab.Random(rows * vocabulary, 5);
        int[] labels = [0, -100, vocabulary - 1, 3];
        var labelTensor = lab.Of(labels);
        var logits = lab.Of(DType.Float64, new Shape(rows, vocabulary), values);
        var losses = lab.New(DType.Float64, new Shape(rows));
        var kernel = new CrossEntropyKernel(vocabulary, scale, softCap);
        kernel.Forward(lab.Device, logits, labelTensor, losses);
        KernelLab.AssertClose(Reference(values, labels, vocabulary, scale, softCap), KernelLab.Values(losses), 1e-12);
        var gradient = lab.Of(DType.Float64, logits.Shape, values);
        kernel.ForwardBackward(lab.Device, gradient, labelTensor, losses, lab.Of(DType.Float64, new Shape(1), [0.7]));
        KernelLab.CheckGradient(logits, KernelLab.Values(gradient), () =>
        {
            kernel.Forward(lab.Device, logits, labelTensor, losses);
            return 0.7 * KernelLab.Values(losses).Sum();
        });
    }

    [Fact]
    public void Vocabularies_past_65536_and_logits_that_overflow_a_naive_exponential()
    {
        const int vocabulary = 70001;
        using var lab = NewLab();
        var values = lab.Random(vocabulary, 300);
        var logits = lab.Of(DType.Float32, new Shape(1, vocabulary), values);
        var losses = lab.New(DType.Float32, new Shape(1));
        new CrossEntropyKernel(vocabulary, 1, 0).ForwardBackward(lab.Device, logits, lab.Of(70000), losses, lab.Of(DType.Float32, new Shape(1), [1]));
        var expected = Reference([.. values.Select(v => (double)(float)v)], [70000], vocabulary, 1, 0)[0];
        Assert.Equal(expected, KernelLab.Get(losses, 0), 1e-4);
        Assert.Equal(0, KernelLab.Values(logits).Sum(), 1e-4);
    }

    [Theory]
    [InlineData(DType.Float32, 40001, 1, 0)]
    [InlineData(DType.Float32, 32776, 0.5, 20)]
    [InlineData(DType.BFloat16, 65544, 1, 0)]
    [InlineData(DType.BFloat16, 33001, 1, 30)]
    [InlineData(DType.Float16, 49152, 1, 0)]
    [InlineData(DType.Float32, 90000, 1, 0)]
    [InlineData(DType.Float32, 90001, 1, 0)]
    [InlineData(DType.Float32, 131072, 0.5, 0)]
    [InlineData(DType.BFloat16, 200016, 1, 0)]
    [InlineData(DType.Float64, 32769, 2, 30)]
    public void Large_vocabularies(DType dtype, int vocabulary, double scale, double softCap)
    {
        int[] labels = [vocabulary - 1, -100, 3, vocabulary / 2, -100];
        using var lab = NewLab();
        var logits = lab.Random(dtype, new Shape(labels.Length, vocabulary), 9);
        var x = KernelLab.Values(logits);
        var (expectedLosses, expected) = (Reference(x, labels, vocabulary, scale, softCap), ReferenceGradient(x, labels, vocabulary, scale, softCap, 0.7));
        Tensor losses = lab.New(dtype.Accumulator(), new Shape(labels.Length)), again = lab.Of(dtype, logits.Shape, x), lossesAgain = lab.New(losses.DType, losses.Shape);
        var kernel = new CrossEntropyKernel(vocabulary, scale, softCap);
        var factor = lab.Of(dtype.Accumulator(), new Shape(1), [0.7]);
        kernel.ForwardBackward(lab.Device, logits, lab.Of(labels), losses, factor);
        kernel.ForwardBackward(lab.Device, again, lab.Of(labels), lossesAgain, factor);
        KernelLab.AssertClose(expectedLosses, KernelLab.Values(losses), dtype == DType.Float64 ? 1e-12 : 1e-6);
        var actual = KernelLab.Values(logits);
        // A rounding to the dtype (of fp16 also of numbers below its normal ones), and of the largest exponent's product in fp32.
        var tolerance = dtype switch { DType.Float64 => 1e-12, DType.Float32 => 1e-5, DType.BFloat16 => Math.Pow(2, -8), _ => Math.Pow(2, -10) };
        var least = dtype == DType.Float16 ? Math.Pow(2, -25) : 1e-30;
        for (var i = 0; i < actual.Length; i++) Assert.True(Math.Abs(expected[i] - actual[i]) <= tolerance * Math.Abs(expected[i]) + least, $"element {i}: expected {expected[i]}, got {actual[i]}");
        Assert.Equal(actual, KernelLab.Values(again));
        Assert.Equal(KernelLab.Values(losses), KernelLab.Values(lossesAgain));
    }

    private static double[] ReferenceGradient(double[] x, int[] labels, int vocabulary, double scale, double softCap, double factor)
    {
        var gradient = new double[x.Length];
        for (var row = 0; row < labels.Length; row++)
        {
            if (labels[row] < 0) continue;
            double[] z = [.. x.Skip(row * vocabulary).Take(vocabulary).Select(v => softCap > 0 ? softCap * Math.Tanh(v * scale / softCap) : v * scale)];
            var maximum = z.Max();
            var logSum = maximum + Math.Log(z.Sum(v => Math.Exp(v - maximum)));
            for (var i = 0; i < vocabulary; i++)
                gradient[(row * vocabulary) + i] = factor * scale * (Math.Exp(z[i] - logSum) - (i == labels[row] ? 1 : 0)) * (softCap > 0 ? 1 - (z[i] * z[i] / softCap / softCap) : 1);
        }
        return gradient;
    }

    private static double[] Reference(double[] x, int[] labels, int vocabulary, double scale, double softCap) => [.. labels.Select((label, row) =>
    {
        if (label < 0) return 0;
        double[] z = [.. x.Skip(row * vocabulary).Take(vocabulary).Select(v => softCap > 0 ? softCap * Math.Tanh(v * scale / softCap) : v * scale)];
        var maximum = z.Max();
        return Math.Log(z.Sum(v => Math.Exp(v - maximum))) + maximum - z[label];
    })];
}
