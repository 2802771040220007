using Lancet.Devices;
using Lancet.Kernels;
using Lancet.Models;
using Lancet.Planning;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Layers;

/// <summary>
/// A sparse mixture of experts (Shazeer et al. 2017; Jiang et al., "Mixtral of Experts", 2024): every token goes through the k of E gated MLPs that a router chooses for it.
/// <code>
/// router       z = Wr·n in fp32      i, w = top-k of softmax(z), see <see cref="RouterKernel"/>      n = norm(x₂)
/// experts      hⱼ = wⱼ·f(Wg[iⱼ]·n) ⊙ (Wu[iⱼ]·n)        x₃ = x₂ + Σⱼ Wd[iⱼ]·hⱼ
/// kept         the norm's statistics, softmax(z), i and w, the rows' order, gate and up [e | g] of each row, LoRA inputs u
/// made again   n, from x₂ and statistics; the experts' input rows, from n; h, from e, g and w
/// overwritten  dh ← h, [e | g] ← [de | dg]; the stream's gradient d is added to
/// backward     dh = Wd[i]ᵀ·d, hence dw (see <see cref="RoutedActivationKernel"/>), de, dg
///              dn = Σⱼ (Wg[iⱼ]ᵀ·deⱼ + Wu[iⱼ]ᵀ·dgⱼ) + Wrᵀ·dz
/// </code>
/// The T·k rows of tokens and their experts are sorted by expert; a buffer of theirs has T·k rows however they are distributed. There is no loss that
/// balances the experts, as in transformers unless <c>output_router_logits</c> asks for one.
/// </summary>
public sealed class MixtureOfExperts : FeedForward
{
    private readonly ModelConfig _config;
    private readonly ExpertConfig _experts;
    private readonly RouterKernel _router;
    private readonly ExpertSortKernel _sort;
    private readonly ExpertRowsKernel _rows;
    private readonly RoutedActivationKernel _activation;
    private State _state;
    private State _leaving;
    private bool _isKept;

    /// <summary>Describes the experts of one layer.</summary>
    internal MixtureOfExperts(ModelConfig config, int layer, WeightList weights)
    {
        (_config, _experts) = (config, config.Experts!);
        var prefix = config.LayerPrefix(layer);
        Input = weights.InputNorm(prefix + "post_attention_layernorm", config);
        var (block, width) = (prefix + _experts.Block + ".", _experts.IntermediateSize);
        Router = weights.Router(block + "gate", _experts.Count, config.HiddenSize);
        // Expert by expert, as checkpoints have them; then one projection's matrices lie at equal distances among trained weights.
        var all = new LoraLinear[3][];
        for (var i = 0; i < all.Length; i++) all[i] = new LoraLinear[_experts.Count];
        for (var e = 0; e < _experts.Count; e++)
        {
            var expert = $"{block}experts.{e}.";
            all[0][e] = weights.Linear(expert + _experts.Gate, width, config.HiddenSize, false);
            all[1][e] = weights.Linear(expert + _experts.Up, width, config.HiddenSize, false);
            all[2][e] = weights.Linear(expert + _experts.Down, config.HiddenSize, width, false);
        }
        (Gate, Up, Down) = (new(all[0]), new(all[1]), new(all[2]));
        _router = new(_experts.Count, _experts.PerToken, _experts.IsNormalized);
        _sort = new(_experts.Count);
        _rows = new(_experts.PerToken, config.HiddenSize);
        _activation = new(config.Activation, width);
    }

    /// <summary>Norm of the input.</summary>
    public InputNorm Input { get; }

    /// <summary>Projection to the router's logits.</summary>
    public LoraLinear Router { get; }

    /// <summary>The experts' gates.</summary>
    public ExpertProjection Gate { get; }

    /// <summary>The experts' up projections.</summary>
    public ExpertProjection Up { get; }

    /// <summary>The experts' down projections.</summary>
    public ExpertProjection Down { get; }

    /// <inheritdoc/>
    public override IEnumerable<ProjectionGroup> Groups => [];

    /// <inheritdoc/>
    public override IEnumerable<LoraLinear> Projections => [Router, .. Gate.Experts, .. Up.Experts, .. Down.Experts];

    /// <inheritdoc/>
    internal override IEnumerable<WeightBlock> ExpertBlocks() => [.. Gate.FrozenBlocks(), .. Up.FrozenBlocks(), .. Down.FrozenBlocks()];

    /// <inheritdoc/>
    public override IEnumerable<Weight> Adapters => [.. Router.Adapter, .. Gate.Adapters, .. Up.Adapters, .. Down.Adapters];

    /// <summary>What the backward pass reads.</summary>
    private struct State
    {
        public Tensor Statistics, Probabilities, Indices, Weights, Place, Order, GateUp;
        public ExpertRows Rows;
        public Tensor RouterU, GateU, UpU, DownU;

        /// <summary>Applies a map to all.</summary>
        public void Map<T>(T map)
            where T : struct, ITensorMap
        {
            map.Apply(ref Statistics);
            map.Apply(ref Probabilities);
            map.Apply(ref Indices);
            map.Apply(ref Weights);
            map.Apply(ref Place);
            map.Apply(ref Order);
            map.Apply(ref GateUp);
            var (starts, blocks) = (Rows.Starts, Rows.Blocks);
            map.Apply(ref starts);
            map.Apply(ref blocks);
            Rows = Rows with { Starts = starts, Blocks = blocks };
            map.Apply(ref RouterU);
            map.Apply(ref GateU);
            map.Apply(ref UpU);
            map.Apply(ref DownU);
        }
    }

    internal override void CheckAdapters()
    {
        Gate.CheckAdapters();
        Up.CheckAdapters();
        Down.CheckAdapters();
    }

    internal override Tensor Forward(StepContext c, Tensor x, Tensor stream, double share, int channel)
    {
        _isKept = share == 1;
        _state = default;
        ref var s = ref _state;
        Intermediate(c, x, ref s);
        var h = Activate(c, s);
        if (!c.IsTraining) c.Free(s.GateUp);
        var output = Rows(c, _config.HiddenSize);
        Down.Forward(c, s.Rows, h, output, out s.DownU);
        c.Free(h);
        var result = c.Saved(_config.HiddenSize);
        _rows.Sum(c.Device, output, s.Place, stream, result);
        c.Free(output);
        if (c.IsTraining)
        {
            _leaving = s;
            if (!_isKept) s.Map(new FreeMap(c));
            else if (channel >= 0) s.Map(new SendMap(c, channel));
            return result;
        }
        c.Free(s.Statistics);
        FreeRouting(c, s);
        return result;
    }

    internal override void Release(StepContext c)
    {
        if (_isKept) _leaving.Map(new FreeMap(c));
    }

    internal override void Fetch(StepContext c, int channel)
    {
        if (_isKept) _state.Map(new FetchMap(c, channel));
    }

    private void Recompute(StepContext c, Tensor x)
    {
        ref var s = ref _state;
        Intermediate(c, x, ref s);
        if (!Down.HasAdapters) return;
        var h = Activate(c, s);
        Down.RecomputeAdapterInput(c, s.Rows, h, out s.DownU);
        c.Free(h);
    }

    internal override Tensor Backward(StepContext c, Tensor x, Tensor d, bool needsInput, Action<StepContext> whenDownIsDone)
    {
        if (!_isKept) Recompute(c, x);
        ref readonly var s = ref _state;
        var width = _experts.IntermediateSize;
        // Adding up the experts' outputs hands each of them the token's gradient.
        var dOutput = Rows(c, _config.HiddenSize);
        _rows.Gather(c.Device, d, s.Order, dOutput);
        var dh = Rows(c, width);
        var v = Down.BackwardInput(c, s.Rows, dOutput, dh, 0);
        var dWeights = c.Allocate(MemoryPurpose.Workspace, c.Accumulator, s.Weights.Shape);
        _activation.Backward(c.Device, s.GateUp, s.Weights, s.Order, dh, dWeights);
        Down.BackwardWeights(c, s.Rows, dh, dOutput, s.DownU, v);
        c.Free(dh, dOutput);
        whenDownIsDone(c);

        ColumnSlice dGate = ColumnSlice.Of(s.GateUp, 0), dUp = ColumnSlice.Of(s.GateUp, width);
        var dInput = Rows(c, _config.HiddenSize);
        var vGate = Gate.BackwardInput(c, s.Rows, dGate, dInput, 0);
        var vUp = Up.BackwardInput(c, s.Rows, dUp, dInput, 1);
        var dNormed = c.Activations(MemoryPurpose.Workspace, _config.HiddenSize);
        _rows.Sum(c.Device, dInput, s.Place, default, dNormed);
        c.Free(dInput);

        var normed = Input.Recompute(c, x, s.Statistics);
        if (Gate.IsTrained || Up.IsTrained)
        {
            var input = Rows(c, _config.HiddenSize);
            _rows.Gather(c.Device, normed, s.Order, input);
            Gate.BackwardWeights(c, s.Rows, input, dGate, s.GateU, vGate);
            Up.BackwardWeights(c, s.Rows, input, dUp, s.UpU, vUp);
            c.Free(input);
        }
        c.Free(s.GateUp);

        var dLogits = c.Activations(MemoryPurpose.Workspace, _experts.Count);
        _router.Backward(c.Device, s.Probabilities, s.Indices, s.Weights, dWeights, dLogits);
        c.Free(dWeights);
        var vRouter = Router.BackwardInput(c, dLogits, dNormed, 1);
        Router.BackwardWeights(c, normed, dLogits, s.RouterU, vRouter);
        c.Free(dLogits);
        InputNorm.Release(c, x, normed);
        Input.Backward(c, dNormed, x, s.Statistics, d);
        c.Free(dNormed, s.Statistics);
        FreeRouting(c, s);
        return default;
    }

    /// <summary>Everything up to gate and up of each row.</summary>
    private void Intermediate(StepContext c, Tensor x, ref State s)
    {
        var normed = Input.Forward(c, x, 0, out s.Statistics);
        Route(c, normed, ref s);
        var input = Rows(c, _config.HiddenSize);
        _rows.Gather(c.Device, normed, s.Order, input);
        c.Free(normed);
        s.GateUp = c.Saved(s.Rows.Count, 2 * _experts.IntermediateSize);
        Gate.Forward(c, s.Rows, input, ColumnSlice.Of(s.GateUp, 0), out s.GateU);
        Up.Forward(c, s.Rows, input, ColumnSlice.Of(s.GateUp, _experts.IntermediateSize), out s.UpU);
        c.Free(input);
    }

    /// <summary>Chooses experts and sorts the tokens by them.</summary>
    private void Route(StepContext c, Tensor normed, ref State s)
    {
        var purpose = c.IsTraining ? MemoryPurpose.SavedActivations : MemoryPurpose.Workspace;
        var (tokens, chosen, count) = (c.TokenCount, _experts.PerToken, c.TokenCount * _experts.PerToken);
        s.Probabilities = c.Allocate(purpose, c.Accumulator, new Shape(tokens, _experts.Count));
        Router.Forward(c, normed, s.Probabilities, 0, out s.RouterU);
        s.Indices = c.Allocate(purpose, DType.Int32, new Shape(tokens, chosen));
        s.Weights = c.Allocate(purpose, c.Accumulator, new Shape(tokens, chosen));
        _router.Forward(c.Device, s.Probabilities, s.Indices, s.Weights);

        s.Place = c.Allocate(purpose, DType.Int32, new Shape(tokens, chosen));
        s.Order = c.Allocate(purpose, DType.Int32, new Shape(count));
        var starts = c.Allocate(purpose, DType.Int32, new Shape(_experts.Count + 1));
        var counts = c.Allocate(MemoryPurpose.Workspace, DType.Int32, _sort.WorkspaceShape(count));
        _sort.Sort(c.Device, s.Indices, counts, starts, s.Place, s.Order);
        c.Free(counts);
        s.Rows = new(count, starts, default, 0);
        if (!c.Device.PlanTarget.IsCuda) return;
        var blockRows = GroupedGemmKernel.BlockRows(c.DType, count, _experts.Count);
        s.Rows = s.Rows with { BlockRows = blockRows, Blocks = c.Allocate(purpose, DType.Int32, new Shape(ExpertRows.MostBlocks(count, _experts.Count, blockRows), 2)) };
        _sort.WriteBlocks(c.Device, s.Rows);
    }

    private Tensor Activate(StepContext c, in State s)
    {
        var h = Rows(c, _experts.IntermediateSize);
        _activation.Forward(c.Device, s.GateUp, s.Weights, s.Order, h);
        return h;
    }

    private Tensor Rows(StepContext c, long columns) => c.Allocate(MemoryPurpose.Workspace, c.DType, new Shape((long)c.TokenCount * _experts.PerToken, columns));

    private static void FreeRouting(StepContext c, in State s) => c.Free(s.Probabilities, s.Indices, s.Weights, s.Place, s.Order, s.Rows.Starts, s.Rows.Blocks);
}
