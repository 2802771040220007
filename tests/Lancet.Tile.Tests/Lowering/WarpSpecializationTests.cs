using Lancet.Tile.Lowering;
using Lancet.Tile.Lowering.Simulator;
using Lancet.Tile.Lowering.Threads;
using Lancet.Tile.Ptx;
using static Lancet.Tile.TileMath;

namespace Lancet.Tile.Tests.Lowering;

/// <summary>Loops whose copies a producer makes: lowered ones against the tile executor, and what the simulator holds against wrong ones.</summary>
public class WarpSpecializationTests
{
    private const int Rows = 128;
    private const int Inner = 32;
    private const int Columns = 64;

    [Theory]
    [InlineData(2, 0)]
    [InlineData(2, 1)]
    [InlineData(2, 2)]
    [InlineData(2, 7)]
    [InlineData(3, 2)]
    [InlineData(3, 3)]
    [InlineData(3, 8)]
    public void Two_groups_compute_what_the_executor_computes(int stages, int steps)
    {
        using var data = new Data(steps);
        var report = LoweringCheck.Run(Chain(stages, true), new Grid(1), data.Arguments, PtxTarget.Sm90);
        Assert.Equal(8L * steps, report.Counts.GetValueOrDefault(ThreadOpcode.NamedWait) - (4L * 2 * Math.Max(0, steps - stages)));
        var text = Text(Chain(stages, true), PtxTarget.Sm90);
        Assert.Contains(".maxntid 384, 1, 1", text, StringComparison.Ordinal);
        Assert.Contains("setmaxnreg.dec", text, StringComparison.Ordinal);
        Assert.Contains("bar.sync 0, 256;", text, StringComparison.Ordinal);
    }

    /// <summary>A loop whose iterations start the next one's first product before their own last one, and use that one's result while this one is made.</summary>
    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(7)]
    public void A_product_runs_beside_what_follows_another(int steps)
    {
        using var data = new Data(steps);
        LoweringCheck.Run(Rotated(), new Grid(1), data.Arguments, PtxTarget.Sm90);
        LoweringCheck.Run(Rotated(), new Grid(1), data.Arguments, PtxTarget.Sm80);
        var lines = Text(Rotated(), PtxTarget.Sm90).Split('\n').SkipWhile(line => !line.StartsWith("$loop_", StringComparison.Ordinal)).TakeWhile(line => !line.StartsWith("$loop_end_", StringComparison.Ordinal)).ToArray();
        int Line(string text, int from = 0) => Array.FindIndex(lines, from, line => line.Contains(text, StringComparison.Ordinal));
        var (second, first) = (Line("wgmma.fence", Line("wgmma.commit")), Line("wgmma.wait_group.sync.aligned 1"));
        Assert.InRange(second, 0, first);
        // What the assembler would serialise products for: accumulators or operands in registers that are written while products run.
        Assert.DoesNotContain(lines[(Line("wgmma.commit") + 1)..second], line => line.Contains("mov.b32", StringComparison.Ordinal) && !line.Contains(", 1073", StringComparison.Ordinal));
        Assert.True(Line("cvt.rn.bf16x2", Line("wgmma.fence")) > Line("wgmma.wait_group.sync.aligned 0"));
    }

    [Fact]
    public void Where_it_is_not_wished_or_cannot_be_all_warps_copy()
    {
        Assert.DoesNotContain("setmaxnreg", Text(Chain(3, false), PtxTarget.Sm90), StringComparison.Ordinal);
        Assert.DoesNotContain("setmaxnreg", Text(Chain(3, true), PtxTarget.Sm80), StringComparison.Ordinal);
        // There are not barriers for four stages, and a producer does not know what a kernel wrote, or a loop has found.
        Assert.DoesNotContain("setmaxnreg", Text(Chain(4, true), PtxTarget.Sm90), StringComparison.Ordinal);
        Assert.DoesNotContain("setmaxnreg", Text(Chain(3, true, writes: true), PtxTarget.Sm90), StringComparison.Ordinal);
        Assert.DoesNotContain("setmaxnreg", Text(Chain(3, true, finds: true), PtxTarget.Sm90), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(2)]
    [InlineData(3)]
    public void A_producer_that_does_not_wait_is_found(int stages)
    {
        using var data = new Data(8);
        var program = KernelLowering.Lower(Chain(stages, true), PtxTarget.Sm90, PtxCompiler.Divisible(data.Arguments));
        ThreadSimulator.Run(program, new Grid(1), data.Arguments);
        var wait = program.Producer.OfType<ThreadLoop>().Single().Body.OfType<ThreadBranch>().First();
        Assert.NotEqual(0, wait.Body.RemoveAll(node => node is ThreadInstruction { Opcode: ThreadOpcode.NamedWait }));
        Assert.Contains("arrives a second time", Assert.Throws<TileException>(() => ThreadSimulator.Run(program, new Grid(1), data.Arguments)).Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_producer_that_may_arrive_twice_before_the_others_come_is_found(bool waits)
    {
        static ThreadInstruction At(int barrier, ThreadOpcode opcode) => new(opcode, ThreadType.B32, [], [Source.Constant(barrier)]) { Immediate = 12 * 32 };
        static ThreadInstruction Arrive(int barrier) => At(barrier, ThreadOpcode.NamedArrive);
        static ThreadInstruction Wait(int barrier) => At(barrier, ThreadOpcode.NamedWait);
        var program = new ThreadProgram { Name = "turns", Warps = 8, Parameters = [], ProducerWarps = 4 };
        program.Body.AddRange([Wait(4), Arrive(5), Wait(4), Arrive(5)]);
        // One that does not wait tells of the second turn before the first has been taken.
        program.Producer.AddRange(waits ? [Arrive(4), Wait(5), Arrive(4), Wait(5)] : [Arrive(4), Arrive(4), Wait(5), Wait(5)]);
        // All orders of warps that there are occur among these programs.
        void Run() => ThreadSimulator.Run(program, new Grid(2), []);
        if (waits) Run();
        else Assert.Contains("arrives a second time before the others", Assert.Throws<TileException>(Run).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_group_that_does_not_wait_for_its_products_is_found()
    {
        using var data = new Data(8);
        var program = KernelLowering.Lower(Chain(3, true), PtxTarget.Sm90, PtxCompiler.Divisible(data.Arguments));
        var body = program.Body.OfType<ThreadLoop>().Single().Body;
        Assert.True(body.Remove(body.First(node => node is ThreadInstruction { Opcode: ThreadOpcode.WaitProducts })));
        Assert.Contains("no value", Assert.Throws<TileException>(() => ThreadSimulator.Run(program, new Grid(1), data.Arguments)).Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(ThreadOpcode.NamedArrive, 256, "arrives a second time")]
    [InlineData(ThreadOpcode.NamedArrive, 512, "nobody has waited")]
    [InlineData(ThreadOpcode.NamedWait, 512, "waits forever")]
    internal void What_is_wrong_is_found(ThreadOpcode opcode, int threads, string message)
    {
        var lab = new ThreadLab(8) { Target = PtxTarget.Sm90 };
        lab.Do(opcode, ThreadType.B32, [], [Source.Constant(4)], threads);
        Assert.Contains(message, Assert.Throws<TileException>(() => lab.Run()).Message, StringComparison.Ordinal);
    }

    private static string Text(Kernel kernel, PtxTarget target) => PtxCompiler.Compile(kernel, target, PtxCompiler.AllDivisible(kernel)).Text;

    // Σ (A·Bᵢ)·Cᵢ over steps whose bounds lie in memory.
    private static Kernel Chain(int stages, bool isSpecialized, bool writes = false, bool finds = false) => Kernel.Trace("chain", k =>
    {
        k.Warps = 8;
        Pointer a = k.Pointer(DType.BFloat16), b = k.Pointer(DType.BFloat16), c = k.Pointer(DType.BFloat16), d = k.Pointer(DType.Float32), bounds = k.Pointer(DType.Int32);
        Tile Matrix(Pointer from, int height, int width) => k.Load(from + ((k.Range(height) * width).AsColumn() + k.Range(width).AsRow()));
        var first = Matrix(a, Rows, Inner);
        if (writes) k.If(k.ProgramId(0).EqualTo(0), () => k.Store(d, k.Constant(DType.Float32, 0.0)));
        var high = k.Load(bounds + 1);
        if (finds) high = k.For(0, 4, 1, [high], (i, carried) => [Max(carried[0], i)])[0];
        var sum = k.For(k.Load(bounds), high, k.Constant(DType.Int32, 1), [k.Zeros(DType.Float32, Rows, Columns)], (i, carried) =>
        {
            var middle = Dot(first, Matrix(b + i * (Inner * Inner), Inner, Inner));
            return [Dot(middle.To(DType.BFloat16), Matrix(c + i * (Inner * Columns), Inner, Columns), carried[0] * 0.5f)];
        }, stages: stages, warpSpecialized: isSpecialized)[0];
        k.Store(d + ((k.Range(Rows) * Columns).AsColumn() + k.Range(Columns).AsRow()), sum);
    });

    // Σ (A·Bᵢ)·Cᵢ, each sum halved before the next product is added; a step's operand is carried to the next one, as pairs of 16 bits.
    private static Kernel Rotated() => Kernel.Trace("rotated", k =>
    {
        k.Warps = 8;
        Pointer a = k.Pointer(DType.BFloat16), b = k.Pointer(DType.BFloat16), c = k.Pointer(DType.BFloat16), d = k.Pointer(DType.Float32), bounds = k.Pointer(DType.Int32);
        Tile Matrix(Pointer from, int height, int width) => k.Load(from + ((k.Range(height) * width).AsColumn() + k.Range(width).AsRow()));
        var first = Matrix(a, Rows, Inner);
        var (low, high) = (k.Load(bounds), k.Load(bounds + 1));
        Tile Middle(Tile i) => Dot(first, Matrix(b + i * (Inner * Inner), Inner, Inner));
        var last = Matrix(c + Max(high - 1, low) * (Inner * Columns), Inner, Columns);
        var steps = k.For(low + 1, high, k.Constant(DType.Int32, 1), [k.Zeros(DType.Float32, Rows, Columns), Middle(low).To(DType.BFloat16)], (i, carried) =>
        {
            var middle = Middle(i);
            var sum = Dot(carried[1], Matrix(c + (i - 1) * (Inner * Columns), Inner, Columns), carried[0]);
            middle += 1;
            sum *= 0.5f;
            return [sum, middle.To(DType.BFloat16)];
        }, stages: 2, warpSpecialized: true);
        k.Store(d + ((k.Range(Rows) * Columns).AsColumn() + k.Range(Columns).AsRow()), Dot(steps[1], last, steps[0]));
    });

    private sealed class Data : IDisposable
    {
        private readonly HostArray<ushort> _a = RandomHalves.Of(Rows * Inner, DType.BFloat16, 1), _b, _c;
        private readonly HostArray<float> _d = new(Rows * Columns, DType.Float32);
        private readonly HostArray<int> _bounds = new(2, DType.Int32);

        public Data(int steps)
        {
            _b = RandomHalves.Of(Math.Max(1, steps + 1) * Inner * Inner, DType.BFloat16, 2);
            _c = RandomHalves.Of(Math.Max(1, steps + 1) * Inner * Columns, DType.BFloat16, 3);
            (_bounds.Span[0], _bounds.Span[1]) = (1, steps + 1);
        }

        public KernelArgument[] Arguments => [_a.Argument, _b.Argument, _c.Argument, _d.Argument, _bounds.Argument];

        public void Dispose()
        {
            _a.Dispose();
            _b.Dispose();
            _c.Dispose();
            _d.Dispose();
            _bounds.Dispose();
        }
    }
}
