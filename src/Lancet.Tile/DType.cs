namespace Lancet.Tile;

/// <summary>Element type of a buffer in memory or of a tile in a kernel.</summary>
public enum DType
{
    /// <summary>Truth value; exists only inside kernels and has no memory format.</summary>
    Bool,

    /// <summary>IEEE 754 binary32.</summary>
    Float32,

    /// <summary>The upper half of a binary32: 8 exponent bits, 7 mantissa bits.</summary>
    BFloat16,

    /// <summary>IEEE 754 binary16.</summary>
    Float16,

    /// <summary>IEEE 754 binary64; CPU and tests only.</summary>
    Float64,

    /// <summary>Signed 8-bit integer.</summary>
    Int8,

    /// <summary>Unsigned 8-bit integer.</summary>
    UInt8,

    /// <summary>Signed 32-bit integer.</summary>
    Int32,

    /// <summary>Unsigned 32-bit integer.</summary>
    UInt32,

    /// <summary>Signed 64-bit integer.</summary>
    Int64,
}

/// <summary>Facts about <see cref="DType"/> values.</summary>
public static class DTypeExtensions
{
    /// <summary>Bytes of one element in memory.</summary>
    /// <exception cref="ArgumentException"><paramref name="dtype"/> is <see cref="DType.Bool"/>, which has no memory format.</exception>
    public static int SizeInBytes(this DType dtype) => dtype switch
    {
        DType.Float32 or DType.Int32 or DType.UInt32 => 4,
        DType.BFloat16 or DType.Float16 => 2,
        DType.Float64 or DType.Int64 => 8,
        DType.Int8 or DType.UInt8 => 1,
        _ => throw new ArgumentException($"{dtype} has no memory format.", nameof(dtype)),
    };

    /// <summary>Whether the type is one of the floating-point types.</summary>
    public static bool IsFloat(this DType dtype) => dtype is DType.Float32 or DType.BFloat16 or DType.Float16 or DType.Float64;

    /// <summary>Whether the type is one of the integer types.</summary>
    public static bool IsInteger(this DType dtype) => dtype is DType.Int8 or DType.UInt8 or DType.Int32 or DType.UInt32 or DType.Int64;

    /// <summary>The type that statistics, sums and masters have beside data of this type: fp64 for fp64, else fp32.</summary>
    public static DType Accumulator(this DType dtype) => dtype == DType.Float64 ? DType.Float64 : DType.Float32;
}
