namespace Lancet.Models.Families;

/// <summary>Qwen 3: every query and key head is normed before the rotation; no biases.</summary>
internal sealed class Qwen3 : ModelFamily
{
    public override string ModelType => "qwen3";

    public override ModelConfig Configure(ConfigReader reader, ModelConfig config) => config with
    {
        QueryKeyNorm = QueryKeyNorm.Head,
        HasQueryKeyValueBias = reader.Boolean("attention_bias") ?? false,
        HasOutputBias = reader.Boolean("attention_bias") ?? false,
        Windows = Qwen2.QwenWindows(reader, config.LayerCount),
    };
}
