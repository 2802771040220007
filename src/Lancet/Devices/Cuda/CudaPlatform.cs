using System.Globalization;
using System.Text;
using Lancet.Devices.Cuda.Interop;
using Lancet.Tile.Ptx;

namespace Lancet.Devices.Cuda;

/// <summary>Why CUDA can or cannot be used.</summary>
public enum CudaStatus
{
    /// <summary>There is a GPU that Lancet runs on.</summary>
    Ready,

    /// <summary>The driver's library is not installed.</summary>
    NoDriver,

    /// <summary>The driver is older than the PTX that the GPU needs.</summary>
    DriverTooOld,

    /// <summary>The driver is there but shows no GPU, or does not start.</summary>
    NoDevice,

    /// <summary>All GPUs are older than Ampere.</summary>
    DeviceTooOld,
}

/// <summary>A GPU as the driver describes it.</summary>
/// <param name="Ordinal">N in <c>cuda:N</c>.</param>
/// <param name="Name">Product name.</param>
/// <param name="ComputeCapability">Such as 80, 86, 90.</param>
/// <param name="MemoryBytes">Size of its memory.</param>
/// <param name="Multiprocessors">Streaming multiprocessors.</param>
/// <param name="MaxSharedMemoryPerBlock">Most shared memory of a block.</param>
public sealed record CudaDeviceInfo(int Ordinal, string Name, int ComputeCapability, long MemoryBytes, int Multiprocessors, int MaxSharedMemoryPerBlock)
{
    private static readonly bool s_avoidsWarpGroups = Environment.GetEnvironmentVariable("LANCET_WARP_GROUPS") == "0";

    /// <summary>What kernels are compiled for. <c>LANCET_WARP_GROUPS=0</c> has Hopper multiply as Ampere does, and without clusters, to compare.</summary>
    public PtxTarget PtxTarget
    {
        get
        {
            var target = new PtxTarget(ComputeCapability, MaxSharedMemoryPerBlock);
            return s_avoidsWarpGroups ? target with { HasWarpGroups = false, HasClusters = false } : target;
        }
    }
}

/// <summary>What this machine offers for CUDA, found without allocating anything on a GPU.</summary>
/// <param name="Status">Whether it can be used.</param>
/// <param name="Message">The status in one sentence, with what to do about it.</param>
/// <param name="DriverVersion">CUDA version of the driver, such as 13.0; empty without a driver.</param>
/// <param name="Devices">All GPUs, usable or not.</param>
/// <param name="CublasLt">Where cuBLASLt was found, or null: products then run on the tile-language kernel.</param>
public sealed record CudaPlatform(CudaStatus Status, string Message, string DriverVersion, IReadOnlyList<CudaDeviceInfo> Devices, string? CublasLt)
{
    /// <summary>Oldest supported architecture: Ampere.</summary>
    public const int MinimumComputeCapability = 80;


    private static readonly Lock s_lock = new();
    private static CudaPlatform? s_current;

    /// <summary>This machine, looked at once for the life of the process.</summary>
    public static CudaPlatform Current
    {
        get
        {
            lock (s_lock) return s_current ??= Probe();
        }
    }

    /// <summary>Whether a GPU can be used.</summary>
    public bool IsReady => Status == CudaStatus.Ready;

    /// <summary>First GPU that can be used, or null.</summary>
    public CudaDeviceInfo? Default => IsReady ? Devices.FirstOrDefault(device => device.ComputeCapability >= MinimumComputeCapability) : null;

    /// <summary>A GPU by number.</summary>
    /// <exception cref="LancetException">It cannot be used; the message says why.</exception>
    public CudaDeviceInfo Require(int? ordinal)
    {
        if (!IsReady) throw new LancetException($"--device cuda: {Message}");
        if (ordinal is not { } n) return Default!;
        var device = n < Devices.Count ? Devices[n] : throw new LancetException($"--device cuda:{n}: there {(Devices.Count == 1 ? "is 1 GPU, cuda:0" : $"are {Devices.Count} GPUs, cuda:0 to cuda:{Devices.Count - 1}")}.");
        return device.ComputeCapability >= MinimumComputeCapability ? device : throw new LancetException($"--device cuda:{n}: {TooOld(device)}");
    }

    /// <summary>Decides from what the driver said.</summary>
    internal static CudaPlatform Judge(int version, IReadOnlyList<CudaDeviceInfo> devices, string? cublasLt)
    {
        var text = VersionText(version);
        CudaPlatform Result(CudaStatus status, string message) => new(status, message, text, devices, cublasLt);
        if (devices.Count == 0) return Result(CudaStatus.NoDevice, "the NVIDIA driver shows no GPU; look at nvidia-smi and CUDA_VISIBLE_DEVICES.");
        var usable = devices.Where(device => device.ComputeCapability >= MinimumComputeCapability).ToList();
        if (usable.Count == 0) return Result(CudaStatus.DeviceTooOld, TooOld(devices[0]));
        // Graphs with flags came with 11.4; PTX 8.0, which Hopper's own instructions need, with 12.0; Blackwell's PTX 8.7 with 12.8.
        var (needed, driver) = usable[0].ComputeCapability switch { >= 100 => (12080, 570), >= 89 => (12000, 525), _ => (11040, 470) };
        if (version < needed)
            return Result(CudaStatus.DriverTooOld, $"the NVIDIA driver supports CUDA {text}, {usable[0].Name} needs {VersionText(needed)} (driver {driver}) or newer; update the driver.");
        return Result(CudaStatus.Ready, cublasLt is null ? "ready; cuBLASLt was not found, so matrix products run on the slower tile-language kernel (pip install nvidia-cublas-cu12, or set LANCET_CUDA_PATH)." : "ready");
    }

    private static string TooOld(CudaDeviceInfo device) =>
        $"{device.Name} has compute capability {device.ComputeCapability / 10}.{device.ComputeCapability % 10}; 8.0 (Ampere, 2020) or newer is needed. Use --device cpu.";

    private static string VersionText(int version) => string.Create(CultureInfo.InvariantCulture, $"{version / 1000}.{version % 1000 / 10}");

    private static CudaPlatform Probe()
    {
        if (NativeLibraries.DriverPath is null)
        {
            var name = LibrarySearch.DriverNames(OperatingSystem.IsWindows())[0];
            return new(CudaStatus.NoDriver, $"no NVIDIA driver: {name} was not found. Install the driver from nvidia.com (no CUDA toolkit is needed), or use --device cpu.", "", [], null);
        }
        try
        {
            var code = Driver.cuInit(0);
            if (code != 0)
            {
                _ = Driver.cuDriverGetVersion(out var found);
                try
                {
                    CudaCheck.Throw(code, nameof(Driver.cuInit), "");
                }
                catch (CudaException error)
                {
                    return new(CudaStatus.NoDevice, $"the NVIDIA driver does not start: {error.Message}", VersionText(found), [], null);
                }
            }
            CudaCheck.Driver(Driver.cuDriverGetVersion(out var version));
            CudaCheck.Driver(Driver.cuDeviceGetCount(out var count));
            return Judge(version, [.. Enumerable.Range(0, count).Select(Describe)], NativeLibraries.CublasLtPath);
        }
        catch (Exception error) when (error is CudaException or EntryPointNotFoundException)
        {
            return new(CudaStatus.DriverTooOld, $"the NVIDIA driver cannot be used: {error.Message}", "", [], null);
        }
    }

    private static unsafe CudaDeviceInfo Describe(int ordinal)
    {
        CudaCheck.Driver(Driver.cuDeviceGet(out var device, ordinal));
        var name = stackalloc byte[256];
        CudaCheck.Driver(Driver.cuDeviceGetName(name, 256, device));
        CudaCheck.Driver(Driver.cuDeviceTotalMem(out var bytes, device));
        int Read(DeviceAttribute attribute)
        {
            CudaCheck.Driver(Driver.cuDeviceGetAttribute(out var value, attribute, device));
            return value;
        }
        return new(
            ordinal, Encoding.UTF8.GetString(System.Runtime.InteropServices.MemoryMarshal.CreateReadOnlySpanFromNullTerminated(name)),
            (Read(DeviceAttribute.ComputeCapabilityMajor) * 10) + Read(DeviceAttribute.ComputeCapabilityMinor), (long)bytes, Read(DeviceAttribute.MultiprocessorCount),
            Read(DeviceAttribute.MaxSharedMemoryPerBlockOptin));
    }
}
