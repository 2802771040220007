using Lancet.Tile.IR;
using Lancet.Tile.Lowering;
using Lancet.Tile.Lowering.Simulator;
using Lancet.Tile.Lowering.Threads;
using Lancet.Tile.Ptx;
using static Lancet.Tile.TileMath;

namespace Lancet.Tile.Tests.Lowering;

/// <summary>Blocks that the hardware copies by itself: which loads they are, lowered ones against the tile executor, and what the simulator holds against wrong ones.</summary>
public class TensorCopyTests
{
    private const int Rows = 128;
    private const int Block = 64;
    private const int Width = 128;
    private const int Stride = 192;

    /// <summary>Steps of 64 rows of two matrices, whose last rows are missing.</summary>
    [Theory]
    [InlineData(2, 0)]
    [InlineData(2, 1)]
    [InlineData(2, 64)]
    [InlineData(2, 150)]
    [InlineData(2, 256)]
    [InlineData(3, 64)]
    [InlineData(3, 190)]
    [InlineData(3, 500)]
    public void A_thread_of_the_producer_starts_what_the_executor_reads(int stages, int count)
    {
        using var data = new Data(count);
        var report = LoweringCheck.Run(Chain(stages), new Grid(2), data.Arguments, PtxTarget.Sm90);
        var steps = (count + Block - 1) / Block;
        // For each program, step and matrix a copy of 64 columns each.
        Assert.Equal(2L * steps * 2 * (Width / 64), report.Counts.GetValueOrDefault(ThreadOpcode.CopyTensor));
        Assert.Equal(2L * steps, report.Counts.GetValueOrDefault(ThreadOpcode.AwaitBytes));
        LoweringCheck.Run(Chain(stages), new Grid(2), data.Arguments, PtxTarget.Sm80);
    }

    /// <summary>Without a producer, in a loop that starts the next iteration's first product: all warps wait for the blocks, and behind the last iteration there are zeros.</summary>
    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(64)]
    [InlineData(150)]
    [InlineData(500)]
    public void A_loop_that_starts_ahead_has_its_blocks_copied(int count)
    {
        using var data = new Data(count);
        var report = LoweringCheck.Run(Chain(3, startsAhead: true), new Grid(2), data.Arguments, PtxTarget.Sm90);
        var steps = (count + Block - 1) / Block;
        // Of all eight warps, though the first one's first thread copies; two iterations more, of zeros.
        Assert.Equal(2L * (steps + 2) * 2 * (Width / 64) * 8, report.Counts.GetValueOrDefault(ThreadOpcode.CopyTensor));
        Assert.Equal(2L * (steps + 2) * 8, report.Counts.GetValueOrDefault(ThreadOpcode.AwaitBytes));
        // Phases would be left from an outer loop's iteration before.
        LoweringCheck.Run(Chain(3, startsAhead: true, isNested: true), new Grid(2), data.Arguments, PtxTarget.Sm90);
        Assert.Empty(PtxCompiler.Compile(Chain(3, startsAhead: true, isNested: true), PtxTarget.Sm90, PtxCompiler.Divisible(data.Arguments)).TensorMaps);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    public void A_loop_that_does_not_wait_for_its_blocks_is_found(int which)
    {
        using var data = new Data(300);
        var program = KernelLowering.Lower(Chain(3, startsAhead: true), PtxTarget.Sm90, PtxCompiler.Divisible(data.Arguments));
        var nodes = which == 0 ? program.Body : program.Body.OfType<ThreadLoop>().Single().Body;
        Assert.True(nodes.Remove(nodes.First(node => node is ThreadInstruction { Opcode: ThreadOpcode.AwaitBytes })));
        Assert.Contains("still bringing", Assert.Throws<TileException>(() => ThreadSimulator.Run(program, new Grid(1), data.Arguments)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Ptx_takes_the_maps_behind_the_parameters()
    {
        var kernel = Chain(2);
        var ptx = PtxCompiler.Compile(kernel, PtxTarget.Sm90, PtxCompiler.AllDivisible(kernel));
        PtxChecker.Check(ptx.Text);
        Assert.Equal([new(1, 4, Stride, Block, DType.BFloat16), new(2, 4, Stride, Block, DType.BFloat16)], ptx.TensorMaps);
        Assert.Contains("    .param .s32 chain_param_4,\n    .param .align 64 .b8 chain_map_0[128],\n    .param .align 64 .b8 chain_map_1[128]\n)\n.maxntid 384, 1, 1\n", ptx.Text, StringComparison.Ordinal);
        // The producer's other warps only give up registers.
        Assert.Contains("setmaxnreg.dec.sync.aligned.u32 40;\n", ptx.Text, StringComparison.Ordinal);
        Assert.Contains("bar.sync ", ptx.Text.Split("$producer:")[1], StringComparison.Ordinal);
        Assert.Contains(", 160;", ptx.Text, StringComparison.Ordinal);
        Assert.Empty(PtxCompiler.Compile(kernel, PtxTarget.Sm80, PtxCompiler.AllDivisible(kernel)).TensorMaps);
    }

    /// <summary>Loads that are no blocks of a matrix, or of none that can be told: all warps of the producer copy.</summary>
    [Theory]
    [InlineData("odd stride")]
    [InlineData("narrow")]
    [InlineData("other bound")]
    [InlineData("own bound")]
    [InlineData("other rows")]
    [InlineData("no mask")]
    [InlineData("columns")]
    [InlineData("fewer columns")]
    [InlineData("written")]
    public void What_is_no_block_is_copied_as_before(string what)
    {
        var kernel = Chain(2, what);
        Assert.Empty(PtxCompiler.Compile(kernel, PtxTarget.Sm90, PtxCompiler.AllDivisible(kernel)).TensorMaps);
    }

    [Fact]
    public void A_pointer_of_which_nothing_is_known_is_copied_as_before()
    {
        var kernel = Chain(2);
        Assert.Empty(PtxCompiler.Compile(kernel, PtxTarget.Sm90, PtxCompiler.AllDivisible(kernel) & ~2UL).TensorMaps);
    }

    [Fact]
    public void Wrong_programs_are_found()
    {
        using var data = new Data(300);
        string Fails(Action<ThreadProgram> change)
        {
            var program = KernelLowering.Lower(Chain(2), PtxTarget.Sm90, PtxCompiler.Divisible(data.Arguments));
            ThreadSimulator.Run(program, new Grid(1), data.Arguments);
            change(program);
            return Assert.Throws<TileException>(() => ThreadSimulator.Run(program, new Grid(1), data.Arguments)).Message;
        }
        static void Repeat(ThreadProgram program)
        {
            var place = program.Producer.FindIndex(node => node is ThreadInstruction { Opcode: ThreadOpcode.InitializeMbarrier });
            program.Producer.Insert(place, program.Producer[place]);
        }
        static List<ThreadNode> Loop(ThreadProgram program) => program.Producer.OfType<ThreadLoop>().Single().Body;
        static void Remove(List<ThreadNode> nodes, ThreadOpcode opcode) => Assert.True(nodes.Remove(nodes.First(node => node is ThreadInstruction instruction && instruction.Opcode == opcode)));
        Assert.Contains("still bringing", Fails(program => Remove(Loop(program), ThreadOpcode.AwaitBytes)), StringComparison.Ordinal);
        Assert.Contains("waits forever", Fails(program => Remove(Loop(program), ThreadOpcode.ExpectBytes)), StringComparison.Ordinal);
        Assert.Contains("32768 bytes are expected, copies bring 24576", Fails(program => Remove(Loop(program), ThreadOpcode.CopyTensor)), StringComparison.Ordinal);
        Assert.Contains("is no mbarrier", Fails(program => Remove(program.Producer, ThreadOpcode.InitializeMbarrier)), StringComparison.Ordinal);
        Assert.Contains("is an mbarrier already", Fails(Repeat), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(ThreadOpcode.CopyTensor, 512, "not aligned")]
    [InlineData(ThreadOpcode.CopyTensor, 9216, "outside the")]
    [InlineData(ThreadOpcode.CopyTensor, 0, "is no mbarrier")]
    [InlineData(ThreadOpcode.InitializeMbarrier, 4, "no place for an mbarrier")]
    [InlineData(ThreadOpcode.InitializeMbarrier, 16384, "no place for an mbarrier")]
    internal void What_is_wrong_is_found(ThreadOpcode opcode, int place, string message)
    {
        using var matrix = new HostArray<ushort>(Block * Stride, DType.BFloat16);
        var lab = new ThreadLab(1, 16384) { Target = PtxTarget.Sm90 };
        lab.TensorMaps.Add(new(0, 1, Stride, Block, DType.BFloat16));
        lab.Pointer(DType.BFloat16);
        lab.Parameter(DType.Int32, false);
        lab.Guard = lab.Emit(ThreadOpcode.Compare, ThreadType.U32, [lab.ThreadId(), Source.Constant(0)], comparison: Comparison.Equal);
        lab.Do(opcode, ThreadType.B32, [], opcode == ThreadOpcode.CopyTensor ? [Source.Constant(place), Source.Constant(0), Source.Constant(0), Source.Constant(8)] : [Source.Constant(place)]);
        Assert.Contains(message, lab.Failure(matrix.Argument, Block), StringComparison.Ordinal);
    }

    // Σ (A·Bᵢᵀ)·Cᵢ over blocks of rows of B and C, as far as there are any; programs take other columns.
    private static Kernel Chain(int stages, string what = "", bool startsAhead = false, bool isNested = false) => Kernel.Trace("chain", k =>
    {
        k.Warps = 8;
        Pointer a = k.Pointer(DType.BFloat16), b = k.Pointer(DType.BFloat16), c = k.Pointer(DType.BFloat16), d = k.Pointer(DType.Float32);
        var count = k.Scalar(DType.Int32, "count");
        var width = what == "narrow" ? 32 : Width;
        var first = k.Load(a + ((k.Range(Rows) * width).AsColumn() + k.Range(width).AsRow()));
        Tile Matrix(Pointer from, Tile start)
        {
            var row = start + k.Range(Block);
            var stride = what == "odd stride" ? Stride + 4 : Stride;
            var address = from + ((row.ToInt64() * stride).AsColumn() + (k.ProgramId(0) * 64 + (what == "columns" ? k.Range(width) * 2 : k.Range(width))).AsRow());
            var rows = what switch
            {
                "other bound" => row < count * 2,
                "own bound" => row < Stride,
                "other rows" => row + 1 < count,
                _ => row < count,
            };
            return what == "no mask" ? k.Load(address) : k.Load(address, rows.AsColumn() & (k.Range(width) < (what == "fewer columns" ? 64 : width)).AsRow());
        }
        Tile[] Sum(Tile[] initial) => k.For(k.Constant(DType.Int32, 0), count, k.Constant(DType.Int32, Block), initial, (start, carried) =>
        {
            var scores = Dot(first, Matrix(b, start).Transposed());
            return [Dot(scores.To(DType.BFloat16), Matrix(c, start), carried[0] * 0.5f)];
        }, stages: stages, warpSpecialized: !startsAhead, startsAhead: startsAhead);
        Tile[] zeros = [k.Zeros(DType.Float32, Rows, width)];
        var sum = (isNested ? k.For(0, 2, 1, zeros, (_, carried) => Sum(carried)) : Sum(zeros))[0];
        if (what == "written") k.If(count > Rows, () => k.Store(b + k.ProgramId(0), k.Constant(DType.BFloat16, 0.0)));
        k.Store(d + ((k.ProgramId(0) * (Rows * width)) + (k.Range(Rows) * width).AsColumn() + k.Range(width).AsRow()), sum);
    });

    private sealed class Data(int count) : IDisposable
    {
        private readonly HostArray<ushort> _a = RandomHalves.Of(Rows * Width, DType.BFloat16, 1), _b = RandomHalves.Of(Math.Max(1, count) * Stride, DType.BFloat16, 2), _c = RandomHalves.Of(Math.Max(1, count) * Stride, DType.BFloat16, 3);
        private readonly HostArray<float> _d = new(2 * Rows * Width, DType.Float32);

        public KernelArgument[] Arguments => [_a.Argument, _b.Argument, _c.Argument, _d.Argument, count];

        public void Dispose()
        {
            _a.Dispose();
            _b.Dispose();
            _c.Dispose();
            _d.Dispose();
        }
    }
}
