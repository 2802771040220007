using Lancet.Tensors;
using Lancet.Tile;
using Lancet.Tile.Ptx;

namespace Lancet.Devices.Cuda.SelfTest;

/// <summary>Passes everything on and remembers which kernels were launched.</summary>
internal sealed class RecordingDevice(Device inner) : Device
{
    private readonly HashSet<KernelVariant> _kernels = [];

    public IReadOnlyCollection<KernelVariant> Kernels => _kernels;

    public override string Name => inner.Name;

    public override long AllocatedBytes => inner.AllocatedBytes;

    public override long PeakAllocatedBytes => inner.PeakAllocatedBytes;

    public override long AvailableBytes => inner.AvailableBytes;

    public override PlanTarget PlanTarget => inner.PlanTarget;

    public override DeviceBuffer Allocate(long bytes, string purpose) => inner.Allocate(bytes, purpose);

    public override void Launch(Kernel kernel, Grid grid, ReadOnlySpan<KernelArgument> arguments)
    {
        _kernels.Add(new(kernel, PtxCompiler.Divisible(arguments)));
        inner.Launch(kernel, grid, arguments);
    }

    public override void MatMul(in MatMul product) => inner.MatMul(product);

    public override void CopyFromHost(ReadOnlySpan<byte> source, Tensor destination) => inner.CopyFromHost(source, destination);

    public override void CopyToHost(Tensor source, Span<byte> destination) => inner.CopyToHost(source, destination);

    public override void Copy(Tensor source, Tensor destination) => inner.Copy(source, destination);

    public override void Clear(Tensor destination) => inner.Clear(destination);

    public override void Synchronize() => inner.Synchronize();
}
