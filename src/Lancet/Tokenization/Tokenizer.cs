using System.Text;
using System.Text.Json;
using System.Text.RegularExpressions;

namespace Lancet.Tokenization;

/// <summary>
/// A tokenizer read from Hugging Face's <c>tokenizer.json</c>: byte-level BPE (Llama 3, Qwen, GPT-2) or SentencePiece-style BPE (Llama 2,
/// Mistral, Gemma), with the special tokens and chat template of <c>tokenizer_config.json</c>.
/// </summary>
public sealed class Tokenizer
{
    private readonly string _folder;
    private readonly TextPipeline _pipeline;
    private readonly BytePairEncoder _encoder;
    private readonly Dictionary<string, int> _vocabulary;
    private readonly Dictionary<int, string> _texts;
    private readonly Dictionary<string, AddedToken> _added = [];
    private readonly HashSet<int> _special = [];
    private readonly Regex? _addedPattern;
    private readonly List<int?> _postProcessor;

    private Tokenizer(string folder, JsonElement root, string path)
    {
        _folder = folder;
        var model = root.TryGetProperty("model", out var section) ? section : throw new LancetException($"{path}: model is missing.");
        var type = model.TryGetProperty("type", out var name) ? name.GetString() : "BPE";
        if (type != "BPE") throw new LancetException($"{path}: tokenizer model {type} is not supported; BPE is.");
        _vocabulary = model.GetProperty("vocab").EnumerateObject().ToDictionary(item => item.Name, item => item.Value.GetInt32());
        ReadAddedTokens(root);
        _texts = _vocabulary.ToDictionary(item => item.Value, item => item.Key);
        foreach (var token in _added.Values) _texts[token.Id] = token.Content;
        _pipeline = TextPipeline.Read(root, path);
        var unknown = model.TryGetProperty("unk_token", out var unk) && unk.ValueKind == JsonValueKind.String && _vocabulary.TryGetValue(unk.GetString()!, out var id) ? id : (int?)null;
        _encoder = new BytePairEncoder(_vocabulary, Merges(model), Flag(model, "ignore_merges"), Flag(model, "byte_fallback"), unknown, Flag(model, "fuse_unk"));
        if (_added.Count > 0) _addedPattern = new Regex(string.Join('|', _added.Keys.OrderByDescending(content => content.Length).Select(Regex.Escape)), RegexOptions.CultureInvariant);
        _postProcessor = ReadPostProcessor(root);
        StripsLeadingSpace = root.TryGetProperty("decoder", out var decoder) && decoder.ValueKind == JsonValueKind.Object
            && (decoder.GetRawText().Contains("\"Strip\"", StringComparison.Ordinal) || (decoder.GetRawText().Contains("\"Metaspace\"", StringComparison.Ordinal) && !decoder.GetRawText().Contains("\"never\"", StringComparison.Ordinal)));
        ReadConfig();
    }

    /// <summary>Number of ids, added tokens included.</summary>
    public int VocabularySize => _texts.Keys.Max() + 1;

    /// <summary>Id of the beginning of text, or null.</summary>
    public int? BosTokenId { get; private set; }

    /// <summary>Id of the end of text, or null.</summary>
    public int? EosTokenId { get; private set; }

    /// <summary>Text of the beginning-of-text token, or null.</summary>
    public string? BosToken => BosTokenId is { } id ? _texts[id] : null;

    /// <summary>Text of the end-of-text token, or null.</summary>
    public string? EosToken => EosTokenId is { } id ? _texts[id] : null;

    /// <summary>Whether decoding drops the space that the vocabulary writes before the first word (SentencePiece).</summary>
    internal bool StripsLeadingSpace { get; }

    /// <summary>Jinja source of the checkpoint's chat template, or null.</summary>
    public string? ChatTemplate { get; private set; }

    /// <summary>Files of the folder that belong to the tokenizer, to be copied beside a trained model.</summary>
    public IEnumerable<string> Files => ((string[])["tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja", "generation_config.json"])
        .Select(name => Path.Combine(_folder, name)).Where(File.Exists);

    /// <summary>Reads the tokenizer of a model folder.</summary>
    /// <exception cref="LancetException">There is none, or it is malformed or of an unsupported kind.</exception>
    public static Tokenizer Load(string folder)
    {
        var path = Path.Combine(folder, "tokenizer.json");
        if (!File.Exists(path)) throw new LancetException($"{path}: not found. A tokenizer.json is needed; tokenizer.model alone is not read.");
        try
        {
            using var document = JsonDocument.Parse(File.ReadAllBytes(path));
            return new Tokenizer(folder, document.RootElement, path);
        }
        catch (Exception error) when (error is JsonException or KeyNotFoundException or InvalidOperationException or FormatException or ArgumentException)
        {
            throw new LancetException($"{path}: not a valid tokenizer: {error.Message}", error);
        }
    }

    /// <summary>Whether a model folder has a tokenizer.</summary>
    public static bool Exists(string folder) => File.Exists(Path.Combine(folder, "tokenizer.json"));

    /// <summary>Token ids of a text.</summary>
    /// <param name="text">Text; special tokens in it are recognised.</param>
    /// <param name="addsSpecialTokens">Whether the post-processor's tokens, such as a beginning of text, are added.</param>
    public int[] Encode(string text, bool addsSpecialTokens = true) => Encode(text, addsSpecialTokens, out _);

    /// <summary>Token ids of a text, and the index of the character where each starts.</summary>
    public int[] Encode(string text, bool addsSpecialTokens, out int[] starts)
    {
        var ids = new List<int>();
        var places = new List<int>();
        var at = 0;
        if (_addedPattern is not null)
        {
            foreach (Match match in _addedPattern.Matches(text))
            {
                var token = _added[match.Value];
                int from = match.Index, to = match.Index + match.Length;
                if (from < at) continue;
                if (token.IsSingleWord && ((from > 0 && char.IsLetterOrDigit(text[from - 1])) || (to < text.Length && char.IsLetterOrDigit(text[to])))) continue;
                while (token.StripsLeft && from > at && char.IsWhiteSpace(text[from - 1])) from--;
                while (token.StripsRight && to < text.Length && char.IsWhiteSpace(text[to])) to++;
                EncodeStretch(text[at..from], at, ids, places);
                ids.Add(token.Id);
                places.Add(match.Index);
                at = to;
            }
        }
        EncodeStretch(text[at..], at, ids, places);
        if (addsSpecialTokens && _postProcessor.Count > 1)
        {
            var body = _postProcessor.IndexOf(null);
            ids = [.. _postProcessor.Take(body).Select(id => id!.Value), .. ids, .. _postProcessor.Skip(body + 1).Select(id => id!.Value)];
            places = [.. Enumerable.Repeat(0, body), .. places, .. Enumerable.Repeat(text.Length, _postProcessor.Count - body - 1)];
        }
        starts = [.. places];
        return [.. ids];
    }

    /// <summary>Text of token ids.</summary>
    /// <param name="ids">Ids.</param>
    /// <param name="skipsSpecialTokens">Whether special tokens are left out.</param>
    public string Decode(ReadOnlySpan<int> ids, bool skipsSpecialTokens = true)
    {
        var bytes = new List<byte>();
        foreach (var id in ids) AppendBytes(id, skipsSpecialTokens, bytes);
        if (StripsLeadingSpace && bytes.Count > 0 && bytes[0] == ' ') bytes.RemoveAt(0);
        return Encoding.UTF8.GetString([.. bytes]);
    }

    /// <summary>Id of a token by its exact text, or null.</summary>
    public int? IdOf(string token) => _added.TryGetValue(token, out var added) ? added.Id : _vocabulary.TryGetValue(token, out var id) ? id : null;

    /// <summary>The UTF-8 bytes that a token stands for; they may be a part of a character.</summary>
    internal void AppendBytes(int id, bool skipsSpecialTokens, List<byte> bytes)
    {
        if (!_texts.TryGetValue(id, out var text) || (skipsSpecialTokens && _special.Contains(id))) return;
        if (_added.ContainsKey(text))
        {
            bytes.AddRange(Encoding.UTF8.GetBytes(text));
        }
        else if (_pipeline.IsByteLevel)
        {
            foreach (var c in text)
                if (ByteLevel.TryGetByte(c, out var value)) bytes.Add(value);
        }
        else if (text.Length == 6 && text.StartsWith("<0x", StringComparison.Ordinal) && byte.TryParse(text.AsSpan(3, 2), System.Globalization.NumberStyles.HexNumber, null, out var value))
        {
            bytes.Add(value);
        }
        else
        {
            bytes.AddRange(Encoding.UTF8.GetBytes(text.Replace('▁', ' ')));
        }
    }

    private static bool Flag(JsonElement json, string key) => json.TryGetProperty(key, out var value) && value.ValueKind == JsonValueKind.True;

    private static IEnumerable<(string, string)> Merges(JsonElement model) => model.GetProperty("merges").EnumerateArray().Select(merge =>
    {
        if (merge.ValueKind == JsonValueKind.Array) return (merge[0].GetString()!, merge[1].GetString()!);
        var text = merge.GetString()!;
        var space = text.IndexOf(' ', 1);
        return (text[..space], text[(space + 1)..]);
    }).ToList();

    private void EncodeStretch(string text, int start, List<int> ids, List<int> places)
    {
        if (text.Length == 0) return;
        foreach (var piece in _pipeline.Split(text, start))
        {
            foreach (var token in _encoder.Encode(piece.Text))
            {
                ids.Add(token.Id);
                places.Add(piece.Origins[token.Start]);
            }
        }
    }

    private void ReadAddedTokens(JsonElement root)
    {
        if (!root.TryGetProperty("added_tokens", out var list) || list.ValueKind != JsonValueKind.Array) return;
        foreach (var item in list.EnumerateArray())
        {
            var token = new AddedToken(item.GetProperty("content").GetString()!, item.GetProperty("id").GetInt32(), Flag(item, "lstrip"), Flag(item, "rstrip"), Flag(item, "single_word"));
            if (token.Content.Length == 0) continue;
            _added[token.Content] = token;
            if (Flag(item, "special")) _special.Add(token.Id);
        }
    }

    /// <summary>Ids around the text, the text itself as null.</summary>
    private List<int?> ReadPostProcessor(JsonElement root)
    {
        var result = new List<int?>();
        if (!root.TryGetProperty("post_processor", out var processor) || processor.ValueKind != JsonValueKind.Object) return [null];
        JsonElement[] parts = processor.TryGetProperty("processors", out var list) ? [.. list.EnumerateArray()] : [processor];
        foreach (var part in parts.Where(part => part.GetProperty("type").GetString() == "TemplateProcessing"))
        {
            foreach (var item in part.GetProperty("single").EnumerateArray())
            {
                if (item.TryGetProperty("Sequence", out _)) result.Add(null);
                else if (IdOf(item.GetProperty("SpecialToken").GetProperty("id").GetString()!) is { } id) result.Add(id);
            }
        }
        return result.Contains(null) ? result : [null];
    }

    private void ReadConfig()
    {
        using var config = Open("tokenizer_config.json");
        using var map = Open("special_tokens_map.json");
        string? TokenText(string key)
        {
            foreach (var document in (JsonDocument?[])[config, map])
            {
                if (document is null || !document.RootElement.TryGetProperty(key, out var value)) continue;
                if (value.ValueKind == JsonValueKind.String) return value.GetString();
                if (value.ValueKind == JsonValueKind.Object && value.TryGetProperty("content", out var content)) return content.GetString();
            }
            return null;
        }
        BosTokenId = TokenText("bos_token") is { } bos ? IdOf(bos) : null;
        EosTokenId = TokenText("eos_token") is { } eos ? IdOf(eos) : null;
        var jinja = Path.Combine(_folder, "chat_template.jinja");
        if (File.Exists(jinja))
        {
            ChatTemplate = File.ReadAllText(jinja);
        }
        else if (config is not null && config.RootElement.TryGetProperty("chat_template", out var template))
        {
            ChatTemplate = template.ValueKind switch
            {
                JsonValueKind.String => template.GetString(),
                JsonValueKind.Array => template.EnumerateArray().Where(item => item.GetProperty("name").GetString() == "default").Select(item => item.GetProperty("template").GetString()).FirstOrDefault(),
                _ => null,
            };
        }
    }

    private JsonDocument? Open(string name)
    {
        var path = Path.Combine(_folder, name);
        if (!File.Exists(path)) return null;
        try
        {
            var document = JsonDocument.Parse(File.ReadAllBytes(path));
            return document.RootElement.ValueKind == JsonValueKind.Object ? document : throw new LancetException($"{path}: a JSON object is expected.");
        }
        catch (JsonException error)
        {
            throw new LancetException($"{path}: not valid JSON: {error.Message}", error);
        }
    }

    private sealed record AddedToken(string Content, int Id, bool StripsLeft, bool StripsRight, bool IsSingleWord);
}
