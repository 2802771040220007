using Lancet.Devices;
using Lancet.Generation;
using Lancet.Kernels;
using Lancet.Planning;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Layers;

/// <summary>
/// What every layer of a forward or backward pass needs to know: the device, the step's memory, the number of packed tokens and the
/// per-token index arrays. One object lives as long as its engine and is refilled for each micro-batch.
/// </summary>
public sealed class StepContext
{
    /// <summary>Creates a context.</summary>
    public StepContext(Device device, StepMemory memory, DType dtype) => (Device, Memory, DType) = (device, memory, dtype);

    /// <summary>Where the step runs.</summary>
    public Device Device { get; }

    /// <summary>Gives out the step's buffers.</summary>
    public StepMemory Memory { get; }

    /// <summary>Storage dtype of activations.</summary>
    public DType DType { get; }

    /// <summary>Dtype of statistics, adapters, masters and gradients of weights.</summary>
    public DType Accumulator => DType.Accumulator();

    /// <summary>Packed tokens of the micro-batch, T.</summary>
    public int TokenCount { get; set; }

    /// <summary>Tokens of the micro-batch before these, where a layer takes it in chunks.</summary>
    internal int FirstToken { get; set; }

    /// <summary>Chunks in which MLPs take the batch.</summary>
    internal TokenChunks MlpChunks { get; init; } = TokenChunks.One;

    /// <summary>Whether a backward pass follows; if not, nothing is kept.</summary>
    public bool IsTraining { get; set; }

    /// <summary>Token ids: int32 [T].</summary>
    public Tensor TokenIds { get; set; }

    /// <summary>Position of each token in its sequence: int32 [T].</summary>
    public Tensor Positions { get; set; }

    /// <summary>Labels, already shifted, −100 for none: int32 [T]; of the head's rows if those are fewer.</summary>
    public Tensor Labels { get; set; }

    /// <summary>Rows of the head: tokens with a label, rounded up.</summary>
    internal int HeadRows { get; set; }

    /// <summary>Tokens of the head's rows, any token where the rows are rounded up: int32 [head rows].</summary>
    internal Tensor LabelRows { get; set; }

    /// <summary>The head's row of each token, −1 for none: int32 [T].</summary>
    internal Tensor LabelSlots { get; set; }

    /// <summary>Token indices in order of their ids, for the embedding's gradient: int32 [T].</summary>
    public Tensor TokenOrder { get; set; }

    /// <summary>See <see cref="EmbeddingKernel.Backward"/>: int32 [T].</summary>
    public Tensor SegmentEnds { get; set; }

    /// <summary>Which tokens see which, by sliding window (0 for none).</summary>
    public Dictionary<int, AttentionIntervals> Intervals { get; } = [];

    /// <summary>Tables of the rotary embeddings, as many as <see cref="Models.ModelConfig.Rotaries"/> has entries.</summary>
    public List<RotaryTensors> RotaryTables { get; } = [];

    /// <summary>Sees the input [T, in] of every projection that is computed by itself, as on the processor; null where nobody looks.</summary>
    internal Action<LoraLinear, Tensor>? InputObserver { get; init; }

    /// <summary>Takes down what a dry run asks for; null in real ones.</summary>
    internal IStepTrace? Trace { get; init; }

    /// <summary>Where generation keeps keys and values; null in training.</summary>
    public KeyValueCache? Cache { get; set; }

    /// <summary>Seed of this step's dropout masks: int64 [1].</summary>
    public Tensor DropoutSeed { get; set; }

    /// <summary>1 / label tokens of the whole step: one number in the accumulator's type.</summary>
    public Tensor LossScale { get; set; }

    /// <summary>A buffer that lives until it is freed.</summary>
    public Tensor Allocate(MemoryPurpose purpose, DType dtype, Shape shape) => Memory.Allocate(purpose, dtype, shape);

    /// <summary>A [T, columns] buffer in the activation dtype.</summary>
    public Tensor Activations(MemoryPurpose purpose, long columns) => Memory.Allocate(purpose, DType, new Shape(TokenCount, columns));

    /// <summary>A [T, columns] buffer in the activation dtype that the backward pass reads, or workspace if none follows.</summary>
    public Tensor Saved(long columns) => Activations(IsTraining ? MemoryPurpose.SavedActivations : MemoryPurpose.Workspace, columns);

    /// <summary>A [rows, columns] buffer in the activation dtype that the backward pass reads, or workspace if none follows.</summary>
    public Tensor Saved(long rows, long columns) => Memory.Allocate(IsTraining ? MemoryPurpose.SavedActivations : MemoryPurpose.Workspace, DType, new Shape(rows, columns));

    /// <summary>A vector of statistics that the backward pass reads, or workspace if none follows.</summary>
    public Tensor SavedStatistics(long count) => Memory.Allocate(IsTraining ? MemoryPurpose.SavedActivations : MemoryPurpose.Workspace, Accumulator, new Shape(count));

    /// <summary>Ends a buffer's life.</summary>
    public void Free(Tensor tensor) => Memory.Free(tensor);

    /// <summary>Ends the lives of several buffers; absent ones are skipped.</summary>
    public void Free(params ReadOnlySpan<Tensor> tensors)
    {
        foreach (var tensor in tensors) Memory.Free(tensor);
    }
}

/// <summary>A rotary embedding on the device.</summary>
/// <param name="Rows">Row of the tables for each token: int32 [T].</param>
/// <param name="Cos">Cosines: fp32 [rows, rotary dimension / 2].</param>
/// <param name="Sin">Sines, likewise.</param>
public readonly record struct RotaryTensors(Tensor Rows, Tensor Cos, Tensor Sin);
