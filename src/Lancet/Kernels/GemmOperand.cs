using Lancet.Tile;

namespace Lancet.Kernels;

/// <summary>A product's operand as it is stored, and how it is loaded.</summary>
/// <param name="Pointer">First element.</param>
/// <param name="IsTransposed">Whether the operand is the transpose of what is stored.</param>
/// <param name="Stride">Elements from stored row to stored row.</param>
internal readonly record struct GemmOperand(Pointer Pointer, bool IsTransposed, long Stride)
{
    /// <summary>A block [rows, depth] of the left operand, along the stored rows.</summary>
    public Tile.Tile Left(KernelBuilder kernel, Tile.Tile row, Tile.Tile? rowInside, Tile.Tile depth, Tile.Tile? depthInside) =>
        IsTransposed ? Stored(kernel, depth, depthInside, row, rowInside).Transposed() : Stored(kernel, row, rowInside, depth, depthInside);

    /// <summary>A block [depth, columns] of the right operand.</summary>
    public Tile.Tile Right(KernelBuilder kernel, Tile.Tile depth, Tile.Tile? depthInside, Tile.Tile column, Tile.Tile? columnInside) =>
        IsTransposed ? Stored(kernel, column, columnInside, depth, depthInside).Transposed() : Stored(kernel, depth, depthInside, column, columnInside);

    /// <summary>The condition of a block from those of its rows and columns; null where there is none.</summary>
    public static Tile.Tile? Inside(Tile.Tile? rows, Tile.Tile? columns) =>
        rows is null ? columns?.AsRow() : columns is null ? rows.AsColumn() : rows.AsColumn() & columns.AsRow();

    private Tile.Tile Stored(KernelBuilder kernel, Tile.Tile row, Tile.Tile? rowInside, Tile.Tile column, Tile.Tile? columnInside) =>
        kernel.Load(Pointer + ((row.ToInt64() * Stride).AsColumn() + column.ToInt64().AsRow()), Inside(rowInside, columnInside));
}
