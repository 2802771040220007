namespace Lancet.Models.Families;

/// <summary>OLMo 2: no norms before attention and MLP but after them, and norms of all queries and of all keys of a token.</summary>
internal sealed class Olmo2 : ModelFamily
{
    public override string ModelType => "olmo2";

    public override double DefaultNormEpsilon => 1e-5;

    public override ModelConfig Configure(ConfigReader reader, ModelConfig config) => config with
    {
        HasPreNorms = false,
        HasPostNorms = true,
        QueryKeyNorm = QueryKeyNorm.Projection,
        HasQueryKeyValueBias = reader.Boolean("attention_bias") ?? false,
        HasOutputBias = reader.Boolean("attention_bias") ?? false,
    };
}
