using System.Runtime.InteropServices;
using Lancet.Data;
using Lancet.Devices;
using Lancet.Layers;
using Lancet.Models;
using Lancet.Planning;
using Lancet.Tile;

namespace Lancet.Training;

/// <summary>Forward passes of a model that is not being trained.</summary>
public sealed class EvaluationEngine : IEvaluationEngine
{
    private readonly LanguageModel _model;
    private readonly StepInputs _inputs;
    private readonly StepMemory _memory = new();
    private readonly StepContext _context;
    private readonly DeviceBuffer _buffer;

    /// <summary>Plans and allocates the memory of a forward pass.</summary>
    /// <param name="model">Model, with or without an adapter.</param>
    /// <param name="maxTokens">Most tokens of a batch.</param>
    /// <param name="maxSequenceLength">Longest sequence.</param>
    public EvaluationEngine(LanguageModel model, int maxTokens, int maxSequenceLength)
    {
        _model = model;
        _inputs = new StepInputs(model.Device, model.Config, model.DType, maxTokens, maxSequenceLength);
        using (var planning = new PlanningDevice(model.Device.PlanTarget))
        {
            var dry = new StepContext(planning, _memory, model.DType) { MlpChunks = TokenChunks.Of(maxTokens, TokenChunks.DefaultTokens) };
            _inputs.Bind(dry, maxTokens);
            _memory.BeginPlanning();
            model.Decoder.Forward(dry, _inputs.Losses);
            _memory.EndPlanning();
            model.Device.Prepare(planning.Kernels);
            model.Device.ReserveMatMulWorkspace(planning.MatMulWorkspaceBytes);
        }
        _buffer = model.Device.Allocate(_memory.RequiredBytes, "activations");
        _memory.Bind(_buffer.Address);
        _context = new StepContext(model.Device, _memory, model.DType) { MlpChunks = TokenChunks.Of(maxTokens, TokenChunks.DefaultTokens) };
    }

    /// <inheritdoc/>
    public void Evaluate(PackedBatch batch, Span<float> tokenLosses)
    {
        _inputs.Send(_context, batch);
        _memory.BeginStep();
        ReadLosses(_model, _context, _inputs, batch, tokenLosses);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _buffer.Dispose();
        _inputs.Dispose();
    }

    /// <summary>Runs the forward pass of a batch that was sent, and copies the losses to the host as fp32: 0 where a token has no label.</summary>
    internal static void ReadLosses(LanguageModel model, StepContext context, StepInputs inputs, PackedBatch batch, Span<float> tokenLosses)
    {
        var losses = inputs.Losses.Rows(0, context.HeadRows);
        model.Decoder.Forward(context, losses);
        var read = new float[context.HeadRows];
        if (losses.DType == DType.Float32)
        {
            model.Device.CopyToHost(losses, MemoryMarshal.AsBytes(read.AsSpan()));
        }
        else
        {
            var wide = new double[read.Length];
            model.Device.CopyToHost(losses, MemoryMarshal.AsBytes(wide.AsSpan()));
            for (var i = 0; i < wide.Length; i++) read[i] = (float)wide[i];
        }
        var isChosen = context.HeadRows < batch.TokenCount;
        var next = 0;
        for (var t = 0; t < batch.TokenCount; t++) tokenLosses[t] = !isChosen ? read[t] : batch.Labels[t] == PackedBatch.IgnoredLabel ? 0 : read[next++];
    }
}
