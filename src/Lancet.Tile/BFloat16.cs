using System.Runtime.CompilerServices;

namespace Lancet.Tile;

/// <summary>
/// The 16-bit "brain" floating-point format: the upper half of an IEEE 754 binary32. .NET 10 has no such type.
/// Conversion from <see cref="float"/> rounds to nearest, ties to even, and keeps NaN a NaN.
/// </summary>
public readonly struct BFloat16 : IEquatable<BFloat16>
{
    private BFloat16(ushort bits) => Bits = bits;

    /// <summary>The raw 16 bits: sign, 8 exponent bits, 7 mantissa bits.</summary>
    public ushort Bits { get; }

    /// <summary>The value whose raw bits are <paramref name="bits"/>.</summary>
    public static BFloat16 FromBits(ushort bits) => new(bits);

    /// <summary>Rounds to the nearest representable value, ties to even.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static explicit operator BFloat16(float value)
    {
        var bits = BitConverter.SingleToUInt32Bits(value);
        return float.IsNaN(value)
            ? new((ushort)((bits >> 16) | 0x40))
            : new((ushort)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16));
    }

    /// <summary>
    /// Rounds to the nearest representable value, ties to even, once: going through binary32 would let what the first rounding drops decide
    /// the ties of the second. The step between rounds "to odd", which keeps whether anything was dropped (Boldo and Melquiond, 2008).
    /// </summary>
    public static explicit operator BFloat16(double value)
    {
        var single = (float)value;
        if (single == value || double.IsNaN(value)) return (BFloat16)single;
        var bits = BitConverter.SingleToUInt32Bits(single);
        if (Math.Abs((double)single) > Math.Abs(value)) bits--;
        return (BFloat16)BitConverter.UInt32BitsToSingle(bits | 1);
    }

    /// <summary>Widens exactly.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static implicit operator float(BFloat16 value) => BitConverter.UInt32BitsToSingle((uint)value.Bits << 16);

    /// <summary>Rounds a binary32 to the nearest value representable as bfloat16, kept as binary32.</summary>
    public static float Round(float value) => (BFloat16)value;

    /// <inheritdoc/>
    public bool Equals(BFloat16 other) => Bits == other.Bits;

    /// <inheritdoc/>
    public override bool Equals(object? obj) => obj is BFloat16 other && Equals(other);

    /// <inheritdoc/>
    public override int GetHashCode() => Bits;

    /// <summary>Bitwise equality.</summary>
    public static bool operator ==(BFloat16 left, BFloat16 right) => left.Bits == right.Bits;

    /// <summary>Bitwise inequality.</summary>
    public static bool operator !=(BFloat16 left, BFloat16 right) => left.Bits != right.Bits;

    /// <inheritdoc/>
    public override string ToString() => ((float)this).ToString(System.Globalization.CultureInfo.InvariantCulture);
}
