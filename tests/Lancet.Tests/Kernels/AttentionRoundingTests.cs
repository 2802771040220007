using Lancet.Kernels;
using Lancet.Tensors;
using Lancet.Tests.Devices;
using Lancet.Tile;
using Lancet.Tile.Ptx;

namespace Lancet.Tests.Kernels;

/// <summary>Attention's gradients for every head dimension in use: error at most that of PyTorch's plain attention in the same dtype.</summary>
public class AttentionRoundingTests
{
    [Theory]
    [InlineData(DType.BFloat16, 16)]
    [InlineData(DType.BFloat16, 64)]
    [InlineData(DType.BFloat16, 96)]
    [InlineData(DType.BFloat16, 128)]
    [InlineData(DType.BFloat16, 256)]
    [InlineData(DType.Float32, 64)]
    public void Gradients(DType dtype, int dimension)
    {
        using var lab = new KernelLab(7);
        Check(lab, dtype, dimension, [70, 1, 30]);
    }

    /// <summary>One kernel for all gradients: blocks of queries that several programs add to, that straddle sequences, and that one program finishes alone.</summary>
    [Theory]
    [InlineData(64, new[] { 70, 1, 190 })]
    [InlineData(128, new[] { 260, 100, 24 })]
    [InlineData(96, new[] { 129, 3 })]
    [InlineData(256, new[] { 150, 3 })]
    public void Gradients_on_Hopper(int dimension, int[] lengths)
    {
        using var lab = new KernelLab(7, new SimulatorDevice(PtxTarget.Sm90));
        Check(lab, DType.BFloat16, dimension, lengths);
    }

    private static void Check(KernelLab lab, DType dtype, int dimension, int[] lengths)
    {
        const int heads = 2;
        var shape = new AttentionShape(heads, 1, dimension, 1 / Math.Sqrt(dimension), 0);
        var tokens = lengths.Sum();
        var width = (heads + 2) * dimension;
        Tensor qkv = lab.Random(dtype, new Shape(tokens, width), 2), dOut = lab.Random(dtype, new Shape(tokens, heads * dimension)), gradient = lab.New(dtype, qkv.Shape), o = lab.New(dtype, dOut.Shape);
        var logSum = lab.New(DType.Float32, new Shape(heads, tokens));
        ColumnSlice Part(Tensor tensor, int head) => ColumnSlice.Of(tensor, head * dimension);
        int[] offsets = [0, .. lengths.Select((_, i) => lengths[..(i + 1)].Sum())];
        var intervals = AttentionIntervals.Of(offsets, 0, values => lab.Of(values));
        var kernel = new AttentionKernel(shape);
        kernel.Forward(lab.Device, Part(qkv, 0), Part(qkv, heads), Part(qkv, heads + 1), intervals, o, logSum);
        kernel.Backward(lab.Device, Part(qkv, 0), Part(qkv, heads), Part(qkv, heads + 1), intervals, o, logSum, dOut, kernel.Workspace(lab.Device, dtype, tokens, lab.New), Part(gradient, 0), Part(gradient, heads), Part(gradient, heads + 1));

        double[] x = KernelLab.Values(qkv), d = KernelLab.Values(dOut);
        var exact = Compute(x, d, shape, lengths, value => value, value => value);
        var plain = Compute(x, d, shape, lengths, value => Rounding.To(dtype, (float)value), value => (float)value);
        Rounding.AssertNoWorse(exact, plain, KernelLab.Values(gradient));
    }

    /// <summary>dq, dk and dv; <paramref name="store"/> rounds every tensor that plain attention writes, <paramref name="inner"/> its sums.</summary>
    private static double[] Compute(double[] x, double[] dOut, AttentionShape shape, int[] lengths, Func<double, double> store, Func<double, double> inner)
    {
        int d = shape.HeadDimension, heads = shape.QueryHeads, width = (heads + 2) * d, start = 0;
        var result = new double[x.Length];
        foreach (var length in lengths)
        {
            for (var head = 0; head < heads; head++)
            {
                double Q(int t, int i) => x[((start + t) * width) + (head * d) + i];
                double K(int t, int i) => x[((start + t) * width) + (heads * d) + i];
                double V(int t, int i) => x[((start + t) * width) + ((heads + 1) * d) + i];
                double D(int t, int i) => dOut[((start + t) * heads * d) + (head * d) + i];
                var (p, ds) = (new double[length, length], new double[length, length]);
                for (var i = 0; i < length; i++)
                {
                    double[] s = [.. Enumerable.Range(0, i + 1).Select(j => store(store(Sum(inner, d, n => Q(i, n) * K(j, n))) * shape.Scale))];
                    var maximum = s.Max();
                    var sum = Sum(inner, s.Length, j => inner(Math.Exp(s[j] - maximum)));
                    double[] dp = [.. Enumerable.Range(0, i + 1).Select(j => store(Sum(inner, d, n => D(i, n) * V(j, n))))];
                    for (var j = 0; j <= i; j++) p[i, j] = store(Math.Exp(s[j] - maximum) / sum);
                    var row = Sum(inner, i + 1, j => p[i, j] * dp[j]);
                    for (var j = 0; j <= i; j++) ds[i, j] = store(store(p[i, j] * (dp[j] - row)) * shape.Scale);
                }
                for (var t = 0; t < length; t++)
                {
                    for (var n = 0; n < d; n++)
                    {
                        result[((start + t) * width) + (head * d) + n] = store(Sum(inner, t + 1, j => ds[t, j] * K(j, n)));
                        // Two query heads share a key; their gradients are added in the dtype.
                        ref var dk = ref result[((start + t) * width) + (heads * d) + n];
                        dk = store(dk + store(Sum(inner, length, i => i < t ? 0 : ds[i, t] * Q(i, n))));
                        ref var dv = ref result[((start + t) * width) + ((heads + 1) * d) + n];
                        dv = store(dv + store(Sum(inner, length, i => i < t ? 0 : p[i, t] * D(i, n))));
                    }
                }
            }
            start += length;
        }
        return result;
    }

    private static double Sum(Func<double, double> inner, int count, Func<int, double> term)
    {
        var sum = 0.0;
        for (var i = 0; i < count; i++) sum = inner(sum + inner(term(i)));
        return sum;
    }
}
