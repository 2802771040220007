using Lancet.Devices;
using Lancet.Tensors;
using Lancet.Tile;
using static Lancet.Tile.TileMath;

namespace Lancet.Kernels;

/// <summary>
/// Root-mean-square norm over the last axis (Zhang and Sennrich 2019), of whole rows or of every head of a row.
/// <code>
/// forward    r = 1/√(mean(x²) + ε)     y = x·r·w            (Gemma: x·r·(1 + w))
/// backward   n = x·r     u = dy·w (or dy·(1 + w))
///            dx (+)= r·(u − n·mean(u·n))        dw += Σ_rows dy·n
/// </code>
/// Statistics are fp32 and the result is rounded once. Kept: x (which the residual stream holds anyway) and r. dx may overwrite dy.
/// </summary>
/// <param name="columns">Extent of the normed axis.</param>
/// <param name="heads">Normed pieces side by side in a row; 1 for whole rows.</param>
/// <param name="epsilon">ε.</param>
/// <param name="isWeightPlusOne">Whether the scale is 1 + w.</param>
public sealed class RmsNormKernel(int columns, int heads, double epsilon, bool isWeightPlusOne)
{
    /// <summary>Programs that sum dw side by side; fixed, so that the order of the sum is.</summary>
    private const int WeightPrograms = 512;
    private const int WeightElements = 4096;
    private const int MaxWeightWidth = 512;

    private static readonly KernelSet<Choice> ForwardKernels = new(TraceForward);
    private static readonly KernelSet<Choice> BackwardKernels = new(TraceBackward);
    private static readonly KernelSet<Choice> WeightKernels = new(TraceWeight);

    /// <summary>y = norm(x) and r.</summary>
    /// <param name="device">Device.</param>
    /// <param name="rows">Tokens.</param>
    /// <param name="x">[rows, heads · columns].</param>
    /// <param name="weight">[columns], fp32 (fp64 beside fp64).</param>
    /// <param name="y">Like x; may be x.</param>
    /// <param name="rstd">[rows · heads] that is written.</param>
    public void Forward(Device device, int rows, ColumnSlice x, Tensor weight, ColumnSlice y, Tensor rstd) => device.Launch(
        ForwardKernels[new(columns, epsilon, isWeightPlusOne, x.Tensor.DType, x.RowStride, y.RowStride, 0, false)], new Grid(rows, heads), [x.Tensor, weight, y.Tensor, rstd]);

    /// <summary>dx (+)= gradient of x.</summary>
    /// <param name="device">Device.</param>
    /// <param name="rows">Tokens.</param>
    /// <param name="dy">Gradient of y.</param>
    /// <param name="x">The forward pass's input.</param>
    /// <param name="weight">[columns].</param>
    /// <param name="rstd">From the forward pass.</param>
    /// <param name="dx">Like x; may be dy when it is not added to.</param>
    /// <param name="isAdded">Whether the gradient is added to dx.</param>
    public void Backward(Device device, int rows, ColumnSlice dy, ColumnSlice x, Tensor weight, Tensor rstd, ColumnSlice dx, bool isAdded) => device.Launch(
        BackwardKernels[new(columns, epsilon, isWeightPlusOne, x.Tensor.DType, x.RowStride, dy.RowStride, dx.RowStride, isAdded)], new Grid(rows, heads),
        [dy.Tensor, x.Tensor, weight, rstd, dx.Tensor]);

    /// <summary>dw += gradient of the scale. To be called before <see cref="Backward"/> overwrites dy.</summary>
    /// <param name="device">Device.</param>
    /// <param name="rows">Tokens.</param>
    /// <param name="dy">Gradient of y.</param>
    /// <param name="x">The forward pass's input.</param>
    /// <param name="rstd">From the forward pass.</param>
    /// <param name="partial">Workspace of <see cref="PartialShape"/>.</param>
    /// <param name="gradient">[columns].</param>
    public void BackwardWeight(Device device, int rows, ColumnSlice dy, ColumnSlice x, Tensor rstd, Tensor partial, Tensor gradient)
    {
        var shares = (int)PartialShape(rows)[0];
        device.Launch(
            WeightKernels[new(columns, epsilon, isWeightPlusOne, x.Tensor.DType, x.RowStride, dy.RowStride, heads, false)], new Grid(shares, Blocks.Of(columns, WeightWidth(columns))),
            [dy.Tensor, x.Tensor, rstd, partial, rows * heads, Blocks.Of(rows * heads, shares)]);
        ColumnSumKernel.AddRows(device, partial, gradient);
    }

    /// <summary>Shape of the workspace that <see cref="BackwardWeight"/> needs, in the accumulator's type.</summary>
    public Shape PartialShape(int rows) => new(Math.Max(1, Math.Min(Blocks.Of(rows * heads, WeightElements / WeightWidth(columns)), WeightPrograms / Blocks.Of(columns, WeightWidth(columns)))), columns);

    private static Kernel TraceForward(Choice choice) => Kernel.Trace("rms_norm_forward", k =>
    {
        var accumulator = choice.DType.Accumulator();
        var x = k.Pointer(choice.DType, "x");
        var w = k.Pointer(accumulator, "weight");
        var y = k.Pointer(choice.DType, "y");
        var rstd = k.Pointer(accumulator, "rstd");
        var (row, head) = (k.ProgramId(0), k.ProgramId(1));
        var column = k.Range(Blocks.PowerOfTwo(choice.Columns));
        var inside = column < choice.Columns;
        var value = k.Load(x + (row.ToInt64() * choice.StrideX + head * choice.Columns + column), inside).ToFloat32();
        var r = Rsqrt(Sum(value * value) / choice.Columns + choice.Epsilon);
        k.Store(rstd + (row * k.ProgramCount(1) + head), r);
        var scale = k.Load(w + column, inside);
        if (choice.IsWeightPlusOne) scale += 1;
        k.Store(y + (row.ToInt64() * choice.StrideY + head * choice.Columns + column), (value * r * scale).To(choice.DType), inside);
    });

    private static Kernel TraceBackward(Choice choice) => Kernel.Trace("rms_norm_backward", k =>
    {
        var accumulator = choice.DType.Accumulator();
        var dy = k.Pointer(choice.DType, "dy");
        var x = k.Pointer(choice.DType, "x");
        var w = k.Pointer(accumulator, "weight");
        var rstd = k.Pointer(accumulator, "rstd");
        var dx = k.Pointer(choice.DType, "dx");
        var (row, head) = (k.ProgramId(0), k.ProgramId(1));
        var column = k.Range(Blocks.PowerOfTwo(choice.Columns));
        var inside = column < choice.Columns;
        var r = k.Load(rstd + (row * k.ProgramCount(1) + head));
        var normed = k.Load(x + (row.ToInt64() * choice.StrideX + head * choice.Columns + column), inside).ToFloat32() * r;
        var scale = k.Load(w + column, inside);
        if (choice.IsWeightPlusOne) scale += 1;
        var u = k.Load(dy + (row.ToInt64() * choice.StrideY + head * choice.Columns + column), inside).ToFloat32() * scale;
        var gradient = r * (u - normed * (Sum(u * normed) / choice.Columns));
        var target = dx + (row.ToInt64() * choice.StrideZ + head * choice.Columns + column);
        if (choice.IsAdded) gradient += k.Load(target, inside).ToFloat32();
        k.Store(target, gradient.To(choice.DType), inside);
    });

    // StrideZ holds the number of heads. A program sums a share of the rows for a block of columns, several pieces at a time, so that many loads
    // are under way at once and little is left to sum up.
    private static Kernel TraceWeight(Choice choice) => Kernel.Trace("rms_norm_backward_weight", k =>
    {
        var accumulator = choice.DType.Accumulator();
        var dy = k.Pointer(choice.DType, "dy");
        var x = k.Pointer(choice.DType, "x");
        var rstd = k.Pointer(accumulator, "rstd");
        var partial = k.Pointer(accumulator, "partial");
        var pieces = k.Scalar(DType.Int32, "pieces");
        var piecesPerProgram = k.Scalar(DType.Int32, "pieces_per_program");
        var heads = (int)choice.StrideZ;
        var width = WeightWidth(choice.Columns);
        var height = WeightElements / width;
        var column = k.ProgramId(1) * width + k.Range(width);
        var first = k.ProgramId(0) * piecesPerProgram;
        var end = Min(first + piecesPerProgram, pieces);
        var sums = k.For(first, end, k.Constant(DType.Int32, height), [k.Zeros(accumulator, height, width)], (start, carried) =>
        {
            var piece = start + k.Range(height);
            var (row, head) = (piece / heads, piece % heads);
            var inside = (piece < end).AsColumn() & (column < choice.Columns).AsRow();
            Tile.Tile Read(Pointer from, long stride) => k.Load(from + ((row.ToInt64() * stride + (head * choice.Columns).ToInt64()).AsColumn() + column.ToInt64().AsRow()), inside).ToFloat32();
            return [carried[0] + Read(dy, choice.StrideY) * (Read(x, choice.StrideX) * k.Load(rstd + piece, piece < end).AsColumn())];
        })[0];
        k.Store(partial + (k.ProgramId(0) * choice.Columns + column), Sum(sums, 0), column < choice.Columns);
    });

    private static int WeightWidth(int columns) => Math.Min(MaxWeightWidth, Blocks.PowerOfTwo(columns));

    private readonly record struct Choice(int Columns, double Epsilon, bool IsWeightPlusOne, DType DType, long StrideX, long StrideY, long StrideZ, bool IsAdded);
}
