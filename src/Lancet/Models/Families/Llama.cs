namespace Lancet.Models.Families;

/// <summary>Llama 1 to 3.x, Yi, SmolLM, TinyLlama and others that share its architecture: the plain decoder.</summary>
internal sealed class Llama : ModelFamily
{
    public override string ModelType => "llama";

    public override ModelConfig Configure(ConfigReader reader, ModelConfig config) => config with
    {
        HasQueryKeyValueBias = reader.Boolean("attention_bias") ?? false,
        HasOutputBias = reader.Boolean("attention_bias") ?? false,
        HasMlpBias = reader.Boolean("mlp_bias") ?? false,
    };
}
