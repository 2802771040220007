using Lancet.Kernels;
using Lancet.Models;
using Lancet.Planning;
using Lancet.Tensors;

namespace Lancet.Layers;

/// <summary>
/// The attention half of a decoder layer, x₂ = x + s·post(Wo · attention(rotary(Wqkv · norm(x)))).
/// <code>
/// kept         the norm's statistics, q|k|v, attention output o, log-sum-exp, LoRA inputs u;
///              q and k before their norm (Qwen 3), what <see cref="ResidualProjection"/> keeps
/// made again   norm(x), from x and statistics
/// overwritten  dq|dk|dv is rotated back in place; the stream's gradient d is added to
/// </code>
/// </summary>
public sealed class SelfAttention
{
    private readonly ModelConfig _config;
    private readonly AttentionKernel _attention;
    private readonly DecodeAttentionKernel _decode;
    private readonly RotaryKernel? _rotary;
    private readonly int _rotaryTable;
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
        var prefix = config.LayerPrefix(layer);
        int hidden = config.HiddenSize, queries = config.QueryHeads * config.HeadDimension, keys = config.KeyValueHeads * config.HeadDimension;
        (_keyColumn, _valueColumn, _width) = (queries, queries + keys, queries + (2 * keys));
        Input = weights.InputNorm(prefix + "input_layernorm", config);
        LoraLinear Linear(string name, int outFeatures) => weights.Linear(prefix + "self_attn." + name, outFeatures, hidden, config.HasQueryKeyValueBias);
        Projections = new(false, config.HasFusedProjections ? [Linear("qkv_proj", _width)] : [Linear("q_proj", queries), Linear("k_proj", keys), Linear("v_proj", keys)]);
        var output = new ProjectionGroup(true, weights.Linear(prefix + "self_attn.o_proj", hidden, queries, config.HasOutputBias)) { KeepsProduct = true };
        if (config.QueryKeyNorm != QueryKeyNorm.None)
        {
            QueryNorm = weights.HeadNorm(prefix + "self_attn.q_norm", config.QueryHeads, config);
            KeyNorm = weights.HeadNorm(prefix + "self_attn.k_norm", config.KeyValueHeads, config);
        }
        Output = new(output, config.HasPostNorms ? weights.Norm(prefix + "post_attention_layernorm", config) : null, config.ResidualScale);
        var shape = new AttentionShape(config.QueryHeads, config.KeyValueHeads, config.HeadDimension, config.AttentionScale, config.AttentionSoftCap);
        (_attention, _decode) = (new AttentionKernel(shape), new DecodeAttentionKernel(shape, _window));
        if (config.RotaryOf(layer) is not { } rotary) return;
        _rotary = new RotaryKernel(config.QueryHeads + config.KeyValueHeads, config.HeadDimension, rotary.Dimension, config.IsRotaryInterleaved);
        _rotaryTable = config.Rotaries.ToList().IndexOf(rotary);
    }

    /// <summary>Norm of the input.</summary>
    public InputNorm Input { get; }

    /// <summary>Query, key and value: side by side, or one projection with all outputs.</summary>
    public ProjectionGroup Projections { get; }

    /// <summary>The output projection, with what adds its output to the stream.</summary>
    public ResidualProjection Output { get; }

    /// <summary>Norm of the queries, or null.</summary>
    public Norm? QueryNorm { get; }

    /// <summary>Norm of the keys, or null.</summary>
    public Norm? KeyNorm { get; }

    /// <summary>What the backward pass reads.</summary>
    internal struct State
    {
        public Tensor Statistics, Projected, Rotated, QueryStatistics, KeyStatistics, Attended, LogSumExp;
        public AdapterInputs ProjectionsU;
        public ResidualProjection.State Output;

        /// <summary>Applies a map to queries, keys and values and what belongs to them.</summary>
        public void MapQkv<T>(T map)
            where T : struct, ITensorMap
        {
            var isOneBuffer = Rotated.Address == Projected.Address;
            map.Apply(ref Statistics);
            map.Apply(ref Projected);
            if (isOneBuffer) Rotated = Projected;
            else map.Apply(ref Rotated);
            map.Apply(ref QueryStatistics);
            map.Apply(ref KeyStatistics);
            map.Apply(ref ProjectionsU);
        }

        /// <summary>Applies a map to attention's output and log-sum-exp.</summary>
        public void MapAttended<T>(T map)
            where T : struct, ITensorMap
        {
            map.Apply(ref Attended);
            map.Apply(ref LogSumExp);
        }
    }

    private ProjectionGroup OutputProjection => Output.Projection;

    // Columns of attention's output as it is kept.
    private int OutputWidth => _keyColumn + OutputProjection.Room;

    /// <summary>x₂ [T, hidden] as a new saved buffer.</summary>
    /// <param name="c">The step.</param>
    /// <param name="x">The layer's input.</param>
    /// <param name="state">What the backward pass reads; with attention's output there already, attention itself is not computed again.</param>
    /// <param name="makesQkv">Whether queries, keys and values are computed; without, attention's output has to be there.</param>
    internal Tensor Forward(StepContext c, Tensor x, ref State state, bool makesQkv = true)
    {
        if (makesQkv) Attend(c, x, ref state);
        var result = c.Saved(_config.HiddenSize);
        Output.Forward(c, state.Attended, x, result, out state.Output);
        if (!c.IsTraining) c.Free(state.Attended);
        return result;
    }

    /// <summary>The forward pass's state once more, with the same bits, without its result.</summary>
    internal void Recompute(StepContext c, Tensor x, ref State state, bool makesQkv)
    {
        if (makesQkv) Attend(c, x, ref state);
        if (Output.Norm is not null || OutputProjection.HasAdapters) Output.Recompute(c, state.Attended, out state.Output);
    }

    /// <summary>d += gradient of x, adding to the gradients of what is trained; frees the state.</summary>
    /// <param name="c">The step.</param>
    /// <param name="x">The forward pass's input.</param>
    /// <param name="state">From the forward pass.</param>
    /// <param name="d">Gradient of the stream [T, hidden], with the output projection's room behind each row.</param>
    /// <param name="dShared">Gradient of the normed input from the MLP of a parallel block, which is freed; absent elsewhere.</param>
    /// <param name="needsInput">Whether anything below is trained.</param>
    /// <param name="inputChannel">Channel of the copy that x is still on its way in, see <see cref="Devices.Device.AwaitCopy"/>; negative if x is there.</param>
    internal void Backward(StepContext c, Tensor x, in State state, Tensor d, Tensor dShared, bool needsInput, int inputChannel)
    {
        var dAttended = c.Activations(MemoryPurpose.Workspace, _keyColumn);
        var gradients = Output.BackwardInput(c, state.Attended, d, state.Output, dAttended);
        Output.BackwardWeights(c, state.Attended, d, state.Output, gradients);

        var gradient = c.Activations(MemoryPurpose.Workspace, _width + Projections.Room);
        var workspace = _attention.Workspace(c.Device, c.DType, c.TokenCount, c, static (c, dtype, shape) => c.Allocate(MemoryPurpose.Workspace, dtype, shape));
        ColumnSlice dq = ColumnSlice.Of(gradient, 0), dk = ColumnSlice.Of(gradient, _keyColumn), dv = ColumnSlice.Of(gradient, _valueColumn);
        var (q, key) = (ColumnSlice.Of(state.Rotated, 0), ColumnSlice.Of(state.Rotated, _keyColumn));
        _attention.Backward(
            c.Device, q, key, ColumnSlice.Of(state.Projected, _valueColumn), c.Intervals[_window], state.Attended, state.LogSumExp, dAttended, workspace, dq, dk, dv);
        c.Trace?.Attention(c.TokenCount, _keyColumn, _window, true);
        c.Free(workspace.Delta, workspace.PartialSums, workspace.Flags, dAttended, state.Attended, state.LogSumExp);
        Rotate(c, gradient, true);
        if (QueryNorm is not null)
        {
            QueryNorm.Backward(c, dq, ColumnSlice.Of(state.Projected, 0), state.QueryStatistics, dq, false);
            KeyNorm!.Backward(c, dk, ColumnSlice.Of(state.Projected, _keyColumn), state.KeyStatistics, dk, false);
            c.Free(state.Rotated, state.QueryStatistics, state.KeyStatistics);
        }
        c.Free(state.Projected);

        var dNormed = needsInput ? c.Activations(MemoryPurpose.Workspace, _config.HiddenSize) : default;
        Tensor normed = default;
        if (Projections.DropsEarly)
        {
            AwaitInput(c, inputChannel);
            normed = Input.Recompute(c, x, state.Statistics);
        }
        var v = Projections.BackwardInput(c, normed, gradient, state.ProjectionsU, dNormed);
        if (!normed.Exists) AwaitInput(c, inputChannel);
        if (!Input.AddAdapterGradients(c, x, state.Statistics, Projections, gradient) && !normed.Exists) normed = Input.Recompute(c, x, state.Statistics);
        Projections.BackwardWeights(c, normed, gradient, state.ProjectionsU, v);
        InputNorm.Release(c, x, normed);
        c.Free(gradient);
        if (dShared.Exists) ElementwiseKernel.AddTo(c.Device, dShared, dNormed);
        if (needsInput) Input.Backward(c, dNormed, x, state.Statistics, d);
        c.Free(dShared, dNormed, state.Statistics);
    }

    private static void AwaitInput(StepContext c, int inputChannel)
    {
        if (inputChannel >= 0) c.Device.AwaitCopy(inputChannel);
    }

    private void Rotate(StepContext c, Tensor x, bool isBackward)
    {
        if (_rotary is null) return;
        var table = c.RotaryTables[_rotaryTable];
        _rotary.Apply(c.Device, c.TokenCount, x, table.Rows, table.Cos, table.Sin, isBackward);
    }

    /// <summary>Everything up to attention's output.</summary>
    private void Attend(StepContext c, Tensor x, ref State state)
    {
        var normed = Input.Forward(c, x, Projections.Room, out state.Statistics);
        state.Projected = c.Saved(_width);
        Projections.Forward(c, normed, state.Projected, default, out state.ProjectionsU);
        c.Free(normed);
        state.Rotated = state.Projected;
        if (QueryNorm is not null)
        {
            state.Rotated = c.Saved(_valueColumn);
            state.QueryStatistics = QueryNorm.Forward(c, ColumnSlice.Of(state.Projected, 0), ColumnSlice.Of(state.Rotated, 0));
            state.KeyStatistics = KeyNorm!.Forward(c, ColumnSlice.Of(state.Projected, _keyColumn), ColumnSlice.Of(state.Rotated, _keyColumn));
        }
        Rotate(c, state.Rotated, false);
        if (!state.Attended.Exists)
        {
            state.Attended = c.Saved(OutputWidth);
            Mix(c, ref state);
        }
        if (c.IsTraining) return;
        c.Free(state.Projected, state.Statistics, state.QueryStatistics, state.KeyStatistics);
        if (QueryNorm is not null) c.Free(state.Rotated);
    }

    /// <summary>Attention itself.</summary>
    private void Mix(StepContext c, ref State state)
    {
        var (q, key) = (ColumnSlice.Of(state.Rotated, 0), ColumnSlice.Of(state.Rotated, _keyColumn));
        var value = ColumnSlice.Of(state.Projected, _valueColumn);
        if (c.Cache is { } cache)
        {
            DecodeAttentionKernel.Append(c.Device, key, cache.Keys(_layer), c.Positions, cache.RowSlots);
            DecodeAttentionKernel.Append(c.Device, value, cache.Values(_layer), c.Positions, cache.RowSlots);
            if (cache.IsDecoding)
            {
                _decode.Forward(c.Device, q, cache.Keys(_layer), cache.Values(_layer), c.Positions, cache.RowSlots, state.Attended);
                return;
            }
        }
        state.LogSumExp = c.Allocate(c.IsTraining ? MemoryPurpose.SavedActivations : MemoryPurpose.Workspace, c.Accumulator, new Shape(_config.QueryHeads, c.TokenCount));
        _attention.Forward(c.Device, q, key, value, c.Intervals[_window], state.Attended, state.LogSumExp);
        c.Trace?.Attention(c.TokenCount, _keyColumn, _window, false);
        if (!c.IsTraining) c.Free(state.LogSumExp);
    }
}
