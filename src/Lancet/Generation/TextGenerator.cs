using System.Runtime.InteropServices;
using Lancet.Data;
using Lancet.Devices;
using Lancet.Layers;
using Lancet.Models;
using Lancet.Planning;
using Lancet.Tensors;
using Lancet.Tile;
using Lancet.Training;

namespace Lancet.Generation;

/// <summary>
/// Generates continuations with a key/value cache. Prompts are read one by one, then all sequences go on together, one token each a step.
/// No row of a computation depends on the others, so a batch gives the bits of single runs.
/// </summary>
public sealed class TextGenerator : IDisposable
{
    private readonly LanguageModel _model;
    private readonly int _maxSequences;
    private readonly int _capacity;
    private readonly int[] _originalContexts;
    private readonly StepInputs _inputs;
    private readonly StepMemory _prompt = new();
    private readonly StepMemory _decode = new();
    private readonly KeyValueCache _cache;
    private readonly List<DeviceBuffer> _buffers = [];
    private readonly Tensor _logits;
    private readonly Tensor _slots;
    private readonly PackedBatch _batch;

    /// <summary>Allocates the cache and the memory of a step.</summary>
    /// <param name="model">Model, with or without an adapter.</param>
    /// <param name="maxSequences">Most sequences generated together.</param>
    /// <param name="capacity">Most tokens of a sequence, prompt included.</param>
    public TextGenerator(LanguageModel model, int maxSequences, int capacity)
    {
        (_model, _maxSequences, _capacity) = (model, maxSequences, capacity);
        _originalContexts = [.. model.Config.Rotaries.Where(rotary => rotary.IsLengthDependent).Select(rotary => rotary.OriginalMaxPositions)];
        var maxTokens = Math.Max(maxSequences, capacity);
        _inputs = new StepInputs(model.Device, model.Config, model.DType, maxTokens, capacity);
        _cache = new KeyValueCache(model.Device, model.Config, model.DType, maxSequences, capacity);
        _batch = new PackedBatch(maxTokens, maxSequences);
        var accumulator = model.DType.Accumulator();
        _logits = Allocate((long)maxSequences * model.Config.VocabularySize * accumulator.SizeInBytes(), "logits").View(accumulator, new Shape(maxSequences, model.Config.VocabularySize));
        _slots = Allocate((long)maxTokens * sizeof(int), "cache slots").View(DType.Int32, new Shape(maxTokens));
        Plan(_prompt, capacity, isDecoding: false);
        Plan(_decode, maxSequences, isDecoding: true);
        var memory = Allocate(Math.Max(_prompt.RequiredBytes, _decode.RequiredBytes), "activations");
        _prompt.Bind(memory.Address);
        _decode.Bind(memory.Address);
    }

    /// <summary>Generates one continuation for each prompt.</summary>
    /// <param name="prompts">Token ids; at least one each.</param>
    /// <param name="options">How tokens are chosen.</param>
    /// <param name="onToken">Hears each new token with its prompt's index, or null.</param>
    /// <param name="cancellation">Ends generation early with what there is.</param>
    /// <returns>New tokens of each prompt, without the one that ended it.</returns>
    /// <exception cref="LancetException">A prompt is empty or leaves no room.</exception>
    public IReadOnlyList<int[]> Generate(IReadOnlyList<int[]> prompts, GenerationOptions options, Action<int, int>? onToken = null, CancellationToken cancellation = default)
    {
        if (prompts.Count > _maxSequences) throw new ArgumentException($"{prompts.Count} prompts; the generator was made for {_maxSequences}.");
        var sequences = new List<Sequence>();
        for (var i = 0; i < prompts.Count; i++)
        {
            if (prompts[i].Length == 0) throw new LancetException("The prompt is empty; the model needs at least one token to go on from.");
            if (prompts[i].Length >= _capacity) throw new LancetException($"The prompt has {prompts[i].Length} tokens, which leaves no room in a context of {_capacity}; shorten it or raise --max-seq-length.");
            var sequence = new Sequence(i, prompts[i].Length, new Sampler(options));
            sequence.Sampler.See(prompts[i]);
            Choose(sequence, ReadPrompt(sequence, prompts[i]), options, onToken);
            sequences.Add(sequence);
        }
        while (!cancellation.IsCancellationRequested && sequences.Any(sequence => !sequence.IsDone))
        {
            foreach (var sequence in sequences.Where(sequence => !sequence.IsDone && CrossesOriginalContext(sequence)))
                Choose(sequence, ReadPrompt(sequence, [.. prompts[sequence.Index], .. sequence.Tokens]), options, onToken);
            var active = sequences.Where(sequence => !sequence.IsDone).ToList();
            if (active.Count == 0) break;
            var logits = DecodeStep(active);
            for (var row = 0; row < active.Count; row++) Choose(active[row], logits.AsSpan(row * _model.Config.VocabularySize, _model.Config.VocabularySize), options, onToken);
        }
        return [.. sequences.Select(sequence => sequence.Tokens.ToArray())];
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (var buffer in _buffers) buffer.Dispose();
        _cache.Dispose();
        _inputs.Dispose();
    }

    private void Choose(Sequence sequence, Span<float> logits, GenerationOptions options, Action<int, int>? onToken)
    {
        if (_model.Config.LogitSoftCap is var cap && cap > 0)
            for (var i = 0; i < logits.Length; i++) logits[i] = (float)(cap * Math.Tanh(logits[i] / cap));
        var next = sequence.Sampler.Next(logits);
        if (_model.Config.EosTokenIds.Contains(next) || options.StopTokenIds.Contains(next))
        {
            sequence.IsDone = true;
            return;
        }
        sequence.Tokens.Add(next);
        onToken?.Invoke(sequence.Index, next);
        sequence.IsDone = sequence.Tokens.Count >= options.MaxNewTokens || sequence.PromptLength + sequence.Tokens.Count >= _capacity;
    }

    /// <summary>Whether the next token is the first beyond the context length at which longrope's frequencies change: the keys so far are then computed again.</summary>
    private bool CrossesOriginalContext(Sequence sequence) => _originalContexts.Contains(sequence.PromptLength + sequence.Tokens.Count - 1);

    private Span<float> ReadPrompt(Sequence sequence, int[] prompt)
    {
        _batch.Clear();
        _batch.Add(prompt, []);
        var slots = new int[prompt.Length];
        slots.AsSpan().Fill(sequence.Index * _capacity);
        return Run(_prompt, false, slots, prompt.Length - 1, 1);
    }

    private float[] DecodeStep(List<Sequence> active)
    {
        _batch.Clear();
        foreach (var sequence in active) _batch.Add([sequence.Tokens[^1]], []);
        for (var row = 0; row < active.Count; row++) _batch.Positions[row] = active[row].PromptLength + active[row].Tokens.Count - 1;
        return Run(_decode, true, [.. active.Select(sequence => sequence.Index * _capacity)], 0, active.Count);
    }

    private float[] Run(StepMemory memory, bool isDecoding, int[] slots, int firstRow, int rows)
    {
        var context = new StepContext(_model.Device, memory, _model.DType) { Cache = _cache };
        _inputs.Send(context, _batch);
        (_cache.IsDecoding, _cache.RowSlots) = (isDecoding, _slots.Rows(0, slots.Length));
        _model.Device.CopyFromHost(MemoryMarshal.AsBytes<int>(slots), _cache.RowSlots);
        memory.BeginStep();
        var logits = _logits.Rows(0, rows);
        _model.Decoder.Logits(context, firstRow, logits);
        var result = new float[logits.Count];
        _model.Device.CopyToHostAsFloat32(logits, result);
        return result;
    }

    private void Plan(StepMemory memory, int tokens, bool isDecoding)
    {
        using var device = new PlanningDevice(_model.Device.PlanTarget);
        var context = new StepContext(device, memory, _model.DType) { Cache = _cache };
        _inputs.Bind(context, tokens);
        (_cache.IsDecoding, _cache.RowSlots) = (isDecoding, _slots.Rows(0, tokens));
        memory.BeginPlanning();
        _model.Decoder.Logits(context, 0, _logits.Rows(0, Math.Min(tokens, _maxSequences)));
        memory.EndPlanning();
        _model.Device.Prepare(device.Kernels);
        _model.Device.ReserveMatMulWorkspace(device.MatMulWorkspaceBytes);
    }

    private DeviceBuffer Allocate(long bytes, string purpose)
    {
        var buffer = _model.Device.Allocate(bytes, purpose);
        _buffers.Add(buffer);
        return buffer;
    }

    private sealed class Sequence(int index, int promptLength, Sampler sampler)
    {
        public int Index { get; } = index;

        public int PromptLength { get; } = promptLength;

        public Sampler Sampler { get; } = sampler;

        public List<int> Tokens { get; } = [];

        public bool IsDone { get; set; }
    }
}
