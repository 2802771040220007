using System.Globalization;
using System.Text.Json;
using Lancet.ChatTemplates;
using Lancet.Generation;
using Lancet.Tokenization;

namespace Lancet.Formats.Gguf;

/// <summary>A tokenizer as the keys of a GGUF file: tokens, their kinds, scores or merges, special ids and the chat template.</summary>
internal static class GgufVocabulary
{
    /// <summary>Kinds of tokens in <c>tokenizer.ggml.token_type</c>.</summary>
    public const int Normal = 1, Unknown = 2, Control = 3, UserDefined = 4, Unused = 5, Byte = 6;

    /// <summary>Adds the keys of a tokenizer.</summary>
    /// <param name="metadata">Receives the keys.</param>
    /// <param name="tokenizer">Tokenizer.</param>
    /// <param name="size">Rows of the embedding; ids without a token are filled up.</param>
    /// <param name="template">Chat template to write, or null for none.</param>
    /// <exception cref="LancetException">There is no tokenizer, or llama.cpp has none that gives the same tokens.</exception>
    public static void Add(GgufMetadata metadata, Tokenizer tokenizer, int size, ChatTemplate? template)
    {
        using var document = tokenizer.ReadJson(out var path);
        var (root, model) = (document.RootElement, document.RootElement.GetProperty("model"));
        if (tokenizer.VocabularySize > size) throw new LancetException($"{path}: the tokenizer has {tokenizer.VocabularySize} ids, the model {size} embeddings; they do not belong together.");
        if (Section.Text(model, "type") == "Unigram") throw new LancetException($"{path}: unigram tokenizers are not written to GGUF files; llama.cpp reads them for encoder models only.");
        var isByteLevel = MapsBytes(root);
        var unknown = tokenizer.UnknownTokenId ?? (Section.Text(model, "unk_token") is { } text ? tokenizer.IdOf(text) : null);
        var (tokens, kinds) = Tokens(root, tokenizer, size, isByteLevel ? null : unknown);
        metadata.Add("tokenizer.ggml.model", isByteLevel ? "gpt2" : "llama");
        metadata.Add("tokenizer.ggml.pre", isByteLevel ? GgufPreTokenizers.NameOf(root, path) : "default");
        metadata.Add("tokenizer.ggml.tokens", tokens);
        metadata.Add("tokenizer.ggml.token_type", kinds);
        string[][] merges = [.. model.GetProperty("merges").EnumerateArray().Select(Merge)];
        if (isByteLevel)
        {
            metadata.Add("tokenizer.ggml.merges", merges.Select(merge => merge[0] + " " + merge[1]).ToArray());
        }
        else
        {
            if (!Section.Flag(model, "byte_fallback")) throw new LancetException($"{path}: a BPE model that is neither byte-level nor has byte_fallback is not supported by llama.cpp.");
            metadata.Add("tokenizer.ggml.scores", Scores(tokens, kinds, merges));
            metadata.Add("tokenizer.ggml.add_space_prefix", AddsSpace(root, tokenizer, template));
        }
        AddSpecial(metadata, tokenizer, unknown, template);
        if (template is not null) metadata.Add("tokenizer.chat_template", template.Source);
    }

    /// <summary>
    /// A model's name, changed where llama.cpp reads something into it: in models that are called Phi-3 special tokens take the white space behind them away, which is right for just those
    /// whose tokenizer says so, and they must have Phi-3's tokens.
    /// </summary>
    public static string ModelName(string folder, string name)
    {
        var tokenizer = Tokenizer.Load(folder);
        using var document = Tokenizer.ReadJson(folder, out _);
        var strips = AddedToken.Read(document.RootElement).Exists(token => token is { IsSpecial: true, StripsRight: true, Content: "<|user|>" or "<|end|>" }) && Array.TrueForAll(["</s>", "<unk>", "<s>", "<|endoftext|>"], token => tokenizer.IdOf(token) is not null);
        var isCalled = Array.Exists(["phi-3", "phi3"], part => name.Contains(part, StringComparison.OrdinalIgnoreCase));
        return strips == isCalled ? name : strips ? "Phi-3 " + name : name.Replace("phi-3", "phi 3", StringComparison.OrdinalIgnoreCase).Replace("phi3", "phi 3", StringComparison.OrdinalIgnoreCase);
    }

    private static (string[] Tokens, int[] Kinds) Tokens(JsonElement root, Tokenizer tokenizer, int size, int? unknown)
    {
        var (tokens, kinds) = (new string[size], new int[size]);
        var added = AddedToken.Read(root).ToDictionary(token => token.Id);
        for (var id = 0; id < size; id++)
        {
            var text = tokenizer.TextOf(id, false);
            tokens[id] = text ?? string.Create(CultureInfo.InvariantCulture, $"[PAD{id}]");
            kinds[id] = text is null ? Unused
                : id == unknown ? Unknown
                : added.TryGetValue(id, out var token) ? token.IsSpecial ? Control : UserDefined
                : IsByte(text) ? Byte
                : Normal;
        }
        return (tokens, kinds);
    }

    /// <summary>
    /// llama.cpp's SentencePiece algorithm joins the neighbours whose union has the highest score, as BPE joins those with the earliest merge. So a token's score follows from the first
    /// merge that makes it.
    /// </summary>
    private static float[] Scores(string[] tokens, int[] kinds, string[][] merges)
    {
        var ranks = new Dictionary<string, int>(merges.Length);
        for (var i = 0; i < merges.Length; i++) ranks.TryAdd(merges[i][0] + merges[i][1], i);
        var scores = new float[tokens.Length];
        for (var id = 0; id < tokens.Length; id++)
            scores[id] = kinds[id] == Normal ? ranks.TryGetValue(tokens[id], out var rank) ? -rank : -merges.Length - id : kinds[id] == Byte ? 0 : -1000;
        return scores;
    }

    private static void AddSpecial(GgufMetadata metadata, Tokenizer tokenizer, int? unknown, ChatTemplate? template)
    {
        // What is put around a text shows whether its ends are marked.
        int[] bare = tokenizer.Encode("a", false), whole = tokenizer.Encode("a");
        var start = whole.AsSpan().IndexOf(bare);
        var (before, after) = (start > 0 ? whole[0] : (int?)null, start >= 0 && start + bare.Length < whole.Length ? whole[^1] : (int?)null);
        void Id(string name, int? id)
        {
            if (id is { } value) metadata.Add($"tokenizer.ggml.{name}_token_id", (uint)value);
        }
        Id("bos", before ?? tokenizer.BosTokenId);
        // What ends a turn is the end of text, as in the tokenizer's own files, unless texts are encoded with another one behind them; then generation has to end with both.
        var turnEnd = TokenizerFiles.EndOfText(tokenizer, template);
        var end = after ?? turnEnd;
        Id("eos", end);
        if (turnEnd != end) Id("eot", turnEnd);
        // llama.cpp stops at this one, too.
        if (tokenizer.EosTokenId != end && tokenizer.EosTokenId != turnEnd) Id("eom", tokenizer.EosTokenId);
        Id("unknown", unknown);
        Id("padding", TokenizerFiles.Padding(tokenizer, end, tokenizer.EosTokenId));
        metadata.Add("tokenizer.ggml.add_bos_token", before is not null);
        metadata.Add("tokenizer.ggml.add_eos_token", after is not null);
    }

    private static string[] Merge(JsonElement merge)
    {
        if (merge.ValueKind == JsonValueKind.Array) return [merge[0].GetString()!, merge[1].GetString()!];
        var text = merge.GetString()!;
        var space = text.IndexOf(' ', 1);
        return [text[..space], text[(space + 1)..]];
    }

    private static bool IsByte(string token) => token.Length == 6 && token.StartsWith("<0x", StringComparison.Ordinal) && token[5] == '>';

    private static bool MapsBytes(JsonElement root) => root.TryGetProperty("pre_tokenizer", out var section) && section.ValueKind == JsonValueKind.Object
        && (Section.Type(section) == "ByteLevel" || (section.TryGetProperty("pretokenizers", out var parts) && parts.EnumerateArray().Any(part => Section.Type(part) == "ByteLevel")));

    /// <summary>
    /// Whether a text gets a space in front: by a normaliser, or by a Metaspace. llama.cpp puts it in front of every stretch between special tokens. Tokenizers that want it at the very
    /// start only get none if the model's prompts begin with a special token, as those of nearly all chat templates do: then no stretch is at the start.
    /// </summary>
    private static bool AddsSpace(JsonElement root, Tokenizer tokenizer, ChatTemplate? template)
    {
        if (root.TryGetProperty("pre_tokenizer", out var pre) && pre.ValueKind == JsonValueKind.Object && Section.Type(pre) == "Metaspace")
            return Section.Metaspace(pre).Scheme switch { "never" => false, "first" => template is null || !StartsWithSpecial(tokenizer, template), _ => true };
        if (!root.TryGetProperty("normalizer", out var normalizer) || normalizer.ValueKind != JsonValueKind.Object) return false;
        return Section.Type(normalizer) == "Prepend" || (normalizer.TryGetProperty("normalizers", out var parts) && parts.EnumerateArray().Any(part => Section.Type(part) == "Prepend"));
    }

    private static bool StartsWithSpecial(Tokenizer tokenizer, ChatTemplate template)
    {
        try
        {
            return ChatGeneration.Prompt(tokenizer, template, [new("user", "a")]) is [var first, ..] && tokenizer.IsSpecial(first);
        }
        catch (LancetException)
        {
            // A template that refuses a single question says nothing about spaces.
            return false;
        }
    }
}
