using Lancet.Devices;
using Lancet.Kernels;
using Lancet.Layers;
using Lancet.Models;
using Lancet.Tile;
using Lancet.Training;

namespace Lancet.Planning;

/// <summary>Makes a <see cref="StepPlan"/>: chooses what layers keep, by predicted time within the budget, and counts the memory.</summary>
internal sealed class StepPlanner(DecoderModel decoder, DType dtype, long weightBytes, EngineOptions options, PlanTarget target)
{
    // Page-locked memory is taken from everybody else on the machine.
    private const double ShareOfHostMemory = 0.5;

    // Weights go to host memory only for a gain that is more than what predictions of one model differ by.
    private const double StreamGain = 0.002;

    // Small NF4 buffers that stay on the device hold pages of the driver's whose rest has left with a streamed layer: 0.1 to 2.3 MB a layer were measured on an H200.
    private const long LeftBytesOfNf4Layer = 2 << 20;

    // The number of streamed layers is searched in so many steps, and in half a step around the best.
    private const int StreamSteps = 8;

    private readonly int _layers = decoder.Layers.Count;
    private readonly long _budget = options.MemoryBudget > 0 ? options.MemoryBudget : long.MaxValue;

    private long EmbeddingBytes => decoder.Embedding.Shape.Count * dtype.SizeInBytes();

    // Rows are read over the link, one after the other: nothing runs beside that.
    private double EmbeddingSeconds => (double)options.MaxTokens * decoder.Config.HiddenSize * dtype.SizeInBytes() / target.Rates.HostBytes;

    private long MostHostBytes => options.HostMemoryBudget > 0 ? options.HostMemoryBudget : options.Policy is null ? (long)(GC.GetGCMemoryInfo().TotalAvailableMemoryBytes * ShareOfHostMemory) : long.MaxValue;

    private bool MayMoveEmbedding => target.IsCuda && options.MemoryBudget > 0 && !decoder.Embedding.IsTrained && !decoder.Embedding.IsInHostMemory && !decoder.Config.TiesWordEmbeddings;

    /// <summary>The plan.</summary>
    /// <exception cref="LancetException">No policy fits the budget; the message says what would.</exception>
    public StepPlan Plan() => options.Mix is { } mix ? Run(new(mix.Policies, mix.Timing, Streams().LastOrDefault(), default), false) : Find(out var leanest) ?? throw DoesNotFit(Run(leanest, MayMoveEmbedding));

    /// <summary>The plan, or null if none fits the budget.</summary>
    /// <param name="leanest">The choice that takes least memory.</param>
    public StepPlan? Find(out PolicyChoice leanest)
    {
        var hasChunks = TokenChunks.Of(options.MaxTokens, options.MlpChunkTokens).Count > 1;
        // A processor's memory is the host's: there is nowhere to go.
        ActivationPolicy[] candidates = options.Policy is { } only ? [target.IsCuda ? only : SavedParts.OnDevice(only)]
            : [.. Enum.GetValues<ActivationPolicy>().Where(policy => (target.IsCuda || !SavedParts.Of(policy).UsesHost) && (hasChunks || SavedParts.Of(policy).MlpShare is 0 or 1))];
        var search = Search(false);
        PolicySearch? early = null;
        var uniform = search.Uniform(null);
        var lean = Run(Everywhere(uniform.MinBy(item => item.Prediction.PeakBytes), null), false);
        var besides = lean.Memory.PeakBytes - Math.Max(lean.Training.RequiredBytes, lean.Evaluation.RequiredBytes);
        var streams = Streams();
        leanest = Everywhere(uniform.MinBy(item => item.Prediction.PeakBytes), streams[^1]);
        if (options is { Policy: not null, MemoryBudget: 0, StreamedLayers: null or 0 }) return WithForecasts(lean);
        StepPlan? plan = null;
        foreach (var stream in streams) Try(stream);
        if (streams.Count > 1 && plan?.StreamedLayers.Count is > 0 and var best)
        {
            var half = Math.Max(1, _layers / StreamSteps / 2);
            foreach (var count in (int[])[best - half, best + half])
                if (count > StreamSchedule.Slots && count <= _layers) Try(StreamOf(count));
        }
        return plan is null ? null : WithForecasts(plan);

        void Try(StreamForecast? stream)
        {
            if (plan is not null && Array.TrueForAll(plan.Policies, policy => policy == ActivationPolicy.Keep)) return;
            var found = plan is null ? Faster(Fit(search, besides, false, stream), MayMoveEmbedding ? Fit(search, besides, true, stream) : null) : Fit(search, besides, plan.MovesEmbedding, stream);
            // Where copies are on the way, they may be the better for an earlier start.
            if (found is not null && Array.Exists(found.Policies, policy => SavedParts.Of(policy).UsesHost)) found = Faster(found, Fit(early ??= Search(true), besides, found.MovesEmbedding, stream, found));
            if (found is not null && (plan is null || found.PredictedSeconds < plan.PredictedSeconds * (1 - StreamGain))) plan = found;
        }

        PolicySearch Search(bool fetchesEarly) => new(_layers, candidates.ToDictionary(policy => policy, policy => Trace(policy, fetchesEarly)), fetchesEarly);

        static StepPlan? Faster(StepPlan? first, StepPlan? second) => first is null || second?.PredictedSeconds < first.PredictedSeconds ? second : first;

        StepPlan WithForecasts(StepPlan chosen)
        {
            chosen.Forecasts = [.. uniform.Select(item => new PolicyForecast(item.Policy, item.Prediction.Seconds, besides + item.Prediction.PeakBytes, item.Prediction.HostBytes))];
            return chosen;
        }
    }

    /// <summary>What may be streamed, fewest layers first: nothing, or numbers of layers to choose from; what is streamed already, or was asked for, alone.</summary>
    private List<StreamForecast?> Streams()
    {
        if (decoder.Stream is { } streamed) return [StreamForecast.Of(decoder, streamed.Schedule.Layers, target.Rates)];
        if (options.StreamedLayers is { } asked)
        {
            if (asked < 0 || asked > _layers) throw new LancetException($"--streamed-layers {asked}: the model has {_layers} layers.");
            if (asked > 0 && !decoder.Layers.All(layer => layer.FrozenBytes > 0)) throw new LancetException($"--streamed-layers {asked}: only layers with frozen matrices can be streamed; with --method full there are none.");
            return [asked == 0 || !target.IsCuda ? null : StreamOf(asked)];
        }
        var streams = new List<StreamForecast?> { null };
        if (!target.IsCuda || options.MemoryBudget == 0 || !decoder.Layers.All(layer => layer.FrozenBytes > 0)) return streams;
        var step = Math.Max(1, _layers / StreamSteps);
        for (var count = Math.Max(StreamSchedule.Slots + 1, 2 * step); count <= _layers; count += step)
            if (StreamOf(count) is { } stream && stream.HostBytes <= weightBytes) streams.Add(stream);
        return streams;
    }

    // A budget stands for the memory of a GPU that is not there.
    private PlanningDevice NewDevice(StepTrace? trace = null) => new(target.WithMemory(options.MemoryBudget)) { Trace = trace };

    private StreamForecast StreamOf(int count) => StreamForecast.Of(decoder, StreamSchedule.Spread(_layers, count), target.Rates);

    /// <summary>The fastest plan that fits, or null.</summary>
    /// <param name="search">Policies to choose from.</param>
    /// <param name="besides">Bytes of everything but the step's buffers, if all weights are on the device.</param>
    /// <param name="movesEmbedding">Whether the embedding is in host memory.</param>
    /// <param name="stream">Weights of layers that are, or null.</param>
    /// <param name="known">See <see cref="PolicySearch.Best"/>.</param>
    private StepPlan? Fit(PolicySearch search, long besides, bool movesEmbedding, StreamForecast? stream, StepPlan? known = null)
    {
        if (Saved(stream) > 0 && options.LoadingBytes > _budget) return null;
        besides -= Saved(stream) + (movesEmbedding ? EmbeddingBytes : 0);
        var hostBytes = MostHostBytes - (movesEmbedding ? EmbeddingBytes : 0) - (stream?.HostBytes ?? 0);
        StepPlan? Try(PolicyChoice choice, out StepPlan plan)
        {
            plan = Run(choice, movesEmbedding);
            if (movesEmbedding) plan.PredictedSeconds += EmbeddingSeconds;
            return plan.Memory.PeakBytes <= _budget && choice.Prediction.HostBytes <= hostBytes ? plan : null;
        }
        var room = _budget - besides;
        while (search.Best(room, hostBytes, stream, known) is { } choice)
        {
            if (Try(choice, out var tried) is { } found) return found;
            // The search counts what lives at the same time; placed in one piece of memory that takes a little more, for another mix perhaps less.
            room = choice.Prediction.PeakBytes - Math.Max(1, (tried.Training.RequiredBytes - choice.Prediction.PeakBytes) / 4);
        }
        return search.Uniform(stream).Where(item => besides + item.Prediction.PeakBytes <= _budget && item.Prediction.HostBytes <= hostBytes).Select(item => Try(Everywhere(item, stream), out _)).FirstOrDefault(found => found is not null);
    }

    private PolicyChoice Everywhere((ActivationPolicy Policy, StepPrediction Prediction) item, StreamForecast? stream) => new([.. Enumerable.Repeat(item.Policy, _layers)], default, stream, item.Prediction);

    // The bytes of weights that are streamed already are not among those of the device's.
    private long Saved(StreamForecast? stream) => decoder.Stream is null && stream is not null ? stream.SavedBytes : 0;

    private LancetException DoesNotFit(StepPlan plan) => new(
        $"The run needs {plan.Memory.PeakBytes / 1048576.0:N0} MiB, the budget is {_budget / 1048576.0:N0} MiB. " +
        $"Lower --max-seq-length or --batch-size ({options.MaxTokens} tokens a micro-batch now), choose --activation-policy {(target.IsCuda ? "offload-input" : "keep-input")}, --method qlora or --optimizer adamw_8bit, or raise --memory-budget{(plan.Memory.HostBytes > MostHostBytes ? $" or --host-memory-budget ({plan.Memory.HostBytes / 1048576.0:N0} MiB would be needed, {MostHostBytes / 1048576.0:N0} may be used)" : "")}.");

    private StepPlan Run(PolicyChoice choice, bool movesEmbedding)
    {
        using var device = NewDevice();
        StepMemory training = new(), evaluation = new();
        DryRun(device, training, choice.Policies, choice.Timing, null);
        var (operations, nodes) = (device.MatMulOperations, device.NodeCount);
        DryRun(device, evaluation, null, default, null);

        var trained = decoder.TrainedWeights.ToList();
        var count = ParameterArena.CountOf(trained);
        var master = (long)dtype.Accumulator().SizeInBytes();
        var state = options.HasEightBitState ? (count * 2) + (count / AdamWKernel.StateBlock * 2 * sizeof(float)) : count * 2 * master;
        var entries = new List<MemoryPlanEntry>
        {
            new("base weights", weightBytes - (movesEmbedding ? EmbeddingBytes : 0) - Saved(choice.Stream)),
            new("trained parameters", (count * master) + (ParameterArena.NeedsCopy(trained, dtype) ? count * dtype.SizeInBytes() : 0) + ScatteredCopies.TableBytes(trained.Where(weight => weight.IsInBorder).Select(weight => weight.Shape.Count))),
            new("gradients", count * master),
            new("optimiser state", state),
            new("index arrays and tables", new StepInputs(device, decoder.Config, dtype, options.MaxTokens, options.MaxSequenceLength).Bytes),
            new("matrix product workspace", device.MatMulWorkspaceBytes),
        };
        var breakdown = training.Breakdown();
        foreach (var (purpose, name) in ((MemoryPurpose, string)[])[(MemoryPurpose.SavedActivations, "saved activations"), (MemoryPurpose.Workspace, "step workspace"), (MemoryPurpose.Logits, "logits chunk")])
            entries.Add(new(name, breakdown.GetValueOrDefault(purpose)));
        if (evaluation.RequiredBytes > training.RequiredBytes) entries.Add(new("evaluation beyond training", evaluation.RequiredBytes - training.RequiredBytes));
        var beyond = options.LoadingBytes - entries.Sum(entry => entry.Bytes);
        if (Saved(choice.Stream) > 0 && beyond > 0) entries.Add(new("loading beyond training", beyond));
        entries.Sort((a, b) => b.Bytes.CompareTo(a.Bytes));
        var leftBytes = choice.Stream is { } stream && decoder.Projections.Any(projection => projection.Weight.Quantized is not null) ? stream.Schedule.Layers.Count * LeftBytesOfNf4Layer : 0;
        var hostBytes = training.HostBytes + (movesEmbedding ? EmbeddingBytes : 0) + (choice.Stream?.HostBytes ?? 0);
        var memory = new MemoryPlan(entries, PolicyForecast.Describe(choice.Policies))
        {
            HostBytes = hostBytes,
            DriverBytes = target.DriverBytes(hostBytes, nodes) + leftBytes,
            FurtherGraphBytes = target.IsCuda ? Math.Max(0, GraphCache.MostNodes - nodes) * GraphCache.NodeBytes : 0,
        };
        return new(choice, training, evaluation, memory, device) { MatMulOperations = operations, MovesEmbedding = movesEmbedding };
    }

    /// <summary>What a step asks for in which all layers keep the same.</summary>
    private StepTrace Trace(ActivationPolicy policy, bool fetchesEarly)
    {
        var trace = new StepTrace(target.Rates, options.MaxSequenceLength);
        using var device = NewDevice(trace);
        // Copies of weights are played with the mix; those of a model that streams already would be there twice.
        var stream = decoder.Stream;
        decoder.Stream = null;
        try
        {
            DryRun(device, new StepMemory { Trace = trace }, [.. Enumerable.Repeat(policy, decoder.Layers.Count)], new(0, fetchesEarly), trace);
        }
        finally
        {
            decoder.Stream = stream;
        }
        return trace;
    }

    /// <summary>Runs a training step without computing, or a forward pass if there are no policies.</summary>
    private void DryRun(PlanningDevice device, StepMemory memory, ActivationPolicy[]? policies, CopyTiming timing, StepTrace? trace)
    {
        var inputs = new StepInputs(device, decoder.Config, dtype, options.MaxTokens, options.MaxSequenceLength);
        var context = new StepContext(device, memory, dtype) { IsTraining = policies is not null, Trace = trace, MlpChunks = TokenChunks.Of(options.MaxTokens, options.MlpChunkTokens) };
        inputs.Bind(context, options.MaxTokens);
        memory.BeginPlanning();
        if (policies is not null) decoder.ForwardBackward(context, policies, inputs.Losses.Rows(0, options.MaxTokens), timing);
        else decoder.Forward(context, inputs.Losses.Rows(0, options.MaxTokens));
        // Traces are told of lives, so offsets are only needed without.
        if (trace is null) memory.EndPlanning();
    }
}

