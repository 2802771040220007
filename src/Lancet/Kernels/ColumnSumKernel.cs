using Lancet.Devices;
using Lancet.Tensors;
using Lancet.Tile;
using static Lancet.Tile.TileMath;

namespace Lancet.Kernels;

/// <summary>
/// Sums over rows in a fixed order, for gradients of biases and scales: first <c>partial[p] = Σ_rows of share p</c>, then
/// <c>gradient += Σ_p partial[p]</c>.
/// </summary>
public static class ColumnSumKernel
{
    private const int MostShares = 64;
    private const int Programs = 768;
    private const int Width = 256;
    private const int RowBlock = 16;
    private const int AddWidth = 32;
    private const int AddRowBlock = 64;

    private static readonly KernelSet<(DType DType, long Stride, int Columns)> PartialKernels = new(TracePartial);
    private static readonly KernelSet<(DType DType, int Columns)> AddKernels = new(TraceAdd);

    /// <summary>gradient += Σ_rows x.</summary>
    /// <param name="device">Device.</param>
    /// <param name="rows">Rows of x.</param>
    /// <param name="x">[rows, columns].</param>
    /// <param name="partial">Workspace of <see cref="PartialShape"/> in the accumulator's type.</param>
    /// <param name="gradient">[columns].</param>
    public static void Add(Device device, int rows, ColumnSlice x, Tensor partial, Tensor gradient)
    {
        var (programs, columns) = ((int)partial.Shape[0], (int)partial.Shape[1]);
        device.Launch(PartialKernels[(x.Tensor.DType, x.RowStride, columns)], new Grid(programs, Blocks.Of(columns, Width)), [x.Tensor, partial, rows, Blocks.Of(rows, programs)]);
        AddRows(device, partial, gradient);
    }

    /// <summary>Shape of the workspace for a number of rows. Wide rows are cut into fewer shares, so that an H100 has all programs under way at once and less is left to sum up.</summary>
    public static Shape PartialShape(int rows, int columns) => new(Math.Clamp(Math.Min(rows, Programs / Blocks.Of(columns, Width)), 1, MostShares), columns);

    /// <summary>gradient += Σ_p partial[p].</summary>
    internal static void AddRows(Device device, Tensor partial, Tensor gradient) => device.Launch(
        AddKernels[(partial.DType, (int)partial.Shape[1])], new Grid(Blocks.Of(partial.Shape[1], AddWidth)), [partial, gradient, (int)partial.Shape[0]]);

    private static Kernel TracePartial((DType DType, long Stride, int Columns) choice) => Kernel.Trace("column_sum_partial", k =>
    {
        var x = k.Pointer(choice.DType, "x");
        var partial = k.Pointer(choice.DType.Accumulator(), "partial");
        var rows = k.Scalar(DType.Int32, "rows");
        var rowsPerProgram = k.Scalar(DType.Int32, "rows_per_program");
        var column = k.ProgramId(1) * Width + k.Range(Width);
        var inside = column < choice.Columns;
        var first = k.ProgramId(0) * rowsPerProgram;
        var end = Min(first + rowsPerProgram, rows);
        // Blocks of rows, here and below, so that many loads are under way at once.
        var sums = k.For(first, end, k.Constant(DType.Int32, RowBlock), [k.Zeros(choice.DType.Accumulator(), RowBlock, Width)], (start, carried) =>
        {
            var row = start + k.Range(RowBlock);
            return [carried[0] + k.Load(x + ((row.ToInt64() * choice.Stride).AsColumn() + column.ToInt64().AsRow()), (row < end).AsColumn() & inside.AsRow()).ToFloat32()];
        })[0];
        k.Store(partial + (k.ProgramId(0) * choice.Columns + column), Sum(sums, 0), inside);
    });

    private static Kernel TraceAdd((DType DType, int Columns) choice) => Kernel.Trace("column_sum_add", k =>
    {
        var partial = k.Pointer(choice.DType, "partial");
        var gradient = k.Pointer(choice.DType, "gradient");
        var count = k.Scalar(DType.Int32, "partials");
        var column = k.ProgramId(0) * AddWidth + k.Range(AddWidth);
        var inside = column < choice.Columns;
        var sums = k.For(k.Constant(DType.Int32, 0), count, k.Constant(DType.Int32, AddRowBlock), [k.Zeros(choice.DType, AddRowBlock, AddWidth)], (first, carried) =>
        {
            var row = first + k.Range(AddRowBlock);
            return [carried[0] + k.Load(partial + ((row * choice.Columns).AsColumn() + column.AsRow()), (row < count).AsColumn() & inside.AsRow())];
        })[0];
        k.Store(gradient + column, k.Load(gradient + column, inside) + Sum(sums, 0), inside);
    });
}
