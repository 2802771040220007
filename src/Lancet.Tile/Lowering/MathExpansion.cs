using Lancet.Tile.IR;
using Lancet.Tile.Lowering.Threads;

namespace Lancet.Tile.Lowering;

/// <summary>
/// Elementary functions of fp32 in terms of instructions, within 2 ulp, erf 2.25, and the error of the hardware's power of two and reciprocal. Its tanh, sine and logarithm approximations are
/// coarser than that and are not used.
/// <code>
/// eˣ      = 2ᶠ · 2ⁿ            y = x·log₂e in two parts, n = ⌊y⌋, f = y − n
/// ln x    = e·ln 2 + 2·artanh((m − 1)/(m + 1))     x = m·2ᵉ, m in [√½, √2)
/// tanh x  = x + x³·P(x²) below 0.57, 1 − 2/(e^(2x) + 1) above
/// erf x   = x·P(x²) below 0.92, 1 − e^(−Q(x)) above      (P, Q fitted by weighted least squares; error under 2⁻²⁵ of the result)
/// sin, cos: x − n·π/2 in three parts, Taylor polynomials
/// </code>
/// </summary>
/// <param name="builder">Receives the instructions.</param>
/// <param name="avoidsCalls">See <see cref="Divide"/>.</param>
internal sealed class MathExpansion(ThreadBuilder builder, bool avoidsCalls)
{
    private const ThreadType F = ThreadType.F32;
    private const float Log2E = 1.44269502f;
    private const float Log2ELow = 1.92596303e-8f; // log₂e − Log2E
    private static readonly float[] s_tanh = [-0.33333334f, 0.13333322f, -0.053963855f, 0.0218094f, -0.008488156f, 0.0024712025f];
    private static readonly float[] s_erf = [1.1283792f, -0.37612635f, 0.11283694f, -0.02685927f, 0.0052006342f, -0.0008137436f, 8.345219e-05f];
    private static readonly float[] s_logErfc = [-8.594119e-05f, 1.1289797f, 0.6347536f, 0.10616732f, -0.023122635f, 0.0029405982f, 5.9532955e-05f, -0.00010340834f, 1.7862623e-05f, -1.1107844e-06f];

    public Source Exp(Source x)
    {
        // Beyond the clamp the results are 0 and infinity; NaN passes through.
        var clamped = Max(Min(x, 89f), -104f);
        var n = Floor(Multiply(clamped, Log2E));
        var f = builder.Fma(clamped, C(Log2E), Negate(n));
        f = builder.Fma(clamped, C(Log2ELow), f);
        return Multiply(Power(f), Power(n));
    }

    /// <summary>2ˣ; 0 where that is subnormal.</summary>
    public Source Exp2(Source x) => builder.Pure(ThreadOpcode.Exp2Approximate, F, x, immediate: 1);

    /// <summary>
    /// a / b. The correctly rounded instruction calls a function for operands of unusual size, and calls keep the assembler from running warp
    /// groups' products beside other work. Without calls: Newton's method from an approximate 1/b, right but for an ulp as long as 1/b and a/b are
    /// normal numbers; where it does not converge (zeros, infinities) the plain product with 1/b has the right limit.
    /// </summary>
    public Source Divide(Source a, Source b)
    {
        if (!avoidsCalls) return builder.Pure(ThreadOpcode.Divide, F, a, b);
        var start = builder.Pure(ThreadOpcode.ReciprocalApproximate, F, b);
        var minus = Negate(b);
        var reciprocal = builder.Fma(builder.Fma(minus, start, C(1f)), start, start);
        var quotient = Multiply(a, reciprocal);
        var rest = builder.Fma(minus, quotient, a);
        var isFinite = builder.Compare(F, Comparison.Less, builder.Pure(ThreadOpcode.Absolute, F, rest), C(float.PositiveInfinity));
        return builder.Select(ThreadType.B32, isFinite, builder.Fma(rest, reciprocal, quotient), Multiply(a, start));
    }

    public Source Log(Source x)
    {
        var (e, logM) = SplitLog(x);
        return LogEdges(x, builder.Fma(e, C(0.693359375f), builder.Fma(e, C(-2.12194440e-4f), logM)));
    }

    public Source Log2(Source x)
    {
        var (e, logM) = SplitLog(x);
        return LogEdges(x, builder.Fma(logM, C(Log2E), e));
    }

    public Source Rsqrt(Source x) => Divide(C(1f), builder.Pure(ThreadOpcode.SquareRoot, F, x));

    public Source Tanh(Source x)
    {
        var u = Multiply(x, x);
        var small = builder.Fma(Multiply(x, u), Polynomial(s_tanh, u), x);
        var isSmall = builder.Compare(F, Comparison.Less, builder.Pure(ThreadOpcode.Absolute, F, x), C(0.57f));
        return builder.Select(ThreadType.B32, isSmall, small, TanhAbsolute(x));
    }

    /// <summary>tanh(x·factor), within a part of 1; the factor is positive.</summary>
    public Source TanhAbsolute(Source x, float factor = 1)
    {
        var power = CoarseExp(builder.Pure(ThreadOpcode.Absolute, F, x), 2 * factor);
        var reciprocal = builder.Pure(ThreadOpcode.ReciprocalApproximate, F, Add(power, C(1f)), immediate: 1);
        return CopySign(builder.Fma(reciprocal, C(-2f), C(1f)), x);
    }

    public Source Erf(Source x)
    {
        var a = builder.Pure(ThreadOpcode.Absolute, F, x);
        var small = Multiply(x, Polynomial(s_erf, Multiply(x, x)));
        var bounded = Min(a, 4f);
        var large = builder.Fma(CoarseExp(Polynomial(s_logErfc, bounded), -1), C(-1f), C(1f));
        return builder.Select(ThreadType.B32, builder.Compare(F, Comparison.Less, a, C(0.92f)), small, CopySign(large, x));
    }

    public Source Sin(Source x) => Circular(x, 0);

    public Source Cos(Source x) => Circular(x, 1);

    private Source Circular(Source x, int quarter)
    {
        var n = builder.Pure(ThreadOpcode.Round, F, Multiply(x, 0.636619747f));
        var r = builder.Fma(n, C(-1.5707855225f), x);
        r = builder.Fma(n, C(-1.0804334124e-5f), r);
        r = builder.Fma(n, C(-6.0770999344e-11f), r);
        var z = Multiply(r, r);
        var sine = builder.Fma(Multiply(r, z), Polynomial([-1f / 6, 1f / 120, -1f / 5040, 1f / 362880], z), r);
        var cosine = builder.Fma(z, Polynomial([-0.5f, 1f / 24, -1f / 720, 1f / 40320, -1f / 3628800], z), C(1f));
        var k = builder.Add(ThreadType.S32, builder.Convert(ThreadType.S32, F, n), Source.Constant(quarter));
        var isCosine = builder.Compare(ThreadType.S32, Comparison.NotEqual, builder.And(ThreadType.B32, k, Source.Constant(1)), Source.Constant(0));
        var isNegative = builder.Compare(ThreadType.S32, Comparison.NotEqual, builder.And(ThreadType.B32, k, Source.Constant(2)), Source.Constant(0));
        var value = builder.Select(ThreadType.B32, isCosine, cosine, sine);
        return builder.Select(ThreadType.B32, isNegative, Negate(value), value);
    }

    private (Source Exponent, Source LogOfMantissa) SplitLog(Source x)
    {
        var isSubnormal = builder.Compare(F, Comparison.Less, x, C(1.17549435e-38f));
        var scaled = builder.Select(ThreadType.B32, isSubnormal, Multiply(x, 8388608f), x);
        // Subtracting the bits of √½ first makes the exponent field count from there, so that m lies in [√½, √2).
        var offset = builder.Subtract(ThreadType.S32, scaled, Source.Constant(0x3F3504F3));
        var e = builder.Convert(F, ThreadType.S32, builder.ShiftRight(ThreadType.S32, offset, 23));
        e = Add(e, builder.Select(ThreadType.B32, isSubnormal, C(-23f), C(0f)));
        var m = builder.Add(ThreadType.S32, builder.And(ThreadType.B32, offset, Source.Constant(0x007FFFFF)), Source.Constant(0x3F3504F3));
        var f = Add(m, C(-1f));
        var s = Divide(f, Add(f, C(2f)));
        var z = Multiply(s, s);
        var p = Polynomial([2f / 3, 2f / 5, 2f / 7, 2f / 9, 2f / 11], z);
        // ln m = 2s + s·z·p, written around f (2s = f − s·f) so that its leading term is exact.
        var inner = builder.Fma(Negate(z), p, f);
        return (e, builder.Fma(Negate(s), inner, f));
    }

    private Source LogEdges(Source x, Source result)
    {
        result = builder.Select(ThreadType.B32, builder.Compare(F, Comparison.Equal, x, C(float.PositiveInfinity)), x, result);
        result = builder.Select(ThreadType.B32, builder.Compare(F, Comparison.Equal, x, C(0f)), C(float.NegativeInfinity), result);
        return builder.Select(ThreadType.B32, builder.Compare(F, Comparison.GreaterOrEqual, x, C(0f)), result, C(float.NaN));
    }

    private Source Polynomial(ReadOnlySpan<float> coefficients, Source x)
    {
        var p = C(coefficients[^1]);
        for (var i = coefficients.Length - 2; i >= 0; i--) p = builder.Fma(p, x, C(coefficients[i]));
        return p;
    }

    // What is at most a half and will be taken from 1 needs no more than the hardware's power of a rounded product and its reciprocal.
    private Source CoarseExp(Source x, float factor) => Exp2(Multiply(x, factor * Log2E));

    private Source CopySign(Source magnitude, Source sign) =>
        builder.Or(ThreadType.B32, builder.And(ThreadType.B32, magnitude, Source.Constant(0x7fffffff)), builder.And(ThreadType.B32, sign, Source.Constant(unchecked((int)0x80000000))));

    private static Source C(float value) => Source.Constant(value);

    private Source Add(Source a, Source b) => builder.Add(F, a, b);

    private Source Multiply(Source a, Source b) => builder.Multiply(F, a, b);

    private Source Multiply(Source a, float b) => builder.Multiply(F, a, C(b));

    private Source Power(Source x) => builder.Pure(ThreadOpcode.Exp2Approximate, F, x);

    private Source Negate(Source a) => builder.Pure(ThreadOpcode.Negate, F, a);

    private Source Floor(Source a) => builder.Pure(ThreadOpcode.Floor, F, a);

    private Source Min(Source a, float b) => builder.Pure(ThreadOpcode.Minimum, F, a, C(b));

    private Source Max(Source a, float b) => builder.Pure(ThreadOpcode.Maximum, F, a, C(b));
}
