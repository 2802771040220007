using Lancet.Tests.Devices;
using Lancet.Tile.Ptx;

namespace Lancet.Tests.Kernels;

// The tests of each kernel once more, on the simulated GPU.
public sealed class NormKernelSimulatorTests : NormKernelTests
{
    private protected override KernelLab NewLab(long seed = 1) => new(seed, new SimulatorDevice());
}

public sealed class OptimizerKernelSimulatorTests : OptimizerKernelTests
{
    private protected override KernelLab NewLab(long seed = 1) => new(seed, new SimulatorDevice());
}

public sealed class PointwiseKernelSimulatorTests : PointwiseKernelTests
{
    private protected override KernelLab NewLab(long seed = 1) => new(seed, new SimulatorDevice());
}

public sealed class CrossEntropyKernelSimulatorTests : CrossEntropyKernelTests
{
    private protected override KernelLab NewLab(long seed = 1) => new(seed, new SimulatorDevice());
}

public sealed class AttentionKernelSimulatorTests : AttentionKernelTests
{
    private protected override KernelLab NewLab(long seed = 1) => new(seed, new SimulatorDevice());
}

/// <summary>Attention with products of warp groups.</summary>
public sealed class AttentionKernelHopperSimulatorTests : AttentionKernelTests
{
    private protected override KernelLab NewLab(long seed = 1) => new(seed, new SimulatorDevice(PtxTarget.Sm90));
}

public sealed class ExpertKernelSimulatorTests : ExpertKernelTests
{
    private protected override KernelLab NewLab(long seed = 1) => new(seed, new SimulatorDevice());
}

/// <summary>Products of experts by warp groups.</summary>
public sealed class ExpertKernelHopperSimulatorTests : ExpertKernelTests
{
    private protected override KernelLab NewLab(long seed = 1) => new(seed, new SimulatorDevice(PtxTarget.Sm90));
}

/// <summary>Cross-entropy of a row over a cluster of programs.</summary>
public sealed class CrossEntropyKernelHopperSimulatorTests : CrossEntropyKernelTests
{
    private protected override KernelLab NewLab(long seed = 1) => new(seed, new SimulatorDevice(PtxTarget.Sm90));
}
