using Lancet.Devices;
using Lancet.Tensors;
using Lancet.Tile;
using static Lancet.Tile.TileMath;

namespace Lancet.Kernels;

/// <summary>
/// Gradients of A for adapters whose input is a norm of whole rows, n = norm(x) as <see cref="NormKernel"/> has it, in one pass over x:
/// <code>
/// dAᵢ += vᵢᵀ·n [r, columns]
/// </code>
/// n is made again as an operand, with the bits of the forward pass, and not written to memory. Programs take a strip of columns and a share of the rows; another kernel adds up what they leave, in order.
/// </summary>
/// <param name="columns">Extent of the normed axis.</param>
/// <param name="kind">What the norm computes.</param>
public sealed class LoraNormKernel(int columns, NormKind kind)
{
    private const int Warps = 4;
    private const int Rows = 32;
    private const int WideStrip = 128;
    private const int NarrowStrip = 64;
    private const int Stages = 2;

    // For four programs a multiprocessor of an H100: more leave more to add up.
    private const int Programs = 528;
    private static readonly KernelSet<Choice> Kernels = new(Trace);
    private readonly int _strip = columns % WideStrip == 0 ? WideStrip : NarrowStrip;

    /// <summary>Whether the kernel takes so many adapters of a rank: 16-bit operands for tensor cores, whole strips of columns, and ranks whose sums a program holds in registers.</summary>
    public bool Suits(int count, int rank, DType dtype) => LoraInputBlocks.Suit(count, rank, dtype) && columns % NarrowStrip == 0;

    /// <summary>Workspace of <see cref="AddGradients"/> in the accumulator's type. More rows never need less.</summary>
    public Shape PartialShape(int rows, int count, int rank) => new(Shares(rows), (long)count * rank * columns);

    /// <summary>Gradients of all A added to.</summary>
    /// <param name="device">Device.</param>
    /// <param name="rows">T.</param>
    /// <param name="x">The norm's input [T, columns].</param>
    /// <param name="weight">The norm's scales, fp32.</param>
    /// <param name="statistics">From the norm's forward pass.</param>
    /// <param name="v">[T, r·count].</param>
    /// <param name="count">Adapters, up to three.</param>
    /// <param name="rank">r of each.</param>
    /// <param name="partial">Of <see cref="PartialShape"/>.</param>
    /// <param name="gradient">[r·count, columns] in the accumulator's type.</param>
    public void AddGradients(Device device, int rows, ColumnSlice x, Tensor weight, Tensor statistics, ColumnSlice v, int count, int rank, Tensor partial, Tensor gradient)
    {
        if (rows == 0) return;
        var shares = Shares(rows);
        device.Launch(
            Kernels[new(columns, _strip, kind, count, rank, x.Tensor.DType, x.RowStride, v.RowStride)], new Grid(columns / _strip, shares),
            [x.Argument(rows, columns), weight, statistics, v.Argument(rows, (long)count * rank), partial, rows, LoraInputBlocks.RowsPerShare(rows, shares, Rows)]);
        ColumnSumKernel.AddRows(device, partial, gradient);
    }

    private int Shares(int rows) => LoraInputBlocks.Shares(Programs, columns / _strip, rows, Rows);

    private static Kernel Trace(Choice choice) => Kernel.Trace("lora_norm_gradients", k =>
    {
        k.Warps = Warps;
        var x = k.Pointer(choice.DType, "x");
        var weight = k.Pointer(choice.Accumulator, "weight");
        var statistics = k.Pointer(choice.Accumulator, "statistics");
        var v = k.Pointer(choice.DType, "v");
        var partial = k.Pointer(choice.Accumulator, "partial_a");
        var rows = k.Scalar(DType.Int32, "rows");
        var rowsPerShare = k.Scalar(DType.Int32, "rows_per_share");
        var column = k.ProgramId(0) * choice.Strip + k.Range(choice.Strip);
        var inner = k.Range(LoraInputBlocks.Extent(choice.Rank));
        var isRank = inner < choice.Rank;
        var scale = k.Load(weight + column);
        if (choice.Kind == NormKind.RootMeanSquarePlusOne) scale += 1;
        var share = k.ProgramId(1);
        var first = share * rowsPerShare;
        var end = Min(first + rowsPerShare, rows);
        var sums = k.For(first, end, k.Constant(DType.Int32, Rows), [.. Enumerable.Repeat(k.Zeros(choice.Accumulator, LoraInputBlocks.Extent(choice.Rank), choice.Strip), choice.Count)], (start, carried) =>
        {
            var row = start + k.Range(Rows);
            var isInside = row < end;
            var inside = isInside.AsColumn();
            Tile.Tile Kept(int which) => k.Load(statistics + (row * choice.Statistics + which), isInside).AsColumn();
            var value = k.Load(x + ((row.ToInt64() * choice.StrideX).AsColumn() + column.ToInt64().AsRow()), inside, staged: true).ToFloat32();
            if (choice.Kind == NormKind.Layer) value -= Kept(1);
            var normed = (value * Kept(0) * scale.AsRow()).To(choice.DType);
            return [.. carried.Select((sum, i) =>
            {
                var factors = k.Load(v + ((row.ToInt64() * choice.StrideV).AsColumn() + (inner + i * choice.Rank).ToInt64().AsRow()), inside & isRank.AsRow());
                return Dot(factors.Transposed(), normed, sum);
            })];
        }, stages: Stages);
        for (var i = 0; i < sums.Length; i++)
        {
            var target = (share * (choice.Count * choice.Rank) + inner + i * choice.Rank).ToInt64() * choice.Columns;
            k.Store(partial + (target.AsColumn() + column.ToInt64().AsRow()), sums[i], isRank.AsColumn());
        }
    });

    private readonly record struct Choice(int Columns, int Strip, NormKind Kind, int Count, int Rank, DType DType, long StrideX, long StrideV)
    {
        public DType Accumulator => DType.Accumulator();

        public int Statistics => NormKernel.StatisticsOf(Kind);
    }
}
