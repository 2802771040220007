using Lancet.Kernels;

namespace Lancet.Models.Families;

/// <summary>Gemma 2: Gemma with norms after attention and MLP, soft caps on scores and logits, a query scale of its own, and a window in every other layer.</summary>
internal sealed class Gemma2 : ModelFamily
{
    public override string ModelType => "gemma2";

    public override bool TiesWordEmbeddings => true;

    public override ModelConfig Configure(ConfigReader reader, ModelConfig config) => config with
    {
        Activation = reader.Activation("hidden_activation", "gelu_pytorch_tanh"),
        Norm = NormKind.RootMeanSquarePlusOne,
        EmbeddingScale = Math.Sqrt(config.HiddenSize),
        IsEmbeddingScaleRounded = true,
        HasPostNorms = true,
        HasQueryKeyValueBias = reader.Boolean("attention_bias") ?? false,
        HasOutputBias = reader.Boolean("attention_bias") ?? false,
        AttentionScale = 1 / Math.Sqrt(reader.Number("query_pre_attn_scalar") ?? 256),
        AttentionSoftCap = reader.Number("attn_logit_softcapping") ?? 0,
        LogitSoftCap = reader.Number("final_logit_softcapping") ?? 0,
        Windows = LayerWindows(reader, config.LayerCount, reader.Integer("sliding_window") ?? 4096, layer => layer % 2 == 0),
    };
}
