namespace Lancet.Models.Families;

/// <summary>Mistral: Llama with a sliding window in every layer where the config names one.</summary>
internal sealed class Mistral : ModelFamily
{
    public override string ModelType => "mistral";

    public override ModelConfig Configure(ConfigReader reader, ModelConfig config) => config with
    {
        Windows = LayerWindows(reader, config.LayerCount, reader.Integer("sliding_window") ?? 0, _ => true),
    };
}
