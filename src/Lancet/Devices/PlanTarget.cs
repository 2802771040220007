using Lancet.Devices.Cuda;

namespace Lancet.Devices;

/// <summary>What planning has to know of a device that need not be there.</summary>
public sealed class PlanTarget
{
    private readonly int _threads;

    private PlanTarget(bool isCuda, int threads) => (IsCuda, _threads) = (isCuda, threads);

    /// <summary>An NVIDIA GPU.</summary>
    public static PlanTarget Cuda { get; } = new(true, 0);

    /// <summary>Whether weights can be read in place from mapped files: only the processor can.</summary>
    public bool ReadsMappedFiles => !IsCuda;

    /// <summary>Whether this is a GPU.</summary>
    public bool IsCuda { get; }

    /// <summary>A processor with a number of threads.</summary>
    public static PlanTarget Cpu(int threads) => new(false, threads);

    /// <summary>Workspace that a matrix product needs.</summary>
    public long MatMulWorkspaceBytes(in MatMul product) => IsCuda
        ? MatMulRoute.Of(product).WorkspaceBytes
        : Devices.Cpu.CpuGemm.WorkspaceBytes(product.M, product.N, product.K, product.C.DType, _threads);
}
