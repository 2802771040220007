using System.Runtime.InteropServices;

namespace Lancet.Tile.Cpu;

/// <summary>
/// Runs kernels on the processor: each kernel is compiled once to SIMD instructions over whole tiles, and the programs of a grid are shared
/// out over a pool of threads. Results do not depend on the number of threads. A launch allocates nothing.
/// </summary>
public static unsafe class CpuExecutor
{
    private static readonly bool s_isDebugDefault = Environment.GetEnvironmentVariable("LANCET_TILE_DEBUG") == "1";
    [ThreadStatic]
    private static byte* t_scratch;
    [ThreadStatic]
    private static long t_scratchBytes;

    /// <summary>Runs every program of <paramref name="grid"/> and returns when all are done.</summary>
    /// <param name="kernel">The kernel; compiled on its first launch.</param>
    /// <param name="grid">How many programs.</param>
    /// <param name="arguments">One for each parameter; pointers to host memory.</param>
    /// <param name="pool">Threads; the shared pool by default.</param>
    /// <param name="debug">Checks every address against the argument's extent, finds programs that write to the same place and, in memory under <see cref="UninitializedMemory"/>, reads of what nothing has written. Slow, on one thread. The environment variable LANCET_TILE_DEBUG=1 turns it on for all launches.</param>
    /// <exception cref="TileException">The arguments do not fit the kernel's parameters, or a checked access is out of bounds.</exception>
    public static void Launch(Kernel kernel, Grid grid, ReadOnlySpan<KernelArgument> arguments, WorkerPool? pool = null, bool debug = false)
    {
        LaunchCheck.Verify(kernel, grid, arguments);
        if (grid.Count == 0) return;
        debug |= s_isDebugDefault;
        var program = CpuProgram.Of(kernel);
        pool ??= WorkerPool.Shared;
        var bits = stackalloc long[arguments.Length + 1];
        var counts = stackalloc long[arguments.Length + 1];
        for (var i = 0; i < arguments.Length; i++) (bits[i], counts[i]) = (arguments[i].Bits, arguments[i].Count);
        var launch = new LaunchState { Program = GCHandle.ToIntPtr(program.Handle), Arguments = bits, Counts = counts, Grid = grid, IsDebug = debug };
        if (debug)
        {
            DebugState.Begin();
            launch.Tasks = 1;
            try
            {
                RunTask((nint)(&launch), 0, 0);
            }
            finally
            {
                DebugState.End();
            }
        }
        else
        {
            launch.Tasks = (int)Math.Min(grid.Count / kernel.Cluster, pool.ThreadCount == 1 ? 1 : pool.ThreadCount * 4L);
            pool.Run(launch.Tasks, &RunTask, (nint)(&launch));
        }
        // The tasks know the program through a weak handle only, and this may be the last use of the kernel.
        GC.KeepAlive(program);
    }

    private static void RunTask(nint context, int task, int worker)
    {
        var launch = (LaunchState*)context;
        var program = (CpuProgram)GCHandle.FromIntPtr(launch->Program).Target!;
        var compiled = launch->IsDebug ? program.Checked : program.Fast;
        var frame = new Frame { Cluster = program.Cluster, ScratchBytes = compiled.ScratchBytes, Arguments = launch->Arguments, Counts = launch->Counts, Grid = launch->Grid };
        frame.ClusterScratch = Scratch(frame.ScratchBytes * frame.Cluster);
        var clusters = launch->Grid.Count / frame.Cluster;
        long first = clusters * task / launch->Tasks, last = clusters * (task + 1) / launch->Tasks;
        for (var i = first * frame.Cluster; i < last * frame.Cluster; i += frame.Cluster)
        {
            frame.Y = (int)(i / launch->Grid.X % launch->Grid.Y);
            frame.Z = (int)(i / launch->Grid.X / launch->Grid.Y);
            foreach (var phase in compiled.Phases)
            {
                for (var member = 0; member < frame.Cluster; member++)
                {
                    frame.X = (int)(i % launch->Grid.X) + member;
                    frame.Scratch = frame.ClusterScratch + (member * frame.ScratchBytes);
                    Instruction.Run(phase, ref frame);
                }
            }
        }
    }

    private static byte* Scratch(long bytes)
    {
        if (t_scratchBytes >= bytes) return t_scratch;
        if (t_scratch is not null) NativeMemory.AlignedFree(t_scratch);
        t_scratch = (byte*)NativeMemory.AlignedAlloc((nuint)bytes, 64);
        t_scratchBytes = bytes;
        return t_scratch;
    }

    private struct LaunchState
    {
        public nint Program;
        public long* Arguments;
        public long* Counts;
        public Grid Grid;
        public int Tasks;
        public bool IsDebug;
    }
}

/// <summary>A kernel's compiled forms, kept with the kernel.</summary>
internal sealed class CpuProgram
{
    private readonly Kernel _kernel;
    private CompiledKernel? _fast;
    private CompiledKernel? _checked;

    private CpuProgram(Kernel kernel)
    {
        _kernel = kernel;
        Handle = GCHandle.Alloc(this, GCHandleType.Weak);
    }

    ~CpuProgram() => Handle.Free();

    /// <summary>Lets a launch name the program in unmanaged memory; the kernel keeps the program alive.</summary>
    public GCHandle Handle { get; }

    public int Cluster => _kernel.Cluster;

    public CompiledKernel Fast => _fast ??= KernelCompiler.Compile(_kernel, false);

    public CompiledKernel Checked => _checked ??= KernelCompiler.Compile(_kernel, true);

    public static CpuProgram Of(Kernel kernel)
    {
        if (kernel.CpuProgram is CpuProgram existing) return existing;
        Interlocked.CompareExchange(ref kernel.CpuProgram, new CpuProgram(kernel), null);
        return (CpuProgram)kernel.CpuProgram;
    }
}
