using Lancet.Tile.IR;
using Lancet.Tile.Lowering.Simulator;
using Lancet.Tile.Tests.Lowering;

namespace Lancet.Tile.Tests.Cpu;

/// <summary>
/// Elementary functions against fp64 (fp32) or themselves (fp64), over the whole range. Errors are in units in the last place of the result's
/// type at the exact value.
/// </summary>
public class TranscendentalTests
{
    private const int Count = 1 << 16;

    /// <summary>Opcode and the bounds that VectorMath and ScalarMath state, in ulp: of fp32, of fp64.</summary>
    public static TheoryData<Opcode, double, double> Bounds => new()
    {
        { Opcode.Exp, 1.25, 4 },
        { Opcode.Exp2, 1.25, 4 },
        { Opcode.Log, 1, 4 },
        { Opcode.Log2, 1, 4 },
        { Opcode.Rsqrt, 1.5, 4 },
        { Opcode.Tanh, 1.5, 4 },
        { Opcode.Erf, 0.5, 8 },
        { Opcode.Sin, 0.5, 4 },
        { Opcode.Cos, 0.5, 4 },
    };

    public static TheoryData<Opcode> Functions => [.. Bounds.Select(row => row.Data.Item1)];

    [Theory]
    [MemberData(nameof(Bounds))]
    public void Stays_within_the_stated_bound_in_fp32(Opcode opcode, double bound, double bound64)
    {
        Assert.True(bound <= bound64);
        AssertWithin(opcode, bound, Count, inputs => Run(opcode, DType.Float32, inputs));
    }

    /// <summary>
    /// Opcode, bound in ulp and largest magnitude of x for MathExpansion's functions; results of exp2 below the normal numbers are 0. Sines are right to an ulp of 1, and not to one of their own
    /// near their zeros.
    /// </summary>
    public static TheoryData<Opcode, double, double> LoweredBounds => new()
    {
        { Opcode.Exp, 2, double.PositiveInfinity },
        { Opcode.Exp2, 2, 126 },
        { Opcode.Log, 2, double.PositiveInfinity },
        { Opcode.Log2, 2, double.PositiveInfinity },
        { Opcode.Rsqrt, 2, double.PositiveInfinity },
        { Opcode.Tanh, 2, double.PositiveInfinity },
        { Opcode.Erf, 2.25, double.PositiveInfinity },
    };

    /// <summary>The simulator's powers and reciprocals are rounded correctly; the hardware's are not (that is for bench-gpu.sh errors).</summary>
    [Theory]
    [MemberData(nameof(LoweredBounds))]
    public void Lowered_to_threads_stays_within_its_bound(Opcode opcode, double bound, double largest) => AssertWithin(opcode, bound, 1 << 13, inputs => RunLowered(opcode, inputs), largest);

    [Fact]
    public void Tanh_within_a_part_of_one()
    {
        var random = new Random(8);
        float[] inputs = [0, -0f, float.PositiveInfinity, float.NegativeInfinity, 1e-30f, 100, -100, .. Enumerable.Range(0, 4089).Select(i => (float)((random.NextDouble() - 0.5) * Math.ScaleB(1, i % 8)))];
        long[] bits = [.. inputs.Select(x => Elements.FromDouble(DType.Float32, x))];
        var outputs = RunLowered(Opcode.TanhAbsolute, bits);
        for (var i = 0; i < inputs.Length; i++) Assert.Equal(Math.Tanh(inputs[i]), Elements.ToDouble(DType.Float32, outputs[i]), Math.ScaleB(1, -23));
        // A constant factor becomes a part of the exponent's.
        const float factor = 0.3f;
        outputs = RunLowered(Opcode.TanhAbsolute, bits, factor);
        for (var i = 0; i < inputs.Length; i++) Assert.Equal(Math.Tanh((double)inputs[i] * factor), Elements.ToDouble(DType.Float32, outputs[i]), Math.ScaleB(1, -23));
        Assert.True(double.IsNaN(Elements.ToDouble(DType.Float32, RunLowered(Opcode.TanhAbsolute, [Elements.FromDouble(DType.Float32, double.NaN)])[0])));
        Assert.Equal(Run(Opcode.Tanh, DType.Float32, bits), Run(Opcode.TanhAbsolute, DType.Float32, bits));
    }

    private static void AssertWithin(Opcode opcode, double bound, int count, Func<long[], long[]> run, double largest = double.PositiveInfinity)
    {
        var random = new Random(7);
        var worst = (Error: 0.0, X: 0f, Y: 0f);
        for (var block = 0; block < 8; block++)
        {
            var inputs = new float[count];
            // Any bits; numbers around 0; a narrow band around 1, where logarithms cancel; the range of results that are neither 0 nor infinite.
            for (var i = 0; i < count; i++)
            {
                inputs[i] = (block % 4) switch
                {
                    0 => BitConverter.Int32BitsToSingle((int)random.NextInt64()),
                    1 => (float)((random.NextDouble() - 0.5) * Math.ScaleB(1, random.Next(-30, 8))),
                    2 => (float)(1 + ((random.NextDouble() - 0.5) * Math.ScaleB(1, random.Next(-20, 1)))),
                    _ => (float)((random.NextDouble() - 0.5) * 300),
                };
            }
            var outputs = run([.. inputs.Select(x => Elements.FromDouble(DType.Float32, x))]);
            for (var i = 0; i < count; i++)
            {
                if (Math.Abs(inputs[i]) > largest) continue;
                var (exact, y) = (Exact(opcode, inputs[i]), (float)Elements.ToDouble(DType.Float32, outputs[i]));
                if (double.IsNaN(exact) || double.IsInfinity((float)exact) || float.IsInfinity(y) || float.IsNaN(y))
                {
                    // Near the largest number a result may round to infinity or not: that is one ulp.
                    var isEdge = Math.Abs(exact) >= float.MaxValue && Math.Abs(exact) <= Math.ScaleB(1, 128) * (1 + 1e-6) && Math.Abs(y) >= float.MaxValue;
                    if (!isEdge) Elements.AssertSame(DType.Float32, Elements.FromDouble(DType.Float32, exact), outputs[i], () => $"{opcode}({inputs[i]:R})");
                    continue;
                }
                var ulp = Math.ScaleB(1, Math.Max(exact == 0 ? -126 : Math.ILogB(exact), -126) - 23);
                var error = Math.Abs(y - exact) / ulp;
                if (error > worst.Error) worst = (error, inputs[i], y);
            }
        }
        Assert.True(worst.Error <= bound + 1e-6, $"{opcode}({worst.X:R}) = {worst.Y:R} is off by {worst.Error:F3} ulp");
    }

    [Theory]
    [MemberData(nameof(Functions))]
    public void Special_values_give_what_the_function_tends_to(Opcode opcode)
    {
        foreach (var type in (DType[])[DType.Float32, DType.Float64])
        {
            double[] inputs = [0.0, -0.0, 1, -1, double.NaN, double.PositiveInfinity, double.NegativeInfinity, 1e30, -1e30, 200, -200];
            // Alone, and as the tail of longer tiles.
            foreach (var count in (int[])[1, 2, 16, 64])
            {
                foreach (var x in inputs)
                {
                    var bits = Run(opcode, type, [.. Enumerable.Repeat(Elements.FromDouble(type, x), count)]);
                    var rounded = Elements.ToDouble(type, Elements.FromDouble(type, x));
                    var exact = Exact(opcode, rounded);
                    // Where the exact value is no special one, the bounds in ulp have it.
                    if (double.IsFinite(exact) && exact is not (0 or 1 or -1)) continue;
                    foreach (var y in bits) Elements.AssertSame(type, Elements.FromDouble(type, exact), y, () => $"{opcode} of {type} {x}");
                }
            }
        }
    }

    [Theory]
    [MemberData(nameof(Bounds))]
    public void Stays_within_the_stated_bound_in_fp64(Opcode opcode, double bound32, double bound)
    {
        Assert.True(bound32 <= bound);
        var random = new Random(9);
        long[] inputs = [.. Enumerable.Range(0, 16384).Select(_ => BitConverter.DoubleToInt64Bits((random.NextDouble() - 0.3) * Math.ScaleB(1, random.Next(-20, 8))))];
        var outputs = Run(opcode, DType.Float64, inputs);
        for (var i = 0; i < inputs.Length; i++)
        {
            var (x, y) = (BitConverter.Int64BitsToDouble(inputs[i]), BitConverter.Int64BitsToDouble(outputs[i]));
            var exact = Exact(opcode, x);
            if (double.IsNaN(exact)) Assert.True(double.IsNaN(y));
            else Assert.True(Math.Abs(y - exact) <= bound * (Math.BitIncrement(Math.Abs(exact)) - Math.Abs(exact)), $"{opcode}({x:R}) = {y:R}, not {exact:R}");
        }
    }

    [Theory]
    [MemberData(nameof(Functions))]
    public void An_element_does_not_depend_on_its_place(Opcode opcode)
    {
        var random = new Random(3);
        long[] inputs = [.. Enumerable.Range(0, 64).Select(_ => Elements.FromDouble(DType.Float32, (random.NextDouble() - 0.5) * 8))];
        var together = Run(opcode, DType.Float32, inputs);
        for (var i = 0; i < inputs.Length; i++) Elements.AssertSame(DType.Float32, Run(opcode, DType.Float32, [inputs[i]])[0], together[i], () => $"{opcode}");
    }

    private static long[] Run(Opcode opcode, DType type, long[] inputs)
    {
        var lab = new TileLab(0);
        var (from, to) = (lab.Buffer(type, inputs), lab.Buffer(type, new long[inputs.Length]));
        lab.Launch((k, p) => k.Store(p[to] + k.Range(inputs.Length), k.Unary(opcode, k.Load(p[from] + k.Range(inputs.Length)))));
        return [.. Enumerable.Range(0, inputs.Length).Select(i => lab.Read(to, i))];
    }

    private static long[] RunLowered(Opcode opcode, long[] inputs, double factor = 1)
    {
        using HostArray<float> from = new([.. inputs.Select(bits => (float)Elements.ToDouble(DType.Float32, bits))], DType.Float32), to = new(inputs.Length, DType.Float32);
        KernelArgument[] arguments = [from.Argument, to.Argument];
        var kernel = Kernel.Trace("elementary", k =>
        {
            var (x, y) = (k.Pointer(DType.Float32, "x"), k.Pointer(DType.Float32, "y"));
            var value = k.Load(x + k.Range(inputs.Length));
            k.Store(y + k.Range(inputs.Length), k.Unary(opcode, factor == 1 ? value : value * factor));
        });
        ThreadSimulator.Run(LoweringCheck.Lower(kernel, arguments), new Grid(1), arguments);
        return [.. to.Span.ToArray().Select(value => Elements.FromDouble(DType.Float32, value))];
    }

    private static double Exact(Opcode opcode, double x) => opcode switch
    {
        Opcode.Exp => Math.Exp(x),
        Opcode.Exp2 => Math.Pow(2, x),
        Opcode.Log => Math.Log(x),
        Opcode.Log2 => Math.Log2(x),
        Opcode.Rsqrt => 1 / Math.Sqrt(x),
        Opcode.Tanh => Math.Tanh(x),
        Opcode.Erf => Erf(x),
        Opcode.Sin => Math.Sin(x),
        _ => Math.Cos(x),
    };

    /// <summary>The alternating Maclaurin series in decimal precision below 3, 1 − erfc by its continued fraction, evaluated forwards, beyond.</summary>
    private static double Erf(double x)
    {
        if (double.IsNaN(x)) return x;
        var a = Math.Abs(x);
        if (a > 6) return Math.Sign(x);
        if (a < 0.05)
        {
            var z = a * a;
            return Math.CopySign(2 / Math.Sqrt(Math.PI) * (a - (a * z * ((1.0 / 3) - (z * ((1.0 / 10) - (z * ((1.0 / 42) - (z * ((1.0 / 216) - (z / 1320)))))))))), x);
        }
        double result;
        if (a < 3)
        {
            // 28 digits outlast the cancellation of terms up to e^(a²).
            // (The cast from double would keep 15 digits.)
            decimal t = (decimal)(long)Math.ScaleB(a, 60) / (1L << 60), sum = t, term = t;
            for (var n = 1; Math.Abs(term) > 1e-27m && n < 200; n++)
            {
                term *= -(t * t) / n;
                sum += term / ((2 * n) + 1);
            }
            result = (double)(sum * 1.1283791670955125738961589031m);
        }
        else
        {
            // erfc x = e^(−x²)/√π · 1/(x + (1/2)/(x + 1/(x + (3/2)/(x + …)))) by the modified Lentz recurrence
            double f = a, c = a, d = 0;
            for (var n = 1; n < 500; n++)
            {
                d = 1 / (a + (n / 2.0 * d));
                c = a + (n / 2.0 / c);
                f *= c * d;
            }
            result = 1 - (Math.Exp(-a * a) / Math.Sqrt(Math.PI) / f);
        }
        return Math.CopySign(result, x);
    }
}
