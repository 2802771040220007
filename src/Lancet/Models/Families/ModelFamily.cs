namespace Lancet.Models.Families;

/// <summary>A family of decoder models. Each says how it differs from the plain pre-norm decoder that <see cref="ModelConfig"/> describes, and nothing else.</summary>
internal abstract class ModelFamily
{
    /// <summary>Every family.</summary>
    public static IReadOnlyList<ModelFamily> All { get; } =
    [
        new Llama(), new Mistral(), new Gemma(), new Gemma2(), new Gemma3("gemma3_text"), new Gemma3("gemma3"), new Qwen2(), new Qwen3(), new Phi3(), new Granite(), new SmolLM3(), new Olmo2(),
        new Cohere(), new Cohere2(), new Mixtral(), new Qwen3Moe(),
    ];

    /// <summary>Value of <c>model_type</c> in config.json.</summary>
    public abstract string ModelType { get; }

    /// <summary>Families that there are, by <c>model_type</c>.</summary>
    public static IEnumerable<string> Names => All.Select(family => family.ModelType);

    /// <summary>ε of the norms where a config.json names none.</summary>
    public virtual double DefaultNormEpsilon => 1e-6;

    /// <summary>Base of the rotary frequencies where a config.json names none.</summary>
    public virtual double DefaultRotaryTheta => 10000;

    /// <summary>Whether the head is the embedding where a config.json does not say.</summary>
    public virtual bool TiesWordEmbeddings => false;

    /// <summary>The part of a config.json that describes the language model: all of it, except in models that see or hear as well.</summary>
    public virtual ConfigReader Language(ConfigReader reader) => reader;

    /// <summary>Adds what the family implies or names in keys of its own.</summary>
    public abstract ModelConfig Configure(ConfigReader reader, ModelConfig config);

    /// <summary>The family that a config.json names.</summary>
    /// <exception cref="LancetException">There is none of that name.</exception>
    public static ModelFamily Find(ConfigReader reader)
    {
        var name = reader.Text("model_type") ?? throw reader.Error("model_type is missing.");
        return All.FirstOrDefault(family => family.ModelType == name)
            ?? throw reader.Error($"architecture {name} is not supported; supported are {string.Join(", ", Names)}.");
    }

    /// <summary>Windows from <c>layer_types</c> where the file has them, else from a rule.</summary>
    protected static int[] LayerWindows(ConfigReader reader, int layers, int window, Func<int, bool> slides)
    {
        var types = reader.Texts("layer_types");
        if (types is not null && types.Length != layers) throw reader.Error($"layer_types has {types.Length} entries for {layers} layers.");
        if (types is not null && Array.Find(types, type => type is not ("sliding_attention" or "full_attention")) is { } unknown)
            throw reader.Error($"layer_types names {unknown}; sliding_attention and full_attention are supported.");
        return [.. Enumerable.Range(0, layers).Select(layer => (types is null ? slides(layer) : types[layer] == "sliding_attention") ? Math.Max(window, 0) : 0)];
    }
}
