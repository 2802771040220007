using System.Globalization;
using Lancet.Bench.Gpu.Cases;
using Lancet.Devices;
using Lancet.Tile;

namespace Lancet.Bench.Gpu;

/// <summary>
/// Compares what a kernel computed on the GPU with the processor's fp64 result of the same inputs, and allows it twice the error that the
/// processor makes in the kernel's own dtype: nobody should time a wrong kernel.
/// </summary>
/// <param name="cpu">The processor.</param>
internal sealed class KernelCheck(Device cpu)
{
    // Approximate instructions and another order of sums may double an fp32 error; roundings to 16 bits swamp both.
    private const double ErrorRatio = 2;
    private const double ErrorGrain = 2e-6;

    /// <summary>Compares a launch over few rows, computed here on both devices.</summary>
    public Verdict CompareFewRows(Device device, KernelCase test, long seed)
    {
        using var lab = new BenchLab(device, seed);
        var prepared = test.Prepare(lab, test.DType, test.ComparedRows);
        prepared.Launch();
        return Compare(test, Read(lab, prepared, 0, test.ComparedRows), seed, 0);
    }

    /// <summary>Compares the last rows of a launch that has just run on a lab's inputs.</summary>
    public Verdict CompareLastRows(BenchLab lab, PreparedKernel prepared, KernelCase test, long seed)
    {
        var first = test.Rows - test.ComparedRows;
        return Compare(test, Read(lab, prepared, first, test.ComparedRows), seed, first);
    }

    private static List<(string Name, double[] Values)> Read(BenchLab lab, PreparedKernel prepared, int first, int rows) =>
        [.. prepared.Results.Select(result => (result.Name, lab.Read(result.IsByRow ? result.Tensor.Rows(first, rows) : result.Tensor)))];

    private Verdict Compare(KernelCase test, List<(string Name, double[] Values)> actual, long seed, int first)
    {
        var same = OnProcessor(test, test.DType, seed, first);
        var reference = test.HasDouble ? OnProcessor(test, DType.Float64, seed, first) : same;
        var verdict = new Verdict(true, 0, 0, "");
        for (var i = 0; i < reference.Count; i++)
        {
            var (error, cpuError) = (Error(reference[i].Values, actual[i].Values), Error(reference[i].Values, same[i].Values));
            var isGood = error <= (ErrorRatio * cpuError) + ErrorGrain;
            verdict = new(verdict.IsGood && isGood, Math.Max(verdict.Error, error), Math.Max(verdict.ProcessorError, cpuError), isGood ? verdict.Where : $"{verdict.Where} {reference[i].Name}");
        }
        return verdict;
    }

    private List<(string Name, double[] Values)> OnProcessor(KernelCase test, DType dtype, long seed, int first)
    {
        using var lab = new BenchLab(cpu, seed, first);
        var prepared = test.Prepare(lab, dtype, test.ComparedRows);
        prepared.Launch();
        return Read(lab, prepared, 0, test.ComparedRows);
    }

    /// <summary>‖x − reference‖ / ‖reference‖; infinite where a number is missing or should be.</summary>
    internal static double Error(double[] reference, double[] values)
    {
        double difference = 0, size = 0;
        for (var i = 0; i < reference.Length; i++)
        {
            if (!double.IsFinite(reference[i]) || !double.IsFinite(values[i])) return double.PositiveInfinity;
            var one = values[i] - reference[i];
            (difference, size) = (difference + (one * one), size + (reference[i] * reference[i]));
        }
        return difference == 0 ? 0 : Math.Sqrt(difference / Math.Max(size, 1e-30));
    }
}

/// <summary>What a comparison found.</summary>
/// <param name="IsGood">Whether the error is small enough.</param>
/// <param name="Error">‖x − reference‖ / ‖reference‖, the largest of the results.</param>
/// <param name="ProcessorError">The same of the processor in the kernel's dtype.</param>
/// <param name="Where">Names of wrong results.</param>
internal readonly record struct Verdict(bool IsGood, double Error, double ProcessorError, string Where)
{
    /// <summary>For a table.</summary>
    public string Text => string.Create(CultureInfo.InvariantCulture, $"{(IsGood ? "ok" : "WRONG" + Where)} {Error:E1} ({ProcessorError:E1})");
}
