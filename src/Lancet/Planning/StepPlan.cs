using Lancet.Devices;
using Lancet.Layers;
using Lancet.Models;
using Lancet.Tile;
using Lancet.Tile.Cpu;
using Lancet.Training;

namespace Lancet.Planning;

/// <summary>
/// The memory of a training run, found by running a step of the described model on a device that computes nothing. Neither weights nor a
/// GPU are needed.
/// </summary>
public sealed class StepPlan
{
    // Of the memory; with more there is none for loading them and for a step.
    private const double MostShareOfWeights = 0.85;

    internal StepPlan(PolicyChoice choice, StepMemory training, StepMemory evaluation, MemoryPlan memory, PlanningDevice device) =>
        (Policies, Timing, StreamedLayers, PredictedSeconds, Training, Evaluation, Memory, MatMulWorkspaceBytes, Kernels) =
        (choice.Policies, choice.Timing, choice.Stream?.Schedule.Layers ?? [], choice.Prediction.Seconds, training, evaluation, memory, device.MatMulWorkspaceBytes, device.Kernels);

    /// <summary>What each layer keeps.</summary>
    public ActivationPolicy[] Policies { get; }

    /// <summary>When activations are copied.</summary>
    public CopyTiming Timing { get; }

    /// <summary>Whether the token embedding moves to host memory, where a GPU reads the rows that it needs.</summary>
    public bool MovesEmbedding { get; internal init; }

    /// <summary>Layers whose frozen matrices wait in host memory, ascending.</summary>
    public IReadOnlyList<int> StreamedLayers { get; }

    /// <summary>Predicted seconds of the forward and backward pass of one micro-batch, see <see cref="PlanTarget.Rates"/>.</summary>
    public double PredictedSeconds { get; internal set; }

    /// <summary>What the choice was made from: policies in all layers, fastest first.</summary>
    public IReadOnlyList<PolicyForecast> Forecasts { get; internal set; } = [];

    /// <summary>Buffers of a training step.</summary>
    public StepMemory Training { get; }

    /// <summary>Buffers of a forward pass.</summary>
    public StepMemory Evaluation { get; }

    /// <summary>Bytes by purpose.</summary>
    public MemoryPlan Memory { get; }

    /// <summary>Floating-point operations of the matrix products of one micro-batch.</summary>
    public double MatMulOperations { get; internal init; }

    /// <summary>Workspace that the most demanding matrix product needs.</summary>
    public long MatMulWorkspaceBytes { get; }

    /// <summary>Kernels of a training step and of a forward pass at the full number of tokens.</summary>
    public IReadOnlyCollection<KernelVariant> Kernels { get; }

    /// <summary>
    /// Layers for <see cref="LoadOptions.StreamedLayers"/>: as many as a plan needs where a GPU has no room for all weights, else 0; what somebody asked for in
    /// <see cref="EngineOptions.StreamedLayers"/> in any case. The engine of a model that is loaded without finds by itself whether streaming is faster.
    /// </summary>
    /// <param name="decoder">Model, with trained weights marked and adapters described.</param>
    /// <param name="dtype">Dtype of activations.</param>
    /// <param name="weightBytes">Bytes of the frozen weights.</param>
    /// <param name="options">Batch, optimiser, policy and budget; without a budget most of the free memory is it.</param>
    /// <param name="device">Where the model will be loaded.</param>
    /// <exception cref="LancetException">No policy fits the budget, even with all layers streamed.</exception>
    public static int LayersToStream(DecoderModel decoder, DType dtype, long weightBytes, EngineOptions options, Device device)
    {
        if (!device.PlanTarget.IsCuda || weightBytes == 0) return 0;
        if (options.StreamedLayers is { } asked) return asked;
        options = options.WithBudget(device);
        return weightBytes < options.MemoryBudget * MostShareOfWeights ? 0 : Create(decoder, dtype, weightBytes, options, device.PlanTarget.With(device.MeasureRates())).StreamedLayers.Count;
    }

    /// <summary>Plans a run.</summary>
    /// <param name="decoder">Model, with trained weights marked and adapters described.</param>
    /// <param name="dtype">Dtype of activations.</param>
    /// <param name="weightBytes">Bytes of the frozen weights.</param>
    /// <param name="options">Batch, optimiser, policy and budget.</param>
    /// <param name="target">Device that the run is for; it need not be there. The processor by default.</param>
    /// <exception cref="LancetException">No policy fits the budget; the message says what would.</exception>
    public static StepPlan Create(DecoderModel decoder, DType dtype, long weightBytes, EngineOptions options, PlanTarget? target = null) =>
        new StepPlanner(decoder, dtype, weightBytes, options, target ?? PlanTarget.Cpu(WorkerPool.Shared.ThreadCount)).Plan();
}
