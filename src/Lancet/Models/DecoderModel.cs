using Lancet.Adapters;
using Lancet.Devices;
using Lancet.Kernels;
using Lancet.Layers;
using Lancet.Planning;
using Lancet.Quantization;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Models;

/// <summary>
/// A decoder language model as explicit forward and backward passes. Describing one costs nothing; its weights get memory when they are
/// loaded.
/// </summary>
public sealed class DecoderModel
{
    /// <summary>Address of weights that are described only: none, but as aligned as real ones are, so that the kernels are those of a real run.</summary>
    internal const int DescribedAddress = 1 << 20;

    /// <summary>Describes the model of a configuration.</summary>
    public DecoderModel(ModelConfig config)
    {
        Config = config;
        var weights = new WeightList();
        Embedding = weights.Add(new Weight(config.WeightPrefix + "embed_tokens.weight", new Shape(config.VocabularySize, config.HiddenSize), WeightRole.Embedding));
        Layers = [.. Enumerable.Range(0, config.LayerCount).Select(layer => new DecoderLayer(config, layer, weights))];
        Head = new LanguageModelHead(config, Embedding, weights);
        Weights = weights.All;
    }

    /// <summary>What the model looks like.</summary>
    public ModelConfig Config { get; }

    /// <summary>Token embedding [vocabulary, hidden].</summary>
    public Weight Embedding { get; }

    /// <summary>Decoder layers, first to last.</summary>
    public IReadOnlyList<DecoderLayer> Layers { get; }

    /// <summary>Final norm and output head.</summary>
    public LanguageModelHead Head { get; }

    /// <summary>All weights of the checkpoint, in order.</summary>
    public IReadOnlyList<Weight> Weights { get; private set; }

    /// <summary>Frozen weights of layers that wait in host memory; null without any.</summary>
    internal StreamedWeights? Stream { get; set; }

    /// <summary>Whether embedding and head are one matrix.</summary>
    public bool IsTied => Head.Weight == Embedding;

    /// <summary>Marks embedding or head as trained, as PEFT's <c>modules_to_save</c> does.</summary>
    /// <exception cref="LancetException">There is no such module, or it cannot be trained so.</exception>
    internal void TrainModules(LoraOptions options)
    {
        foreach (var module in options.ModulesToSave)
            if (module is not (LoraOptions.EmbedTokens or LoraOptions.LmHead)) throw new LancetException($"modules_to_save names {module}; {LoraOptions.EmbedTokens} and {LoraOptions.LmHead} are supported.");
        if (options.ModulesToSave.Count == 0) return;
        if (IsTied && !options.EnsuresWeightTying) Weights = [.. Weights, Head.Untie()];
        if (IsTied || options.ModulesToSave.Contains(LoraOptions.EmbedTokens)) Embedding.IsTrained = true;
        if (options.ModulesToSave.Contains(LoraOptions.LmHead)) Head.Weight.IsTrained = true;
    }

    /// <summary>All projections, in the order of the computation.</summary>
    public IEnumerable<LoraLinear> Projections => Layers.SelectMany(layer => layer.Projections);

    /// <summary>Last parts of the projections' names, such as <c>q_proj</c>: what LoRA targets unless it is told otherwise. Routers have to be named.</summary>
    public IEnumerable<string> ModuleNames => Projections.Where(projection => !projection.IsRouter).Select(projection => projection.ModuleName).Distinct();

    /// <summary>All projections by input, in the order of the computation.</summary>
    public IEnumerable<ProjectionGroup> Groups => Layers.SelectMany(layer => layer.Groups);

    /// <summary>Weights of the checkpoint and of adapters that are trained.</summary>
    public IEnumerable<Weight> TrainedWeights => Weights
        .Concat(Layers.SelectMany(layer => layer.Adapters))
        .Where(weight => weight.IsTrained);

    /// <summary>Losses of the head's rows, see <see cref="StepContext.HeadRows"/>, and the gradients of everything that is trained.</summary>
    /// <param name="c">The step, with <see cref="StepContext.IsTraining"/> set.</param>
    /// <param name="policies">What each layer keeps.</param>
    /// <param name="losses">[T] in the accumulator's type.</param>
    /// <param name="timing">When activations are copied to host memory and back.</param>
    public void ForwardBackward(StepContext c, ReadOnlySpan<ActivationPolicy> policies, Tensor losses, CopyTiming timing = default)
    {
        Stream?.Begin(c);
        c.Trace?.Begin(StepPhase.Start);
        var x = Embed(c);
        var released = 0;
        void Release(int halves)
        {
            if (released < Layers.Count && (2 * released) + 2 + timing.Lag <= halves) Layers[released++].Release(c);
        }
        for (var layer = 0; layer < Layers.Count; layer++)
        {
            Stream?.Enter(c, layer);
            Layers[layer].ForwardAttention(c, x, policies[layer]);
            Release((2 * layer) + 1);
            x = Layers[layer].ForwardMlp(c);
            Stream?.LeaveForward(c, layer);
            Release((2 * layer) + 2);
        }
        c.Trace?.Begin(StepPhase.Head);
        var d = Head.ForwardBackward(c, x, losses, Layers.Max(layer => Math.Max(layer.Attention.Output.Projection.Room, layer.Mlp.Room)));
        c.Free(x);
        while (released < Layers.Count) Layers[released++].Release(c);
        for (var layer = Layers.Count - 2; layer >= Math.Max(0, Layers.Count - 1 - timing.Lead); layer--) Layers[layer].Fetch(c, timing.FetchesEarly);
        for (var layer = Layers.Count - 1; layer >= 0; layer--)
        {
            var needsInput = layer > 0 || Embedding.IsTrained || Layers[0].Attention.Input.IsTrained;
            Stream?.Enter(c, layer);
            Layers[layer].BackwardMlp(c, d, needsInput);
            // What the next layer's MLP needs comes while attention computes.
            if (layer > timing.Lead) Layers[layer - 1 - timing.Lead].Fetch(c, timing.FetchesEarly);
            Stream?.Fetched(c);
            Layers[layer].BackwardAttention(c, d, needsInput);
            Stream?.LeaveBackward(c, layer);
        }
        c.Trace?.Begin(StepPhase.End);
        if (Embedding.IsTrained) EmbeddingKernel.Backward(c.Device, c.TokenIds, c.TokenOrder, c.SegmentEnds, d, Embedding.Gradient, EmbeddingScale(c.DType), Config.HiddenSize);
        c.Free(d);
    }

    /// <summary>Losses of the head's rows, see <see cref="StepContext.HeadRows"/>, forward only.</summary>
    public void Forward(StepContext c, Tensor losses)
    {
        var x = Hidden(c);
        Head.Forward(c, x, losses);
        c.Free(x);
    }

    /// <summary>Logits of the last rows of a batch, before any soft cap.</summary>
    /// <param name="c">The step.</param>
    /// <param name="firstRow">First row whose logits are wanted.</param>
    /// <param name="logits">[rows, vocabulary] in the accumulator's type.</param>
    public void Logits(StepContext c, int firstRow, Tensor logits)
    {
        var x = Hidden(c);
        Head.Forward(c, x, firstRow, logits);
        c.Free(x);
    }

    /// <summary>
    /// Gives weights that were not loaded a shape and dtype without memory behind them, so that a step can be planned from config.json
    /// alone. Such a model must not be run.
    /// </summary>
    /// <param name="target">Device that the plan is for.</param>
    /// <param name="dtype">Dtype of activations.</param>
    /// <param name="isQuantized">Whether frozen projections are NF4.</param>
    /// <returns>Bytes that adapters add to the weights: borders, see <see cref="ChooseBorders"/>, and the lengths that DoRA keeps.</returns>
    public long DescribeStorage(PlanTarget target, DType dtype, bool isQuantized = false)
    {
        var borderBytes = ChooseBorders(target, dtype, isQuantized);
        foreach (var weight in Weights.Where(weight => isQuantized && weight is { Role: WeightRole.Projection, IsTrained: false, Quantized: null }))
        {
            var (codes, scales, nested) = Nf4Kernel.Sizes(weight.Shape.Count);
            weight.Dense = new Tensor(DescribedAddress, DType.UInt8, new Shape(codes));
            weight.Quantized = new Nf4Weight(
                (int)weight.Shape[0], (int)weight.Shape[1], weight.Dense, new Tensor(DescribedAddress, DType.UInt8, new Shape(scales)), new Tensor(DescribedAddress, DType.Float32, new Shape(nested)),
                new Tensor(DescribedAddress, DType.Float32, new Shape(256)), new Tensor(DescribedAddress, DType.Float32, new Shape(1)));
        }
        foreach (var group in Groups) group.DescribeStorage(dtype);
        LoraLinear[] decomposed = [.. Projections.Where(projection => projection.Magnitude is not null)];
        foreach (var projection in decomposed) projection.SquaredNorms = new Tensor(DescribedAddress, dtype.Accumulator(), new Shape(projection.OutFeatures));
        borderBytes += SquaredNormElements(decomposed) * dtype.Accumulator().SizeInBytes();
        foreach (var weight in Weights.Concat(TrainedWeights))
        {
            if (!weight.Dense.Exists && weight.Quantized is null) weight.Dense = new Tensor(DescribedAddress, weight.IsWide ? dtype.Accumulator() : dtype, weight.Shape);
        }
        return borderBytes;
    }

    /// <summary>Elements of the buffer of <see cref="LoraLinear.SquaredNorms"/>, each projection's part aligned.</summary>
    internal static long SquaredNormElements(IEnumerable<LoraLinear> projections) => projections.Sum(projection => (projection.OutFeatures + 63L) / 64 * 64);

    /// <summary>Bytes that the frozen weights take when they are loaded, before adapters are attached.</summary>
    /// <param name="dtype">Dtype of activations.</param>
    /// <param name="isQuantized">Whether frozen projections are NF4.</param>
    public long FrozenBytes(DType dtype, bool isQuantized) => (isQuantized ? Nf4Weight.NestedTableSize * sizeof(float) : 0) + Weights.Where(weight => !weight.IsTrained).Sum(weight =>
    {
        if (weight.IsWide) return weight.Shape.Count * dtype.Accumulator().SizeInBytes();
        if (!isQuantized || weight.Role != WeightRole.Projection) return weight.Shape.Count * dtype.SizeInBytes();
        var (codes, scales, nested) = Nf4Kernel.Sizes(weight.Shape.Count);
        return codes + scales + ((nested + 1) * sizeof(float));
    });

    /// <summary>Decides which groups of projections keep their adapters in the border of their weights on a device; to be called when the adapters are attached.</summary>
    /// <returns>Bytes that the borders add to the weights.</returns>
    public long ChooseBorders(PlanTarget target, DType dtype, bool isQuantized) => Groups.Sum(group => group.ChooseBorder(target, dtype, isQuantized));

    private Tensor Hidden(StepContext c)
    {
        Stream?.Begin(c);
        var x = Embed(c);
        for (var layer = 0; layer < Layers.Count; layer++)
        {
            Stream?.Enter(c, layer);
            Layers[layer].ForwardAttention(c, x, ActivationPolicy.Keep);
            x = Layers[layer].ForwardMlp(c);
            Stream?.LeaveForward(c, layer);
        }
        return x;
    }

    private Tensor Embed(StepContext c)
    {
        var x = c.Saved(Config.HiddenSize);
        EmbeddingKernel.Forward(c.Device, c.TokenIds, Embedding.Dense, x, EmbeddingScale(c.DType));
        return x;
    }

    // Gemma rounds √hidden to the compute dtype before it multiplies: 55.5 instead of 55.43 for 3072 in bf16.
    private double EmbeddingScale(DType dtype) => !Config.IsEmbeddingScaleRounded ? Config.EmbeddingScale : dtype switch
    {
        DType.BFloat16 => (float)(BFloat16)(float)Config.EmbeddingScale,
        DType.Float16 => (double)(Half)Config.EmbeddingScale,
        _ => Config.EmbeddingScale,
    };
}
