using Lancet.Models;
using Lancet.Planning;
using Lancet.Tensors;
using Lancet.Tile;

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

    /// <summary>The layer's input and attention's output, in host memory: they leave and come back while layers compute. Least memory.</summary>
    Offload,
}

/// <summary>A decoder layer: attention and gated MLP, each added to the residual stream, one after the other or both from one norm (a parallel block).</summary>
public sealed class DecoderLayer
{
    private readonly ModelConfig _config;
    private readonly int _layer;

    /// <summary>Describes a layer.</summary>
    internal DecoderLayer(ModelConfig config, int layer, WeightList weights)
    {
        (_config, _layer) = (config, layer);
        Attention = new SelfAttention(config, layer, weights);
        Mlp = config.IsSparse(layer) ? new MixtureOfExperts(config, layer, weights) : new GatedMlp(config, layer, weights, config.IsParallel ? Attention.Input : null);
    }

    /// <summary>First half.</summary>
    public SelfAttention Attention { get; }

    /// <summary>Second half.</summary>
    public FeedForward Mlp { get; }

    /// <summary>The layer's projections, in the order of the computation.</summary>
    public IEnumerable<LoraLinear> Projections => AttentionGroups.SelectMany(group => group.Projections).Concat(Mlp.Projections);

    /// <summary>The layer's projections that all tokens go through, by input.</summary>
    public IEnumerable<ProjectionGroup> Groups => [.. AttentionGroups, .. Mlp.Groups];

    /// <summary>Matrices of the layer's adapters.</summary>
    public IEnumerable<Weight> Adapters => AttentionGroups.SelectMany(group => group.Adapters).Concat(Mlp.Adapters);

    private ProjectionGroup[] AttentionGroups => [Attention.Projections, Attention.Output.Projection];

    /// <summary>What one forward pass leaves for the backward pass.</summary>
    internal struct State
    {
        public Tensor Input, Middle, NormedGradient;
        public SelfAttention.State Attention;
        public FeedForwardState Mlp;
    }

    /// <summary>The layer's output; the input x belongs to the state afterwards, or is freed if no backward pass follows.</summary>
    internal Tensor Forward(StepContext c, Tensor x, ActivationPolicy policy, out State state)
    {
        state = default;
        state.Input = x;
        var host = c.IsTraining && policy == ActivationPolicy.Offload ? Host(c) : default;
        if (host.Exists) c.Device.CopyOut(x, host.Input, _layer);
        state.Middle = Attention.Forward(c, x, ref state.Attention);
        if (host.Exists)
        {
            c.Device.CopyOut(state.Attention.Attended, host.Output, _layer);
            c.Device.CopyOut(state.Attention.LogSumExp, host.LogSumExp, _layer);
        }
        var output = Mlp.Forward(c, _config.IsParallel ? x : state.Middle, state.Middle, out state.Mlp);
        if (_config.IsParallel)
        {
            // Nothing but the sum has read it.
            c.Free(state.Middle);
            state.Middle = default;
        }
        if (!c.IsTraining) c.Free(state.Input, state.Middle);
        else if (policy != ActivationPolicy.Keep) Drop(c, ref state, policy);
        return output;
    }

    /// <summary>Starts to bring back what <see cref="ActivationPolicy.Offload"/> sent to host memory; to be called half a layer ahead.</summary>
    internal void Fetch(StepContext c, ref State state)
    {
        var host = Host(c);
        Tensor Fetched(Tensor source)
        {
            var target = c.Allocate(MemoryPurpose.SavedActivations, source.DType, source.Shape);
            c.Device.CopyIn(source, target, _layer);
            return target;
        }
        state.Input = Fetched(host.Input);
        (state.Attention.Attended, state.Attention.LogSumExp) = (Fetched(host.Output), Fetched(host.LogSumExp));
    }

    /// <summary>Bytes of host memory that <see cref="ActivationPolicy.Offload"/> needs.</summary>
    internal long HostBytes(int tokens, DType dtype)
    {
        var host = Host(0, tokens, dtype);
        return host.Input.Bytes + host.Output.Bytes + host.LogSumExp.Bytes;
    }

    /// <summary>d ← gradient of the MLP's input from that of the layer's output, after what was not kept is made again. In a parallel block d is attention's as well and stays.</summary>
    internal void BackwardMlp(StepContext c, ref State state, ActivationPolicy policy, Tensor d, bool needsInput)
    {
        if (policy == ActivationPolicy.Offload) c.Device.AwaitCopy(_layer);
        if (policy >= ActivationPolicy.KeepInput)
        {
            if (_config.IsParallel) Attention.Recompute(c, state.Input, ref state.Attention);
            else state.Middle = Attention.Forward(c, state.Input, ref state.Attention);
        }
        var x = _config.IsParallel ? state.Input : state.Middle;
        if (policy != ActivationPolicy.Keep) Mlp.Recompute(c, x, out state.Mlp);
        state.NormedGradient = Mlp.Backward(c, x, state.Mlp, d, needsInput || !_config.IsParallel);
        c.Free(state.Middle);
    }

    /// <summary>d ← gradient of the layer's input from that of the MLP's; frees the state.</summary>
    internal void BackwardAttention(StepContext c, ref State state, Tensor d, bool needsInput)
    {
        Attention.Backward(c, state.Input, state.Attention, d, state.NormedGradient, needsInput);
        c.Free(state.Input);
    }

    private void Drop(StepContext c, ref State state, ActivationPolicy policy)
    {
        Mlp.Drop(c, ref state.Mlp);
        if (policy < ActivationPolicy.KeepInput) return;
        var isOffloaded = policy == ActivationPolicy.Offload;
        if (isOffloaded) c.Device.AwaitCopy(_layer);
        Attention.Drop(c, ref state.Attention);
        c.Free(state.Middle);
        state.Middle = default;
        if (isOffloaded) c.Free(state.Input);
    }

    private HostState Host(StepContext c) => Host(c.HostMemory[_layer].Address, c.TokenCount, c.DType);

    /// <summary>What is offloaded, one behind the other.</summary>
    private HostState Host(nint address, int tokens, DType dtype)
    {
        var input = new Tensor(address, dtype, new Shape(tokens, _config.HiddenSize));
        var output = new Tensor((nint)(address + input.Bytes), dtype, new Shape(tokens, Attention.OutputWidth));
        return new(input, output, new Tensor((nint)(output.Address + output.Bytes), dtype.Accumulator(), new Shape(_config.QueryHeads, tokens)));
    }

    /// <summary>Where an offloaded layer's state lies in host memory.</summary>
    private readonly record struct HostState(Tensor Input, Tensor Output, Tensor LogSumExp)
    {
        public bool Exists => Input.Exists;
    }
}
