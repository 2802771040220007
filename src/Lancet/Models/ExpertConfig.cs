using Lancet.Kernels;

namespace Lancet.Models;

/// <summary>The experts of a model with sparse layers.</summary>
public sealed record ExpertConfig
{
    /// <summary>Experts of a layer.</summary>
    public required int Count { get; init; }

    /// <summary>Experts that a token goes through.</summary>
    public required int PerToken { get; init; }

    /// <summary>Width of an expert's gated MLP.</summary>
    public required int IntermediateSize { get; init; }

    /// <summary>Whether the weights of a token's experts are made to sum to 1.</summary>
    public required bool IsNormalized { get; init; }

    /// <summary>Which layers have experts; the others have one MLP.</summary>
    public required IReadOnlyList<bool> Layers { get; init; }

    /// <summary>Name of a layer's router and experts in checkpoints.</summary>
    public string Block { get; init; } = "mlp";

    /// <summary>Name of an expert's gate projection.</summary>
    public string Gate { get; init; } = "gate_proj";

    /// <summary>Name of an expert's up projection.</summary>
    public string Up { get; init; } = "up_proj";

    /// <summary>Name of an expert's down projection.</summary>
    public string Down { get; init; } = "down_proj";

    /// <summary>Checks a family's numbers.</summary>
    /// <exception cref="LancetException">They make no sense, or more than is supported.</exception>
    internal ExpertConfig Checked(ConfigReader reader, string countKey)
    {
        if (Count < 1 || Count > ExpertSortKernel.MostExperts) throw reader.Error($"{countKey} is {Count}; 1 to {ExpertSortKernel.MostExperts} experts are supported.");
        if (PerToken < 1 || PerToken > Count) throw reader.Error($"num_experts_per_tok is {PerToken}; 1 to {countKey} {Count} are possible.");
        if (IntermediateSize < 1) throw reader.Error($"the experts' intermediate size is {IntermediateSize}; a positive integer is expected.");
        if (reader.Boolean("output_router_logits") ?? false) throw reader.Error("output_router_logits is true, which asks for a loss that balances the experts; it is not supported. Set it to false to train without.");
        return this;
    }
}
