using Lancet.Models;
using Lancet.Tensors;

namespace Lancet.Layers;

/// <summary>What a layer keeps from its forward to its backward pass. All give the same bits.</summary>
public enum ActivationPolicy
{
    /// <summary>Everything the backward pass reads: fastest.</summary>
    Keep,

    /// <summary>All but the MLP's intermediate results, which are made again from x₂.</summary>
    RecomputeMlp,

    /// <summary>The layer's input only; the rest is made again.</summary>
    KeepInput,

    /// <summary>The layer's input only, in host memory: it leaves and comes back while neighbouring layers compute. Least memory.</summary>
    OffloadInput,
}

/// <summary>A pre-norm decoder layer: attention and gated MLP, each added to the residual stream.</summary>
public sealed class DecoderLayer
{
    /// <summary>Describes a layer.</summary>
    internal DecoderLayer(ModelConfig config, int layer, WeightList weights)
    {
        Attention = new SelfAttention(config, layer, weights);
        Mlp = new GatedMlp(config, layer, weights);
    }

    /// <summary>First half.</summary>
    public SelfAttention Attention { get; }

    /// <summary>Second half.</summary>
    public GatedMlp Mlp { get; }

    /// <summary>The layer's projections, in the order of the computation.</summary>
    public IEnumerable<LoraLinear> Projections => [Attention.Query, Attention.Key, Attention.Value, Attention.Output, Mlp.Gate, Mlp.Up, Mlp.Down];

    /// <summary>The layer's projections by input.</summary>
    public IEnumerable<ProjectionGroup> Groups => [Attention.Projections, Attention.OutputProjection, Mlp.GateUpProjections, Mlp.DownProjection];

    /// <summary>What one forward pass leaves for the backward pass.</summary>
    internal struct State
    {
        public Tensor Input, Middle;
        public SelfAttention.State Attention;
        public GatedMlp.State Mlp;
    }

    /// <summary>The layer's output; the input x belongs to the state afterwards, or is freed if no backward pass follows.</summary>
    internal Tensor Forward(StepContext c, Tensor x, ActivationPolicy policy, out State state)
    {
        state = default;
        state.Input = x;
        state.Middle = Attention.Forward(c, x, out state.Attention);
        var output = Mlp.Forward(c, state.Middle, out state.Mlp);
        if (!c.IsTraining) c.Free(state.Input, state.Middle);
        else if (policy != ActivationPolicy.Keep) Drop(c, ref state, policy);
        return output;
    }

    /// <summary>d ← gradient of the layer's input from that of its output; frees the state.</summary>
    internal void Backward(StepContext c, ref State state, ActivationPolicy policy, Tensor d, bool needsInput)
    {
        if (policy >= ActivationPolicy.KeepInput) state.Middle = Attention.Forward(c, state.Input, out state.Attention);
        if (policy != ActivationPolicy.Keep) Mlp.Recompute(c, state.Middle, out state.Mlp);
        Mlp.Backward(c, state.Middle, state.Mlp, d);
        c.Free(state.Middle);
        Attention.Backward(c, state.Input, state.Attention, d, needsInput);
        c.Free(state.Input);
    }

    private void Drop(StepContext c, ref State state, ActivationPolicy policy)
    {
        Mlp.Drop(c, ref state.Mlp);
        if (policy < ActivationPolicy.KeepInput) return;
        Attention.Drop(c, ref state.Attention);
        c.Free(state.Middle);
        state.Middle = default;
    }
}
