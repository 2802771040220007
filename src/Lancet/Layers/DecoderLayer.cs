using Lancet.Models;
using Lancet.Planning;
using Lancet.Tensors;

namespace Lancet.Layers;

/// <summary>A decoder layer: attention and gated MLP, each added to the residual stream, one after the other or both from one norm (a parallel block).</summary>
public sealed class DecoderLayer
{
    /// <summary>Numbers of copies that a layer uses.</summary>
    internal const int CopyChannels = 3;

    private readonly ModelConfig _config;
    private readonly int _layer;
    private readonly Action<StepContext> _fetchAttention;
    private SavedParts _parts;
    private State _state;

    // What is kept as the forward pass wrote it: what goes to host memory is still here until the copies are awaited.
    private State _here;
    private Tensor _normedGradient;
    private bool _hasFetchedAttention;

    /// <summary>Describes a layer.</summary>
    internal DecoderLayer(ModelConfig config, int layer, WeightList weights)
    {
        (_config, _layer, _fetchAttention) = (config, layer, FetchAttention);
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

    /// <summary>Bytes of <see cref="FrozenBlocks"/>, one behind the other.</summary>
    internal long FrozenBytes => FrozenBlocks().Sum(block => block.AlignedBytes);

    /// <summary>Memory of the layer's frozen matrices; bordered groups first, one behind the other as they lie in their buffer.</summary>
    internal IEnumerable<WeightBlock> FrozenBlocks() => Groups.OrderByDescending(group => group.HoldsWeights).SelectMany(group => group.FrozenBlocks()).Concat(Mlp.ExpertBlocks());

    private ProjectionGroup[] AttentionGroups => [Attention.Projections, Attention.Output.Projection];

    /// <summary>What one forward pass leaves for the backward pass.</summary>
    private struct State
    {
        public Tensor Input, Middle;
        public SelfAttention.State Attention;
    }

    /// <summary>First half of the forward pass; the input x belongs to the layer afterwards, or is freed if no backward pass follows.</summary>
    internal void ForwardAttention(StepContext c, Tensor x, ActivationPolicy policy)
    {
        c.Trace?.Begin(StepPhase.ForwardAttention, _layer);
        _parts = c.IsTraining ? SavedParts.Of(policy, _layer == _config.LayerCount - 1) : default;
        State state = new() { Input = x }, host = state;
        var send = new SendMap(c, CopyChannel);
        if (_parts.Input == Place.Host) send.Apply(ref host.Input);
        state.Middle = Attention.Forward(c, x, ref state.Attention);
        if (_parts.Middle == Place.Host) state.Attention.Output.DropProduct(c);
        (host.Attention, host.Middle) = (state.Attention, _config.IsParallel ? default : state.Middle);
        MapAttention(send, ref host, Place.Host);
        (_here, _state) = (state, host);
    }

    /// <summary>Second half: the layer's output.</summary>
    internal Tensor ForwardMlp(StepContext c)
    {
        c.Trace?.Begin(StepPhase.ForwardMlp, _layer);
        var output = Mlp.Forward(c, _config.IsParallel ? _here.Input : _here.Middle, _here.Middle, _parts.MlpShare, _parts.Mlp == Place.Host ? CopyChannel : -1);
        if (_config.IsParallel)
        {
            // Nothing but the sum has read it.
            c.Free(_here.Middle);
            _here.Middle = default;
        }
        if (c.IsTraining) MapAttention(new FreeMap(c), ref _state, Place.Nowhere);
        else c.Free(_here.Input, _here.Middle);
        return output;
    }

    /// <summary>Waits for what is on its way to host memory and frees it here; called once for each forward pass, before <see cref="Fetch"/>, some time later.</summary>
    internal void Release(StepContext c)
    {
        c.Trace?.Begin(StepPhase.Release, _layer);
        if (!_parts.UsesHost) return;
        c.Device.AwaitCopy(CopyChannel);
        var free = new FreeMap(c);
        if (_parts.Input == Place.Host) free.Apply(ref _here.Input);
        if (_parts.Mlp == Place.Host) Mlp.Release(c);
        MapAttention(free, ref _here, Place.Host);
    }

    /// <summary>Starts to bring back from host memory what <see cref="BackwardMlp"/> needs at once; called half a layer ahead.</summary>
    /// <param name="c">The step.</param>
    /// <param name="isEarly">Whether to bring back what attention needs as well.</param>
    internal void Fetch(StepContext c, bool isEarly)
    {
        c.Trace?.Begin(StepPhase.Fetch, _layer);
        var fetch = new FetchMap(c, CopyChannel);
        if (_parts.Input == Place.Host && MlpReadsInput) fetch.Apply(ref _state.Input);
        if (_parts.Attended == Place.Host && MakesMiddle) _state.Attention.MapAttended(fetch);
        if (_parts.Middle == Place.Host) MapMiddle(fetch, ref _state);
        if (_parts.Mlp == Place.Host) Mlp.Fetch(c, CopyChannel);
        _hasFetchedAttention = false;
        if (isEarly) FetchAttention(c);
    }

    /// <summary>d ← gradient of the MLP's input from that of the layer's output, after what was not kept is made again. In a parallel block d is attention's as well and stays.</summary>
    internal void BackwardMlp(StepContext c, Tensor d, bool needsInput)
    {
        c.Trace?.Begin(StepPhase.BackwardMlp, _layer);
        if (_parts.UsesHost) c.Device.AwaitCopy(CopyChannel);
        if (MakesMiddle)
        {
            var makesQkv = _parts.Qkv == Place.Nowhere;
            if (_config.IsParallel) Attention.Recompute(c, _state.Input, ref _state.Attention, makesQkv);
            else _state.Middle = Attention.Forward(c, _state.Input, ref _state.Attention, makesQkv);
        }
        var x = _config.IsParallel ? _state.Input : _state.Middle;
        _normedGradient = Mlp.Backward(c, x, d, needsInput || !_config.IsParallel, _fetchAttention);
        c.Free(_state.Middle);
    }

    /// <summary>d ← gradient of the layer's input from that of the MLP's; frees what was kept.</summary>
    internal void BackwardAttention(StepContext c, Tensor d, bool needsInput)
    {
        c.Trace?.Begin(StepPhase.BackwardAttention, _layer);
        if (_parts.Qkv == Place.Host) c.Device.AwaitCopy(AttentionChannel);
        Attention.Backward(c, _state.Input, _state.Attention, d, _normedGradient, needsInput, _parts.Input == Place.Host && !MlpReadsInput ? InputChannel : -1);
        c.Free(_state.Input);
    }

    // Numbers of copies that may be under way at the same time: out, or back for the MLP; back for attention; x, which attention reads last.
    private int CopyChannel => CopyChannels * _layer;

    private int AttentionChannel => CopyChannel + 1;

    private int InputChannel => CopyChannel + 2;

    private bool MakesMiddle => _parts.Middle == Place.Nowhere;

    private bool MlpReadsInput => _config.IsParallel || MakesMiddle;

    /// <summary>The rest of <see cref="Fetch"/>: what attention's backward pass reads. Unless it came early it starts when the MLP's largest buffers are gone.</summary>
    private void FetchAttention(StepContext c)
    {
        if (_hasFetchedAttention) return;
        _hasFetchedAttention = true;
        var fetch = new FetchMap(c, AttentionChannel);
        if (_parts.Attended == Place.Host && !MakesMiddle) _state.Attention.MapAttended(fetch);
        if (_parts.Qkv == Place.Host) _state.Attention.MapQkv(fetch);
        if (_parts.Input == Place.Host && !MlpReadsInput) new FetchMap(c, InputChannel).Apply(ref _state.Input);
    }

    /// <summary>Applies a map to the parts in front of the MLP that have a place.</summary>
    private void MapAttention<T>(T map, ref State state, Place place)
        where T : struct, ITensorMap
    {
        if (_parts.Qkv == place) state.Attention.MapQkv(map);
        if (_parts.Attended == place) state.Attention.MapAttended(map);
        if (_parts.Middle == place) MapMiddle(map, ref state);
    }

    private static void MapMiddle<T>(T map, ref State state)
        where T : struct, ITensorMap
    {
        map.Apply(ref state.Middle);
        state.Attention.Output.Map(map);
    }
}
