using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using Lancet.ChatTemplates;
using Lancet.Formats;
using Lancet.Formats.Gguf;
using Lancet.Generation;

namespace Lancet.Tokenization;

/// <summary>
/// A tokenizer's files as they lie beside a trained model. The end of text is what ends a turn of the template, in the tokenizer's files and in those of the model, so that whatever
/// reads them stops where the model was taught to stop; and padding is never the end of text, since trainers mask padding and the model would not learn to stop.
/// </summary>
internal static partial class TokenizerFiles
{
    private const string TokenizerJson = "tokenizer.json", TokenizerConfig = "tokenizer_config.json", SpecialTokens = "special_tokens_map.json", Generation = "generation_config.json", ModelConfig = "config.json";

    // Files that say what tokenizer.json says, each in its own way.
    private static readonly string[] s_others = ["tokenizer.model", "added_tokens.json", "vocab.json", "merges.txt"];

    private static readonly string[] s_copied = [TokenizerJson, TokenizerConfig, SpecialTokens, Tokenizer.ChatTemplateFile, Generation, .. s_others];

    private static readonly string[] s_pads = ["<pad>", "[PAD]", "<|pad|>", "<PAD>", "<|PAD_TOKEN|>", "<|finetune_right_pad_id|>", "<|vision_pad|>"];

    /// <summary>Writes the files into a folder.</summary>
    /// <param name="folder">Folder, which exists; a model's config.json in it gets the same ends of text.</param>
    /// <param name="source">Model folder or GGUF file that the tokenizer was read from.</param>
    /// <param name="tokenizer">The tokenizer.</param>
    /// <param name="template">What the model was trained with; null leaves the end of text as it is.</param>
    public static void Write(string folder, string source, Tokenizer tokenizer, ChatTemplate? template)
    {
        Copy(folder, source);
        var own = template is null ? tokenizer : tokenizer.For(template);
        var end = EndOfText(tokenizer, template);
        var pad = Padding(own, end, tokenizer.EosTokenId);
        if (own != tokenizer)
        {
            foreach (var name in s_others) File.Delete(Path.Combine(folder, name));
            using var document = own.ReadJson(out _);
            AtomicFile.Write(Path.Combine(folder, TokenizerJson), stream => Write(stream, JsonNode.Parse(document.RootElement.GetRawText())!));
            foreach (var name in (string[])[TokenizerConfig, SpecialTokens]) Edit(Path.Combine(folder, name), map => Rename(map, tokenizer.EosToken!, own.EosToken!));
        }
        if (template is not null && template.Source != tokenizer.ChatTemplate)
        {
            AtomicFile.WriteText(Path.Combine(folder, Tokenizer.ChatTemplateFile), template.Source);
            // Not everything that reads the one file knows of the other.
            Edit(Path.Combine(folder, TokenizerConfig), map =>
            {
                if (map.ContainsKey("chat_template")) map["chat_template"] = template.Source;
            });
        }
        foreach (var name in (string[])[TokenizerConfig, SpecialTokens])
        {
            Edit(Path.Combine(folder, name), map =>
            {
                if (end is { } id && map.ContainsKey("eos_token")) SetToken(map, "eos_token", own.TextOf(id, false));
                if (pad != tokenizer.PadTokenId && map.ContainsKey("pad_token")) SetToken(map, "pad_token", pad is { } padding ? own.TextOf(padding, false) : null);
            });
        }
        if (end is not { } last) return;
        foreach (var name in (string[])[Generation, ModelConfig]) Edit(Path.Combine(folder, name), map => SetEnds(map, last, pad));
        var isModel = File.Exists(Path.Combine(folder, ModelConfig));
        if (isModel && template is not null && !File.Exists(Path.Combine(folder, Generation)))
        {
            var generation = new JsonObject { ["_from_model_config"] = true };
            if (own.BosTokenId is { } begin) generation["bos_token_id"] = begin;
            SetEnds(generation, last, pad, own.EosTokenId);
            AtomicFile.Write(Path.Combine(folder, Generation), stream => Write(stream, generation));
        }
    }

    /// <summary>The end of text of a model that was trained with a template: what ends its turns, else the tokenizer's own.</summary>
    public static int? EndOfText(Tokenizer tokenizer, ChatTemplate? template) => (template is null ? null : ChatGeneration.TurnEnd(tokenizer, template)) ?? tokenizer.EosTokenId;

    /// <summary>Padding that is not the end of text: the tokenizer's own, else a token that is made for it or reserved, the former end of text, the unknown token; null if there is none.</summary>
    /// <param name="tokenizer">Tokenizer.</param>
    /// <param name="end">The end of text.</param>
    /// <param name="former">The end of text that the tokenizer came with.</param>
    public static int? Padding(Tokenizer tokenizer, int? end, int? former)
    {
        if (tokenizer.PadTokenId is not { } pad || pad != end) return tokenizer.PadTokenId;
        var reserved = Enumerable.Range(0, tokenizer.VocabularySize).Where(id => tokenizer.IsSpecial(id) && Reserved().IsMatch(tokenizer.TextOf(id, false) ?? "")).Select(id => (int?)id).FirstOrDefault();
        return ((int?[])[.. s_pads.Select(tokenizer.IdOf), reserved, former, tokenizer.UnknownTokenId]).FirstOrDefault(id => id is not null && id != end && id != tokenizer.BosTokenId);
    }

    /// <summary>Gives a token another name, wherever JSON names it by exactly its text.</summary>
    public static void Rename(JsonNode node, string from, string to)
    {
        switch (node)
        {
            case JsonObject map:
                if (map.IndexOf(from) is >= 0 and var place)
                {
                    var value = map[from];
                    map.RemoveAt(place);
                    map.Insert(place, to, value);
                }
                foreach (var (key, item) in map.ToList())
                {
                    if (IsText(item, from)) map[key] = to;
                    else if (item is JsonObject or JsonArray) Rename(item, from, to);
                }
                break;
            case JsonArray list:
                for (var i = 0; i < list.Count; i++)
                {
                    if (IsText(list[i], from)) list[i] = to;
                    else if (list[i] is JsonObject or JsonArray) Rename(list[i]!, from, to);
                }
                break;
        }
    }

    [GeneratedRegex(@"^<\|?(reserved|unused|placeholder|extra|dummy)[a-z_]*\d+\|?>$")]
    private static partial Regex Reserved();

    private static bool IsText(JsonNode? node, string text) => node is JsonValue value && value.GetValueKind() == JsonValueKind.String && value.GetValue<string>() == text;

    private static void Copy(string folder, string source)
    {
        foreach (var file in s_copied.Select(name => Path.Combine(source, name)).Where(File.Exists)) File.Copy(file, Path.Combine(folder, Path.GetFileName(file)), true);
        if (!GgufFile.IsGguf(source)) return;
        using var gguf = GgufFile.Open(source);
        AtomicFile.Write(Path.Combine(folder, TokenizerJson), stream => stream.Write(GgufTokenizer.ToJson(gguf)));
        AtomicFile.Write(Path.Combine(folder, TokenizerConfig), stream => stream.Write(GgufTokenizer.ToConfig(gguf)));
    }

    /// <summary>Changes a JSON file if it is there and the change is one.</summary>
    private static void Edit(string path, Action<JsonObject> change)
    {
        if (!File.Exists(path) || JsonNode.Parse(File.ReadAllBytes(path)) is not JsonObject map) return;
        var before = map.DeepClone();
        change(map);
        if (!JsonNode.DeepEquals(before, map)) AtomicFile.Write(path, stream => Write(stream, map));
    }

    private static void Write(Stream stream, JsonNode node)
    {
        using var writer = new Utf8JsonWriter(stream, new JsonWriterOptions { Indented = true, Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping });
        node.WriteTo(writer);
    }

    /// <summary>A token's text; where the file has it with its flags, they stay.</summary>
    private static void SetToken(JsonObject map, string key, string? text)
    {
        if (text is null) map.Remove(key);
        else if (map[key] is JsonObject flags && flags.ContainsKey("content")) flags["content"] = text;
        else map[key] = text;
    }

    /// <summary>The end of text in front of the ends that are there already; a padding that is one of them goes.</summary>
    private static void SetEnds(JsonObject map, int end, int? pad, int? former = null)
    {
        IEnumerable<int> ends = map["eos_token_id"] switch
        {
            JsonArray list => list.Select(item => item!.GetValue<int>()),
            JsonValue value when value.GetValueKind() == JsonValueKind.Number => [value.GetValue<int>()],
            _ => former is { } other ? [other] : [],
        };
        int[] all = [.. ends.Prepend(end).Distinct()];
        map["eos_token_id"] = all.Length == 1 ? all[0] : new JsonArray([.. all.Select(id => JsonValue.Create(id))]);
        if (map["pad_token_id"] is JsonValue padding && padding.GetValueKind() == JsonValueKind.Number && padding.GetValue<int>() == end) map["pad_token_id"] = pad is { } id ? id : null;
    }
}
