using Lancet.Kernels;

namespace Lancet.Models.Families;

/// <summary>
/// Command R: layer norms without biases; attention and MLP side by side from one of them; rotary embedding of neighbours; a factor of the
/// logits; tied embeddings. Command R+ norms every query and key head with scales of its own.
/// </summary>
internal sealed class Cohere : ModelFamily
{
    public override string ModelType => "cohere";

    public override double DefaultRotaryTheta => 500000;

    public override bool TiesWordEmbeddings => true;

    public override ModelConfig Configure(ConfigReader reader, ModelConfig config) =>
        Common(reader, config) with { QueryKeyNorm = reader.Boolean("use_qk_norm") ?? false ? QueryKeyNorm.HeadWithOwnScales : QueryKeyNorm.None };

    /// <summary>What Command R and its successors share.</summary>
    internal static ModelConfig Common(ConfigReader reader, ModelConfig config) => config with
    {
        Norm = NormKind.Layer,
        NormEpsilon = reader.Number("layer_norm_eps") ?? 1e-5,
        IsParallel = true,
        IsRotaryInterleaved = true,
        HasQueryKeyValueBias = reader.Boolean("attention_bias") ?? false,
        HasOutputBias = reader.Boolean("attention_bias") ?? false,
        LogitScale = reader.Number("logit_scale") ?? 0.0625,
    };
}
