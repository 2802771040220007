using Lancet.Devices;
using Lancet.Tensors;
using Lancet.Tile;
using static Lancet.Tile.TileMath;

namespace Lancet.Kernels;

/// <summary>Plain passes over memory: y += x, y += factor·x, conversion, and the sum of a step's losses.</summary>
public static class ElementwiseKernel
{
    private static readonly KernelSet<(DType From, DType To, bool IsAdded)> Kernels = new(Trace);
    private static readonly KernelSet<DType> SumKernels = new(TraceSum);
    private static readonly KernelSet<RowsChoice> RowsKernels = new(TraceRows);
    private static readonly Kernel ScaleKernel = TraceScale();

    /// <summary>y += x.</summary>
    public static void AddTo(Device device, Tensor x, Tensor y) => Launch(device, x, y, true);

    /// <summary>y = x, converted to y's dtype.</summary>
    public static void Convert(Device device, Tensor x, Tensor y) => Launch(device, x, y, false);

    /// <summary>y = factor · x for blocks of wider matrices, converted to y's dtype.</summary>
    /// <param name="device">Device.</param>
    /// <param name="rows">Rows of the block.</param>
    /// <param name="columns">Columns of the block.</param>
    /// <param name="x">Source.</param>
    /// <param name="y">Target.</param>
    /// <param name="factor">Factor, multiplied in fp32.</param>
    public static void ConvertRows(Device device, int rows, int columns, ColumnSlice x, ColumnSlice y, float factor = 1) => LaunchRows(device, rows, columns, x, y, factor, false);

    /// <summary>y += factor · x for blocks of wider matrices; parameters as in <see cref="ConvertRows"/>.</summary>
    public static void AddRows(Device device, int rows, int columns, ColumnSlice x, ColumnSlice y, float factor = 1) => LaunchRows(device, rows, columns, x, y, factor, true);

    /// <summary>y ← factor · y.</summary>
    /// <param name="device">Device.</param>
    /// <param name="y">fp32.</param>
    /// <param name="factor">Factor.</param>
    public static void Scale(Device device, Tensor y, float factor) => device.Launch(ScaleKernel, new Grid(Blocks.Of(y.Count, Blocks.Elementwise)), [y, factor, y.Count]);

    /// <summary>total[0] += Σ x, in fp64 and in order.</summary>
    /// <param name="device">Device.</param>
    /// <param name="x">fp32 or fp64 of any count.</param>
    /// <param name="total">fp64 [1].</param>
    public static void AddSum(Device device, Tensor x, Tensor total) => device.Launch(SumKernels[x.DType], new Grid(1), [x, total, (int)x.Count]);

    private static void Launch(Device device, Tensor x, Tensor y, bool isAdded)
    {
        if (x.Count != y.Count) throw new ArgumentException($"{x} beside {y}.");
        device.Launch(Kernels[(x.DType, y.DType, isAdded)], new Grid(Blocks.Of(x.Count, Blocks.Elementwise)), [x, y, x.Count]);
    }

    private static void LaunchRows(Device device, int rows, int columns, ColumnSlice x, ColumnSlice y, float factor, bool isAdded)
    {
        var width = Math.Min(Blocks.PowerOfTwo(columns), Blocks.Elementwise);
        var choice = new RowsChoice(x.Tensor.DType, y.Tensor.DType, columns, width, Blocks.Elementwise / width, isAdded);
        device.Launch(RowsKernels[choice], new Grid(Blocks.Of(rows, choice.Height), Blocks.Of(columns, width)), [x.Argument(rows, columns), y.Argument(rows, columns), rows, x.RowStride, y.RowStride, factor]);
    }

    private static Kernel Trace((DType From, DType To, bool IsAdded) choice) => Kernel.Trace(choice.IsAdded ? "add_to" : "convert", k =>
    {
        var x = k.Pointer(choice.From, "x");
        var y = k.Pointer(choice.To, "y");
        var count = k.Scalar(DType.Int64, "count");
        var index = k.ProgramId(0).ToInt64() * Blocks.Elementwise + k.Range(Blocks.Elementwise).ToInt64();
        var inside = index < count;
        var value = k.Load(x + index, inside).To(choice.To.Accumulator());
        if (choice.IsAdded) value += k.Load(y + index, inside).ToFloat32();
        k.Store(y + index, value.To(choice.To), inside);
    });

    private static Kernel TraceRows(RowsChoice choice) => Kernel.Trace(choice.IsAdded ? "add_rows" : "convert_rows", k =>
    {
        var x = k.Pointer(choice.From, "x");
        var y = k.Pointer(choice.To, "y");
        var rows = k.Scalar(DType.Int32, "rows");
        var strideX = k.Scalar(DType.Int64, "stride_x");
        var strideY = k.Scalar(DType.Int64, "stride_y");
        var factor = k.Scalar(DType.Float32, "factor");
        var accumulator = choice.To.Accumulator();
        var row = k.ProgramId(0) * choice.Height + k.Range(choice.Height);
        var column = k.ProgramId(1) * choice.Width + k.Range(choice.Width);
        var inside = (row < rows).AsColumn() & (column < choice.Columns).AsRow();
        var value = k.Load(x + ((row.ToInt64() * strideX).AsColumn() + column.ToInt64().AsRow()), inside).To(accumulator) * factor.To(accumulator);
        var target = y + ((row.ToInt64() * strideY).AsColumn() + column.ToInt64().AsRow());
        if (choice.IsAdded) value += k.Load(target, inside).To(accumulator);
        k.Store(target, value.To(choice.To), inside);
    });

    private static Kernel TraceScale() => Kernel.Trace("scale", k =>
    {
        var y = k.Pointer(DType.Float32, "y");
        var factor = k.Scalar(DType.Float32, "factor");
        var count = k.Scalar(DType.Int64, "count");
        var index = k.ProgramId(0).ToInt64() * Blocks.Elementwise + k.Range(Blocks.Elementwise).ToInt64();
        k.Store(y + index, k.Load(y + index, index < count) * factor, index < count);
    });

    private static Kernel TraceSum(DType dtype) => Kernel.Trace("sum", k =>
    {
        var x = k.Pointer(dtype, "x");
        var total = k.Pointer(DType.Float64, "total");
        var count = k.Scalar(DType.Int32, "count");
        var lane = k.Range(Blocks.Elementwise);
        var sums = k.For(k.Constant(DType.Int32, 0), count, k.Constant(DType.Int32, Blocks.Elementwise), [k.Zeros(DType.Float64, Blocks.Elementwise)], (first, carried) =>
            [carried[0] + k.Load(x + (first + lane), first + lane < count).To(DType.Float64)])[0];
        k.Store(total, k.Load(total) + Sum(sums));
    });

    private readonly record struct RowsChoice(DType From, DType To, int Columns, int Width, int Height, bool IsAdded);
}
