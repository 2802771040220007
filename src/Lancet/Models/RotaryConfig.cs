namespace Lancet.Models;

/// <summary>How rotary frequencies are made.</summary>
public sealed record RotaryConfig
{
    /// <summary>Rotated elements of a head.</summary>
    public required int Dimension { get; init; }

    /// <summary>Base θ of the frequencies.</summary>
    public double Theta { get; init; } = 10000;

    /// <summary>default, linear, llama3, yarn or longrope.</summary>
    public string Type { get; init; } = "default";

    /// <summary>By how much positions or frequencies are stretched.</summary>
    public double Factor { get; init; } = 1;

    /// <summary>Context length before stretching.</summary>
    public int OriginalMaxPositions { get; init; }

    /// <summary>llama3: wavelengths above original / this are stretched fully.</summary>
    public double LowFrequencyFactor { get; init; } = 1;

    /// <summary>llama3: wavelengths below original / this are not stretched.</summary>
    public double HighFrequencyFactor { get; init; } = 4;

    /// <summary>yarn: rotations over the original context above which a frequency is kept.</summary>
    public double BetaFast { get; init; } = 32;

    /// <summary>yarn: rotations over the original context below which a frequency is stretched fully.</summary>
    public double BetaSlow { get; init; } = 1;

    /// <summary>yarn: whether the bounds of the ramp are rounded to whole dimensions.</summary>
    public bool IsTruncated { get; init; } = true;

    /// <summary>yarn and longrope: factor of cos and sin; 1 elsewhere.</summary>
    public double AttentionFactor { get; init; } = 1;

    /// <summary>Whether sequences longer than the original context have frequencies of their own.</summary>
    public bool IsLengthDependent => Type == "longrope";

    /// <summary>Whether frequencies are divided by factors of their own that do not depend on the length: longrope with the same factors on both sides.</summary>
    internal bool HasFixedFactors => Type == "longrope" && AttentionFactor == 1 && ShortFactors.SequenceEqual(LongFactors);

    /// <summary>longrope: divisors of the frequencies up to the original context length.</summary>
    public IReadOnlyList<double> ShortFactors { get; init; } = [];

    /// <summary>longrope: divisors of the frequencies beyond it.</summary>
    public IReadOnlyList<double> LongFactors { get; init; } = [];

    /// <summary>Reads both styles of config.json: <c>rope_parameters</c>, or <c>rope_theta</c> beside <c>rope_scaling</c>.</summary>
    internal static RotaryConfig Read(ConfigReader config, int headDimension, double defaultTheta) =>
        Read(config, config.Object("rope_parameters") ?? config.Object("rope_scaling"), headDimension, config.Number("rope_theta") ?? defaultTheta);

    /// <summary>Reads a block of its own for some of the layers.</summary>
    /// <param name="config">The whole file.</param>
    /// <param name="block">Block, or null for frequencies as they are.</param>
    /// <param name="headDimension">Elements of a head.</param>
    /// <param name="theta">Base where the block names none.</param>
    internal static RotaryConfig Read(ConfigReader config, ConfigReader? block, int headDimension, double theta)
    {
        var partial = block?.Number("partial_rotary_factor") ?? config.Number("partial_rotary_factor") ?? 1;
        var dimension = (int)(headDimension * partial);
        if (dimension < 2 || dimension > headDimension || dimension % 2 != 0) throw config.Error($"partial_rotary_factor {partial} of a head of {headDimension} rotates {dimension} elements; an even number up to the head is expected.");
        var result = new RotaryConfig { Dimension = dimension, Theta = block?.Number("rope_theta") ?? theta };
        if (block is null) return result;
        var type = block.Text("rope_type") ?? block.Text("type") ?? "default";
        // Early Phi-3 files call longrope "su" or "yarn".
        if (type == "su" || (type == "yarn" && block.Find("short_factor") is not null)) type = "longrope";
        if (type is "default" or "mrope") return result;
        var maxPositions = config.Integer("max_position_embeddings") ?? 2048;
        var original = block.Integer("original_max_position_embeddings") ?? config.Integer("original_max_position_embeddings") ?? maxPositions;
        result = result with { Type = type, OriginalMaxPositions = original, Factor = block.Number("factor") ?? (double)maxPositions / original };
        return type switch
        {
            "linear" => result,
            "llama3" => result with
            {
                LowFrequencyFactor = block.Number("low_freq_factor") ?? throw block.Error("low_freq_factor is missing."),
                HighFrequencyFactor = block.Number("high_freq_factor") ?? throw block.Error("high_freq_factor is missing."),
            },
            "yarn" => result with
            {
                BetaFast = block.Number("beta_fast") ?? 32,
                BetaSlow = block.Number("beta_slow") ?? 1,
                IsTruncated = block.Boolean("truncate") ?? true,
                AttentionFactor = block.Number("attention_factor") ?? YarnFactor(block, result.Factor),
            },
            "longrope" => result with
            {
                ShortFactors = Factors(block, "short_factor", dimension),
                LongFactors = Factors(block, "long_factor", dimension),
                AttentionFactor = block.Number("attention_factor") ?? (result.Factor <= 1 ? 1 : Math.Sqrt(1 + (Math.Log(result.Factor) / Math.Log(original)))),
            },
            _ => throw block.Error($"rope_type {type}; default, linear, llama3, yarn and longrope are supported."),
        };
    }

    private static double YarnFactor(ConfigReader block, double factor)
    {
        double Scale(double m) => factor <= 1 ? 1 : (0.1 * m * Math.Log(factor)) + 1;
        return block.Number("mscale") is { } one && block.Number("mscale_all_dim") is { } all && one != 0 && all != 0 ? Scale(one) / Scale(all) : Scale(1);
    }

    private static double[] Factors(ConfigReader block, string key, int dimension) => block.Numbers(key) is { } factors && factors.Length == dimension / 2
        ? factors
        : throw block.Error($"{key} must hold {dimension / 2} numbers.");
}
