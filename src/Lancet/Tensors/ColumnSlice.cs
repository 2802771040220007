using Lancet.Tile;

namespace Lancet.Tensors;

/// <summary>A [rows, columns] block inside a wider row-major buffer; the columns are known from the context.</summary>
/// <param name="Tensor">Starts at the block's first element.</param>
/// <param name="RowStride">Elements from one row to the next.</param>
public readonly record struct ColumnSlice(Tensor Tensor, long RowStride)
{
    /// <summary>A whole dense matrix as a slice of itself.</summary>
    public static implicit operator ColumnSlice(Tensor tensor) => new(tensor, tensor.Shape.RowCount);

    /// <summary>The block that starts at a column of a dense matrix.</summary>
    public static ColumnSlice Of(Tensor tensor, long column) => new(
        new Tensor((nint)(tensor.Address + (column * tensor.DType.SizeInBytes())), tensor.DType, new Shape(tensor.Count - column)), tensor.Shape.RowCount);

    /// <summary>The block as a kernel's argument.</summary>
    public KernelArgument Argument(long rows, long columns) => KernelArgument.Pointer(Tensor.Address, Tensor.DType, Tensor.Count, rows * columns);

    /// <summary>The block that starts some columns further on.</summary>
    public ColumnSlice At(long column) => Of(new Tensor(Tensor.Address, Tensor.DType, new Shape(Tensor.Count)), column) with { RowStride = RowStride };
}
