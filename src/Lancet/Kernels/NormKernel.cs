using Lancet.Devices;
using Lancet.Tensors;
using Lancet.Tile;
using static Lancet.Tile.TileMath;

namespace Lancet.Kernels;

/// <summary>What a norm computes.</summary>
public enum NormKind
{
    /// <summary>Root-mean-square norm (Zhang and Sennrich 2019).</summary>
    RootMeanSquare,

    /// <summary>Root-mean-square norm that scales by 1 + w (Gemma).</summary>
    RootMeanSquarePlusOne,

    /// <summary>Layer norm without a bias (Ba, Kiros and Hinton 2016; Cohere).</summary>
    Layer,
}

/// <summary>
/// Norms over the last axis, of whole rows or of every head of a row.
/// <code>
/// root mean square   n = x·r          r = 1/√(mean(x²) + ε)
/// layer              n = (x − m)·r    m = mean(x), r = 1/√(mean((x − m)²) + ε)
/// forward    y = n·w            (Gemma: n·(1 + w))     or y = residual + s·n·w
/// backward   u = dy·w (or dy·(1 + w))
///            dx (+)= r·(u − n·mean(u·n))        layer: r·(u − mean(u) − n·mean(u·n))
///            dw += Σ_rows dy·n
/// </code>
/// Statistics are fp32 and the result is rounded once. Kept: x (which the residual stream holds anyway) and r, with m behind it. dx may overwrite dy.
/// </summary>
/// <param name="columns">Extent of the normed axis.</param>
/// <param name="heads">Normed pieces side by side in a row; 1 for whole rows.</param>
/// <param name="epsilon">ε.</param>
/// <param name="kind">What is computed.</param>
/// <param name="hasHeadScales">Whether each piece of a row has scales of its own, w [heads, columns], instead of sharing w [columns].</param>
public sealed class NormKernel(int columns, int heads, double epsilon, NormKind kind, bool hasHeadScales = false)
{
    /// <summary>Programs that sum dw side by side; fixed, so that the order of the sum is.</summary>
    private const int WeightPrograms = 512;
    private const int WeightElements = 4096;
    private const int MaxWeightWidth = 512;

    private static readonly KernelSet<Choice> ForwardKernels = new(TraceForward);
    private static readonly KernelSet<Choice> BackwardKernels = new(TraceBackward);
    private static readonly KernelSet<Choice> WeightKernels = new(TraceWeight);

    /// <summary>Numbers that are kept of a normed piece.</summary>
    private readonly int _statistics = StatisticsOf(kind);

    /// <summary>Columns of the scales' gradient, and pieces of that width in a row.</summary>
    private readonly (int Columns, int Pieces) _scales = hasHeadScales ? (columns * heads, 1) : (columns, heads);

    /// <summary>Numbers that are kept of a normed piece: r, and m behind it.</summary>
    internal static int StatisticsOf(NormKind kind) => kind == NormKind.Layer ? 2 : 1;

    /// <summary>Numbers in the statistics of a pass.</summary>
    /// <param name="rows">Tokens.</param>
    public long StatisticsCount(int rows) => (long)rows * heads * _statistics;

    /// <summary>y = norm(x) and its statistics.</summary>
    /// <param name="device">Device.</param>
    /// <param name="rows">Tokens.</param>
    /// <param name="x">[rows, heads · columns].</param>
    /// <param name="weight">Scales, fp32 (fp64 beside fp64).</param>
    /// <param name="y">Like x; may be x.</param>
    /// <param name="statistics"><see cref="StatisticsCount"/> numbers that are written.</param>
    /// <param name="chosen">Rows of x, int32 [rows], one for each of y; absent for all.</param>
    public void Forward(Device device, int rows, ColumnSlice x, Tensor weight, ColumnSlice y, Tensor statistics, Tensor chosen = default) => device.Launch(
        ForwardKernels[new(columns, hasHeadScales, epsilon, kind, x.Tensor.DType, x.RowStride, y.RowStride, 0, false) { IsChosen = chosen.Exists }],
        new Grid(rows, heads), chosen.Exists ? [x.Tensor, weight, y.Tensor, statistics, chosen] : [x.Tensor, weight, y.Tensor, statistics]);

    /// <summary>y = residual + s·norm(x), rounded once, and its statistics.</summary>
    /// <param name="device">Device.</param>
    /// <param name="rows">Tokens.</param>
    /// <param name="x">[rows, heads · columns].</param>
    /// <param name="weight">Scales, fp32 (fp64 beside fp64).</param>
    /// <param name="residual">Like x.</param>
    /// <param name="factor">s.</param>
    /// <param name="y">Like x; may be the residual.</param>
    /// <param name="statistics"><see cref="StatisticsCount"/> numbers that are written.</param>
    public void ForwardAdded(Device device, int rows, ColumnSlice x, Tensor weight, ColumnSlice residual, double factor, ColumnSlice y, Tensor statistics) => device.Launch(
        ForwardKernels[new(columns, hasHeadScales, epsilon, kind, x.Tensor.DType, x.RowStride, y.RowStride, residual.RowStride, true) { Factor = factor }],
        new Grid(rows, heads), [x.Tensor, weight, y.Tensor, statistics, residual.Tensor]);

    /// <summary>dx (+)= gradient of x.</summary>
    /// <param name="device">Device.</param>
    /// <param name="rows">Tokens.</param>
    /// <param name="dy">Gradient of y.</param>
    /// <param name="x">The forward pass's input.</param>
    /// <param name="weight">Scales.</param>
    /// <param name="statistics">From the forward pass.</param>
    /// <param name="dx">Like x; may be dy when it is not added to.</param>
    /// <param name="isAdded">Whether the gradient is added to dx.</param>
    /// <param name="slots">Which row of dy and of the statistics belongs to each row of x, int32 [rows], −1 for none, which gives zeros; absent where they are the same. dx is then not dy.</param>
    public void Backward(Device device, int rows, ColumnSlice dy, ColumnSlice x, Tensor weight, Tensor statistics, ColumnSlice dx, bool isAdded, Tensor slots = default) => device.Launch(
        BackwardKernels[new(columns, hasHeadScales, epsilon, kind, x.Tensor.DType, x.RowStride, dy.RowStride, dx.RowStride, isAdded) { IsChosen = slots.Exists }],
        new Grid(rows, heads), slots.Exists ? [dy.Tensor, x.Tensor, weight, statistics, dx.Tensor, slots] : [dy.Tensor, x.Tensor, weight, statistics, dx.Tensor]);

    /// <summary>dw += gradient of the scale. To be called before <see cref="Backward"/> overwrites dy.</summary>
    /// <param name="device">Device.</param>
    /// <param name="rows">Tokens.</param>
    /// <param name="dy">Gradient of y.</param>
    /// <param name="x">The forward pass's input.</param>
    /// <param name="statistics">From the forward pass.</param>
    /// <param name="partial">Workspace of <see cref="PartialShape"/>.</param>
    /// <param name="gradient">Like the scales.</param>
    /// <param name="chosen">As in the forward pass, where it was given; of whole rows only.</param>
    public void BackwardWeight(Device device, int rows, ColumnSlice dy, ColumnSlice x, Tensor statistics, Tensor partial, Tensor gradient, Tensor chosen = default)
    {
        var (shares, pieces) = ((int)PartialShape(rows)[0], rows * _scales.Pieces);
        var choice = new Choice(columns, hasHeadScales, epsilon, kind, x.Tensor.DType, x.RowStride, dy.RowStride, heads, false) { IsChosen = chosen.Exists };
        var piecesPerProgram = Blocks.Of(pieces, shares);
        device.Launch(
            WeightKernels[choice], new Grid(shares, Blocks.Of(_scales.Columns, WeightWidth(_scales.Columns))),
            chosen.Exists ? [dy.Tensor, x.Tensor, statistics, partial, pieces, piecesPerProgram, chosen] : [dy.Tensor, x.Tensor, statistics, partial, pieces, piecesPerProgram]);
        ColumnSumKernel.AddRows(device, partial, gradient);
    }

    /// <summary>Shape of the workspace that <see cref="BackwardWeight"/> needs, in the accumulator's type.</summary>
    public Shape PartialShape(int rows)
    {
        var width = WeightWidth(_scales.Columns);
        return new(Math.Max(1, Math.Min(Blocks.Of(rows * _scales.Pieces, WeightElements / width), WeightPrograms / Blocks.Of(_scales.Columns, width))), _scales.Columns);
    }

    private static Kernel TraceForward(Choice choice) => Kernel.Trace(choice.Name + "_forward", k =>
    {
        var accumulator = choice.DType.Accumulator();
        var x = k.Pointer(choice.DType, "x");
        var w = k.Pointer(accumulator, "weight");
        var y = k.Pointer(choice.DType, "y");
        var statistics = k.Pointer(accumulator, "statistics");
        k.Warps = choice.Warps;
        var (row, head) = (k.ProgramId(0), k.ProgramId(1));
        var source = choice.IsChosen ? k.Load(k.Pointer(DType.Int32, "chosen") + row) : row;
        var parts = PartsOf(k, choice.Columns);
        Tile.Tile[] values = [.. parts.Select(part => k.Load(x + (source.ToInt64() * choice.StrideX + head * choice.Columns + part.Column), part.Inside).ToFloat32())];
        var kept = statistics + (row * k.ProgramCount(1) + head) * choice.Statistics;
        if (choice.Kind == NormKind.Layer)
        {
            var mean = SumOf(values) / choice.Columns;
            k.Store(kept + 1, mean);
            values = [.. values.Zip(parts, (value, part) => Select(part.Inside, value - mean, 0))];
        }
        var r = Rsqrt(SumOf(values.Select(value => value * value)) / choice.Columns + choice.Epsilon);
        k.Store(kept, r);
        Pointer? residual = choice.IsAdded ? k.Pointer(choice.DType, "residual") : null;
        foreach (var (value, (column, inside)) in values.Zip(parts))
        {
            var result = value * r * Scale(k, choice, w, head, column, inside);
            if (choice.Factor != 1) result *= choice.Factor;
            if (residual is not null) result += k.Load(residual + (row.ToInt64() * choice.StrideZ + head * choice.Columns + column), inside).ToFloat32();
            k.Store(y + (row.ToInt64() * choice.StrideY + head * choice.Columns + column), result.To(choice.DType), inside);
        }
    });

    private static Kernel TraceBackward(Choice choice) => Kernel.Trace(choice.Name + "_backward", k =>
    {
        var accumulator = choice.DType.Accumulator();
        var dy = k.Pointer(choice.DType, "dy");
        var x = k.Pointer(choice.DType, "x");
        var w = k.Pointer(accumulator, "weight");
        var statistics = k.Pointer(accumulator, "statistics");
        var dx = k.Pointer(choice.DType, "dx");
        k.Warps = choice.Warps;
        var (row, head) = (k.ProgramId(0), k.ProgramId(1));
        var column = k.Range(Blocks.PowerOfTwo(choice.Columns));
        var inside = column < choice.Columns;
        var slot = choice.IsChosen ? k.Load(k.Pointer(DType.Int32, "slots") + row) : row;
        var source = choice.IsChosen ? Max(slot, 0) : row;
        var kept = statistics + (source * k.ProgramCount(1) + head) * choice.Statistics;
        var r = k.Load(kept);
        var value = k.Load(x + (row.ToInt64() * choice.StrideX + head * choice.Columns + column), inside).ToFloat32();
        if (choice.Kind == NormKind.Layer) value = Select(inside, value - k.Load(kept + 1), 0);
        var normed = value * r;
        var scale = Scale(k, choice, w, head, column, inside);
        var u = k.Load(dy + (source.ToInt64() * choice.StrideY + head * choice.Columns + column), inside).ToFloat32() * scale;
        var along = u - normed * (Sum(u * normed) / choice.Columns);
        if (choice.Kind == NormKind.Layer) along -= Sum(u) / choice.Columns;
        var gradient = choice.IsChosen ? Select(slot >= 0, r * along, 0) : r * along;
        var target = dx + (row.ToInt64() * choice.StrideZ + head * choice.Columns + column);
        if (choice.IsAdded) gradient += k.Load(target, inside).ToFloat32();
        k.Store(target, gradient.To(choice.DType), inside);
    });

    // StrideZ holds the number of heads. A program sums a share of the rows for a block of columns, several pieces at a time, so that many loads
    // are under way at once and little is left to sum up.
    private static Kernel TraceWeight(Choice choice) => Kernel.Trace(choice.Name + "_backward_weight", k =>
    {
        var accumulator = choice.DType.Accumulator();
        var dy = k.Pointer(choice.DType, "dy");
        var x = k.Pointer(choice.DType, "x");
        var statistics = k.Pointer(accumulator, "statistics");
        var partial = k.Pointer(accumulator, "partial");
        var pieces = k.Scalar(DType.Int32, "pieces");
        var piecesPerProgram = k.Scalar(DType.Int32, "pieces_per_program");
        Pointer? chosen = choice.IsChosen ? k.Pointer(DType.Int32, "chosen") : null;
        var heads = (int)choice.StrideZ;
        // With scales of its own each head is a block of columns of a whole row; else the heads are pieces one after the other.
        var columns = choice.HasHeadScales ? choice.Columns * heads : choice.Columns;
        var width = WeightWidth(columns);
        var height = WeightElements / width;
        var column = k.ProgramId(1) * width + k.Range(width);
        var first = k.ProgramId(0) * piecesPerProgram;
        var end = Min(first + piecesPerProgram, pieces);
        var sums = k.For(first, end, k.Constant(DType.Int32, height), [k.Zeros(accumulator, height, width)], (start, carried) =>
        {
            var piece = start + k.Range(height);
            var inside = (piece < end).AsColumn() & (column < columns).AsRow();
            var offset = choice.HasHeadScales ? null : ((piece % heads) * choice.Columns).ToInt64();
            var row = (choice.HasHeadScales ? piece : piece / heads).ToInt64();
            Tile.Tile Read(Pointer from, Tile.Tile row, long stride) => k.Load(from + ((offset is null ? row * stride : row * stride + offset).AsColumn() + column.ToInt64().AsRow()), inside).ToFloat32();
            Tile.Tile Kept(int which) => choice.HasHeadScales
                ? k.Load(statistics + ((piece * heads).AsColumn() + (column / choice.Columns).AsRow()) * choice.Statistics + which, inside)
                : k.Load(statistics + piece * choice.Statistics + which, piece < end).AsColumn();
            var value = Read(x, chosen is null ? row : k.Load(chosen + piece, piece < end).ToInt64(), choice.StrideX);
            if (choice.Kind == NormKind.Layer) value -= Kept(1);
            return [carried[0] + Read(dy, row, choice.StrideY) * (value * Kept(0))];
        })[0];
        k.Store(partial + (k.ProgramId(0) * columns + column), Sum(sums, 0), column < columns);
    });

    // A row in equal parts whose extent is a power of two, as few as exceed it by an eighth at most: 2304 columns are five parts of 512 rather than half of 4096. (The backward pass, with
    // three loads for each column, is faster with the 4096.)
    private static Part[] PartsOf(KernelBuilder k, int columns)
    {
        const int narrowest = 256;
        int Excess(int width) => (Blocks.Of(columns, width) * width) - columns;
        var width = Blocks.PowerOfTwo(columns);
        for (var half = width / 2; half >= narrowest && Excess(width) * 8 > columns; half /= 2)
            if (Excess(half) < Excess(width)) width = half;
        return [.. Enumerable.Range(0, Blocks.Of(columns, width)).Select(i => i * width + k.Range(width)).Select(column => new Part(column, column < columns))];
    }

    private static Tile.Tile SumOf(IEnumerable<Tile.Tile> parts) => Sum(parts.Aggregate((a, b) => a + b));

    private static Tile.Tile Scale(KernelBuilder k, Choice choice, Pointer w, Tile.Tile head, Tile.Tile column, Tile.Tile inside)
    {
        var scale = k.Load(w + (choice.HasHeadScales ? head * choice.Columns + column : column), inside);
        return choice.Kind == NormKind.RootMeanSquarePlusOne ? scale + 1 : scale;
    }

    private static int WeightWidth(int columns) => Math.Min(MaxWeightWidth, Blocks.PowerOfTwo(columns));

    /// <summary>Columns of a part of a row, and which of them there are.</summary>
    private readonly record struct Part(Tile.Tile Column, Tile.Tile Inside);

    private readonly record struct Choice(int Columns, bool HasHeadScales, double Epsilon, NormKind Kind, DType DType, long StrideX, long StrideY, long StrideZ, bool IsAdded)
    {
        /// <summary>s, where the result is added to a residual.</summary>
        public double Factor { get; init; } = 1;

        /// <summary>Whether rows of the normed side are some of x's.</summary>
        public bool IsChosen { get; init; }

        public string Name => Kind == NormKind.Layer ? "layer_norm" : "rms_norm";

        // At most 32 elements a thread, so that a row and its gradient stay in registers (Command R+: 12,288 columns).
        public int Warps => Math.Clamp(Blocks.PowerOfTwo(Columns) / 1024, 4, 32);

        public int Statistics => StatisticsOf(Kind);
    }
}
