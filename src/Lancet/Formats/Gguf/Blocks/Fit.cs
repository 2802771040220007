using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;

namespace Lancet.Formats.Gguf.Blocks;

/// <summary>
/// Scales of a group of elements that are rounded to few bits. Rounding fixes the integers, then the scale (and minimum) with the least weighted square error for
/// those integers follow in closed form; a few step widths around the one that spans the group's range are tried, because neither end of the range need be hit exactly.
/// Groups are multiples of 8 elements.
/// </summary>
internal static class Fit
{
    private const int SymmetricSteps = 18;
    private const int AsymmetricSteps = 36;

    /// <summary>x ≈ scale · q with q from −range to range − 1.</summary>
    /// <param name="x">Elements.</param>
    /// <param name="weights">Weight of each element's error.</param>
    /// <param name="range">2^(bits − 1).</param>
    public static float Symmetric(ReadOnlySpan<float> x, ReadOnlySpan<float> weights, int range)
    {
        var extreme = Extreme(x);
        if (Math.Abs(extreme) < 1e-30f) return 0;
        double best = 0;
        float result = 0;
        for (var step = -SymmetricSteps; step <= SymmetricSteps; step++)
        {
            // The side with one more integer is the extreme's.
            var inverse = -(range + (0.05f * step)) / extreme;
            Vector256<float> products = default, squares = default;
            for (var i = 0; i < x.Length; i += 8)
            {
                var (value, weight) = (At(x, i), At(weights, i));
                var q = Vector256.Min(Vector256.Max(Vector256.Round(value * inverse), Vector256.Create(-(float)range)), Vector256.Create(range - 1f));
                var weighted = weight * q;
                products += weighted * value;
                squares += weighted * q;
            }
            double xq = Vector256.Sum(products), qq = Vector256.Sum(squares);
            // The error is Σwx² − (Σwxq)² / Σwq².
            if (qq <= 0 || xq * xq <= best * qq) continue;
            (best, result) = (xq * xq / qq, (float)(xq / qq));
        }
        return result;
    }

    /// <summary>x ≈ scale · q − minimum with q from 0 to levels and minimum ≥ 0.</summary>
    /// <param name="x">Elements.</param>
    /// <param name="weights">Weight of each element's error.</param>
    /// <param name="levels">Largest integer.</param>
    /// <param name="minimum">What is subtracted.</param>
    public static float Asymmetric(ReadOnlySpan<float> x, ReadOnlySpan<float> weights, int levels, out float minimum)
    {
        Vector256<float> low = Vector256<float>.Zero, high = At(x, 0), sumW = default, sumX = default, sumXX = default;
        for (var i = 0; i < x.Length; i += 8)
        {
            var (value, weight) = (At(x, i), At(weights, i));
            low = Vector256.Min(low, value);
            high = Vector256.Max(high, value);
            sumW += weight;
            sumX += weight * value;
            sumXX += weight * value * value;
        }
        float least = Lowest(low), most = Highest(high);
        minimum = -least;
        if (most <= least) return 0;
        double w = Vector256.Sum(sumW), wx = Vector256.Sum(sumX), wxx = Vector256.Sum(sumXX), best = double.MaxValue;
        var result = (most - least) / levels;
        for (var step = 0; step <= AsymmetricSteps; step++)
        {
            var inverse = (levels - 0.9f + (0.1f * step)) / (most - least);
            Vector256<float> sumQ = default, sumQQ = default, sumXQ = default;
            for (var i = 0; i < x.Length; i += 8)
            {
                var (value, weight) = (At(x, i), At(weights, i));
                var q = Vector256.Min(Vector256.Max(Vector256.Round((value - Vector256.Create(least)) * inverse), Vector256<float>.Zero), Vector256.Create((float)levels));
                var weighted = weight * q;
                sumQ += weighted;
                sumQQ += weighted * q;
                sumXQ += weighted * value;
            }
            double q1 = Vector256.Sum(sumQ), q2 = Vector256.Sum(sumQQ), xq = Vector256.Sum(sumXQ);
            var determinant = (w * q2) - (q1 * q1);
            if (determinant <= 0) continue;
            var (scale, shift) = (((w * xq) - (wx * q1)) / determinant, ((q2 * wx) - (q1 * xq)) / determinant);
            // The minimum is stored without a sign.
            if (shift > 0) (scale, shift) = (xq / q2, 0);
            var error = (scale * scale * q2) + (2 * scale * shift * q1) + (shift * shift * w) - (2 * scale * xq) - (2 * shift * wx) + wxx;
            if (error >= best) continue;
            (best, result, minimum) = (error, (float)scale, (float)-shift);
        }
        return result;
    }

    /// <summary>Numbers that are not negative as scale · q with q from 0 to levels, for the scales of groups: x ≈ result · q.</summary>
    /// <param name="x">Numbers.</param>
    /// <param name="weights">Weight of each one's error.</param>
    /// <param name="levels">Largest integer.</param>
    /// <param name="q">Receives the integers.</param>
    public static Half Scales(ReadOnlySpan<float> x, ReadOnlySpan<float> weights, int levels, Span<int> q)
    {
        var most = 0f;
        foreach (var value in x) most = Math.Max(most, value);
        q.Clear();
        if (most <= 0) return default;
        double best = 0, result = 0;
        for (var step = -8; step <= 8; step++)
        {
            var inverse = (levels + (0.1f * step)) / most;
            double products = 0, squares = 0;
            for (var i = 0; i < x.Length; i++)
            {
                var integer = Math.Min(levels, MathF.Round(x[i] * inverse));
                products += weights[i] * integer * x[i];
                squares += weights[i] * integer * integer;
            }
            if (squares <= 0 || products * products <= best * squares) continue;
            (best, result) = (products * products / squares, products / squares);
        }
        var scale = (Half)result;
        if (scale == default) return scale;
        for (var i = 0; i < x.Length; i++) q[i] = (int)Math.Min(levels, MathF.Round(x[i] / (float)scale));
        return scale;
    }

    /// <summary>The element that is furthest from zero, with its sign.</summary>
    public static float Extreme(ReadOnlySpan<float> x)
    {
        Vector256<float> low = At(x, 0), high = low;
        for (var i = 8; i < x.Length; i += 8)
        {
            low = Vector256.Min(low, At(x, i));
            high = Vector256.Max(high, At(x, i));
        }
        float least = Lowest(low), most = Highest(high);
        return -least > most ? least : most;
    }

    /// <summary>Weights of errors: how much each column matters, more for elements that are large in their group; where nothing is known of the columns, large elements matter more by themselves.</summary>
    /// <param name="x">Elements.</param>
    /// <param name="importance">Of the columns, or empty.</param>
    /// <param name="meanSquare">Of a wider neighbourhood of the elements.</param>
    /// <param name="weights">Receives the weights.</param>
    /// <param name="isSquared">Whether without importance the weight is x², rather than the root mean square plus |x|.</param>
    public static void Weigh(ReadOnlySpan<float> x, ReadOnlySpan<float> importance, float meanSquare, Span<float> weights, bool isSquared)
    {
        var root = MathF.Sqrt(meanSquare);
        for (var i = 0; i < x.Length; i++)
            weights[i] = !importance.IsEmpty ? importance[i] * MathF.Sqrt(meanSquare + (x[i] * x[i])) : isSquared ? x[i] * x[i] : root + Math.Abs(x[i]);
    }

    /// <summary>Sum of the elements.</summary>
    public static float Sum(ReadOnlySpan<float> x)
    {
        Vector256<float> sum = default;
        for (var i = 0; i < x.Length; i += 8) sum += At(x, i);
        return Vector256.Sum(sum);
    }

    /// <summary>Mean of the squares.</summary>
    public static float MeanSquare(ReadOnlySpan<float> x)
    {
        Vector256<float> sum = default;
        for (var i = 0; i < x.Length; i += 8) sum += At(x, i) * At(x, i);
        return Vector256.Sum(sum) / x.Length;
    }

    /// <summary>q = round((x + shift) · inverse), limited to a range.</summary>
    public static void Round(ReadOnlySpan<float> x, float shift, float inverse, int low, int high, Span<int> q)
    {
        for (var i = 0; i < x.Length; i += 8)
        {
            var rounded = Vector256.Round((At(x, i) + Vector256.Create(shift)) * inverse);
            Vector256.ConvertToInt32(Vector256.Min(Vector256.Max(rounded, Vector256.Create((float)low)), Vector256.Create((float)high))).CopyTo(q[i..]);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> At(ReadOnlySpan<float> x, int index) => Vector256.LoadUnsafe(ref MemoryMarshal.GetReference(x), (nuint)index);

    private static float Lowest(Vector256<float> v)
    {
        var half = Vector128.Min(v.GetLower(), v.GetUpper());
        return Math.Min(Math.Min(half[0], half[1]), Math.Min(half[2], half[3]));
    }

    private static float Highest(Vector256<float> v)
    {
        var half = Vector128.Max(v.GetLower(), v.GetUpper());
        return Math.Max(Math.Max(half[0], half[1]), Math.Max(half[2], half[3]));
    }
}
