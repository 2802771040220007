using Lancet.Data;
using Lancet.Devices;
using Lancet.Layers;
using Lancet.Models;
using Lancet.Planning;
using Lancet.Tensors;
using Lancet.Tile;
using Lancet.Training;

namespace Lancet.Generation;

/// <summary>Logits behind every token of a sequence, to compare models.</summary>
public sealed class LogitEngine : IDisposable
{
    private readonly LanguageModel _model;
    private readonly StepInputs _inputs;
    private readonly StepMemory _memory = new();
    private readonly StepContext _context;
    private readonly DeviceBuffer _activations;
    private readonly DeviceBuffer _logits;
    private readonly PackedBatch _batch;
    private readonly int _maxTokens;
    private readonly int _maxRows;

    /// <summary>Plans and allocates the memory of a forward pass.</summary>
    /// <param name="model">Model, with or without an adapter.</param>
    /// <param name="maxTokens">Longest sequence.</param>
    public LogitEngine(LanguageModel model, int maxTokens)
        : this(model, maxTokens, maxTokens, null)
    {
    }

    /// <summary>An engine for the inputs of the projections, which computes the last token's logits only.</summary>
    internal LogitEngine(LanguageModel model, int maxTokens, Action<LoraLinear, Tensor> observer)
        : this(model, maxTokens, 1, observer)
    {
    }

    private LogitEngine(LanguageModel model, int maxTokens, int maxRows, Action<LoraLinear, Tensor>? observer)
    {
        (_model, _maxTokens, _maxRows) = (model, maxTokens, maxRows);
        _inputs = new StepInputs(model.Device, model.Config, model.DType, maxTokens, maxTokens);
        _batch = new PackedBatch(maxTokens, 1);
        _logits = model.Device.Allocate((long)maxRows * model.Config.VocabularySize * model.DType.Accumulator().SizeInBytes(), "logits");
        using (var planning = new PlanningDevice(model.Device.PlanTarget))
        {
            var dry = new StepContext(planning, _memory, model.DType);
            _inputs.Bind(dry, maxTokens);
            _memory.BeginPlanning();
            model.Decoder.Logits(dry, 0, LogitsOf(maxRows));
            _memory.EndPlanning();
            model.Device.Prepare(planning.Kernels);
            model.Device.ReserveMatMulWorkspace(planning.MatMulWorkspaceBytes);
        }
        _activations = model.Device.Allocate(_memory.RequiredBytes, "activations");
        _memory.Bind(_activations.Address);
        _context = new StepContext(model.Device, _memory, model.DType) { InputObserver = observer };
    }

    /// <summary>Logits [ids, vocabulary] of a sequence, soft cap applied; of its last token alone in an engine that was made to observe.</summary>
    /// <param name="ids">At least one token, at most as many as the engine was made for.</param>
    public float[] Logits(ReadOnlySpan<int> ids)
    {
        if (ids.Length == 0 || ids.Length > _maxTokens) throw new ArgumentException($"{ids.Length} tokens; 1 to {_maxTokens} are expected.", nameof(ids));
        _batch.Clear();
        _batch.Add(ids.ToArray(), []);
        _inputs.Send(_context, _batch);
        _memory.BeginStep();
        var rows = Math.Min(ids.Length, _maxRows);
        var logits = LogitsOf(rows);
        _model.Decoder.Logits(_context, ids.Length - rows, logits);
        var result = new float[logits.Count];
        _model.Device.CopyToHostAsFloat32(logits, result);
        if (_model.Config.LogitSoftCap is var cap && cap > 0)
            for (var i = 0; i < result.Length; i++) result[i] = (float)(cap * Math.Tanh(result[i] / cap));
        return result;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _activations.Dispose();
        _logits.Dispose();
        _inputs.Dispose();
    }

    private Tensor LogitsOf(int tokens) => _logits.View(_model.DType.Accumulator(), new Shape(tokens, _model.Config.VocabularySize));
}
