namespace Lancet.Models.Families;

/// <summary>Granite 3 (dense): Llama with four factors: of embeddings, of q·k, of what joins the residual stream, and (as a divisor) of the logits.</summary>
internal sealed class Granite : ModelFamily
{
    public override string ModelType => "granite";

    public override ModelConfig Configure(ConfigReader reader, ModelConfig config)
    {
        var divisor = reader.Number("logits_scaling") ?? 1;
        if (divisor <= 0) throw reader.Error($"logits_scaling is {divisor}; a positive number is expected.");
        return config with
        {
            HasQueryKeyValueBias = reader.Boolean("attention_bias") ?? false,
            HasOutputBias = reader.Boolean("attention_bias") ?? false,
            HasMlpBias = reader.Boolean("mlp_bias") ?? false,
            EmbeddingScale = reader.Number("embedding_multiplier") ?? 1,
            AttentionScale = reader.Number("attention_multiplier") ?? 1,
            ResidualScale = reader.Number("residual_multiplier") ?? 1,
            LogitScale = 1 / divisor,
        };
    }
}
