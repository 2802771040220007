using System.Diagnostics;
using System.Globalization;
using Lancet.Data;
using Lancet.Models;

namespace Lancet.Training;

/// <summary>Hears of a run's progress as it happens.</summary>
public interface ITrainingObserver
{
    /// <summary>The run is about to start.</summary>
    void OnStart(SftRun run);

    /// <summary>A step is done.</summary>
    void OnStep(StepMetrics metrics);

    /// <summary>Held-out rows were evaluated.</summary>
    void OnEvaluation(EvalMetrics metrics);

    /// <summary>A checkpoint was written.</summary>
    void OnCheckpoint(int step);
}

/// <summary>What is known of a run before its first step.</summary>
/// <param name="TotalSteps">Steps.</param>
/// <param name="FirstStep">Steps that a resumed run has done already.</param>
/// <param name="Rows">Training rows.</param>
/// <param name="MaxTokens">Most tokens of a micro-batch.</param>
/// <param name="TrainableParameters">Trained parameters.</param>
/// <param name="Parameters">All parameters.</param>
/// <param name="Plan">Memory.</param>
public sealed record SftRun(int TotalSteps, int FirstStep, int Rows, int MaxTokens, long TrainableParameters, long Parameters, MemoryPlan Plan)
{
    /// <summary>What the engine's parts of starting took.</summary>
    public IReadOnlyList<SetupTime> Setup { get; init; } = [];
}

/// <summary>How a run ended.</summary>
/// <param name="Run">What was known before.</param>
/// <param name="Steps">All steps of this process.</param>
/// <param name="Evaluations">All evaluations of this process.</param>
/// <param name="IsInterrupted">Whether it was cancelled; a checkpoint holds its state.</param>
public sealed record SftResult(SftRun Run, IReadOnlyList<StepMetrics> Steps, IReadOnlyList<EvalMetrics> Evaluations, bool IsInterrupted);

/// <summary>
/// Supervised fine-tuning: feeds the engine, evaluates, saves and logs. The loss of a step is the sum over its label tokens divided by
/// their number in the whole step, whatever the micro-batches.
/// </summary>
public sealed class SftTrainer
{
    private readonly LanguageModel _model;
    private readonly SftDataset _dataset;
    private readonly SftDataset? _evaluation;
    private readonly SftOptions _options;

    /// <summary>Prepares a run.</summary>
    /// <param name="model">Model with an adapter, or loaded for full training.</param>
    /// <param name="dataset">Training rows.</param>
    /// <param name="options">Settings.</param>
    /// <param name="evaluation">Held-out rows, or null.</param>
    public SftTrainer(LanguageModel model, SftDataset dataset, SftOptions options, SftDataset? evaluation = null) =>
        (_model, _dataset, _options, _evaluation) = (model, dataset, options, evaluation);

    /// <summary>Runs on a thread of its own. Cancelling ends it after the step in progress, with a checkpoint.</summary>
    public Task<SftResult> TrainAsync(CancellationToken cancellation = default) => Task.Factory.StartNew(() => Train(null, cancellation), CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default);

    /// <summary>Runs to the end.</summary>
    /// <param name="observer">Hears of progress, or null.</param>
    /// <param name="cancellation">Ends the run after the step in progress, with a checkpoint.</param>
    /// <exception cref="LancetException">The data, the memory or the disk does not allow it; what was saved before is kept.</exception>
    public SftResult Train(ITrainingObserver? observer, CancellationToken cancellation)
    {
        var sampler = new BatchSampler(_dataset, _options.BatchSize, _options.Packing ? _options.MaxSequenceLength : 0, _options.Shuffle, _options.Seed);
        var unitsPerStep = _options.BatchSize * _options.GradientAccumulation;
        var stepsPerEpoch = (sampler.UnitCount + unitsPerStep - 1) / unitsPerStep;
        var total = _options.MaxSteps > 0 ? _options.MaxSteps : Math.Max(1, (int)Math.Ceiling(_options.Epochs * stepsPerEpoch));
        var warmup = _options.WarmupSteps > 0 ? _options.WarmupSteps : (int)Math.Ceiling(_options.WarmupRatio * total);
        var schedule = new LearningRateSchedule(_options.Scheduler, _options.LearningRate, warmup, total);
        var maxTokens = Math.Max(sampler.MaxTokens, _evaluation?.MaxLength ?? 0);
        using var engine = new TrainingEngine(_model, new EngineOptions
        {
            MaxTokens = maxTokens,
            MaxSequenceLength = Math.Max(_dataset.MaxLength, _evaluation?.MaxLength ?? 0),
            AdamW = new(0.9, 0.999, 1e-8, _options.WeightDecay),
            HasEightBitState = _options.HasEightBitState,
            MaxGradientNorm = _options.MaxGradientNorm,
            EmbeddingRateFactor = _options.EmbeddingLearningRate is { } embeddingRate && _options.LearningRate > 0 ? embeddingRate / _options.LearningRate : 1,
            Policy = _options.ActivationPolicy,
            MemoryBudget = _options.MemoryBudget,
            HostMemoryBudget = _options.HostMemoryBudget,
            StreamedLayers = _options.StreamedLayers,
            Seed = _options.Seed,
        });
        var store = new CheckpointStore(_options.Output);
        var signature = Signature(total, warmup);
        CheckOutput(_options);
        var (done, tokens) = (0, 0L);
        if (_options.Resume) (done, tokens) = CheckpointStore.Load(store.Newest()!, signature, engine);
        else store.Clear();

        Directory.CreateDirectory(_options.Output);
        using var log = new TrainingLog(Path.Combine(_options.Output, "metrics.jsonl"), done);
        var run = new SftRun(total, done, _dataset.Rows.Count, maxTokens, engine.TrainableParameterCount, engine.ParameterCount, engine.Plan) { Setup = engine.SetupTimes };
        observer?.OnStart(run);
        PackedBatch[] batches = [.. Enumerable.Range(0, _options.GradientAccumulation).Select(_ => new PackedBatch(maxTokens, sampler.MaxSequences))];
        var (steps, evaluations) = (new List<StepMetrics>(), new List<EvalMetrics>());
        var clock = Stopwatch.StartNew();
        var saved = _options.Resume ? done : -1;
        if (done == 0 && !cancellation.IsCancellationRequested) Evaluate(0);
        if (done < total) Fill(done + 1);
        for (var step = done + 1; step <= total && !cancellation.IsCancellationRequested; step++)
        {
            var start = clock.Elapsed;
            var rate = schedule.Rate(step - 1);
            var stepTokens = batches.Sum(batch => (long)batch.TokenCount);
            engine.BeginStep(step, batches.Sum(batch => (long)batch.LabelTokenCount));
            foreach (var batch in batches) engine.Accumulate(batch);
            // The engine has copied the batches: a GPU computes while the next step's are made.
            if (step < total) Fill(step + 1);
            var result = engine.EndStep(rate);
            if (!double.IsFinite(result.Loss) || !double.IsFinite(result.GradientNorm))
                throw new LancetException($"Step {step}: the loss is {result.Loss}, the gradient norm {result.GradientNorm}. Lower --learning-rate, or look at the rows of this step. {(saved > 0 ? $"The checkpoint of step {saved} is kept." : "No checkpoint was made yet.")}");
            tokens += stepTokens;
            var metrics = new StepMetrics(
                step, (double)step * unitsPerStep / sampler.UnitCount, result.Loss, result.GradientNorm, rate, tokens, stepTokens / (clock.Elapsed - start).TotalSeconds,
                engine.PeakMemoryBytes, log.ElapsedBefore + clock.Elapsed.TotalSeconds);
            log.Write(metrics);
            steps.Add(metrics);
            observer?.OnStep(metrics);
            if (_options.EvalSteps > 0 && step % _options.EvalSteps == 0 && step < total) Evaluate(step);
            if (_options.SaveSteps > 0 && step % _options.SaveSteps == 0) Save(step);
            done = step;
        }
        var isInterrupted = done < total;
        if (isInterrupted)
        {
            if (done > saved) Save(done);
        }
        else if (log.LastEvaluatedStep < total)
        {
            Evaluate(done);
        }
        ModelWriter.SaveTrained(_options.Output, _model);
        return new(run, steps, evaluations, isInterrupted);

        void Fill(int step)
        {
            for (var i = 0; i < batches.Length; i++) sampler.Fill(((step - 1L) * batches.Length) + i, batches[i]);
        }

        void Save(int step)
        {
            store.Save(step, tokens, signature, _model, engine, _options.SaveTotalLimit);
            saved = step;
            observer?.OnCheckpoint(step);
        }

        void Evaluate(int step)
        {
            if (_evaluation is null) return;
            var metrics = new EvalMetrics(step, Evaluator.Evaluate(engine, _evaluation, maxTokens).Loss);
            log.Write(metrics);
            evaluations.Add(metrics);
            observer?.OnEvaluation(metrics);
        }
    }

    /// <summary>Checks that the output folder holds a checkpoint to resume from, or none that a new run would drop.</summary>
    /// <exception cref="LancetException">It does not; the message says what to do.</exception>
    public static void CheckOutput(SftOptions options)
    {
        var newest = new CheckpointStore(options.Output).Newest();
        if (options.Resume && newest is null) throw new LancetException($"{options.Output}: no checkpoint to resume from.");
        if (!options.Resume && newest is not null && !options.OverwritesOutput)
            throw new LancetException($"{newest} is of a former run. Continue that run with --resume, choose another --output, or drop its checkpoints with --overwrite-output.");
    }

    /// <summary>What two runs must share so that one can continue the other bit by bit.</summary>
    private string Signature(int total, int warmup) => string.Create(CultureInfo.InvariantCulture,
        $"steps={total} rows={_dataset.Rows.Count} batch={_options.BatchSize}x{_options.GradientAccumulation} packing={_options.Packing} length={_options.MaxSequenceLength} rate={_options.LearningRate} embedding_rate={_options.EmbeddingLearningRate} " +
        $"scheduler={_options.Scheduler} warmup={warmup} decay={_options.WeightDecay} clip={_options.MaxGradientNorm} eight_bit={_options.HasEightBitState} seed={_options.Seed} shuffle={_options.Shuffle} dtype={_model.DType} " +
        $"nf4={_model.Decoder.Weights.Any(weight => weight.Quantized is not null)} trained={_model.Trained!.ParameterCount} alpha={_model.Adapter?.Alpha} dropout={_model.Adapter?.Dropout} data={_dataset.Fingerprint():x16}") +
        (_model.RopeScaling is { } scaling ? $" rope_scaling={scaling}" : "") +
        string.Concat(_dataset.Mixture.Select(part => string.Create(CultureInfo.InvariantCulture, $" mix={part.Rows}x{part.Weight}")));
}
