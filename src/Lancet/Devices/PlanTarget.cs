using Lancet.Devices.Cuda;
using Lancet.Tile.Ptx;

namespace Lancet.Devices;

/// <summary>What planning has to know of a device that need not be there.</summary>
public sealed class PlanTarget
{
    private readonly int _threads;

    private PlanTarget(bool isCuda, int threads, int sharedMemory) =>
        (IsCuda, _threads, SharedMemoryPerProgram, Rates) = (isCuda, threads, sharedMemory, isCuda ? DeviceRates.H100 : DeviceRates.Cpu(threads));

    private PlanTarget(PlanTarget other)
        : this(other.IsCuda, other._threads, other.SharedMemoryPerProgram) =>
        (HasWarpGroups, HasClusters, Rates, MemoryBytes) = (other.HasWarpGroups, other.HasClusters, other.Rates, other.MemoryBytes);

    /// <summary>The GPU that is planned for where none is there: it gives a program 227 KiB of shared memory, like the H100, and has nothing that only Hopper has.</summary>
    public static PtxTarget AssumedGpu { get; } = PtxTarget.Sm80 with { MaxSharedMemoryPerBlock = PtxTarget.Sm90.MaxSharedMemoryPerBlock };

    /// <summary>See <see cref="AssumedGpu"/>.</summary>
    public static PlanTarget Cuda { get; } = CudaOf(AssumedGpu);

    /// <summary>Bytes of fast memory that one program of a kernel can have; kernels choose their blocks by it.</summary>
    public int SharedMemoryPerProgram { get; }

    /// <summary>Whether warp groups multiply matrices together, see <see cref="PtxTarget.HasWarpGroups"/>.</summary>
    public bool HasWarpGroups { get; private init; }

    /// <summary>Whether programs form clusters, see <see cref="PtxTarget.HasClusters"/>.</summary>
    public bool HasClusters { get; private init; }

    /// <summary>Bytes of a GPU's whole memory, whatever is free; <see cref="long.MaxValue"/> where nobody knows.</summary>
    public long MemoryBytes { get; private init; } = long.MaxValue;

    /// <summary>
    /// What the driver, its code of the kernels and cuBLASLt take of a GPU's memory once a step has run, about: 22 to 42 MB were measured on an H100
    /// (driver 580), the more the smaller the model, whose allocations fill fewer of the driver's pages; 8 bytes of page tables for each 4 KiB of page-locked host memory; and the step's recording. With
    /// the first two, 30 first steps, which are not recorded, took 1 to 35 MB less on an H200 with up to 40 GB of host memory.
    /// </summary>
    /// <param name="hostBytes">Page-locked host memory in bytes.</param>
    /// <param name="nodes">Nodes of the step's recording, see <see cref="GraphCache.NodeBytes"/>.</param>
    public long DriverBytes(long hostBytes, int nodes) => IsCuda ? (36 << 20) + (hostBytes / 512) + (nodes * GraphCache.NodeBytes) : 0;

    /// <summary>Whether weights can be read in place from mapped files: only the processor can.</summary>
    public bool ReadsMappedFiles => !IsCuda;

    /// <summary>Whether this is a GPU.</summary>
    public bool IsCuda { get; }

    /// <summary>How fast it is: measured where the device is there, else an H100's.</summary>
    public DeviceRates Rates { get; private init; }

    /// <summary>The same device, measured.</summary>
    public PlanTarget With(DeviceRates rates) => new(this) { Rates = rates };

    /// <summary>The same device, with so many bytes of memory where nobody knows how many it has; 0 for no such guess.</summary>
    internal PlanTarget WithMemory(long bytes) => MemoryBytes < long.MaxValue || bytes == 0 ? this : new(this) { MemoryBytes = bytes };

    /// <summary>A processor with a number of threads.</summary>
    public static PlanTarget Cpu(int threads) => new(false, threads, int.MaxValue);

    /// <summary>An NVIDIA GPU.</summary>
    /// <param name="gpu">What its programs may use.</param>
    /// <param name="memoryBytes">See <see cref="MemoryBytes"/>.</param>
    public static PlanTarget CudaOf(PtxTarget gpu, long memoryBytes = long.MaxValue) =>
        new(true, 0, gpu.MaxSharedMemoryPerBlock) { HasWarpGroups = gpu.HasWarpGroups, HasClusters = gpu.HasClusters, MemoryBytes = memoryBytes };

    /// <summary>Workspace that a matrix product needs.</summary>
    public long MatMulWorkspaceBytes(in MatMul product) => IsCuda
        ? MatMulRoute.Of(product).WorkspaceBytes
        : Devices.Cpu.CpuGemm.WorkspaceBytes(product.M, product.N, product.K, product.C.DType, _threads);

    /// <summary>Workspace that a product for each expert needs, however the rows are distributed.</summary>
    public long MatMulWorkspaceBytes(in GroupedMatMul product) => IsCuda ? 0 : Devices.Cpu.CpuGemm.WorkspaceBytes(product.Rows.Count, product.N, product.K, product.C.Tensor.DType, _threads);

    /// <summary>Workspace that the gradients of experts' matrices need, however the rows are distributed.</summary>
    public long MatMulWorkspaceBytes(in GroupedGradient product) => IsCuda ? 0 : Devices.Cpu.CpuGemm.LargestWorkspaceBytes(product.M, product.N, product.Rows.Count, product.A.Tensor.DType, _threads);
}
