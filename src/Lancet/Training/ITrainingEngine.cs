using Lancet.Data;

namespace Lancet.Training;

/// <summary>Forward passes that give losses.</summary>
public interface IEvaluationEngine : IDisposable
{
    /// <summary>Forward only: the loss of every token, 0 where the label is ignored.</summary>
    /// <param name="batch">At most as many tokens as the engine was built for.</param>
    /// <param name="tokenLosses">Receives one loss a token of the batch.</param>
    void Evaluate(PackedBatch batch, Span<float> tokenLosses);
}

/// <summary>
/// The numerical side of training: forward, backward, clipping and update for packed batches. What to feed it, when to evaluate, save and
/// report is the trainer's business.
/// </summary>
public interface ITrainingEngine : IEvaluationEngine
{
    /// <summary>Number of trained parameters.</summary>
    long TrainableParameterCount { get; }

    /// <summary>Number of all parameters, frozen ones included.</summary>
    long ParameterCount { get; }

    /// <summary>The memory plan that was made before the first step.</summary>
    MemoryPlan Plan { get; }

    /// <summary>Largest number of bytes of device memory that have been in use so far.</summary>
    long PeakMemoryBytes { get; }

    /// <summary>Starts an optimiser step: gradients and loss start from zero.</summary>
    /// <param name="step">Number of the step from 1; keys dropout and Adam's bias correction.</param>
    /// <param name="labelTokens">Label tokens over all micro-batches of the step; each gradient is divided by it.</param>
    void BeginStep(int step, long labelTokens);

    /// <summary>Forward and backward of one micro-batch, adding to the gradients.</summary>
    /// <param name="batch">At most as many tokens as the engine was built for.</param>
    void Accumulate(PackedBatch batch);

    /// <summary>Clips the gradients and updates the parameters.</summary>
    /// <param name="learningRate">Learning rate of this step.</param>
    /// <returns>Loss (sum over label tokens divided by their count) and gradient norm before clipping.</returns>
    StepResult EndStep(double learningRate);

    /// <summary>Writes parameters and optimiser state under stable names, for a checkpoint.</summary>
    /// <param name="writeTensor">Called with a name, its shape as fp32 or uint8 bytes, in a fixed order.</param>
    void SaveState(StateWriter writeTensor);

    /// <summary>Reads back what <see cref="SaveState"/> wrote; afterwards training continues with the same bits.</summary>
    /// <param name="readTensor">Fills the span with the tensor of that name, or throws a <see cref="LancetException"/>.</param>
    void LoadState(StateReader readTensor);
}

/// <summary>Receives one tensor of a training state.</summary>
/// <param name="name">Stable name.</param>
/// <param name="dtype">Element type.</param>
/// <param name="shape">Extents.</param>
/// <param name="bytes">Contents.</param>
public delegate void StateWriter(string name, Tile.DType dtype, ReadOnlySpan<long> shape, ReadOnlySpan<byte> bytes);

/// <summary>Fills in one tensor of a training state.</summary>
/// <param name="name">Stable name.</param>
/// <param name="bytes">Destination, of the tensor's exact size.</param>
public delegate void StateReader(string name, Span<byte> bytes);

/// <summary>Outcome of an optimiser step.</summary>
/// <param name="Loss">Σ loss over label tokens / their count.</param>
/// <param name="GradientNorm">Global L2 norm before clipping.</param>
public readonly record struct StepResult(double Loss, double GradientNorm);

/// <summary>Bytes by purpose, known before a run.</summary>
/// <param name="Entries">Purpose and bytes, largest use first.</param>
/// <param name="ActivationPolicy">Policy chosen for each layer, in words.</param>
public sealed record MemoryPlan(IReadOnlyList<MemoryPlanEntry> Entries, string ActivationPolicy)
{
    /// <summary>Page-locked host memory besides, in bytes.</summary>
    public long HostBytes { get; init; }

    /// <summary>What a GPU's driver and libraries take besides, about, in bytes; see <see cref="Devices.PlanTarget.DriverBytes(long, int)"/>.</summary>
    public long DriverBytes { get; init; }

    /// <summary>What recordings of micro-batches of other sizes take of a GPU besides, at most, in bytes: the first is counted in <see cref="DriverBytes"/>.</summary>
    public long FurtherGraphBytes { get; init; }

    /// <summary>Peak in bytes of what Lancet allocates.</summary>
    public long PeakBytes => Entries.Sum(entry => entry.Bytes);
}

/// <summary>A line of the memory breakdown.</summary>
/// <param name="Purpose">What the memory holds.</param>
/// <param name="Bytes">How much at the peak.</param>
public sealed record MemoryPlanEntry(string Purpose, long Bytes);
