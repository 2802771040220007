using Lancet.Devices.Cuda;

namespace Lancet.Devices;

/// <summary>What planning has to know of a device that need not be there.</summary>
public sealed class PlanTarget
{
    private readonly int _threads;

    private PlanTarget(bool isCuda, int threads, int sharedMemory) => (IsCuda, _threads, SharedMemoryPerProgram) = (isCuda, threads, sharedMemory);

    /// <summary>An NVIDIA GPU of the H100's kind, which gives a program 227 KiB of shared memory.</summary>
    public static PlanTarget Cuda { get; } = CudaOf(227 << 10);

    /// <summary>Bytes of fast memory that one program of a kernel can have; kernels choose their blocks by it.</summary>
    public int SharedMemoryPerProgram { get; }

    /// <summary>Whether weights can be read in place from mapped files: only the processor can.</summary>
    public bool ReadsMappedFiles => !IsCuda;

    /// <summary>Whether this is a GPU.</summary>
    public bool IsCuda { get; }

    /// <summary>A processor with a number of threads.</summary>
    public static PlanTarget Cpu(int threads) => new(false, threads, int.MaxValue);

    /// <summary>An NVIDIA GPU that gives a program so many bytes of shared memory.</summary>
    public static PlanTarget CudaOf(int sharedMemory) => new(true, 0, sharedMemory);

    /// <summary>Workspace that a matrix product needs.</summary>
    public long MatMulWorkspaceBytes(in MatMul product) => IsCuda
        ? MatMulRoute.Of(product).WorkspaceBytes
        : Devices.Cpu.CpuGemm.WorkspaceBytes(product.M, product.N, product.K, product.C.DType, _threads);
}
