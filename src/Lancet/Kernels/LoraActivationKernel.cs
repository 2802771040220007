using Lancet.Devices;
using Lancet.Tensors;
using Lancet.Tile;
using static Lancet.Tile.TileMath;

namespace Lancet.Kernels;

/// <summary>
/// <see cref="GatedActivationKernel"/> with the inputs' side of the down projection's adapter, in one pass over what is large:
/// <code>
/// forward    h = f(e)·g      u = h·Aᵀ [T, r]
/// backward   de = dh·g·f'(e)      dg = dh·f(e)      dA += vᵀ·h [r, width]
/// </code>
/// The adapter does not read h from memory, and the backward pass does not write it again. h is rounded as the operand that it would be, sums are fp32, u is rounded once. Programs take a strip of columns and a block or a
/// share of rows; other kernels add up what they leave, in order.
/// </summary>
/// <param name="activation">f.</param>
/// <param name="width">Intermediate size: columns of h, half of those of [e | g].</param>
public sealed class LoraActivationKernel(GatedActivation activation, int width)
{
    private const int Warps = 4;
    private const int WidestStrip = 1024;
    private const int BackwardRows = 32;
    private const int BackwardColumns = 64;
    private const int BackwardPrograms = 2112;
    private const int Stages = 3;
    private static readonly KernelSet<Choice> ForwardKernels = new(TraceForward);
    private static readonly KernelSet<Choice> BackwardKernels = new(TraceBackward);

    /// <summary>Whether the kernels take an adapter: 16-bit operands for tensor cores, whole strips of columns, and a rank whose sums a program holds in registers.</summary>
    public bool Suits(int rank, DType dtype) => LoraInputBlocks.Suit(1, rank, dtype) && width % BackwardColumns == 0;

    /// <summary>Workspace of <see cref="Forward"/> for sums of u, in the accumulator's type. More rows never need less.</summary>
    public Shape ForwardPartialShape(int rows, int rank) => LoraInputBlocks.StripSums(rows, width, rank, WidestStrip);

    /// <summary>Workspace of <see cref="Backward"/> for the gradient of A, in the accumulator's type. More rows never need less.</summary>
    public Shape BackwardPartialShape(int rows, int rank) => new(Shares(rows), (long)rank * width);

    /// <summary>h, and sums that <see cref="AddUp"/> makes u of.</summary>
    /// <param name="device">Device.</param>
    /// <param name="rows">T.</param>
    /// <param name="gateUp">[e | g]: [T, 2·width].</param>
    /// <param name="h">[T, width] that is written.</param>
    /// <param name="a">A [r, width].</param>
    /// <param name="rank">r.</param>
    /// <param name="partial">Of <see cref="ForwardPartialShape"/>.</param>
    public void Forward(Device device, int rows, ColumnSlice gateUp, ColumnSlice h, ColumnSlice a, int rank, Tensor partial)
    {
        if (rows == 0) return;
        var (strip, strips) = Strips(rows);
        device.Launch(
            ForwardKernels[new(activation, width, rank, h.Tensor.DType, gateUp.RowStride, h.RowStride, a.RowStride)], new Grid(Blocks.Of(rows, LoraInputBlocks.ForwardRows), strips),
            [gateUp.Argument(rows, 2L * width), h.Argument(rows, width), a.Argument(rank, width), LoraInputSums.Argument(partial, rows, rank, strips), rows, strip]);
    }

    /// <summary>u.</summary>
    /// <param name="device">Device.</param>
    /// <param name="rows">T.</param>
    /// <param name="rank">r.</param>
    /// <param name="partial">As <see cref="Forward"/> left it for as many rows.</param>
    /// <param name="u">[T, r] that is written.</param>
    public void AddUp(Device device, int rows, int rank, Tensor partial, ColumnSlice u)
    {
        var strips = Strips(rows).Count;
        LoraInputSums.AddUp(device, rows, rank, strips, LoraInputSums.Argument(partial, rows, rank, strips), u);
    }

    /// <summary>Gradients, with that of A added to.</summary>
    /// <param name="device">Device.</param>
    /// <param name="rows">T.</param>
    /// <param name="gateUp">[e | g]: [T, 2·width] before, [de | dg] after.</param>
    /// <param name="dh">[T, width].</param>
    /// <param name="v">[T, r].</param>
    /// <param name="rank">r.</param>
    /// <param name="partial">Of <see cref="BackwardPartialShape"/>.</param>
    /// <param name="gradient">[r, width] in the accumulator's type.</param>
    public void Backward(Device device, int rows, ColumnSlice gateUp, ColumnSlice dh, ColumnSlice v, int rank, Tensor partial, Tensor gradient)
    {
        if (rows == 0) return;
        var shares = Shares(rows);
        device.Launch(
            BackwardKernels[new(activation, width, rank, dh.Tensor.DType, gateUp.RowStride, dh.RowStride, v.RowStride)], new Grid(width / BackwardColumns, shares),
            [gateUp.Argument(rows, 2L * width), dh.Argument(rows, width), v.Argument(rows, rank), partial, rows, LoraInputBlocks.RowsPerShare(rows, shares, BackwardRows)]);
        ColumnSumKernel.AddRows(device, partial, gradient);
    }

    private int Shares(int rows) => LoraInputBlocks.Shares(BackwardPrograms, width / BackwardColumns, rows, BackwardRows);

    // Columns of a strip of the forward pass, and how many strips there are.
    private (int Columns, int Count) Strips(int rows)
    {
        var strip = LoraInputBlocks.Strip(rows, width, WidestStrip);
        return (strip, Blocks.Of(width, strip));
    }

    private static Kernel TraceForward(Choice choice) => Kernel.Trace("lora_activation_forward", k =>
    {
        k.Warps = Warps;
        var gateUp = k.Pointer(choice.DType, "gate_up");
        var hidden = k.Pointer(choice.DType, "h");
        var a = k.Pointer(choice.DType, "a");
        var partial = k.Pointer(choice.Accumulator, "partial_u");
        var rows = k.Scalar(DType.Int32, "rows");
        var strip = k.Scalar(DType.Int32, "strip");
        var (row, inner) = (k.ProgramId(0) * LoraInputBlocks.ForwardRows + k.Range(LoraInputBlocks.ForwardRows), k.Range(choice.Rank));
        var inside = (row < rows).AsColumn();
        var first = k.ProgramId(1) * strip;
        var sum = k.For(first, Min(first + strip, k.Constant(DType.Int32, choice.Width)), k.Constant(DType.Int32, LoraInputBlocks.ForwardColumns), [k.Zeros(choice.Accumulator, LoraInputBlocks.ForwardRows, choice.Rank)], (start, carried) =>
        {
            var column = start + k.Range(LoraInputBlocks.ForwardColumns);
            var weights = k.Load(a + ((inner.ToInt64() * choice.OtherStride).AsColumn() + column.ToInt64().AsRow()));
            var gate = gateUp + ((row.ToInt64() * choice.GateUpStride).AsColumn() + column.ToInt64().AsRow());
            var (e, g) = (k.Load(gate, inside, staged: true).ToFloat32(), k.Load(gate + choice.Width, inside, staged: true).ToFloat32());
            var h = (GatedActivationKernel.Activate(choice.Activation, e, out _) * g).To(choice.DType);
            k.Store(hidden + ((row.ToInt64() * choice.Stride).AsColumn() + column.ToInt64().AsRow()), h, inside);
            return [Dot(h, weights.Transposed(), carried[0])];
        }, stages: Stages)[0];
        var target = (k.ProgramId(1).ToInt64() * rows.ToInt64() + row.ToInt64()) * choice.Rank;
        k.Store(partial + (target.AsColumn() + inner.ToInt64().AsRow()), sum, inside);
    });

    private static Kernel TraceBackward(Choice choice) => Kernel.Trace("lora_activation_backward", k =>
    {
        k.Warps = Warps;
        var gateUp = k.Pointer(choice.DType, "gate_up");
        var gradients = k.Pointer(choice.DType, "d_h");
        var v = k.Pointer(choice.DType, "v");
        var partial = k.Pointer(choice.Accumulator, "partial_a");
        var rows = k.Scalar(DType.Int32, "rows");
        var rowsPerShare = k.Scalar(DType.Int32, "rows_per_share");
        var column = k.ProgramId(0) * BackwardColumns + k.Range(BackwardColumns);
        var inner = k.Range(LoraInputBlocks.Extent(choice.Rank));
        var isRank = inner < choice.Rank;
        var share = k.ProgramId(1);
        var first = share * rowsPerShare;
        var end = Min(first + rowsPerShare, rows);
        var sum = k.For(first, end, k.Constant(DType.Int32, BackwardRows), [k.Zeros(choice.Accumulator, LoraInputBlocks.Extent(choice.Rank), BackwardColumns)], (start, carried) =>
        {
            var row = start + k.Range(BackwardRows);
            var inside = (row < end).AsColumn();
            var factors = k.Load(v + ((row.ToInt64() * choice.OtherStride).AsColumn() + inner.ToInt64().AsRow()), inside & isRank.AsRow());
            var gate = gateUp + ((row.ToInt64() * choice.GateUpStride).AsColumn() + column.ToInt64().AsRow());
            var up = gate + choice.Width;
            var (e, g) = (k.Load(gate, inside, staged: true).ToFloat32(), k.Load(up, inside, staged: true).ToFloat32());
            var dh = k.Load(gradients + ((row.ToInt64() * choice.Stride).AsColumn() + column.ToInt64().AsRow()), inside, staged: true).ToFloat32();
            var f = GatedActivationKernel.Activate(choice.Activation, e, out var derivative);
            k.Store(gate, (dh * g * derivative).To(choice.DType), inside);
            k.Store(up, (dh * f).To(choice.DType), inside);
            return [Dot(factors.Transposed(), (f * g).To(choice.DType), carried[0])];
        }, stages: Stages)[0];
        k.Store(partial + (((share * choice.Rank + inner).ToInt64() * choice.Width).AsColumn() + column.ToInt64().AsRow()), sum, isRank.AsColumn());
    });

    private readonly record struct Choice(GatedActivation Activation, int Width, int Rank, DType DType, long GateUpStride, long Stride, long OtherStride)
    {
        public DType Accumulator => DType.Accumulator();
    }
}
