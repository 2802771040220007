namespace Lancet.Tile.IR.Passes;

/// <summary>
/// The arithmetic of constants, bit for bit what a kernel computes at run time. Integers are held as the int64 of their value, bools as 0 and
/// 1. Floating-point arithmetic is left to the run time; only conversions that are exact by definition are done here.
/// </summary>
internal static class ScalarArithmetic
{
    /// <summary>Bits of an integer type.</summary>
    public static int Width(DType element) => element is DType.Int64 ? 64 : element is DType.Int8 or DType.UInt8 ? 8 : element == DType.Bool ? 1 : 32;

    /// <summary>The value that an integer or bool type keeps of a number.</summary>
    public static long Wrap(DType element, long value) => element switch
    {
        DType.Bool => value != 0 ? 1 : 0,
        DType.Int8 => (sbyte)value,
        DType.UInt8 => (byte)value,
        DType.Int32 => (int)value,
        DType.UInt32 => (uint)value,
        _ => value,
    };

    /// <summary>The value that a floating-point type keeps of a constant.</summary>
    public static double Round(DType element, double value) => element switch
    {
        DType.Float32 => (float)value,
        DType.BFloat16 => (BFloat16)value,
        DType.Float16 => (double)(Half)value,
        _ => value,
    };

    /// <summary>The result of an integer or bool operation of two operands; null if it has none (division by zero) or is not one.</summary>
    public static long? Binary(Opcode opcode, DType element, long x, long y)
    {
        var count = (int)(y & (Width(element) - 1));
        long? result = opcode switch
        {
            Opcode.Add => x + y,
            Opcode.Subtract => x - y,
            Opcode.Multiply => x * y,
            Opcode.Divide => y == 0 ? null : y == -1 ? -x : x / y,
            Opcode.Remainder => y == 0 ? null : y == -1 ? 0 : x % y,
            Opcode.Minimum => Math.Min(x, y),
            Opcode.Maximum => Math.Max(x, y),
            Opcode.And => x & y,
            Opcode.Or => x | y,
            Opcode.Xor => x ^ y,
            Opcode.ShiftLeft => x << count,
            Opcode.ShiftRight => x >> count,
            _ => null,
        };
        return result is { } value ? Wrap(element, value) : null;
    }

    /// <summary>The result of an integer or bool operation of one operand; null if it is not one.</summary>
    public static long? Unary(Opcode opcode, DType element, long x) => opcode switch
    {
        Opcode.Negate => Wrap(element, -x),
        Opcode.Not => element == DType.Bool ? 1 - x : Wrap(element, ~x),
        Opcode.Absolute => Wrap(element, x < 0 ? -x : x),
        _ => null,
    };

    /// <summary>The truth of an integer comparison.</summary>
    public static bool Compare(Comparison comparison, long x, long y) => comparison switch
    {
        Comparison.Equal => x == y,
        Comparison.NotEqual => x != y,
        Comparison.Less => x < y,
        Comparison.LessOrEqual => x <= y,
        Comparison.Greater => x > y,
        _ => x >= y,
    };

    /// <summary>An integer or bool constant converted to another type: an integer, or a number if that type is a float; null if the conversion is left to the run time.</summary>
    public static (long Integer, double Number)? Cast(long value, DType to) => to switch
    {
        DType.Bool => null,
        DType.Float32 => (0, (float)value),
        DType.Float64 => (0, (double)value),
        DType.BFloat16 or DType.Float16 => value is >= -(1L << 53) and <= 1L << 53 ? (0, Round(to, value)) : null,
        _ => (Wrap(to, value), 0),
    };

    /// <summary>A floating-point constant converted to another type; null if the conversion is left to the run time.</summary>
    public static (long Integer, double Number)? Cast(double value, DType to)
    {
        if (double.IsNaN(value) || to == DType.Bool) return null;
        if (to.IsFloat()) return (0, Round(to, value));
        var truncated = Math.Truncate(value);
        // Beyond these bounds conversions saturate; that is for the run time to do.
        var isInside = Math.Abs(truncated) <= (to is DType.Int8 or DType.UInt8 ? 127 : to is DType.Int64 ? 1L << 62 : int.MaxValue) && (truncated >= 0 || to is not (DType.UInt8 or DType.UInt32));
        return isInside ? ((long)truncated, 0) : null;
    }
}
