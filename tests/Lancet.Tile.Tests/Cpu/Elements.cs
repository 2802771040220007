using System.Numerics;

namespace Lancet.Tile.Tests.Cpu;

/// <summary>
/// Elements of any type as raw bits in a long (integers extended as their type says, bools 0 or 1), and the plain meaning of conversions
/// between them: the scalar reference that tile operations are compared with. Nothing here is shared with the executor.
/// </summary>
internal static class Elements
{
    public static readonly DType[] Memory = [DType.Float32, DType.BFloat16, DType.Float16, DType.Float64, DType.Int8, DType.UInt8, DType.Int32, DType.UInt32, DType.Int64];
    public static readonly DType[] Computed = [DType.Float32, DType.Float64, DType.Int32, DType.UInt32, DType.Int64];

    public static double ToDouble(DType type, long bits) => type switch
    {
        DType.Float32 => BitConverter.Int32BitsToSingle((int)bits),
        DType.BFloat16 => BitConverter.Int32BitsToSingle((int)bits << 16),
        DType.Float16 => (double)BitConverter.Int16BitsToHalf((short)bits),
        DType.Float64 => BitConverter.Int64BitsToDouble(bits),
        _ => bits,
    };

    /// <summary>Bits of the nearest value of a floating-point type, ties to even.</summary>
    public static long FromDouble(DType type, double value) => type switch
    {
        DType.Float64 => BitConverter.DoubleToInt64Bits(value),
        DType.Float32 => (uint)BitConverter.SingleToInt32Bits((float)value),
        DType.Float16 => (ushort)BitConverter.HalfToInt16Bits((Half)value),
        _ => BFloat16Bits(value),
    };

    /// <summary>What an integer type keeps of a number.</summary>
    public static long Wrap(DType type, BigInteger value)
    {
        var width = type switch { DType.Int64 => 64, DType.Int32 or DType.UInt32 => 32, _ => 8 };
        var modulus = BigInteger.One << width;
        var rest = ((value % modulus) + modulus) % modulus;
        var isSigned = type is DType.Int64 or DType.Int32 or DType.Int8;
        return (long)(isSigned && rest >= modulus / 2 ? rest - modulus : rest);
    }

    /// <summary>The conversion that the language defines.</summary>
    public static long Cast(DType from, DType to, long bits)
    {
        if (from.IsFloat() && to.IsFloat()) return FromDouble(to, ToDouble(from, bits));
        if (!from.IsFloat() && !to.IsFloat()) return Wrap(to, bits);
        if (!from.IsFloat()) return to is DType.Float32 or DType.Float64 && bits is > -(1L << 53) and < 1L << 53 ? FromDouble(to, bits) : FromInteger(to, bits);
        // Truncation; out of range saturates, NaN gives 0; 8-bit integers are reached by way of int32.
        var value = Math.Truncate(ToDouble(from, bits));
        var by = to is DType.Int8 or DType.UInt8 ? DType.Int32 : to;
        BigInteger low = by == DType.Int64 ? long.MinValue : by == DType.Int32 ? int.MinValue : 0, high = by == DType.Int64 ? long.MaxValue : by == DType.Int32 ? int.MaxValue : uint.MaxValue;
        var clamped = double.IsNaN(value) ? 0 : double.IsInfinity(value) ? (value > 0 ? high : low) : BigInteger.Clamp(new BigInteger(value), low, high);
        return Wrap(to, clamped);
    }

    public static bool IsNaN(DType type, long bits) => type.IsFloat() && double.IsNaN(ToDouble(type, bits));

    /// <summary>Equality of bits, but any NaN equals any other.</summary>
    public static void AssertSame(DType type, long expected, long actual, Func<string> where)
    {
        if (expected == actual || (IsNaN(type, expected) && IsNaN(type, actual))) return;
        Assert.Fail($"expected {Show(type, expected)}, got {Show(type, actual)}: {where()}");
    }

    public static string Show(DType type, long bits) => type.IsFloat() ? string.Create(System.Globalization.CultureInfo.InvariantCulture, $"{ToDouble(type, bits):R} (0x{bits:X})") : bits.ToString(System.Globalization.CultureInfo.InvariantCulture);

    /// <summary>A random element: often one at an edge of the type, else a moderate number, else any bits.</summary>
    public static long Random(DType type, Random random)
    {
        var kind = random.Next(4);
        if (type.IsFloat())
        {
            double[] edges = [0, -0.0, 1, -1, 0.5, 1.5, 2.5, -2.5, double.NaN, double.PositiveInfinity, double.NegativeInfinity, Largest(type), -Largest(type), Smallest(type), -Smallest(type), int.MaxValue, int.MinValue, uint.MaxValue, 9.3e18, -9.3e18, 255.5, 128, -129, 1 + 1.0 / 256, 1 + 3.0 / 256, 1 + (1.0 / 256) + Math.ScaleB(1, -40), 1 + (3.0 / 2048) - Math.ScaleB(1, -45), 65519.99, 65520, 1 + (1.0 / 2048), Math.ScaleB(1, -126), Math.ScaleB(1.01, -134), Math.ScaleB(1, -25)];
            return kind switch
            {
                0 => FromDouble(type, edges[random.Next(edges.Length)]),
                < 3 => FromDouble(type, (random.NextDouble() - 0.5) * Math.ScaleB(1, random.Next(-8, 12))),
                _ => Bits(type, random.NextInt64()),
            };
        }
        long[] integers = [0, 1, -1, 2, 7, 31, 32, 63, 127, 128, 255, int.MaxValue, int.MinValue, uint.MaxValue, long.MaxValue, long.MinValue, (1L << 24) + 1, (1L << 53) + 1, 0x40400001, -0x40400001, 0x4040000000000001, 0x40C0000000000001 - 2];
        return kind switch
        {
            0 => Wrap(type, integers[random.Next(integers.Length)]),
            < 3 => Wrap(type, random.Next(-100, 100)),
            _ => Wrap(type, random.NextInt64(long.MinValue, long.MaxValue) >> random.Next(64)),
        };
    }

    private static long Bits(DType type, long bits) => type switch
    {
        DType.Float64 => bits,
        DType.Float32 => (uint)bits,
        _ => (ushort)bits,
    };

    private static double Largest(DType type) => type switch
    {
        DType.Float64 => double.MaxValue,
        DType.Float32 => float.MaxValue,
        DType.Float16 => 65504,
        _ => ToDouble(DType.BFloat16, 0x7F7F),
    };

    private static double Smallest(DType type) => type switch
    {
        DType.Float64 => double.Epsilon,
        DType.Float32 => float.Epsilon,
        DType.Float16 => (double)Half.Epsilon,
        _ => ToDouble(DType.BFloat16, 1),
    };

    /// <summary>Scaled so that the last kept bit is 1, rounded as an integer, scaled back: exact in fp64.</summary>
    private static long BFloat16Bits(double value)
    {
        if (double.IsNaN(value)) return 0x7FC0;
        var sign = double.IsNegative(value) ? 0x8000L : 0;
        value = Math.Abs(value);
        if (double.IsInfinity(value)) return sign | 0x7F80;
        if (value == 0) return sign;
        var exponent = Math.Max(Math.ILogB(value), -126);
        var rounded = Math.ScaleB(Math.Round(Math.ScaleB(value, 7 - exponent), MidpointRounding.ToEven), exponent - 7);
        return rounded >= Math.ScaleB(1, 128) ? sign | 0x7F80 : sign | ((uint)BitConverter.SingleToInt32Bits((float)rounded) >> 16);
    }

    /// <summary>An integer rounded once: to the significand's width by integer arithmetic, after which every conversion is exact.</summary>
    private static long FromInteger(DType to, long value)
    {
        var significand = to switch { DType.Float64 => 53, DType.Float32 => 24, DType.Float16 => 11, _ => 8 };
        var magnitude = BigInteger.Abs(value);
        var shift = (int)Math.Max((long)magnitude.GetBitLength() - significand, 0);
        var (kept, rest) = (magnitude >> shift, magnitude & ((BigInteger.One << shift) - 1));
        var half = shift == 0 ? BigInteger.Zero : BigInteger.One << (shift - 1);
        if (shift > 0 && (rest > half || (rest == half && !kept.IsEven))) kept += 1;
        var result = Math.ScaleB((double)kept, shift);
        return FromDouble(to, value < 0 ? -result : result);
    }
}
