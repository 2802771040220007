using Lancet.Models;
using Lancet.Tile;

namespace Lancet.Tests.Models;

/// <summary>Rotary frequencies of every scaling, against the formulas of their papers in fp64, and both styles of config.json.</summary>
public class RotaryTableTests
{
    private const string Common = """ "model_type": "llama", "hidden_size": 128, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 32, "max_position_embeddings": 4096 """;

    [Theory]
    [InlineData("""{"rope_type": "default"}""")]
    [InlineData("""{"rope_type": "linear", "factor": 4.0}""")]
    [InlineData("""{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 512}""")]
    [InlineData("""{"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}""")]
    [InlineData("""{"rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 256, "beta_fast": 16, "beta_slow": 2, "truncate": false}""")]
    public void Frequencies_are_those_of_the_papers(string scaling)
    {
        var config = Rotary(scaling, 500000);
        var actual = RotaryTable.Frequencies(config, 100);
        Assert.Equal(32, actual.Length);
        for (var i = 0; i < actual.Length; i++)
        {
            var plain = Math.Pow(500000, -2.0 * i / 64);
            var expected = config.Type switch
            {
                "linear" => plain / 4,
                "llama3" => Llama3(plain),
                "yarn" => Yarn(config, plain, i),
                _ => plain,
            };
            Assert.Equal(1, actual[i] / expected, 2e-6);
        }

        // Meta's apply_scaling of Llama 3.1.
        static double Llama3(double frequency)
        {
            double wavelength = 2 * Math.PI / frequency, smooth = ((512 / wavelength) - 1) / (4 - 1);
            return wavelength < 512 / 4.0 ? frequency : wavelength > 512 ? frequency / 8 : ((1 - smooth) * frequency / 8) + (smooth * frequency);
        }

        // γ(r) of the YaRN paper, over dimensions as in its reference implementation.
        static double Yarn(RotaryConfig config, double frequency, int i)
        {
            double At(double rotations) => 64 * Math.Log(config.OriginalMaxPositions / (rotations * 2 * Math.PI)) / (2 * Math.Log(500000));
            var (low, high) = config.IsTruncated ? (Math.Floor(At(config.BetaFast)), Math.Ceiling(At(config.BetaSlow))) : (At(config.BetaFast), At(config.BetaSlow));
            var interpolated = Math.Clamp((i - Math.Max(low, 0)) / (Math.Min(high, 63) - Math.Max(low, 0)), 0, 1);
            return (frequency / config.Factor * interpolated) + (frequency * (1 - interpolated));
        }
    }

    [Fact]
    public void Yarn_and_longrope_scale_cos_and_sin()
    {
        Assert.Equal((0.1 * Math.Log(4)) + 1, Rotary("""{"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}""").AttentionFactor, 1e-12);
        Assert.Equal(0.7, Rotary("""{"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024, "attention_factor": 0.7}""").AttentionFactor, 1e-12);
        var factors = "[" + string.Join(", ", Enumerable.Range(0, 32).Select(i => 1 + i)) + "]";
        var ones = "[" + string.Join(", ", Enumerable.Repeat(1, 32)) + "]";
        var longrope = Rotary($$"""{"rope_type": "longrope", "short_factor": {{ones}}, "long_factor": {{factors}}, "original_max_position_embeddings": 1024}""");
        Assert.Equal(Math.Sqrt(1 + (Math.Log(4) / Math.Log(1024))), longrope.AttentionFactor, 1e-12);
        var (within, beyond) = (RotaryTable.Frequencies(longrope, 1024), RotaryTable.Frequencies(longrope, 1025));
        for (var i = 0; i < 32; i++)
        {
            Assert.Equal(1, within[i] / Math.Pow(10000, -2.0 * i / 64), 2e-6);
            Assert.Equal(1, beyond[i] * (1 + i) / Math.Pow(10000, -2.0 * i / 64), 2e-6);
        }
        var table = RotaryTable.Create(longrope, 8, 8);
        Assert.Equal(longrope.AttentionFactor, table.Cos[0], 1e-6);
        Assert.Equal(longrope.AttentionFactor * Math.Sin(5 * (double)within[3]), table.Sin[(5 * 32) + 3], 1e-6);
    }

    [Fact]
    public void A_part_of_a_head_may_be_rotated()
    {
        var config = ModelConfig.Parse($$"""{ {{Common}}, "partial_rotary_factor": 0.25}""", "config.json").Rotary;
        Assert.Equal(16, config.Dimension);
        Assert.Equal(1, RotaryTable.Frequencies(config, 8)[3] / Math.Pow(10000, -6.0 / 16), 2e-6);
        Assert.Throws<LancetException>(() => ModelConfig.Parse($$"""{ {{Common}}, "partial_rotary_factor": 0.01}""", "config.json"));
    }

    [Theory]
    [InlineData("""{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 512}""")]
    [InlineData("""{"type": "linear", "factor": 2.0}""")]
    public void Both_styles_of_config_mean_the_same(string scaling)
    {
        var old = ModelConfig.Parse($$"""{ {{Common}}, "rope_theta": 500000.0, "rope_scaling": {{scaling}}}""", "config.json").Rotary;
        var now = Rotary(scaling, 500000);
        Assert.Equal((now.Type, now.Theta, now.Factor), (old.Type, old.Theta, old.Factor));
        Assert.Equal(RotaryTable.Frequencies(now, 64), RotaryTable.Frequencies(old, 64));
        Assert.Equal(500000, ModelConfig.Parse($$"""{ {{Common}}, "rope_theta": 500000.0, "rope_scaling": null}""", "config.json").Rotary.Theta);
    }

    /// <summary>An extension means what the same block of config.json does, in either style, and an export's config.json has it.</summary>
    [Theory]
    [InlineData("linear:2", """{"rope_type": "linear", "factor": 2.0}""")]
    [InlineData("yarn:4", """{"rope_type": "yarn", "factor": 4.0}""")]
    public void A_context_extension_is_what_the_file_would_say(string extension, string block)
    {
        var scaling = RopeScaling.Parse(extension);
        Assert.Equal(extension, scaling.ToString());
        var plain = $$"""{ {{Common}}, "rope_theta": 500000.0}""";
        var native = ModelConfig.Parse(plain, "config.json").MaxPositions;
        var expected = ModelConfig.Parse($$"""{ {{Common}}, "rope_theta": 500000.0, "rope_scaling": {{block}}}""", "config.json");
        foreach (var json in (string[])[plain, $$"""{ {{Common}}, "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0} }"""])
        {
            var stretched = ModelConfig.Parse(scaling.Apply(json, "config.json"), "config.json");
            Assert.Equal((int)(native * scaling.Factor), stretched.MaxPositions);
            Assert.Equal(RotaryTable.Frequencies(expected.Rotary, 64), RotaryTable.Frequencies(stretched.Rotary, 64));
            Assert.Equal(expected.Rotary.AttentionFactor, stretched.Rotary.AttentionFactor);
            Assert.NotEqual(RotaryTable.Frequencies(ModelConfig.Parse(plain, "config.json").Rotary, 64), RotaryTable.Frequencies(stretched.Rotary, 64));
        }
        using var model = LanguageModel.Load(Path.Combine(TestFiles.Golden("llama"), "model"), new LoadOptions { RopeScaling = scaling });
        var text = ModelWriter.Config(model, DType.Float32);
        Assert.Contains(".0,", text[text.IndexOf("\"factor\"", StringComparison.Ordinal)..], StringComparison.Ordinal);
        var written = ModelConfig.Parse(text, "config.json");
        Assert.Equal((model.Config.MaxPositions, scaling.Type, scaling.Factor), (written.MaxPositions, written.Rotary.Type, written.Rotary.Factor));
        Assert.Equal(RotaryTable.Frequencies(model.Config.Rotary, 64), RotaryTable.Frequencies(written.Rotary, 64));
    }

    [Theory]
    [InlineData("yarn")]
    [InlineData("yarn:1")]
    [InlineData("yarn:x")]
    [InlineData("magic:2")]
    [InlineData("linear:2:3")]
    public void Other_texts_are_no_context_extension(string text) => Assert.Contains(text, Assert.Throws<LancetException>(() => RopeScaling.Parse(text)).Message);

    [Theory]
    [InlineData(""" "rope_scaling": {"type": "linear", "factor": 2.0} """, "stretched already")]
    [InlineData(""" "rope_parameters": {"rope_type": "llama3", "factor": 8.0} """, "stretched already")]
    [InlineData(""" "rope_local_base_freq": 10000 """, "in different ways")]
    [InlineData(""" "rope_parameters": {"full_attention": {"rope_type": "default"}} """, "in different ways")]
    public void What_cannot_be_extended_is_refused(string keys, string message) =>
        Assert.Contains(message, Assert.Throws<LancetException>(() => RopeScaling.Parse("yarn:2").Apply($$"""{ {{Common}}, {{keys}} }""", "config.json")).Message);

    [Fact]
    public void An_unknown_scaling_is_refused() => Assert.Contains("rope_type magic", Assert.Throws<LancetException>(() => Rotary("""{"rope_type": "magic"}""")).Message);

    private static RotaryConfig Rotary(string scaling, double theta = 10000) => ModelConfig.Parse($$"""{ {{Common}}, "rope_parameters": {{scaling[..^1]}}, "rope_theta": {{theta}}} }""", "config.json").Rotary;
}
