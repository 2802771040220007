using Lancet.Data;
using Lancet.Devices;
using Lancet.Layers;
using Lancet.Models;
using Lancet.Planning;

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
        model.Decoder.Forward(context, inputs.Losses.Rows(0, context.HeadRows));
        model.Device.CopyToHostAsFloat32(inputs.Losses.Rows(0, context.HeadRows), tokenLosses[..context.HeadRows]);
        if (context.HeadRows == batch.TokenCount) return;
        // Each goes to its token, from the last on: none lies behind it.
        var next = batch.LabelTokenCount;
        for (var t = batch.TokenCount - 1; t >= 0; t--) tokenLosses[t] = batch.Labels[t] == PackedBatch.IgnoredLabel ? 0 : tokenLosses[--next];
    }
}
