using System.Text.RegularExpressions;
using Lancet.Layers;
using Lancet.Models;

namespace Lancet.Adapters;

/// <summary>A LoRA adapter to be attached (Hu et al. 2021). Names and defaults are PEFT's where it has them.</summary>
public sealed record LoraOptions
{
    /// <summary>The name that stands for all projections of the decoder's layers.</summary>
    public const string AllLinear = "all-linear";

    /// <summary>The token embedding's name among modules.</summary>
    public const string EmbedTokens = "embed_tokens";

    /// <summary>The output head's name among modules.</summary>
    public const string LmHead = "lm_head";

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

    /// <summary>Whether every output column has a trained magnitude besides (DoRA, Liu et al. 2024).</summary>
    public bool UsesDora { get; init; }

    /// <summary>Whether a new adapter of NF4 weights starts from what the quantisation has lost (LoftQ, Li et al. 2023). It then belongs to the quantised weights: merged into others it adds what they have.</summary>
    public bool UsesLoftQ { get; init; }

    /// <summary>Other ranks for some projections: by the end of a name after a dot, or a regular expression of such an end. The first that matches counts.</summary>
    public IReadOnlyList<KeyValuePair<string, double>> RankPattern { get; init; } = [];

    /// <summary>Other alphas for some projections, likewise.</summary>
    public IReadOnlyList<KeyValuePair<string, double>> AlphaPattern { get; init; } = [];

    /// <summary>Layers whose projections get adapters; all if empty.</summary>
    public IReadOnlyList<int> LayersToTransform { get; init; } = [];

    /// <summary>Modules that are trained in full beside the adapter and saved with it: <see cref="EmbedTokens"/>, <see cref="LmHead"/>. Where they are tied, a module that is named becomes a copy of its own.</summary>
    public IReadOnlyList<string> ModulesToSave { get; init; } = [];

    /// <summary>Whether tied embedding and head stay one matrix that is trained as such, if either is among <see cref="ModulesToSave"/>.</summary>
    public bool EnsuresWeightTying { get; init; }

    /// <summary>Rank of a projection's adapter.</summary>
    /// <exception cref="LancetException">A pattern is malformed, or its value is not a rank.</exception>
    public int RankOf(LoraLinear projection)
    {
        if (Find(RankPattern, projection.Name, "rank_pattern") is not { } value) return Rank;
        return value >= 1 && value == Math.Floor(value) && value <= 65536 ? (int)value : throw new LancetException($"rank_pattern gives {projection.Name} rank {value}; a positive integer is expected.");
    }

    /// <summary>Factor s of a projection's adapter.</summary>
    /// <param name="projection">Projection.</param>
    /// <param name="rank">Rank of its adapter.</param>
    /// <exception cref="LancetException">A pattern is malformed.</exception>
    public double ScaleOf(LoraLinear projection, int rank) => AlphaOf(projection.Name) / (UsesRankStabilization ? Math.Sqrt(rank) : rank);

    /// <summary>Alpha of what has a name.</summary>
    /// <exception cref="LancetException">A pattern is malformed.</exception>
    internal double AlphaOf(string name) => Find(AlphaPattern, name, "alpha_pattern") ?? Alpha;

    /// <summary>The target modules by name in a model.</summary>
    internal IReadOnlyList<string> ModulesOf(DecoderModel decoder) => TargetModules.Contains(AllLinear) ? [.. decoder.ModuleNames] : TargetModules;

    // As PEFT: the whole name, or what follows a dot of it.
    private static double? Find(IReadOnlyList<KeyValuePair<string, double>> patterns, string name, string key)
    {
        foreach (var (pattern, value) in patterns)
        {
            try
            {
                if (Regex.IsMatch(name, $@"^(.*\.)?({pattern})$", RegexOptions.NonBacktracking | RegexOptions.CultureInvariant)) return value;
            }
            catch (Exception error) when (error is ArgumentException or NotSupportedException)
            {
                throw new LancetException($"{key} has the key {pattern}, which is not a usable regular expression: {error.Message}", error);
            }
        }
        return null;
    }
}
