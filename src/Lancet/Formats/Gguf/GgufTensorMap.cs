using Lancet.Models;

namespace Lancet.Formats.Gguf;

/// <summary>
/// Where a weight is in a GGUF file, and how its values differ from Hugging Face's: rows of heads in another order, 1 added to norms, queries multiplied.
/// All of it can be undone.
/// </summary>
/// <param name="Name">Name in the file.</param>
/// <param name="Heads">Heads whose rows are permuted; 0 for none.</param>
/// <param name="RotaryDimension">Rows at the start of each head that are rotated, hence permuted.</param>
/// <param name="Addend">What is added to every value.</param>
/// <param name="Factor">What every value is multiplied with, after the addition.</param>
/// <param name="Expert">Which matrix of a stack of all experts' it is; −1 where it is a tensor of its own.</param>
internal sealed record GgufTensorMap(string Name, int Heads, int RotaryDimension, float Addend, float Factor, int Expert)
{
    private static readonly (string HuggingFace, string Gguf)[] s_parts =
    [
        ("input_layernorm", "attn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.qkv_proj", "attn_qkv"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("pre_feedforward_layernorm", "ffn_norm"),
        ("post_feedforward_layernorm", "post_ffw_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.gate_up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];

    /// <summary>The place of a weight.</summary>
    /// <param name="architecture">Architecture.</param>
    /// <param name="config">Model.</param>
    /// <param name="weight">Weight of the model, or a name of one that ends in <c>.weight</c> or <c>.bias</c>.</param>
    public static GgufTensorMap Of(GgufArchitecture architecture, ModelConfig config, Weight weight)
    {
        if (config.Experts is { } experts && Routed(config, experts, weight.Name, out var expert) is { } routed) return new(routed, 0, 0, 0, 1, expert);
        var name = NameOf(config, weight.Name);
        var module = name[..name.LastIndexOf('.')];
        module = module[(module.LastIndexOf('.') + 1)..];
        var heads = !architecture.PermutesHeads ? 0 : module switch { "attn_q" => config.QueryHeads, "attn_k" => config.KeyValueHeads, _ => 0 };
        // Where queries are normed a factor of theirs has to stand behind the norm.
        var scalesQueries = module == (config.QueryKeyNorm == QueryKeyNorm.None ? "attn_q" : "attn_q_norm");
        return new(name, heads, config.Rotary.Dimension, architecture.StoresNormsPlusOne && weight.Role == WeightRole.Norm ? 1 : 0, scalesQueries ? (float)architecture.QueryFactor : 1, -1);
    }

    /// <summary>Changes a weight's values from Hugging Face's to the file's.</summary>
    /// <param name="values">Values; replaced where rows change places.</param>
    /// <param name="columns">Values of a row: 1 for vectors.</param>
    public float[] ToFile(float[] values, int columns)
    {
        if (Addend != 0 || Factor != 1)
            for (var i = 0; i < values.Length; i++) values[i] = (values[i] + Addend) * Factor;
        return Permute(values, columns, false);
    }

    /// <summary>Changes a tensor's values from the file's to Hugging Face's.</summary>
    public float[] FromFile(float[] values, int columns)
    {
        if (Addend != 0 || Factor != 1)
            for (var i = 0; i < values.Length; i++) values[i] = (values[i] / Factor) - Addend;
        return Permute(values, columns, true);
    }

    /// <summary>Whether the file's values are Hugging Face's.</summary>
    public bool IsIdentity => Heads == 0 && Addend == 0 && Factor == 1;

    private float[] Permute(float[] values, int columns, bool isBack)
    {
        if (Heads == 0) return values;
        var rows = values.Length / columns / Heads;
        var result = (float[])values.Clone();
        for (var head = 0; head < Heads; head++)
        {
            for (var i = 0; i < RotaryDimension; i++)
            {
                // Elements i and i + dimension / 2 of a head are a pair; in the file pairs are neighbours.
                int plain = i, paired = i < RotaryDimension / 2 ? 2 * i : (2 * (i - (RotaryDimension / 2))) + 1;
                var (from, to) = isBack ? (paired, plain) : (plain, paired);
                values.AsSpan(((head * rows) + from) * columns, columns).CopyTo(result.AsSpan(((head * rows) + to) * columns));
            }
        }
        return result;
    }

    /// <summary>Name of a router's or an expert's tensor, or null.</summary>
    private static string? Routed(ModelConfig config, ExpertConfig experts, string name, out int expert)
    {
        expert = -1;
        var parts = name[config.WeightPrefix.Length..].Split('.');
        if (parts.Length < 4 || parts[2] != experts.Block) return null;
        if (parts[3] == "gate") return $"blk.{parts[1]}.ffn_gate_inp.weight";
        if (parts[3] != "experts") return null;
        expert = int.Parse(parts[4], System.Globalization.CultureInfo.InvariantCulture);
        var kind = parts[5] == experts.Gate ? "gate" : parts[5] == experts.Up ? "up" : "down";
        return $"blk.{parts[1]}.ffn_{kind}_exps.weight";
    }

    private static string NameOf(ModelConfig config, string name)
    {
        if (name == "lm_head.weight") return "output.weight";
        var inner = name[config.WeightPrefix.Length..];
        if (inner == "embed_tokens.weight") return "token_embd.weight";
        if (inner == "norm.weight") return "output_norm.weight";
        var parts = inner.Split('.', 3);
        var suffix = parts[2][parts[2].LastIndexOf('.')..];
        var module = parts[2][..^suffix.Length];
        if (module == "post_attention_layernorm") return $"blk.{parts[1]}.{(config.HasPostNorms ? "post_attention_norm" : "ffn_norm")}{suffix}";
        var place = Array.FindIndex(s_parts, part => part.HuggingFace == module);
        return place >= 0 ? $"blk.{parts[1]}.{s_parts[place].Gguf}{suffix}" : throw new LancetException($"GGUF has no name for tensor {name}.");
    }
}
