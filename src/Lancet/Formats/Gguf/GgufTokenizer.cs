using System.Text.Json;
using Lancet.Tokenization;

namespace Lancet.Formats.Gguf;

/// <summary>The tokenizer of a GGUF file as Hugging Face's tokenizer.json and tokenizer_config.json.</summary>
internal static class GgufTokenizer
{
    /// <summary>Whether a file has a tokenizer.</summary>
    public static bool Exists(GgufFile file) => file.Header.Metadata.Contains("tokenizer.ggml.tokens");

    /// <summary>tokenizer.json.</summary>
    /// <exception cref="LancetException">Keys are missing or wrong, or the tokenizer is of another kind.</exception>
    public static byte[] ToJson(GgufFile file)
    {
        var metadata = file.Header.Metadata;
        var tokens = metadata.Texts("tokenizer.ggml.tokens") ?? throw metadata.Error("key tokenizer.ggml.tokens is missing; the file has no tokenizer.");
        var kinds = metadata.Integers("tokenizer.ggml.token_type") ?? [];
        if (kinds.Length != 0 && kinds.Length != tokens.Length) throw metadata.Error($"tokenizer.ggml.token_type has {kinds.Length} entries for {tokens.Length} tokens.");
        int Kind(int id) => kinds.Length == 0 ? GgufVocabulary.Normal : kinds[id];
        switch (metadata.RequiredText("tokenizer.ggml.model"))
        {
            case "gpt2": return ByteLevel(metadata, tokens, Kind);
            case "llama":
                var scores = metadata.Numbers("tokenizer.ggml.scores") ?? throw metadata.Error("key tokenizer.ggml.scores is missing.");
                if (scores.Length != tokens.Length) throw metadata.Error($"tokenizer.ggml.scores has {scores.Length} entries for {tokens.Length} tokens.");
                var options = new SentencePieceModel.Options
                {
                    IsBpe = true,
                    FallsBack = true,
                    AddsPrefix = metadata.Flag("tokenizer.ggml.add_space_prefix") ?? true,
                    Unknown = (int)(metadata.Integer("tokenizer.ggml.unknown_token_id") ?? 0),
                    Start = metadata.Flag("tokenizer.ggml.add_bos_token") ?? true ? Special(metadata, tokens, "bos") ?? -1 : -1,
                    End = metadata.Flag("tokenizer.ggml.add_eos_token") ?? false ? Special(metadata, tokens, "eos") ?? -1 : -1,
                };
                return SentencePieceModel.ToJson([.. tokens.Select((token, id) => new SentencePieceModel.Piece(token, scores[id], Kind(id)))], options);
            case var other: throw metadata.Error($"the tokenizer {other} is not supported; gpt2 and llama are.");
        }
    }

    /// <summary>tokenizer_config.json: special tokens and the chat template.</summary>
    public static byte[] ToConfig(GgufFile file)
    {
        var metadata = file.Header.Metadata;
        var tokens = metadata.Texts("tokenizer.ggml.tokens") ?? [];
        return Write(json =>
        {
            json.WriteString("tokenizer_class", "PreTrainedTokenizerFast");
            foreach (var (key, name) in ((string, string)[])[("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown"), ("pad_token", "padding")])
                if (Special(metadata, tokens, name) is { } id) json.WriteString(key, tokens[id]);
            if (metadata.Text("tokenizer.chat_template") is { } template) json.WriteString("chat_template", template);
        });
    }

    private static byte[] ByteLevel(GgufMetadata metadata, string[] tokens, Func<int, int> kind) => Write(json =>
    {
        json.WriteString("version", "1.0");
        json.WriteStartArray("added_tokens");
        for (var id = 0; id < tokens.Length; id++)
        {
            if (kind(id) is not (GgufVocabulary.Control or GgufVocabulary.UserDefined)) continue;
            json.WriteStartObject();
            json.WriteNumber("id", id);
            json.WriteString("content", tokens[id]);
            foreach (var key in (string[])["single_word", "lstrip", "rstrip", "normalized"]) json.WriteBoolean(key, false);
            json.WriteBoolean("special", kind(id) == GgufVocabulary.Control);
            json.WriteEndObject();
        }
        json.WriteEndArray();
        json.WriteNull("normalizer");
        var ignoresMerges = GgufPreTokenizers.Write(json, metadata.Text("tokenizer.ggml.pre") ?? "gpt-2", metadata);
        // Of byte-level tokenizers only Llama 3's and Mistral's put a beginning there unasked.
        var start = metadata.Flag("tokenizer.ggml.add_bos_token") ?? ignoresMerges ? Special(metadata, tokens, "bos") : null;
        var end = metadata.Flag("tokenizer.ggml.add_eos_token") ?? false ? Special(metadata, tokens, "eos") : null;
        SentencePieceModel.WriteTemplate(json, start is { } bos ? tokens[bos] : null, end is { } eos ? tokens[eos] : null);
        json.WriteStartObject("decoder");
        json.WriteString("type", "ByteLevel");
        json.WriteEndObject();
        json.WriteStartObject("model");
        json.WriteString("type", "BPE");
        json.WriteBoolean("ignore_merges", ignoresMerges);
        json.WriteStartObject("vocab");
        var seen = new HashSet<string>();
        for (var id = 0; id < tokens.Length; id++)
            if (kind(id) is not (GgufVocabulary.Unused or GgufVocabulary.Control or GgufVocabulary.UserDefined) && seen.Add(tokens[id])) json.WriteNumber(tokens[id], id);
        json.WriteEndObject();
        json.WriteStartArray("merges");
        foreach (var merge in metadata.Texts("tokenizer.ggml.merges") ?? throw metadata.Error("key tokenizer.ggml.merges is missing."))
        {
            var space = merge.IndexOf(' ', Math.Min(1, merge.Length));
            if (space < 1) throw metadata.Error($"tokenizer.ggml.merges holds \"{merge}\"; two tokens with a space between them are expected.");
            // The decoder of merges reads either form; a list cannot be misread.
            json.WriteStartArray();
            json.WriteStringValue(merge.AsSpan(0, space));
            json.WriteStringValue(merge.AsSpan(space + 1));
            json.WriteEndArray();
        }
        json.WriteEndArray();
        json.WriteEndObject();
    });

    private static int? Special(GgufMetadata metadata, string[] tokens, string name) => metadata.Integer($"tokenizer.ggml.{name}_token_id") is not { } id ? null
        : id >= 0 && id < tokens.Length ? (int)id
        : throw metadata.Error($"tokenizer.ggml.{name}_token_id is {id}; there are {tokens.Length} tokens.");

    private static byte[] Write(Action<Utf8JsonWriter> write)
    {
        using var stream = new MemoryStream();
        using (var json = new Utf8JsonWriter(stream, new JsonWriterOptions { Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping }))
        {
            json.WriteStartObject();
            write(json);
            json.WriteEndObject();
        }
        return stream.ToArray();
    }
}
