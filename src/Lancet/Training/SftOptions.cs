using Lancet.Layers;

namespace Lancet.Training;

/// <summary>A supervised fine-tuning run. Names are Hugging Face's where it has them.</summary>
public sealed record SftOptions
{
    /// <summary>Folder for everything that the run writes.</summary>
    public string Output { get; init; } = "lancet-output";

    /// <summary>Rows of a micro-batch; bins of <see cref="MaxSequenceLength"/> tokens with packing.</summary>
    public int BatchSize { get; init; } = 2;

    /// <summary>Micro-batches of a step.</summary>
    public int GradientAccumulation { get; init; } = 4;

    /// <summary>Whether rows are packed into bins of <see cref="MaxSequenceLength"/> tokens.</summary>
    public bool Packing { get; init; }

    /// <summary>Most tokens of a row.</summary>
    public int MaxSequenceLength { get; init; } = 2048;

    /// <summary>Passes over the data, if <see cref="MaxSteps"/> is 0.</summary>
    public double Epochs { get; init; } = 1;

    /// <summary>Steps of the run; 0 to count epochs.</summary>
    public int MaxSteps { get; init; }

    /// <summary>Peak learning rate.</summary>
    public double LearningRate { get; init; } = 2e-4;

    /// <summary>Peak learning rate of embedding and head where an adapter trains them, see <see cref="Adapters.LoraOptions.ModulesToSave"/>; null for <see cref="LearningRate"/>.</summary>
    public double? EmbeddingLearningRate { get; init; }

    /// <summary>Schedule; one of <see cref="LearningRateSchedule.Kinds"/>.</summary>
    public string Scheduler { get; init; } = "linear";

    /// <summary>Warm-up steps.</summary>
    public int WarmupSteps { get; init; }

    /// <summary>Warm-up as a share of the run, if <see cref="WarmupSteps"/> is 0.</summary>
    public double WarmupRatio { get; init; }

    /// <summary>Decoupled weight decay.</summary>
    public double WeightDecay { get; init; } = 0.01;

    /// <summary>Largest gradient norm; 0 for no clipping.</summary>
    public double MaxGradientNorm { get; init; } = 1;

    /// <summary>Whether the optimiser's state is 8-bit.</summary>
    public bool HasEightBitState { get; init; }

    /// <summary>Seed of order, dropout and adapters.</summary>
    public long Seed { get; init; } = 3407;

    /// <summary>Whether rows are shuffled anew for each epoch.</summary>
    public bool Shuffle { get; init; } = true;

    /// <summary>Steps between checkpoints; 0 for none unless the run is interrupted.</summary>
    public int SaveSteps { get; init; }

    /// <summary>Checkpoints kept; 0 for all.</summary>
    public int SaveTotalLimit { get; init; }

    /// <summary>Steps between evaluations; 0 to evaluate at the end only.</summary>
    public int EvalSteps { get; init; }

    /// <summary>Whether the newest checkpoint in <see cref="Output"/> is continued.</summary>
    public bool Resume { get; init; }

    /// <summary>Whether a new run may remove the checkpoints of a former one in <see cref="Output"/>.</summary>
    public bool OverwritesOutput { get; init; }

    /// <summary>Bytes that the run may use; 0 for no limit.</summary>
    public long MemoryBudget { get; init; }

    /// <summary>See <see cref="EngineOptions.StreamedLayers"/>.</summary>
    public int? StreamedLayers { get; init; }

    /// <summary>See <see cref="EngineOptions.HostMemoryBudget"/>.</summary>
    public long HostMemoryBudget { get; init; }

    /// <summary>What layers keep; null for the planner's choice.</summary>
    public ActivationPolicy? ActivationPolicy { get; init; }
}
