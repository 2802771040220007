using System.Diagnostics;
using System.Runtime.InteropServices;
using Lancet.Data;
using Lancet.Devices;
using Lancet.Kernels;
using Lancet.Layers;
using Lancet.Models;
using Lancet.Planning;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Training;

/// <summary>
/// Trains what a model has marked as trained. All memory is laid out before the first step; a step allocates nothing. Gradients and losses
/// of a step's micro-batches are added up in order, so a step of b rows and b micro-batches of one row agree to rounding.
/// </summary>
public sealed class TrainingEngine : ITrainingEngine
{
    private const int StateChunk = 1 << 26;
    private const int MaxGraphs = 32;
    private const int LossOffset = 256;
    private const int ResultBytes = LossOffset + sizeof(double);

    private readonly LanguageModel _model;
    private readonly EngineOptions _options;
    private readonly Device _device;
    private readonly ParameterArena _arena;
    private readonly StepPlan _plan;
    private readonly StepInputs _inputs;
    private readonly StepContext _training;
    private readonly StepContext _evaluation;
    private readonly AdamWKernel _adamW;
    private readonly GraphCache _graphs;
    private readonly GraphCache _updateGraph;
    private readonly Action _forwardBackward;
    private readonly Action _update;
    private readonly List<DeviceBuffer> _buffers = [];
    private readonly List<(string Name, Tensor Tensor)> _state = [];
    private readonly List<SetupTime> _setupTimes = [];
    private readonly Tensor _stepFactors;
    private readonly Tensor _embeddingFactors;
    private readonly long _embeddingElements;
    private readonly Tensor _norm;
    private readonly Tensor _clip;
    private readonly Tensor _normPartial;
    private readonly Tensor _lossTotal;
    private readonly Tensor _results;
    private int _step;
    private int _microBatch;
    private long _labelTokens;
    private double _gradientScale = 1;

    /// <summary>Plans the run, allocates its memory and starts the optimiser from zero.</summary>
    /// <param name="model">Model with an adapter, or loaded for full training.</param>
    /// <param name="options">Batch, optimiser, policy and budget.</param>
    /// <exception cref="LancetException">The memory does not suffice.</exception>
    public TrainingEngine(LanguageModel model, EngineOptions options)
    {
        (_model, _options, _device) = (model, options, model.Device);
        var clock = Stopwatch.StartNew();
        void Note(string name)
        {
            _setupTimes.Add(new(name, clock.Elapsed.TotalSeconds));
            clock.Restart();
        }
        _arena = model.Trained ?? throw new InvalidOperationException("Nothing is trained; call AddLora or load the model for full training.");
        options = _options = options.WithBudget(_device) with { LoadingBytes = _device.PeakAllocatedBytes };
        var target = _device.PlanTarget.With(_device.MeasureRates());
        Note("rates");
        _plan = StepPlan.Create(model.Decoder, model.DType, model.FrozenBytes, options, target);
        Note("plan");
        _device.Prepare(_plan.Kernels);
        Note("kernels");
        if (_plan.MovesEmbedding) model.MoveEmbeddingToHost();
        if (_plan.StreamedLayers.Count > 0 && model.Decoder.Stream is null) model.StreamLayers(_plan.StreamedLayers);
        _device.ReserveMatMulWorkspace(_plan.MatMulWorkspaceBytes);
        _arena.AllocateGradients(_device);
        _inputs = new StepInputs(_device, model.Config, model.DType, options.MaxTokens, options.MaxSequenceLength, model.Decoder.Embedding.IsTrained);
        var memory = Allocate(Math.Max(_plan.Training.RequiredBytes, _plan.Evaluation.RequiredBytes), "activations of a step");
        _plan.Training.Bind(memory.Address);
        _plan.Evaluation.Bind(memory.Address);
        _training = new StepContext(_device, _plan.Training, model.DType) { IsTraining = true, MlpChunks = TokenChunks.Of(options.MaxTokens, options.MlpChunkTokens) };
        if (_plan.Training.HostBytes > 0)
        {
            var host = _device.AllocateHost(_plan.Training.HostBytes, "activations of layers");
            _buffers.Add(host);
            _plan.Training.BindHost(host.Address);
        }
        _evaluation = new StepContext(_device, _plan.Evaluation, model.DType) { MlpChunks = TokenChunks.Of(options.MaxTokens, options.MlpChunkTokens) };
        _adamW = new AdamWKernel(options.AdamW);
        (_graphs, _updateGraph) = (new GraphCache(_device, MaxGraphs), new GraphCache(_device, 1));
        (_forwardBackward, _update) = (ForwardBackward, Update);

        var (master, count) = (_arena.Parameters.DType, _arena.Count);
        var small = Allocate(8 * 256 + (GradientNormKernel.MaxShares * sizeof(double)), "step scalars");
        _stepFactors = small.View(master, new Shape(AdamWKernel.StepFactorCount));
        _embeddingFactors = small.View(master, new Shape(AdamWKernel.StepFactorCount), 128);
        _embeddingElements = options.EmbeddingRateFactor == 1 || model.Adapter is null ? 0 : _arena.LeadingElements(weight => weight.Role is WeightRole.Embedding or WeightRole.Head);
        _clip = small.View(master, new Shape(1), 256);
        _norm = small.View(master, new Shape(1), 512);
        _lossTotal = small.View(DType.Float64, new Shape(1), 768);
        _results = small.View(DType.UInt8, new Shape(ResultBytes), 512);
        _normPartial = small.View(master, new Shape(GradientNormKernel.MaxShares), 1024);
        AddState("parameters", _arena.Parameters);
        if (options.HasEightBitState)
        {
            var scales = count / AdamWKernel.StateBlock;
            AddState("first_moments", Allocate(count, "optimiser state").View(DType.UInt8, new Shape(count)));
            AddState("second_moments", Allocate(count, "optimiser state").View(DType.UInt8, new Shape(count)));
            AddState("first_scales", Allocate(scales * sizeof(float), "optimiser state").View(DType.Float32, new Shape(scales)));
            AddState("second_scales", Allocate(scales * sizeof(float), "optimiser state").View(DType.Float32, new Shape(scales)));
        }
        else
        {
            AddState("first_moments", Allocate(count * master.SizeInBytes(), "optimiser state").View(master, new Shape(count)));
            AddState("second_moments", Allocate(count * master.SizeInBytes(), "optimiser state").View(master, new Shape(count)));
        }
        Note("memory");
    }

    /// <inheritdoc/>
    public long TrainableParameterCount => _arena.ParameterCount;

    /// <inheritdoc/>
    public long ParameterCount => _model.Decoder.Weights.Concat(_arena.Weights).Distinct().Sum(weight => weight.Shape.Count);

    /// <summary>What the parts of starting took: measuring rates, planning, compiling kernels, allocating memory.</summary>
    public IReadOnlyList<SetupTime> SetupTimes => _setupTimes;

    /// <inheritdoc/>
    public MemoryPlan Plan => _plan.Memory;

    /// <summary>Floating-point operations of the matrix products of one full micro-batch.</summary>
    public double MatMulOperations => _plan.MatMulOperations;

    /// <summary>Predicted seconds of the forward and backward pass of one full micro-batch, see <see cref="PlanTarget.Rates"/>.</summary>
    public double PredictedSeconds => _plan.PredictedSeconds;

    /// <inheritdoc/>
    public long PeakMemoryBytes => _device.PeakAllocatedBytes + _model.MappedBytes;

    /// <inheritdoc/>
    public void BeginStep(int step, long labelTokens)
    {
        if (labelTokens < 1) throw new LancetException($"Step {step} has no trained token: every label of its rows is -100.");
        (_step, _microBatch, _labelTokens) = (step, 0, labelTokens);
        _device.Clear(_arena.Gradients);
        _device.Clear(_lossTotal);
        // Gradients divided by thousands of label tokens fall below fp16's smallest numbers, so that dtype carries them times a power of
        // two and EndStep takes it out again, exactly.
        _gradientScale = _model.DType == DType.Float16 ? System.Numerics.BitOperations.RoundUpToPowerOf2((ulong)labelTokens) : 1;
        SendScalar(_inputs.LossScale, _gradientScale / labelTokens);
    }

    /// <inheritdoc/>
    public void Accumulate(PackedBatch batch)
    {
        Span<long> seed = [DropoutSeed(_step, _microBatch++)];
        _device.CopyFromHost(MemoryMarshal.AsBytes(seed), _inputs.DropoutSeed);
        _inputs.Send(_training, batch);
        _plan.Training.BeginStep();
        // Everything that changes between micro-batches of as many tokens and rows of the head is in device memory by now, so one recording serves them all.
        _graphs.Run(((long)_training.HeadRows << 32) | (uint)batch.TokenCount, _forwardBackward);
    }

    /// <inheritdoc/>
    public StepResult EndStep(double learningRate)
    {
        if (_gradientScale != 1) ElementwiseKernel.Scale(_device, _arena.Gradients, (float)(1 / _gradientScale));
        Span<double> factors = stackalloc double[AdamWKernel.StepFactorCount];
        _adamW.StepFactors(learningRate, _step, factors);
        SendScalar(_stepFactors, factors);
        if (_embeddingElements > 0)
        {
            _adamW.StepFactors(learningRate * _options.EmbeddingRateFactor, _step, factors);
            SendScalar(_embeddingFactors, factors);
        }
        _updateGraph.Run(0, _update);
        return ReadResult();
    }

    /// <inheritdoc/>
    public void Evaluate(PackedBatch batch, Span<float> tokenLosses)
    {
        _inputs.Send(_evaluation, batch);
        _plan.Evaluation.BeginStep();
        EvaluationEngine.ReadLosses(_model, _evaluation, _inputs, batch, tokenLosses);
    }

    private void ForwardBackward()
    {
        var losses = _inputs.Losses.Rows(0, _training.HeadRows);
        _model.Decoder.ForwardBackward(_training, _plan.Policies, losses, _plan.Timing);
        ElementwiseKernel.AddSum(_device, losses, _lossTotal);
    }

    private void Update()
    {
        GradientNormKernel.Compute(_device, _arena.Gradients, _options.MaxGradientNorm, _normPartial, _norm, _clip);
        // Embedding and head lead the arena, see DecoderModel.TrainedWeights.
        if (_embeddingElements > 0) Update(0, _embeddingElements, _embeddingFactors);
        Update(_embeddingElements, _arena.Count - _embeddingElements, _stepFactors);
        _arena.RefreshCopy(_device);
    }

    /// <summary>Updates some of the arena, in whole blocks of the 8-bit state.</summary>
    private void Update(long start, long count, Tensor factors)
    {
        Tensor Part(Tensor all, int each = 1) => all.Rows(start / each, count / each);
        var (parameters, gradients, first, second) = (Part(_arena.Parameters), Part(_arena.Gradients), Part(_state[1].Tensor), Part(_state[2].Tensor));
        var boundary = _arena.DecayBoundary - start;
        if (_options.HasEightBitState) _adamW.UpdateEightBit(_device, parameters, gradients, first, second, Part(_state[3].Tensor, AdamWKernel.StateBlock), Part(_state[4].Tensor, AdamWKernel.StateBlock), factors, _clip, boundary);
        else _adamW.Update(_device, parameters, gradients, first, second, factors, _clip, boundary);
    }

    /// <inheritdoc/>
    public void SaveState(StateWriter writeTensor)
    {
        foreach (var (name, part) in StateParts())
        {
            var bytes = new byte[part.Bytes];
            _device.CopyToHost(part, bytes);
            writeTensor(name, part.DType, [part.Count], bytes);
        }
    }

    /// <inheritdoc/>
    public void LoadState(StateReader readTensor)
    {
        foreach (var (name, part) in StateParts())
        {
            var bytes = new byte[part.Bytes];
            readTensor(name, bytes);
            _device.CopyFromHost(bytes, part);
        }
        _arena.RefreshCopy(_device);
        _device.Synchronize();
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _graphs.Dispose();
        _updateGraph.Dispose();
        foreach (var buffer in _buffers) buffer.Dispose();
        _inputs.Dispose();
    }

    private IEnumerable<(string Name, Tensor Part)> StateParts()
    {
        foreach (var (name, tensor) in _state)
            for (long start = 0; start < tensor.Count; start += StateChunk)
                yield return ($"{name}.{start / StateChunk}", tensor.Rows(start, Math.Min(StateChunk, tensor.Count - start)));
    }

    private void AddState(string name, Tensor tensor) => _state.Add((name, tensor));

    private DeviceBuffer Allocate(long bytes, string purpose)
    {
        var buffer = _device.Allocate(bytes, purpose);
        _buffers.Add(buffer);
        return buffer;
    }

    private long DropoutSeed(int step, int microBatch)
    {
        unchecked
        {
            return (_options.Seed * 6364136223846793005L) + ((long)step << 20) + microBatch;
        }
    }

    private void SendScalar(Tensor target, params ReadOnlySpan<double> values)
    {
        if (target.DType == DType.Float64)
        {
            _device.CopyFromHost(MemoryMarshal.AsBytes(values), target);
            return;
        }
        Span<float> narrow = stackalloc float[values.Length];
        for (var i = 0; i < values.Length; i++) narrow[i] = (float)values[i];
        _device.CopyFromHost(MemoryMarshal.AsBytes(narrow), target);
    }

    /// <summary>Loss and norm in one copy, the only time in a step that the host waits for the device.</summary>
    private StepResult ReadResult()
    {
        Span<byte> bytes = stackalloc byte[ResultBytes];
        _device.CopyToHost(_results, bytes);
        var norm = _norm.DType == DType.Float64 ? MemoryMarshal.Read<double>(bytes) : MemoryMarshal.Read<float>(bytes);
        return new StepResult(MemoryMarshal.Read<double>(bytes[LossOffset..]) / _labelTokens, norm);
    }
}
