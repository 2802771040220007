using System.Globalization;
using System.Text.Json;
using Lancet.Devices;
using Lancet.Formats;
using Lancet.Kernels;
using Lancet.Layers;
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
        var folder = HubLoading.Folder(settings.Required("model"));
        var choice = settings.Device();
        var ptxFolder = settings.PtxFolder(choice);
        var target = choice.PlanTarget;
        var dtype = settings.DType("dtype");
        var method = settings.OneOf("method", "lora", "qlora", "full");
        var decoder = new DecoderModel(ModelConfig.Load(folder, ModelLoading.RopeScalingOf(settings)));
        if (method == "full") foreach (var weight in decoder.Weights) weight.IsTrained = true;
        else LanguageModel.Describe(decoder, TrainCommand.LoraOptionsOf(settings));
        var borderBytes = decoder.DescribeStorage(target, dtype, method == "qlora");
        var length = settings.Count("max-seq-length", 2);
        var plan = StepPlan.Create(decoder, dtype, method == "full" ? 0 : WeightBytes(folder, decoder, dtype, method == "qlora", target) + borderBytes, new EngineOptions
        {
            MaxTokens = checked(length * settings.Count("batch-size", 1)),
            MaxSequenceLength = length,
            HasEightBitState = settings.OneOf("optimizer", "adamw", "adamw_8bit") == "adamw_8bit",
            Policy = settings.Policy("activation-policy"),
            MemoryBudget = settings.Bytes("memory-budget"),
            HostMemoryBudget = settings.Bytes("host-memory-budget"),
        }, target);
        var files = ptxFolder?.Compile(plan.Kernels, choice.PtxTarget);
        if (settings.Flag("json")) WriteJson(plan, files);
        else WriteText(plan, target.IsCuda);
        if (files is not null) Console.Error.WriteLine($"{files.Count} kernels as PTX for sm_{choice.PtxTarget.ComputeCapability} in {ptxFolder!.Path}; those of matrix products and of the update are compiled by a run only");
        return 0;
    }

    private static long WeightBytes(string folder, DecoderModel decoder, DType dtype, bool quantizes, PlanTarget target)
    {
        using var checkpoint = HasWeights(folder) ? Checkpoint.Open(folder) : null;
        return decoder.Weights.Where(weight => !weight.IsTrained).Sum(weight =>
        {
            if (weight.IsWide) return weight.Shape.Count * dtype.Accumulator().SizeInBytes();
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

    private static void WriteText(StepPlan plan, bool isCuda)
    {
        foreach (var entry in plan.Memory.Entries) Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{entry.Purpose,-28}{entry.Bytes / 1048576.0,12:N1} MiB"));
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{"peak",-28}{plan.Memory.PeakBytes / 1048576.0,12:N1} MiB"));
        if (plan.Memory.DriverBytes > 0) Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{"driver besides, about",-28}{plan.Memory.DriverBytes / 1048576.0,12:N1} MiB"));
        if (plan.Memory.HostBytes > 0) Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{"host memory besides",-28}{plan.Memory.HostBytes / 1048576.0,12:N1} MiB"));
        Console.WriteLine($"activations: {plan.Memory.ActivationPolicy}");
        if (plan.MovesEmbedding) Console.WriteLine("the token embedding is in host memory");
        // The rates of a processor are a guess, good enough to choose by.
        if (!isCuda) return;
        Console.WriteLine();
        Console.WriteLine($"{"all layers",-28}{"forward and backward",24}{"peak",16}{"host memory",20}");
        foreach (var forecast in plan.Forecasts) Console.WriteLine(Line(ActivationPolicies.NameOf(forecast.Policy), forecast.Seconds, forecast.PeakBytes, forecast.HostBytes));
        Console.WriteLine(Line("as planned", plan.PredictedSeconds, plan.Memory.PeakBytes, plan.Memory.HostBytes));
    }

    private static string Line(string name, double seconds, long peak, long host) =>
        string.Create(CultureInfo.InvariantCulture, $"{name,-28}{seconds * 1e3,21:N1} ms{peak / 1048576.0,12:N1} MiB{host / 1048576.0,16:N1} MiB");

    private static void WriteJson(StepPlan plan, IReadOnlyCollection<string>? ptxFiles)
    {
        using var json = new Utf8JsonWriter(Console.OpenStandardOutput());
        json.WriteStartObject();
        json.WriteNumber("peak_bytes", plan.Memory.PeakBytes);
        json.WriteNumber("driver_bytes", plan.Memory.DriverBytes);
        json.WriteNumber("host_bytes", plan.Memory.HostBytes);
        json.WriteString("activation_policy", plan.Memory.ActivationPolicy);
        json.WriteNumber("predicted_seconds", plan.PredictedSeconds);
        json.WriteStartObject("breakdown");
        foreach (var entry in plan.Memory.Entries) json.WriteNumber(entry.Purpose, entry.Bytes);
        json.WriteEndObject();
        if (ptxFiles is not null)
        {
            json.WriteStartArray("ptx_files");
            foreach (var file in ptxFiles) json.WriteStringValue(file);
            json.WriteEndArray();
        }
        json.WriteEndObject();
    }
}
