using System.Globalization;
using Lancet.Devices.Cpu;
using Lancet.Devices.Cuda;
using Lancet.Tile;
using Lancet.Tile.Ptx;

namespace Lancet.Devices;

/// <summary>Which device a run uses, as people write it: <c>auto</c>, <c>cpu</c>, <c>cuda</c> or <c>cuda:N</c>.</summary>
/// <param name="IsCuda">Whether it is a GPU.</param>
/// <param name="Ordinal">N, or null for the first usable GPU.</param>
public readonly record struct DeviceChoice(bool IsCuda, int? Ordinal)
{
    /// <summary>The processor.</summary>
    public static DeviceChoice Cpu => default;

    /// <summary>A GPU where a usable one is found, else the processor.</summary>
    public static DeviceChoice Automatic => new(CudaPlatform.Current.IsReady, null);

    /// <summary>Dtype of activations where none was chosen: bf16 on a GPU, fp32 on the processor.</summary>
    public DType DefaultDType => IsCuda ? DType.BFloat16 : DType.Float32;

    /// <summary>What plans are made for: the chosen GPU where it is there, else one of the H100's kind.</summary>
    public PlanTarget PlanTarget => IsCuda ? (FindGpu() is { } gpu ? Measured(gpu) : PlanTarget.Cuda) : PlanTarget.Cpu(Tile.Cpu.WorkerPool.Shared.ThreadCount);

    /// <summary>Reads a choice.</summary>
    /// <param name="text">Text.</param>
    /// <param name="choice">The choice.</param>
    /// <returns>Whether the text is one. The device itself is looked for only for <c>auto</c>.</returns>
    public static bool TryParse(string text, out DeviceChoice choice)
    {
        choice = default;
        switch (text)
        {
            case "cpu":
                return true;
            case "auto":
                choice = Automatic;
                return true;
            case "cuda":
                choice = new(true, null);
                return true;
            default:
                if (!text.StartsWith("cuda:", StringComparison.Ordinal) || !int.TryParse(text.AsSpan(5), NumberStyles.None, CultureInfo.InvariantCulture, out var ordinal)) return false;
                choice = new(true, ordinal);
                return true;
        }
    }

    /// <summary>Opens the device.</summary>
    /// <param name="ptxFolder">Receives the PTX of every kernel that a GPU compiles; the processor compiles none.</param>
    /// <exception cref="LancetException">It is not there or cannot be used; the message says why.</exception>
    public Device Open(PtxFolder? ptxFolder = null) => IsCuda ? new CudaDevice(Ordinal, ptxFolder: ptxFolder) : new CpuDevice();

    /// <summary>What PTX is compiled for: the chosen GPU where it is there, else the one that is planned for, <see cref="PlanTarget.AssumedGpu"/>.</summary>
    public PtxTarget PtxTarget => FindGpu() is { } gpu ? gpu.PtxTarget : PlanTarget.AssumedGpu;

    // Planning does not open the GPU; if a run has measured it, its rates are known.
    private static PlanTarget Measured(CudaDeviceInfo gpu) =>
        PlanTarget.CudaOf(gpu.PtxTarget, gpu.MemoryBytes) is var target && RateCache.Default.Find(gpu.Name, CudaPlatform.Current.DriverVersion) is { } rates ? target.With(rates) : target;

    private CudaDeviceInfo? FindGpu()
    {
        var ordinal = Ordinal;
        return CudaPlatform.Current.IsReady ? CudaPlatform.Current.Devices.FirstOrDefault(device => ordinal is null || device.Ordinal == ordinal) : null;
    }

    /// <inheritdoc/>
    public override string ToString() => !IsCuda ? "cpu" : Ordinal is { } n ? string.Create(CultureInfo.InvariantCulture, $"cuda:{n}") : "cuda";
}
