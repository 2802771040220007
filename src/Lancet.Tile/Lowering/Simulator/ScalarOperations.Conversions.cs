using Lancet.Tile.Lowering.Threads;
using Operation = System.Func<ulong, ulong, ulong, ulong>;

namespace Lancet.Tile.Lowering.Simulator;

internal static partial class ScalarOperations
{
    private static Operation? Convert(ThreadType from, ThreadType to)
    {
        if (from == ThreadType.Predicate || to == ThreadType.Predicate) return null;
        if (from == to && from.IsFloat()) return static (a, _, _) => a;
        if (from.IsFloat() && to.IsFloat()) return (from, to) switch
        {
            (ThreadType.F32, ThreadType.F64) => static (a, _, _) => B((double)F(a)),
            (ThreadType.F64, ThreadType.F32) => static (a, _, _) => B((float)D(a)),
            (ThreadType.F64, ThreadType.F16) => static (a, _, _) => double.IsNaN(D(a)) ? 0x7FFFu : BitConverter.HalfToUInt16Bits((System.Half)D(a)),
            (ThreadType.F64, ThreadType.BF16) => null,
            _ => ByWayOfSingle(ToSingle(from), FromSingle(to)),
        };
        if (from.IsFloat()) return FloatToInteger(from, to);
        var extend = Extended(from);
        if (!to.IsFloat())
        {
            var narrow = Extended(to);
            return to.Class() == RegisterClass.Bits64
                ? (a, _, _) => (ulong)extend(a)
                : (a, _, _) => (uint)narrow((ulong)extend(a));
        }
        if (to == ThreadType.F64) return from == ThreadType.U64 ? static (a, _, _) => B((double)a) : (a, _, _) => B((double)extend(a));
        Func<ulong, float> single = from is ThreadType.U64 or ThreadType.B64 ? static a => a : a => extend(a);
        return ByWayOfSingle(single, FromSingle(to));
    }

    private static Operation ByWayOfSingle(Func<ulong, float> read, Func<float, ulong> write) => (a, _, _) => write(read(a));

    private static Func<ulong, float> ToSingle(ThreadType type) => type switch
    {
        ThreadType.BF16 => static bits => F(bits << 16),
        ThreadType.F16 => static bits => (float)BitConverter.UInt16BitsToHalf((ushort)bits),
        _ => F,
    };

    private static Func<float, ulong> FromSingle(ThreadType type) => type switch
    {
        ThreadType.BF16 => ToBFloat16,
        ThreadType.F16 => ToFloat16,
        ThreadType.F64 => static value => B((double)value),
        _ => B,
    };

    /// <summary>The integer that the register holds, from the low bits that the type has.</summary>
    private static Func<ulong, long> Extended(ThreadType type) => type switch
    {
        ThreadType.U8 => static bits => (byte)bits,
        ThreadType.S8 => static bits => (sbyte)bits,
        ThreadType.U16 => static bits => (ushort)bits,
        ThreadType.S32 => static bits => (int)bits,
        ThreadType.B32 or ThreadType.U32 => static bits => (uint)bits,
        _ => static bits => (long)bits,
    };

    /// <summary>Towards zero, saturating; NaN gives 0.</summary>
    private static Operation FloatToInteger(ThreadType from, ThreadType to)
    {
        Func<ulong, double> value = D;
        if (from != ThreadType.F64)
        {
            var single = ToSingle(from);
            value = bits => single(bits);
        }
        return to switch
        {
            ThreadType.S8 => (a, _, _) => (uint)(int)Clamped(value(a), sbyte.MinValue, sbyte.MaxValue),
            ThreadType.U8 => (a, _, _) => (uint)Clamped(value(a), byte.MinValue, byte.MaxValue),
            ThreadType.U16 => (a, _, _) => (uint)Clamped(value(a), ushort.MinValue, ushort.MaxValue),
            ThreadType.S32 => (a, _, _) => (uint)(int)Clamped(value(a), int.MinValue, int.MaxValue),
            ThreadType.U32 or ThreadType.B32 => (a, _, _) => (uint)Clamped(value(a), uint.MinValue, uint.MaxValue),
            ThreadType.S64 => (a, _, _) => value(a) switch
            {
                double.NaN => 0,
                >= 9223372036854775808.0 => long.MaxValue,
                <= -9223372036854775808.0 => unchecked((ulong)long.MinValue),
                var x => (ulong)(long)x,
            },
            _ => (a, _, _) => value(a) switch
            {
                double.NaN or <= 0 => 0,
                >= 18446744073709551616.0 => ulong.MaxValue,
                var x => (ulong)x,
            },
        };
    }

    private static double Clamped(double value, double low, double high) => double.IsNaN(value) ? 0 : Math.Clamp(Math.Truncate(value), low, high);

    /// <summary>To nearest even; NaN becomes 0x7FFF, as in hardware.</summary>
    private static ulong ToBFloat16(float value) => float.IsNaN(value) ? 0x7FFFu : ((BFloat16)value).Bits;

    private static ulong ToFloat16(float value) => float.IsNaN(value) ? 0x7FFFu : BitConverter.HalfToUInt16Bits((System.Half)value);
}
