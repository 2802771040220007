using Lancet.Tensors;
using Lancet.Tile;
using Lancet.Tile.Ptx;

namespace Lancet.Devices;

/// <summary>A device that computes nothing: a step run on it only tells what it would allocate and launch. Its addresses must not be followed.</summary>
/// <param name="target">What is planned for.</param>
public sealed class PlanningDevice(PlanTarget target) : Device
{
    private readonly HashSet<KernelVariant> _kernels = [];
    private long _allocated;
    private long _peak;

    /// <summary>Takes down what runs; null for nobody.</summary>
    internal IDeviceTrace? Trace { get; init; }

    /// <summary>Kernels, matrix products, copies and clears queued so far: what a recording of them has nodes for.</summary>
    public int NodeCount { get; private set; }

    /// <summary>Floating-point operations of the matrix products queued so far.</summary>
    public double MatMulOperations { get; private set; }

    /// <summary>Kernels queued so far, each once.</summary>
    public IReadOnlyCollection<KernelVariant> Kernels => _kernels;

    /// <summary>Largest workspace that one of the matrix products needs on the target.</summary>
    public long MatMulWorkspaceBytes { get; private set; }

    /// <inheritdoc/>
    public override string Name => "plan";

    /// <inheritdoc/>
    public override PlanTarget PlanTarget => target;

    /// <inheritdoc/>
    public override long AllocatedBytes => _allocated;

    /// <inheritdoc/>
    public override long PeakAllocatedBytes => _peak;

    /// <inheritdoc/>
    public override long AvailableBytes => long.MaxValue;

    /// <inheritdoc/>
    public override DeviceBuffer Allocate(long bytes, string purpose)
    {
        _allocated += bytes;
        _peak = Math.Max(_peak, _allocated);
        return new ImaginaryBuffer(this, bytes);
    }

    /// <inheritdoc/>
    public override DeviceBuffer AllocateHost(long bytes, string purpose) => new ImaginaryBuffer(null, bytes);

    /// <inheritdoc/>
    public override void Launch(Kernel kernel, Grid grid, ReadOnlySpan<KernelArgument> arguments)
    {
        NodeCount++;
        _kernels.Add(new(kernel, PtxCompiler.Divisible(arguments)));
        Trace?.Kernel(KernelArgument.TouchedBytes(arguments));
    }

    /// <inheritdoc/>
    public override void MatMul(in MatMul product)
    {
        NodeCount++;
        MatMulWorkspaceBytes = Math.Max(MatMulWorkspaceBytes, target.MatMulWorkspaceBytes(product));
        MatMulOperations += 2.0 * product.M * product.N * product.K;
        Trace?.MatMul(product);
    }

    /// <inheritdoc/>
    public override void MatMul(in GroupedMatMul product)
    {
        if (target.IsCuda) base.MatMul(product);
        else NodeCount++;
        MatMulWorkspaceBytes = Math.Max(MatMulWorkspaceBytes, target.MatMulWorkspaceBytes(product));
        MatMulOperations += 2.0 * product.Rows.Count * product.N * product.K;
        Trace?.GroupedOperations(2.0 * product.Rows.Count * product.N * product.K);
    }

    /// <inheritdoc/>
    public override void MatMul(in GroupedGradient product)
    {
        if (target.IsCuda) base.MatMul(product);
        else NodeCount++;
        MatMulWorkspaceBytes = Math.Max(MatMulWorkspaceBytes, target.MatMulWorkspaceBytes(product));
        MatMulOperations += 2.0 * product.Rows.Count * product.M * product.N;
        Trace?.GroupedOperations(2.0 * product.Rows.Count * product.M * product.N);
    }

    /// <inheritdoc/>
    public override void CopyFromHost(ReadOnlySpan<byte> source, Tensor destination)
    {
    }

    /// <inheritdoc/>
    public override void CopyToHost(Tensor source, Span<byte> destination) => destination.Clear();

    /// <inheritdoc/>
    public override void Copy(Tensor source, Tensor destination)
    {
        NodeCount++;
        Trace?.Kernel(2 * source.Bytes);
    }

    /// <inheritdoc/>
    public override void CopyOut(Tensor source, Tensor host, int channel)
    {
        NodeCount++;
        Trace?.CopyOut(source.Bytes, channel);
    }

    /// <inheritdoc/>
    public override void CopyIn(Tensor host, Tensor destination, int channel)
    {
        NodeCount++;
        Trace?.CopyIn(host.Bytes, channel);
    }

    /// <inheritdoc/>
    public override void AwaitCopy(int channel) => Trace?.Await(channel);

    /// <inheritdoc/>
    public override void Clear(Tensor destination)
    {
        NodeCount++;
        Trace?.Kernel(destination.Bytes);
    }

    /// <inheritdoc/>
    public override void Synchronize()
    {
    }

    private sealed class ImaginaryBuffer(PlanningDevice? device, long bytes) : DeviceBuffer
    {
        private bool _isFreed;

        public override nint Address => 1 << 20;

        public override long Bytes => bytes;

        protected override void Dispose(bool disposing)
        {
            if (_isFreed) return;
            _isFreed = true;
            if (device is not null) device._allocated -= bytes;
        }
    }
}
