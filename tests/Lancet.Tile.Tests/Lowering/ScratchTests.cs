using System.Runtime.CompilerServices;
using Lancet.Tile.Cpu;
using Lancet.Tile.Lowering;
using Lancet.Tile.Lowering.Simulator;
using Lancet.Tile.Ptx;
using static Lancet.Tile.TileMath;

namespace Lancet.Tile.Tests.Lowering;

/// <summary>Memory of a program, and asynchronous copies into it.</summary>
public class ScratchTests
{
    private const int Block = 256, Count = 5;

    /// <summary>Copies blocks one iteration ahead into one half and reads them, each element by another thread than copied it; first <paramref name="skipped"/> elements of x are left out.</summary>
    private static Kernel Reverse(DType dtype, int newest = 1, int skipped = 0) => Kernel.Trace("reverse", k =>
    {
        var (x, y) = (k.Pointer(dtype, "x"), k.Pointer(dtype, "y"));
        var scratch = k.Scratch(dtype, 2 * Block);
        var column = k.Range(Block);
        void Copy(Tile block) => k.Copy(x + (block * Block + column + skipped), scratch + ((block & 1) * Block + column));
        Copy(k.Constant(DType.Int32, 0));
        k.For(0, Count, 1, [], (block, _) =>
        {
            Copy(block + 1);
            k.AwaitCopies(newest);
            k.Store(y + (block * Block + column), k.Load(scratch + ((block & 1) * Block + (Block - 1) - column)));
            return [];
        });
        k.AwaitCopies();
    });

    // Pieces of 16, 8 and 4 bytes, and of 2 and 1, which no asynchronous copy takes.
    [Theory]
    [InlineData(DType.Int32, 0)]
    [InlineData(DType.Int32, 1)]
    [InlineData(DType.BFloat16, 0)]
    [InlineData(DType.BFloat16, 1)]
    [InlineData(DType.BFloat16, 2)]
    [InlineData(DType.UInt8, 0)]
    [InlineData(DType.UInt8, 1)]
    public void Blocks_copied_ahead(DType dtype, int skipped)
    {
        var size = dtype.SizeInBytes();
        using HostArray<byte> x = new([.. Enumerable.Range(0, ((Count + 1) * Block + skipped) * size).Select(i => (byte)(i * 37 % 101))], dtype), y = new(Count * Block * size, dtype);
        LoweringCheck.Run(Reverse(dtype, 1, skipped), new Grid(1), [x.Argument, y.Argument]);
        for (var i = 0; i < Count * Block; i++)
        {
            var source = (i / Block * Block) + Block - 1 - (i % Block) + skipped;
            Assert.Equal(x.Span.Slice(source * size, size), y.Span.Slice(i * size, size));
        }
    }

    [Fact]
    public void A_read_that_does_not_wait_is_found()
    {
        using HostArray<int> x = new((Count + 1) * Block, DType.Int32), y = new(Count * Block, DType.Int32);
        KernelArgument[] arguments = [x.Argument, y.Argument];
        string Failure(Kernel kernel) => Assert.Throws<TileException>(() => ThreadSimulator.Run(KernelLowering.Lower(kernel, PtxTarget.Sm80, PtxCompiler.Divisible(arguments)), new Grid(1), arguments)).Message;
        Assert.Contains("reads what an asynchronous copy is still bringing: a wait is missing or covers too few groups", Failure(Reverse(DType.Int32, 2)), StringComparison.Ordinal);
        var ends = Kernel.Trace("ends", k => k.Copy(k.Pointer(DType.Int32) + k.Range(Block), k.Scratch(DType.Int32, Block) + k.Range(Block)));
        Array.Resize(ref arguments, 1);
        Assert.Contains("the program ends before this asynchronous copy was waited for", Failure(ends), StringComparison.Ordinal);
    }

    [Fact]
    public void What_one_thread_stores_another_reads()
    {
        // A transposition, a sum carried through memory, and tiles that start in the middle of one another.
        var kernel = Kernel.Trace("exchange", k =>
        {
            var (x, y) = (k.Pointer(DType.Int32), k.Pointer(DType.Int32));
            Tile rows = k.Range(32).AsColumn(), columns = k.Range(32).AsRow();
            var (matrix, vector) = (k.Scratch(DType.Int32, 1024), k.Scratch(DType.Int32, 1024 + Block));
            k.Store(matrix + (rows * 32 + columns), k.Load(x + (rows * 32 + columns)));
            var transposed = k.Load(matrix + (columns * 32 + rows));
            k.Store(vector + (rows * 32 + columns), transposed);
            k.Store(vector + (1024 + k.Range(Block)), k.Range(Block));
            k.For(0, 3, 1, [], (i, _) =>
            {
                k.Store(vector + (rows * 32 + columns), k.Load(vector + (rows * 32 + columns + 1)) + 1);
                return [];
            });
            k.Store(y + (rows * 32 + columns), k.Load(vector + (rows * 32 + columns)));
        });
        using HostArray<int> x = new([.. Enumerable.Range(0, 1024).Select(i => i * 7)], DType.Int32), y = new(1024, DType.Int32);
        LoweringCheck.Run(kernel, new Grid(2), [x.Argument, y.Argument]);
        for (var i = 0; i < 1024; i++) Assert.Equal(i + 3 < 1024 ? (((i + 3) % 32 * 32) + ((i + 3) / 32)) * 7 + 3 : 1024 - i, y.Span[i]);
    }

    // Reductions pass barriers while copies are under way; that does not make arrivals known.
    [Fact]
    public void Copies_meet_the_reads_of_others()
    {
        var kernel = Kernel.Trace("meets", k =>
        {
            var (x, y, scratch) = (k.Pointer(DType.Int32), k.Pointer(DType.Int32), k.Scratch(DType.Int32, Block));
            Tile column = k.Range(Block), mirrored = (Block - 1) - column;
            void Next(Tile block)
            {
                var value = k.Load(scratch + mirrored);
                k.Copy(x + ((block + 1) * Block + column), scratch + column);
                k.Store(y + (block * Block + column), value + Sum(value));
            }
            k.Store(scratch + column, k.Load(x + column));
            Next(k.Constant(DType.Int32, 0));
            k.For(1, 3, 1, [], (block, _) =>
            {
                k.AwaitCopies();
                Next(block);
                return [];
            });
            k.AwaitCopies();
        });
        var filled = Kernel.Trace("filled", k =>
        {
            var (x, y, scratch) = (k.Pointer(DType.Int32), k.Pointer(DType.Int32), k.Scratch(DType.Int32, Block));
            Tile column = k.Range(Block), mirrored = (Block - 1) - column;
            k.Store(scratch + column, k.Load(x + column));
            var sum = Sum(k.Load(x + column));
            k.For(0, 3, 1, [], (block, _) =>
            {
                k.AwaitCopies();
                var value = k.Load(scratch + mirrored);
                k.Copy(x + ((block + 1) * Block + column), scratch + column);
                k.Store(y + (block * Block + column), value + (Sum(value) + sum));
                return [];
            });
            k.AwaitCopies();
        });
        using HostArray<int> x = new([.. Enumerable.Range(0, 4 * Block).Select(i => i * 7)], DType.Int32), y = new(3 * Block, DType.Int32);
        LoweringCheck.Run(kernel, new Grid(1), [x.Argument, y.Argument]);
        LoweringCheck.Run(filled, new Grid(1), [x.Argument, y.Argument]);
        for (var block = 0; block < 3; block++)
        {
            var source = x.Span.Slice(block * Block, Block).ToArray();
            var sum = source.Sum() + x.Span[..Block].ToArray().Sum();
            Assert.Equal([.. source.Reverse().Select(value => value + sum)], y.Span.Slice(block * Block, Block).ToArray());
        }
    }

    [Fact]
    public void Whole_tiles_meet_at_no_barrier()
    {
        var kernel = Kernel.Trace("whole", k =>
        {
            var column = k.Range(Block);
            var (x, scratch) = (k.Pointer(DType.Float32), k.Scratch(DType.Float32, 2 * Block));
            for (var first = 0; first < 2 * Block; first += Block) k.Copy(x + (first + column), scratch + (first + column));
            k.For(0, 2 * Block, Block, [], (first, _) =>
            {
                k.AwaitCopies();
                k.Store(x + (first + column), k.Load(scratch + (first + column)) * 2);
                return [];
            });
        });
        var ptx = PtxPrinter.Print(KernelLowering.Lower(kernel, PtxTarget.Sm80, 1), PtxTarget.Sm80);
        Assert.Equal(2, ptx.Split("cp.async.ca.shared.global [").Length - 1);
        Assert.DoesNotContain("bar.sync", ptx, StringComparison.Ordinal);
    }

    [Fact]
    public void Accesses_are_kept_within_scratch_memory()
    {
        string Failure(Action<KernelBuilder, Pointer, Pointer> body)
        {
            var kernel = Kernel.Trace("outside", k => body(k, k.Pointer(DType.Int32, "x"), k.Scratch(DType.Int32, 8)));
            using var x = new HostArray<int>(8, DType.Int32);
            return Assert.Throws<TileException>(() => CpuExecutor.Launch(kernel, new Grid(1), [x.Argument], debug: true)).Message;
        }
        const string Where = "element 7 of the tile touches index 8 of scratch memory, which has 8 elements";
        Assert.StartsWith($"kernel outside, Store at ScratchTests.cs:{Line()}: {Where}", Failure((k, x, scratch) => k.Store(scratch + (k.Range(8) + 1), k.Range(8))), StringComparison.Ordinal);
        Assert.StartsWith($"kernel outside, Load at ScratchTests.cs:{Line()}: {Where}", Failure((k, x, scratch) => k.Store(x + k.Range(8), k.Load(scratch + (k.Range(8) + 1)))), StringComparison.Ordinal);
        Assert.StartsWith($"kernel outside, Copy at ScratchTests.cs:{Line()}: {Where}", Failure((k, x, scratch) => k.Copy(x + k.Range(8), scratch + (k.Range(8) + 1))), StringComparison.Ordinal);
        Assert.StartsWith($"kernel outside, Copy at ScratchTests.cs:{Line()}: element 7 of the tile touches index 8 of x", Failure((k, x, scratch) => k.Copy(x + (k.Range(8) + 1), scratch + k.Range(8))), StringComparison.Ordinal);
    }

    [Fact]
    public void It_counts_as_shared_memory()
    {
        const int elements = 20000;
        var kernel = Kernel.Trace("greedy", k => k.Store(k.Scratch(DType.Float32, elements) + k.Range(Block), k.Zeros(DType.Float32, Block)));
        var needed = (elements * 4 + 1023) / 1024 * 1024;
        Assert.Equal(needed, PtxCompiler.Compile(kernel, new PtxTarget(80, needed)).SharedMemoryBytes);
        var error = Assert.Throws<TileException>(() => PtxCompiler.Compile(kernel, new PtxTarget(80, needed - 1)));
        Assert.Contains("kernel greedy: out of shared memory: 80,896 bytes needed, 80,895 available", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void What_is_wrong_is_refused()
    {
        static void Fails(string message, Action<KernelBuilder, Pointer> body) =>
            Assert.Contains(message, Assert.Throws<TileException>(() => Kernel.Trace("wrong", k => body(k, k.Pointer(DType.Int32)))).Message, StringComparison.Ordinal);
        Fails("scratch memory of 0 elements", (k, _) => k.Scratch(DType.Int32, 0));
        Fails("it stands outside of loops and branches", (k, _) => k.If(k.ProgramId(0) > 0, () => k.Scratch(DType.Int32, 8)));
        Fails("copies lead from memory to scratch memory", (k, x) => k.Copy(x + k.Range(8), x + k.Range(8)));
        Fails("copies lead from memory to scratch memory", (k, x) => k.Copy(k.Scratch(DType.Int32, 8) + k.Range(8), k.Scratch(DType.Int32, 8) + k.Range(8)));
        Fails("copying Int32 to a pointer to Float32", (k, x) => k.Copy(x + k.Range(8), k.Scratch(DType.Float32, 8) + k.Range(8)));
        Fails("-1 copies that need not arrive", (k, _) => k.AwaitCopies(-1));
        Fails("other programs do not see scratch memory: load, add and store", (k, _) => k.AtomicAdd(k.Scratch(DType.Int32, 8) + k.Range(8), k.Range(8)));
        Fails("other programs do not see scratch memory", (k, _) => k.Signal(k.Scratch(DType.Int32, 8), k.Constant(DType.Int32, 1)));
        Fails("no order of the compiler's choosing", (k, _) => k.StoreOpaque(k.Scratch(DType.Float32, 1024), k.Zeros(DType.Float32, 32, 32)));
    }

    [Fact]
    public void It_prints()
    {
        var text = Reverse(DType.Float32).ToString();
        Assert.Contains("%2: *f32 = scratch 512", text, StringComparison.Ordinal);
        Assert.Matches(@"\n  copy %\d+, %\d+  //", text);
        Assert.Contains("    await_copies 1", text, StringComparison.Ordinal);
        Assert.Contains("\n  await_copies 0", text, StringComparison.Ordinal);
    }

    private static int Line([CallerLineNumber] int line = 0) => line;
}
