using Lancet.Models;

namespace Lancet.Adapters;

/// <summary>A LoRA adapter to be attached (Hu et al. 2021). Names and defaults are PEFT's where it has them.</summary>
public sealed record LoraOptions
{
    /// <summary>The name that stands for all projections of the decoder's layers.</summary>
    public const string AllLinear = "all-linear";

    /// <summary>Rank r.</summary>
    public int Rank { get; init; } = 16;

    /// <summary>Alpha; the adapter's output is scaled by alpha / r.</summary>
    public double Alpha { get; init; } = 16;

    /// <summary>Probability that an element of an adapter's input is dropped in training.</summary>
    public double Dropout { get; init; }

    /// <summary>Last parts of the names of the projections that get an adapter; <see cref="AllLinear"/> means every one.</summary>
    public IReadOnlyList<string> TargetModules { get; init; } = [AllLinear];

    /// <summary>Whether the scale is alpha / √r instead (rank-stabilised LoRA, Kalajdzievski 2023).</summary>
    public bool UsesRankStabilization { get; init; }

    /// <summary>Factor of the adapter's output.</summary>
    public double Scale(int rank) => UsesRankStabilization ? Alpha / Math.Sqrt(rank) : Alpha / rank;

    /// <summary>The target modules by name in a model.</summary>
    internal IReadOnlyList<string> ModulesOf(DecoderModel decoder) => TargetModules.Contains(AllLinear) ? [.. decoder.ModuleNames] : TargetModules;
}
