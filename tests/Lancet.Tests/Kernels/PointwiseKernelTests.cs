using Lancet.Kernels;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Tests.Kernels;

/// <summary>Rotary embedding, gated activations, token embedding and dropout.</summary>
public class PointwiseKernelTests
{
    /// <summary>Where the tests run; another device in derived classes.</summary>
    private protected virtual KernelLab NewLab(long seed = 1) => new(seed);

    [Theory]
    [InlineData(1, 3, 16, 16, false)]
    [InlineData(5, 7, 24, 24, false)]
    [InlineData(4, 2, 32, 8, false)]
    [InlineData(1, 3, 16, 16, true)]
    [InlineData(5, 9, 24, 24, true)]
    [InlineData(4, 2, 32, 12, true)]
    public void Rotary_rotates_pairs_and_its_backward_is_its_transpose(int rows, int heads, int dimension, int rotary, bool isInterleaved)
    {
        using var lab = NewLab();
        var half = rotary / 2;
        int[] positions = [.. Enumerable.Range(0, rows).Select(i => (i * 3) % 5)];
        var angles = lab.Random(5 * half, 4);
        var cos = lab.Of(DType.Float32, new Shape(5, half), [.. angles.Select(Math.Cos)]);
        var sin = lab.Of(DType.Float32, new Shape(5, half), [.. angles.Select(Math.Sin)]);
        var original = lab.Random((long)rows * heads * dimension);
        var x = lab.Of(DType.Float64, new Shape(rows, heads * dimension), original);
        var kernel = new RotaryKernel(heads, dimension, rotary, isInterleaved);
        var positionTensor = lab.Of(positions);
        kernel.Apply(lab.Device, rows, x, positionTensor, cos, sin, false);
        var expected = (double[])original.Clone();
        for (var row = 0; row < rows; row++)
        {
            for (var head = 0; head < heads; head++)
            {
                for (var i = 0; i < half; i++)
                {
                    var a = (((row * heads) + head) * dimension) + (isInterleaved ? 2 * i : i);
                    var b = a + (isInterleaved ? 1 : half);
                    double c = KernelLab.Get(cos, (positions[row] * half) + i), s = KernelLab.Get(sin, (positions[row] * half) + i);
                    (expected[a], expected[b]) = ((original[a] * c) - (original[b] * s), (original[b] * c) + (original[a] * s));
                }
            }
        }
        KernelLab.AssertClose(expected, KernelLab.Values(x), 1e-14);
        // <R x, y> = <x, Rᵀ y>
        var other = lab.Random(original.Length);
        var y = lab.Of(DType.Float64, x.Shape, other);
        kernel.Apply(lab.Device, rows, y, positionTensor, cos, sin, true);
        Assert.Equal(expected.Zip(other).Sum(p => p.First * p.Second), original.Zip(KernelLab.Values(y)).Sum(p => p.First * p.Second), 1e-10);
    }

    [Theory]
    [InlineData(GatedActivation.Silu)]
    [InlineData(GatedActivation.GeluTanh)]
    [InlineData(GatedActivation.Gelu)]
    public void Gated_activation_and_its_gradient_in_fp64(GatedActivation activation)
    {
        const int rows = 3, width = 41;
        using var lab = NewLab();
        var gateUp = lab.Random(DType.Float64, new Shape(rows, 2 * width), 4);
        var h = lab.New(DType.Float64, new Shape(rows, width));
        var kernel = new GatedActivationKernel(activation, width);
        kernel.Forward(lab.Device, rows, gateUp, h);
        var input = KernelLab.Values(gateUp);
        var expected = new double[rows * width];
        for (var i = 0; i < expected.Length; i++)
        {
            double e = input[(i / width * 2 * width) + (i % width)], g = input[(i / width * 2 * width) + width + (i % width)];
            expected[i] = g * activation switch
            {
                GatedActivation.Silu => e / (1 + Math.Exp(-e)),
                GatedActivation.GeluTanh => 0.5 * e * (1 + Math.Tanh(Math.Sqrt(2 / Math.PI) * (e + (0.044715 * e * e * e)))),
                _ => 0.5 * e * (1 + ErrorFunction(e / Math.Sqrt(2))),
            };
        }
        KernelLab.AssertClose(expected, KernelLab.Values(h), 1e-12);

        var dh = lab.Random(DType.Float64, new Shape(rows, width));
        var gradient = lab.Of(DType.Float64, gateUp.Shape, input);
        var overwritten = lab.Of(DType.Float64, dh.Shape, KernelLab.Values(dh));
        kernel.Backward(lab.Device, rows, gradient, overwritten);
        KernelLab.AssertClose(expected, KernelLab.Values(overwritten), 1e-12);
        KernelLab.CheckGradient(gateUp, KernelLab.Values(gradient), () =>
        {
            kernel.Forward(lab.Device, rows, gateUp, h);
            return KernelLab.Weighted(h, dh);
        });
    }

    [Fact]
    public void Embedding_gathers_and_its_gradient_sums_in_order()
    {
        int[] ids = [4, 0, 4, 2, 4, 0];
        using var lab = NewLab();
        var table = lab.Random(DType.Float64, new Shape(5, 9));
        var y = lab.New(DType.Float64, new Shape(ids.Length, 9));
        var tokens = lab.Of(ids);
        EmbeddingKernel.Forward(lab.Device, tokens, table, y, 3);
        for (var t = 0; t < ids.Length; t++) KernelLab.AssertClose([.. KernelLab.Values(table.Rows(ids[t], 1)).Select(v => 3 * v)], KernelLab.Values(y.Rows(t, 1)), 1e-15);
        int[] order = new int[ids.Length], ends = new int[ids.Length];
        EmbeddingKernel.SortTokens(ids, new long[ids.Length], order, ends);
        Assert.Equal([1, 5, 3, 0, 2, 4], order);
        Assert.Equal([2, 0, 3, 6, 0, 0], ends);
        var dy = lab.Random(DType.Float64, y.Shape);
        var gradient = lab.New(DType.Float64, table.Shape);
        EmbeddingKernel.Backward(lab.Device, tokens, lab.Of(order), lab.Of(ends), dy, gradient, 3);
        KernelLab.CheckGradient(table, KernelLab.Values(gradient), () =>
        {
            EmbeddingKernel.Forward(lab.Device, tokens, table, y, 3);
            return KernelLab.Weighted(y, dy);
        });
    }

    [Fact]
    public void Dropout_keeps_the_mean_and_repeats_its_mask()
    {
        using var lab = NewLab();
        var x = lab.Of(DType.Float32, new Shape(20000), Enumerable.Repeat(1.0, 20000).ToArray());
        Tensor y = lab.New(DType.Float32, x.Shape), again = lab.New(DType.Float32, x.Shape), elsewhere = lab.New(DType.Float32, x.Shape);
        var seed = lab.New(DType.Int64, new Shape(1));
        seed.HostSpan<long>()[0] = 77;
        var kernel = new DropoutKernel(0.25);
        kernel.Apply(lab.Device, x, y, new(seed, 3, 0));
        kernel.Apply(lab.Device, x, again, new(seed, 3, 0));
        kernel.Apply(lab.Device, x, elsewhere, new(seed, 4, 0));
        Assert.Equal(KernelLab.Values(y), KernelLab.Values(again));
        Assert.NotEqual(KernelLab.Values(y), KernelLab.Values(elsewhere));
        var kept = KernelLab.Values(y).Count(value => value != 0);
        // 20000 draws of probability 0.75: standard deviation 61.
        Assert.InRange(kept, 15000 - 300, 15000 + 300);
        Assert.All(KernelLab.Values(y), value => Assert.True(value is 0 or (float)(1 / 0.75)));
    }

    [Fact]
    public void Dropout_added_is_what_dropout_gives_and_the_sum()
    {
        using var lab = NewLab();
        Tensor x = lab.Random(DType.Float32, new Shape(5000)), y = lab.Random(DType.Float32, x.Shape), dropped = lab.New(DType.Float32, x.Shape);
        var seed = lab.New(DType.Int64, new Shape(1));
        seed.HostSpan<long>()[0] = 78;
        var kernel = new DropoutKernel(0.3);
        kernel.Apply(lab.Device, x, dropped, new(seed, 5, 0));
        var expected = KernelLab.Values(y).Zip(KernelLab.Values(dropped), (before, added) => (double)((float)before + (float)added)).ToArray();
        kernel.AddTo(lab.Device, x, y, new(seed, 5, 0));
        Assert.Equal(expected, KernelLab.Values(y));
    }

    /// <summary>erf by its Taylor series, exact to 1e-14 for the arguments here.</summary>
    private static double ErrorFunction(double x)
    {
        double term = x, sum = x;
        for (var n = 1; n < 120; n++)
        {
            term *= -x * x / n;
            sum += term / ((2 * n) + 1);
        }
        return 2 / Math.Sqrt(Math.PI) * sum;
    }
}
