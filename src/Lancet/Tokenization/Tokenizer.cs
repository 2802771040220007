using System.Text.Json;
using System.Text.Json.Nodes;
using Lancet.ChatTemplates;
using Lancet.Formats.Gguf;

namespace Lancet.Tokenization;

/// <summary>
/// A tokenizer read from Hugging Face's <c>tokenizer.json</c> or SentencePiece's <c>tokenizer.model</c>: byte-level BPE (Llama 3, Qwen,
/// GPT-2, gpt-oss), BPE with byte fallback (Llama 2, Mistral, Gemma) or unigram, with the special tokens and chat template of
/// <c>tokenizer_config.json</c>. Ids and texts are those of Hugging Face's tokenizers; lone surrogates count as U+FFFD. Threads may share one.
/// </summary>
public sealed class Tokenizer
{
    /// <summary>Name of the file with the chat template, beside the tokenizer or an adapter.</summary>
    public const string ChatTemplateFile = "chat_template.jinja";

    private readonly string _folder;
    private readonly Normalizer _normalizer;
    private readonly PreTokenizer _preTokenizer;
    private readonly TokenModel _model;
    private readonly Dictionary<string, int> _vocabulary;
    private readonly Dictionary<string, int> _added = [];
    private readonly string?[] _texts;
    private readonly HashSet<int> _special = [];
    private readonly AddedTokenFinder? _addedInText;
    private readonly AddedTokenFinder? _addedInNormalized;
    private readonly List<int?> _postProcessor;
    private readonly (string From, string To)? _renaming;
    private (ChatTemplate Template, Tokenizer Tokenizer)? _renamed;

    private Tokenizer(string folder, JsonElement root, string path, (string From, string To)? renaming = null)
    {
        (_folder, _renaming) = (folder, renaming);
        var model = root.TryGetProperty("model", out var section) ? section : throw new LancetException($"{path}: model is missing.");
        _normalizer = Normalizer.Read(root, path);
        _preTokenizer = PreTokenizer.Read(root, path);
        Decoder = TokenDecoder.Read(root, path);
        (_vocabulary, _model) = ReadModel(model, _preTokenizer.MapsBytes, path);
        var added = AddedToken.Read(root);
        foreach (var token in added)
        {
            if (token.Id < 0) throw new LancetException($"{path}: added token {token.Content} has the id {token.Id}.");
            _added[token.Content] = token.Id;
            if (token.IsSpecial) _special.Add(token.Id);
        }
        VocabularySize = Math.Max(_vocabulary.Count == 0 ? 0 : _vocabulary.Values.Max(), added.Count == 0 ? 0 : added.Max(token => token.Id)) + 1;
        if (VocabularySize is <= 0 or > 50_000_000) throw new LancetException($"{path}: a token has the id {(uint)VocabularySize - 1}.");
        _texts = new string?[VocabularySize];
        foreach (var (text, id) in _vocabulary) _texts[id] = text;
        foreach (var token in added) _texts[token.Id] = token.Content;
        // Hugging Face looks for normalised tokens in normalised text; where nothing is normalised, that is the text itself.
        var inNormalized = _normalizer.IsEmpty ? [] : added.Where(token => token.IsNormalized).ToList();
        var inText = added.Except(inNormalized).ToList();
        if (inText.Count > 0) _addedInText = new(inText.Select(token => (token.Content, token)));
        if (inNormalized.Count > 0) _addedInNormalized = new(inNormalized.Select(token => (_normalizer.Apply(new(token.Content, null, 0)).Text, token)));
        _postProcessor = ReadPostProcessor(root);
        ReadConfig();
    }

    /// <summary>Number of ids, added tokens included.</summary>
    public int VocabularySize { get; }

    /// <summary>Id of the beginning of text, or null.</summary>
    public int? BosTokenId { get; private set; }

    /// <summary>Id of the end of text, or null.</summary>
    public int? EosTokenId { get; private set; }

    /// <summary>Id of the token for what the vocabulary lacks, or null.</summary>
    public int? UnknownTokenId { get; private set; }

    /// <summary>Id of the padding token, or null.</summary>
    public int? PadTokenId { get; private set; }

    /// <summary>Text of the beginning-of-text token, or null.</summary>
    public string? BosToken => BosTokenId is { } id ? _texts[id] : null;

    /// <summary>Text of the end-of-text token, or null.</summary>
    public string? EosToken => EosTokenId is { } id ? _texts[id] : null;

    /// <summary>What tokens become when they are text again.</summary>
    internal TokenDecoder Decoder { get; }

    /// <summary>Jinja source of the checkpoint's chat template, or null.</summary>
    public string? ChatTemplate { get; private set; }

    /// <summary>
    /// Writes the tokenizer's files beside a trained model: the folder's, or what a GGUF file says. With a template the end of text becomes what ends its turns, in config.json and
    /// generation_config.json, too; padding never is the end of text.
    /// </summary>
    /// <param name="folder">Folder, which exists.</param>
    /// <param name="template">What the model was trained with; null if it was with no template.</param>
    public void SaveTo(string folder, ChatTemplate? template = null) => TokenizerFiles.Write(folder, _folder, this, template);

    /// <summary>
    /// The tokenizer that goes with a template. Where a template of Lancet's own library ends its turns with a token that the vocabulary lacks, the end of text gets that name: no row
    /// is added, and a model that was trained with the template ends its turns with the token that it ends texts with. Else this one.
    /// </summary>
    /// <param name="template">Chat template; a checkpoint's own changes nothing.</param>
    public Tokenizer For(ChatTemplate template)
    {
        if (template.LibraryTurnEnd is not { } end || EosToken is not { } former || IdOf(end) is not null || !_added.ContainsKey(former) || template.Source == ChatTemplate) return this;
        if (_renamed is { } known && known.Template.Source == template.Source) return known.Tokenizer;
        using var document = ReadJson(_folder, (former, end), out var path);
        var renamed = new Tokenizer(_folder, document.RootElement, path, (former, end));
        _renamed = (template, renamed);
        return renamed;
    }

    /// <summary>The tokenizer as a tokenizer.json, with the name that <see cref="For"/> gave to its end of text.</summary>
    internal JsonDocument ReadJson(out string path) => _renaming is { } names ? ReadJson(_folder, names, out path) : ReadJson(_folder, out path);

    private static JsonDocument ReadJson(string folder, (string From, string To) names, out string path)
    {
        using var document = ReadJson(folder, out path);
        var root = JsonNode.Parse(document.RootElement.GetRawText())!;
        foreach (var part in (JsonNode?[])[root["added_tokens"], root["post_processor"], root["model"]])
            if (part is not null) TokenizerFiles.Rename(part, names.From, names.To);
        return JsonDocument.Parse(root.ToJsonString());
    }

    /// <summary>Reads the tokenizer of a model folder.</summary>
    /// <exception cref="LancetException">There is none, or it is malformed or of an unsupported kind.</exception>
    public static Tokenizer Load(string folder)
    {
        using var document = ReadJson(folder, out var path);
        try
        {
            return new Tokenizer(folder, document.RootElement, path);
        }
        catch (Exception error) when (error is KeyNotFoundException or InvalidOperationException or FormatException or ArgumentException or IndexOutOfRangeException)
        {
            throw new LancetException($"{path}: not a valid tokenizer: {error.Message}", error);
        }
    }

    /// <summary>The tokenizer of a model folder as a tokenizer.json, whatever it is there.</summary>
    /// <param name="folder">Folder.</param>
    /// <param name="path">The file that was read, for messages.</param>
    /// <exception cref="LancetException">There is none, or it is not valid JSON.</exception>
    internal static JsonDocument ReadJson(string folder, out string path)
    {
        if (GgufFile.IsGguf(folder))
        {
            path = folder;
            using var gguf = GgufFile.Open(folder);
            return JsonDocument.Parse(GgufTokenizer.ToJson(gguf));
        }
        var file = path = FileOf(folder) ?? throw new LancetException($"{folder}: there is neither a tokenizer.json nor a tokenizer.model.");
        try
        {
            var bytes = File.ReadAllBytes(file);
            return file.EndsWith(".json", StringComparison.Ordinal) ? JsonDocument.Parse(bytes) : SentencePieceModel.ToJson(bytes, file);
        }
        catch (Exception error) when (error is JsonException or InvalidOperationException or ArgumentException)
        {
            throw new LancetException($"{file}: not a valid tokenizer: {error.Message}", error);
        }
    }

    /// <summary>Whether a model folder has a tokenizer.</summary>
    public static bool Exists(string folder)
    {
        if (!GgufFile.IsGguf(folder)) return FileOf(folder) is not null;
        using var gguf = GgufFile.Open(folder);
        return GgufTokenizer.Exists(gguf);
    }

    /// <summary>Token ids of a text.</summary>
    /// <param name="text">Text; special tokens in it are recognised.</param>
    /// <param name="addsSpecialTokens">Whether the post-processor's tokens, such as a beginning of text, are added.</param>
    public int[] Encode(string text, bool addsSpecialTokens = true)
    {
        var ids = new List<int>(text.Length / 3);
        Encode(text, addsSpecialTokens, ids, null);
        return [.. ids];
    }

    /// <summary>Token ids of a text, and the index of the character where each starts.</summary>
    public int[] Encode(string text, bool addsSpecialTokens, out int[] starts)
    {
        var ids = new List<int>(text.Length / 3);
        var places = new List<int>(text.Length / 3);
        Encode(text, addsSpecialTokens, ids, places);
        starts = [.. places];
        return [.. ids];
    }

    private void Encode(string text, bool addsSpecialTokens, List<int> ids, List<int>? places)
    {
        var surrounds = addsSpecialTokens && _postProcessor.Count > 1;
        var body = surrounds ? _postProcessor.IndexOf(null) : 0;
        for (var i = 0; i < body; i++) Add(_postProcessor[i]!.Value, 0);
        var at = 0;
        while (_addedInText?.Next(text, at) is { } found)
        {
            EncodeStretch(new(text[at..found.From], null, at));
            Add(found.Token.Id, found.Start);
            at = found.To;
        }
        EncodeStretch(new(at == 0 ? text : text[at..], null, at));
        for (var i = body + 1; surrounds && i < _postProcessor.Count; i++) Add(_postProcessor[i]!.Value, text.Length);

        void Add(int id, int place)
        {
            ids.Add(id);
            places?.Add(place);
        }

        void EncodeStretch(MappedText stretch)
        {
            if (stretch.Text.Length == 0) return;
            stretch = _normalizer.Apply(stretch);
            var from = 0;
            while (_addedInNormalized?.Next(stretch.Text, from) is { } found)
            {
                EncodeNormalized(stretch.Slice(from, found.From));
                Add(found.Token.Id, stretch.Origin(found.Start));
                from = found.To;
            }
            EncodeNormalized(stretch.Slice(from, stretch.Text.Length));
        }

        void EncodeNormalized(MappedText stretch)
        {
            foreach (var (start, end) in _preTokenizer.Split(ref stretch))
                foreach (var token in _model.Encode(stretch.Text.AsSpan(start, end - start))) Add(token.Id, stretch.Origin(start + token.Start));
        }
    }

    /// <summary>Token ids of many texts, spread over the processor's threads.</summary>
    /// <param name="texts">Texts.</param>
    /// <param name="addsSpecialTokens">Whether the post-processor's tokens are added to each.</param>
    /// <param name="cancellation">Ends the work early.</param>
    public int[][] EncodeBatch(IReadOnlyList<string> texts, bool addsSpecialTokens = true, CancellationToken cancellation = default)
    {
        var result = new int[texts.Count][];
        // A thread keeps one list for all of its texts.
        Parallel.For(0, texts.Count, new ParallelOptions { CancellationToken = cancellation }, () => new List<int>(), (i, _, ids) =>
        {
            ids.Clear();
            Encode(texts[i], addsSpecialTokens, ids, null);
            result[i] = [.. ids];
            return ids;
        }, _ => { });
        return result;
    }

    /// <summary>Text of token ids.</summary>
    /// <param name="ids">Ids.</param>
    /// <param name="skipsSpecialTokens">Whether special tokens are left out.</param>
    public string Decode(ReadOnlySpan<int> ids, bool skipsSpecialTokens = true)
    {
        var state = new TokenDecoder.State(Decoder, waitsForRuns: true);
        foreach (var id in ids)
            if (TextOf(id, skipsSpecialTokens) is { } token) state.Add(token);
        return state.Finish();
    }

    /// <summary>Id of a token by its exact text, or null.</summary>
    public int? IdOf(string token) => _added.TryGetValue(token, out var added) ? added : _vocabulary.TryGetValue(token, out var id) ? id : null;

    /// <summary>Whether an id is a special token.</summary>
    internal bool IsSpecial(int id) => _special.Contains(id);

    /// <summary>A token as the vocabulary writes it; null where there is none or it is left out.</summary>
    internal string? TextOf(int id, bool skipsSpecialTokens) => id < 0 || id >= _texts.Length || (skipsSpecialTokens && _special.Contains(id)) ? null : _texts[id];

    private static string? FileOf(string folder) => ((string[])["tokenizer.json", "tokenizer.model"]).Select(name => Path.Combine(folder, name)).FirstOrDefault(File.Exists);

    private static (Dictionary<string, int> Vocabulary, TokenModel Model) ReadModel(JsonElement model, bool mapsBytes, string path)
    {
        var vocabulary = new Dictionary<string, int>();
        var fallsBack = Section.Flag(model, "byte_fallback");
        switch (Section.Text(model, "type") ?? "BPE")
        {
            case "BPE":
                foreach (var key in (string[])["continuing_subword_prefix", "end_of_word_suffix"])
                    if (Section.Text(model, key) is { Length: > 0 }) throw new LancetException($"{path}: {key} is not supported.");
                foreach (var item in model.GetProperty("vocab").EnumerateObject()) vocabulary[item.Name] = item.Value.GetInt32();
                if (vocabulary.Values.Any(id => id < 0)) throw new LancetException($"{path}: a token has a negative id.");
                var unknown = Section.Text(model, "unk_token") is { } token && vocabulary.TryGetValue(token, out var id) ? id : (int?)null;
                return (vocabulary, new BytePairEncoder(vocabulary, Merges(model), new(mapsBytes, Section.Flag(model, "ignore_merges"), fallsBack, unknown, Section.Flag(model, "fuse_unk"))));
            case "Unigram" when mapsBytes: throw new LancetException($"{path}: a unigram model over bytes is not supported.");
            case "Unigram":
                var scores = new List<double>();
                foreach (var item in model.GetProperty("vocab").EnumerateArray())
                {
                    // A token that stands twice keeps its last id, as in Hugging Face's tokenizers.
                    vocabulary[item[0].GetString()!] = scores.Count;
                    scores.Add(item[1].GetDouble());
                }
                return (vocabulary, new UnigramEncoder(vocabulary, [.. scores], model.TryGetProperty("unk_id", out var place) && place.ValueKind == JsonValueKind.Number ? place.GetInt32() : null, fallsBack));
            case var other: throw new LancetException($"{path}: tokenizer model {other} is not supported; BPE and Unigram are.");
        }
    }

    private static IEnumerable<(string, string)> Merges(JsonElement model) => model.GetProperty("merges").EnumerateArray().Select(merge =>
    {
        if (merge.ValueKind == JsonValueKind.Array) return (merge[0].GetString()!, merge[1].GetString()!);
        var text = merge.GetString()!;
        var space = text.IndexOf(' ', 1);
        return (text[..space], text[(space + 1)..]);
    }).ToList();

    /// <summary>Ids around the text, the text itself as null.</summary>
    private List<int?> ReadPostProcessor(JsonElement root)
    {
        var result = new List<int?>();
        if (!root.TryGetProperty("post_processor", out var processor) || processor.ValueKind != JsonValueKind.Object) return [null];
        JsonElement[] parts = processor.TryGetProperty("processors", out var list) ? [.. list.EnumerateArray()] : [processor];
        foreach (var part in parts.Where(part => Section.Type(part) == "TemplateProcessing"))
        {
            foreach (var item in part.GetProperty("single").EnumerateArray())
            {
                if (item.TryGetProperty("Sequence", out _)) result.Add(null);
                else if (IdOf(item.GetProperty("SpecialToken").GetProperty("id").GetString()!) is { } id) result.Add(id);
            }
        }
        foreach (var part in parts.Where(part => Section.Type(part) is "BertProcessing" or "RobertaProcessing"))
            result = [part.GetProperty("cls")[1].GetInt32(), null, part.GetProperty("sep")[1].GetInt32()];
        return result.Contains(null) ? result : [null];
    }

    private void ReadConfig()
    {
        using var config = GgufFile.IsGguf(_folder) ? ConfigOf(_folder) : Open("tokenizer_config.json");
        using var map = Open("special_tokens_map.json");
        string? TokenText(string key)
        {
            foreach (var document in (JsonDocument?[])[config, map])
            {
                if (document is null || !document.RootElement.TryGetProperty(key, out var value)) continue;
                if (value.ValueKind == JsonValueKind.Object && value.TryGetProperty("content", out var content)) value = content;
                if (value.ValueKind == JsonValueKind.String) return value.GetString() is var token && token == _renaming?.From ? _renaming?.To : token;
            }
            return null;
        }
        BosTokenId = TokenText("bos_token") is { } bos ? IdOf(bos) : null;
        EosTokenId = TokenText("eos_token") is { } eos ? IdOf(eos) : null;
        UnknownTokenId = TokenText("unk_token") is { } unknown ? IdOf(unknown) : null;
        PadTokenId = TokenText("pad_token") is { } pad ? IdOf(pad) : null;
        var jinja = Path.Combine(_folder, ChatTemplateFile);
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

    private static JsonDocument ConfigOf(string path)
    {
        using var gguf = GgufFile.Open(path);
        return JsonDocument.Parse(GgufTokenizer.ToConfig(gguf));
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
}
