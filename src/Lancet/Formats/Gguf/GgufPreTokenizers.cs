using System.Text.Json;
using Lancet.Tokenization;

namespace Lancet.Formats.Gguf;

/// <summary>
/// The pre-tokenisers that llama.cpp knows by name (<c>tokenizer.ggml.pre</c>), and what they are in a tokenizer.json. A tokenizer gets its name by what it does, not by a list of
/// known models; one that does something else is refused, because every text would become other tokens.
/// </summary>
internal static class GgufPreTokenizers
{
    private const string Cl100k = @"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    private const string Qwen = @"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    private const string Words = @"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+{0}|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*{0}|";
    private const string Rest = @"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    private const string Contractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
    private const string ByteLevel = "ByteLevel";
    private const string ByteLevelWithPattern = "ByteLevel with GPT-2's pattern";
    private const string Digits = "Digits";

    // Steps are patterns, each splitting what those before it left whole, and the names above. Of entries with the same steps the first fits.
    private static readonly (string Name, bool IgnoresMerges, string[] Steps)[] s_known =
    [
        ("gpt-2", false, [ByteLevelWithPattern]),
        ("smollm", false, [Digits, ByteLevelWithPattern]),
        ("llama-bpe", true, [Cl100k, ByteLevel]),
        ("dbrx", false, [Cl100k, ByteLevel]),
        ("qwen2", false, [Qwen, ByteLevel]),
        ("tekken", true, [Words.Replace("{0}", "", StringComparison.Ordinal) + @"\p{N}" + Rest, ByteLevel]),
        ("gpt-4o", false, [Words.Replace("{0}", Contractions + "?", StringComparison.Ordinal) + @"\p{N}{1,3}" + Rest, ByteLevel]),
    ];

    // Other names for the same.
    private static readonly Dictionary<string, string> s_aliases = new()
    {
        ["refact"] = "smollm",
        ["command-r"] = "smollm",
        ["starcoder"] = "smollm",
        ["codeshell"] = "smollm",
        ["llama3"] = "llama-bpe",
        ["llama-v3"] = "llama-bpe",
        ["smaug-bpe"] = "dbrx",
        ["olmo"] = "gpt-2",
        ["phi-2"] = "gpt-2",
        ["mpt"] = "gpt-2",
        ["deepseek-r1-qwen"] = "qwen2",
        ["stablelm2"] = "qwen2",
    };

    /// <summary>Name of a byte-level tokenizer's pre-tokeniser.</summary>
    /// <param name="root">tokenizer.json.</param>
    /// <param name="path">File, for messages.</param>
    /// <exception cref="LancetException">llama.cpp has none that does the same.</exception>
    public static string NameOf(JsonElement root, string path)
    {
        var steps = new List<string>();
        if (root.TryGetProperty("pre_tokenizer", out var section)) Describe(section, steps);
        var ignoresMerges = Section.Flag(root.GetProperty("model"), "ignore_merges");
        foreach (var (name, ignores, known) in s_known)
            if (steps.SequenceEqual(known) && (ignores == ignoresMerges || !Array.Exists(s_known, other => other.IgnoresMerges == ignoresMerges && other.Steps.SequenceEqual(known)))) return name;
        throw new LancetException($"{path}: llama.cpp has no pre-tokeniser that splits text like this one ({string.Join(", then ", steps)}), so an exported model would read other tokens than it was trained with. Export as safetensors instead (--format safetensors).");
    }

    /// <summary>The pre-tokeniser of a name as the section of a tokenizer.json, and whether whole words of the vocabulary are taken before merges.</summary>
    /// <exception cref="LancetException">The name is not known.</exception>
    public static bool Write(Utf8JsonWriter json, string name, GgufMetadata metadata)
    {
        var wanted = s_aliases.GetValueOrDefault(name, name);
        var entry = Array.Find(s_known, known => known.Name == wanted);
        if (entry.Name is null) throw metadata.Error($"the pre-tokeniser {name} is not supported; {string.Join(", ", s_known.Select(known => known.Name).Concat(s_aliases.Keys))} are.");
        json.WriteStartObject("pre_tokenizer");
        json.WriteString("type", "Sequence");
        json.WriteStartArray("pretokenizers");
        foreach (var step in entry.Steps)
        {
            json.WriteStartObject();
            switch (step)
            {
                case ByteLevel or ByteLevelWithPattern:
                    json.WriteString("type", "ByteLevel");
                    json.WriteBoolean("add_prefix_space", false);
                    json.WriteBoolean("trim_offsets", true);
                    json.WriteBoolean("use_regex", step == ByteLevelWithPattern);
                    break;
                case Digits:
                    json.WriteString("type", "Digits");
                    json.WriteBoolean("individual_digits", true);
                    break;
                default:
                    json.WriteString("type", "Split");
                    json.WriteStartObject("pattern");
                    json.WriteString("Regex", step);
                    json.WriteEndObject();
                    json.WriteString("behavior", "Isolated");
                    json.WriteBoolean("invert", false);
                    break;
            }
            json.WriteEndObject();
        }
        json.WriteEndArray();
        json.WriteEndObject();
        return entry.IgnoresMerges;
    }

    private static void Describe(JsonElement section, List<string> steps)
    {
        if (section.ValueKind != JsonValueKind.Object) return;
        switch (Section.Type(section))
        {
            case "Sequence":
                foreach (var part in section.GetProperty("pretokenizers").EnumerateArray()) Describe(part, steps);
                break;
            case "ByteLevel" when !Section.Flag(section, "add_prefix_space", true):
                steps.Add(Section.Flag(section, "use_regex", true) ? ByteLevelWithPattern : ByteLevel);
                break;
            case "Digits" when Section.Flag(section, "individual_digits"):
                steps.Add(Digits);
                break;
            case "Split" when section.GetProperty("pattern").TryGetProperty("Regex", out var regex) && IsIsolated(section):
                steps.Add(Plain(regex.GetString()!));
                break;
            default:
                steps.Add(section.GetRawText());
                break;
        }
    }

    private static bool IsIsolated(JsonElement section) => (Section.Text(section, "behavior"), Section.Flag(section, "invert")) is ("Isolated", _) or ("Removed", true);

    // tiktoken's way to write the same patterns: possessive where nothing is given back anyway, contractions as a class, and \s*[\r\n] where \s* takes all line ends but the last.
    private static string Plain(string regex) => regex.Replace("'(?i:[sdmt]|ll|ve|re)", Contractions, StringComparison.Ordinal)
        .Replace("?+", "?", StringComparison.Ordinal).Replace("++", "+", StringComparison.Ordinal).Replace("*+", "*", StringComparison.Ordinal)
        .Replace(@"|\s*[\r\n]|", @"|\s*[\r\n]+|", StringComparison.Ordinal);
}
