using System.Text.Json;
using Lancet.Adapters;
using Lancet.Data;
using Lancet.Formats;
using Lancet.Models;
using Lancet.Planning;
using Lancet.Tokenization;
using Lancet.Training;

namespace Lancet.Cli.Commands;

/// <summary>lancet train.</summary>
internal static class TrainCommand
{
    private const int Interrupted = 130;
    private const int SampleTokens = 96;

    public static int Run(Settings settings)
    {
        var target = PushCommand.TargetOf(settings);
        if (settings.Flag("dry-run"))
        {
            Validate(settings);
            Console.Write(settings.ToYaml());
            return 0;
        }
        var clock = new StartupClock();
        var outcome = Train(settings, clock);
        if (settings.Flag("json")) WriteJson(settings, outcome, clock);
        if (!outcome.IsInterrupted) PushCommand.Push(settings, target);
        return outcome.IsInterrupted ? Interrupted : 0;
    }

    /// <summary>Trains, and writes everything a run leaves behind.</summary>
    /// <param name="settings">Options of the train command.</param>
    /// <param name="clock">Notes where the time to the first step goes.</param>
    public static SftResult Train(Settings settings, StartupClock clock)
    {
        var (folder, output) = (settings.Required("model"), settings.Required("output"));
        // Large vocabularies take a while to read, and so does looking for a GPU.
        var reading = Directory.Exists(folder) ? Task.Run(() => ModelLoading.TokenizerOf(folder)) : null;
        var device = settings.Device();
        Validate(settings);
        folder = HubLoading.Folder(folder);
        HubLoading.ResolveAdapter(settings);
        var config = ModelConfig.Load(folder, ModelLoading.RopeScalingOf(settings));
        var options = SftOptionsOf(settings);
        SftTrainer.CheckOutput(options);
        using var opening = new OpeningDevice(device, settings.PtxFolder(device));
        clock.Note("options");
        var tokenizer = reading is null ? ModelLoading.TokenizerOf(folder) : reading.GetAwaiter().GetResult();
        clock.Note("tokenizer");
        var renderer = ModelLoading.Renderer(settings, config, tokenizer);
        var (data, held) = (HubLoading.Data(settings.Required("data")), settings.Text("eval-data") is { } text ? HubLoading.Data(text) : null);
        var (training, evaluation) = (SftDataset.Load(data, renderer), held is null ? null : SftDataset.Load(held, renderer));
        string[] notes = [.. training.Notes, .. evaluation?.Notes ?? []];
        if (training.MaxLength > config.MaxPositions) notes = [.. notes, $"the longest row has {training.MaxLength} tokens, the model was made for {config.MaxPositions}: --rope-scaling stretches its positions"];
        var split = settings.Number("eval-split", 0, 0.9);
        if (split > 0) (training, evaluation) = training.Split(split);
        if (tokenizer is not null && tokenizer.VocabularySize > config.VocabularySize)
            throw new LancetException($"{folder}: the tokenizer has {tokenizer.VocabularySize} ids, the model {config.VocabularySize} embeddings; they do not belong together.");

        clock.Note("data");
        using var cancellation = new CancellationTokenSource();
        using var handler = new InterruptHandler(cancellation);
        using var model = Load(settings, folder, opening, clock);
        var samples = tokenizer is null ? [] : SampleAnswer.Choose(settings, held ?? data, evaluation?.Rows.Count ?? training.Rows.Count);
        Answer(model, tokenizer, renderer, samples, cancellation.Token, (sample, answer) => sample.Before = answer);
        clock.Note("answers");
        // Only a run that really starts replaces the configuration of the one before.
        using var progress = ProgressDisplay.Create(
            notes,
            run =>
            {
                clock.Note("engine", run.Setup);
                AtomicFile.WriteText(Path.Combine(output, "config.resolved.yaml"), settings.ToYaml());
            },
            () =>
            {
                clock.Note("first step");
                return clock.Describe(model.Device.Preparation);
            });
        var result = new SftTrainer(model, training, options, evaluation).Train(progress, cancellation.Token);
        if (result.IsInterrupted) samples.Clear();
        Answer(model, tokenizer, renderer, samples, cancellation.Token, (sample, answer) => sample.After = answer);
        // What was trained with a template is to be asked with it, and ends where its turns end.
        tokenizer?.SaveTo(output, renderer.HasRenderedChats || settings.Text("chat-template") is not null ? renderer.Template : null);
        AtomicFile.WriteText(Path.Combine(output, "README.md"), ModelCard.Create(folder, output, []));
        HtmlReport.Write(Path.Combine(output, "report.html"), output, settings.ToYaml(), result, [.. samples.Select(sample => (sample.Question, sample.Before, sample.After))]);
        progress.Finish(result, output, samples);
        return result;
    }

    /// <summary>Reads every option once, so that a bad value is refused before anything is loaded, and by --dry-run.</summary>
    private static void Validate(Settings settings)
    {
        _ = settings.Device();
        _ = SftOptionsOf(settings);
        _ = LoraOptionsOf(settings);
        _ = settings.DType("dtype");
        _ = settings.Count("sample-answers");
        _ = settings.Flag("train-on-responses-only");
        _ = ModelLoading.Columns(settings);
        _ = ModelLoading.TemplateVariables(settings);
        var method = settings.OneOf("method", "lora", "qlora", "full");
        if (settings.Flag("from-scratch") && method != "full") throw new LancetException("--from-scratch needs --method full: random weights have to be trained themselves.");
        if (method == "full" && settings.Text("adapter") is not null) throw new LancetException("--adapter does not go with --method full; merge it first with lancet export.");
        if (settings.Number("eval-split", 0, 0.9) > 0 && settings.Text("eval-data") is not null) throw new LancetException("--eval-split and --eval-data are both given; held-out rows come from one of them.");
        if (settings.Text("data") is { } data) _ = DataSources.Parse(data);
        if (settings.Text("eval-data") is { } held && DataSources.Parse(held).IsWeighted) throw new LancetException($"--eval-data {held}: held-out rows are not weighted, each counts once; give the files without =weight.");
    }

    public static SftOptions SftOptionsOf(Settings settings) => new()
    {
        Output = settings.Required("output"),
        BatchSize = settings.Count("batch-size", 1),
        GradientAccumulation = settings.Count("gradient-accumulation", 1),
        Packing = settings.Flag("packing"),
        MaxSequenceLength = settings.Count("max-seq-length", 2),
        Epochs = settings.Number("num-epochs", 0),
        MaxSteps = settings.Count("max-steps"),
        LearningRate = settings.Number("learning-rate"),
        EmbeddingLearningRate = settings.Text("embedding-learning-rate") is null ? null : settings.Number("embedding-learning-rate"),
        Scheduler = settings.OneOf("lr-scheduler", [.. LearningRateSchedule.Kinds]),
        WarmupSteps = settings.Count("warmup-steps"),
        WarmupRatio = settings.Number("warmup-ratio", 0, 1),
        WeightDecay = settings.Number("weight-decay"),
        MaxGradientNorm = settings.Number("max-grad-norm"),
        HasEightBitState = settings.OneOf("optimizer", "adamw", "adamw_8bit") == "adamw_8bit",
        Seed = settings.Long("seed"),
        Shuffle = settings.Flag("shuffle"),
        SaveSteps = settings.Count("save-steps"),
        SaveTotalLimit = settings.Count("save-total-limit"),
        EvalSteps = settings.Count("eval-steps"),
        OverwritesOutput = settings.Flag("overwrite-output"),
        Resume = settings.Flag("resume"),
        MemoryBudget = settings.Bytes("memory-budget"),
        HostMemoryBudget = settings.Bytes("host-memory-budget"),
        StreamedLayers = settings.StreamedLayers(),
        ActivationPolicy = settings.Policy("activation-policy"),
    };

    public static LoraOptions LoraOptionsOf(Settings settings) => new()
    {
        Rank = settings.Count("lora-rank", 1),
        Alpha = settings.Number("lora-alpha"),
        Dropout = settings.Number("lora-dropout", 0, 0.99),
        TargetModules = settings.List("target-modules"),
        UsesDora = settings.Flag("use-dora"),
        UsesRankStabilization = settings.Flag("use-rslora"),
        UsesLoftQ = settings.OneOf("init-lora-weights", "default", "loftq") == "loftq",
        RankPattern = settings.Pairs("rank-pattern"),
        AlphaPattern = settings.Pairs("alpha-pattern"),
        LayersToTransform = settings.Integers("layers-to-transform"),
        ModulesToSave = settings.List("modules-to-save"),
        EnsuresWeightTying = settings.Flag("ensure-weight-tying"),
    };

    private static LanguageModel Load(Settings settings, string folder, OpeningDevice opening, StartupClock clock)
    {
        var method = settings.OneOf("method", "lora", "qlora", "full");
        var device = opening.Take();
        clock.Note("device");
        var streamed = 0;
        try
        {
            if (device.PlanTarget.IsCuda)
            {
                var (decoder, weightBytes) = PlanCommand.Describe(settings, folder, device.PlanTarget);
                streamed = StepPlan.LayersToStream(decoder, settings.DType("dtype"), weightBytes, PlanCommand.OptionsOf(settings), device);
            }
        }
        catch
        {
            device.Dispose();
            throw;
        }
        var model = ModelLoading.Load(folder, device, new LoadOptions
        {
            StreamedLayers = streamed,
            DType = settings.DType("dtype"),
            QuantizesToNf4 = method == "qlora",
            IsFullyTrained = method == "full",
            IsFromScratch = settings.Flag("from-scratch"),
            RopeScaling = ModelLoading.RopeScalingOf(settings),
            Seed = settings.Long("seed"),
        });
        clock.Note("weights");
        try
        {
            if (method == "full") return model;
            if (settings.Text("adapter") is { } adapter) model.LoadAdapter(adapter, settings.IsGiven("lora-dropout") ? settings.Number("lora-dropout", 0, 0.99) : null);
            else model.AddLora(LoraOptionsOf(settings), settings.Long("seed"));
            clock.Note("adapter");
            return model;
        }
        catch
        {
            model.Dispose();
            throw;
        }
    }

    private static void Answer(LanguageModel model, Tokenizer? tokenizer, RowRenderer renderer, List<SampleAnswer> samples, CancellationToken cancellation, Action<SampleAnswer, string> store)
    {
        if (tokenizer is null || samples.Count == 0) return;
        var answers = ChatSession.Answer(model, tokenizer, renderer.Template, renderer.TemplateVariables, [.. samples.Select(sample => sample.Prompt)], SampleTokens, cancellation);
        for (var i = 0; i < samples.Count; i++) store(samples[i], answers[i]);
    }

    private static void WriteJson(Settings settings, SftResult result, StartupClock clock)
    {
        using var json = new Utf8JsonWriter(Console.OpenStandardOutput(), new JsonWriterOptions { Indented = true });
        json.WriteStartObject();
        json.WriteString("output", settings.Required("output"));
        json.WriteBoolean("interrupted", result.IsInterrupted);
        json.WriteNumber("steps", result.Run.FirstStep + result.Steps.Count);
        if (result.Steps.Count > 0) json.WriteNumber("loss", result.Steps[^1].Loss);
        if (result.Evaluations.Count > 0) json.WriteNumber("eval_loss", result.Evaluations[^1].EvalLoss);
        json.WriteNumber("planned_peak_bytes", result.Run.Plan.PeakBytes);
        if (result.Steps.Count > 0) json.WriteNumber("peak_memory_bytes", result.Steps[^1].PeakMemoryBytes);
        json.WriteStartObject("startup_seconds");
        foreach (var time in clock.Times) json.WriteNumber(time.Name, Math.Round(time.Seconds, 3));
        json.WriteEndObject();
        json.WriteEndObject();
    }
}
