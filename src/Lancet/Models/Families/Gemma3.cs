using Lancet.Kernels;

namespace Lancet.Models.Families;

/// <summary>
/// Gemma 3: Gemma 2 with normed query and key heads instead of soft caps; five layers with a window and frequencies of their own to one that sees
/// everything. Of the models that see (<c>gemma3</c>) the language model is trained.
/// </summary>
internal sealed class Gemma3(string modelType) : ModelFamily
{
    // Files of the models that see name only what differs from these.
    private const string Defaults = """
        {"vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
         "max_position_embeddings": 131072, "sliding_window": 4096, "eos_token_id": 1}
        """;

    private readonly bool _sees = modelType == "gemma3";

    public override string ModelType => modelType;

    public override bool TiesWordEmbeddings => true;

    public override ConfigReader Language(ConfigReader reader) => (_sees ? reader.Object("text_config") ?? throw reader.Error("text_config is missing.") : reader).WithDefaults(Defaults);

    public override ModelConfig Configure(ConfigReader reader, ModelConfig config)
    {
        if (reader.Boolean("use_bidirectional_attention") ?? false) throw reader.Error("use_bidirectional_attention is true; only models that generate text are supported.");
        var pattern = reader.Integer("sliding_window_pattern") ?? reader.Integer("_sliding_window_pattern") ?? 6;
        if (pattern < 1) throw reader.Error($"sliding_window_pattern is {pattern}; a positive integer is expected.");
        var windows = LayerWindows(reader, config.LayerCount, reader.Integer("sliding_window") ?? 0, layer => (layer + 1) % pattern != 0);
        var slides = reader.Texts("layer_types") is { } types ? Array.ConvertAll(types, type => type == "sliding_attention") : [.. Enumerable.Range(1, config.LayerCount).Select(layer => layer % pattern != 0)];
        // The newer style has a block for each kind of layer. In the older one rope_scaling is for the layers that see everything.
        var blocks = reader.Object("rope_parameters");
        var (global, local) = (RotaryConfig.Read(reader, blocks?.Object("full_attention") ?? reader.Object("rope_scaling"), config.HeadDimension, reader.Number("rope_theta") ?? 1e6),
            RotaryConfig.Read(reader, blocks?.Object("sliding_attention"), config.HeadDimension, reader.Number("rope_local_base_freq") ?? 10000));
        return config with
        {
            Activation = reader.Activation("hidden_activation", "gelu_pytorch_tanh"),
            Norm = NormKind.RootMeanSquarePlusOne,
            EmbeddingScale = Math.Sqrt(config.HiddenSize),
            IsEmbeddingScaleRounded = true,
            HasPostNorms = true,
            QueryKeyNorm = QueryKeyNorm.Head,
            HasQueryKeyValueBias = reader.Boolean("attention_bias") ?? false,
            HasOutputBias = reader.Boolean("attention_bias") ?? false,
            AttentionScale = 1 / Math.Sqrt(reader.Number("query_pre_attn_scalar") ?? 256),
            AttentionSoftCap = reader.Number("attn_logit_softcapping") ?? 0,
            LogitSoftCap = reader.Number("final_logit_softcapping") ?? 0,
            Windows = windows,
            Rotary = global,
            LayerRotaries = [.. slides.Select(isLocal => isLocal ? local : global)],
            WeightPrefix = _sees ? "model.language_model." : "model.",
            FormerWeightPrefix = _sees ? "language_model.model." : null,
        };
    }
}
