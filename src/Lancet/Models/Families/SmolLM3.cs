namespace Lancet.Models.Families;

/// <summary>SmolLM 3: Llama without positions in every fourth layer; tied embeddings.</summary>
internal sealed class SmolLM3 : ModelFamily
{
    public override string ModelType => "smollm3";

    public override double DefaultRotaryTheta => 2e6;

    public override bool TiesWordEmbeddings => true;

    public override ModelConfig Configure(ConfigReader reader, ModelConfig config)
    {
        var interval = reader.Integer("no_rope_layer_interval") ?? 4;
        if (interval < 1) throw reader.Error($"no_rope_layer_interval is {interval}; a positive integer is expected.");
        // Despite its name the list says 1 where there is a rotary embedding.
        var rotates = reader.Integers("no_rope_layers") is { Count: > 0 } list ? list : [.. Enumerable.Range(1, config.LayerCount).Select(layer => layer % interval == 0 ? 0 : 1)];
        if (rotates.Count < config.LayerCount) throw reader.Error($"no_rope_layers has {rotates.Count} entries for {config.LayerCount} layers.");
        var window = reader.Boolean("use_sliding_window") ?? false ? reader.Integer("sliding_window") ?? 0 : 0;
        return config with
        {
            HasQueryKeyValueBias = reader.Boolean("attention_bias") ?? false,
            HasOutputBias = reader.Boolean("attention_bias") ?? false,
            HasMlpBias = reader.Boolean("mlp_bias") ?? false,
            LayerRotaries = [.. Enumerable.Range(0, config.LayerCount).Select(layer => rotates[layer] == 0 ? null : config.Rotary)],
            Windows = LayerWindows(reader, config.LayerCount, window, layer => rotates[layer] == 0),
        };
    }
}
