namespace Lancet.Models.Families;

/// <summary>Qwen 3 with experts: all layers but those that the config leaves dense; a window in every layer, off by default.</summary>
internal sealed class Qwen3Moe : ModelFamily
{
    public override string ModelType => "qwen3_moe";

    public override ModelConfig Configure(ConfigReader reader, ModelConfig config)
    {
        var step = reader.Integer("decoder_sparse_step") ?? 1;
        if (step < 1) throw reader.Error($"decoder_sparse_step is {step}; a positive integer is expected.");
        var dense = reader.Integers("mlp_only_layers");
        return config with
        {
            QueryKeyNorm = QueryKeyNorm.Head,
            HasQueryKeyValueBias = reader.Boolean("attention_bias") ?? false,
            HasOutputBias = reader.Boolean("attention_bias") ?? false,
            Windows = LayerWindows(reader, config.LayerCount, reader.Boolean("use_sliding_window") ?? false ? reader.Integer("sliding_window") ?? 4096 : 0, _ => true),
            Experts = new ExpertConfig
            {
                // transformers 5 writes the number under the second name.
                Count = reader.Integer("num_experts") ?? reader.Integer("num_local_experts") ?? 128,
                PerToken = reader.Integer("num_experts_per_tok") ?? 8,
                IntermediateSize = reader.Integer("moe_intermediate_size") ?? 768,
                IsNormalized = reader.Boolean("norm_topk_prob") ?? false,
                Layers = [.. Enumerable.Range(0, config.LayerCount).Select(layer => !dense.Contains(layer) && (layer + 1) % step == 0)],
            }.Checked(reader, "num_experts"),
        };
    }
}
