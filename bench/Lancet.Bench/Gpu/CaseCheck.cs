using System.Collections.Concurrent;
using System.Globalization;
using Lancet.Adapters;
using Lancet.Bench.Gpu.Cases;
using Lancet.Data;
using Lancet.Devices;
using Lancet.Devices.Cpu;
using Lancet.Kernels;
using Lancet.Models;
using Lancet.Planning;
using Lancet.Tensors;
using Lancet.Tile;
using Lancet.Tile.Ptx;
using Lancet.Training;

namespace Lancet.Bench.Gpu;

/// <summary>
/// What can be known of the benchmarks without a GPU: every kernel case runs over few rows on the processor, and every kernel that a
/// benchmark or a step of one of the models launches is compiled to PTX.
/// </summary>
internal static class CaseCheck
{
    private static readonly PtxTarget s_hopper = new(90, 227 << 10);
    private static readonly PtxTarget s_ampere = new(80, 163 << 10);

    public static int Run(Arguments arguments)
    {
        using var cpu = new CpuDevice();
        var check = new KernelCheck(cpu);
        var spy = new SpyDevice(cpu);
        var isGood = true;
        foreach (var test in LayerCases.All.Concat(TrainingCases.All).Concat(AttentionCases.All).Where(test => arguments.Selects(test.Name)))
        {
            // Large launches would take minutes here.
            var verdict = check.CompareFewRows(spy, test with { ComparedRows = Math.Min(test.ComparedRows, test.Name.StartsWith("attention", StringComparison.Ordinal) ? 80 : 16) }, 1);
            isGood &= verdict.IsGood;
            Console.WriteLine($"{test.Name}, {test.Shape}, {test.DType}: {verdict.Text}");
        }
        using (var lab = new BenchLab(spy, 1))
        {
            foreach (var dtype in (DType[])[DType.BFloat16, DType.Float32]) lab.Whole(dtype, new Shape(64), distribution: RandomDistribution.Normal);
        }
        // All arguments of a timed launch are divisible, whatever those of few rows are.
        var variants = spy.Launches.Keys.Select(variant => new KernelVariant(variant.Kernel, PtxCompiler.AllDivisible(variant.Kernel)));
        isGood &= Compile("kernel cases", variants);
        isGood &= Compile("products", ProductBenchmark.Variants());
        foreach (var (name, shape) in ProductBenchmark.Products) Console.WriteLine($"  {shape.M} × {shape.N} × {shape.K}, {shape.A} · {(shape.IsQuantized ? "NF4" : shape.B)} → {shape.C}: {name}");
        foreach (var model in ModelShapes.Names.Where(arguments.Selects))
        {
            foreach (var method in (string[])["lora", "qlora"]) isGood &= Compile($"{model} {method}", StepVariants(model, method));
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{model} lora, 4 × 2048: {OperationsPerToken(model) / 1e9:F2} GFLOP a token"));
        }
        return isGood ? 0 : 1;
    }

    private static IEnumerable<KernelVariant> StepVariants(string model, string method)
    {
        var decoder = new DecoderModel(ModelShapes.Config(model, 2));
        LanguageModel.Describe(decoder, new LoraOptions());
        decoder.DescribeStorage(PlanTarget.Cuda, DType.BFloat16, method == "qlora");
        return StepPlan.Create(decoder, DType.BFloat16, 0, new EngineOptions { MaxTokens = 8192, MaxSequenceLength = 2048 }, PlanTarget.Cuda).Kernels;
    }

    private static double OperationsPerToken(string model)
    {
        var decoder = new DecoderModel(ModelShapes.Config(model));
        LanguageModel.Describe(decoder, new LoraOptions());
        decoder.DescribeStorage(PlanTarget.Cuda, DType.BFloat16);
        var batch = new PackedBatch(8192, 4);
        for (var i = 0; i < 4; i++) batch.Add(new int[2048], []);
        return GpuStepBenchmark.ModelOperations(decoder.Config, decoder, new EngineOptions { MaxTokens = 8192, MaxSequenceLength = 2048 }, batch) / batch.TokenCount;
    }

    private static bool Compile(string what, IEnumerable<KernelVariant> variants)
    {
        var messages = new ConcurrentBag<string>();
        var count = 0;
        Parallel.ForEach(variants.Distinct(), variant =>
        {
            foreach (var target in (PtxTarget[])[s_hopper, s_ampere])
            {
                try
                {
                    PtxCompiler.Compile(variant.Kernel, target, variant.DivisibleArguments);
                    Interlocked.Increment(ref count);
                }
                catch (Exception error) when (error is TileException or NotImplementedException or NotSupportedException or InvalidOperationException)
                {
                    messages.Add($"sm_{target.ComputeCapability}: {error.Message}");
                }
            }
        });
        Console.WriteLine($"{what}: {count} compiled to PTX, {messages.Count} not");
        foreach (var message in messages.Order(StringComparer.Ordinal)) Console.WriteLine($"  {message}");
        return messages.IsEmpty;
    }
}
