using System.Globalization;
using System.Text.Json;
using Lancet.Devices;
using Lancet.Formats;
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
        var findsLength = settings.Flag("max-context");
        if (findsLength)
        {
            if (settings.IsGiven("max-seq-length")) throw new LancetException("--max-context finds the longest --max-seq-length: only one of them can be given.");
            if (settings.Text("memory-budget") is null) throw new LancetException("--max-context needs --memory-budget, such as 24GB.");
            settings.Default("batch-size", "1");
        }
        var choice = settings.Device();
        var ptxFolder = settings.PtxFolder(choice);
        var target = choice.PlanTarget;
        // A processor reads weights in place, and how large they are only their files tell.
        var folder = HubLoading.Folder(settings.Required("model"), hasWeights: target.ReadsMappedFiles);
        var dtype = settings.DType("dtype");
        var (decoder, weightBytes) = Describe(settings, folder, target);
        var options = OptionsOf(settings);
        var length = options.MaxSequenceLength;
        StepPlan plan;
        if (findsLength) (length, plan, _) = ContextSearch.Longest(decoder, dtype, weightBytes, settings.Count("batch-size", 1), options, target);
        else plan = StepPlan.Create(decoder, dtype, weightBytes, options, target);
        var microBatches = settings.Count("gradient-accumulation", 1);
        var files = ptxFolder?.Compile(plan.Kernels, choice.PtxTarget);
        if (settings.Flag("json")) WriteJson(plan, findsLength ? length : null, microBatches, files);
        else WriteText(plan, findsLength ? length : null, microBatches, target.IsCuda);
        if (findsLength && length > decoder.Config.MaxPositions) Console.Error.WriteLine($"the model was made for {decoder.Config.MaxPositions} tokens: --rope-scaling stretches its positions");
        if (files is not null) Console.Error.WriteLine($"{files.Count} kernels as PTX for sm_{choice.PtxTarget.ComputeCapability} in {ptxFolder!.Path}; those of matrix products and of the update are compiled by a run only");
        return 0;
    }

    /// <summary>The model of a run without its weights, and how many bytes those that are frozen take.</summary>
    public static (DecoderModel Decoder, long WeightBytes) Describe(Settings settings, string folder, PlanTarget target)
    {
        var (dtype, method) = (settings.DType("dtype"), settings.OneOf("method", "lora", "qlora", "full"));
        var decoder = new DecoderModel(ModelConfig.Load(folder, ModelLoading.RopeScalingOf(settings)));
        if (method == "full") foreach (var weight in decoder.Weights) weight.IsTrained = true;
        else LanguageModel.Describe(decoder, TrainCommand.LoraOptionsOf(settings));
        var borderBytes = decoder.DescribeStorage(target, dtype, method == "qlora");
        return (decoder, method == "full" ? 0 : WeightBytes(folder, decoder, dtype, method == "qlora", target) + borderBytes);
    }

    /// <summary>A run's options, with sequences as long as they may be.</summary>
    public static EngineOptions OptionsOf(Settings settings)
    {
        var length = settings.Count("max-seq-length", 2);
        return new()
        {
            MaxTokens = checked(length * settings.Count("batch-size", 1)),
            MaxSequenceLength = length,
            HasEightBitState = settings.OneOf("optimizer", "adamw", "adamw_8bit") == "adamw_8bit",
            Policy = settings.Policy("activation-policy"),
            MemoryBudget = settings.Bytes("memory-budget"),
            HostMemoryBudget = settings.Bytes("host-memory-budget"),
            StreamedLayers = settings.StreamedLayers(),
        };
    }

    private static long WeightBytes(string folder, DecoderModel decoder, DType dtype, bool quantizes, PlanTarget target)
    {
        var bytes = decoder.FrozenBytes(dtype, quantizes);
        if (!target.ReadsMappedFiles || dtype != DType.Float32 || !HasWeights(folder)) return bytes;
        // On a processor fp32 activations read the file's own dtype in place.
        using var checkpoint = Checkpoint.Open(folder);
        return bytes + decoder.Weights.Where(weight => !weight.IsTrained && !weight.IsWide && !(quantizes && weight.Role == WeightRole.Projection))
            .Sum(weight => checkpoint.Entries.GetValueOrDefault(weight.Name) is { } entry && entry.DType != DType.Float64 ? entry.Bytes - (weight.Shape.Count * dtype.SizeInBytes()) : 0);
    }

    private static bool HasWeights(string folder) => File.Exists(Path.Combine(folder, "model.safetensors")) || File.Exists(Path.Combine(folder, "model.safetensors.index.json"));

    private static void WriteText(StepPlan plan, int? longest, int microBatches, bool isCuda)
    {
        if (longest is not null) Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{"longest sequences",-28}{longest,12:N0} tokens"));
        foreach (var entry in plan.Memory.Entries) Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{entry.Purpose,-28}{entry.Bytes / 1048576.0,12:N1} MiB"));
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{"peak",-28}{plan.Memory.PeakBytes / 1048576.0,12:N1} MiB"));
        if (plan.Memory.DriverBytes > 0) Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{"driver besides, about",-28}{plan.Memory.DriverBytes / 1048576.0,12:N1} MiB"));
        if (plan.Memory.FurtherGraphBytes > 0) Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{"batches of other sizes",-28}{plan.Memory.FurtherGraphBytes / 1048576.0,12:N1} MiB at most"));
        if (plan.Memory.HostBytes > 0) Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{"host memory besides",-28}{plan.Memory.HostBytes / 1048576.0,12:N1} MiB"));
        Console.WriteLine($"activations: {plan.Memory.ActivationPolicy}");
        if (plan.StreamedLayers.Count > 0) Console.WriteLine($"frozen matrices of {plan.StreamedLayers.Count} of {plan.Policies.Length} layers wait in host memory");
        if (plan.MovesEmbedding) Console.WriteLine("the token embedding is in host memory");
        // The rates of a processor are a guess, good enough to choose by.
        if (!isCuda) return;
        Console.WriteLine();
        Console.WriteLine($"{"choices, fastest first",-28}{"forward and backward",24}{"peak",16}{"host memory",20}");
        foreach (var forecast in plan.Forecasts) Console.WriteLine(Line(ActivationPolicies.NameOf(forecast.Policy) + " in all", forecast.Seconds, forecast.PeakBytes, forecast.HostBytes));
        Console.WriteLine(Line("as planned", plan.PredictedSeconds, plan.Memory.PeakBytes, plan.Memory.HostBytes));
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"predicted step: {plan.PredictedSeconds * microBatches * 1e3:N1} ms ({microBatches} micro-batches), the update besides"));
    }

    private static string Line(string name, double seconds, long peak, long host) =>
        string.Create(CultureInfo.InvariantCulture, $"{name,-28}{seconds * 1e3,21:N1} ms{peak / 1048576.0,12:N1} MiB{host / 1048576.0,16:N1} MiB");

    private static void WriteJson(StepPlan plan, int? longest, int microBatches, IReadOnlyCollection<string>? ptxFiles)
    {
        using var json = new Utf8JsonWriter(Console.OpenStandardOutput());
        json.WriteStartObject();
        if (longest is { } length) json.WriteNumber("max_context", length);
        json.WriteNumber("peak_bytes", plan.Memory.PeakBytes);
        json.WriteNumber("driver_bytes", plan.Memory.DriverBytes);
        json.WriteNumber("further_graph_bytes", plan.Memory.FurtherGraphBytes);
        json.WriteNumber("host_bytes", plan.Memory.HostBytes);
        json.WriteString("activation_policy", plan.Memory.ActivationPolicy);
        json.WriteNumber("streamed_layers", plan.StreamedLayers.Count);
        json.WriteNumber("predicted_seconds", plan.PredictedSeconds);
        json.WriteNumber("predicted_step_seconds", plan.PredictedSeconds * microBatches);
        json.WriteStartArray("choices");
        foreach (var forecast in plan.Forecasts)
        {
            json.WriteStartObject();
            json.WriteString("activation_policy", ActivationPolicies.NameOf(forecast.Policy));
            json.WriteNumber("predicted_seconds", forecast.Seconds);
            json.WriteNumber("peak_bytes", forecast.PeakBytes);
            json.WriteNumber("host_bytes", forecast.HostBytes);
            json.WriteEndObject();
        }
        json.WriteEndArray();
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
