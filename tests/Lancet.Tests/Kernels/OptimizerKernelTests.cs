using Lancet.Kernels;
using Lancet.Quantization;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Tests.Kernels;

/// <summary>AdamW in both state formats, the gradient norm, column sums and NF4.</summary>
public class OptimizerKernelTests
{
    /// <summary>Where the tests run; another device in derived classes.</summary>
    private protected virtual KernelLab NewLab(long seed = 1) => new(seed);

    private static readonly AdamWConstants Constants = new(0.9, 0.999, 1e-8, 0.1);

    [Fact]
    public void AdamW_in_fp64_equals_the_formula()
    {
        const int count = 1500, boundary = 1100;
        using var lab = NewLab();
        double[] p = lab.Random(count), m = new double[count], v = new double[count];
        var parameters = lab.Of(DType.Float64, new Shape(count), p);
        Tensor first = lab.New(DType.Float64, new Shape(count)), second = lab.New(DType.Float64, new Shape(count));
        var kernel = new AdamWKernel(Constants);
        for (var step = 1; step <= 3; step++)
        {
            var g = lab.Random(count);
            var factors = new double[AdamWKernel.StepFactorCount];
            kernel.StepFactors(0.01 * step, step, factors);
            kernel.Update(
                lab.Device, parameters, lab.Of(DType.Float64, new Shape(count), g), first, second, lab.Of(DType.Float64, new Shape(3), factors), lab.Of(DType.Float64, new Shape(1), [0.5]), boundary);
            for (var i = 0; i < count; i++)
            {
                var gradient = 0.5 * g[i];
                if (i < boundary) p[i] *= 1 - (0.01 * step * 0.1);
                m[i] = (0.9 * m[i]) + (0.1 * gradient);
                v[i] = (0.999 * v[i]) + (0.001 * gradient * gradient);
                p[i] -= 0.01 * step * (m[i] / (1 - Math.Pow(0.9, step))) / (Math.Sqrt(v[i] / (1 - Math.Pow(0.999, step))) + 1e-8);
            }
        }
        KernelLab.AssertClose(p, KernelLab.Values(parameters), 1e-12);
    }

    [Fact]
    public void Eight_bit_state_stays_within_its_quantisation_error()
    {
        const int count = 5 * AdamWKernel.StateBlock;
        using var lab = NewLab();
        var g = lab.Of(DType.Float32, new Shape(count), lab.Random(count));
        var start = lab.Random(count);
        Tensor exact = lab.Of(DType.Float32, new Shape(count), start), quantized = lab.Of(DType.Float32, new Shape(count), start);
        Tensor m = lab.New(DType.Float32, new Shape(count)), v = lab.New(DType.Float32, new Shape(count));
        Tensor m8 = lab.New(DType.UInt8, new Shape(count)), v8 = lab.New(DType.UInt8, new Shape(count)), ms = lab.New(DType.Float32, new Shape(5)), vs = lab.New(DType.Float32, new Shape(5));
        var kernel = new AdamWKernel(Constants);
        var clip = lab.Of(DType.Float32, new Shape(1), [1]);
        var factors = new double[3];
        for (var step = 1; step <= 2; step++)
        {
            kernel.StepFactors(0.01, step, factors);
            var f = lab.Of(DType.Float32, new Shape(3), factors);
            kernel.Update(lab.Device, exact, g, m, v, f, clip, 0);
            kernel.UpdateEightBit(lab.Device, quantized, g, m8, v8, ms, vs, f, clip, 0);
            // The state of the first step is exact, so the first update is; what is stored of it is off by half a step of the code.
            if (step == 1) Assert.Equal(KernelLab.Values(exact), KernelLab.Values(quantized));
        }
        double[] a = KernelLab.Values(exact), b = KernelLab.Values(quantized);
        var moved = a.Zip(start).Sum(pair => Math.Abs(pair.First - pair.Second));
        Assert.True(a.Zip(b).Sum(pair => Math.Abs(pair.First - pair.Second)) < 0.05 * moved);
        for (var block = 0; block < 5; block++) Assert.Contains(KernelLab.Values(m8).Skip(block * 256).Take(256), code => code is 255 or < 2);
    }

    [Fact]
    public void Dynamic_tables_are_the_published_ones()
    {
        Assert.Equal(256, DynamicCode.Signed.Length);
        Assert.Equal(256, DynamicCode.Unsigned.Length);
        Assert.Equal(-0.99297, DynamicCode.Signed[0], 1e-5);
        Assert.Equal(1, DynamicCode.Signed[255]);
        Assert.Equal(0, DynamicCode.Unsigned[0]);
        Assert.Equal(3.25e-7, DynamicCode.Unsigned[1], 1e-9);
        Assert.Equal(0.99648, DynamicCode.Unsigned[254], 1e-5);
    }

    /// <summary>Everywhere near a midpoint, a value or a decade's end, and between.</summary>
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Dynamic_codes_are_numbers_of_midpoints_below(bool isSigned)
    {
        var table = isSigned ? DynamicCode.Signed : DynamicCode.Unsigned;
        var midpoints = DynamicCode.Midpoints(table);
        var random = new Random(4);
        List<float> near = [0, 1e-30f, .. table, .. midpoints[..^1], .. Enumerable.Range(0, DynamicCode.Decades).Select(decade => (float)DynamicCode.Scale(decade))];
        float[] values =
        [
            .. near.SelectMany(x => (float[])[x, MathF.BitIncrement(x), MathF.BitDecrement(x), -x, MathF.BitIncrement(-x)]),
            .. Enumerable.Range(0, 4096).Select(_ => (float)((2 * random.NextDouble()) - 1)),
            .. Enumerable.Range(0, 4096).Select(_ => (float)(Math.Pow(10, -8 * random.NextDouble()) * (random.Next(2) == 0 ? 1 : -1))),
        ];
        if (!isSigned) values = [.. values.Where(x => x >= 0)];
        var kernel = Kernel.Trace("encode", k =>
        {
            var (x, codes, count) = (k.Pointer(DType.Float32, "x"), k.Pointer(DType.UInt8, "codes"), k.Scalar(DType.Int32, "count"));
            var index = k.ProgramId(0) * 256 + k.Range(256);
            k.Store(codes + index, QuantizationTiles.Encode(k, isSigned, k.Load(x + index, index < count)), index < count);
        });
        using var lab = NewLab();
        Tensor x = lab.Of(DType.Float32, new Shape(values.Length), Array.ConvertAll(values, value => (double)value)), codes = lab.New(DType.UInt8, x.Shape);
        lab.Device.Launch(kernel, new Grid((values.Length + 255) / 256), [x, codes, values.Length]);
        var actual = KernelLab.Values(codes);
        for (var i = 0; i < values.Length; i++) Assert.True(midpoints.Count(midpoint => midpoint < values[i]) == actual[i], $"{values[i]:R} is {actual[i]}");
    }

    [Theory]
    [InlineData(1, 0)]
    [InlineData(5000, 1)]
    [InlineData(300000, 1000)]
    public void Gradient_norm_and_clip_coefficient(int count, double limit)
    {
        using var lab = NewLab();
        var values = lab.Random(count);
        var g = lab.Of(DType.Float64, new Shape(count), values);
        Tensor norm = lab.New(DType.Float64, new Shape(1)), coefficient = lab.New(DType.Float64, new Shape(1));
        GradientNormKernel.Compute(lab.Device, g, limit, lab.New(DType.Float64, new Shape(GradientNormKernel.MaxShares)), norm, coefficient);
        var expected = Math.Sqrt(values.Sum(value => value * value));
        Assert.Equal(expected, KernelLab.Get(norm, 0), 1e-9);
        Assert.Equal(limit == 0 ? 1 : Math.Min(1, limit / (expected + 1e-6)), KernelLab.Get(coefficient, 0), 1e-12);
    }

    [Theory]
    [InlineData(1, 3)]
    [InlineData(200, 300)]
    public void Column_sums_and_plain_passes(int rows, int columns)
    {
        using var lab = NewLab();
        var x = lab.Random(DType.Float64, new Shape(rows, columns));
        var gradient = lab.Of(DType.Float64, new Shape(columns), Enumerable.Repeat(2.0, columns).ToArray());
        ColumnSumKernel.Add(lab.Device, rows, x, lab.New(DType.Float64, ColumnSumKernel.PartialShape(rows, columns)), gradient);
        var values = KernelLab.Values(x);
        KernelLab.AssertClose([.. Enumerable.Range(0, columns).Select(c => 2 + Enumerable.Range(0, rows).Sum(r => values[(r * columns) + c]))], KernelLab.Values(gradient), 1e-12);
        var total = lab.Of(DType.Float64, new Shape(1), [1]);
        ElementwiseKernel.AddSum(lab.Device, x, total);
        Assert.Equal(1 + values.Sum(), KernelLab.Get(total, 0), 1e-9);
        var narrow = lab.New(DType.BFloat16, x.Shape);
        ElementwiseKernel.Convert(lab.Device, x, narrow);
        KernelLab.AssertClose([.. values.Select(v => (double)(float)(BFloat16)(float)v)], KernelLab.Values(narrow), 0);
        ElementwiseKernel.AddTo(lab.Device, narrow, x);
        KernelLab.AssertClose([.. values.Select(v => v + (double)(float)(BFloat16)(float)v)], KernelLab.Values(x), 1e-15);
    }

    [Theory]
    [InlineData(1, 64)]
    [InlineData(37, 130)]
    [InlineData(200, 128)]
    public void Nf4_quantises_to_the_nearest_codes_and_back(int rows, int columns)
    {
        using var lab = NewLab();
        var dense = lab.Random(DType.Float32, new Shape(rows, columns), 0.1);
        var (codes, scales, nested) = Nf4Kernel.Sizes(dense.Count);
        var weight = new Nf4Weight(
            rows, columns, lab.New(DType.UInt8, new Shape(codes)), lab.New(DType.UInt8, new Shape(scales)), lab.New(DType.Float32, new Shape(nested)),
            lab.Of(DType.Float32, new Shape(256), [.. DynamicCode.Signed.Select(v => (double)v)]), lab.New(DType.Float32, new Shape(1)));
        var absMax = lab.New(DType.Float32, new Shape(scales));
        Nf4Kernel.Quantize(lab.Device, dense, weight, absMax);
        var back = lab.New(DType.Float32, dense.Shape);
        Nf4Kernel.Dequantize(lab.Device, weight, back);
        double[] values = KernelLab.Values(dense), result = KernelLab.Values(back), packed = KernelLab.Values(weight.Codes), scaleCodes = KernelLab.Values(weight.AbsMaxCodes);
        double[] blockMaxima = [.. Enumerable.Range(0, (int)scales).Select(b => values.Skip(b * 64).Take(64).Max(Math.Abs))];
        var offset = blockMaxima.Average();
        for (var b = 0; b < scales; b++)
        {
            var nestedMax = blockMaxima.Skip(b / 256 * 256).Take(256).Max(a => Math.Abs(a - offset));
            var scaled = nestedMax == 0 ? 0 : (blockMaxima[b] - offset) / nestedMax;
            var distance = DynamicCode.Signed.Min(entry => Math.Abs(entry - scaled));
            Assert.Equal(distance, Math.Abs(DynamicCode.Signed[(int)scaleCodes[b]] - scaled), 1e-5);
            var scale = (DynamicCode.Signed[(int)scaleCodes[b]] * nestedMax) + offset;
            for (var i = b * 64; i < Math.Min(values.Length, (b + 1) * 64); i++)
            {
                var code = i % 2 == 0 ? (int)packed[i / 2] >> 4 : (int)packed[i / 2] & 15;
                var nearest = Nf4Code.Table.ToArray().Min(entry => Math.Abs(entry - (values[i] / blockMaxima[b])));
                Assert.Equal(nearest, Math.Abs(Nf4Code.Table[code] - (values[i] / blockMaxima[b])), 1e-6);
                Assert.Equal(Nf4Code.Table[code] * scale, result[i], 1e-6);
            }
        }
    }
}
