using Lancet.Tile;
using Lancet.Tile.Ptx;

namespace Lancet.Devices.Cuda.SelfTest;

/// <summary>Passes everything on and remembers which kernels were launched.</summary>
internal sealed class RecordingDevice(Device inner) : ForwardingDevice(inner)
{
    private readonly HashSet<KernelVariant> _kernels = [];

    public IReadOnlyCollection<KernelVariant> Kernels => _kernels;

    public override void Launch(Kernel kernel, Grid grid, ReadOnlySpan<KernelArgument> arguments)
    {
        _kernels.Add(new(kernel, PtxCompiler.Divisible(arguments)));
        base.Launch(kernel, grid, arguments);
    }
}
