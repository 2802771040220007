using Lancet.Devices;
using Lancet.Tensors;
using Lancet.Tile;
using static Lancet.Tile.TileMath;

namespace Lancet.Kernels;

/// <summary>Adapters of one input whose elements each drops for itself, as <see cref="LoraDropoutKernel"/> sees them.</summary>
/// <param name="Inputs">Columns of the input.</param>
/// <param name="Count">Projections, up to three.</param>
/// <param name="Rank">r of each.</param>
/// <param name="Probability">p, the share of dropped elements.</param>
/// <param name="SecondSite">Place in the model of the second projection, less the first's: their masks differ by it.</param>
/// <param name="ThirdSite">The third's, likewise.</param>
public readonly record struct LoraInputs(int Inputs, int Count, int Rank, double Probability, int SecondSite = 0, int ThirdSite = 0)
{
    /// <summary>Columns of u and v.</summary>
    public int Columns => Rank * Count;

    /// <summary>Place in the model of a projection, less the first's.</summary>
    internal int SiteOf(int projection) => projection switch { 0 => 0, 1 => SecondSite, _ => ThirdSite };
}

/// <summary>
/// The inputs' side of LoRA adapters with dropout, for all projections of one input in one pass over it:
/// <code>
/// dᵢ = dropoutᵢ(x)      uᵢ = dᵢ·Aᵢᵀ [T, r]
/// backward              dx = Σᵢ dropoutᵢ'(vᵢ·Aᵢ) [T, in]      dAᵢ += vᵢᵀ·dᵢ [r, in]
/// </code>
/// No dᵢ and no product of v and A is written to memory: masks are drawn again where they are needed, which costs less. dᵢ is rounded as an operand, dx once, from fp32. Programs take a strip of columns and a block or a share
/// of rows; other kernels add up what they leave, in order.
/// </summary>
public static class LoraDropoutKernel
{
    private const int Warps = 4;
    private const int WidestStrip = 512;
    private const int BackwardRows = 32;
    private const int BackwardColumns = 64;
    private const int Stages = 3;
    private const int BackwardPrograms = 2112;
    private static readonly KernelSet<Choice> ForwardKernels = new(TraceForward);
    private static readonly KernelSet<Choice> BackwardKernels = new(TraceBackward);

    /// <summary>Whether the kernels take these adapters: 16-bit operands for tensor cores, whole strips of columns, and ranks whose sums a program holds in registers.</summary>
    public static bool Suits(LoraInputs inputs, DType dtype) =>
        LoraInputBlocks.Suit(inputs.Count, inputs.Rank, dtype) && inputs.Inputs % BackwardColumns == 0;

    /// <summary>Workspace of <see cref="Forward"/> in the accumulator's type. More rows never need less.</summary>
    public static Shape ForwardPartialShape(int rows, LoraInputs inputs) => LoraInputBlocks.StripSums(rows, inputs.Inputs, inputs.Columns, WidestStrip);

    /// <summary>Workspace of <see cref="Backward"/> for the gradients of A in the accumulator's type. More rows never need less.</summary>
    public static Shape BackwardPartialShape(int rows, LoraInputs inputs) => new(Shares(rows, inputs), (long)inputs.Columns * inputs.Inputs);

    /// <summary>uᵢ = dropoutᵢ(x)·Aᵢᵀ.</summary>
    /// <param name="device">Device.</param>
    /// <param name="rows">T.</param>
    /// <param name="inputs">The adapters.</param>
    /// <param name="masks">What is dropped, of the first projection.</param>
    /// <param name="x">[T, in].</param>
    /// <param name="a">[r·projections, in].</param>
    /// <param name="u">[T, r·projections] that is written; may lie behind rows of x.</param>
    /// <param name="partial">Of <see cref="ForwardPartialShape"/>.</param>
    public static void Forward(Device device, int rows, LoraInputs inputs, DropoutMasks masks, ColumnSlice x, ColumnSlice a, ColumnSlice u, Tensor partial)
    {
        if (rows == 0) return;
        var choice = new Choice(inputs, x.Tensor.DType, x.RowStride, a.RowStride, 0, 0, false, false);
        var strip = LoraInputBlocks.Strip(rows, inputs.Inputs, WidestStrip);
        var strips = Blocks.Of(inputs.Inputs, strip);
        var sums = LoraInputSums.Argument(partial, rows, inputs.Columns, strips);
        device.Launch(
            ForwardKernels[choice], new Grid(Blocks.Of(rows, LoraInputBlocks.ForwardRows), strips),
            [x.Argument(rows, inputs.Inputs), a.Argument(inputs.Columns, inputs.Inputs), sums, masks.Seed, masks.FirstCounter(inputs.Inputs), rows, strip]);
        LoraInputSums.AddUp(device, rows, inputs.Columns, strips, sums, u);
    }

    /// <summary>dx = Σᵢ dropoutᵢ'(vᵢ·Aᵢ), the gradients of all A added to, or both.</summary>
    /// <param name="device">Device.</param>
    /// <param name="rows">T.</param>
    /// <param name="inputs">The adapters.</param>
    /// <param name="masks">What was dropped, of the first projection.</param>
    /// <param name="x">[T, in]; not read where gradients are not wanted.</param>
    /// <param name="a">[r·projections, in].</param>
    /// <param name="v">[T, r·projections].</param>
    /// <param name="dx">[T, in] that is written, or absent.</param>
    /// <param name="partial">Of <see cref="BackwardPartialShape"/>, or absent where gradients are not wanted.</param>
    /// <param name="gradient">[r·projections, in] in the accumulator's type.</param>
    public static void Backward(Device device, int rows, LoraInputs inputs, DropoutMasks masks, ColumnSlice x, ColumnSlice a, ColumnSlice v, ColumnSlice dx, Tensor partial, Tensor gradient)
    {
        var choice = new Choice(inputs, v.Tensor.DType, x.RowStride, a.RowStride, v.RowStride, dx.RowStride, dx.Tensor.Exists, partial.Exists);
        if (rows == 0 || !(choice.HasInput || choice.HasGradient)) return;
        var shares = Shares(rows, inputs);
        KernelArgument Absent(DType dtype) => KernelArgument.Pointer(masks.Seed.Address, dtype, 0);
        device.Launch(
            BackwardKernels[choice], new Grid(inputs.Inputs / BackwardColumns, shares),
            [
                choice.HasGradient ? x.Argument(rows, inputs.Inputs) : Absent(choice.DType), a.Argument(inputs.Columns, inputs.Inputs), v.Argument(rows, inputs.Columns), choice.HasInput ? dx.Argument(rows, inputs.Inputs) : Absent(choice.DType),
                choice.HasGradient ? partial : Absent(choice.Accumulator), masks.Seed, masks.FirstCounter(inputs.Inputs), rows, LoraInputBlocks.RowsPerShare(rows, shares, BackwardRows),
            ]);
        if (choice.HasGradient) ColumnSumKernel.AddRows(device, partial, gradient);
    }

    private static int Shares(int rows, LoraInputs inputs) => LoraInputBlocks.Shares(BackwardPrograms, inputs.Inputs / BackwardColumns, rows, BackwardRows);

    private static Kernel TraceForward(Choice choice) => Kernel.Trace("lora_dropout_forward", k =>
    {
        var inputs = choice.Inputs;
        k.Warps = Warps;
        var x = k.Pointer(choice.DType, "x");
        var a = k.Pointer(choice.DType, "a");
        var partial = k.Pointer(choice.Accumulator, "partial_u");
        var seed = k.Pointer(DType.Int64, "seed");
        var firstCounter = k.Scalar(DType.Int64, "first_counter");
        var rows = k.Scalar(DType.Int32, "rows");
        var strip = k.Scalar(DType.Int32, "strip");
        var masks = new MaskTiles(k, inputs, seed, firstCounter);
        var (row, inner) = (k.ProgramId(0) * LoraInputBlocks.ForwardRows + k.Range(LoraInputBlocks.ForwardRows), k.Range(inputs.Rank));
        var inside = (row < rows).AsColumn();
        var first = k.ProgramId(1) * strip;
        var sums = k.For(first, Min(first + strip, k.Constant(DType.Int32, inputs.Inputs)), k.Constant(DType.Int32, LoraInputBlocks.ForwardColumns), [.. Enumerable.Repeat(k.Zeros(choice.Accumulator, LoraInputBlocks.ForwardRows, inputs.Rank), inputs.Count)], (start, carried) =>
        {
            var column = start + k.Range(LoraInputBlocks.ForwardColumns);
            var value = k.Load(x + ((row.ToInt64() * choice.StrideX).AsColumn() + column.ToInt64().AsRow()), inside).ToFloat32() * masks.Factor;
            return [.. carried.Select((sum, i) =>
            {
                var d = Select(masks.AreKept(i, row, column), value, 0).To(choice.DType);
                var weights = k.Load(a + (((inner + i * inputs.Rank).ToInt64() * choice.StrideA).AsColumn() + column.ToInt64().AsRow()));
                return Dot(d, weights.Transposed(), sum);
            })];
        }, stages: Stages);
        var target = (k.ProgramId(1).ToInt64() * rows.ToInt64() + row.ToInt64()) * inputs.Columns;
        for (var i = 0; i < inputs.Count; i++) k.Store(partial + (target.AsColumn() + (inner + i * inputs.Rank).ToInt64().AsRow()), sums[i], inside);
    });

    private static Kernel TraceBackward(Choice choice) => Kernel.Trace("lora_dropout_backward", k =>
    {
        var inputs = choice.Inputs;
        k.Warps = Warps;
        var x = k.Pointer(choice.DType, "x");
        var a = k.Pointer(choice.DType, "a");
        var v = k.Pointer(choice.DType, "v");
        var dx = k.Pointer(choice.DType, "d_x");
        var partial = k.Pointer(choice.Accumulator, "partial_a");
        var seed = k.Pointer(DType.Int64, "seed");
        var firstCounter = k.Scalar(DType.Int64, "first_counter");
        var rows = k.Scalar(DType.Int32, "rows");
        var rowsPerShare = k.Scalar(DType.Int32, "rows_per_share");
        var masks = new MaskTiles(k, inputs, seed, firstCounter);
        var column = k.ProgramId(0) * BackwardColumns + k.Range(BackwardColumns);
        var extent = LoraInputBlocks.Extent(inputs.Rank);
        var inner = k.Range(extent);
        var isRank = inner < inputs.Rank;
        var share = k.ProgramId(1);
        var weights = Enumerable.Range(0, choice.HasInput ? inputs.Count : 0)
            .Select(i => k.Load(a + (((inner + i * inputs.Rank).ToInt64() * choice.StrideA).AsColumn() + column.ToInt64().AsRow()), isRank.AsColumn())).ToArray();
        var first = share * rowsPerShare;
        var end = Min(first + rowsPerShare, rows);
        var sums = k.For(first, end, k.Constant(DType.Int32, BackwardRows), [.. Enumerable.Repeat(k.Zeros(choice.Accumulator, BackwardColumns, extent), choice.HasGradient ? inputs.Count : 0)], (start, carried) =>
        {
            var row = start + k.Range(BackwardRows);
            var inside = (row < end).AsColumn();
            var value = choice.HasGradient ? k.Load(x + ((row.ToInt64() * choice.StrideX).AsColumn() + column.ToInt64().AsRow()), inside).ToFloat32() * masks.Factor : null;
            var total = k.Zeros(choice.Accumulator, BackwardRows, BackwardColumns);
            for (var i = 0; i < inputs.Count; i++)
            {
                var isKept = masks.AreKept(i, row, column);
                var gradients = k.Load(v + ((row.ToInt64() * choice.StrideV).AsColumn() + (inner + i * inputs.Rank).ToInt64().AsRow()), inside & isRank.AsRow());
                if (choice.HasInput) total += Select(isKept, Dot(gradients, weights[i]), 0);
                if (value is not null) carried[i] = Dot(Select(isKept, value, 0).To(choice.DType).Transposed(), gradients, carried[i]);
            }
            if (choice.HasInput) k.Store(dx + ((row.ToInt64() * choice.StrideDx).AsColumn() + column.ToInt64().AsRow()), (total * masks.Factor).To(choice.DType), inside);
            return carried;
        }, stages: Stages);
        // As gradients of A lie: columns of the strip side by side.
        for (var i = 0; i < sums.Length; i++)
        {
            var target = (share * inputs.Columns + inner + i * inputs.Rank).ToInt64() * inputs.Inputs;
            k.Store(partial + (target.AsRow() + column.ToInt64().AsColumn()), sums[i], isRank.AsRow());
        }
    });

    /// <summary>What is kept, as <see cref="DropoutKernel"/> has it for a matrix of as many columns as the input.</summary>
    private sealed class MaskTiles
    {
        private readonly KernelBuilder _k;
        private readonly LoraInputs _inputs;
        private readonly Tile.Tile _seed, _first;

        public MaskTiles(KernelBuilder k, LoraInputs inputs, Pointer seed, Tile.Tile first) => (_k, _inputs, _seed, _first) = (k, inputs, k.Load(seed), first);

        /// <summary>What kept elements are multiplied by.</summary>
        public double Factor => 1 / (1 - _inputs.Probability);

        public Tile.Tile AreKept(int projection, Tile.Tile row, Tile.Tile column)
        {
            var first = _first + _k.Constant(DType.Int64, _inputs.SiteOf(projection) * DropoutMasks.CountersPerSite);
            return DropoutKernel.AreKept(_k, _seed, first + ((row.ToInt64() * _inputs.Inputs).AsColumn() + column.ToInt64().AsRow()), _inputs.Probability);
        }
    }

    private readonly record struct Choice(LoraInputs Inputs, DType DType, long StrideX, long StrideA, long StrideV, long StrideDx, bool HasInput, bool HasGradient)
    {
        public DType Accumulator => DType.Accumulator();
    }
}
