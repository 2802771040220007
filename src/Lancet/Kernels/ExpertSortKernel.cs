using Lancet.Devices;
using Lancet.Tensors;
using Lancet.Tile;
using static Lancet.Tile.TileMath;

namespace Lancet.Kernels;

/// <summary>
/// Counting sort of assignments a = t·k + j (token t's j-th expert) by expert, stable, so that each expert's rows lie together in order of their tokens.
/// <code>
/// counts[c,e]   assignments of chunk c to expert e
/// starts[e]     Σ_{e'&lt;e} Σ_c counts[c,e']
/// place[a]      starts[e] + Σ_{c' before a's chunk} counts[c',e] + assignments to e before a in its chunk      e = index[a]
/// order         the inverse of place: order[place[a]] = a
/// </code>
/// On GPUs a table of blocks for <see cref="GroupedGemmKernel"/> besides. Integers only, no atomics, nothing depends on the order of programs.
/// </summary>
/// <param name="experts">Experts, at most <see cref="MostExperts"/>.</param>
public sealed class ExpertSortKernel(int experts)
{
    /// <summary>Most experts.</summary>
    public const int MostExperts = 512;

    private const int Chunk = 1024;
    private const int ChunkRows = 16;
    private const int Columns = 16;
    private const int TableRows = 32;
    private static readonly KernelSet<int> CountKernels = new(TraceCount);
    private static readonly KernelSet<int> StartKernels = new(TraceStarts);
    private static readonly KernelSet<int> PlaceKernels = new(TracePlace);
    private static readonly KernelSet<int> TableKernels = new(TraceTable);

    /// <summary>Shape of the workspace for a number of assignments: int32.</summary>
    public Shape WorkspaceShape(int assignments) => new(Blocks.Of(assignments, Chunk), experts);

    /// <summary>Sorts.</summary>
    /// <param name="device">Device.</param>
    /// <param name="indices">int32 [T, k]: experts, each within range.</param>
    /// <param name="counts">Workspace of <see cref="WorkspaceShape"/>.</param>
    /// <param name="starts">int32 [E + 1] that is written.</param>
    /// <param name="place">int32 [T, k] that is written: the row of each assignment.</param>
    /// <param name="order">int32 [T · k] that is written: the assignment of each row.</param>
    public void Sort(Device device, Tensor indices, Tensor counts, Tensor starts, Tensor place, Tensor order)
    {
        var assignments = (int)indices.Count;
        var chunks = Blocks.Of(assignments, Chunk);
        device.Launch(CountKernels[experts], new Grid(chunks), [indices, counts, assignments]);
        device.Launch(StartKernels[experts], new Grid(1), [counts, starts, chunks]);
        device.Launch(PlaceKernels[experts], new Grid(chunks), [indices, counts, starts, place, order, assignments]);
    }

    /// <summary>Cuts each expert's rows into blocks.</summary>
    /// <param name="device">Device.</param>
    /// <param name="rows">Starts are read, blocks written.</param>
    public void WriteBlocks(Device device, ExpertRows rows)
    {
        var count = (int)rows.Blocks.Shape[0];
        device.Launch(TableKernels[experts], new Grid(Blocks.Of(count, TableRows)), [rows.Starts, rows.Blocks, rows.BlockRows, count]);
    }

    // Assignments that are compared with all experts at a time.
    private static int Step(int experts) => Math.Clamp(8192 / Blocks.PowerOfTwo(experts), 16, 32);

    private static Tile.Tile Ones(KernelBuilder k, Tile.Tile condition) => Select(condition, k.Full(DType.Int32, 1, condition.Dimensions), 0);

    private static Kernel TraceCount(int experts) => Kernel.Trace("expert_count", k =>
    {
        var indices = k.Pointer(DType.Int32, "indices");
        var counts = k.Pointer(DType.Int32, "counts");
        var assignments = k.Scalar(DType.Int32, "assignments");
        var (step, width) = (Step(experts), Blocks.PowerOfTwo(experts));
        var column = k.Range(width);
        var first = k.ProgramId(0) * Chunk;
        var sums = k.For(first, Min(first + Chunk, assignments), k.Constant(DType.Int32, step), [k.Zeros(DType.Int32, width)], (start, carried) =>
        {
            var at = start + k.Range(step);
            return [carried[0] + Sum(Ones(k, k.Load(indices + at, at < assignments, -1).AsColumn().EqualTo(column.AsRow())), 0)];
        })[0];
        k.Store(counts + (k.ProgramId(0) * experts + column), sums, column < experts);
    });

    private static Kernel TraceStarts(int experts) => Kernel.Trace("expert_starts", k =>
    {
        var counts = k.Pointer(DType.Int32, "counts");
        var starts = k.Pointer(DType.Int32, "starts");
        var chunks = k.Scalar(DType.Int32, "chunks");
        k.Warps = 8;
        var width = Blocks.PowerOfTwo(experts);
        var column = k.Range(width);
        var totals = ChunkSum(k, counts, experts, chunks);
        // Entry e sums the experts below e; entry E all of them.
        k.For(0, experts + 1, Columns, [], (first, _) =>
        {
            var entry = first + k.Range(Columns);
            var below = Sum(Select(column.AsColumn() < entry.AsRow(), totals.AsColumn().BroadcastTo(width, Columns), 0), 0);
            k.Store(starts + entry, below, entry <= experts);
            return [];
        });
    });

    private static Kernel TracePlace(int experts) => Kernel.Trace("expert_place", k =>
    {
        var indices = k.Pointer(DType.Int32, "indices");
        var counts = k.Pointer(DType.Int32, "counts");
        var starts = k.Pointer(DType.Int32, "starts");
        var place = k.Pointer(DType.Int32, "place");
        var order = k.Pointer(DType.Int32, "order");
        var assignments = k.Scalar(DType.Int32, "assignments");
        var (step, width) = (Step(experts), Blocks.PowerOfTwo(experts));
        var column = k.Range(width);
        var first = k.ProgramId(0) * Chunk;
        var next = k.Load(starts + column, column < experts) + ChunkSum(k, counts, experts, k.ProgramId(0));
        k.For(first, Min(first + Chunk, assignments), k.Constant(DType.Int32, step), [next], (start, carried) =>
        {
            var lane = k.Range(step);
            var at = start + lane;
            var index = k.Load(indices + at, at < assignments, -1);
            var isOf = index.AsColumn().EqualTo(column.AsRow());
            var earlier = Sum(Ones(k, index.AsColumn().EqualTo(index.AsRow()) & (lane.AsRow() < lane.AsColumn())), 1);
            var row = Sum(Select(isOf, carried[0].AsRow().BroadcastTo(step, width), 0), 1) + earlier;
            k.Store(place + at, row, at < assignments);
            k.Store(order + row, at, at < assignments);
            return [carried[0] + Sum(Ones(k, isOf), 0)];
        });
    });

    private static Kernel TraceTable(int experts) => Kernel.Trace("expert_blocks", k =>
    {
        var starts = k.Pointer(DType.Int32, "starts");
        var table = k.Pointer(DType.Int32, "blocks");
        var blockRows = k.Scalar(DType.Int32, "block_rows");
        var count = k.Scalar(DType.Int32, "count");
        var block = k.ProgramId(0) * TableRows + k.Range(TableRows);
        var zero = k.Zeros(DType.Int32, TableRows);
        // In order of the experts: the one whose blocks reach beyond this block is the last to write.
        var found = k.For(0, experts, 1, [k.Zeros(DType.Int32), k.Full(DType.Int32, -1, TableRows), zero], (expert, carried) =>
        {
            var first = k.Load(starts + expert);
            var mine = block - carried[0];
            var blocks = (k.Load(starts + (expert + 1)) - first + (blockRows - 1)) / blockRows;
            var isOf = (mine >= 0) & (mine < blocks);
            return [carried[0] + blocks, Select(isOf, expert.BroadcastTo(TableRows), carried[1]), Select(isOf, first + mine * blockRows, carried[2])];
        });
        k.Store(table + block * 2, found[1], block < count);
        k.Store(table + (block * 2 + 1), found[2], block < count);
    });

    /// <summary>Assignments to each expert in the chunks before one.</summary>
    private static Tile.Tile ChunkSum(KernelBuilder k, Pointer counts, int experts, Tile.Tile end)
    {
        var width = Blocks.PowerOfTwo(experts);
        var (column, zero) = (k.Range(width).AsRow(), k.Constant(DType.Int32, 0));
        return k.For(zero, end, k.Constant(DType.Int32, ChunkRows), [k.Zeros(DType.Int32, width)], (first, carried) =>
        {
            var row = (first + k.Range(ChunkRows)).AsColumn();
            return [carried[0] + Sum(k.Load(counts + (row * experts + column), (row < end) & (column < experts)), 0)];
        })[0];
    }
}
