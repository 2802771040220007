namespace Lancet.Tile.Lowering.Threads;

/// <summary>
/// How a matrix of 16-bit elements lies in shared memory for the products of warp groups (PTX ISA, "Asynchronous warpgroup-level matrix
/// instructions: matrix descriptor"). Rows have 128, 64 or 32 bytes and are swizzled over that width, eight rows a group.
/// </summary>
/// <param name="Pitch">Bytes of a row: 128, 64 or 32.</param>
/// <param name="Leading">Bytes between panels of rows, where an operand's outer extent runs along the rows and is longer than one; else unused.</param>
/// <param name="Stride">Bytes between groups of eight rows.</param>
/// <param name="Address">First byte in shared memory.</param>
internal readonly record struct MatrixDescriptor(int Pitch, int Leading, int Stride, int Address)
{
    private const int Unit = 16;
    private const int FieldMask = 0x3FFF;
    private const int LeadingShift = 16, StrideShift = 32, ModeShift = 62;

    /// <summary>Bytes that one unit of a descriptor's low bits stands for.</summary>
    public const int AddressUnit = Unit;

    /// <summary>The low half but for the address.</summary>
    public long LowBits => (long)(Leading / Unit) << LeadingShift;

    /// <summary>The high half.</summary>
    public long HighBits => ((long)(Stride / Unit) << (StrideShift - 32)) | (Mode << (ModeShift - 32));

    private long Mode => Pitch switch
    {
        128 => 1,
        64 => 2,
        32 => 3,
        _ => throw new ArgumentException($"Rows of {Pitch} bytes have no descriptor."),
    };

    /// <summary>A descriptor's fields.</summary>
    public static MatrixDescriptor Of(ulong bits) => new(
        (bits >> ModeShift) switch { 1 => 128, 2 => 64, 3 => 32, _ => 0 },
        (int)(bits >> LeadingShift & FieldMask) * Unit, (int)(bits >> StrideShift & FieldMask) * Unit, (int)(bits & FieldMask) * Unit);

    /// <summary>
    /// Shared address of the element at place <paramref name="outer"/> (row of A, column of B) and <paramref name="inner"/> (summed extent, 0 to
    /// 15). <paramref name="isInnerStored"/>: stored rows run along the summed extent.
    /// </summary>
    public int Of(int outer, int inner, bool isInnerStored)
    {
        var (row, column) = isInnerStored ? (inner, outer) : (outer, inner);
        var columns = Pitch / 2;
        var linear = Address + (row % 8 * Pitch) + (row / 8 * Stride) + (column / columns * Leading) + (column % columns * 2);
        return linear ^ ((linear >> 7 & ((Pitch / 16) - 1)) << 4);
    }
}
