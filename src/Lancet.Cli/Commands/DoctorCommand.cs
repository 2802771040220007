using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using System.Text.Json;
using Lancet.Devices;
using Lancet.Devices.Cpu;
using Lancet.Devices.Cuda;
using Lancet.Devices.Cuda.SelfTest;
using Lancet.Models;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Cli.Commands;

/// <summary>lancet doctor: the machine, its vector units and GPUs, and how fast a matrix product runs on it; with --self-test, whether the GPU computes what the processor does; with --models, which families of models there are.</summary>
internal static class DoctorCommand
{
    private const int Size = 1024;
    private const int Failed = 1;

    public static int Run(Settings settings)
    {
        if (settings.Flag("models"))
        {
            foreach (var line in SupportedModel.Table()) Console.WriteLine(line);
            return 0;
        }
        if (settings.Flag("self-test")) return RunSelfTest(settings);
        if (settings.Text("dump-ptx") is not null) throw new LancetException("--dump-ptx: doctor compiles kernels with --self-test only; lancet plan --device cuda --dump-ptx FOLDER needs no GPU.");
        using var device = new CpuDevice();
        var vectors = Vector512.IsHardwareAccelerated ? "512-bit" : Vector256.IsHardwareAccelerated ? "256-bit" : "128-bit";
        var rate = MatMulRate(device);
        var cuda = CudaPlatform.Current;
        (string Name, string Value)[] facts =
        [
            ("lancet", typeof(DoctorCommand).Assembly.GetName().Version?.ToString() ?? "?"),
            ("runtime", RuntimeInformation.FrameworkDescription),
            ("system", $"{RuntimeInformation.OSDescription} {RuntimeInformation.ProcessArchitecture}"),
            ("device", device.Name),
            ("vectors", vectors),
            ("memory", string.Create(CultureInfo.InvariantCulture, $"{device.AvailableBytes / 1073741824.0:F1} GiB available")),
            ("matrix product", string.Create(CultureInfo.InvariantCulture, $"{rate:F0} GFLOP/s in fp32 at {Size} x {Size} x {Size}")),
            ("default device", DeviceChoice.Automatic.ToString()),
        ];
        if (settings.Flag("json"))
        {
            WriteJson(facts, cuda);
            return 0;
        }
        foreach (var (name, value) in facts) Console.WriteLine($"{name,-16}{value}");
        Console.WriteLine($"{"cuda",-16}{cuda.Message}");
        if (cuda.DriverVersion.Length > 0) Console.WriteLine($"{"cuda driver",-16}CUDA {cuda.DriverVersion}");
        if (cuda.CublasLt is { } path) Console.WriteLine($"{"cublaslt",-16}{path}");
        foreach (var gpu in cuda.Devices) Console.WriteLine($"{$"cuda:{gpu.Ordinal}",-16}{Describe(gpu)}");
        return 0;
    }

    private static string Describe(CudaDeviceInfo gpu) => string.Create(CultureInfo.InvariantCulture,
        $"{gpu.Name}, compute capability {gpu.ComputeCapability / 10}.{gpu.ComputeCapability % 10}, {gpu.MemoryBytes / 1073741824.0:F1} GiB, {gpu.Multiprocessors} multiprocessors");

    private static void WriteJson(ReadOnlySpan<(string Name, string Value)> facts, CudaPlatform cuda)
    {
        using var json = new Utf8JsonWriter(Console.OpenStandardOutput());
        json.WriteStartObject();
        foreach (var (name, value) in facts) json.WriteString(name, value);
        json.WriteStartObject("cuda");
        json.WriteBoolean("available", cuda.IsReady);
        json.WriteString("status", cuda.Status switch
        {
            CudaStatus.Ready => "ready",
            CudaStatus.NoDriver => "no_driver",
            CudaStatus.DriverTooOld => "driver_too_old",
            CudaStatus.DeviceTooOld => "device_too_old",
            _ => "no_device",
        });
        json.WriteString("message", cuda.Message);
        json.WriteString("driver_cuda_version", cuda.DriverVersion);
        json.WriteString("cublaslt", cuda.CublasLt);
        json.WriteStartArray("devices");
        foreach (var gpu in cuda.Devices)
        {
            json.WriteStartObject();
            json.WriteNumber("ordinal", gpu.Ordinal);
            json.WriteString("name", gpu.Name);
            json.WriteNumber("compute_capability", gpu.ComputeCapability);
            json.WriteNumber("memory_bytes", gpu.MemoryBytes);
            json.WriteNumber("multiprocessors", gpu.Multiprocessors);
            json.WriteEndObject();
        }
        json.WriteEndArray();
        json.WriteEndObject();
        json.WriteEndObject();
    }

    private static int RunSelfTest(Settings settings)
    {
        var choice = settings.Text("device") == "auto" ? new DeviceChoice(true, null) : settings.Device();
        if (!choice.IsCuda) throw new LancetException("--self-test compares a GPU with the processor; use --device cuda.");
        using var device = new CudaDevice(choice.Ordinal, ptxFolder: settings.PtxFolder(choice));
        var test = new CudaSelfTest(device, settings.Text("filter"), Console.Out);
        return test.Run() ? 0 : Failed;
    }

    private static double MatMulRate(CpuDevice device)
    {
        using var buffer = device.Allocate(3L * Size * Size * sizeof(float), "a trial product");
        Tensor At(int i) => buffer.View(DType.Float32, new Shape(Size, Size), (long)i * Size * Size * sizeof(float));
        var product = new MatMul { M = Size, N = Size, K = Size, A = new(At(0)), B = new(At(1), true), C = At(2), Alpha = 1 };
        device.MatMul(product);
        var best = double.MaxValue;
        for (var i = 0; i < 5; i++)
        {
            var clock = Stopwatch.StartNew();
            device.MatMul(product);
            best = Math.Min(best, clock.Elapsed.TotalSeconds);
        }
        return 2.0 * Size * Size * Size / best / 1e9;
    }
}
