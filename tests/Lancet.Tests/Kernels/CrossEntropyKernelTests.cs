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

    private static double[] Reference(double[] x, int[] labels, int vocabulary, double scale, double softCap) => [.. labels.Select((label, row) =>
    {
        if (label < 0) return 0;
        double[] z = [.. x.Skip(row * vocabulary).Take(vocabulary).Select(v => softCap > 0 ? softCap * Math.Tanh(v * scale / softCap) : v * scale)];
        var maximum = z.Max();
        return Math.Log(z.Sum(v => Math.Exp(v - maximum))) + maximum - z[label];
    })];
}
