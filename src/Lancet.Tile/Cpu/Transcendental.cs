using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Lancet.Tile.Cpu;

/// <summary>
/// Elementary functions on vectors of fp32: exp and exp2 within 1.25 ulp, log and log2 within 1, tanh within 1.5. Built from range reduction
/// and truncated Taylor series: e^x = 2^n · e^r with n = round(x / ln 2) and r = x − n·ln 2 in two parts; ln x = e·ln 2 + 2·artanh((m − 1)/(m + 1))
/// with m in [√½, √2); tanh x = 1 − 2 / (e^(2x) + 1), near 0 a polynomial. Sine, cosine and erf of fp32 are computed in fp64 and rounded once.
/// </summary>
internal static class VectorMath
{
    private const float Ln2High = 0.693359375f; // 9 significant bits: n · Ln2High is exact
    private const float Ln2Low = -2.12194440e-4f;
    private const float Log2EHigh = 1.44269502f;
    private const float Log2ELow = 1.92596303e-8f;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Exp(Vector512<float> x)
    {
        // Clamped so that the exponent arithmetic stays in range; the results there are 0 and infinity anyway. NaN passes through Min and Max.
        var clamped = Vector512.Min(Vector512.Max(x, Vector512.Create(-110f)), Vector512.Create(90f));
        var n = Vector512.Round(clamped * Vector512.Create(1.44269504f));
        var r = Vector512.FusedMultiplyAdd(-n, Vector512.Create(Ln2High), clamped);
        r = Vector512.FusedMultiplyAdd(-n, Vector512.Create(Ln2Low), r);
        return Scale(ExpMinus1OfReduced(r) + Vector512<float>.One, n);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Exp2(Vector512<float> x)
    {
        var clamped = Vector512.Min(Vector512.Max(x, Vector512.Create(-160f)), Vector512.Create(130f));
        var n = Vector512.Round(clamped);
        var r = (clamped - n) * Vector512.Create(0.693147182f);
        return Scale(ExpMinus1OfReduced(r) + Vector512<float>.One, n);
    }

    public static Vector512<float> Tanh(Vector512<float> x)
    {
        var magnitude = Vector512.Min(Vector512.Abs(x), Vector512.Create(10f));
        // Below 0.625: x + x·z·P(z) with z = x² (the polynomial of Cephes' tanhf), whose leading term is exact.
        var z = magnitude * magnitude;
        var p = Vector512.Create(-5.70498872745e-3f);
        p = Vector512.FusedMultiplyAdd(p, z, Vector512.Create(2.06390887954e-2f));
        p = Vector512.FusedMultiplyAdd(p, z, Vector512.Create(-5.37397155531e-2f));
        p = Vector512.FusedMultiplyAdd(p, z, Vector512.Create(1.33314422036e-1f));
        p = Vector512.FusedMultiplyAdd(p, z, Vector512.Create(-3.33332819422e-1f));
        var small = Vector512.FusedMultiplyAdd(magnitude * z, p, magnitude);
        // Above: 1 − 2 / (e^(2x) + 1), where the quotient is less than half.
        var large = Vector512<float>.One - (Vector512.Create(2f) / (Exp(magnitude + magnitude) + Vector512<float>.One));
        var result = Vector512.ConditionalSelect(Vector512.LessThan(magnitude, Vector512.Create(0.625f)), small, large);
        return Vector512.ConditionalSelect(Vector512.Equals(x, x), Vector512.CopySign(result, x), x);
    }

    public static Vector512<float> Log(Vector512<float> x)
    {
        var (e, f, tail) = SplitLog(x);
        var result = Vector512.FusedMultiplyAdd(e, Vector512.Create(Ln2High), Vector512.FusedMultiplyAdd(e, Vector512.Create(Ln2Low), f - tail));
        return LogEdges(x, result);
    }

    public static Vector512<float> Log2(Vector512<float> x)
    {
        var (e, f, tail) = SplitLog(x);
        // (f − tail) · log2 e with the constant in two parts; the leading product f · high meets the rest unrounded.
        var rest = Vector512.FusedMultiplyAdd(f, Vector512.Create(Log2ELow), -(tail * Vector512.Create(Log2EHigh)));
        return LogEdges(x, e + Vector512.FusedMultiplyAdd(f, Vector512.Create(Log2EHigh), rest));
    }

    /// <summary>e^r − 1 for |r| ≤ ½ ln 2, accurate relative to r.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> ExpMinus1OfReduced(Vector512<float> r)
    {
        var p = Vector512.Create(1f / 5040);
        p = Vector512.FusedMultiplyAdd(p, r, Vector512.Create(1f / 720));
        p = Vector512.FusedMultiplyAdd(p, r, Vector512.Create(1f / 120));
        p = Vector512.FusedMultiplyAdd(p, r, Vector512.Create(1f / 24));
        p = Vector512.FusedMultiplyAdd(p, r, Vector512.Create(1f / 6));
        p = Vector512.FusedMultiplyAdd(p, r, Vector512.Create(0.5f));
        return Vector512.FusedMultiplyAdd(p, r * r, r);
    }

    /// <summary>value · 2^n in two factors, so that neither overflows before the product does and small results become subnormal.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> Scale(Vector512<float> value, Vector512<float> n)
    {
        var whole = Vector512.ConvertToInt32(n);
        var half = whole >> 1;
        return value * Power(half) * Power(whole - half);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> Power(Vector512<int> n) => ((n + Vector512.Create(127)) << 23).AsSingle();

    /// <summary>The parts of ln x = e·ln 2 + f − tail, where the mantissa m in [√½, √2) is 1 + f.</summary>
    private static (Vector512<float> Exponent, Vector512<float> F, Vector512<float> Tail) SplitLog(Vector512<float> x)
    {
        var isSubnormal = Vector512.LessThan(x, Vector512.Create(1.17549435e-38f));
        var scaled = Vector512.ConditionalSelect(isSubnormal, x * Vector512.Create(8388608f), x);
        var bits = scaled.AsInt32();
        // Subtracting the bits of √½ first makes the exponent field count from there, so that m lies in [√½, √2).
        var offset = bits - Vector512.Create(0x3F3504F3);
        var e = Vector512.ConvertToSingle(offset >> 23) - Vector512.ConditionalSelect(isSubnormal, Vector512.Create(23f), Vector512<float>.Zero);
        var m = ((offset & Vector512.Create(0x007FFFFF)) + Vector512.Create(0x3F3504F3)).AsSingle();
        var f = m - Vector512<float>.One;
        var s = f / (f + Vector512.Create(2f));
        var z = s * s;
        var p = Vector512.Create(2f / 11);
        p = Vector512.FusedMultiplyAdd(p, z, Vector512.Create(2f / 9));
        p = Vector512.FusedMultiplyAdd(p, z, Vector512.Create(2f / 7));
        p = Vector512.FusedMultiplyAdd(p, z, Vector512.Create(2f / 5));
        p = Vector512.FusedMultiplyAdd(p, z, Vector512.Create(2f / 3));
        // ln m = 2s + s·z·p, written around f (2s = f − s·f) so that its leading term is exact.
        return (e, f, s * (f - (z * p)));
    }

    private static Vector512<float> LogEdges(Vector512<float> x, Vector512<float> result)
    {
        result = Vector512.ConditionalSelect(Vector512.Equals(x, Vector512.Create(float.PositiveInfinity)), x, result);
        result = Vector512.ConditionalSelect(Vector512.Equals(x, Vector512<float>.Zero), Vector512.Create(float.NegativeInfinity), result);
        return Vector512.ConditionalSelect(Vector512.GreaterThanOrEqual(x, Vector512<float>.Zero), result, Vector512.Create(float.NaN));
    }
}

/// <summary>Functions that .NET lacks.</summary>
internal static class ScalarMath
{
    /// <summary>
    /// Gauss error function within 8 ulp: the series erf x = 2/√π · e^(−x²) · Σ 2ⁿ x^(2n+1) / (2n+1)!! (all terms of one sign) up to 2, the
    /// continued fraction of erfc beyond (Abramowitz and Stegun 7.1.6 and 7.1.14).
    /// </summary>
    public static double Erf(double x)
    {
        if (double.IsNaN(x)) return x;
        var a = Math.Abs(x);
        if (a > 6) return Math.Sign(x);
        if (a < 2)
        {
            var (term, sum) = (a, a);
            for (var n = 1; term > sum * 1e-17; n++)
            {
                term *= 2 * a * a / ((2 * n) + 1);
                sum += term;
            }
            return Math.CopySign(2 / Math.Sqrt(Math.PI) * Math.Exp(-a * a) * sum, x);
        }
        var fraction = 0.0;
        for (var n = 60; n >= 1; n--) fraction = n / 2.0 / (a + fraction);
        return Math.CopySign(1 - (Math.Exp(-a * a) / Math.Sqrt(Math.PI) / (a + fraction)), x);
    }
}

internal enum Function
{
    Exp,
    Exp2,
    Log,
    Log2,
    Tanh,
    Erf,
    Sin,
    Cos,
    Floor,
    Round,
}

internal interface IFunction
{
    static abstract Function Function { get; }
}

internal struct ExpFunction : IFunction
{
    public static Function Function => Function.Exp;
}

internal struct Exp2Function : IFunction
{
    public static Function Function => Function.Exp2;
}

internal struct LogFunction : IFunction
{
    public static Function Function => Function.Log;
}

internal struct Log2Function : IFunction
{
    public static Function Function => Function.Log2;
}

internal struct TanhFunction : IFunction
{
    public static Function Function => Function.Tanh;
}

internal struct ErfFunction : IFunction
{
    public static Function Function => Function.Erf;
}

internal struct SinFunction : IFunction
{
    public static Function Function => Function.Sin;
}

internal struct CosFunction : IFunction
{
    public static Function Function => Function.Cos;
}

internal struct FloorFunction : IFunction
{
    public static Function Function => Function.Floor;
}

internal struct RoundFunction : IFunction
{
    public static Function Function => Function.Round;
}

/// <summary>An elementary function of fp32.</summary>
internal struct SingleFunction<TFunction> : IUnaryOperation<float>
    where TFunction : struct, IFunction
{
    public static bool IsVectorized => TFunction.Function is not (Function.Erf or Function.Sin or Function.Cos);

    public static float Invoke(float x) => TFunction.Function switch
    {
        Function.Erf => (float)ScalarMath.Erf(x),
        Function.Sin => (float)Math.Sin(x),
        Function.Cos => (float)Math.Cos(x),
        _ => Invoke(Vector512.Create(x)).ToScalar(),
    };

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Invoke(Vector512<float> x) => TFunction.Function switch
    {
        Function.Exp => VectorMath.Exp(x),
        Function.Exp2 => VectorMath.Exp2(x),
        Function.Log => VectorMath.Log(x),
        Function.Log2 => VectorMath.Log2(x),
        Function.Tanh => VectorMath.Tanh(x),
        Function.Floor => Vector512.Floor(x),
        _ => Vector512.Round(x),
    };
}

/// <summary>An elementary function of fp64.</summary>
internal struct DoubleFunction<TFunction> : IUnaryOperation<double>
    where TFunction : struct, IFunction
{
    public static bool IsVectorized => false;

    public static double Invoke(double x) => TFunction.Function switch
    {
        Function.Exp => Math.Exp(x),
        Function.Exp2 => Math.Pow(2, x),
        Function.Log => Math.Log(x),
        Function.Log2 => Math.Log2(x),
        Function.Tanh => Math.Tanh(x),
        Function.Erf => ScalarMath.Erf(x),
        Function.Sin => Math.Sin(x),
        Function.Cos => Math.Cos(x),
        Function.Floor => Math.Floor(x),
        _ => Math.Round(x, MidpointRounding.ToEven),
    };

    public static Vector512<double> Invoke(Vector512<double> x) => throw new NotSupportedException();
}
