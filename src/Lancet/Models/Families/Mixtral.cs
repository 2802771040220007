namespace Lancet.Models.Families;

/// <summary>Mixtral: Mistral with experts in every layer, whose weights sum to 1.</summary>
internal sealed class Mixtral : ModelFamily
{
    public override string ModelType => "mixtral";

    public override double DefaultNormEpsilon => 1e-5;

    public override double DefaultRotaryTheta => 1e6;

    public override ModelConfig Configure(ConfigReader reader, ModelConfig config) => config with
    {
        Windows = LayerWindows(reader, config.LayerCount, reader.Integer("sliding_window") ?? 0, _ => true),
        Experts = new ExpertConfig
        {
            Count = reader.Integer("num_local_experts") ?? 8,
            PerToken = reader.Integer("num_experts_per_tok") ?? 2,
            IntermediateSize = config.IntermediateSize,
            IsNormalized = true,
            Layers = [.. Enumerable.Repeat(true, config.LayerCount)],
            Block = "block_sparse_moe",
            Gate = "w1",
            Up = "w3",
            Down = "w2",
        }.Checked(reader, "num_local_experts"),
    };
}
