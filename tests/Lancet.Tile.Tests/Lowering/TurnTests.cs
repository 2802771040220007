using Lancet.Tile.Cpu;
using Lancet.Tile.Lowering;
using Lancet.Tile.Lowering.Simulator;
using Lancet.Tile.Ptx;

namespace Lancet.Tile.Tests.Lowering;

/// <summary>Programs of one launch that add up in a fixed order: numbers from a counter, flags, and matrices in the compiler's order.</summary>
public class TurnTests
{
    private const int Programs = 23, Rows = 16, Columns = 32;

    // Program n adds its matrix to what programs 0 … n − 1 found; the last one writes the sum out.
    private static Kernel Sum() => Kernel.Trace("sum", k =>
    {
        Pointer x = k.Pointer(DType.Float32), sums = k.Pointer(DType.Float32), y = k.Pointer(DType.Float32), flags = k.Pointer(DType.Int32);
        var number = k.AtomicAdd(flags + 1, k.Constant(DType.Int32, 1));
        var address = (k.Range(Rows) * Columns).AsColumn() + k.Range(Columns).AsRow();
        var part = k.Load(x + (number * (Rows * Columns) + address));
        k.Await(flags, number);
        k.If(number.EqualTo(0), () => k.StoreOpaque(sums, part));
        k.If(number > 0, () => k.AddOpaque(sums, part));
        k.If(number.EqualTo(Programs - 1), () => k.Store(y + address, k.LoadOpaque(sums, Rows, Columns)));
        k.Signal(flags, number + 1);
    });

    [Fact]
    public void Programs_on_many_threads_add_in_turn()
    {
        var kernel = Sum();
        using var x = Parts(out var expected);
        for (var round = 0; round < 20; round++)
        {
            using HostArray<float> sums = new(Rows * Columns, DType.Float32), y = new(Rows * Columns, DType.Float32);
            using var flags = new HostArray<int>(2, DType.Int32);
            CpuExecutor.Launch(kernel, new Grid(Programs), [x.Argument, sums.Argument, y.Argument, flags.Argument]);
            Assert.Equal(expected, y.Span.ToArray());
            Assert.Equal([Programs, Programs], flags.Span.ToArray());
        }
    }

    [Theory]
    [InlineData(80)]
    [InlineData(90)]
    public void So_do_lowered_ones(int computeCapability)
    {
        using var x = Parts(out var expected);
        using HostArray<float> sums = new(Rows * Columns, DType.Float32), y = new(Rows * Columns, DType.Float32);
        using var flags = new HostArray<int>(2, DType.Int32);
        LoweringCheck.Run(Sum(), new Grid(Programs), [x.Argument, sums.Argument, y.Argument, flags.Argument], computeCapability == 90 ? PtxTarget.Sm90 : PtxTarget.Sm80);
        Assert.Equal(expected, y.Span.ToArray());
    }

    [Fact]
    public void Waiting_for_a_program_that_has_not_started_is_reported()
    {
        var kernel = Kernel.Trace("waits", k =>
        {
            var flags = k.Pointer(DType.Int32, "flags");
            k.Await(flags, k.ProgramId(0) + 1);
            k.Signal(flags, k.ProgramId(0) + 1);
        });
        using var flags = new HostArray<int>(1, DType.Int32);
        KernelArgument[] arguments = [flags.Argument];
        var program = KernelLowering.Lower(kernel, PtxTarget.Sm80, 0);
        var exception = Assert.Throws<TileException>(() => ThreadSimulator.Run(program, new Grid(2), arguments));
        Assert.Contains("waits for 1 from a program that has not started", Assert.Throws<TileException>(() => CpuExecutor.Launch(kernel, new Grid(2), arguments, debug: true)).Message, StringComparison.Ordinal);
        Assert.Contains("waits for 1 at flags + 0 bytes from a program that has not started, and finds 0", exception.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void What_one_warp_awaited_and_all_stored_is_shown_by_barriers()
    {
        var ptx = PtxPrinter.Print(KernelLowering.Lower(Sum(), PtxTarget.Sm90, 0b111), PtxTarget.Sm90);
        int awaited = ptx.IndexOf("ld.acquire.gpu", StringComparison.Ordinal), added = ptx.IndexOf("red.relaxed.gpu.global.add.v4.f32", StringComparison.Ordinal), signalled = ptx.IndexOf("st.release.gpu", StringComparison.Ordinal);
        Assert.InRange(awaited, 0, added);
        Assert.InRange(added, awaited, signalled);
        Assert.Contains("bar.sync", ptx[awaited..added], StringComparison.Ordinal);
        Assert.Contains("bar.sync", ptx[added..signalled], StringComparison.Ordinal);
    }

    [Fact]
    public void Opaque_matrices_are_checked()
    {
        Assert.Contains("adding", Assert.Throws<TileException>(() => Kernel.Trace("adds", k => k.AddOpaque(k.Pointer(DType.BFloat16), k.Zeros(DType.BFloat16, 16, 32)))).Message, StringComparison.Ordinal);
        Assert.Contains("a matrix of that type", Assert.Throws<TileException>(() => Kernel.Trace("stores", k => k.StoreOpaque(k.Pointer(DType.Float32), k.Zeros(DType.Float32, 512)))).Message, StringComparison.Ordinal);
        var small = Kernel.Trace("small", k => k.StoreOpaque(k.Pointer(DType.Float32), k.Load(k.Pointer(DType.Float32) + (k.Range(4).AsColumn() * 4 + k.Range(4).AsRow()))));
        Assert.Contains("smaller than the program's threads", Assert.Throws<TileException>(() => KernelLowering.Lower(small, PtxTarget.Sm80, 0)).Message, StringComparison.Ordinal);
    }

    // Sums depend on their order: large numbers of either sign among small ones.
    private static HostArray<float> Parts(out float[] expected)
    {
        var random = new Random(5);
        var x = new HostArray<float>(Programs * Rows * Columns, DType.Float32);
        for (var i = 0; i < x.Span.Length; i++) x.Span[i] = (float)((random.NextDouble() - 0.5) * Math.Pow(10, random.Next(-2, 6)));
        expected = x.Span[..(Rows * Columns)].ToArray();
        for (var program = 1; program < Programs; program++)
            for (var i = 0; i < expected.Length; i++) expected[i] += x.Span[(program * Rows * Columns) + i];
        return x;
    }
}
