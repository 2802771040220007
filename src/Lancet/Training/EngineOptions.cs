using Lancet.Devices;
using Lancet.Kernels;
using Lancet.Layers;

namespace Lancet.Training;

/// <summary>Numerical side of a training run.</summary>
public sealed record EngineOptions
{
    // Without a budget this share of a GPU's free memory is one; the rest is for what the driver keeps for graphs and kernels.
    private const double ShareOfFreeMemory = 0.94;

    /// <summary>Most tokens of a micro-batch.</summary>
    public required int MaxTokens { get; init; }

    /// <summary>Longest sequence, which bounds the rotary table.</summary>
    public required int MaxSequenceLength { get; init; }

    /// <summary>Constants of AdamW.</summary>
    public AdamWConstants AdamW { get; init; } = new(0.9, 0.999, 1e-8, 0);

    /// <summary>Whether the optimiser's state is 8-bit.</summary>
    public bool HasEightBitState { get; init; }

    /// <summary>Factor of the learning rate of embedding and head beside an adapter.</summary>
    public double EmbeddingRateFactor { get; init; } = 1;

    /// <summary>Largest gradient norm; 0 for no clipping.</summary>
    public double MaxGradientNorm { get; init; } = 1;

    /// <summary>What layers keep; null lets the planner choose the fastest that fits <see cref="MemoryBudget"/>.</summary>
    public ActivationPolicy? Policy { get; init; }

    /// <summary>Policies layer by layer, and when their copies are made, instead of <see cref="Policy"/>; null for none.</summary>
    internal (ActivationPolicy[] Policies, CopyTiming Timing)? Mix { get; init; }

    /// <summary>
    /// Layers of a GPU's model whose frozen matrices wait in host memory and are copied to the device for each pass; null lets the planner choose, which takes some where that makes a
    /// step within <see cref="MemoryBudget"/> faster. All numbers give the same bits.
    /// </summary>
    public int? StreamedLayers { get; init; }

    /// <summary>Most bytes that the model has taken of the device until now, which streaming its layers does not make less; 0 where it can be loaded so.</summary>
    internal long LoadingBytes { get; init; }

    /// <summary>Tokens that MLPs take at a time.</summary>
    internal int MlpChunkTokens { get; init; } = TokenChunks.DefaultTokens;

    /// <summary>Bytes that the run may allocate, what a GPU's driver takes (<see cref="MemoryPlan.DriverBytes"/>, <see cref="MemoryPlan.FurtherGraphBytes"/>) not counted; 0 for no limit.</summary>
    public long MemoryBudget { get; init; }

    /// <summary>Bytes of page-locked host memory that may be used; 0 for half of the machine's, or for what a chosen <see cref="Policy"/> takes.</summary>
    public long HostMemoryBudget { get; init; }

    /// <summary>Seed of dropout.</summary>
    public long Seed { get; init; } = 3407;

    /// <summary>The same with most of the memory that is free on a GPU for the budget, where none was given.</summary>
    internal EngineOptions WithBudget(Device device) => !device.PlanTarget.IsCuda || MemoryBudget > 0
        ? this
        : this with { MemoryBudget = device.AllocatedBytes + (long)(device.AvailableBytes * ShareOfFreeMemory) };
}
