using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using System.Text.Json;
using Lancet.Devices;
using Lancet.Devices.Cpu;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Cli.Commands;

/// <summary>lancet doctor: the machine, its vector units, and how fast a matrix product runs on it.</summary>
internal static class DoctorCommand
{
    private const int Size = 1024;

    public static int Run(Settings settings)
    {
        using var device = new CpuDevice();
        var vectors = Vector512.IsHardwareAccelerated ? "512-bit" : Vector256.IsHardwareAccelerated ? "256-bit" : "128-bit";
        var rate = MatMulRate(device);
        (string Name, string Value)[] facts =
        [
            ("lancet", typeof(DoctorCommand).Assembly.GetName().Version?.ToString() ?? "?"),
            ("runtime", RuntimeInformation.FrameworkDescription),
            ("system", $"{RuntimeInformation.OSDescription} {RuntimeInformation.ProcessArchitecture}"),
            ("device", device.Name),
            ("vectors", vectors),
            ("memory", string.Create(CultureInfo.InvariantCulture, $"{device.AvailableBytes / 1073741824.0:F1} GiB available")),
            ("matrix product", string.Create(CultureInfo.InvariantCulture, $"{rate:F0} GFLOP/s in fp32 at {Size} x {Size} x {Size}")),
        ];
        if (settings.Flag("json"))
        {
            using var json = new Utf8JsonWriter(Console.OpenStandardOutput());
            json.WriteStartObject();
            foreach (var (name, value) in facts) json.WriteString(name, value);
            json.WriteEndObject();
            return 0;
        }
        foreach (var (name, value) in facts) Console.WriteLine($"{name,-16}{value}");
        return 0;
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
