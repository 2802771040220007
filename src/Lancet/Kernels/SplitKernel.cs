using Lancet.Devices;
using Lancet.Tensors;
using Lancet.Tile;
using static Lancet.Tile.TileMath;

namespace Lancet.Kernels;

/// <summary>Which pieces of an fp32 matrix are written, in order; a piece may come up more than once.</summary>
public enum SplitPattern
{
    /// <summary>The matrix rounded: [h].</summary>
    Rounded,

    /// <summary>All 24 bits in three pieces: [h, m, l].</summary>
    Exact,

    /// <summary>[h, h, m]: left operand of h·h' + h·m' + m·h'.</summary>
    Left,

    /// <summary>[h, m, h]: right operand of the same sum.</summary>
    Right,
}

/// <summary>
/// Exact products of fp32 numbers on bf16 tensor cores. An fp32 number is the sum of three bf16 numbers, each the rest of what the ones
/// before it left: h = bf16(x), m = bf16(x − h), l = bf16(x − h − m); the differences are exact in fp32.
/// <code>
/// one operand fp32     x·Aᵀ = x·hᵀ + x·mᵀ + x·lᵀ       one product with [h; m; l] side by side, whose three blocks are added up in fp32
/// both operands fp32   u·Bᵀ ≈ h·h'ᵀ + h·m'ᵀ + m·h'ᵀ    one product of depth 3K; leaves out terms of 2⁻¹⁶, for results rounded to 16 bits
/// </code>
/// The pieces lie side by side (each row holds the row of every piece) or one below the other.
/// </summary>
public static class SplitKernel
{
    private static readonly KernelSet<(SplitPattern Pattern, DType To, int Columns, long Stride, bool IsSideBySide)> SplitKernels = new(TraceSplit);
    private static readonly KernelSet<(DType DType, int Columns, long Stride, bool IsSideBySide, bool IsAdded, bool HasBias)> SumKernels = new(TraceSum);

    /// <summary>Number of matrices that a pattern writes.</summary>
    public static int PieceCount(SplitPattern pattern) => pattern == SplitPattern.Rounded ? 1 : 3;

    /// <summary>Writes the pieces of a matrix.</summary>
    /// <param name="device">Device.</param>
    /// <param name="pattern">Which.</param>
    /// <param name="source">fp32, as many rows as fit.</param>
    /// <param name="rows">Rows.</param>
    /// <param name="columns">Columns.</param>
    /// <param name="stride">Elements from one row of the source to the next.</param>
    /// <param name="target">bf16 (or fp16, <see cref="SplitPattern.Rounded"/> only): pieces · rows · columns, dense.</param>
    /// <param name="isSideBySide">Whether the pieces' rows alternate.</param>
    public static void Split(Device device, SplitPattern pattern, Tensor source, int rows, int columns, long stride, Tensor target, bool isSideBySide) => device.Launch(
        SplitKernels[(pattern, target.DType, columns, stride, isSideBySide)], new Grid(Blocks.Of((long)rows * columns, Blocks.Elementwise)), [source, target, rows]);

    /// <summary>C = Σ pieces + β·C + bias.</summary>
    /// <param name="device">Device.</param>
    /// <param name="pieces">fp32, three matrices of C's shape.</param>
    /// <param name="isSideBySide">Whether the pieces' rows alternate.</param>
    /// <param name="rows">Rows of C.</param>
    /// <param name="columns">Columns of C.</param>
    /// <param name="c">fp32, bf16 or fp16.</param>
    /// <param name="stride">Elements from one row of C to the next.</param>
    /// <param name="beta">β; with 0, C is not read.</param>
    /// <param name="bias">fp32 [columns], or absent.</param>
    public static void Sum(Device device, Tensor pieces, bool isSideBySide, int rows, int columns, Tensor c, long stride, float beta, Tensor bias) => device.Launch(
        SumKernels[(c.DType, columns, stride, isSideBySide, beta != 0, bias.Exists)], new Grid(Blocks.Of((long)rows * columns, Blocks.Elementwise)),
        [pieces, c, bias.Exists ? bias : pieces, rows, beta]);

    private static Kernel TraceSplit((SplitPattern Pattern, DType To, int Columns, long Stride, bool IsSideBySide) choice) => Kernel.Trace("split", k =>
    {
        var source = k.Pointer(DType.Float32, "source");
        var target = k.Pointer(choice.To, "target");
        var rows = k.Scalar(DType.Int32, "rows");
        var (index, row, column, inside) = Place(k, rows, choice.Columns);
        var x = k.Load(source + (row * choice.Stride + column), inside);
        var high = x.To(choice.To);
        var pieces = new List<Tile.Tile> { high };
        if (choice.Pattern != SplitPattern.Rounded)
        {
            // An infinity has no rest: ∞ − ∞ would put NaN beside it.
            var rest = Select(Abs(x) < double.PositiveInfinity, x - high.ToFloat32(), 0);
            var middle = rest.To(choice.To);
            pieces = choice.Pattern switch
            {
                SplitPattern.Left => [high, high, middle],
                SplitPattern.Right => [high, middle, high],
                _ => [high, middle, (rest - middle.ToFloat32()).To(choice.To)],
            };
        }
        for (var piece = 0; piece < pieces.Count; piece++) k.Store(target + PieceOffset(piece, pieces.Count, index, row, rows, choice.Columns, choice.IsSideBySide), pieces[piece], inside);
    });

    private static Kernel TraceSum((DType DType, int Columns, long Stride, bool IsSideBySide, bool IsAdded, bool HasBias) choice) => Kernel.Trace("split_sum", k =>
    {
        var source = k.Pointer(DType.Float32, "pieces");
        var c = k.Pointer(choice.DType, "c");
        var bias = k.Pointer(DType.Float32, "bias");
        var rows = k.Scalar(DType.Int32, "rows");
        var beta = k.Scalar(DType.Float32, "beta");
        var (index, row, column, inside) = Place(k, rows, choice.Columns);
        Tile.Tile Piece(int piece) => k.Load(source + PieceOffset(piece, 3, index, row, rows, choice.Columns, choice.IsSideBySide), inside);
        // Small terms first.
        var sum = Piece(2) + Piece(1) + Piece(0);
        var target = c + (row * choice.Stride + column);
        if (choice.IsAdded) sum += beta * k.Load(target, inside).ToFloat32();
        if (choice.HasBias) sum += k.Load(bias + column, inside);
        k.Store(target, sum.To(choice.DType), inside);
    });

    private static (Tile.Tile Index, Tile.Tile Row, Tile.Tile Column, Tile.Tile Inside) Place(KernelBuilder k, Tile.Tile rows, int columns)
    {
        var index = k.ProgramId(0).ToInt64() * Blocks.Elementwise + k.Range(Blocks.Elementwise).ToInt64();
        return (index, index / columns, index % columns, index < rows.ToInt64() * columns);
    }

    private static Tile.Tile PieceOffset(int piece, int count, Tile.Tile index, Tile.Tile row, Tile.Tile rows, int columns, bool isSideBySide) =>
        // Side by side, row r of piece p starts at (r·count + p)·columns.
        isSideBySide ? index + (row * ((count - 1L) * columns) + (long)piece * columns) : index + rows.ToInt64() * ((long)piece * columns);
}
