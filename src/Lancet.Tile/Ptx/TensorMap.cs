namespace Lancet.Tile.Ptx;

/// <summary>
/// A matrix in global memory from which a kernel copies whole blocks (TMA): what the driver makes a tensor map of at each launch, a parameter of 128 bytes
/// behind the kernel's own. Blocks lie in shared memory with the 128-byte swizzle; rows past the last are zeros.
/// </summary>
/// <param name="Pointer">Number of the argument that points to the first element; divisible by 16 bytes.</param>
/// <param name="Rows">Number of the argument that holds the number of rows (int32).</param>
/// <param name="Stride">Elements from row to row; a multiple of 16 bytes.</param>
/// <param name="BlockRows">Rows of a block, at most 256.</param>
/// <param name="Element">Dtype, of 16 bits.</param>
public sealed record TensorMap(int Pointer, int Rows, long Stride, int BlockRows, DType Element)
{
    /// <summary>Columns of a block: 128 bytes.</summary>
    public const int BlockColumns = 64;

    /// <summary>Bytes of a tensor map.</summary>
    public const int Bytes = 128;

    /// <summary>What its address must be a multiple of.</summary>
    public const int Alignment = 64;
}
