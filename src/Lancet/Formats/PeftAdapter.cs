using System.Runtime.InteropServices;
using System.Text.Json;
using Lancet.Adapters;
using Lancet.Layers;
using Lancet.Models;
using Lancet.Tile;

namespace Lancet.Formats;

/// <summary>A LoRA adapter folder as PEFT writes it: <c>adapter_config.json</c> and <c>adapter_model.safetensors</c>.</summary>
public sealed partial class PeftAdapter : IDisposable
{
    /// <summary>Name of DoRA's magnitudes among a module's tensors.</summary>
    internal const string MagnitudePart = "lora_magnitude_vector";

    private const string Prefix = "base_model.model.";
    // In the metadata of the tensors' file, where other readers pass it by.
    private const string RopeScalingKey = "rope_scaling";
    private const string HeadName = LoraOptions.LmHead + ".weight";
    private readonly string _folder;
    private readonly SafetensorsFile _file;
    private readonly ConfigReader _config;
    private readonly JsonDocument _document;
    private readonly Dictionary<(string Module, string Part), SafetensorsEntry> _tensors = [];
    private readonly Dictionary<string, SafetensorsEntry> _saved = [];

    private PeftAdapter(string folder, JsonDocument document, SafetensorsFile file)
    {
        (_folder, _document, _file) = (folder, document, file);
        _config = new ConfigReader(document.RootElement, Path.Combine(folder, "adapter_config.json"));
        var type = _config.Text("peft_type");
        if (type != "LORA") throw _config.Error($"peft_type is {type ?? "missing"}; LORA is supported.");
        foreach (var unsupported in (string[])["use_qalora", "use_bdlora", "lora_bias", "fan_in_fan_out"])
            if (_config.Boolean(unsupported) == true) throw _config.Error($"{unsupported} is not supported.");
        if ((_config.Text("bias") ?? "none") != "none") throw _config.Error("bias other than none is not supported.");
        foreach (var (key, entry) in file.Entries)
        {
            if (SavedNameOf(key) is { } saved)
            {
                _saved[saved] = entry;
                continue;
            }
            var module = ModuleOf(key, out var part) ?? throw new LancetException($"{file.Path}: tensor {key} is not a LoRA matrix; {folder} holds something else beside LoRA.");
            if (!_tensors.TryAdd((module, part), entry)) throw new LancetException($"{file.Path}: tensor {key} is there under another name as well.");
        }
        if (file.Metadata.TryGetValue(RopeScalingKey, out var scaling))
        {
            try
            {
                RopeScaling = RopeScaling.Parse(scaling);
            }
            catch (LancetException error)
            {
                throw new LancetException($"{file.Path}: {error.Message}", error);
            }
        }
        Options = new LoraOptions
        {
            Rank = _config.Positive("r"),
            Alpha = _config.Number("lora_alpha") ?? throw _config.Error("lora_alpha is missing."),
            Dropout = _config.Number("lora_dropout") ?? 0,
            UsesRankStabilization = _config.Boolean("use_rslora") ?? false,
            UsesDora = _config.Boolean("use_dora") ?? false,
            AlphaPattern = Patterns("alpha_pattern"),
            LayersToTransform = _config.Integers("layers_to_transform"),
            EnsuresWeightTying = _config.Boolean("ensure_weight_tying") ?? false,
        };
        foreach (var module in _config.Texts("modules_to_save") ?? [])
            if (!_saved.Keys.Any(name => name.EndsWith(module + ".weight", StringComparison.Ordinal)) && !(Options.EnsuresWeightTying && _saved.Count > 0))
                throw _config.Error($"modules_to_save names {module}, of which {file.Path} has no weights; {LoraOptions.EmbedTokens} and {LoraOptions.LmHead} are supported.");
    }

    /// <summary>Rank, alpha and dropout.</summary>
    public LoraOptions Options { get; private set; }

    /// <summary>How positions were stretched when Lancet trained the adapter beyond the model's native length, or null.</summary>
    public RopeScaling? RopeScaling { get; }

    /// <summary>Last parts of the names of the modules that have an adapter.</summary>
    public IReadOnlyList<string> TargetModules => [.. Modules().Select(name => name[(name.LastIndexOf('.') + 1)..]).Distinct().Order(StringComparer.Ordinal)];

    /// <summary>Modules that were trained in full beside the adapter.</summary>
    public IReadOnlyList<string> ModulesToSave => [.. ((string[])[LoraOptions.EmbedTokens, LoraOptions.LmHead]).Where(module => _saved.Keys.Any(name => name.EndsWith(module + ".weight", StringComparison.Ordinal)))];

    /// <summary>Opens an adapter folder.</summary>
    /// <exception cref="LancetException">Files are missing or malformed.</exception>
    public static PeftAdapter Open(string folder)
    {
        var config = Path.Combine(folder, "adapter_config.json");
        if (!File.Exists(config)) throw new LancetException($"{config}: not found. An adapter folder holds adapter_config.json and adapter_model.safetensors.");
        JsonDocument document;
        try
        {
            document = JsonDocument.Parse(File.ReadAllBytes(config));
        }
        catch (JsonException error)
        {
            throw new LancetException($"{config}: not valid JSON: {error.Message}", error);
        }
        if (document.RootElement.ValueKind != JsonValueKind.Object) throw new LancetException($"{config}: a JSON object is expected.");
        var file = SafetensorsFile.Open(Path.Combine(folder, "adapter_model.safetensors"));
        try
        {
            return new PeftAdapter(folder, document, file);
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    /// <summary>
    /// Checks that every tensor belongs to a projection of the model and has its shape. Names that older checkpoints of the family used, and what newer ones have put together, are the model's
    /// from here on.
    /// </summary>
    /// <exception cref="LancetException">The adapter was made for another model.</exception>
    public void CheckFits(DecoderModel decoder)
    {
        if (decoder.Config.FormerWeightPrefix is { } former)
        {
            foreach (var ((module, part), entry) in _tensors.Where(item => item.Key.Module.StartsWith(former, StringComparison.Ordinal)).ToList())
            {
                _tensors.Remove((module, part));
                _tensors[(decoder.Config.WeightPrefix + module[former.Length..], part)] = entry;
            }
            foreach (var (name, entry) in _saved.Where(item => item.Key.StartsWith(former, StringComparison.Ordinal)).ToList())
            {
                _saved.Remove(name);
                _saved[decoder.Config.WeightPrefix + name[former.Length..]] = entry;
            }
        }
        var projections = decoder.Projections.ToDictionary(projection => projection.Name);
        if (decoder.Config.Experts is { } experts) SplitExperts(decoder.Config, experts, projections);
        foreach (var ((module, part), entry) in _tensors)
        {
            if (!projections.TryGetValue(module, out var projection)) throw new LancetException($"{_file.Path}: tensor {entry.Name} belongs to no projection of this model; the adapter was made for another one.");
            var (rank, expected, axis) = part == "lora_A" ? (2, projection.InFeatures, 1) : (part == "lora_B" ? 2 : 1, projection.OutFeatures, 0);
            if (entry.Dimensions.Count != rank || entry.Dimensions[axis] != expected)
                throw new LancetException($"{_file.Path}: tensor {entry.Name} has shape [{string.Join(", ", entry.Dimensions)}], but {module} has {expected} {(axis == 1 ? "inputs" : "outputs")}; the adapter was made for another model.");
        }
        foreach (var (name, entry) in _saved)
        {
            if (name != decoder.Embedding.Name && name != HeadName) throw new LancetException($"{_file.Path}: tensor {entry.Name} is neither embedding nor head of this model; the adapter was made for another one.");
            if (!entry.Dimensions.SequenceEqual([decoder.Config.VocabularySize, decoder.Config.HiddenSize]))
                throw new LancetException($"{_file.Path}: tensor {entry.Name} has shape [{string.Join(", ", entry.Dimensions)}]; the model's is {decoder.Embedding.Shape}. Embeddings that were resized are not supported.");
        }
        foreach (var module in Modules())
        {
            var (a, b) = (Entry(module, "lora_A"), Entry(module, "lora_B"));
            if (a.Dimensions[0] != b.Dimensions[1] || a.Dimensions[0] < 1) throw new LancetException($"{_file.Path}: {module} has lora_A of rank {a.Dimensions[0]} and lora_B of rank {b.Dimensions[1]}.");
            if (Options.UsesDora) _ = Entry(module, MagnitudePart);
            else if (_tensors.ContainsKey((module, MagnitudePart))) throw _config.Error($"use_dora is not true, but {_file.Path} holds magnitudes of {module}.");
        }
    }

    /// <summary>Whether a projection has an adapter here.</summary>
    public bool Contains(LoraLinear projection) => _tensors.ContainsKey((projection.Name, "lora_A"));

    /// <summary>Rank of a projection's adapter.</summary>
    public int RankOf(LoraLinear projection) => (int)Entry(projection.Name, "lora_A").Dimensions[0];

    /// <summary>Values of the embedding or head, see <see cref="ModulesToSave"/>.</summary>
    public float[] Read(Weight weight)
    {
        // Of a pair that stayed tied PEFT may write either name.
        return Values(_saved.TryGetValue(weight.Name, out var own) ? own : _saved.Values.First());
    }

    /// <summary>Values of one of a projection's tensors.</summary>
    public float[] Read(string module, string part)
    {
        if (_views.TryGetValue((module, part), out var view)) return view();
        return Values(Entry(module, part));
    }

    /// <summary>Writes a model's adapter.</summary>
    public static void Save(string folder, LanguageModel model, LoraOptions options)
    {
        var outputs = new List<SafetensorsOutput>();
        foreach (var projection in model.Decoder.Projections.Where(projection => projection.A is not null))
            foreach (var weight in projection.Adapter)
                outputs.Add(new(Prefix + weight.Name, DType.Float32, [.. Enumerable.Range(0, weight.Shape.Rank).Select(axis => weight.Shape[axis])], stream => stream.Write(MemoryMarshal.AsBytes<float>(model.Read(weight)))));
        foreach (var weight in model.Decoder.Weights.Where(weight => weight.IsTrained))
            outputs.Add(new(Prefix + weight.Name, DType.Float32, [weight.Shape[0], weight.Shape[1]], stream => stream.Write(MemoryMarshal.AsBytes<float>(model.Read(weight)))));
        outputs.Sort((a, b) => string.CompareOrdinal(a.Name, b.Name));
        var metadata = new Dictionary<string, string> { ["format"] = "pt" };
        if (model.RopeScaling is { } scaling) metadata[RopeScalingKey] = scaling.ToString();
        SafetensorsWriter.Write(Path.Combine(folder, "adapter_model.safetensors"), outputs, metadata);
        AtomicFile.Write(Path.Combine(folder, "adapter_config.json"), stream =>
        {
            using var json = new Utf8JsonWriter(stream, new JsonWriterOptions { Indented = true });
            json.WriteStartObject();
            json.WriteString("peft_type", "LORA");
            json.WriteString("task_type", "CAUSAL_LM");
            json.WriteString("base_model_name_or_path", Hub.HubId.NameOf(model.Folder));
            json.WriteNumber("r", options.Rank);
            json.WriteNumber("lora_alpha", options.Alpha);
            json.WriteNumber("lora_dropout", options.Dropout);
            json.WriteBoolean("use_rslora", options.UsesRankStabilization);
            json.WriteBoolean("use_dora", options.UsesDora);
            json.WriteString("bias", "none");
            json.WriteBoolean("fan_in_fan_out", false);
            json.WriteBoolean("inference_mode", true);
            json.WriteBoolean("init_lora_weights", true);
            if (options.ModulesToSave.Count == 0)
            {
                json.WriteNull("modules_to_save");
            }
            else
            {
                json.WriteStartArray("modules_to_save");
                foreach (var module in options.ModulesToSave) json.WriteStringValue(module);
                json.WriteEndArray();
                json.WriteBoolean("ensure_weight_tying", options.EnsuresWeightTying);
            }
            json.WriteStartArray("target_modules");
            foreach (var target in options.ModulesOf(model.Decoder)) json.WriteStringValue(target);
            json.WriteEndArray();
            if (options.LayersToTransform.Count == 0)
            {
                json.WriteNull("layers_to_transform");
            }
            else
            {
                json.WriteStartArray("layers_to_transform");
                foreach (var layer in options.LayersToTransform) json.WriteNumberValue(layer);
                json.WriteEndArray();
            }
            json.WriteNull("layers_pattern");
            WritePattern("rank_pattern", projection => projection.A!.Shape[0] == options.Rank ? null : projection.A.Shape[0]);
            WritePattern("alpha_pattern", projection => Alpha(projection) is var alpha && Math.Abs(alpha - options.Alpha) < 1e-4 ? null : alpha);
            json.WriteEndObject();

            double Alpha(LoraLinear projection) => projection.Scale * (options.UsesRankStabilization ? Math.Sqrt(projection.A!.Shape[0]) : projection.A!.Shape[0]);

            void WritePattern(string key, Func<LoraLinear, double?> value)
            {
                json.WriteStartObject(key);
                foreach (var projection in model.Decoder.Projections.Where(projection => projection.A is not null))
                    if (value(projection) is { } number) json.WriteNumber(projection.Name, number);
                json.WriteEndObject();
            }
        });
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _file.Dispose();
        _document.Dispose();
    }

    private static float[] Values(SafetensorsEntry entry)
    {
        var values = new float[entry.Count];
        entry.CopyTo(values);
        return values;
    }

    private IEnumerable<string> Modules() => _tensors.Keys.Select(key => key.Module).Distinct();

    private SafetensorsEntry Entry(string module, string part) =>
        _tensors.TryGetValue((module, part), out var entry) ? entry : throw new LancetException($"{_file.Path}: {module} has no {part}; the adapter is not complete.");

    private List<KeyValuePair<string, double>> Patterns(string key)
    {
        if (_config.Find(key) is not { ValueKind: JsonValueKind.Object } patterns) return [];
        return [.. patterns.EnumerateObject().Select(item => new KeyValuePair<string, double>(
            item.Name, item.Value.ValueKind == JsonValueKind.Number ? item.Value.GetDouble() : throw _config.Error($"{key} of {item.Name} is {item.Value.GetRawText()}; a number is expected.")))];
    }

    /// <summary>Name of an embedding's or head's weight, without what PEFT puts around it; null for other tensors.</summary>
    private static string? SavedNameOf(string key)
    {
        if (!key.StartsWith(Prefix, StringComparison.Ordinal)) return null;
        var name = key[Prefix.Length..].Replace(".modules_to_save", "", StringComparison.Ordinal).Replace(".default", "", StringComparison.Ordinal);
        return name == HeadName || name.EndsWith("." + LoraOptions.EmbedTokens + ".weight", StringComparison.Ordinal) ? name : null;
    }

    private static string? ModuleOf(string key, out string part)
    {
        part = "";
        if (!key.StartsWith(Prefix, StringComparison.Ordinal)) return null;
        foreach (var candidate in (string[])["lora_A", "lora_B", MagnitudePart])
        {
            foreach (var suffix in (string[])[$".{candidate}.weight", $".{candidate}.default.weight", $".{candidate}", $".{candidate}.default"])
            {
                if (!key.EndsWith(suffix, StringComparison.Ordinal)) continue;
                part = candidate;
                return key[Prefix.Length..^suffix.Length];
            }
        }
        return null;
    }
}
