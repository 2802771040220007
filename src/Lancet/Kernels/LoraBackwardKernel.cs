using Lancet.Devices;
using Lancet.Tensors;
using Lancet.Tile;
using static Lancet.Tile.TileMath;

namespace Lancet.Kernels;

/// <summary>Projections side by side whose adapters have one rank, as <see cref="LoraBackwardKernel"/> sees them.</summary>
/// <param name="Outputs">Columns of all outputs.</param>
/// <param name="Second">First column of the second projection; <paramref name="Outputs"/> without one.</param>
/// <param name="Third">First column of the third projection; <paramref name="Outputs"/> without one.</param>
/// <param name="Rank">r of each.</param>
public readonly record struct LoraOutputs(int Outputs, int Second, int Third, int Rank)
{
    /// <summary>How many projections there are.</summary>
    public int Count => Second == Outputs ? 1 : Third == Outputs ? 2 : 3;

    /// <summary>Whether each projection's columns are a multiple of <paramref name="columns"/>, a power of two.</summary>
    internal bool HaveStripsOf(int columns) => (Outputs | Second | Third) % columns == 0;
}

/// <summary>
/// What the backward pass of LoRA adapters reads the outputs' gradient for, in one pass over it:
/// <code>
/// vᵢ = dyᵢ·sBᵢ [T, r]      dBᵢ += s·dyᵢᵀ·uᵢ [outᵢ, r]
/// </code>
/// A program takes a strip of columns and a share of the rows. It sums dB up over its rows, and v over its columns for each row; a second kernel adds up the sums of programs, in order. Sums are fp32, v is rounded once.
/// dy is the only large operand (2·T·out bytes against 8·T·out·r / strip of sums), so that reading it once instead of twice is what counts.
/// </summary>
public static class LoraBackwardKernel
{
    private const int Sums = 1024;
    private const int SumsAtATime = 4;

    // For sharing out rows among an H100's multiprocessors, each of which runs a program at a time.
    private const int Multiprocessors = 132;
    private const int MostWaves = 3;
    private const double EnoughBusy = 0.95;
    private static readonly KernelSet<Choice> Kernels = new(Trace);
    private static readonly KernelSet<Choice> SumKernels = new(TraceSums);

    /// <summary>Whether the kernel takes these outputs: 16-bit operands for tensor cores, whole strips of each projection, and a rank that is a power of two and so small that there are few sums beside dy.</summary>
    public static bool Suits(LoraOutputs outputs, DType dtype) => dtype.SizeInBytes() == 2 && outputs.Rank is 8 or 16 or 32 && outputs.HaveStripsOf(LoraBackwardBlocks.LeastColumns(outputs.Rank));

    /// <summary>Workspace of <see cref="Run"/> for v and for dB, in the accumulator's type.</summary>
    public static (Shape V, Shape B) PartialShapes(int rows, LoraOutputs outputs, PlanTarget target)
    {
        var blocks = LoraBackwardBlocks.For(outputs, target);
        return (new(outputs.Outputs / blocks.Columns, (long)rows * outputs.Rank), new(Shares(rows, outputs, blocks), (long)outputs.Outputs * outputs.Rank));
    }

    /// <summary>v, and dB added to.</summary>
    /// <param name="device">Device.</param>
    /// <param name="rows">T.</param>
    /// <param name="outputs">The projections.</param>
    /// <param name="dy">[T, outputs].</param>
    /// <param name="scaledB">[outputs, r·projections]: s·B of projection i at its rows and columns from r·i.</param>
    /// <param name="u">[T, r·projections], likewise.</param>
    /// <param name="v">[T, r·projections] that is written, likewise; may lie behind rows of dy.</param>
    /// <param name="scale">s.</param>
    /// <param name="partial">Of <see cref="PartialShapes"/>.</param>
    /// <param name="gradient">[outputs, r] in the accumulator's type.</param>
    public static void Run(
        Device device, int rows, LoraOutputs outputs, ColumnSlice dy, ColumnSlice scaledB, ColumnSlice u, ColumnSlice v, float scale, (Tensor V, Tensor B) partial, Tensor gradient)
    {
        if (rows == 0) return;
        var blocks = LoraBackwardBlocks.For(outputs, device.PlanTarget);
        var choice = new Choice(outputs, dy.Tensor.DType, dy.RowStride, scaledB.RowStride, u.RowStride, v.RowStride, blocks);
        var shares = (int)partial.B.Shape[0];
        var rowsPerShare = Blocks.Of(Blocks.Of(rows, blocks.Rows), shares) * blocks.Rows;
        var room = outputs.Rank * outputs.Count;
        device.Launch(
            Kernels[choice], new Grid(choice.Strips, shares),
            [dy.Argument(rows, outputs.Outputs), scaledB.Argument(outputs.Outputs, room), u.Argument(rows, room), partial.V, partial.B, rows, rowsPerShare, scale]);
        var (programsOfV, programsOfB) = (Blocks.Of((long)rows * outputs.Rank, Sums) * outputs.Count, Blocks.Of((long)outputs.Outputs * outputs.Rank, Sums));
        device.Launch(SumKernels[choice], new Grid(programsOfV + programsOfB), [partial.V, partial.B, v.Argument(rows, room), gradient, rows, shares, programsOfV]);
    }

    // The least number of shares that leaves few multiprocessors idle at the end. More rows never have fewer shares, so that the longest batch needs the most memory.
    private static int Shares(int rows, LoraOutputs outputs, LoraBackwardBlocks blocks)
    {
        var strips = outputs.Outputs / blocks.Columns;
        double Busy(int shares) => (double)strips * shares / (Blocks.Of((long)strips * shares, Multiprocessors) * Multiprocessors);
        var (best, most) = (1, Blocks.Of(MostWaves * Multiprocessors, strips));
        for (var shares = 2; shares <= most && Busy(best) < EnoughBusy; shares++)
            if (Busy(shares) > Busy(best)) best = shares;
        return Math.Clamp(Blocks.Of(rows, blocks.Rows), 1, best);
    }

    private static Kernel Trace(Choice choice) => Kernel.Trace("lora_backward", k =>
    {
        var (outputs, blocks) = (choice.Outputs, choice.Blocks);
        k.Warps = blocks.Warps;
        var dy = k.Pointer(choice.DType, "d_y");
        var scaledB = k.Pointer(choice.DType, "scaled_b");
        var u = k.Pointer(choice.DType, "u");
        var partialV = k.Pointer(choice.Accumulator, "partial_v");
        var partialB = k.Pointer(choice.Accumulator, "partial_b");
        var rows = k.Scalar(DType.Int32, "rows");
        var rowsPerShare = k.Scalar(DType.Int32, "rows_per_share");
        var scale = k.Scalar(DType.Float32, "scale");
        var (strip, share) = (k.ProgramId(0), k.ProgramId(1));
        var column = strip * blocks.Columns + k.Range(blocks.Columns);
        var inner = k.Range(outputs.Rank);
        var rank = inner;
        var (zero, step) = (k.Constant(DType.Int32, 0), k.Constant(DType.Int32, outputs.Rank));
        if (outputs.Count > 1) rank += Select(strip >= outputs.Second / blocks.Columns, step, zero);
        if (outputs.Count > 2) rank += Select(strip >= outputs.Third / blocks.Columns, step, zero);
        var b = k.Load(scaledB + ((column.ToInt64() * choice.StrideB).AsColumn() + rank.ToInt64().AsRow()));
        var first = share * rowsPerShare;
        var end = Min(first + rowsPerShare, rows);
        var sum = k.For(first, end, k.Constant(DType.Int32, blocks.Rows), [k.Zeros(choice.Accumulator, blocks.Columns, outputs.Rank)], (start, carried) =>
        {
            var row = start + k.Range(blocks.Rows);
            var inside = (row < end).AsColumn();
            var gradients = k.Load(dy + ((row.ToInt64() * choice.StrideDy).AsColumn() + column.ToInt64().AsRow()), inside);
            var inputs = k.Load(u + ((row.ToInt64() * choice.StrideU).AsColumn() + rank.ToInt64().AsRow()), inside);
            k.Store(partialV + (((strip.ToInt64() * rows.ToInt64() + row.ToInt64()) * outputs.Rank).AsColumn() + inner.ToInt64().AsRow()), Dot(gradients, b), inside);
            return [Dot(gradients.Transposed(), inputs, carried[0])];
        }, stages: blocks.Stages)[0];
        var target = partialB + (((share.ToInt64() * outputs.Outputs + column.ToInt64()) * outputs.Rank).AsColumn() + inner.ToInt64().AsRow());
        k.Store(target, sum * scale.To(choice.Accumulator));
    });

    // The first programs add up v, for each projection over its strips; the others dB, over shares.
    private static Kernel TraceSums(Choice choice) => Kernel.Trace("lora_backward_sums", k =>
    {
        var (outputs, columns) = (choice.Outputs, choice.Blocks.Columns);
        var partialV = k.Pointer(choice.Accumulator, "partial_v");
        var partialB = k.Pointer(choice.Accumulator, "partial_b");
        var v = k.Pointer(choice.DType, "v");
        var gradient = k.Pointer(choice.Accumulator, "gradient");
        var rows = k.Scalar(DType.Int32, "rows");
        var shares = k.Scalar(DType.Int32, "shares");
        var programsOfV = k.Scalar(DType.Int32, "programs_of_v");
        var program = k.ProgramId(0);
        Tile.Tile Total(Pointer partial, Tile.Tile from, Tile.Tile to, Tile.Tile count, Tile.Tile element)
        {
            var inside = element < count;
            return Sum(k.For(from, to, k.Constant(DType.Int32, SumsAtATime), [k.Zeros(choice.Accumulator, SumsAtATime, Sums)], (start, carried) =>
            {
                var index = start + k.Range(SumsAtATime);
                return [carried[0] + k.Load(partial + ((index.ToInt64() * count).AsColumn() + element.AsRow()), (index < to).AsColumn() & inside.AsRow())];
            })[0], 0);
        }
        k.If(program < programsOfV, () =>
        {
            var projection = program % outputs.Count;
            var element = (program / outputs.Count).ToInt64() * Sums + k.Range(Sums).ToInt64();
            var count = rows.ToInt64() * outputs.Rank;
            var (first, second, third, end) = (k.Constant(DType.Int32, 0), k.Constant(DType.Int32, outputs.Second / columns), k.Constant(DType.Int32, outputs.Third / columns), k.Constant(DType.Int32, choice.Strips));
            var from = Select(projection.EqualTo(0), first, Select(projection.EqualTo(1), second, third));
            var to = Select(projection.EqualTo(0), second, Select(projection.EqualTo(1), third, end));
            var total = Total(partialV, from, to, count, element);
            var target = v + (element / outputs.Rank * choice.StrideV + (projection * outputs.Rank).ToInt64() + element % outputs.Rank);
            k.Store(target, total.To(choice.DType), element < count);
        });
        k.If(program >= programsOfV, () =>
        {
            var count = k.Constant(DType.Int64, (long)outputs.Outputs * outputs.Rank);
            var element = (program - programsOfV).ToInt64() * Sums + k.Range(Sums).ToInt64();
            var total = Total(partialB, k.Constant(DType.Int32, 0), shares, count, element);
            k.Store(gradient + element, k.Load(gradient + element, element < count) + total, element < count);
        });
    });

    private readonly record struct Choice(LoraOutputs Outputs, DType DType, long StrideDy, long StrideB, long StrideU, long StrideV, LoraBackwardBlocks Blocks)
    {
        public DType Accumulator => DType.Accumulator();

        public int Strips => Outputs.Outputs / Blocks.Columns;
    }
}

/// <summary>How <see cref="LoraBackwardKernel"/> cuts dy up.</summary>
/// <param name="Rows">Rows of a step.</param>
/// <param name="Columns">Columns of a strip.</param>
/// <param name="Stages">Steps in flight.</param>
/// <param name="Warps">Warps of a program.</param>
internal readonly record struct LoraBackwardBlocks(int Rows, int Columns, int Stages, int Warps)
{
    private const int MostColumns = 512;

    // What fits into about 100 KB of shared memory.
    private const int MostColumnsOfSmall = 256;

    /// <summary>Columns of the narrowest strip: there v's sums, written and read, are as many bytes as dy.</summary>
    public static int LeastColumns(int rank) => Math.Max(64, 4 * rank);

    /// <summary>The fastest of those that a device has shared memory for.</summary>
    public static LoraBackwardBlocks For(LoraOutputs outputs, PlanTarget target)
    {
        var isSmall = target.SharedMemoryPerProgram < 160 << 10;
        var columns = isSmall ? MostColumnsOfSmall : MostColumns;
        while (!outputs.HaveStripsOf(columns)) columns /= 2;
        var blocks = new LoraBackwardBlocks(isSmall || outputs.Rank > 16 ? 32 : 64, columns, 3, columns == MostColumns ? 8 : 4);
        // An A100 has shared memory for two of the largest steps.
        return blocks.SharedBytes(outputs.Rank) <= target.SharedMemoryPerProgram ? blocks : blocks with { Stages = 2 };
    }

    // 16-bit steps of dy and u, and s·B of a strip.
    private int SharedBytes(int rank) => 2 * ((Stages * Rows * (Columns + rank)) + (Columns * rank));
}
