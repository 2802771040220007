using Lancet.Kernels;
using Lancet.Models;
using Lancet.Planning;
using Lancet.Tensors;

namespace Lancet.Layers;

/// <summary>
/// The MLP half of a decoder layer, x₃ = x₂ + post(Wd · (f(Wg·n) ⊙ (Wu·n))) with n = norm(x₂).
/// <code>
/// kept         x₂'s rstd, gate and up side by side [e | g], LoRA inputs u; Wd's output before its norm (Gemma 2)
/// made again   n, from x₂ and rstd; h = f(e)·g, from e and g
/// overwritten  dh ← h, [e | g] ← [de | dg]; the stream's gradient d is added to
/// </code>
/// </summary>
public sealed class GatedMlp
{
    private readonly ModelConfig _config;
    private readonly GatedActivationKernel _activation;

    /// <summary>Describes the MLP of one layer.</summary>
    internal GatedMlp(ModelConfig config, int layer, WeightList weights)
    {
        _config = config;
        var prefix = $"model.layers.{layer}.";
        Norm = weights.Norm(prefix + (config.HasPostNorms ? "pre_feedforward_layernorm" : "post_attention_layernorm"), config.HiddenSize, config);
        Gate = weights.Linear(prefix + "mlp.gate_proj", config.IntermediateSize, config.HiddenSize, config.HasMlpBias);
        Up = weights.Linear(prefix + "mlp.up_proj", config.IntermediateSize, config.HiddenSize, config.HasMlpBias);
        Down = weights.Linear(prefix + "mlp.down_proj", config.HiddenSize, config.IntermediateSize, config.HasMlpBias);
        (GateUpProjections, DownProjection) = (new(false, Gate, Up), new(false, Down));
        if (config.HasPostNorms) PostNorm = weights.Norm(prefix + "post_feedforward_layernorm", config.HiddenSize, config);
        _activation = new GatedActivationKernel(config.Activation, config.IntermediateSize);
    }

    /// <summary>Norm of the input.</summary>
    public RmsNorm Norm { get; }

    /// <summary>Gate projection.</summary>
    public LoraLinear Gate { get; }

    /// <summary>Up projection.</summary>
    public LoraLinear Up { get; }

    /// <summary>Down projection.</summary>
    public LoraLinear Down { get; }

    /// <summary>Gate and up together.</summary>
    public ProjectionGroup GateUpProjections { get; }

    /// <summary>The down projection as a group.</summary>
    public ProjectionGroup DownProjection { get; }

    /// <summary>Norm of the output, or null.</summary>
    public RmsNorm? PostNorm { get; }

    /// <summary>What the backward pass reads.</summary>
    internal struct State
    {
        public Tensor Rstd, GateUp, BeforePostNorm, PostRstd;
        public AdapterInputs GateUpU, DownU;
    }

    /// <summary>x₃ [T, hidden] as a new saved buffer.</summary>
    internal Tensor Forward(StepContext c, Tensor x, out State state)
    {
        var result = c.Saved(_config.HiddenSize);
        Intermediate(c, x, out state);
        var h = c.Activations(MemoryPurpose.Workspace, _config.IntermediateSize + DownProjection.Room);
        _activation.Forward(c.Device, c.TokenCount, state.GateUp, h);
        if (!c.IsTraining) c.Free(state.GateUp);
        if (PostNorm is null)
        {
            DownProjection.Forward(c, h, result, x, out state.DownU);
        }
        else
        {
            c.Device.Copy(x, result);
            state.BeforePostNorm = c.Saved(_config.HiddenSize);
            DownProjection.Forward(c, h, state.BeforePostNorm, default, out state.DownU);
            var post = c.Activations(MemoryPurpose.Workspace, _config.HiddenSize);
            state.PostRstd = PostNorm.Forward(c, state.BeforePostNorm, post);
            ElementwiseKernel.AddTo(c.Device, post, result);
            c.Free(post);
            if (!c.IsTraining) c.Free(state.BeforePostNorm, state.PostRstd);
        }
        c.Free(h);
        if (!c.IsTraining) c.Free(state.Rstd);
        return result;
    }

    /// <summary>Ends the lives of what <see cref="Recompute"/> can make again.</summary>
    internal void Drop(StepContext c, ref State state)
    {
        c.Free(state.Rstd, state.GateUp, state.BeforePostNorm, state.PostRstd);
        state.GateUpU.Free(c);
        state.DownU.Free(c);
        state = default;
    }

    /// <summary>The forward pass's state once more, with the same bits.</summary>
    internal void Recompute(StepContext c, Tensor x, out State state)
    {
        Intermediate(c, x, out state);
        if (PostNorm is null && Down.A is null) return;
        // The down projection's adapter needs u = h·Aᵀ, and a norm after it needs its output.
        var h = c.Activations(MemoryPurpose.Workspace, _config.IntermediateSize + DownProjection.Room);
        _activation.Forward(c.Device, c.TokenCount, state.GateUp, h);
        if (PostNorm is null)
        {
            DownProjection.RecomputeAdapterInputs(c, h, out state.DownU);
        }
        else
        {
            state.BeforePostNorm = c.Saved(_config.HiddenSize);
            DownProjection.Forward(c, h, state.BeforePostNorm, default, out state.DownU);
            var post = c.Activations(MemoryPurpose.Workspace, _config.HiddenSize);
            state.PostRstd = PostNorm.Forward(c, state.BeforePostNorm, post);
            c.Free(post);
        }
        c.Free(h);
    }

    /// <summary>d += gradient of x₂, adding to the gradients of what is trained; frees the state. Rows of d have the down projection's room behind them.</summary>
    internal void Backward(StepContext c, Tensor x, in State state, Tensor d)
    {
        var dDown = d;
        if (PostNorm is not null)
        {
            dDown = c.Activations(MemoryPurpose.Workspace, _config.HiddenSize + DownProjection.Room);
            PostNorm.Backward(c, d, state.BeforePostNorm, state.PostRstd, dDown, false);
            c.Free(state.BeforePostNorm, state.PostRstd);
        }
        var dh = c.Activations(MemoryPurpose.Workspace, _config.IntermediateSize);
        var v = DownProjection.BackwardInput(c, dDown, dh);
        _activation.Backward(c.Device, c.TokenCount, state.GateUp, dh);
        DownProjection.BackwardWeights(c, dh, dDown, state.DownU, v);
        c.Free(dh);
        if (PostNorm is not null) c.Free(dDown);

        var dNormed = c.Activations(MemoryPurpose.Workspace, _config.HiddenSize);
        v = GateUpProjections.BackwardInput(c, state.GateUp, dNormed);
        var normed = Norm.Recompute(c, x, state.Rstd);
        GateUpProjections.BackwardWeights(c, normed, state.GateUp, state.GateUpU, v);
        c.Free(normed, state.GateUp);
        Norm.Backward(c, dNormed, x, state.Rstd, d, true);
        c.Free(dNormed, state.Rstd);
    }

    private void Intermediate(StepContext c, Tensor x, out State state)
    {
        state = default;
        var normed = c.Activations(MemoryPurpose.Workspace, _config.HiddenSize + GateUpProjections.Room);
        state.Rstd = Norm.Forward(c, x, normed);
        state.GateUp = c.Saved((2L * _config.IntermediateSize) + GateUpProjections.Room);
        GateUpProjections.Forward(c, normed, state.GateUp, default, out state.GateUpU);
        c.Free(normed);
    }
}
