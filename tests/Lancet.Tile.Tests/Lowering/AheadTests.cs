using Lancet.Tile.IR;
using Lancet.Tile.Lowering;
using Lancet.Tile.Lowering.Simulator;
using Lancet.Tile.Lowering.Threads;
using Lancet.Tile.Ptx;
using static Lancet.Tile.TileMath;

namespace Lancet.Tile.Tests.Lowering;

/// <summary>Loops that start the first product of an iteration in the one before: lowered ones against the tile executor, and what the simulator holds against wrong ones.</summary>
public class AheadTests
{
    private const int Rows = 128;
    private const int Inner = 32;
    private const int Columns = 64;

    [Theory]
    [InlineData(3, 0, 16)]
    [InlineData(3, 1, 16)]
    [InlineData(3, 2, 16)]
    [InlineData(3, 7, 16)]
    [InlineData(4, 5, 16)]
    [InlineData(3, 4, 1)]
    public void A_loop_computes_what_the_executor_computes(int stages, int steps, int offset)
    {
        using var data = new Data(steps, offset);
        LoweringCheck.Run(Chain(stages, true), new Grid(1), data.Arguments, PtxTarget.Sm90);
    }

    [Fact]
    public void So_does_one_inside_of_another()
    {
        using var data = new Data(5, 16);
        LoweringCheck.Run(Chain(3, true, isNested: true), new Grid(1), data.Arguments, PtxTarget.Sm90);
    }

    [Fact]
    public void A_product_is_started_before_the_loop_where_that_is_wished_and_can_be()
    {
        Assert.True(StartsAhead(Chain(3, true), PtxTarget.Sm90));
        Assert.False(StartsAhead(Chain(3, false), PtxTarget.Sm90));
        Assert.False(StartsAhead(Chain(2, true), PtxTarget.Sm90));
        // The first product of an iteration takes what the one before has found.
        Assert.False(StartsAhead(Chain(3, true, isChained: true), PtxTarget.Sm90));
        Assert.DoesNotContain("wgmma", PtxCompiler.Compile(Chain(3, true), PtxTarget.Sm80, PtxCompiler.AllDivisible(Chain(3, true))).Text, StringComparison.Ordinal);
        Assert.Contains("stages 3 ahead", Printer.Print(Chain(3, true)), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(ThreadOpcode.WaitProducts, "no value")]
    [InlineData(ThreadOpcode.WaitCopies, "still bringing")]
    [InlineData(ThreadOpcode.Barrier, "was never written")]
    internal void A_missing_wait_is_found(ThreadOpcode wait, string message)
    {
        using var data = new Data(5, 16);
        var program = KernelLowering.Lower(Chain(3, true), PtxTarget.Sm90, PtxCompiler.Divisible(data.Arguments));
        ThreadSimulator.Run(program, new Grid(1), data.Arguments);
        var body = program.Body.OfType<ThreadLoop>().Single().Body;
        Assert.True(body.Remove(body.First(node => node is ThreadInstruction instruction && instruction.Opcode == wait)));
        Assert.Contains(message, Assert.Throws<TileException>(() => ThreadSimulator.Run(program, new Grid(1), data.Arguments)).Message, StringComparison.Ordinal);
    }

    private static bool StartsAhead(Kernel kernel, PtxTarget target)
    {
        var text = PtxCompiler.Compile(kernel, target, PtxCompiler.AllDivisible(kernel)).Text;
        return text.IndexOf("wgmma.mma_async", StringComparison.Ordinal) < text.IndexOf("$loop_0:", StringComparison.Ordinal);
    }

    // Σ D·(A·Bᵢ − vᵢ) over steps whose bounds lie in memory: a product of what is loaded, a vector along its columns, and a product of what comes of them.
    private static Kernel Chain(int stages, bool startsAhead, bool isNested = false, bool isChained = false) => Kernel.Trace("chain", k =>
    {
        k.Warps = 8;
        Pointer a = k.Pointer(DType.BFloat16), b = k.Pointer(DType.BFloat16), d = k.Pointer(DType.BFloat16), v = k.Pointer(DType.Float32), result = k.Pointer(DType.Float32), bounds = k.Pointer(DType.Int32);
        var offset = k.Scalar(DType.Int32);
        Tile Matrix(Pointer from, int height, int width) => k.Load(from + ((k.Range(height) * width).AsColumn() + k.Range(width).AsRow()));
        var (first, other) = (Matrix(a, Rows, Inner), Matrix(d, Rows, Rows));
        var zeros = k.Zeros(DType.Float32, Rows, Columns);
        Tile[] Sum(Tile[] initial) => k.For(k.Load(bounds), k.Load(bounds + 1), k.Constant(DType.Int32, 1), initial, (i, carried) =>
        {
            var columns = k.Range(Columns);
            var vector = k.Load(v + (offset + i * Columns + columns), columns < Columns);
            var product = Dot(first, Matrix(b + i * (Inner * Columns), Inner, Columns), isChained ? carried[0] : null);
            var difference = (product - vector.AsRow()).To(DType.BFloat16);
            return [Dot(other, difference, carried[0] * 0.5f)];
        }, stages: stages, startsAhead: startsAhead);
        var sums = isNested ? k.For(0, 2, 1, [zeros], (_, carried) => Sum(carried)) : Sum([zeros]);
        k.Store(result + ((k.Range(Rows) * Columns).AsColumn() + k.Range(Columns).AsRow()), sums[0]);
    });

    private sealed class Data : IDisposable
    {
        private readonly HostArray<ushort> _a = RandomHalves.Of(Rows * Inner, DType.BFloat16, 1), _b, _d = RandomHalves.Of(Rows * Rows, DType.BFloat16, 3);
        private readonly HostArray<float> _v, _result = new(Rows * Columns, DType.Float32);
        private readonly HostArray<int> _bounds = new(2, DType.Int32);
        private readonly int _offset;

        public Data(int steps, int offset)
        {
            _b = RandomHalves.Of((steps + 1) * Inner * Columns, DType.BFloat16, 2);
            _v = new((steps + 1) * Columns + offset, DType.Float32);
            var random = new Random(4);
            foreach (ref var element in _v.Span) element = (float)((random.NextDouble() * 2) - 1);
            (_bounds.Span[0], _bounds.Span[1], _offset) = (1, steps + 1, offset);
        }

        public KernelArgument[] Arguments => [_a.Argument, _b.Argument, _d.Argument, _v.Argument, _result.Argument, _bounds.Argument, _offset];

        public void Dispose()
        {
            foreach (var array in (IDisposable[])[_a, _b, _d, _v, _result, _bounds]) array.Dispose();
        }
    }
}
