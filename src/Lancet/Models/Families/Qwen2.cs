namespace Lancet.Models.Families;

/// <summary>Qwen 2 and 2.5: biases on queries, keys and values; a sliding window from a given layer on, off by default.</summary>
internal sealed class Qwen2 : ModelFamily
{
    public override string ModelType => "qwen2";

    public override ModelConfig Configure(ConfigReader reader, ModelConfig config) => config with
    {
        HasQueryKeyValueBias = true,
        Windows = QwenWindows(reader, config.LayerCount),
    };

    internal static int[] QwenWindows(ConfigReader reader, int layers)
    {
        var window = reader.Boolean("use_sliding_window") ?? false ? reader.Integer("sliding_window") ?? 0 : 0;
        var first = reader.Integer("max_window_layers") ?? 28;
        return LayerWindows(reader, layers, window, layer => layer >= first);
    }
}
