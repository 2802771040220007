using System.Globalization;
using System.Text.Json;
using Lancet.Devices;
using Lancet.Formats;
using Lancet.Kernels;
using Lancet.Models;
using Lancet.Planning;
using Lancet.Tile;
using Lancet.Training;

namespace Lancet.Cli.Commands;

/// <summary>lancet plan: the memory of a run, without running it.</summary>
internal static class PlanCommand
{
    public static int Run(Settings settings)
    {
        var folder = settings.Required("model");
        var target = settings.Device().PlanTarget;
        var dtype = settings.DType("dtype");
        var method = settings.OneOf("method", "lora", "qlora", "full");
        var decoder = new DecoderModel(ModelConfig.Load(folder));
        if (method == "full") foreach (var weight in decoder.Weights) weight.IsTrained = true;
        else LanguageModel.Describe(decoder, TrainCommand.LoraOptionsOf(settings));
        decoder.DescribeStorage(dtype, method == "qlora");
        var length = settings.Count("max-seq-length", 2);
        var plan = StepPlan.Create(decoder, dtype, method == "full" ? 0 : WeightBytes(folder, decoder, dtype, method == "qlora", target), new EngineOptions
        {
            MaxTokens = checked(length * settings.Count("batch-size", 1)),
            MaxSequenceLength = length,
            HasEightBitState = settings.OneOf("optimizer", "adamw", "adamw_8bit") == "adamw_8bit",
            Policy = settings.Policy("activation-policy"),
            MemoryBudget = settings.Bytes("memory-budget"),
        }, target);
        if (settings.Flag("json")) WriteJson(plan);
        else WriteText(plan);
        return 0;
    }

    private static long WeightBytes(string folder, DecoderModel decoder, DType dtype, bool quantizes, PlanTarget target)
    {
        using var checkpoint = HasWeights(folder) ? Checkpoint.Open(folder) : null;
        return decoder.Weights.Sum(weight =>
        {
            if (weight.Role is WeightRole.Norm or WeightRole.Bias) return weight.Shape.Count * dtype.Accumulator().SizeInBytes();
            if (quantizes && weight.Role == WeightRole.Projection)
            {
                var (codes, scales, nested) = Nf4Kernel.Sizes(weight.Shape.Count);
                return codes + scales + ((nested + 1) * sizeof(float));
            }
            // On a processor fp32 activations read the file's own dtype in place.
            return target.ReadsMappedFiles && dtype == DType.Float32 && checkpoint?.Entries.GetValueOrDefault(weight.Name) is { } entry && entry.DType != DType.Float64 ? entry.Bytes : weight.Shape.Count * dtype.SizeInBytes();
        });
    }

    private static bool HasWeights(string folder) => File.Exists(Path.Combine(folder, "model.safetensors")) || File.Exists(Path.Combine(folder, "model.safetensors.index.json"));

    private static void WriteText(StepPlan plan)
    {
        foreach (var entry in plan.Memory.Entries) Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{entry.Purpose,-28}{entry.Bytes / 1048576.0,12:N1} MiB"));
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{"peak",-28}{plan.Memory.PeakBytes / 1048576.0,12:N1} MiB"));
        Console.WriteLine($"activations: {plan.Memory.ActivationPolicy}");
    }

    private static void WriteJson(StepPlan plan)
    {
        using var json = new Utf8JsonWriter(Console.OpenStandardOutput());
        json.WriteStartObject();
        json.WriteNumber("peak_bytes", plan.Memory.PeakBytes);
        json.WriteString("activation_policy", plan.Memory.ActivationPolicy);
        json.WriteStartObject("breakdown");
        foreach (var entry in plan.Memory.Entries) json.WriteNumber(entry.Purpose, entry.Bytes);
        json.WriteEndObject();
        json.WriteEndObject();
    }
}
