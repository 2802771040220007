namespace Lancet.Models.Families;

/// <summary>Phi 3, 3.5 and 4: query, key and value in one projection, gate and up in another; partial rotary and longrope where the config names them.</summary>
internal sealed class Phi3 : ModelFamily
{
    public override string ModelType => "phi3";

    public override double DefaultNormEpsilon => 1e-5;

    public override ModelConfig Configure(ConfigReader reader, ModelConfig config) => config with
    {
        HasFusedProjections = true,
        Windows = LayerWindows(reader, config.LayerCount, reader.Integer("sliding_window") ?? 0, _ => true),
    };
}
