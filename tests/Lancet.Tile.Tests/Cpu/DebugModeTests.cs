using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Lancet.Tile.Cpu;
using static Lancet.Tile.TileMath;

namespace Lancet.Tile.Tests.Cpu;

/// <summary>What checked launches report: kernel, operation, file and line, element, parameter.</summary>
public unsafe class DebugModeTests
{
    [Theory]
    [InlineData(8, 4, 3, "element 4 of the tile touches index 8 of x, which has 8 elements (program 1, 0, 0)")]
    [InlineData(64, -3, 0, "element 0 of the tile touches index -3 of x, which has 64 elements (program 0, 0, 0)")]
    public void A_load_out_of_bounds(int extent, int offset, int programs, string message)
    {
        var line = 0;
        var kernel = Kernel.Trace("reads", k =>
        {
            var x = k.Pointer(DType.Int32, "x");
            var y = k.Pointer(DType.Int32, "y");
            line = Line() + 1;
            var value = k.Load(x + (k.ProgramId(0) * offset + k.Range(8) + Math.Min(offset, 0)));
            k.Store(y + (k.ProgramId(0) * 8 + k.Range(8)), value);
        });
        AssertReported(kernel, Math.Max(programs, 1), extent, $"kernel reads, Load at DebugModeTests.cs:{line}: {message}");
    }

    [Fact]
    public void A_store_out_of_bounds_in_a_loop_and_a_branch()
    {
        var line = 0;
        var kernel = Kernel.Trace("writes", k =>
        {
            var (x, y) = (k.Pointer(DType.Int32, "x"), k.Pointer(DType.Int32, "y"));
            k.For(0, 5, 1, [], (i, c) =>
            {
                k.If(i > 3, () =>
                {
                    line = Line() + 1;
                    k.Store(x + (k.Range(4) + i), k.Range(4), k.Range(4) < 3);
                });
                return [];
            });
        });
        AssertReported(kernel, 1, 6, $"kernel writes, Store at DebugModeTests.cs:{line}: element 2 of the tile touches index 6 of x, which has 6 elements");
        AssertReported(kernel, 1, 7, null);
    }

    [Fact]
    public void Addresses_that_are_loaded_and_lanes_that_are_masked_one_by_one()
    {
        var line = 0;
        var kernel = Kernel.Trace("gathers", k =>
        {
            var (x, y) = (k.Pointer(DType.Int32, "x"), k.Pointer(DType.Int32, "y"));
            var place = k.Load(y + k.Range(8));
            line = Line() + 1;
            var value = k.Load(x + (place + k.Range(8) * 2), (k.Range(8) & 1).EqualTo(1));
            k.Store(y + k.Range(8), value);
        });
        AssertReported(kernel, 1, 14, $"kernel gathers, Load at DebugModeTests.cs:{line}: element 7 of the tile touches index 14 of x");
        AssertReported(kernel, 1, 15, null);
    }

    [Fact]
    public void Two_programs_that_write_one_place()
    {
        var line = 0;
        var kernel = Kernel.Trace("races", k =>
        {
            var (x, y) = (k.Pointer(DType.Int32, "x"), k.Pointer(DType.Int32, "y"));
            k.Store(y + (k.ProgramId(0) * 8 + k.Range(8)), k.Range(8));
            line = Line() + 1;
            k.Store(x + (k.ProgramId(0) * 7 + k.Range(8)), k.Range(8));
        });
        AssertReported(kernel, 3, 64, $"kernel races, Store at DebugModeTests.cs:{line}: programs (0, 0, 0) and (1, 0, 0) both write index 7 of x");
        AssertReported(kernel, 1, 64, null);
    }

    [Fact]
    public void Atomics_may_meet_each_other_but_not_stores()
    {
        AssertReported(Kernel.Trace("counts", k => Two(k, (x, _) => k.AtomicAdd(x, k.Constant(DType.Int32, 1L)))), 4, 64, null);
        AssertReported(Kernel.Trace("counts", k => Two(k, (x, _) => k.AtomicAdd(x + 64, k.Constant(DType.Int32, 1L)))), 1, 64, "kernel counts, AtomicAdd at DebugModeTests.cs:");
        var mixed = Kernel.Trace("mixes", k => Two(k, (x, _) =>
        {
            k.If(k.ProgramId(0).EqualTo(0), () => k.AtomicAdd(x, k.Constant(DType.Int32, 1L)));
            k.If(k.ProgramId(0).EqualTo(1), () => k.Store(x, k.Constant(DType.Int32, 1L)));
        }));
        AssertReported(mixed, 2, 64, "kernel mixes, Store at DebugModeTests.cs:");
    }

    [Fact]
    public void One_program_may_write_a_place_twice() => AssertReported(
        Kernel.Trace("twice", k => Two(k, (x, _) =>
        {
            k.Store(x + k.Range(4), k.Range(4));
            k.Store(x + k.Range(4), k.Range(4) + 1);
        })),
        1,
        4,
        null);

    [Fact]
    public void A_read_of_what_nothing_has_written()
    {
        var line = 0;
        var kernel = Kernel.Trace("undefined", k =>
        {
            var (x, y) = (k.Pointer(DType.Int32, "x"), k.Pointer(DType.Int32, "y"));
            k.Store(x + k.Range(4), k.Range(4));
            var scalar = k.Scalar(DType.Int32);
            line = Line() + 1;
            k.Store(y + k.Range(8), k.Load(x + k.Range(8), k.Range(8) < scalar));
        });
        var memory = (int*)NativeMemory.AllocZeroed(16, sizeof(int));
        try
        {
            void Run(int count, bool debug = true) => CpuExecutor.Launch(
                kernel,
                new Grid(1),
                [KernelArgument.Pointer((nint)memory, DType.Int32, 8), KernelArgument.Pointer((nint)(memory + 8), DType.Int32, 8), count],
                debug: debug);
            using (UninitializedMemory.Track((nint)memory, 8 * sizeof(int)))
            {
                Run(4);
                var error = Assert.Throws<TileException>(() => Run(6));
                Assert.StartsWith($"kernel undefined, Load at DebugModeTests.cs:{line}: element 4 of the tile reads index 4 of x, which nothing has written yet", error.Message, StringComparison.Ordinal);
                Run(6, debug: false);
                UninitializedMemory.MarkDefined((nint)(memory + 4), 2 * sizeof(int));
                Run(6);
                Assert.Throws<TileException>(() => Run(7));
            }
            Run(8);
        }
        finally
        {
            NativeMemory.Free(memory);
        }
    }

    private static void Two(KernelBuilder k, Action<Pointer, Pointer> body) => body(k.Pointer(DType.Int32, "x"), k.Pointer(DType.Int32, "y"));

    /// <summary>Launches with x of some extent inside larger memory and y of 64 elements behind it, and expects a message or none.</summary>
    private static void AssertReported(Kernel kernel, int programs, int extent, string? message)
    {
        var memory = new int[256];
        fixed (int* p = memory)
        {
            var at = (nint)p;
            void Run() => CpuExecutor.Launch(kernel, new Grid(programs), [KernelArgument.Pointer(at + (32 * sizeof(int)), DType.Int32, extent), KernelArgument.Pointer(at + (160 * sizeof(int)), DType.Int32, 64)], debug: true);
            if (message is null) Run();
            else Assert.StartsWith(message, Assert.Throws<TileException>(Run).Message, StringComparison.Ordinal);
        }
    }

    private static int Line([CallerLineNumber] int line = 0) => line;
}
