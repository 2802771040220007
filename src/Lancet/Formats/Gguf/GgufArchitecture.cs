using Lancet.Kernels;
using Lancet.Models;

namespace Lancet.Formats.Gguf;

/// <summary>
/// How a family of models is laid out in GGUF files: the architecture's name, and what llama.cpp computes for it whatever the file says. What a model does otherwise is
/// refused, or noted where it only matters for long contexts.
/// </summary>
internal sealed class GgufArchitecture
{
    private static readonly Dictionary<string, string> s_names = new()
    {
        ["llama"] = "llama",
        ["mistral"] = "llama",
        ["mixtral"] = "llama",
        ["gemma"] = "gemma",
        ["gemma2"] = "gemma2",
        ["gemma3_text"] = "gemma3",
        ["gemma3"] = "gemma3",
        ["qwen2"] = "qwen2",
        ["qwen3"] = "qwen3",
        ["qwen3_moe"] = "qwen3moe",
        ["phi3"] = "phi3",
        ["granite"] = "granite",
        ["smollm3"] = "smollm3",
        ["olmo2"] = "olmo2",
        ["cohere"] = "command-r",
        ["cohere2"] = "cohere2",
    };

    private readonly ModelConfig _config;

    private GgufArchitecture(string name, ModelConfig config) => (Name, _config) = (name, config);

    /// <summary>Value of <c>general.architecture</c>, and what the architecture's keys begin with.</summary>
    public string Name { get; }

    /// <summary>
    /// Whether rows of queries and keys are in another order than in Hugging Face's files: llama.cpp rotates neighbours in these architectures, Hugging Face elements of a head's halves.
    /// </summary>
    public bool PermutesHeads => Name is "llama" or "granite" or "smollm3";

    /// <summary>Whether norms are stored as 1 + w.</summary>
    public bool StoresNormsPlusOne => _config.Norm == NormKind.RootMeanSquarePlusOne;

    /// <summary>Factor of queries that makes up for the attention scale that llama.cpp uses where the file cannot name it; 1 elsewhere.</summary>
    public double QueryFactor => Name switch
    {
        "gemma2" or "gemma3" => _config.AttentionScale / GemmaScale,
        _ => 1,
    };

    /// <summary>Whether the file names the attention scale.</summary>
    public bool NamesAttentionScale => Name == "granite";

    /// <summary>What export should say: where llama.cpp will differ from the model.</summary>
    public IEnumerable<string> Notes
    {
        get
        {
            var window = _config.Windows.Max();
            if (window > 0 && Name is ("llama" or "qwen2" or "qwen3" or "qwen3moe" or "smollm3" or "phi3"))
                yield return $"The model has a sliding window of {window} tokens, which llama.cpp does not apply to this architecture: contexts longer than that will differ.";
            if (_config.Rotary is { IsLengthDependent: true, HasFixedFactors: false })
                yield return $"Lancet takes longrope's long factors for sequences of more than {_config.Rotary.OriginalMaxPositions} tokens; llama.cpp takes them for contexts (--ctx-size) of more than that.";
        }
    }

    // llama.cpp tells the largest of each generation by its number of layers and scales it by hidden size over heads (gemma_pytorch, config.py).
    private double GemmaScale => (Name == "gemma2" && _config.LayerCount == 46) || (Name == "gemma3" && _config.LayerCount == 62)
        ? 1 / Math.Sqrt(_config.HiddenSize / _config.QueryHeads)
        : 1 / Math.Sqrt(_config.HeadDimension);

    /// <summary>The architecture of a family, or null.</summary>
    public static string? NameOf(string modelType) => s_names.GetValueOrDefault(modelType);

    /// <summary>The architecture of a model.</summary>
    /// <exception cref="LancetException">GGUF files, or llama.cpp, cannot express the model.</exception>
    public static GgufArchitecture Of(ModelConfig config)
    {
        if (!s_names.TryGetValue(config.ModelType, out var name)) throw new LancetException($"GGUF: models of type {config.ModelType} cannot be written; {string.Join(", ", s_names.Keys)} can.");
        var result = new GgufArchitecture(name, config);
        result.Validate();
        return result;
    }

    /// <summary>Value of <c>model_type</c> for an architecture, or null.</summary>
    public static string? ModelTypeOf(string name) => s_names.Where(item => item.Value == name).Select(item => item.Key).FirstOrDefault();

    /// <summary>Architectures that can be read.</summary>
    public static IEnumerable<string> Names => s_names.Values.Distinct();

    /// <summary>Distance of the layers without a sliding window, which come last in each period; 0 if no layer has one, −1 where there is no such rule.</summary>
    public int WindowPeriod()
    {
        var full = _config.Windows.ToList().IndexOf(0);
        if (_config.Windows.All(window => window == 0)) return 0;
        // Without a layer that sees everything any period beyond the last layer will do.
        var period = full < 0 ? _config.LayerCount + 1 : full + 1;
        var window = _config.Windows.Max();
        return Enumerable.Range(0, _config.LayerCount).All(layer => _config.Windows[layer] == ((layer + 1) % period == 0 ? 0 : window)) ? period : -1;
    }

    private void Validate()
    {
        LancetException No(string what) => new($"GGUF: llama.cpp's architecture {Name} has no way to express {what}; export the model as safetensors instead (--format safetensors).");
        var gelu = Name.StartsWith("gemma", StringComparison.Ordinal);
        if (_config.Activation != (gelu ? GatedActivation.GeluTanh : GatedActivation.Silu)) throw No($"the activation {_config.Activation}");
        if (_config.HasQueryKeyValueBias && Name is not ("llama" or "granite" or "smollm3" or "qwen2")) throw No("biases of queries, keys and values (attention_bias)");
        if (_config.HasOutputBias && Name is not ("llama" or "granite" or "smollm3")) throw No("a bias of the attention's output (attention_bias)");
        if (_config.HasMlpBias && Name is not ("llama" or "granite" or "smollm3")) throw No("biases of the MLP (mlp_bias)");
        if (Name == "command-r" && _config.QueryKeyNorm != QueryKeyNorm.None && _config.LayerCount < 64) throw No("normed queries and keys in models of fewer than 64 layers (use_qk_norm)");
        if (Name is ("cohere2" or "command-r" or "olmo2" or "phi3") && _config.QueryHeads * _config.HeadDimension != _config.HiddenSize) throw No($"{_config.QueryHeads} heads of {_config.HeadDimension} elements in a model of width {_config.HiddenSize}");
        if (gelu && Name != "gemma2" && (_config.AttentionSoftCap > 0 || _config.LogitSoftCap > 0)) throw No("soft caps");
        if (Name == "gemma2" && (_config.AttentionSoftCap <= 0 || _config.LogitSoftCap <= 0)) throw No("a model without soft caps");
        if (gelu && !_config.TiesWordEmbeddings) throw No("a head of its own (tie_word_embeddings false)");
        if (Name is ("gemma2" or "gemma3" or "cohere2") && WindowPeriod() < 0) throw No("this order of layers with and without a sliding window");
        if (Name == "cohere2" && WindowPeriod() == 0) throw No("a model without a sliding window");
        if (!gelu && Name != "granite" && _config.EmbeddingScale != 1) throw No("a factor of the embeddings");
        if (_config.Experts is { } experts && experts.Layers.Contains(false)) throw No("layers with experts beside layers without");
        if (_config.Experts is { IsNormalized: false }) throw No("experts whose weights do not sum to 1 (norm_topk_prob false)");
        ValidateRotary(No);
    }

    private void ValidateRotary(Func<string, LancetException> no)
    {
        var rotary = _config.Rotary;
        if ((rotary.Type == "llama3" || rotary.HasFixedFactors) && Name is not ("llama" or "granite")) throw no($"rotary scaling of type {rotary.Type}");
        if (rotary.Type == "longrope" && !rotary.HasFixedFactors && Name != "phi3") throw no("rotary scaling of type longrope");
        if (rotary.Type == "yarn" && !rotary.IsTruncated) throw no("yarn with truncate false");
        if (rotary.Type != "default" && Name is ("command-r" or "cohere2")) throw no($"rotary scaling of type {rotary.Type}");
        if (rotary.Dimension != _config.HeadDimension && Name is ("smollm3" or "olmo2")) throw no("partial rotary embeddings");
        for (var layer = 0; layer < _config.LayerCount; layer++)
        {
            var actual = _config.RotaryOf(layer);
            var expected = Name switch
            {
                "smollm3" => (layer + 1) % 4 == 0 ? null : rotary,
                "cohere2" => _config.Windows[layer] == 0 ? null : rotary,
                "gemma3" => actual,
                _ => rotary,
            };
            if (actual != expected) throw no($"layer {layer} {(actual is null ? "without positions" : "with these positions")}");
            if (Name == "gemma3" && _config.Windows[layer] > 0 && actual!.Type != "default") throw no("rotary scaling in layers with a sliding window");
        }
    }
}
