using Lancet.Tile.Lowering;
using Lancet.Tile.Lowering.Threads;
using Lancet.Tile.Ptx;
using static Lancet.Tile.TileMath;

namespace Lancet.Tile.Tests.Lowering;

/// <summary>
/// The algebra of layouts, proven by counting: every element of a tile has an owner, copies are whole threads or none, and views, interleaved
/// tiles and renamed registers are where coordinates say. Coordinates are recomputed here from the bases, bit by bit.
/// </summary>
public class LayoutTests
{
    private static readonly int[][] s_shapes =
    [
        [1], [2], [16], [32], [256], [4096],
        [1, 1], [1, 64], [64, 1], [2, 8], [16, 16], [32, 128], [128, 4],
        [1, 1, 1], [2, 4, 8], [8, 1, 16], [16, 8, 2], [4, 32, 16],
    ];

    public static TheoryData<int> Warps => [1, 2, 4, 8, 32];

    [Theory]
    [MemberData(nameof(Warps))]
    public void Row_major_layouts_own_every_element_once(int warps)
    {
        foreach (var shape in s_shapes)
            foreach (var vector in (int[])[1, 2, 4, 8, 16])
            {
                var layout = LinearLayout.Blocked(shape, vector, warps);
                var name = $"[{string.Join(", ", shape)}], vectors of {vector}, {warps} warps: {layout}";
                CheckOwners(layout, shape, warps, name);
                // Registers hold neighbours of the last axis, as many as were asked for and as the axis has.
                Assert.True(layout.Contiguous(shape.Length - 1) >= Math.Min(vector, shape[^1]), name);
                CheckContiguous(layout, shape, name);
            }
    }

    [Theory]
    [MemberData(nameof(Warps))]
    public void Product_layouts_own_every_element_once(int warps)
    {
        foreach (var m in (int[])[16, 32, 64, 128, 256])
            foreach (var n in (int[])[8, 16, 32, 64, 128, 256])
                foreach (var k in (int[])[16, 32, 64, 128])
                    foreach (var isChained in (bool[])[false, true])
                    {
                        var layouts = ProductLayouts.Choose(m, n, k, warps, isChained);
                        var name = $"{m} × {n} × {k}, {warps} warps{(isChained ? ", chained" : "")}: {layouts.WarpsM} × {layouts.WarpsN}";
                        Assert.Equal(warps, layouts.WarpsM * layouts.WarpsN);
                        CheckOwners(layouts.Accumulator(), [m, n], warps, "accumulator of " + name);
                        CheckOwners(layouts.Left(), [m, k], warps, "left operand of " + name);
                        CheckOwners(layouts.Right(), [k, n], warps, "right operand of " + name);
                    }
    }

    [Theory]
    [MemberData(nameof(Warps))]
    public void Scalar_product_layouts_own_every_element_once(int warps)
    {
        foreach (var m in (int[])[1, 2, 4, 16, 64, 256])
            foreach (var n in (int[])[1, 2, 4, 8, 32, 128])
                CheckOwners(ProductLayouts.Scalar(m, n, warps), [m, n], warps, $"{m} × {n}, {warps} warps");
    }

    [Fact]
    public void The_fragments_are_those_of_the_ptx_isa()
    {
        // PTX ISA, "Matrix Fragments for mma.m16n8k16": group = lane / 4, i = number of the element in the fragment.
        var layouts = new ProductLayouts(16, 8, 16, 1, 1);
        LinearLayout left = layouts.Left(), right = layouts.Right(), accumulator = layouts.Accumulator();
        for (var lane = 0; lane < 32; lane++)
        {
            var (group, place) = (lane / 4, lane % 4);
            for (var i = 0; i < 8; i++)
            {
                Assert.Equal(group + (i is 0 or 1 or 4 or 5 ? 0 : 8), left.Coordinate(0, i, lane));
                Assert.Equal((place * 2) + (i & 1) + (i < 4 ? 0 : 8), left.Coordinate(1, i, lane));
            }
            for (var i = 0; i < 4; i++)
            {
                Assert.Equal((place * 2) + (i & 1) + (i < 2 ? 0 : 8), right.Coordinate(0, i, lane));
                Assert.Equal(group, right.Coordinate(1, i, lane));
                Assert.Equal(group + (i < 2 ? 0 : 8), accumulator.Coordinate(0, i, lane));
                Assert.Equal((place * 2) + (i & 1), accumulator.Coordinate(1, i, lane));
            }
        }
    }

    [Fact]
    public void Views_are_where_coordinates_say()
    {
        foreach (var (shape, layout, warps) in Samples())
        {
            var rank = shape.Length;
            for (var axis = 0; axis < rank && rank > 1; axis++)
            {
                int[] rest = [.. Enumerable.Range(0, rank).Where(a => a != axis)];
                CheckProjection(layout, layout.Slice(axis), rest, warps, $"slice {axis} of {layout}");
                CheckOwners(layout.Slice(axis), [.. rest.Select(a => shape[a])], warps, $"slice {axis} of {layout}");
            }
            for (var axis = 0; axis <= rank; axis++)
            {
                int[] from = [.. Enumerable.Range(0, rank + 1).Select(a => a == axis ? -1 : a < axis ? a : a - 1)];
                CheckProjection(layout, layout.Expand(axis), from, warps, $"axis inserted at {axis} of {layout}");
                CheckOwners(layout.Expand(axis), [.. shape[..axis], 1, .. shape[axis..]], warps, $"axis inserted at {axis} of {layout}");
                // Inserting and dropping an axis gives the layout back, but for registers that held copies.
                Assert.Equal(layout.Project([.. Enumerable.Range(0, rank)]), layout.Expand(axis).Slice(axis));
            }
            if (rank != 2) continue;
            CheckProjection(layout, layout.Project([1, 0]), [1, 0], warps, $"transpose of {layout}");
            CheckOwners(layout.Project([1, 0]), [shape[1], shape[0]], warps, $"transpose of {layout}");
            CheckProjection(layout, layout.Project([0, -1]), [0, -1], warps, $"column of {layout}");
        }
    }

    [Fact]
    public void Interleaved_tiles_are_neighbours_in_one_thread()
    {
        foreach (var (shape, layout, warps) in Samples())
        {
            var both = layout.Interleave();
            CheckOwners(both, [.. shape[..^1], 2 * shape[^1]], warps, $"interleaved {layout}");
            Assert.Equal(2 * layout.RegisterCount, both.RegisterCount);
            Assert.Equal(layout.IsProduct, both.IsProduct);
            foreach (var (register, lane, warp) in Places(layout, warps))
                for (var odd = 0; odd < 2; odd++)
                    for (var axis = 0; axis < shape.Length; axis++)
                    {
                        var single = Coordinate(layout, axis, register, lane, warp);
                        Assert.Equal(axis == shape.Length - 1 ? (2 * single) + odd : single, both.Coordinate(axis, (2 * register) + odd, lane, warp));
                    }
        }
    }

    [Fact]
    public void Renamed_registers_hold_the_same_elements_in_every_thread()
    {
        int renamings = 0, moves = 0;
        var groups = Samples().Concat(Operands()).GroupBy(sample => (sample.Warps, string.Join(',', sample.Shape)));
        foreach (var group in groups)
            foreach (var (shape, from, warps) in group)
                foreach (var (_, to, _) in group)
                {
                    var map = from.RegistersOf(to);
                    // The thread has what it needs if each wanted element is one of its own.
                    var isPossible = true;
                    foreach (var (register, lane, warp) in Places(to, warps))
                    {
                        var wanted = Index(to, shape, register, lane, warp);
                        if (map is not null) Assert.Equal(wanted, Index(from, shape, map[register], lane, warp));
                        else if (isPossible) isPossible = Enumerable.Range(0, from.RegisterCount).Any(own => Index(from, shape, own, lane, warp) == wanted);
                    }
                    if (map is null)
                    {
                        moves++;
                        // Equal bases of all threads are asked for; where they are equal no renaming may be missed.
                        if (Enumerable.Range(0, to.ThreadBits).All(bit => to.Thread(bit).SequenceEqual(from.Thread(bit)))) Assert.False(isPossible, $"{from} → {to}");
                    }
                    else
                    {
                        renamings++;
                        if (from.Equals(to)) for (var register = 0; register < map.Length; register++) Assert.Equal(Index(from, shape, register, 0, 0), Index(from, shape, map[register], 0, 0));
                    }
                }
        Assert.True(renamings > 50 && moves > 50, $"{renamings} renamings, {moves} moves");
    }

    [Fact]
    public void An_accumulator_becomes_a_left_operand_without_moving()
    {
        // [M, N] of one product is [M, K] of the next, as in attention. Rows stay inside a warp if there are rows for all.
        foreach (var (m, n, warps) in ((int, int, int)[])[(64, 64, 4), (128, 32, 4), (128, 128, 8), (16, 64, 1)])
        {
            var first = ProductLayouts.Choose(m, n, 64, warps, isChained: true);
            var second = ProductLayouts.Choose(m, 128, n, warps, isChained: true);
            Assert.NotNull(first.Accumulator().RegistersOf(second.Left()));
        }
    }

    [Theory]
    [InlineData(32)]
    [InlineData(64)]
    [InlineData(128)]
    [InlineData(256)]
    [InlineData(512)]
    public void The_swizzle_is_a_bijection_without_bank_conflicts(int rowBytes)
    {
        const int rows = 64;
        var tile = new SharedTile(rows, rowBytes / 2, DType.BFloat16, Source.Constant(0));
        Assert.Equal(rows * rowBytes, tile.Bytes);
        var addresses = Addresses(tile);
        int Address(int row, int column) => addresses[row, column];
        var seen = new HashSet<int>();
        for (var row = 0; row < rows; row++)
            for (var column = 0; column < tile.Columns; column++)
            {
                var address = Address(row, column);
                var start = (column / tile.PanelColumns * tile.PanelBytes) + (row * tile.Pitch);
                Assert.InRange(address, start, start + tile.Pitch - 2);
                Assert.True(seen.Add(address));
                // Pieces of 16 bytes stay whole, and in order inside.
                Assert.Equal(Address(row, column & ~7) + (2 * (column & 7)), address);
                // A step of columns of power-of-two bits is an exclusive or and an addition, which SharedFragments relies on.
                var (bits, bytes) = tile.Step(0, column & ~7);
                Assert.Equal((Address(row, column & 7) ^ bits) + bytes, address);
            }
        Assert.Equal(tile.Bytes / 2, seen.Count);
        for (var first = 0; first < rows; first += 8)
            for (var piece = 0; piece < rowBytes / 16; piece++)
                AssertDifferentBanks(Enumerable.Range(first, 8).Select(row => Address(row, piece * 8)), $"rows {first} to {first + 7}, piece {piece}");
        // Eight neighbouring pieces, as copies write them: the rest of a row, then the next.
        for (var piece = 0; piece < tile.Bytes / 16; piece += 8)
            AssertDifferentBanks(Enumerable.Range(piece, 8).Select(p => Address(p * 16 / rowBytes, p * 16 % rowBytes / 2)), $"pieces {piece} to {piece + 7}");
        // Whole periods of the swizzle are constants.
        foreach (var step in (int[])[8, 16, 32])
            for (var row = 0; row + step < rows; row++)
                for (var column = 0; column < tile.Columns; column += 8) Assert.Equal(Address(row, column) + tile.Step(step, 0).Bytes, Address(row + step, column));
    }

    [Fact]
    public void Too_much_shared_memory_is_refused_with_both_numbers()
    {
        var kernel = Kernel.Trace("greedy", k =>
        {
            Pointer a = k.Pointer(DType.BFloat16), c = k.Pointer(DType.Float32);
            k.Warps = 4;
            Tile Matrix(int rows, int columns) => k.Load(a + ((k.Range(rows) * columns).AsColumn() + k.Range(columns).AsRow()));
            k.Store(c + ((k.Range(64) * 64).AsColumn() + k.Range(64).AsRow()), Dot(Matrix(64, 256), Matrix(256, 64)));
        });
        // Two matrices of 64 × 256 in 16 bits.
        const int needed = 2 * 64 * 256 * 2;
        Assert.Equal(needed, PtxCompiler.Compile(kernel, new PtxTarget(80, needed)).SharedMemoryBytes);
        var error = Assert.Throws<TileException>(() => PtxCompiler.Compile(kernel, new PtxTarget(80, needed - 1)));
        Assert.Contains("kernel greedy: out of shared memory: 65,536 bytes needed, 65,535 available", error.Message, StringComparison.Ordinal);
        Assert.Contains("use fewer stages or smaller blocks", error.Message, StringComparison.Ordinal);
    }

    /// <summary>Layouts of every kind, with their tiles' shapes.</summary>
    private static IEnumerable<(int[] Shape, LinearLayout Layout, int Warps)> Samples()
    {
        foreach (var warps in (int[])[1, 4])
        {
            foreach (var shape in s_shapes)
                foreach (var vector in (int[])[1, 4, 8]) yield return (shape, LinearLayout.Blocked(shape, vector, warps), warps);
            foreach (var (m, n) in ((int, int)[])[(16, 16), (32, 128), (128, 4)])
            {
                yield return ([m, n], ProductLayouts.Scalar(m, n, warps), warps);
                if (ProductLayouts.Fits(m, n, 16)) yield return ([m, n], ProductLayouts.Choose(m, n, 16, warps, false).Accumulator(), warps);
            }
        }
    }

    private static IEnumerable<(int[] Shape, LinearLayout Layout, int Warps)> Operands()
    {
        foreach (var warps in (int[])[1, 4])
            foreach (var (m, n) in ((int, int)[])[(16, 16), (32, 128)])
            {
                yield return ([m, n], ProductLayouts.Choose(m, 64, n, warps, true).Left(), warps);
                yield return ([m, n], ProductLayouts.Choose(64, n, m, warps, true).Right(), warps);
            }
    }

    /// <summary>
    /// Every element is held, equally often, and coordinates stay inside the tile. Holders of one element differ by whole bits of the thread's
    /// number, which <see cref="LinearLayout.ReplicatedThreads"/> names, or by copies inside a thread: one thread of those is the original.
    /// </summary>
    private static void CheckOwners(LinearLayout layout, int[] shape, int warps, string name)
    {
        Assert.Equal(warps, 1 << layout.Warps.Count);
        var count = shape.Aggregate(1, (product, extent) => product * extent);
        var (all, originals) = (new int[count], new int[count]);
        var replicated = layout.ReplicatedThreads();
        foreach (var (register, lane, warp) in Places(layout, warps))
        {
            var index = Index(layout, shape, register, lane, warp);
            for (var axis = 0; axis < shape.Length; axis++) Assert.True(layout.Coordinate(axis, register, lane, warp) < shape[axis], name);
            if (index != layout.Index(shape, register, lane, warp)) Assert.Fail(name);
            all[index]++;
            if ((((warp << 5) | lane) & replicated) == 0) originals[index]++;
        }
        var places = layout.RegisterCount * 32 * warps;
        if (all.Any(owners => owners != places / count)) Assert.Fail($"{name}: {all.Min()} to {all.Max()} owners, {places / count} expected");
        if (originals.Any(owners => owners != 1)) Assert.Fail($"{name}: {originals.Min()} to {originals.Max()} originals");
    }

    private static void CheckContiguous(LinearLayout layout, int[] shape, string name)
    {
        var run = layout.Contiguous(shape.Length - 1);
        for (var register = 0; register < layout.RegisterCount; register++)
            Assert.True(Index(layout, shape, register, 0, 0) == Index(layout, shape, register / run * run, 0, 0) + (register % run), name);
    }

    /// <summary>A thread holds in the view what it holds in the tile, seen along the view's axes.</summary>
    private static void CheckProjection(LinearLayout tile, LinearLayout view, int[] from, int warps, string name)
    {
        string At(LinearLayout layout, int register, int lane, int warp, Func<int, int> axis) =>
            string.Join(',', Enumerable.Range(0, from.Length).Select(a => axis(a) < 0 ? 0 : Coordinate(layout, axis(a), register, lane, warp)));
        foreach (var (lane, warp) in Threads(warps))
        {
            var expected = Enumerable.Range(0, tile.RegisterCount).Select(register => At(tile, register, lane, warp, a => from[a])).ToHashSet();
            var actual = Enumerable.Range(0, view.RegisterCount).Select(register => At(view, register, lane, warp, a => a)).ToHashSet();
            if (!expected.SetEquals(actual)) Assert.Fail(name);
        }
    }

    /// <summary>Addresses as the lowering computes them: its instructions for constant coordinates, carried out here where they were not folded.</summary>
    internal static int[,] Addresses(SharedTile tile)
    {
        var nodes = new List<ThreadNode>();
        var builder = new ThreadBuilder(new ThreadProgram { Name = "swizzle", Warps = 1, Parameters = [] });
        builder.Open(nodes);
        var addresses = new int[tile.Rows, tile.Columns];
        var (values, done) = (new Dictionary<int, long>(), 0);
        long Value(Source source) => source.IsConstant ? source.Bits : values[source.Register.Id];
        for (var row = 0; row < tile.Rows; row++)
            for (var column = 0; column < tile.Columns; column++)
            {
                var address = tile.Address(builder, Source.Constant(row), Source.Constant(column));
                for (; done < nodes.Count; done++)
                {
                    var node = (ThreadInstruction)nodes[done];
                    var (a, b) = (Value(node.Sources[0]), Value(node.Sources[1]));
                    values[node.Destinations[0].Id] = node.Opcode switch
                    {
                        ThreadOpcode.Add => a + b,
                        ThreadOpcode.Multiply => a * b,
                        ThreadOpcode.And => a & b,
                        ThreadOpcode.Xor => a ^ b,
                        ThreadOpcode.ShiftLeft => a << (int)b,
                        ThreadOpcode.ShiftRight => a >> (int)b,
                        var other => throw new InvalidOperationException($"{other} in an address"),
                    };
                }
                addresses[row, column] = (int)Value(address);
            }
        return addresses;
    }

    private static void AssertDifferentBanks(IEnumerable<int> pieces, string name)
    {
        // 32 banks of 4 bytes; a piece of 16 bytes lies in four.
        var banks = pieces.SelectMany(address => Enumerable.Range(0, 4).Select(word => ((address / 4) + word) % 32)).ToHashSet();
        if (banks.Count != 32) Assert.Fail($"{name}: {banks.Count} banks");
    }

    private static IEnumerable<(int Lane, int Warp)> Threads(int warps) => Enumerable.Range(0, 32 * warps).Select(thread => (thread & 31, thread >> 5));

    private static IEnumerable<(int Register, int Lane, int Warp)> Places(LinearLayout layout, int warps) =>
        Threads(warps).SelectMany(thread => Enumerable.Range(0, layout.RegisterCount).Select(register => (register, thread.Lane, thread.Warp)));

    private static int Coordinate(LinearLayout layout, int axis, int register, int lane, int warp)
    {
        return Of(layout.Registers, register) ^ Of(layout.Lanes, lane) ^ Of(layout.Warps, warp);

        int Of(IReadOnlyList<int[]> bases, int bits)
        {
            var sum = 0;
            for (var bit = 0; bit < bases.Count; bit++)
                if ((bits >> bit & 1) != 0) sum ^= bases[bit][axis];
            return sum;
        }
    }

    private static int Index(LinearLayout layout, int[] shape, int register, int lane, int warp)
    {
        var index = 0;
        for (var axis = 0; axis < shape.Length; axis++) index = (index * shape[axis]) + Coordinate(layout, axis, register, lane, warp);
        return index;
    }
}
