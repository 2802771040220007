using System.Globalization;
using Lancet.Devices.Cpu;
using Lancet.Tile;

namespace Lancet.Devices.Cuda.SelfTest;

/// <summary>
/// Shows whether a GPU computes what the processor does: each kernel family on both with the same inputs, beside an fp64 run on the
/// processor; products, copies, graphs and training; and what the compiled kernels use. For people and for CI on a machine with a GPU.
/// </summary>
/// <param name="device">GPU.</param>
/// <param name="filter">Only what has this in its name; null for all.</param>
/// <param name="output">Receives the table.</param>
public sealed class CudaSelfTest(CudaDevice device, string? filter, TextWriter output)
{
    // Approximate instructions (exp2, rsqrt, tanh) and another order of sums may double an fp32 error of the processor; roundings to 16 bits swamp both.
    private const double ErrorRatio = 2;
    private const double ErrorGrain = 2e-6;
    private readonly CpuDevice _cpu = new();
    private int _passed;
    private int _failed;

    /// <summary>Runs everything.</summary>
    /// <returns>Whether all passed.</returns>
    public bool Run()
    {
        output.WriteLine($"{device.Name}, compute capability {device.Info.ComputeCapability}, driver CUDA {CudaPlatform.Current.DriverVersion}, products: {device.MatMulLibrary}");
        Prepare();
        output.WriteLine($"{"what",-62}{"dtype",-10}{"GPU error",11}{"CPU error",11}{"regs",6}{"spill",7}{"shared",9}  verdict");
        try
        {
            foreach (var test in KernelCases.All)
                foreach (var dtype in test.DTypes) Guard($"{test.Name} {test.Shape}", dtype.ToString(), () => RunKernels(test, dtype));
            new RuntimeChecks(device, Check).Run();
            new MatMulChecks(device, _cpu, Check, Compare).Run();
            new TrainingChecks(device, Check).Run();
        }
        catch (DeviceLostException error)
        {
            output.WriteLine($"The device is lost: {error.Message}");
        }
        output.WriteLine($"{_passed} passed, {_failed} failed");
        output.Flush();
        return _failed == 0;
    }

    /// <summary>Compiles the kernels of all cases side by side; the processor tells which there are.</summary>
    private void Prepare()
    {
        var clock = System.Diagnostics.Stopwatch.StartNew();
        var recording = new RecordingDevice(_cpu);
        foreach (var test in KernelCases.All.Where(test => IsWanted($"{test.Name} {test.Shape}")))
            foreach (var dtype in test.DTypes) Results(recording, test, dtype);
        var planned = clock.Elapsed.TotalSeconds;
        device.Prepare(recording.Kernels);
        output.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{recording.Kernels.Count} kernels compiled or found in the cache in {clock.Elapsed.TotalSeconds - planned:F1} s"));
    }

    private bool IsWanted(string name) => filter is null || name.Contains(filter, StringComparison.OrdinalIgnoreCase);

    /// <summary>Runs a check that reports a line of its own, or throws.</summary>
    /// <param name="name">What.</param>
    /// <param name="check">Returns what was found, for people.</param>
    private void Check(string name, Func<string> check) => Guard(name, "", () =>
    {
        var text = check();
        Row(name, "", "", "", "", "", "", true, text);
    });

    /// <summary>The error of results, ‖x − reference‖ / ‖reference‖; infinite where a number is missing.</summary>
    private static double Compare(double[] reference, double[] values)
    {
        double difference = 0, size = 0;
        for (var i = 0; i < reference.Length; i++)
        {
            if (values[i] == reference[i]) continue;
            var one = values[i] - reference[i];
            if (!double.IsFinite(one)) return double.PositiveInfinity;
            difference += one * one;
        }
        foreach (var value in reference)
            if (double.IsFinite(value)) size += value * value;
        return difference == 0 ? 0 : Math.Sqrt(difference / Math.Max(size, 1e-30));
    }

    private void RunKernels(KernelCase test, DType dtype)
    {
        var recording = new RecordingDevice(device);
        var gpu = Results(recording, test, dtype);
        var cpu = Results(_cpu, test, dtype);
        var reference = test.HasDouble ? Results(_cpu, test, DType.Float64) : cpu;
        double worst = 0, worstCpu = 0;
        var isGood = true;
        var where = "";
        for (var i = 0; i < reference.Count; i++)
        {
            var (error, cpuError) = (Compare(reference[i].Values, gpu[i].Values), Compare(reference[i].Values, cpu[i].Values));
            if (!(error <= (ErrorRatio * cpuError) + ErrorGrain))
            {
                isGood = false;
                where = $"{where}{(where.Length > 0 ? "; " : "")}{reference[i].Name} {First(reference[i].Values, gpu[i].Values)}";
            }
            (worst, worstCpu) = (Math.Max(worst, error), Math.Max(worstCpu, cpuError));
        }
        var infos = recording.Kernels.Select(device.InfoOf).ToList();
        foreach (var info in infos.Where(info => info.SpillBytes > 0 || info.HasPerformanceNote)) where += $" [{info.Name}: {info.SpillBytes} bytes spilled{(info.HasPerformanceNote ? ", performance note" : "")}]";
        Row(
            $"{test.Name} {test.Shape}", dtype.ToString(), Number(worst), Number(worstCpu), $"{infos.Max(info => info.Registers)}", $"{infos.Max(info => info.SpillBytes)}",
            $"{infos.Max(info => info.SharedBytes)}", isGood, where);
    }

    private static List<(string Name, double[] Values)> Results(Device target, KernelCase test, DType dtype)
    {
        using var lab = new SelfTestLab(target, 1);
        test.Run(lab, dtype);
        return lab.Results;
    }

    private static string First(double[] reference, double[] values)
    {
        var worst = 0;
        var difference = -1.0;
        for (var i = 0; i < reference.Length; i++)
        {
            if (values[i] == reference[i]) continue;
            var one = Math.Abs(values[i] - reference[i]);
            if (double.IsNaN(one)) one = double.PositiveInfinity;
            if (one <= difference) continue;
            (worst, difference) = (i, one);
        }
        return string.Create(CultureInfo.InvariantCulture, $"at {worst} of {reference.Length}: {values[worst]:G6} instead of {reference[worst]:G6}");
    }

    private void Guard(string name, string dtype, Action run)
    {
        if (!IsWanted(name)) return;
        try
        {
            run();
        }
        catch (Exception error) when (error is LancetException or TileException or NotImplementedException or NotSupportedException or InvalidOperationException or ArgumentException)
        {
            Row(name, dtype, "", "", "", "", "", false, error.Message);
            // After a failed kernel nothing on the device works any more.
            if (error is CudaException { Code: >= 700 and < 800 }) throw new DeviceLostException(error.Message);
        }
    }

    private void Row(string name, string dtype, string error, string cpuError, string registers, string spill, string shared, bool isGood, string text)
    {
        if (isGood) _passed++;
        else _failed++;
        output.WriteLine($"{name,-62}{dtype,-10}{error,11}{cpuError,11}{registers,6}{spill,7}{shared,9}  {(isGood ? "ok" : "FAILED")} {text}".TrimEnd());
        output.Flush();
    }

    private static string Number(double value) => value.ToString("E2", CultureInfo.InvariantCulture);

    private sealed class DeviceLostException(string message) : Exception(message);
}
