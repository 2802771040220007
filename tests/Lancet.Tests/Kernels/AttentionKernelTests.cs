using Lancet.Kernels;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Tests.Kernels;

public class AttentionKernelTests
{
    /// <summary>Where the tests run; another device in derived classes.</summary>
    private protected virtual KernelLab NewLab(long seed = 1) => new(seed);

    [Theory]
    [InlineData(1, 1, 16, 0, 0, new[] { 1 })]
    [InlineData(2, 1, 16, 0, 0, new[] { 5, 0, 3 })]
    [InlineData(3, 3, 24, 4, 0, new[] { 9, 2 })]
    [InlineData(4, 2, 16, 3, 2.5, new[] { 4, 7, 1 })]
    [InlineData(2, 2, 80, 0, 0, new[] { 3, 0, 2 })]
    [InlineData(2, 1, 128, 2, 3, new[] { 1, 4 })]
    [InlineData(1, 1, 256, 0, 0, new[] { 3 })]
    [InlineData(1, 1, 16, 5, 0, new[] { 71 })]
    [InlineData(9, 9, 16, 0, 0, new[] { 2 })]
    [InlineData(18, 9, 16, 0, 0, new[] { 3 })]
    public void Forward_and_gradients_in_fp64(int heads, int keyValueHeads, int dimension, int window, double softCap, int[] lengths)
    {
        using var lab = NewLab();
        var shape = new AttentionShape(heads, keyValueHeads, dimension, 0.4, softCap);
        var kernel = new AttentionKernel(shape);
        var tokens = lengths.Sum();
        var width = (heads + (2 * keyValueHeads)) * dimension;
        var qkv = lab.Random(DType.Float64, new Shape(tokens, width));
        var o = lab.New(DType.Float64, new Shape(tokens, heads * dimension));
        var logSum = lab.New(DType.Float64, new Shape(heads, tokens));
        var intervals = Intervals(lab, lengths, window);
        var (q, k, v) = Split(qkv, shape);
        void Run() => kernel.Forward(lab.Device, q, k, v, intervals, o, logSum);
        Run();
        KernelLab.AssertClose(Reference(KernelLab.Values(qkv), shape, lengths, window), KernelLab.Values(o), 1e-12);

        var dOut = lab.Random(DType.Float64, new Shape(tokens, heads * dimension));
        var gradient = lab.New(DType.Float64, new Shape(tokens, width));
        var (dq, dk, dv) = Split(gradient, shape);
        kernel.Backward(lab.Device, q, k, v, intervals, o, logSum, dOut, kernel.Workspace(lab.Device, DType.Float64, tokens, lab.New), dq, dk, dv);
        KernelLab.CheckGradient(qkv, KernelLab.Values(gradient), () =>
        {
            Run();
            return KernelLab.Weighted(o, dOut);
        });
    }

    [Theory]
    [InlineData(DType.Float32, 64, 0)]
    [InlineData(DType.BFloat16, 32, 40)]
    [InlineData(DType.BFloat16, 128, 0)]
    [InlineData(DType.BFloat16, 256, 0)]
    [InlineData(DType.Float32, 256, 0)]
    [InlineData(DType.Float32, 80, 50)]
    public void Several_blocks_and_error_at_most_that_of_the_plain_computation(DType dtype, int dimension, int window)
    {
        int[] lengths = [100, 1, 73];
        using var lab = NewLab(5);
        var shape = new AttentionShape(4, 2, dimension, 1 / Math.Sqrt(dimension), 0);
        var tokens = lengths.Sum();
        var qkv = lab.Random(dtype, new Shape(tokens, 8 * dimension), 2);
        var o = lab.New(dtype, new Shape(tokens, 4 * dimension));
        var (q, k, v) = Split(qkv, shape);
        var intervals = Intervals(lab, lengths, window);
        new AttentionKernel(shape).Forward(lab.Device, q, k, v, intervals, o, lab.New(DType.Float32, new Shape(4, tokens)));
        var values = KernelLab.Values(qkv);
        var exact = Reference(values, shape, lengths, window);
        Rounding.AssertNoWorse(exact, Plain(values, shape, lengths, window, dtype), KernelLab.Values(o));
    }

    [Fact]
    public void A_row_that_sees_nothing_gives_zeros_and_no_gradient()
    {
        using var lab = NewLab();
        var shape = new AttentionShape(1, 1, 16, 1, 0);
        var qkv = lab.Random(DType.Float32, new Shape(3, 48));
        var (q, k, v) = Split(qkv, shape);
        // Token 1 sees nothing and is seen by nobody.
        var intervals = new AttentionIntervals(lab.Of(0, 1, 2), lab.Of(1, 1, 3), lab.Of(0, 1, 2), lab.Of(1, 1, 3), lab.Of(0), lab.Of(0));
        var o = lab.Random(DType.Float32, new Shape(3, 16));
        var logSum = lab.New(DType.Float32, new Shape(1, 3));
        var kernel = new AttentionKernel(shape);
        kernel.Forward(lab.Device, q, k, v, intervals, o, logSum);
        Assert.All(KernelLab.Values(o)[16..32], value => Assert.Equal(0, value));
        var gradient = lab.Random(DType.Float32, new Shape(3, 48));
        var (dq, dk, dv) = Split(gradient, shape);
        kernel.Backward(lab.Device, q, k, v, intervals, o, logSum, lab.Random(DType.Float32, new Shape(3, 16)), kernel.Workspace(lab.Device, DType.Float32, 3, lab.New), dq, dk, dv);
        Assert.All(KernelLab.Values(gradient)[48..96], value => Assert.Equal(0, value));
        Assert.All(KernelLab.Values(gradient), value => Assert.True(double.IsFinite(value)));
    }

    [Fact]
    public void Decoding_token_by_token_equals_the_packed_form()
    {
        const int tokens = 150, window = 70;
        using var lab = NewLab(8);
        var shape = new AttentionShape(4, 2, 32, 0.2, 5);
        var qkv = lab.Random(DType.Float32, new Shape(tokens, 8 * 32), 2);
        var (q, k, v) = Split(qkv, shape);
        var o = lab.New(DType.Float32, new Shape(tokens, 128));
        new AttentionKernel(shape).Forward(lab.Device, q, k, v, Intervals(lab, [tokens], window), o, lab.New(DType.Float32, new Shape(4, tokens)));
        Tensor keys = lab.New(DType.Float32, new Shape(2 * tokens, 64)), values = lab.New(DType.Float32, new Shape(2 * tokens, 64));
        var decode = new DecodeAttentionKernel(shape, window);
        var one = lab.New(DType.Float32, new Shape(1, 128));
        var slot = lab.Of(tokens);
        for (var t = 0; t < tokens; t++)
        {
            var position = lab.Of(t);
            var row = qkv.Rows(t, 1);
            DecodeAttentionKernel.Append(lab.Device, ColumnSlice.Of(row, 128), keys, position, slot);
            DecodeAttentionKernel.Append(lab.Device, ColumnSlice.Of(row, 192), values, position, slot);
            decode.Forward(lab.Device, ColumnSlice.Of(row, 0), keys, values, position, slot, one);
            KernelLab.AssertClose(KernelLab.Values(o.Rows(t, 1)), KernelLab.Values(one), 2e-6);
        }
    }

    private static (ColumnSlice Q, ColumnSlice K, ColumnSlice V) Split(Tensor qkv, AttentionShape shape) => (
        ColumnSlice.Of(qkv, 0), ColumnSlice.Of(qkv, shape.QueryHeads * shape.HeadDimension), ColumnSlice.Of(qkv, (shape.QueryHeads + shape.KeyValueHeads) * shape.HeadDimension));

    /// <summary>Sequences of 256 and 384 share no queries, so their first blocks come first; a block that straddles two sequences joins their chains.</summary>
    [Theory]
    [InlineData(new[] { 256, 384 }, 0, new[] { 0, 2, 1, 3, 4 })]
    [InlineData(new[] { 200, 184, 128 }, 0, new[] { 0, 3, 1, 2 })]
    [InlineData(new[] { 640 }, 0, new[] { 0, 1, 2, 3, 4 })]
    [InlineData(new[] { 640 }, 32, new[] { 0, 1, 2, 3, 4 })]
    [InlineData(new[] { 5 }, 0, new[] { 0 })]
    public void Blocks_of_keys_are_ordered(int[] lengths, int window, int[] expected)
    {
        using var lab = NewLab();
        Assert.Equal(expected.Select(block => (double)block), KernelLab.Values(Intervals(lab, lengths, window).KeyOrder));
    }

    [Fact]
    public void Blocks_of_long_sequences_stay_as_they_are()
    {
        using var lab = NewLab();
        var order = KernelLab.Values(Intervals(lab, [256, 34 * AttentionIntervals.Block], 0).KeyOrder);
        Assert.Equal(Enumerable.Range(0, 36).Select(block => (double)block), order);
    }

    /// <summary>Those that see the most keys first, of equals the last; under a window all blocks but a sequence's first see as many.</summary>
    [Theory]
    [InlineData(new[] { 256, 384 }, 0, new[] { 4, 3, 1, 2, 0 })]
    [InlineData(new[] { 640 }, 0, new[] { 4, 3, 2, 1, 0 })]
    [InlineData(new[] { 640 }, 32, new[] { 4, 3, 2, 1, 0 })]
    [InlineData(new[] { 300, 100 }, 0, new[] { 2, 1, 0, 3 })]
    [InlineData(new[] { 5 }, 0, new[] { 0 })]
    public void Blocks_of_queries_are_ordered(int[] lengths, int window, int[] expected)
    {
        using var lab = NewLab();
        Assert.Equal(expected.Select(block => (double)block), KernelLab.Values(Intervals(lab, lengths, window).QueryOrder));
    }

    private static AttentionIntervals Intervals(KernelLab lab, int[] lengths, int window)
    {
        var offsets = new int[lengths.Length + 1];
        for (var i = 0; i < lengths.Length; i++) offsets[i + 1] = offsets[i] + lengths[i];
        return AttentionIntervals.Of(offsets, window, values => lab.Of(values));
    }

    private static double[] Reference(double[] qkv, AttentionShape shape, int[] lengths, int window) => Compute(qkv, shape, lengths, window, value => value, value => value);

    /// <summary>As PyTorch's plain attention computes it: every tensor that it writes is rounded to the dtype, except the softmax, which is fp32 inside.</summary>
    private static double[] Plain(double[] qkv, AttentionShape shape, int[] lengths, int window, DType dtype) =>
        Compute(qkv, shape, lengths, window, value => Rounding.To(dtype, (float)value), value => (float)value);

    private static double[] Compute(double[] qkv, AttentionShape shape, int[] lengths, int window, Func<double, double> store, Func<double, double> inner)
    {
        var d = shape.HeadDimension;
        var width = (shape.QueryHeads + (2 * shape.KeyValueHeads)) * d;
        var o = new double[lengths.Sum() * shape.QueryHeads * d];
        var start = 0;
        foreach (var length in lengths)
        {
            for (var head = 0; head < shape.QueryHeads; head++)
            {
                int kv = head / shape.Group, keyAt = (shape.QueryHeads + kv) * d, valueAt = (shape.QueryHeads + shape.KeyValueHeads + kv) * d;
                for (var i = 0; i < length; i++)
                {
                    var first = window > 0 ? Math.Max(0, i - window + 1) : 0;
                    var p = new double[i + 1];
                    for (var j = first; j <= i; j++)
                    {
                        var dot = 0.0;
                        for (var x = 0; x < d; x++) dot = inner(dot + (qkv[((start + i) * width) + (head * d) + x] * qkv[((start + j) * width) + keyAt + x]));
                        var s = store(store(dot) * shape.Scale);
                        p[j] = shape.SoftCap > 0 ? shape.SoftCap * Math.Tanh(s / shape.SoftCap) : s;
                    }
                    var maximum = p[first..].Max();
                    var sum = 0.0;
                    for (var j = first; j <= i; j++)
                    {
                        p[j] = inner(Math.Exp(p[j] - maximum));
                        sum = inner(sum + p[j]);
                    }
                    for (var x = 0; x < d; x++)
                    {
                        var value = 0.0;
                        for (var j = first; j <= i; j++) value = inner(value + (store(p[j] / sum) * qkv[((start + j) * width) + valueAt + x]));
                        o[((start + i) * shape.QueryHeads * d) + (head * d) + x] = store(value);
                    }
                }
            }
            start += length;
        }
        return o;
    }
}
