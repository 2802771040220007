using Lancet.Kernels;
using Lancet.Models;
using Lancet.Planning;
using Lancet.Tensors;

namespace Lancet.Layers;

/// <summary>
/// The MLP half of a decoder layer, x₃ = x₂ + s·post(Wd · (f(Wg·n) ⊙ (Wu·n))) with n = norm(x₂), or the norm of the layer's input in a parallel block.
/// <code>
/// kept         the norm's statistics, gate and up side by side [e | g], LoRA inputs u; what <see cref="ResidualProjection"/> keeps
/// made again   n, from x₂ and statistics; h = f(e)·g, from e and g
/// overwritten  dh ← h, [e | g] ← [de | dg] unless magnitudes' gradients read what is kept; the stream's gradient d is added to
/// </code>
/// Long batches go through it in chunks of tokens (<see cref="StepContext.MlpChunks"/>), forward and backward and whatever is kept, so that the buffers of 2·intermediate columns need not hold them whole.
/// </summary>
public sealed class GatedMlp : FeedForward
{
    private readonly ModelConfig _config;
    private readonly GatedActivationKernel _activation;
    private readonly LoraActivationKernel _adaptedActivation;
    private readonly bool _isParallel;
    private State[] _states = new State[1];
    private State[] _leaving = new State[1];

    // Chunks whose state is kept: the first ones, which have the most time to leave for host memory.
    private int _kept;

    /// <summary>Describes the MLP of one layer.</summary>
    /// <param name="config">Model.</param>
    /// <param name="layer">Index of the layer.</param>
    /// <param name="weights">Receives the layer's weights.</param>
    /// <param name="shared">Norm that is attention's as well, in a parallel block; null elsewhere.</param>
    internal GatedMlp(ModelConfig config, int layer, WeightList weights, InputNorm? shared)
    {
        _config = config;
        _isParallel = shared is not null;
        var prefix = config.LayerPrefix(layer);
        Input = shared ?? weights.InputNorm(prefix + (config.HasPostNorms ? "pre_feedforward_layernorm" : "post_attention_layernorm"), config);
        (int hidden, int width) = (config.HiddenSize, config.IntermediateSize);
        GateUpProjections = new(false, config.HasFusedProjections
            ? [weights.Linear(prefix + "mlp.gate_up_proj", 2 * width, hidden, config.HasMlpBias)]
            : [weights.Linear(prefix + "mlp.gate_proj", width, hidden, config.HasMlpBias), weights.Linear(prefix + "mlp.up_proj", width, hidden, config.HasMlpBias)])
        { IsScaledByReader = true };
        var down = new ProjectionGroup(false, weights.Linear(prefix + "mlp.down_proj", hidden, width, config.HasMlpBias)) { KeepsProduct = true, IsInputLate = true };
        Down = new(down, config.HasPostNorms ? weights.Norm(prefix + "post_feedforward_layernorm", config) : null, config.ResidualScale);
        (_activation, _adaptedActivation) = (new(config.Activation, width), new(config.Activation, width));
    }

    /// <summary>Norm of the input.</summary>
    public InputNorm Input { get; }

    /// <summary>Gate and up: side by side, or one projection with both outputs.</summary>
    public ProjectionGroup GateUpProjections { get; }

    /// <summary>The down projection, with what adds its output to the stream.</summary>
    public ResidualProjection Down { get; }

    /// <inheritdoc/>
    public override IEnumerable<ProjectionGroup> Groups => [GateUpProjections, DownProjection];

    internal override int Room => DownProjection.Room;

    private ProjectionGroup DownProjection => Down.Projection;

    /// <summary>Whether the activation makes u and the gradient of A of the down projection in its own passes.</summary>
    private bool IsAdapted => DownProjection.AlikeAdapters is { Count: 1 } adapter && !GateUpProjections.LeavesProduct && _adaptedActivation.Suits(adapter.Rank, adapter.A.DType);

    internal override Tensor Forward(StepContext c, Tensor x, Tensor stream, double share, int channel)
    {
        var tokens = Cut(c);
        _kept = (int)(share * _states.Length);
        var result = c.Saved(_config.HiddenSize);
        Hold(c);
        for (var chunk = 0; chunk < _states.Length; chunk++)
        {
            var (start, count) = Rows(c, chunk, tokens);
            ref var state = ref _states[chunk];
            state = default;
            c.Free(Intermediate(c, x.Rows(start, count), ref state));
            var h = Activate(c, state);
            if (!c.IsTraining) c.Free(state.GateUp, GateUpProjections.FactorsOf(state.GateUpU));
            Down.Forward(c, h, stream.Rows(start, count), result.Rows(start, count), out state.Down, IsAdapted);
            c.Free(h);
            if (!c.IsTraining) c.Free(state.Statistics);
            else if (chunk >= _kept) Drop(c, ref state);
            else if (channel >= 0)
            {
                state.Down.DropProduct(c);
                _leaving[chunk] = state;
                state.Map(new SendMap(c, channel));
            }
        }
        LetGo(c);
        (c.FirstToken, c.TokenCount) = (0, tokens);
        return result;
    }

    internal override void Release(StepContext c)
    {
        foreach (ref var state in _leaving.AsSpan(0, _kept)) state.Map(new FreeMap(c));
    }

    internal override void Fetch(StepContext c, int channel)
    {
        foreach (ref var state in _states.AsSpan(0, _kept)) state.Map(new FetchMap(c, channel));
    }

    internal override Tensor Backward(StepContext c, Tensor x, Tensor d, bool needsInput, Action<StepContext> whenDownIsDone)
    {
        var tokens = Cut(c);
        Tensor dNormed = default;
        Hold(c);
        for (var chunk = 0; chunk < _states.Length; chunk++)
        {
            var (start, count) = Rows(c, chunk, tokens);
            var (rows, gradient) = (x.Rows(start, count), d.Rows(start, count));
            ref var state = ref _states[chunk];
            if (chunk >= _kept) Recompute(c, rows, ref state);
            var dGateUp = BackwardDown(c, state, gradient);
            // What comes from host memory needs time to come, and until then its memory serves the chunks.
            if (chunk == (_states.Length - 1) / 2) whenDownIsDone(c);
            dNormed = BackwardGateUp(c, rows, state, dGateUp, gradient, needsInput);
        }
        LetGo(c);
        (c.FirstToken, c.TokenCount) = (0, tokens);
        return dNormed;
    }

    /// <summary>Ends the lives of what <see cref="Recompute"/> can make again. The down projection's u, a few columns, stays: for it alone h would have to be made again.</summary>
    private void Drop(StepContext c, ref State state)
    {
        c.Free(state.Statistics, state.GateUp);
        state.GateUpU.Free(c);
        if (Down.Norm is null) state.Down.DropProduct(c);
        else state.Down.Free(c);
        state = new() { Down = Down.Norm is null ? state.Down : default };
    }

    private void Recompute(StepContext c, Tensor x, ref State state)
    {
        state.Normed = Intermediate(c, x, ref state);
        if (Down.Norm is null) return;
        // The norm's backward pass reads the down projection's output.
        var h = Activate(c, state);
        Down.Recompute(c, h, out state.Down, IsAdapted);
        c.Free(h);
    }

    /// <summary>Gradient of gate and up.</summary>
    private Tensor BackwardDown(StepContext c, in State state, Tensor d)
    {
        var dh = c.Activations(MemoryPurpose.Workspace, _config.IntermediateSize + DownProjection.BackwardRoom);
        var gradients = Down.BackwardInput(c, default, d, state.Down, dh);
        var (gradient, h) = (state.GateUp, dh);
        if (IsAdapted)
        {
            var rank = DownProjection.AlikeAdapters!.Value.Rank;
            var partial = c.Allocate(MemoryPurpose.Workspace, c.Accumulator, _adaptedActivation.BackwardPartialShape(c.TokenCount, rank));
            _adaptedActivation.Backward(c.Device, c.TokenCount, gradient, dh, ColumnSlice.Of(gradients.Dy, DownProjection.OutFeatures), rank, partial, DownProjection.GradientsOfA(c));
            c.Free(partial);
            h = default;
        }
        else
        {
            var factors = GateUpProjections.FactorsOf(state.GateUpU);
            if (factors.Exists) gradient = c.Activations(MemoryPurpose.Workspace, state.GateUp.Shape.RowCount);
            _activation.Backward(c.Device, c.TokenCount, state.GateUp, dh, factors, gradient);
        }
        Down.BackwardWeights(c, h, d, state.Down, gradients);
        c.Free(dh);
        return gradient;
    }

    private Tensor BackwardGateUp(StepContext c, Tensor x, in State state, Tensor gradient, Tensor d, bool needsInput)
    {
        var dNormed = needsInput ? c.Activations(MemoryPurpose.Workspace, _config.HiddenSize) : default;
        var normed = state.Normed;
        if (GateUpProjections.DropsEarly && !normed.Exists) normed = Input.Recompute(c, x, state.Statistics);
        var v = GateUpProjections.BackwardInput(c, normed, gradient, state.GateUpU, dNormed, state.GateUp);
        var isAdded = Input.AddAdapterGradients(c, x, state.Statistics, GateUpProjections, gradient);
        if (!isAdded && !normed.Exists) normed = Input.Recompute(c, x, state.Statistics);
        GateUpProjections.BackwardWeights(c, isAdded ? default : normed, gradient, state.GateUpU, v);
        InputNorm.Release(c, x, normed);
        c.Free(gradient);
        if (GateUpProjections.LeavesProduct) c.Free(state.GateUp);
        if (_isParallel)
        {
            c.Free(state.Statistics);
            return dNormed;
        }
        if (needsInput) Input.Backward(c, dNormed, x, state.Statistics, d);
        c.Free(dNormed, state.Statistics);
        return default;
    }

    /// <summary>Gate and up; returns n.</summary>
    private Tensor Intermediate(StepContext c, Tensor x, ref State state)
    {
        var normed = Input.Forward(c, x, GateUpProjections.Room, out state.Statistics);
        state.GateUp = c.Saved((2L * _config.IntermediateSize) + GateUpProjections.Room);
        GateUpProjections.Forward(c, normed, state.GateUp, default, out state.GateUpU);
        return normed;
    }

    /// <summary>h, with the down projection's u behind it if the activation <see cref="IsAdapted"/>.</summary>
    private Tensor Activate(StepContext c, in State state)
    {
        var h = c.Activations(MemoryPurpose.Workspace, _config.IntermediateSize + DownProjection.Room);
        if (IsAdapted)
        {
            var (a, _, rank) = DownProjection.AlikeAdapters!.Value;
            var partial = c.Allocate(MemoryPurpose.Workspace, c.Accumulator, _adaptedActivation.ForwardPartialShape(c.TokenCount, rank));
            _adaptedActivation.Forward(c.Device, c.TokenCount, state.GateUp, h, a, rank, partial);
            _adaptedActivation.AddUp(c.Device, c.TokenCount, rank, partial, ColumnSlice.Of(h, _config.IntermediateSize));
            c.Free(partial);
            return h;
        }
        _activation.Forward(c.Device, c.TokenCount, state.GateUp, h, GateUpProjections.FactorsOf(state.GateUpU));
        return h;
    }

    private void Hold(StepContext c)
    {
        if (_states.Length == 1) return;
        GateUpProjections.Hold(c);
        DownProjection.Hold(c);
    }

    private void LetGo(StepContext c)
    {
        GateUpProjections.LetGo(c);
        DownProjection.LetGo(c);
    }

    /// <summary>Prepares for a batch's chunks. A parallel block's gradient is handed over in one piece.</summary>
    /// <returns>Tokens of the batch.</returns>
    private int Cut(StepContext c)
    {
        var count = _isParallel ? 1 : c.MlpChunks.Count;
        if (_states.Length != count) (_states, _leaving) = (new State[count], new State[count]);
        return c.TokenCount;
    }

    /// <summary>A chunk's tokens, none if the batch is shorter; the step's tokens are these until the caller sets them back.</summary>
    private (int Start, int Count) Rows(StepContext c, int chunk, int tokens)
    {
        var (start, count) = _states.Length == 1 ? (0, tokens) : c.MlpChunks.Rows(chunk, tokens);
        (c.FirstToken, c.TokenCount) = (start, count);
        return (start, count);
    }

    /// <summary>What the backward pass of a chunk reads; n only where gate and up were just made again from it.</summary>
    private struct State
    {
        public Tensor Statistics, GateUp, Normed;
        public AdapterInputs GateUpU;
        public ResidualProjection.State Down;

        /// <summary>Applies a map to all.</summary>
        public void Map<T>(T map)
            where T : struct, ITensorMap
        {
            map.Apply(ref Statistics);
            map.Apply(ref GateUp);
            map.Apply(ref GateUpU);
            Down.Map(map);
        }
    }
}
