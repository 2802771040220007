using System.Collections.Concurrent;
using System.Diagnostics;
using Lancet.Devices.Cuda.Interop;
using Lancet.Tile;
using Lancet.Tile.Ptx;

namespace Lancet.Devices.Cuda;

/// <summary>
/// An NVIDIA GPU. Kernels are traced once, compiled to PTX, assembled by the driver (or taken from the disk cache) and queued on one compute
/// stream together with products, copies and clears, so everything happens in the order of the calls. Calls may come from any thread, one at
/// a time; the order between threads is the callers' business.
/// </summary>
/// <remarks>
/// LANCET_CUDA_SYNC=1 waits after each launch, so that a failing kernel is named. LANCET_CUDA_GRAPHS=0 turns graphs off, LANCET_CUDA_OVERLAP=0 kernels that come up
/// while the one before them ends. LANCET_DUMP_PTX names a folder into which the PTX of every compiled kernel is written, where the caller names none.
/// </remarks>
public sealed partial class CudaDevice : Device
{
    private const int MaxGridYz = 65535;
    private const int CaptureRelaxed = 2;
    // CUDA 12.4: the first release after recordings of overlapping kernels came.
    private const int OverlapVersion = 12040;
    private static readonly bool s_waits = Environment.GetEnvironmentVariable("LANCET_CUDA_SYNC") == "1";
    private static readonly bool s_hasGraphs = Environment.GetEnvironmentVariable("LANCET_CUDA_GRAPHS") != "0";
    private static readonly bool s_mayOverlap = Environment.GetEnvironmentVariable("LANCET_CUDA_OVERLAP") != "0";

    private static long s_devices;

    // The device whose context is the thread's: not the context itself, since a later device may be given the address of a former one's.
    [ThreadStatic]
    private static long t_current;

    private readonly long _id = Interlocked.Increment(ref s_devices);
    private readonly ContextHandle _context;
    private readonly StreamHandle _compute;
    private readonly StreamHandle _copyOut;
    private readonly StreamHandle _copyIn;
    private readonly List<(EventHandle Start, EventHandle End)> _copies = [];
    private readonly PinnedRing _ring;
    private readonly ConcurrentDictionary<KernelVariant, Lazy<CudaFunction>> _functions = new();
    private readonly CubinCache _cubins;
    private readonly CudaMatMul _matMul;
    private readonly PtxTarget _target;
    private readonly bool _mayOverlap;
    private readonly Lock _lock = new();
    private readonly Lock _preparationLock = new();
    private DevicePreparation _preparation;
    private long _allocated;
    private long _peak;
    private bool _isDisposed;
    private bool _endsWithKernel;

    /// <summary>Opens a GPU.</summary>
    /// <param name="ordinal">N in <c>cuda:N</c>; null for the first that can be used.</param>
    /// <param name="usesCublasLt">Whether cuBLASLt is used where it is found; without it products run on the tile-language kernel.</param>
    /// <param name="ptxFolder">Receives the PTX of every kernel that is compiled; null for the folder in LANCET_DUMP_PTX, if any.</param>
    /// <exception cref="LancetException">There is no such GPU, or it cannot be used; the message says why.</exception>
    public CudaDevice(int? ordinal = null, bool usesCublasLt = true, PtxFolder? ptxFolder = null)
    {
        PtxFolder = ptxFolder ?? PtxFolder.FromEnvironment();
        Info = CudaPlatform.Current.Require(ordinal);
        _target = Info.PtxTarget;
        PlanTarget = PlanTarget.CudaOf(_target, Info.MemoryBytes);
        CudaCheck.Driver(Driver.cuDriverGetVersion(out var version));
        CudaCheck.Driver(Driver.cuDeviceGet(out var device, Info.Ordinal));
        _context = ContextHandle.Retain(device);
        _mayOverlap = s_mayOverlap && version >= OverlapVersion && _target.HasDependentLaunch;
        MakeCurrent();
        (_compute, _copyOut, _copyIn) = (StreamHandle.Create(), StreamHandle.Create(), StreamHandle.Create());
        _ring = new PinnedRing();
        _cubins = new CubinCache(Path.Combine(CacheFolder.Path, "cubin"), version, Info.ComputeCapability);
        _matMul = new CudaMatMul(this, usesCublasLt ? CublasLtEngine.TryCreate(this, version) : null, Info.MaxSharedMemoryPerBlock, this);
    }

    /// <summary>The GPU.</summary>
    public CudaDeviceInfo Info { get; }

    /// <summary>Where the PTX of compiled kernels is written, or null.</summary>
    public PtxFolder? PtxFolder { get; }

    /// <summary>What products run on, such as <c>cuBLASLt 13.0.2</c>.</summary>
    public string MatMulLibrary => _matMul.Library;

    /// <inheritdoc/>
    public override string Name => $"cuda:{Info.Ordinal} ({Info.Name})";

    /// <inheritdoc/>
    public override long AllocatedBytes => Interlocked.Read(ref _allocated);

    /// <inheritdoc/>
    public override long PeakAllocatedBytes => Interlocked.Read(ref _peak);

    /// <inheritdoc/>
    public override PlanTarget PlanTarget { get; }

    /// <inheritdoc/>
    public override DeviceRates MeasureRates()
    {
        var driver = CudaPlatform.Current.DriverVersion;
        if (RateCache.Default.Find(Info.Name, driver) is { } known) return known;
        var peak = PeakAllocatedBytes;
        var rates = RateMeasurement.Measure(this, RateCache.Default, driver) ?? PlanTarget.Rates;
        // What was allocated to measure is no part of a run's memory.
        Interlocked.Exchange(ref _peak, Math.Max(peak, AllocatedBytes));
        return rates;
    }

    /// <inheritdoc/>
    public override DevicePreparation Preparation
    {
        get
        {
            lock (_preparationLock) return _preparation;
        }
    }

    /// <inheritdoc/>
    public override bool HasGraphs => s_hasGraphs && !s_waits;

    /// <inheritdoc/>
    public override long AvailableBytes
    {
        get
        {
            MakeCurrent();
            CudaCheck.Driver(Driver.cuMemGetInfo(out var free, out _));
            return (long)free;
        }
    }

    /// <summary>Whether a recording is in progress.</summary>
    internal bool IsCapturing { get; private set; }

    /// <summary>Whether anything was ever recorded; addresses that a recording may hold are then never given back.</summary>
    internal bool HasCaptured { get; private set; }

    /// <summary>Resources of the kernels launched so far, by name.</summary>
    public IReadOnlyList<CudaKernelInfo> KernelInfos => [.. _functions.Values.Where(function => function.IsValueCreated).Select(function => function.Value.Info).OrderBy(info => info.Name, StringComparer.Ordinal)];

    /// <summary>Registers, spills and shared memory of a kernel for divisible arguments, compiling it if need be.</summary>
    public CudaKernelInfo InfoOf(Kernel kernel) => InfoOf(new KernelVariant(kernel, PtxCompiler.AllDivisible(kernel)));

    /// <summary>Registers, spills and shared memory of a kernel, compiling it if need be.</summary>
    public CudaKernelInfo InfoOf(KernelVariant variant) => Function(variant).Info;

    /// <inheritdoc/>
    public override void Launch(Kernel kernel, Grid grid, ReadOnlySpan<KernelArgument> arguments)
    {
        LaunchCheck.Verify(kernel, grid, arguments);
        if (grid.Count == 0) return;
        var function = Function(new(kernel, PtxCompiler.Divisible(arguments)));
        if (grid.Y > MaxGridYz || grid.Z > MaxGridYz) throw new TileException($"kernel {kernel.Name}: a grid of {grid.X} × {grid.Y} × {grid.Z} programs; a GPU takes at most {MaxGridYz} along axes 1 and 2.");
        // Only right after another kernel: that is where it was measured to help.
        function.Launch(grid, arguments, _compute.Value, _mayOverlap && _endsWithKernel);
        _endsWithKernel = true;
        if (!s_waits) return;
        var code = Driver.cuStreamSynchronize(_compute.Value);
        if (code != 0) function.Fail(code, nameof(Driver.cuStreamSynchronize), grid);
    }

    /// <inheritdoc/>
    public override void MatMul(in MatMul product)
    {
        MakeCurrent();
        lock (_lock) _matMul.Multiply(product);
        if (s_waits) Synchronize();
    }

    /// <inheritdoc/>
    public override void ReserveMatMulWorkspace(long bytes)
    {
        lock (_lock) _matMul.Reserve(bytes);
    }

    /// <inheritdoc/>
    public override void Prepare(IReadOnlyCollection<KernelVariant> kernels) => Parallel.ForEach(kernels, variant =>
    {
        try
        {
            _ = Function(variant);
        }
        catch (Exception error) when (error is TileException or LancetException)
        {
            // The launch will say so, if there is one.
        }
    });

    /// <inheritdoc/>
    /// <exception cref="CudaException">Something in the work cannot be recorded.</exception>
    public override DeviceGraph? Capture(Action work)
    {
        if (!HasGraphs) return null;
        if (IsCapturing) throw new InvalidOperationException("A recording is in progress already.");
        MakeCurrent();
        CudaCheck.Driver(Driver.cuStreamBeginCapture(TakeComputeStream(), CaptureRelaxed));
        (IsCapturing, HasCaptured) = (true, true);
        nint graph = 0;
        try
        {
            work();
        }
        catch
        {
            IsCapturing = false;
            if (Driver.cuStreamEndCapture(TakeComputeStream(), out graph) == 0 && graph != 0) _ = Driver.cuGraphDestroy(graph);
            throw;
        }
        IsCapturing = false;
        CudaCheck.Driver(Driver.cuStreamEndCapture(TakeComputeStream(), out graph));
        return CudaGraph.Instantiate(this, graph);
    }

    /// <inheritdoc/>
    public override void Synchronize()
    {
        MakeCurrent();
        CudaCheck.Driver(Driver.cuStreamSynchronize(_compute.Value));
        CudaCheck.Driver(Driver.cuStreamSynchronize(_copyOut.Value));
        CudaCheck.Driver(Driver.cuStreamSynchronize(_copyIn.Value));
    }

    /// <summary>The stream of all computation, for anything but a kernel of Lancet's: what comes after it starts when it is done.</summary>
    internal nint TakeComputeStream()
    {
        _endsWithKernel = false;
        return _compute.Value;
    }

    /// <summary>Makes the device's context the calling thread's.</summary>
    internal void MakeCurrent()
    {
        if (t_current == _id) return;
        ObjectDisposedException.ThrowIf(_isDisposed, this);
        CudaCheck.Driver(Driver.cuCtxSetCurrent(_context.Value));
        t_current = _id;
    }

    /// <summary>Counts what was prepared.</summary>
    internal void Note(Func<DevicePreparation, DevicePreparation> add)
    {
        lock (_preparationLock) _preparation = add(_preparation);
    }

    /// <summary>Queues a recording.</summary>
    internal void Replay(GraphHandle graph)
    {
        MakeCurrent();
        CudaCheck.Driver(Driver.cuGraphLaunch(graph.Value, TakeComputeStream()));
    }

    /// <summary>Milliseconds that queued work takes on the device.</summary>
    internal double Time(Action work) => Time(work, static () => { }, 1);

    /// <summary>Milliseconds that some work takes on average where other work follows it each time, without a pause.</summary>
    internal double Time(Action work, Action other, int runs)
    {
        MakeCurrent();
        var sum = 0.0;
        var events = new (EventHandle Start, EventHandle End)[runs];
        try
        {
            foreach (ref var pair in events.AsSpan())
            {
                pair = (EventHandle.Create(true), EventHandle.Create(true));
                CudaCheck.Driver(Driver.cuEventRecord(pair.Start.Value, TakeComputeStream()));
                work();
                CudaCheck.Driver(Driver.cuEventRecord(pair.End.Value, TakeComputeStream()));
                other();
            }
            CudaCheck.Driver(Driver.cuEventSynchronize(events[^1].End.Value));
            foreach (var (start, end) in events)
            {
                CudaCheck.Driver(Driver.cuEventElapsedTime(out var milliseconds, start.Value, end.Value));
                sum += milliseconds;
            }
        }
        finally
        {
            foreach (var (start, end) in events)
            {
                start?.Dispose();
                end?.Dispose();
            }
        }
        return sum / runs;
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        if (_isDisposed || !disposing) return;
        MakeCurrent();
        _ = Driver.cuStreamSynchronize(_compute.Value);
        _matMul.Dispose();
        foreach (var function in _functions.Values)
            if (function.IsValueCreated) function.Value.Dispose();
        _functions.Clear();
        _ring.Dispose();
        foreach (var (start, end) in _copies)
        {
            start.Dispose();
            end.Dispose();
        }
        _compute.Dispose();
        _copyOut.Dispose();
        _copyIn.Dispose();
        _isDisposed = true;
        _ = Driver.cuCtxSetCurrent(0);
        t_current = 0;
        _context.Dispose();
    }

    private CudaFunction Function(KernelVariant variant)
    {
        MakeCurrent();
        return _functions.TryGetValue(variant, out var existing) ? existing.Value : _functions.GetOrAdd(variant, v => new Lazy<CudaFunction>(() => Compile(v))).Value;
    }

    private CudaFunction Compile(KernelVariant variant)
    {
        MakeCurrent();
        var start = Stopwatch.GetTimestamp();
        var kernel = variant.Kernel;
        var ptx = PtxCompiler.Compile(kernel, _target, variant.DivisibleArguments);
        PtxFolder?.Write(variant, _target, ptx);
        if (_cubins.Find(ptx.Text) is { } cached)
        {
            try
            {
                var known = CudaFunction.Load(kernel, ptx, cached);
                Note(sum => sum with { Read = sum.Read + 1, KernelSeconds = sum.KernelSeconds + Stopwatch.GetElapsedTime(start).TotalSeconds });
                return known;
            }
            catch (CudaException)
            {
                // Made by other means than this driver; it is replaced below.
            }
        }
        var cubin = CudaAssembler.Assemble(kernel.Name, ptx.Text);
        _cubins.Add(ptx.Text, cubin);
        var function = CudaFunction.Load(kernel, ptx, cubin);
        Note(sum => sum with { Assembled = sum.Assembled + 1, KernelSeconds = sum.KernelSeconds + Stopwatch.GetElapsedTime(start).TotalSeconds });
        return function;
    }
}
