using Lancet.Kernels;
using Lancet.Models;
using Lancet.Planning;
using Lancet.Tensors;

namespace Lancet.Layers;

/// <summary>
/// The attention half of a decoder layer, x₂ = x + post(Wo · attention(rotary(Wqkv · norm(x)))).
/// <code>
/// kept         x's rstd, q|k|v, attention output o, log-sum-exp, LoRA inputs u;
///              q and k before their norm (Qwen 3), Wo's output before its norm (Gemma 2)
/// made again   norm(x), from x and rstd
/// overwritten  dq|dk|dv is rotated back in place; the stream's gradient d is added to
/// </code>
/// </summary>
public sealed class SelfAttention
{
    private readonly ModelConfig _config;
    private readonly AttentionKernel _attention;
    private readonly DecodeAttentionKernel _decode;
    private readonly RotaryKernel _rotary;
    private readonly int _window;
    private readonly int _layer;
    private readonly int _keyColumn;
    private readonly int _valueColumn;
    private readonly int _width;

    /// <summary>Describes the attention of one layer.</summary>
    /// <param name="config">Model.</param>
    /// <param name="layer">Index of the layer.</param>
    /// <param name="weights">Receives the layer's weights.</param>
    internal SelfAttention(ModelConfig config, int layer, WeightList weights)
    {
        (_config, _layer, _window) = (config, layer, config.Windows[layer]);
        var prefix = $"model.layers.{layer}.";
        int hidden = config.HiddenSize, queries = config.QueryHeads * config.HeadDimension, keys = config.KeyValueHeads * config.HeadDimension;
        (_keyColumn, _valueColumn, _width) = (queries, queries + keys, queries + (2 * keys));
        Norm = weights.Norm(prefix + "input_layernorm", hidden, config);
        Query = weights.Linear(prefix + "self_attn.q_proj", queries, hidden, config.HasQueryKeyValueBias);
        Key = weights.Linear(prefix + "self_attn.k_proj", keys, hidden, config.HasQueryKeyValueBias);
        Value = weights.Linear(prefix + "self_attn.v_proj", keys, hidden, config.HasQueryKeyValueBias);
        Output = weights.Linear(prefix + "self_attn.o_proj", hidden, queries, config.HasOutputBias);
        (Projections, OutputProjection) = (new(false, Query, Key, Value), new(true, Output));
        if (config.HasQueryKeyNorm)
        {
            QueryNorm = weights.Norm(prefix + "self_attn.q_norm", config.HeadDimension, config, config.QueryHeads);
            KeyNorm = weights.Norm(prefix + "self_attn.k_norm", config.HeadDimension, config, config.KeyValueHeads);
        }
        if (config.HasPostNorms) PostNorm = weights.Norm(prefix + "post_attention_layernorm", hidden, config);
        var shape = new AttentionShape(config.QueryHeads, config.KeyValueHeads, config.HeadDimension, config.AttentionScale, config.AttentionSoftCap);
        (_attention, _decode) = (new AttentionKernel(shape), new DecodeAttentionKernel(shape, _window));
        _rotary = new RotaryKernel(config.QueryHeads + config.KeyValueHeads, config.HeadDimension, config.Rotary.Dimension);
    }

    /// <summary>Norm of the input.</summary>
    public RmsNorm Norm { get; }

    /// <summary>Query projection.</summary>
    public LoraLinear Query { get; }

    /// <summary>Key projection.</summary>
    public LoraLinear Key { get; }

    /// <summary>Value projection.</summary>
    public LoraLinear Value { get; }

    /// <summary>Output projection.</summary>
    public LoraLinear Output { get; }

    /// <summary>Query, key and value together.</summary>
    public ProjectionGroup Projections { get; }

    /// <summary>The output projection as a group.</summary>
    public ProjectionGroup OutputProjection { get; }

    /// <summary>Norm of every query head, or null.</summary>
    public RmsNorm? QueryNorm { get; }

    /// <summary>Norm of every key head, or null.</summary>
    public RmsNorm? KeyNorm { get; }

    /// <summary>Norm of the output, or null.</summary>
    public RmsNorm? PostNorm { get; }

    /// <summary>What the backward pass reads.</summary>
    internal struct State
    {
        public Tensor Rstd, Projected, Rotated, QueryRstd, KeyRstd, Output, LogSumExp, BeforePostNorm, PostRstd;
        public AdapterInputs ProjectionsU, OutputU;
    }

    /// <summary>Columns of attention's output as it is kept.</summary>
    internal int OutputWidth => _keyColumn + OutputProjection.Room;

    /// <summary>x₂ [T, hidden] as a new saved buffer.</summary>
    /// <param name="c">The step.</param>
    /// <param name="x">The layer's input.</param>
    /// <param name="state">What the backward pass reads; with attention's output there already, attention itself is not computed again.</param>
    internal Tensor Forward(StepContext c, Tensor x, ref State state)
    {
        var normed = c.Activations(MemoryPurpose.Workspace, _config.HiddenSize + Projections.Room);
        state.Rstd = Norm.Forward(c, x, normed);
        state.Projected = c.Saved(_width);
        Projections.Forward(c, normed, state.Projected, default, out state.ProjectionsU);
        c.Free(normed);
        state.Rotated = state.Projected;
        if (QueryNorm is not null)
        {
            state.Rotated = c.Saved(_valueColumn);
            state.QueryRstd = QueryNorm.Forward(c, ColumnSlice.Of(state.Projected, 0), ColumnSlice.Of(state.Rotated, 0));
            state.KeyRstd = KeyNorm!.Forward(c, ColumnSlice.Of(state.Projected, _keyColumn), ColumnSlice.Of(state.Rotated, _keyColumn));
        }
        _rotary.Apply(c.Device, c.TokenCount, state.Rotated, c.Positions, c.RotaryCos, c.RotarySin, false);
        if (!state.Output.Exists)
        {
            state.Output = c.Saved(OutputWidth);
            Attend(c, ref state);
        }
        if (!c.IsTraining)
        {
            c.Free(state.Projected, state.Rstd, state.QueryRstd, state.KeyRstd);
            if (QueryNorm is not null) c.Free(state.Rotated);
        }

        var result = c.Saved(_config.HiddenSize);
        if (PostNorm is null)
        {
            OutputProjection.Forward(c, state.Output, result, x, out state.OutputU);
        }
        else
        {
            c.Device.Copy(x, result);
            state.BeforePostNorm = c.Saved(_config.HiddenSize);
            OutputProjection.Forward(c, state.Output, state.BeforePostNorm, default, out state.OutputU);
            var post = c.Activations(MemoryPurpose.Workspace, _config.HiddenSize);
            state.PostRstd = PostNorm.Forward(c, state.BeforePostNorm, post);
            ElementwiseKernel.AddTo(c.Device, post, result);
            c.Free(post);
            if (!c.IsTraining) c.Free(state.BeforePostNorm, state.PostRstd);
        }
        if (!c.IsTraining) c.Free(state.Output);
        return result;
    }

    /// <summary>d += gradient of x, adding to the gradients of what is trained; frees the state.</summary>
    /// <param name="c">The step.</param>
    /// <param name="x">The forward pass's input.</param>
    /// <param name="state">From the forward pass.</param>
    /// <param name="d">Gradient of the stream [T, hidden], with the output projection's room behind each row.</param>
    /// <param name="needsInput">Whether anything below is trained.</param>
    internal void Backward(StepContext c, Tensor x, in State state, Tensor d, bool needsInput)
    {
        var dOutput = d;
        if (PostNorm is not null)
        {
            dOutput = c.Activations(MemoryPurpose.Workspace, _config.HiddenSize + OutputProjection.Room);
            PostNorm.Backward(c, d, state.BeforePostNorm, state.PostRstd, dOutput, false);
            c.Free(state.BeforePostNorm, state.PostRstd);
        }
        var dAttended = c.Activations(MemoryPurpose.Workspace, _keyColumn);
        var v = OutputProjection.BackwardInput(c, dOutput, dAttended);
        OutputProjection.BackwardWeights(c, state.Output, dOutput, state.OutputU, v);
        if (PostNorm is not null) c.Free(dOutput);

        var gradient = c.Activations(MemoryPurpose.Workspace, _width + Projections.Room);
        var delta = c.Allocate(MemoryPurpose.Workspace, c.Accumulator, new Shape(_config.QueryHeads, c.TokenCount));
        ColumnSlice dq = ColumnSlice.Of(gradient, 0), dk = ColumnSlice.Of(gradient, _keyColumn), dv = ColumnSlice.Of(gradient, _valueColumn);
        var (q, key) = (ColumnSlice.Of(state.Rotated, 0), ColumnSlice.Of(state.Rotated, _keyColumn));
        _attention.Backward(
            c.Device, q, key, ColumnSlice.Of(state.Projected, _valueColumn), c.Intervals[_window], state.Output, state.LogSumExp, dAttended, delta, dq, dk, dv);
        c.Free(delta, dAttended, state.Output, state.LogSumExp);
        _rotary.Apply(c.Device, c.TokenCount, gradient, c.Positions, c.RotaryCos, c.RotarySin, true);
        if (QueryNorm is not null)
        {
            QueryNorm.Backward(c, dq, ColumnSlice.Of(state.Projected, 0), state.QueryRstd, dq, false);
            KeyNorm!.Backward(c, dk, ColumnSlice.Of(state.Projected, _keyColumn), state.KeyRstd, dk, false);
            c.Free(state.Rotated, state.QueryRstd, state.KeyRstd);
        }
        c.Free(state.Projected);

        var dNormed = needsInput ? c.Activations(MemoryPurpose.Workspace, _config.HiddenSize) : default;
        v = Projections.BackwardInput(c, gradient, dNormed);
        var normed = Norm.Recompute(c, x, state.Rstd);
        Projections.BackwardWeights(c, normed, gradient, state.ProjectionsU, v);
        c.Free(normed, gradient);
        if (needsInput) Norm.Backward(c, dNormed, x, state.Rstd, d, true);
        c.Free(dNormed, state.Rstd);
    }

    /// <summary>Ends the lives of what a second forward pass makes again.</summary>
    internal void Drop(StepContext c, ref State state)
    {
        if (QueryNorm is not null) c.Free(state.Rotated);
        c.Free(state.Rstd, state.Projected, state.QueryRstd, state.KeyRstd, state.Output, state.LogSumExp, state.BeforePostNorm, state.PostRstd);
        state.ProjectionsU.Free(c);
        state.OutputU.Free(c);
        state = default;
    }

    private void Attend(StepContext c, ref State state)
    {
        var (q, key) = (ColumnSlice.Of(state.Rotated, 0), ColumnSlice.Of(state.Rotated, _keyColumn));
        var value = ColumnSlice.Of(state.Projected, _valueColumn);
        if (c.Cache is { } cache)
        {
            DecodeAttentionKernel.Append(c.Device, key, cache.Keys(_layer), c.Positions, cache.RowSlots);
            DecodeAttentionKernel.Append(c.Device, value, cache.Values(_layer), c.Positions, cache.RowSlots);
            if (cache.IsDecoding)
            {
                _decode.Forward(c.Device, q, cache.Keys(_layer), cache.Values(_layer), c.Positions, cache.RowSlots, state.Output);
                return;
            }
        }
        state.LogSumExp = c.Allocate(c.IsTraining ? MemoryPurpose.SavedActivations : MemoryPurpose.Workspace, c.Accumulator, new Shape(_config.QueryHeads, c.TokenCount));
        _attention.Forward(c.Device, q, key, value, c.Intervals[_window], state.Output, state.LogSumExp);
        if (!c.IsTraining) c.Free(state.LogSumExp);
    }
}
