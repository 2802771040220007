using Lancet.Bench.Gpu.Cases;
using Lancet.Devices.Cpu;

namespace Lancet.Bench.Gpu;

/// <summary>Runs every kernel case over few rows on the processor, so that the cases can be tried without a GPU.</summary>
internal static class CaseCheck
{
    public static int Run(Arguments arguments)
    {
        using var cpu = new CpuDevice();
        var check = new KernelCheck(cpu);
        var isGood = true;
        foreach (var test in LayerCases.All.Concat(TrainingCases.All).Concat(AttentionCases.All).Where(test => arguments.Selects(test.Name)))
        {
            // Large launches would take minutes here.
            var verdict = check.CompareFewRows(cpu, test with { ComparedRows = Math.Min(test.ComparedRows, test.Name.StartsWith("attention", StringComparison.Ordinal) ? 80 : 16) }, 1);
            isGood &= verdict.IsGood;
            Console.WriteLine($"{test.Name}, {test.Shape}, {test.DType}: {verdict.Text}");
        }
        return isGood ? 0 : 1;
    }
}
