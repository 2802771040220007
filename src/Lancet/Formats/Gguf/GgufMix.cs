using Lancet.Models;

namespace Lancet.Formats.Gguf;

/// <summary>
/// What <c>--type</c> names: a block type for most matrices, and which of them get more bits. The mixes are llama.cpp's, so that a file of a name
/// has the size and quality that is known by it.
/// </summary>
public sealed class GgufMix
{
    private static readonly GgufMix[] s_all =
    [
        new("f32", 0, GgufTensorType.Float32), new("f16", 1, GgufTensorType.Float16), new("bf16", 32, GgufTensorType.BFloat16), new("q8_0", 7, GgufTensorType.Q80),
        new("q4_0", 2, GgufTensorType.Q40), new("q4_1", 3, GgufTensorType.Q41), new("q5_0", 8, GgufTensorType.Q50), new("q5_1", 9, GgufTensorType.Q51),
        new("q2_k", 10, GgufTensorType.Q2K), new("q3_k_s", 11, GgufTensorType.Q3K), new("q3_k_m", 12, GgufTensorType.Q3K), new("q3_k_l", 13, GgufTensorType.Q3K),
        new("q4_k_s", 14, GgufTensorType.Q4K), new("q4_k_m", 15, GgufTensorType.Q4K), new("q5_k_s", 16, GgufTensorType.Q5K), new("q5_k_m", 17, GgufTensorType.Q5K), new("q6_k", 18, GgufTensorType.Q6K),
    ];

    private GgufMix(string name, int fileType, GgufTensorType type) => (Name, FileType, Type) = (name, fileType, type);

    /// <summary>Names of all mixes.</summary>
    public static IEnumerable<string> Names => s_all.Select(mix => mix.Name);

    /// <summary>Name, such as <c>q4_k_m</c>.</summary>
    public string Name { get; }

    /// <summary>Value of <c>general.file_type</c>.</summary>
    public int FileType { get; }

    /// <summary>Type of most matrices.</summary>
    public GgufTensorType Type { get; }

    /// <summary>The mix of a name; q3_k, q4_k and q5_k are short for their medium ones.</summary>
    /// <exception cref="LancetException">There is none of that name.</exception>
    public static GgufMix Find(string name)
    {
        var wanted = name.ToLowerInvariant() switch { "q3_k" => "q3_k_m", "q4_k" => "q4_k_m", "q5_k" => "q5_k_m", var other => other };
        return Array.Find(s_all, mix => mix.Name == wanted) ?? throw new LancetException($"--type is {name}; expected {string.Join(", ", Names)}.");
    }

    /// <summary>Type of a matrix.</summary>
    /// <param name="name">Name in the file.</param>
    /// <param name="columns">Elements of a row.</param>
    /// <param name="config">Model.</param>
    /// <param name="hasImportance">Whether it is known how much each column matters.</param>
    public GgufTensorType TypeOf(string name, long columns, ModelConfig config, bool hasImportance = false)
    {
        if (!Type.IsQuantized()) return Type;
        var wanted = Wanted(name, columns, config, hasImportance);
        if (columns % wanted.BlockSize() == 0) return wanted;
        // Rows that are no whole blocks of 256 get the smaller block type with as many bits, and failing that fp16.
        wanted = wanted switch
        {
            GgufTensorType.Q2K or GgufTensorType.Q3K => GgufTensorType.Q40,
            GgufTensorType.Q4K => GgufTensorType.Q50,
            GgufTensorType.Q5K => GgufTensorType.Q51,
            _ => GgufTensorType.Q80,
        };
        return columns % wanted.BlockSize() == 0 ? wanted : GgufTensorType.Float16;
    }

    private GgufTensorType Wanted(string name, long columns, ModelConfig config, bool hasImportance)
    {
        if (name == "output.weight" || (name == "token_embd.weight" && config.TiesWordEmbeddings)) return columns % Type.BlockSize() != 0 || Type == GgufTensorType.Q80 ? GgufTensorType.Q80 : GgufTensorType.Q6K;
        if (name == "token_embd.weight") return Type;
        var parts = name.Split('.');
        var (layer, layers) = (int.Parse(parts[1], System.Globalization.CultureInfo.InvariantCulture), config.LayerCount);
        // The first and last eighths of the layers, and every third between them, suffer most.
        var isSensitive = layer < layers / 8 || layer >= 7 * layers / 8 || (layer - (layers / 8)) % 3 == 2;
        // Of eight experts' models the attention is a small part, and worth many bits.
        var hasEight = config.Experts?.Count == 8;
        if (hasEight && parts[2] is ("attn_v" or "attn_k")) return GgufTensorType.Q80;
        switch (parts[2])
        {
            case "attn_output" when hasEight:
                return Name is "q2_k" or "q3_k_s" or "q3_k_m" or "q4_k_s" or "q4_k_m" ? GgufTensorType.Q5K : Type;
            case "attn_v" or "attn_qkv":
                var type = Name switch
                {
                    "q2_k" => config.QueryHeads / config.KeyValueHeads >= 4 ? GgufTensorType.Q4K : GgufTensorType.Q3K,
                    "q3_k_m" => layer < 2 ? GgufTensorType.Q5K : GgufTensorType.Q4K,
                    "q3_k_l" => GgufTensorType.Q5K,
                    "q4_k_s" when layer < 4 => GgufTensorType.Q5K,
                    "q4_k_m" or "q5_k_m" when isSensitive => GgufTensorType.Q6K,
                    _ => Type,
                };
                // Models of 70B share few value heads among many query heads: small matrices, and bits well spent.
                return layers == 80 && config.ModelType == "llama" && type is (GgufTensorType.Q3K or GgufTensorType.Q4K) ? GgufTensorType.Q5K : type;
            case "ffn_down" or "ffn_down_exps":
                return Name switch
                {
                    "q2_k" => GgufTensorType.Q3K,
                    "q3_k_m" => layer < layers / 16 ? GgufTensorType.Q5K : GgufTensorType.Q4K,
                    "q3_k_l" => GgufTensorType.Q5K,
                    "q4_k_m" or "q5_k_m" when isSensitive => GgufTensorType.Q6K,
                    "q4_k_s" when layer < layers / 8 => GgufTensorType.Q5K,
                    "q4_0" when hasImportance && layer < layers / 8 => GgufTensorType.Q41,
                    "q5_0" when hasImportance && layer < layers / 8 => GgufTensorType.Q51,
                    _ => Type,
                };
            case "attn_output": return Name switch { "q2_k" => GgufTensorType.Q3K, "q3_k_m" => GgufTensorType.Q4K, "q3_k_l" => GgufTensorType.Q5K, _ => Type };
            default: return Type;
        }
    }
}
