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
/// overwritten  dh ← h, [e | g] ← [de | dg]; the stream's gradient d is added to
/// </code>
/// </summary>
public sealed class GatedMlp : FeedForward
{
    private readonly ModelConfig _config;
    private readonly GatedActivationKernel _activation;
    private readonly bool _isParallel;

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
            : [weights.Linear(prefix + "mlp.gate_proj", width, hidden, config.HasMlpBias), weights.Linear(prefix + "mlp.up_proj", width, hidden, config.HasMlpBias)]);
        var down = new ProjectionGroup(false, weights.Linear(prefix + "mlp.down_proj", hidden, width, config.HasMlpBias));
        Down = new(down, config.HasPostNorms ? weights.Norm(prefix + "post_feedforward_layernorm", config) : null, config.ResidualScale);
        _activation = new GatedActivationKernel(config.Activation, width);
    }

    /// <summary>Norm of the input.</summary>
    public InputNorm Input { get; }

    /// <summary>Gate and up: side by side, or one projection with both outputs.</summary>
    public ProjectionGroup GateUpProjections { get; }

    /// <summary>The down projection, with what adds its output to the stream.</summary>
    public ResidualProjection Down { get; }

    /// <summary>What the backward pass reads.</summary>
    internal struct State
    {
        public Tensor Statistics, GateUp;
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

    /// <inheritdoc/>
    public override IEnumerable<ProjectionGroup> Groups => [GateUpProjections, DownProjection];

    internal override int Room => DownProjection.Room;

    private ProjectionGroup DownProjection => Down.Projection;

    internal override Tensor Forward(StepContext c, Tensor x, Tensor stream, out FeedForwardState all)
    {
        all = default;
        ref var state = ref all.Dense;
        Intermediate(c, x, ref state);
        var h = Activate(c, state);
        if (!c.IsTraining) c.Free(state.GateUp);
        var result = Down.Forward(c, h, stream, out state.Down);
        c.Free(h);
        if (!c.IsTraining) c.Free(state.Statistics);
        return result;
    }

    internal override void Drop(StepContext c, ref FeedForwardState all)
    {
        ref var state = ref all.Dense;
        c.Free(state.Statistics, state.GateUp);
        state.GateUpU.Free(c);
        // The down projection's u, a few columns, stays: for it alone h would have to be made again.
        if (Down.Norm is not null) state.Down.Free(c);
        state = new() { Down = Down.Norm is null ? state.Down : default };
    }

    internal override void Recompute(StepContext c, Tensor x, ref FeedForwardState all)
    {
        ref var state = ref all.Dense;
        Intermediate(c, x, ref state);
        if (Down.Norm is null) return;
        // The norm's backward pass reads the down projection's output.
        var h = Activate(c, state);
        Down.Recompute(c, h, out state.Down);
        c.Free(h);
    }

    internal override Tensor Backward(StepContext c, Tensor x, in FeedForwardState all, Tensor d, bool needsInput, Action<StepContext> whenDownIsDone)
    {
        ref readonly var state = ref all.Dense;
        var dh = c.Activations(MemoryPurpose.Workspace, _config.IntermediateSize);
        var gradients = Down.BackwardInput(c, d, state.Down, dh);
        _activation.Backward(c.Device, c.TokenCount, state.GateUp, dh);
        Down.BackwardWeights(c, dh, d, state.Down, gradients);
        c.Free(dh);
        whenDownIsDone(c);

        var dNormed = needsInput ? c.Activations(MemoryPurpose.Workspace, _config.HiddenSize) : default;
        var v = GateUpProjections.BackwardInput(c, state.GateUp, dNormed);
        var normed = Input.Recompute(c, x, state.Statistics);
        GateUpProjections.BackwardWeights(c, normed, state.GateUp, state.GateUpU, v);
        InputNorm.Release(c, x, normed);
        c.Free(state.GateUp);
        if (_isParallel)
        {
            c.Free(state.Statistics);
            return dNormed;
        }
        if (needsInput) Input.Backward(c, dNormed, x, state.Statistics, d);
        c.Free(dNormed, state.Statistics);
        return default;
    }

    private void Intermediate(StepContext c, Tensor x, ref State state)
    {
        var normed = Input.Forward(c, x, GateUpProjections.Room, out state.Statistics);
        state.GateUp = c.Saved((2L * _config.IntermediateSize) + GateUpProjections.Room);
        GateUpProjections.Forward(c, normed, state.GateUp, default, out state.GateUpU);
        c.Free(normed);
    }

    private Tensor Activate(StepContext c, in State state)
    {
        var h = c.Activations(MemoryPurpose.Workspace, _config.IntermediateSize + DownProjection.Room);
        _activation.Forward(c.Device, c.TokenCount, state.GateUp, h);
        return h;
    }
}
