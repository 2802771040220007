using Lancet.Devices;
using Lancet.Devices.Cpu;
using Lancet.Tensors;
using Lancet.Tile;
using Lancet.Tile.Ptx;
using Lancet.Tile.Tests.Lowering;

namespace Lancet.Tests.Devices;

/// <summary>
/// A GPU without a GPU: every kernel is lowered to threads and simulated, and what it computes is compared with the tile executor. Kernels that
/// know no other format than fp64, which GPUs are not asked to run, compute on the tile executor; with their floating point narrowed to fp32 they are lowered and compared, too.
/// </summary>
internal sealed class SimulatorDevice(PtxTarget? target = null) : Device
{
    private readonly CpuDevice _host = new();
    private readonly HashSet<int> _launches = [];

    public override string Name => "simulator";

    public override PlanTarget PlanTarget { get; } = target is null ? PlanTarget.Cuda : PlanTarget.CudaOf(target);

    public override long AllocatedBytes => _host.AllocatedBytes;

    public override long PeakAllocatedBytes => _host.PeakAllocatedBytes;

    public override long AvailableBytes => _host.AvailableBytes;

    public override DeviceBuffer Allocate(long bytes, string purpose) => _host.Allocate(bytes, purpose);

    public override void Launch(Kernel kernel, Grid grid, ReadOnlySpan<KernelArgument> arguments)
    {
        if (grid.Count == 0) return;
        if (LoweringCheck.IsAllFloat64(kernel))
        {
            if (IsNew(kernel, grid, arguments)) LoweringCheck.RunAsFloat32(kernel, grid, arguments, target);
            _host.Launch(kernel, grid, arguments);
        }
        else LoweringCheck.Run(kernel, grid, arguments, target);
    }

    /// <summary>Whether the launch is not the same again, as in central differences.</summary>
    private bool IsNew(Kernel kernel, Grid grid, ReadOnlySpan<KernelArgument> arguments)
    {
        var launch = new HashCode();
        launch.Add(kernel);
        launch.Add(grid);
        foreach (var argument in arguments) launch.Add((argument.Bits, argument.Count));
        return _launches.Add(launch.ToHashCode());
    }

    public override void MatMul(in MatMul product) => _host.MatMul(product);

    public override void CopyFromHost(ReadOnlySpan<byte> source, Tensor destination) => _host.CopyFromHost(source, destination);

    public override void CopyToHost(Tensor source, Span<byte> destination) => _host.CopyToHost(source, destination);

    public override void Copy(Tensor source, Tensor destination) => _host.Copy(source, destination);

    public override void Clear(Tensor destination) => _host.Clear(destination);

    public override void Synchronize()
    {
    }

    protected override void Dispose(bool disposing) => _host.Dispose();
}
