using Lancet.Tile.Lowering.Simulator;
using Lancet.Tile.Lowering.Threads;
using Lancet.Tile.Ptx;
using static Lancet.Tile.TileMath;

namespace Lancet.Tile.Tests.Lowering;

/// <summary>How results of products get to memory: in pieces of 16 bytes where addresses and masks allow.</summary>
public class ProductStoreTests
{
    private const int M = 64, K = 16;

    /// <summary>c = a·b or its transpose, rows of a stride, those below a count; or added to what is there.</summary>
    private static Kernel Trace(DType dtype, int n, int stride, bool isTransposed, bool isAdded, int warps) => Kernel.Trace("product", k =>
    {
        k.Warps = warps;
        Pointer a = k.Pointer(DType.BFloat16, "a"), b = k.Pointer(DType.BFloat16, "b"), c = k.Pointer(dtype, "c");
        var count = k.Scalar(DType.Int32, "count");
        var (row, column, inner) = (k.Range(M), k.Range(n), k.Range(K));
        var value = Dot(k.Load(a + ((row * K).AsColumn() + inner.AsRow())), k.Load(b + ((inner * n).AsColumn() + column.AsRow())));
        var (place, inside) = isTransposed
            ? (c + ((column * stride).AsColumn() + row.AsRow()), (column < count).AsColumn())
            : (c + ((row * stride).AsColumn() + column.AsRow()), (row < count).AsColumn());
        if (isTransposed) value = value.Transposed();
        if (isAdded) value += k.Load(place, inside).ToFloat32();
        k.Store(place, value.To(dtype), inside);
    });

    // The pieces in bytes.
    [Theory]
    [InlineData(DType.BFloat16, 64, 64, false, 4, 16)]
    [InlineData(DType.BFloat16, 64, 72, false, 4, 16)]
    [InlineData(DType.BFloat16, 64, 68, false, 4, 8)]
    [InlineData(DType.BFloat16, 64, 66, false, 4, 4)]
    [InlineData(DType.BFloat16, 64, 65, false, 4, 2)]
    [InlineData(DType.BFloat16, 16, 16, false, 4, 16)]
    [InlineData(DType.BFloat16, 8, 8, false, 4, 8)]
    [InlineData(DType.Float16, 128, 128, false, 4, 16)]
    [InlineData(DType.Float32, 64, 64, false, 4, 16)]
    [InlineData(DType.Float32, 64, 66, false, 4, 8)]
    [InlineData(DType.Float32, 8, 8, false, 4, 16)]
    [InlineData(DType.BFloat16, 64, 64, true, 4, 16)]
    [InlineData(DType.BFloat16, 64, 64, true, 2, 16)]
    [InlineData(DType.BFloat16, 64, 65, true, 4, 2)]
    [InlineData(DType.Float32, 64, 64, true, 4, 16)]
    [InlineData(DType.BFloat16, 8, 64, true, 4, 4)]
    public void Results_are_stored_in_the_widest_pieces_that_lanes_can_make(DType dtype, int n, int stride, bool isTransposed, int warps, int widest)
    {
        foreach (var target in new[] { PtxTarget.Sm80, PtxTarget.Sm90 })
        {
            var kernel = Trace(dtype, n, stride, isTransposed, false, warps);
            var (program, _) = Run(kernel, n, (isTransposed ? n : M) * stride, dtype, target);
            Assert.Equal([widest], Stores(program, target).Distinct());
        }
    }

    /// <summary>A thread that reads its own elements and writes them needs no barrier, and gets none by exchanging them.</summary>
    [Theory]
    [InlineData(DType.BFloat16, 4)]
    [InlineData(DType.Float32, 8)]
    public void What_is_added_to_memory_stays_with_its_threads(DType dtype, int widest)
    {
        var (program, _) = Run(Trace(dtype, 64, 64, false, true, 4), 64, M * 64, dtype, PtxTarget.Sm80);
        Assert.Equal([widest], Stores(program, PtxTarget.Sm80).Distinct());
    }

    /// <summary>In a loop stores overlap with other work: pairs go as they are, single elements are gathered all the same.</summary>
    [Theory]
    [InlineData(false, 4)]
    [InlineData(true, 16)]
    public void In_loops_only_single_elements_are_gathered(bool isTransposed, int widest)
    {
        var kernel = Kernel.Trace("looped", k =>
        {
            Pointer a = k.Pointer(DType.BFloat16, "a"), b = k.Pointer(DType.BFloat16, "b"), c = k.Pointer(DType.BFloat16, "c");
            var count = k.Scalar(DType.Int32, "count");
            var (row, column, inner) = (k.Range(M), k.Range(M), k.Range(K));
            var left = k.Load(a + ((row * K).AsColumn() + inner.AsRow()));
            k.For(0, 2, 1, [], (i, _) =>
            {
                var value = Dot(left, k.Load(b + ((inner * M).AsColumn() + column.AsRow())));
                if (isTransposed) value = value.Transposed();
                k.Store(c + i * (M * M) + ((row * M).AsColumn() + column.AsRow()), value.To(DType.BFloat16), (row < count).AsColumn());
                return [];
            });
        });
        var (program, _) = Run(kernel, M, 2 * M * M, DType.BFloat16, PtxTarget.Sm90);
        Assert.Equal([widest], Stores(program, PtxTarget.Sm90).Distinct());
    }

    [Fact]
    public void Pieces_of_16_bytes_fill_whole_sectors()
    {
        foreach (var isTransposed in new[] { false, true })
        {
            var (_, report) = Run(Trace(DType.BFloat16, 64, 64, isTransposed, false, 4), 64, M * 64, DType.BFloat16, PtxTarget.Sm80);
            var stores = Assert.Single(report.Traffic, line => line.Opcode == ThreadOpcode.StoreGlobal);
            Assert.Equal(stores.Ideal, stores.Actual);
        }
    }

    private static (ThreadProgram Program, SimulationReport Report) Run(Kernel kernel, int n, int size, DType dtype, PtxTarget target)
    {
        BFloat16[] Values(int length) => [.. Enumerable.Range(0, length).Select(i => (BFloat16)((i * 37 % 101 / 64f) - 0.75f))];
        using HostArray<BFloat16> a = new(Values(M * K), DType.BFloat16), b = new(Values(K * n), DType.BFloat16);
        using var c = new HostArray<byte>(size * dtype.SizeInBytes(), dtype);
        KernelArgument[] arguments = [a.Argument, b.Argument, c.Argument, 59];
        LoweringCheck.Run(kernel, new Grid(1), arguments, target);
        var program = LoweringCheck.Lower(kernel, arguments, target);
        return (program, ThreadSimulator.Run(program, new Grid(1), arguments));
    }

    // Bytes of the stores in the printed code.
    private static IEnumerable<int> Stores(ThreadProgram program, PtxTarget target) => PtxPrinter.Print(program, target).Split('\n').Where(line => line.Contains("st.global", StringComparison.Ordinal))
        .Select(line => (line.Contains(".v4", StringComparison.Ordinal) ? 4 : line.Contains(".v2", StringComparison.Ordinal) ? 2 : 1) * (line.Contains("16 ", StringComparison.Ordinal) ? 2 : 4));
}
