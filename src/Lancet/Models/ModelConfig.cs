using System.Text.Json;
using Lancet.Formats.Gguf;
using Lancet.Kernels;
using Lancet.Models.Families;

namespace Lancet.Models;

/// <summary>How queries and keys are normed before the rotation.</summary>
public enum QueryKeyNorm
{
    /// <summary>Not at all.</summary>
    None,

    /// <summary>Every head for itself, with the same scales (Qwen 3).</summary>
    Head,

    /// <summary>Every head for itself, with scales of its own (Cohere).</summary>
    HeadWithOwnScales,

    /// <summary>All heads of a token together (OLMo 2).</summary>
    Projection,
}

/// <summary>What a decoder model looks like: everything that its config.json says and its family implies.</summary>
public sealed record ModelConfig
{
    /// <summary>Family name in Hugging Face's files (<c>model_type</c>).</summary>
    public required string ModelType { get; init; }

    /// <summary>Width of the residual stream.</summary>
    public required int HiddenSize { get; init; }

    /// <summary>Width of the gated MLP.</summary>
    public required int IntermediateSize { get; init; }

    /// <summary>Decoder layers.</summary>
    public required int LayerCount { get; init; }

    /// <summary>Query heads.</summary>
    public required int QueryHeads { get; init; }

    /// <summary>Key/value heads.</summary>
    public required int KeyValueHeads { get; init; }

    /// <summary>Elements of a head.</summary>
    public required int HeadDimension { get; init; }

    /// <summary>Rows of the embedding.</summary>
    public required int VocabularySize { get; init; }

    /// <summary>Longest sequence the checkpoint was made for.</summary>
    public required int MaxPositions { get; init; }

    /// <summary>ε of the norms.</summary>
    public required double NormEpsilon { get; init; }

    /// <summary>Rotary embedding of all layers that <see cref="LayerRotaries"/> does not tell apart.</summary>
    public required RotaryConfig Rotary { get; init; }

    /// <summary>Rotary embedding of each layer, null for those without positions; empty if all have <see cref="Rotary"/>.</summary>
    public IReadOnlyList<RotaryConfig?> LayerRotaries { get; init; } = [];

    /// <summary>Whether neighbours of a head are rotated together, instead of elements of its halves.</summary>
    public bool IsRotaryInterleaved { get; init; }

    /// <summary>Whether the output head is the embedding matrix.</summary>
    public bool TiesWordEmbeddings { get; init; }

    /// <summary>Activation of the MLP.</summary>
    public GatedActivation Activation { get; init; }

    /// <summary>What the norms compute.</summary>
    public NormKind Norm { get; init; }

    /// <summary>Whether query, key and value are one projection, and gate and up another.</summary>
    public bool HasFusedProjections { get; init; }

    /// <summary>Whether the query, key and value projections have biases.</summary>
    public bool HasQueryKeyValueBias { get; init; }

    /// <summary>Whether the attention's output projection has a bias.</summary>
    public bool HasOutputBias { get; init; }

    /// <summary>Whether the MLP's projections have biases.</summary>
    public bool HasMlpBias { get; init; }

    /// <summary>How queries and keys are normed before the rotation.</summary>
    public QueryKeyNorm QueryKeyNorm { get; init; }

    /// <summary>Whether attention and MLP read the norm of their inputs.</summary>
    public bool HasPreNorms { get; init; } = true;

    /// <summary>Whether attention and MLP outputs are normed before they join the residual stream.</summary>
    public bool HasPostNorms { get; init; }

    /// <summary>Whether attention and MLP read the same norm of the layer's input, and both are added to it.</summary>
    public bool IsParallel { get; init; }

    /// <summary>Factor of attention's and the MLP's output where it joins the residual stream.</summary>
    public double ResidualScale { get; init; } = 1;

    /// <summary>Factor of q·k.</summary>
    public double AttentionScale { get; init; }

    /// <summary>Soft cap of attention scores; 0 for none.</summary>
    public double AttentionSoftCap { get; init; }

    /// <summary>Soft cap of the logits; 0 for none.</summary>
    public double LogitSoftCap { get; init; }

    /// <summary>Factor of the logits, before the soft cap.</summary>
    public double LogitScale { get; init; } = 1;

    /// <summary>Factor of the embeddings.</summary>
    public double EmbeddingScale { get; init; } = 1;

    /// <summary>Whether the embeddings' factor is rounded to the compute dtype before it is multiplied with.</summary>
    public bool IsEmbeddingScaleRounded { get; init; }

    /// <summary>What the names of all weights but the head's begin with.</summary>
    public string WeightPrefix { get; init; } = "model.";

    /// <summary>What <see cref="WeightPrefix"/> reads in older checkpoints, or null if there are none.</summary>
    public string? FormerWeightPrefix { get; init; }

    /// <summary>Sliding window of each layer; 0 for none.</summary>
    public required IReadOnlyList<int> Windows { get; init; }

    /// <summary>The model's different rotary embeddings.</summary>
    public IReadOnlyList<RotaryConfig> Rotaries => [.. Enumerable.Range(0, LayerCount).Select(RotaryOf).OfType<RotaryConfig>().Distinct()];

    /// <summary>Ids that end a generated text.</summary>
    public IReadOnlyList<int> EosTokenIds { get; init; } = [];

    /// <summary>Experts, or null in dense models.</summary>
    public ExpertConfig? Experts { get; init; }

    /// <summary>Number of parameters of the whole model.</summary>
    public long ParameterCount => new DecoderModel(this).Weights.Sum(weight => weight.Shape.Count);

    /// <summary>Rotary embedding of a layer; null without one.</summary>
    public RotaryConfig? RotaryOf(int layer) => LayerRotaries.Count == 0 ? Rotary : LayerRotaries[layer];

    /// <summary>Whether a layer has experts instead of one MLP.</summary>
    public bool IsSparse(int layer) => Experts is { } experts && experts.Layers[layer];

    /// <summary>What the names of a layer's weights begin with.</summary>
    internal string LayerPrefix(int layer) => $"{WeightPrefix}layers.{layer}.";

    /// <summary>Reads <c>config.json</c> of a model folder.</summary>
    /// <param name="folder">Model folder, or a GGUF file.</param>
    /// <param name="scaling">Context extension, or null.</param>
    /// <exception cref="LancetException">The folder or a key is missing or wrong, or the family is unknown.</exception>
    public static ModelConfig Load(string folder, RopeScaling? scaling = null)
    {
        string Text(string path) => scaling is null ? ReadText(folder) : scaling.Apply(ReadText(folder), path);
        if (GgufFile.IsGguf(folder)) return Parse(Text(folder), folder);
        if (!Directory.Exists(folder)) throw new LancetException($"{folder}: no such model folder. Give the folder that holds config.json and the safetensors files.");
        var path = Path.Combine(folder, "config.json");
        if (!File.Exists(path)) throw new LancetException($"{path}: not found. A model folder holds config.json, safetensors weights and tokenizer files.");
        var config = Parse(Text(path), path);
        // Chat models end their turns with ids that only generation_config.json lists (Llama 3: three of them).
        var generation = Path.Combine(folder, "generation_config.json");
        return File.Exists(generation) ? config with { EosTokenIds = [.. config.EosTokenIds.Union(ParseObject(File.ReadAllText(generation), generation, reader => reader.Integers("eos_token_id")))] } : config;
    }

    /// <summary>The text of a model folder's config.json, or what it would be for a GGUF file.</summary>
    internal static string ReadText(string folder)
    {
        if (!GgufFile.IsGguf(folder)) return File.ReadAllText(Path.Combine(folder, "config.json"));
        using var file = GgufFile.Open(folder);
        return GgufConfig.ToJson(file);
    }

    /// <summary>Reads the text of a config.json.</summary>
    /// <param name="json">Text.</param>
    /// <param name="path">Name for messages.</param>
    public static ModelConfig Parse(string json, string path) => ParseObject(json, path, reader =>
    {
        var family = ModelFamily.Find(reader);
        RequireReadableWeights(reader);
        var language = family.Language(reader);
        var config = family.Configure(language, Common(language, family));
        config = config with { EosTokenIds = [.. config.EosTokenIds.Union(reader.Integers("eos_token_id"))] };
        config.Validate(path);
        return config;
    });

    /// <summary>A configuration of a family, and the keys that it reads beside those that all read.</summary>
    /// <param name="family">Family.</param>
    /// <param name="json">A config.json.</param>
    internal static (ModelConfig Config, IReadOnlyCollection<string> Keys) Describe(ModelFamily family, string json) => ParseObject(json, family.ModelType, whole =>
    {
        var language = family.Language(whole);
        var common = Common(language, family);
        HashSet<string> shared = [], own = [];
        // Some families ask for a window only if it is used.
        foreach (var use in (string[])["false", "true"])
        {
            using var document = JsonDocument.Parse(json.Replace("{", $$"""{ "use_sliding_window": {{use}},""", StringComparison.Ordinal));
            Common(new(document.RootElement, family.ModelType, asked: shared), family);
            family.Configure(family.Language(new(document.RootElement, family.ModelType, asked: own)), common);
        }
        return (family.Configure(language, common), (IReadOnlyCollection<string>)[.. own.Except(shared).Where(key => key[0] != '_')]);
    });

    /// <summary>Of quantised checkpoints NF4 is read; the tensors of others would seem to be missing or of a wrong shape.</summary>
    private static void RequireReadableWeights(ConfigReader reader)
    {
        if (reader.Object("quantization_config") is not { } quantization) return;
        var method = quantization.Text("quant_method") ?? "a method that it does not name";
        if (method == "bitsandbytes")
        {
            var type = quantization.Boolean("load_in_8bit") == true ? "int8" : quantization.Text("bnb_4bit_quant_type") ?? "fp4";
            if (type == "nf4") return;
            method += $" ({type})";
        }
        throw reader.Error($"the weights are quantised by {method}. Read are fp32, bf16 and fp16, bitsandbytes' NF4, and GGUF files; give the model that this one was made from.");
    }

    private static T ParseObject<T>(string json, string path, Func<ConfigReader, T> read)
    {
        JsonDocument document;
        try
        {
            document = JsonDocument.Parse(json);
        }
        catch (JsonException error)
        {
            throw new LancetException($"{path}: not valid JSON: {error.Message}", error);
        }
        using (document)
        {
            if (document.RootElement.ValueKind != JsonValueKind.Object) throw new LancetException($"{path}: a JSON object is expected.");
            return read(new ConfigReader(document.RootElement, path));
        }
    }

    private static ModelConfig Common(ConfigReader reader, ModelFamily family)
    {
        var heads = reader.Positive("num_attention_heads");
        var hidden = reader.Positive("hidden_size");
        var headDimension = reader.Integer("head_dim") ?? hidden / heads;
        var layers = reader.Positive("num_hidden_layers");
        return new ModelConfig
        {
            ModelType = family.ModelType,
            HiddenSize = hidden,
            IntermediateSize = reader.Positive("intermediate_size"),
            LayerCount = layers,
            QueryHeads = heads,
            KeyValueHeads = reader.Integer("num_key_value_heads") ?? heads,
            HeadDimension = headDimension,
            VocabularySize = reader.Positive("vocab_size"),
            MaxPositions = reader.Integer("max_position_embeddings") ?? 2048,
            NormEpsilon = reader.Number("rms_norm_eps") ?? family.DefaultNormEpsilon,
            Rotary = RotaryConfig.Read(reader, headDimension, family.DefaultRotaryTheta),
            TiesWordEmbeddings = reader.Boolean("tie_word_embeddings") ?? family.TiesWordEmbeddings,
            Activation = reader.Activation("hidden_act", "silu"),
            AttentionScale = 1 / Math.Sqrt(headDimension),
            Windows = new int[layers],
            EosTokenIds = reader.Integers("eos_token_id"),
        };
    }

    private void Validate(string path)
    {
        if (KeyValueHeads < 1 || QueryHeads % KeyValueHeads != 0) throw new LancetException($"{path}: num_attention_heads {QueryHeads} is not a multiple of num_key_value_heads {KeyValueHeads}.");
        if (HeadDimension is < 2 or > 256 || HeadDimension % 2 != 0) throw new LancetException($"{path}: head dimension {HeadDimension}; even numbers up to 256 are supported.");
    }
}
