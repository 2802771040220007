using CsCheck;
using Lancet.Tile.Cpu;
using Lancet.Tile.Tests.IR;
using static Lancet.Tile.TileMath;

namespace Lancet.Tile.Tests.Cpu;

/// <summary>Loops and branches, and what holds for whole kernels: the same bits on any number of threads, checked or not.</summary>
public class ControlFlowTests
{
    [Fact]
    public void Random_kernels_give_the_same_bits_on_any_number_of_threads_and_checked()
    {
        using var one = new WorkerPool(1);
        using var three = new WorkerPool(3);
        Gen.Int[0, int.MaxValue].Sample(
            seed =>
            {
                var kernel = RandomKernel.Build(seed);
                var (floats, ints) = RandomKernel.Run(kernel, one);
                foreach (var (otherFloats, otherInts) in (ReadOnlySpan<(int[], int[])>)[RandomKernel.Run(kernel, three), RandomKernel.Run(kernel, one, debug: true)])
                {
                    Assert.Equal(floats, otherFloats);
                    Assert.Equal(ints, otherInts);
                }
            },
            iter: 100,
            threads: 1);
    }

    [Fact]
    public void Nested_loops_with_bounds_from_arguments_and_outer_indices() => Gen.Select(Gen.Int[-3, 8], Gen.Int[-3, 8], Gen.Int[1, 4], Gen.Int[1, 4]).Sample(
        (low, high, step, innerStep) =>
        {
            var lab = new TileLab(1);
            var output = lab.Buffer(DType.Int64, new long[8]);
            lab.Launch(
                (k, p) =>
                {
                    Tile from = k.Scalar(DType.Int32), to = k.Scalar(DType.Int32), by = k.Scalar(DType.Int32), innerBy = k.Scalar(DType.Int32);
                    var range = k.Range(8).ToInt64();
                    var total = k.For(from, to, by, [range, k.Constant(DType.Int64, 1L)], (i, outer) =>
                    {
                        var inner = k.For(from, i + 1, innerBy, [outer[0]], (j, c) => [c[0] * 3 + (j.ToInt64() + range)]);
                        return [inner[0] - i.ToInt64(), outer[1] * 2 + i.ToInt64()];
                    });
                    k.Store(p[output] + k.Range(8), total[0] + total[1]);
                },
                scalars: [low, high, step, innerStep]);
            for (var lane = 0; lane < 8; lane++)
            {
                var (a, b) = ((long)lane, 1L);
                for (var i = low; i < high; i += step)
                {
                    for (var j = low; j < i + 1; j += innerStep) a = (a * 3) + j + lane;
                    (a, b) = (a - i, (b * 2) + i);
                }
                Assert.Equal(a + b, lab.Read(output, lane));
            }
        },
        iter: 200,
        threads: 1);

    [Fact]
    public void Carried_tiles_that_are_transposed_swapped_and_repeated() => Gen.Select(Gen.Int[0, int.MaxValue], Gen.Int[0, 5], Gen.Int[0, 4]).Sample(
        (seed, trips, bits) =>
        {
            var lab = new TileLab(seed);
            var n = 1 << bits;
            long[] x = lab.Values(DType.Int32, n * n), y = lab.Values(DType.Int32, n * n), z = lab.Values(DType.Int32, n);
            var (px, py, pz, output) = (lab.Buffer(DType.Int32, x), lab.Buffer(DType.Int32, y), lab.Buffer(DType.Int32, z), lab.Buffer(DType.Int32, new long[(3 * n * n) + n]));
            lab.Launch((k, p) =>
            {
                var index = TileLab.Index(k, n, n);
                var row = k.Load(p[pz] + k.Range(n));
                var carried = k.For(0, trips, 1, [k.Load(p[px] + index), k.Load(p[py] + index), row.AsRow().BroadcastTo(n, n), row], (i, c) =>
                    [c[0].Transposed(), c[2], c[1].Transposed(), c[3] + ReduceMax(c[2], 0)]);
                for (var i = 0; i < 3; i++) k.Store(p[output] + (index + i * n * n), carried[i]);
                k.Store(p[output] + (k.Range(n) + 3 * n * n), carried[3]);
            });
            var state = (A: x, B: y, C: Enumerable.Range(0, n * n).Select(i => z[i % n]).ToArray(), D: z);
            for (var trip = 0; trip < trips; trip++)
            {
                var columns = Enumerable.Range(0, n).Select(column => Enumerable.Range(0, n).Max(r => state.C[(r * n) + column])).ToArray();
                state = (Transposed(state.A, n), state.C, Transposed(state.B, n), [.. state.D.Zip(columns, (a, b) => Elements.Wrap(DType.Int32, a + b))]);
            }
            long[] expected = [.. state.A, .. state.B, .. state.C, .. state.D];
            for (var i = 0; i < expected.Length; i++) Assert.Equal(expected[i], lab.Read(output, i));
        },
        iter: 60,
        threads: 1);

    [Fact]
    public void Branches_take_what_their_condition_says_and_do_nothing_else()
    {
        var lab = new TileLab(3);
        var output = lab.Buffer(DType.Int32, new long[64]);
        lab.Launch(
            (k, p) =>
            {
                var program = k.ProgramId(0);
                var at = p[output] + program * 8 + k.Range(4);
                var outer = k.If((program & 1).EqualTo(1), [k.Range(4), k.Constant(DType.Int32, -1L)], () =>
                {
                    k.Store(at + 4, k.Range(4) + 100);
                    return k.If(program > 4, [k.Range(4) * 2, program], () => [k.Range(4).To(DType.Int64).To(DType.Int32) * 3, program + 10]);
                });
                k.Store(at, outer[0] * 1000 + outer[1]);
            },
            new Grid(8));
        for (var program = 0; program < 8; program++)
        {
            for (var lane = 0; lane < 4; lane++)
            {
                var isOdd = program % 2 == 1;
                Assert.Equal(isOdd ? program > 4 ? (lane * 3000) + program + 10 : (lane * 2000) + program : (lane * 1000) - 1, lab.Read(output, (program * 8) + lane));
                Assert.Equal(isOdd ? lane + 100 : 0, lab.Read(output, (program * 8) + 4 + lane));
            }
        }
    }

    [Fact]
    public void Program_ids_and_counts_along_three_axes()
    {
        var lab = new TileLab(1);
        var output = lab.Buffer(DType.Int32, new long[2 * 3 * 4]);
        lab.Launch(
            (k, p) =>
            {
                var (x, y, z) = (k.ProgramId(0), k.ProgramId(1), k.ProgramId(2));
                k.Store(p[output] + ((z * k.ProgramCount(1) + y) * k.ProgramCount(0) + x), x + y * 10 + z * 100 + k.ProgramCount(2) * 1000);
            },
            new Grid(2, 3, 4));
        for (var i = 0; i < 24; i++) Assert.Equal((i % 2) + (i / 2 % 3 * 10) + (i / 6 * 100) + 4000, lab.Read(output, i));
    }

    [Fact]
    public void A_loop_that_would_not_end_names_its_line()
    {
        var lab = new TileLab(1);
        var error = Assert.Throws<TileException>(() => lab.Launch(
            (k, p) =>
            {
                var step = k.Scalar(DType.Int32);
                k.For(k.Constant(DType.Int32, 0L), step + 8, step, [], (i, c) => []);
            },
            scalars: [0]));
        Assert.Contains("kernel lab_1, For at ControlFlowTests.cs:", error.Message, StringComparison.Ordinal);
        Assert.Contains("step is 0", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public unsafe void A_launch_allocates_nothing_on_any_thread()
    {
        var kernel = RandomKernel.Build(7);
        using var pool = new WorkerPool(3);
        RandomKernel.Run(kernel, pool);
        var data = new byte[1 << 20];
        fixed (byte* p = data)
        {
            var context = new LaunchContext { Kernel = System.Runtime.InteropServices.GCHandle.Alloc(kernel), Memory = p };
            // On the worker threads: launches inside a run stay on their thread, where allocations can be counted.
            for (var round = 0; round < 20; round++)
            {
                context.Allocated = 0;
                pool.Run(12, &CountedLaunch, (nint)(&context));
            }
            Assert.Equal(0, context.Allocated);
            // And from outside, shared out over the pool. Until a method was called thirty times its calls are counted, and the end of that may allocate.
            for (var round = 0; round < 100; round++) Launch(kernel, p, pool);
            var before = GC.GetAllocatedBytesForCurrentThread();
            for (var round = 0; round < 10; round++) Launch(kernel, p, pool);
            Assert.Equal(before, GC.GetAllocatedBytesForCurrentThread());
            context.Kernel.Free();
        }
    }

    private static unsafe void CountedLaunch(nint pointer, int task, int worker)
    {
        var context = (LaunchContext*)pointer;
        var before = GC.GetAllocatedBytesForCurrentThread();
        Launch((Kernel)context->Kernel.Target!, context->Memory, null);
        Interlocked.Add(ref context->Allocated, GC.GetAllocatedBytesForCurrentThread() - before);
    }

    private static unsafe void Launch(Kernel kernel, byte* memory, WorkerPool? pool) => CpuExecutor.Launch(
        kernel,
        new Grid(RandomKernel.Programs),
        [
            KernelArgument.Pointer((nint)memory, DType.Float32, 65536), KernelArgument.Pointer((nint)memory + (1 << 18), DType.Int32, 65536),
            KernelArgument.Pointer((nint)memory + (1 << 19), DType.Float32, 65536), KernelArgument.Pointer((nint)memory + (3 << 18), DType.Int32, 65536), 5,
        ],
        pool);

    private static long[] Transposed(long[] x, int n) => [.. Enumerable.Range(0, n * n).Select(i => x[(i % n * n) + (i / n)])];

    private unsafe struct LaunchContext
    {
        public System.Runtime.InteropServices.GCHandle Kernel;
        public byte* Memory;
        public long Allocated;
    }
}
