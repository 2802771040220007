using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Devices;

/// <summary>Passes everything on to another device, which it does not own.</summary>
internal abstract class ForwardingDevice(Device inner) : Device
{
    /// <summary>The device that does the work.</summary>
    public Device Inner => inner;

    public override string Name => inner.Name;

    public override long AllocatedBytes => inner.AllocatedBytes;

    public override long PeakAllocatedBytes => inner.PeakAllocatedBytes;

    public override long AvailableBytes => inner.AvailableBytes;

    public override PlanTarget PlanTarget => inner.PlanTarget;

    public override DeviceRates MeasureRates() => inner.MeasureRates();

    public override DeviceBuffer Allocate(long bytes, string purpose) => inner.Allocate(bytes, purpose);

    public override void Launch(Kernel kernel, Grid grid, ReadOnlySpan<KernelArgument> arguments) => inner.Launch(kernel, grid, arguments);

    public override void MatMul(in MatMul product) => inner.MatMul(product);

    public override void MatMul(in GroupedMatMul product) => inner.MatMul(product);

    public override void MatMul(in GroupedGradient product) => inner.MatMul(product);

    public override void ReserveMatMulWorkspace(long bytes) => inner.ReserveMatMulWorkspace(bytes);

    public override void Prepare(IReadOnlyCollection<KernelVariant> kernels) => inner.Prepare(kernels);

    public override DevicePreparation Preparation => inner.Preparation;

    public override void CopyFromHost(ReadOnlySpan<byte> source, Tensor destination) => inner.CopyFromHost(source, destination);

    public override void CopyToHost(Tensor source, Span<byte> destination) => inner.CopyToHost(source, destination);

    public override void Copy(Tensor source, Tensor destination) => inner.Copy(source, destination);

    public override DeviceBuffer AllocateHost(long bytes, string purpose) => inner.AllocateHost(bytes, purpose);

    public override void CopyOut(Tensor source, Tensor host, int channel) => inner.CopyOut(source, host, channel);

    public override void CopyIn(Tensor host, Tensor destination, int channel) => inner.CopyIn(host, destination, channel);

    public override void AwaitCopy(int channel) => inner.AwaitCopy(channel);

    public override void Clear(Tensor destination) => inner.Clear(destination);

    public override void Synchronize() => inner.Synchronize();
}
