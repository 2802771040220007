using System.Runtime.InteropServices;
using Lancet.Adapters;
using Lancet.ChatTemplates;
using Lancet.Devices;
using Lancet.Devices.Cpu;
using Lancet.Formats;
using Lancet.Generation;
using Lancet.Layers;
using Lancet.Tensors;
using Lancet.Tile;
using Lancet.Tokenization;
using Lancet.Training;

namespace Lancet.Models;

/// <summary>How a model's weights are held.</summary>
public sealed record LoadOptions
{
    /// <summary>Dtype of activations: fp32, bf16 or fp16 (fp64 for tests).</summary>
    public DType DType { get; init; } = DType.Float32;

    /// <summary>Whether the projections are quantised to NF4 (QLoRA).</summary>
    public bool QuantizesToNf4 { get; init; }

    /// <summary>Whether every weight is trained; they are then held as fp32 masters.</summary>
    public bool IsFullyTrained { get; init; }

    /// <summary>Whether weights are drawn at random instead of read; the folder needs only config.json.</summary>
    public bool IsFromScratch { get; init; }

    /// <summary>Whether weights are drawn at random on the device and not trained unless <see cref="IsFullyTrained"/>; for benchmarks from config.json alone.</summary>
    internal bool IsDrawn { get; init; }

    /// <summary>Layers of a GPU's model whose frozen matrices go to page-locked host memory as they are loaded, and from there to the device for each pass; for models that the device has no room for.</summary>
    public int StreamedLayers { get; init; }

    /// <summary>Seed of random weights.</summary>
    public long Seed { get; init; } = 3407;

    /// <summary>Context extension; positions as config.json has them if null.</summary>
    public RopeScaling? RopeScaling { get; init; }

    /// <summary>Device; the processor if null.</summary>
    public Device? Device { get; init; }

    /// <summary>Whether the model disposes the device with itself.</summary>
    public bool OwnsDevice { get; init; }
}

/// <summary>A language model with its weights, and an adapter if one was added.</summary>
public sealed partial class LanguageModel : IDisposable
{
    // Elements that pass between host and device at a time.
    private const int StagingElements = 1 << 24;

    private readonly List<DeviceBuffer> _owned = [];
    private readonly List<DeviceBuffer> _hostOwned = [];
    private readonly bool _ownsDevice;
    private Checkpoint? _checkpoint;
    private Tokenizer? _tokenizer;
    private ChatTemplate? _chatTemplate;

    private LanguageModel(ModelConfig config, string folder, LoadOptions options)
    {
        (Config, Folder, DType, RopeScaling) = (config, folder, options.DType, options.RopeScaling);
        Decoder = new DecoderModel(config);
        _ownsDevice = options.Device is null || options.OwnsDevice;
        Device = options.Device ?? new CpuDevice();
    }

    /// <summary>What the model looks like.</summary>
    public ModelConfig Config { get; }

    /// <summary>Folder that it was read from.</summary>
    public string Folder { get; }

    /// <summary>Dtype of activations.</summary>
    public DType DType { get; }

    /// <summary>Where the weights are.</summary>
    public Device Device { get; }

    /// <summary>The computation.</summary>
    public DecoderModel Decoder { get; }

    /// <summary>The adapter's options, or null without one.</summary>
    public LoraOptions? Adapter { get; private set; }

    /// <summary>Everything that is trained, or null for a frozen model.</summary>
    public ParameterArena? Trained { get; private set; }

    /// <summary>The folder's tokenizer, read when it is first asked for.</summary>
    /// <exception cref="LancetException">The folder has none, or not a supported one.</exception>
    public Tokenizer Tokenizer => _tokenizer ??= Tokenizer.Load(Folder);

    /// <summary>The folder's chat template, or ChatML.</summary>
    public ChatTemplate ChatTemplate => _chatTemplate ??= Tokenizer.Exists(Folder) && Tokenizer.ChatTemplate is { } source ? ChatTemplate.Parse(source) : ChatTemplate.ChatMl;

    /// <summary>Context extension that the folder's config.json does not have; null without.</summary>
    internal RopeScaling? RopeScaling { get; }

    /// <summary>Bytes of weights that are read from mapped files instead of allocated memory.</summary>
    public long MappedBytes { get; private set; }

    /// <summary>Bytes of the frozen weights on the device, with slots for those that wait in host memory, allocated and mapped.</summary>
    public long FrozenBytes => _owned.Concat(_slots).Sum(buffer => buffer.Bytes) + MappedBytes;

    /// <summary>Loads a Hugging Face model folder.</summary>
    /// <param name="folder">Folder with config.json and safetensors weights.</param>
    /// <param name="options">How the weights are held.</param>
    /// <exception cref="LancetException">Something is missing, malformed or not supported.</exception>
    public static LanguageModel Load(string folder, LoadOptions? options = null)
    {
        options ??= new LoadOptions();
        var model = new LanguageModel(ModelConfig.Load(folder, options.RopeScaling), folder, options);
        try
        {
            model.LoadWeights(options);
            return model;
        }
        catch
        {
            model.Dispose();
            throw;
        }
    }

    /// <summary>Adds a new LoRA adapter: A is drawn from the Kaiming-uniform distribution (a = √5, as PEFT does), B is zero; or both make up for quantisation, see <see cref="LoraOptions.UsesLoftQ"/>.</summary>
    /// <param name="options">Rank and targets.</param>
    /// <param name="seed">Seed of A.</param>
    /// <exception cref="LancetException">There is an adapter already, or a target matches no projection.</exception>
    public void AddLora(LoraOptions options, long seed = 3407)
    {
        Attach(options, options.RankOf);
        var index = 0;
        foreach (var projection in Decoder.Projections.Where(projection => projection.A is not null))
        {
            var random = new DeterministicRandom(seed, ++index);
            var bound = 1 / Math.Sqrt(projection.InFeatures);
            SetTrained(projection.A!, () => (float)(((2 * random.NextDouble()) - 1) * bound));
            // With B zero an output's weights are as long as they were.
            if (projection.Magnitude is { } magnitude) SetTrained(magnitude, [.. ReadBack(projection.SquaredNorms).Select(square => (float)Math.Sqrt(square))]);
        }
        if (options.UsesLoftQ) InitializeLoftQ(seed);
        Trained!.RefreshCopy(Device);
    }

    /// <summary>Adds an adapter from a PEFT folder and goes on training it.</summary>
    /// <exception cref="LancetException">The folder is missing, malformed, made for another model, or trained with positions stretched otherwise.</exception>
    public void LoadAdapter(string folder, double? dropout = null)
    {
        using var adapter = PeftAdapter.Open(folder);
        adapter.CheckFits(Decoder);
        if (adapter.RopeScaling is { } trained && (trained.Type, trained.Factor) != (Config.Rotary.Type, Config.Rotary.Factor))
            throw new LancetException($"{folder}: the adapter was trained with positions stretched by --rope-scaling {trained}; load the model with it, too.");
        var options = adapter.Options with { ModulesToSave = adapter.ModulesToSave };
        if (dropout is { } p) options = options with { Dropout = p };
        Attach(options with { TargetModules = adapter.TargetModules }, adapter.RankOf, adapter.Contains);
        foreach (var projection in Decoder.Projections.Where(projection => projection.A is not null))
        {
            SetTrained(projection.A!, adapter.Read(projection.Name, "lora_A"));
            SetTrained(projection.B!, adapter.Read(projection.Name, "lora_B"));
            if (projection.Magnitude is { } magnitude) SetTrained(magnitude, adapter.Read(projection.Name, PeftAdapter.MagnitudePart));
        }
        foreach (var weight in Decoder.Weights.Where(weight => weight.IsTrained)) SetTrained(weight, adapter.Read(weight));
        Trained!.RefreshCopy(Device);
    }

    /// <summary>Writes the adapter as a PEFT folder.</summary>
    public void SaveAdapter(string folder) => PeftAdapter.Save(folder, this, Adapter ?? throw new InvalidOperationException("The model has no adapter."));

    /// <summary>Values of a weight as fp32 on the host: trained, frozen or quantised.</summary>
    public float[] Read(Weight weight)
    {
        var values = new float[weight.Shape.Count];
        using var dense = weight.Quantized is null ? null : Device.Allocate(values.LongLength * sizeof(float), "staging");
        var source = dense?.View(DType.Float32, weight.Shape) ?? (weight.IsTrained ? Trained!.Master(weight) : weight.Dense);
        if (weight.Quantized is { } nf4) Kernels.Nf4Kernel.Dequantize(Device, nf4, source);
        using var staging = Device.Allocate(Math.Min(values.LongLength, StagingElements) * sizeof(float), "staging");
        var columns = weight.Shape.Rank == 1 ? weight.Shape.Count : weight.Shape.RowCount;
        var slice = new ColumnSlice(source, weight.RowStride == 0 ? columns : weight.RowStride);
        var step = StagingElements / columns * columns;
        for (long start = 0; start < values.Length; start += step)
        {
            var target = staging.View(DType.Float32, new Shape(Math.Min(step, values.Length - start)));
            var part = slice.At(start / columns * slice.RowStride);
            Kernels.ElementwiseKernel.ConvertRows(Device, (int)(target.Count / columns), (int)columns, part, new ColumnSlice(target, columns));
            Device.CopyToHost(target, MemoryMarshal.AsBytes(values.AsSpan((int)start, (int)target.Count)));
        }
        return values;
    }

    /// <summary>Answers a conversation through the chat template, text as it comes.</summary>
    /// <param name="messages">Conversation so far, the last turn the user's.</param>
    /// <param name="options">How tokens are chosen; greedy by default.</param>
    /// <param name="cancellation">Ends the answer.</param>
    public IAsyncEnumerable<string> GenerateAsync(IReadOnlyList<ChatMessage> messages, GenerationOptions? options = null, CancellationToken cancellation = default) =>
        ChatGeneration.StreamAsync(this, messages, options ?? new GenerationOptions(), cancellation);

    /// <summary>Answers one question through the chat template, text as it comes.</summary>
    public IAsyncEnumerable<string> GenerateAsync(string prompt, GenerationOptions? options = null, CancellationToken cancellation = default) => GenerateAsync([new("user", prompt)], options, cancellation);

    /// <summary>The model as a chat client of Microsoft.Extensions.AI.</summary>
    public Microsoft.Extensions.AI.IChatClient AsChatClient(GenerationOptions? options = null) => new LancetChatClient(this, options ?? new GenerationOptions());

    /// <inheritdoc/>
    public void Dispose()
    {
        Trained?.Dispose();
        foreach (var buffer in _owned.Concat(_hostOwned).Concat(_slots).Concat(_waiting.Values.Select(waiting => waiting.Memory))) buffer.Dispose();
        _checkpoint?.Dispose();
        if (_ownsDevice) Device.Dispose();
    }

    /// <summary>Moves the frozen token embedding to page-locked host memory; a GPU reads the rows of a batch from there.</summary>
    internal void MoveEmbeddingToHost()
    {
        var weight = Decoder.Embedding;
        var former = _owned.Single(buffer => buffer.Address == weight.Dense.Address);
        var host = Device.AllocateHost(weight.Dense.Bytes, "the token embedding");
        _hostOwned.Add(host);
        var target = host.View(weight.Dense.DType, weight.Dense.Shape);
        Device.CopyOut(weight.Dense, target, 0);
        Device.AwaitCopy(0);
        Device.Synchronize();
        (weight.Dense, weight.IsInHostMemory) = (target, true);
        _owned.Remove(former);
        former.Dispose();
    }

    /// <summary>Describes a new adapter on a model without giving it memory, for planning.</summary>
    /// <exception cref="LancetException">A target matches no projection.</exception>
    public static void Describe(DecoderModel decoder, LoraOptions options) => Describe(decoder, options, options.RankOf);

    private static void Describe(DecoderModel decoder, LoraOptions options, Func<LoraLinear, int> rankOf, Func<LoraLinear, bool>? contains = null)
    {
        var targets = options.ModulesOf(decoder);
        foreach (var target in targets)
            if (!decoder.Projections.Any(projection => Matches(projection, target))) throw new LancetException($"--target-modules {target} matches no projection; known are {string.Join(", ", decoder.ModuleNames)} and all-linear.");
        var site = 0;
        foreach (var projection in decoder.Projections)
        {
            site++;
            if (!targets.Any(target => Matches(projection, target)) || contains?.Invoke(projection) == false) continue;
            if (options.LayersToTransform.Count > 0 && !options.LayersToTransform.Contains(LayerOf(decoder, projection))) continue;
            var rank = rankOf(projection);
            var a = new Weight(projection.Name + ".lora_A.weight", new Shape(rank, projection.InFeatures), WeightRole.Adapter) { IsTrained = true };
            var b = new Weight(projection.Name + ".lora_B.weight", new Shape(projection.OutFeatures, rank), WeightRole.Adapter) { IsTrained = true };
            var magnitude = options.UsesDora ? new Weight(projection.Name + ".lora_magnitude_vector", new Shape(projection.OutFeatures), WeightRole.Magnitude) { IsTrained = true } : null;
            projection.Attach(a, b, (float)options.ScaleOf(projection, rank), options.Dropout, site, magnitude);
        }
        if (!decoder.Projections.Any(projection => projection.A is not null)) throw new LancetException($"layers_to_transform {string.Join(", ", options.LayersToTransform)} leaves no projection to adapt; the layers are 0 to {decoder.Layers.Count - 1}.");
        foreach (var layer in decoder.Layers) layer.Mlp.CheckAdapters();
        decoder.TrainModules(options);
    }

    private static bool Matches(LoraLinear projection, string target) => projection.Name == target || projection.Name.EndsWith("." + target, StringComparison.Ordinal);

    private void Attach(LoraOptions options, Func<LoraLinear, int> rankOf, Func<LoraLinear, bool>? contains = null)
    {
        if (Adapter is not null || Trained is not null) throw new LancetException("The model is trained already, by an adapter or in full; one at a time.");
        var modules = new SavedModules(this, options);
        Describe(Decoder, options, rankOf, contains);
        modules.NoteMemory();
        Adapter = options;
        Decoder.ChooseBorders(Device.PlanTarget, DType, Decoder.Projections.Any(projection => projection.Weight.Quantized is not null));
        StopStreaming();
        var layers = Decoder.Layers.Select(layer => layer.Groups.Where(group => group.IsBordered).ToList()).ToList();
        for (var layer = 0; layer < layers.Count; layer++)
        {
            if (layers[layer].Count == 0) continue;
            var waits = _waiting.ContainsKey(layer) && layers[layer].Exists(group => group.BaseWeights.All(weight => weight.Quantized is null));
            if (waits) MoveToDevice(layer);
            StoreBordered(layers[layer]);
            if (waits) MoveToHost(layer);
        }
        Trained = new ParameterArena(Device, [.. Decoder.TrainedWeights], DType, layers.Where(groups => groups.Count > 0).Select(groups => groups.SelectMany(group => group.Copies())));
        modules.Restore();
        if (options.UsesDora) WriteSquaredNorms();
        StartStreaming();
    }

    /// <summary>The lengths of the frozen weights' rows, which DoRA reads at every step.</summary>
    private void WriteSquaredNorms()
    {
        LoraLinear[] projections = [.. Decoder.Projections.Where(projection => projection.Magnitude is not null)];
        var accumulator = DType.Accumulator();
        var memory = Device.Allocate(DecoderModel.SquaredNormElements(projections) * accumulator.SizeInBytes(), "lengths of weights");
        _owned.Add(memory);
        using var staging = projections.Any(projection => projection.Weight.Quantized is not null) ? Device.Allocate(projections.Max(projection => projection.Weight.Shape.Count) * sizeof(float), "staging") : null;
        long offset = 0;
        foreach (var projection in projections)
        {
            projection.SquaredNorms = memory.View(accumulator, new Shape(projection.OutFeatures), offset * accumulator.SizeInBytes());
            offset += DecoderModel.SquaredNormElements([projection]);
            projection.WriteSquaredNorms(Device, staging is null ? default : staging.View(DType.Float32, projection.Weight.Shape));
        }
        Device.Synchronize();
    }

    private double[] ReadBack(Tensor tensor)
    {
        if (tensor.DType == DType.Float64)
        {
            var wide = new double[tensor.Count];
            Device.CopyToHost(tensor, MemoryMarshal.AsBytes(wide.AsSpan()));
            return wide;
        }
        var values = new float[tensor.Count];
        Device.CopyToHost(tensor, MemoryMarshal.AsBytes(values.AsSpan()));
        return Array.ConvertAll(values, value => (double)value);
    }

    private static int LayerOf(DecoderModel decoder, LoraLinear projection)
    {
        var rest = projection.Name.AsSpan()[(decoder.Config.WeightPrefix.Length + "layers.".Length)..];
        return int.Parse(rest[..rest.IndexOf('.')], System.Globalization.CultureInfo.InvariantCulture);
    }

    /// <summary>Moves the weights of a layer's groups into one buffer with borders; one layer is there twice in between.</summary>
    private void StoreBordered(List<ProjectionGroup> groups)
    {
        DeviceBuffer Allocate(DType dtype, long count)
        {
            _owned.Add(Device.Allocate(count * dtype.SizeInBytes(), "base weights with adapters"));
            return _owned[^1];
        }
        var former = _owned.Where(buffer => groups.SelectMany(group => group.BaseWeights).Any(weight => weight.Quantized is null && weight.Dense.Address == buffer.Address)).ToList();
        var memory = Allocate(DType, groups.Sum(group => group.StoredElements));
        long offset = 0;
        foreach (var group in groups)
        {
            var hasBias = group.BaseWeights.Any(weight => weight.Role == WeightRole.Bias);
            var bias = hasBias ? Allocate(DType.Accumulator(), group.OutFeatures).View(DType.Accumulator(), new Shape(group.OutFeatures)) : default;
            group.Store(Device, memory.View(DType, new Shape(group.StoredElements), offset), bias);
            offset += group.StoredElements * DType.SizeInBytes();
        }
        Device.Synchronize();
        Free(former);
    }

    /// <summary>Frees memory of weights that have moved.</summary>
    private void Free(List<DeviceBuffer> left)
    {
        foreach (var buffer in left)
        {
            _owned.Remove(buffer);
            buffer.Dispose();
        }
    }

    private void SetTrained(Weight weight, Func<float> next)
    {
        var values = new float[weight.Shape.Count];
        for (var i = 0; i < values.Length; i++) values[i] = next();
        SetTrained(weight, values);
    }

    private void SetTrained(Weight weight, float[] values)
    {
        using var staging = Device.Allocate(Math.Min(values.LongLength, StagingElements) * sizeof(float), "staging");
        var master = Trained!.Master(weight);
        var flat = new Tensor(master.Address, master.DType, new Shape(master.Count));
        for (var start = 0; start < values.Length; start += StagingElements)
        {
            var part = flat.Rows(start, Math.Min(StagingElements, values.Length - start));
            var source = staging.View(DType.Float32, part.Shape);
            Device.CopyFromHost(MemoryMarshal.AsBytes(values.AsSpan(start, (int)part.Count)), source);
            Kernels.ElementwiseKernel.Convert(Device, source, part);
        }
        Device.Synchronize();
    }

    private void LoadWeights(LoadOptions options)
    {
        if (options.IsFullyTrained || options.IsFromScratch)
        {
            foreach (var weight in Decoder.Weights) weight.IsTrained = true;
            Trained = new ParameterArena(Device, Decoder.Weights, DType);
        }
        if (options.IsFromScratch)
        {
            Initialize(options.Seed);
            return;
        }
        _checkpoint = options.IsDrawn ? null : Checkpoint.Open(Folder, DType);
        var streamed = LastWeightsOfStreamed(options);
        using var loader = new WeightLoader(Device, _checkpoint, DType, _owned) { Seed = options.Seed, Config = Config };
        foreach (var weight in Decoder.Weights)
        {
            if (weight.IsTrained) loader.CopyTo(weight, Trained!.Master(weight));
            else loader.Load(weight, options.QuantizesToNf4);
            if (streamed.TryGetValue(weight, out var layer)) MoveToHost(layer);
        }
        MappedBytes = loader.MappedBytes;
        StartStreaming();
        Trained?.RefreshCopy(Device);
    }

    // Hugging Face's initialisation: normal of deviation 0.02 for matrices, scales of one, biases of zero.
    private void Initialize(long seed)
    {
        const double deviation = 0.02;
        for (var i = 0; i < Decoder.Weights.Count; i++)
        {
            var weight = Decoder.Weights[i];
            var random = new DeterministicRandom(seed, i + 1);
            if (weight.Role == WeightRole.Norm) SetTrained(weight, () => Config.Norm == Kernels.NormKind.RootMeanSquarePlusOne ? 0 : 1);
            else if (weight.Role != WeightRole.Bias) SetTrained(weight, () => (float)(deviation * random.NextNormal()));
        }
        Trained!.RefreshCopy(Device);
    }
}
