using Lancet.Kernels;
using Lancet.Models;

namespace Lancet.Formats.Gguf;

/// <summary>A model's configuration as the keys of a GGUF file.</summary>
internal static class GgufModelMetadata
{
    /// <summary>Adds the keys that describe the computation.</summary>
    public static void Add(GgufMetadata metadata, GgufArchitecture architecture, ModelConfig config)
    {
        var prefix = architecture.Name + ".";
        void Integer(string key, int value) => metadata.Add(prefix + key, (uint)value);
        void Number(string key, double value) => metadata.Add(prefix + key, (float)value);

        Integer("vocab_size", config.VocabularySize);
        Integer("context_length", config.MaxPositions);
        Integer("embedding_length", config.HiddenSize);
        Integer("block_count", config.LayerCount);
        Integer("feed_forward_length", config.IntermediateSize);
        Integer("attention.head_count", config.QueryHeads);
        Integer("attention.head_count_kv", config.KeyValueHeads);
        Integer("attention.key_length", config.HeadDimension);
        Integer("attention.value_length", config.HeadDimension);
        Number(config.Norm == NormKind.Layer ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon", config.NormEpsilon);
        if (config.Experts is { } experts)
        {
            Integer("expert_count", experts.Count);
            Integer("expert_used_count", experts.PerToken);
            if (architecture.Name == "qwen3moe") Integer("expert_feed_forward_length", experts.IntermediateSize);
        }
        if (config.AttentionSoftCap > 0) Number("attn_logit_softcapping", config.AttentionSoftCap);
        if (config.LogitSoftCap > 0) Number("final_logit_softcapping", config.LogitSoftCap);
        if (architecture.NamesAttentionScale)
        {
            Number("attention.scale", config.AttentionScale);
            Number("embedding_scale", config.EmbeddingScale);
            Number("residual_scale", config.ResidualScale);
            // The file's number divides.
            Number("logit_scale", 1 / config.LogitScale);
        }
        else if (config.LogitScale != 1)
        {
            Number("logit_scale", config.LogitScale);
        }
        if (architecture.WindowPeriod() is var period && period != 0)
        {
            Integer("attention.sliding_window", config.Windows.Max());
            if (architecture.Name is "gemma2" or "gemma3" or "cohere2") Integer("attention.sliding_window_pattern", period);
        }
        else if (architecture.Name == "gemma2")
        {
            // Without the key llama.cpp assumes 4096.
            Integer("attention.sliding_window", config.MaxPositions);
        }
        else if (architecture.Name == "phi3")
        {
            // Distinguishes Phi 4 from older models, which had one.
            Integer("attention.sliding_window", 0);
        }
        AddRotary(metadata, architecture, config, Integer, Number);
    }

    /// <summary>Tensors that hold divisors of the rotary frequencies.</summary>
    public static IEnumerable<(string Name, float[] Values)> RotaryTensors(ModelConfig config)
    {
        var rotary = config.Rotary;
        switch (rotary.Type)
        {
            case "llama3":
                var plain = RotaryTable.Frequencies(rotary with { Type = "default" }, 1);
                yield return ("rope_freqs.weight", [.. RotaryTable.Frequencies(rotary, 1).Select((frequency, i) => plain[i] / frequency)]);
                break;
            case "longrope" when rotary.HasFixedFactors:
                yield return ("rope_freqs.weight", [.. rotary.LongFactors.Select(factor => (float)factor)]);
                break;
            case "longrope":
                yield return ("rope_factors_long.weight", [.. rotary.LongFactors.Select(factor => (float)factor)]);
                yield return ("rope_factors_short.weight", [.. rotary.ShortFactors.Select(factor => (float)factor)]);
                break;
        }
    }

    private static void AddRotary(GgufMetadata metadata, GgufArchitecture architecture, ModelConfig config, Action<string, int> integer, Action<string, double> number)
    {
        var rotary = config.Rotary;
        integer("rope.dimension_count", rotary.Dimension);
        number("rope.freq_base", rotary.Theta);
        if (config.LayerRotaries.OfType<RotaryConfig>().FirstOrDefault(other => other != rotary) is { } local) number("rope.freq_base_swa", local.Theta);
        var key = architecture.Name + ".rope.scaling.type";
        switch (rotary.Type)
        {
            case "linear":
                metadata.Add(key, "linear");
                number("rope.scaling.factor", rotary.Factor);
                break;
            case "yarn":
                metadata.Add(key, "yarn");
                number("rope.scaling.factor", rotary.Factor);
                integer("rope.scaling.original_context_length", rotary.OriginalMaxPositions);
                // llama.cpp multiplies this with its own 1 + 0.1·ln(factor).
                var usual = rotary.Factor <= 1 ? 1 : 1 + (0.1 * Math.Log(rotary.Factor));
                if (Math.Abs((rotary.AttentionFactor / usual) - 1) > 1e-6) number("rope.scaling.attn_factor", rotary.AttentionFactor / usual);
                if (rotary.BetaFast != 32) number("rope.scaling.yarn_beta_fast", rotary.BetaFast);
                if (rotary.BetaSlow != 1) number("rope.scaling.yarn_beta_slow", rotary.BetaSlow);
                break;
            case "longrope" when !rotary.HasFixedFactors:
                metadata.Add(key, "longrope");
                integer("rope.scaling.original_context_length", rotary.OriginalMaxPositions);
                number("rope.scaling.attn_factor", rotary.AttentionFactor);
                break;
            default:
                if (architecture.Name is "command-r" or "cohere2") metadata.Add(key, "none");
                break;
        }
    }
}
