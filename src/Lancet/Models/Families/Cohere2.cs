namespace Lancet.Models.Families;

/// <summary>Command R7B and Command A: Command R with a window in three of four layers; the fourth sees everything and has no positions.</summary>
internal sealed class Cohere2 : ModelFamily
{
    public override string ModelType => "cohere2";

    public override bool TiesWordEmbeddings => true;

    public override ModelConfig Configure(ConfigReader reader, ModelConfig config)
    {
        var pattern = reader.Integer("sliding_window_pattern") ?? reader.Integer("_sliding_window_pattern") ?? 4;
        if (pattern < 1) throw reader.Error($"sliding_window_pattern is {pattern}; a positive integer is expected.");
        var windows = LayerWindows(reader, config.LayerCount, reader.Integer("sliding_window") ?? 4096, layer => (layer + 1) % pattern != 0);
        return Cohere.Common(reader, config) with { Windows = windows, LayerRotaries = [.. windows.Select(window => window > 0 ? config.Rotary : null)] };
    }
}
