using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Lancet.Formats.Gguf.Blocks;

/// <summary>fp16 to and from fp32, eight at a time with integer arithmetic; .NET converts one by one.</summary>
internal static class HalfVectors
{
    private const uint Infinity = 0x7F800000;
    private const uint SmallestNormal = 0x38800000;
    private const uint TooLarge = 0x47800000;

    /// <summary>fp16 bits of fp32 numbers, rounded to nearest, ties to even.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<ushort> Narrow(Vector256<float> x)
    {
        var bits = x.AsUInt32();
        var sign = bits & Vector256.Create(0x80000000u);
        var magnitude = bits ^ sign;
        // Normal: the exponent's bias is 15 instead of 127, and half a unit less the parity rounds ties to even.
        var odd = (magnitude >>> 13) & Vector256.Create(1u);
        var normal = (magnitude + Vector256.Create(unchecked(((uint)(15 - 127) << 23) + 0xFFFu)) + odd) >>> 13;
        // Subnormal: adding 0.5 leaves the rounded multiple of 2⁻²⁴ in the lowest bits.
        var subnormal = (magnitude.AsSingle() + Vector256.Create(0.5f)).AsUInt32() - Vector256.Create(0x3F000000u);
        var large = Vector256.ConditionalSelect(Vector256.GreaterThan(magnitude, Vector256.Create(Infinity)), Vector256.Create(0x7E00u), Vector256.Create(0x7C00u));
        var result = Vector256.ConditionalSelect(Vector256.LessThan(magnitude, Vector256.Create(SmallestNormal)), subnormal, normal);
        result = Vector256.ConditionalSelect(Vector256.GreaterThanOrEqual(magnitude, Vector256.Create(TooLarge)), large, result);
        result |= sign >>> 16;
        return Vector128.Narrow(result.GetLower(), result.GetUpper());
    }

    /// <summary>fp32 numbers of fp16 bits.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Widen(Vector128<ushort> x)
    {
        var (lower, upper) = Vector128.Widen(x);
        var bits = Vector256.Create(lower, upper);
        var sign = (bits & Vector256.Create(0x8000u)) << 16;
        var magnitude = (bits & Vector256.Create(0x7FFFu)) << 13;
        // A product with 2¹¹² moves the exponent, subnormal numbers included; infinities and what is no number keep theirs.
        var scaled = (magnitude.AsSingle() * Vector256.Create(5.192296858534828e33f)).AsUInt32();
        var special = Vector256.GreaterThanOrEqual(magnitude, Vector256.Create(0x7C00u << 13));
        return (Vector256.ConditionalSelect(special, scaled | Vector256.Create(Infinity), scaled) | sign).AsSingle();
    }
}
