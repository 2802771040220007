using System.Buffers.Binary;
using System.Text;
using System.Text.Json;

namespace Lancet.Tokenization;

/// <summary>
/// Reads SentencePiece's <c>tokenizer.model</c> (sentencepiece_model.proto) and says the same as a tokenizer.json, as Hugging Face's
/// conversion does: the dummy prefix, ▁ for spaces, byte fallback, and the vocabulary's control and user-defined pieces as added tokens.
/// </summary>
internal static class SentencePieceModel
{
    private const int Unknown = 2, Control = 3, UserDefined = 4, Unused = 5;

    /// <summary>A piece of the vocabulary; kinds are those of sentencepiece_model.proto, which GGUF files share.</summary>
    internal readonly record struct Piece(string Text, float Score, int Kind);

    /// <summary>What a model says beside its pieces.</summary>
    internal sealed record Options
    {
        public bool IsBpe { get; init; }

        public bool FallsBack { get; init; }

        public bool AddsPrefix { get; init; } = true;

        public bool RemovesExtraSpaces { get; init; }

        /// <summary>Id of the piece for what the vocabulary lacks.</summary>
        public int Unknown { get; init; }

        /// <summary>Id that is put before a text, or −1.</summary>
        public int Start { get; init; } = -1;

        /// <summary>Id that is put behind a text, or −1.</summary>
        public int End { get; init; } = -1;

        /// <summary>Normalisation rules (nmt_nfkc and others), or none.</summary>
        public byte[] Rules { get; init; } = [];
    }

    /// <summary>The model as a tokenizer.json.</summary>
    /// <exception cref="LancetException">The file is cut short or of another kind.</exception>
    public static JsonDocument ToJson(byte[] file, string path)
    {
        var pieces = new List<Piece>();
        var (isBpe, fallsBack, addsPrefix, removesExtra) = (false, false, true, true);
        var (unknown, bos) = (0, 1);
        byte[] rules = [];
        foreach (var (field, value, content) in Fields(file, path))
        {
            switch (field)
            {
                case 1:
                    var piece = new Piece("", 0, 1);
                    foreach (var (inner, number, bytes) in Fields(content, path))
                    {
                        piece = inner switch
                        {
                            1 => piece with { Text = Encoding.UTF8.GetString(bytes.Span) },
                            2 => piece with { Score = BitConverter.UInt32BitsToSingle((uint)number) },
                            3 => piece with { Kind = (int)number },
                            _ => piece,
                        };
                    }
                    pieces.Add(piece);
                    break;
                case 2:
                    foreach (var (inner, number, _) in Fields(content, path))
                    {
                        if (inner == 3 && number is not (1 or 2)) throw new LancetException($"{path}: a SentencePiece model that is neither unigram nor BPE.");
                        if (inner == 3) isBpe = number == 2;
                        if (inner == 35) fallsBack = number != 0;
                        if (inner == 40) unknown = (int)number;
                        if (inner == 41) bos = (int)number;
                    }
                    break;
                case 3:
                    foreach (var (inner, number, bytes) in Fields(content, path))
                    {
                        if (inner == 2) rules = bytes.ToArray();
                        if (inner == 3) addsPrefix = number != 0;
                        if (inner == 4) removesExtra = number != 0;
                    }
                    break;
            }
        }
        if (pieces.Count == 0) throw new LancetException($"{path}: not a SentencePiece model: it has no pieces.");
        return JsonDocument.Parse(ToJson(pieces, new() { IsBpe = isBpe, FallsBack = fallsBack, AddsPrefix = addsPrefix, RemovesExtraSpaces = removesExtra, Unknown = unknown, Start = bos, Rules = rules }));
    }

    /// <summary>Pieces as a tokenizer.json.</summary>
    internal static byte[] ToJson(List<Piece> pieces, Options options)
    {
        using var stream = new MemoryStream();
        using (var json = new Utf8JsonWriter(stream))
        {
            json.WriteStartObject();
            WriteAddedTokens(json, pieces);
            WriteSteps(json, options.AddsPrefix, options.RemovesExtraSpaces, options.Rules);
            string? Text(int id) => id >= 0 && id < pieces.Count ? pieces[id].Text : null;
            WriteTemplate(json, Text(options.Start), Text(options.End));
            json.WriteStartObject("model");
            if (options.IsBpe) WriteBpe(json, pieces, options.Unknown);
            else WriteUnigram(json, pieces, options.Unknown);
            json.WriteBoolean("byte_fallback", options.FallsBack);
            json.WriteEndObject();
            json.WriteEndObject();
        }
        return stream.ToArray();
    }

    /// <summary>The post-processor that puts special tokens around a text; nothing if there are none.</summary>
    internal static void WriteTemplate(Utf8JsonWriter json, string? start, string? end)
    {
        if (start is null && end is null) return;
        json.WriteStartObject("post_processor");
        json.WriteString("type", "TemplateProcessing");
        json.WriteStartArray("single");
        if (start is not null) WriteNested(json, "SpecialToken", start);
        WriteNested(json, "Sequence", "A");
        if (end is not null) WriteNested(json, "SpecialToken", end);
        json.WriteEndArray();
        json.WriteEndObject();
    }

    private static void WriteNested(Utf8JsonWriter json, string name, string id)
    {
        json.WriteStartObject();
        json.WriteStartObject(name);
        json.WriteString("id", id);
        json.WriteEndObject();
        json.WriteEndObject();
    }

    private static void WriteAddedTokens(Utf8JsonWriter json, List<Piece> pieces)
    {
        json.WriteStartArray("added_tokens");
        for (var id = 0; id < pieces.Count; id++)
        {
            if (pieces[id].Kind is not (Unknown or Control or UserDefined)) continue;
            json.WriteStartObject();
            json.WriteNumber("id", id);
            json.WriteString("content", pieces[id].Text);
            json.WriteBoolean("special", pieces[id].Kind != UserDefined);
            json.WriteBoolean("normalized", false);
            json.WriteEndObject();
        }
        json.WriteEndArray();
    }

    private static void WriteSteps(Utf8JsonWriter json, bool addsPrefix, bool removesExtra, byte[] rules)
    {
        void Step(string type, params ReadOnlySpan<(string Key, string Value)> values)
        {
            json.WriteStartObject();
            json.WriteString("type", type);
            foreach (var (key, value) in values)
            {
                if (key is "String" or "Regex")
                {
                    json.WriteStartObject("pattern");
                    json.WriteString(key, value);
                    json.WriteEndObject();
                }
                else
                {
                    json.WriteString(key, value);
                }
            }
            json.WriteEndObject();
        }

        json.WriteStartObject("normalizer");
        json.WriteString("type", "Sequence");
        json.WriteStartArray("normalizers");
        if (rules.Length > 0) Step("Precompiled", ("precompiled_charsmap", Convert.ToBase64String(rules)));
        if (rules.Length > 0 && removesExtra)
        {
            Step("Strip");
            Step("Replace", ("Regex", " {2,}"), ("content", " "));
        }
        if (addsPrefix) Step("Prepend", ("prepend", "▁"));
        Step("Replace", ("String", " "), ("content", "▁"));
        json.WriteEndArray();
        json.WriteEndObject();
        json.WriteStartObject("decoder");
        json.WriteString("type", "Sequence");
        json.WriteStartArray("decoders");
        Step("Replace", ("String", "▁"), ("content", " "));
        Step("ByteFallback");
        Step("Fuse");
        if (addsPrefix)
        {
            json.WriteStartObject();
            json.WriteString("type", "Strip");
            json.WriteString("content", " ");
            json.WriteNumber("start", 1);
            json.WriteNumber("stop", 0);
            json.WriteEndObject();
        }
        json.WriteEndArray();
        json.WriteEndObject();
    }

    private static void WriteUnigram(Utf8JsonWriter json, List<Piece> pieces, int unknown)
    {
        json.WriteString("type", "Unigram");
        json.WriteNumber("unk_id", unknown);
        json.WriteStartArray("vocab");
        foreach (var piece in pieces)
        {
            json.WriteStartArray();
            json.WriteStringValue(piece.Text);
            json.WriteNumberValue((double)piece.Score);
            json.WriteEndArray();
        }
        json.WriteEndArray();
    }

    /// <summary>Every way to join a piece from two others is a merge; the better piece comes first.</summary>
    private static void WriteBpe(Utf8JsonWriter json, List<Piece> pieces, int unknown)
    {
        json.WriteString("type", "BPE");
        json.WriteBoolean("fuse_unk", true);
        if (unknown >= 0 && unknown < pieces.Count) json.WriteString("unk_token", pieces[unknown].Text);
        json.WriteStartObject("vocab");
        var ids = new Dictionary<string, int>();
        for (var id = 0; id < pieces.Count; id++)
        {
            if (!ids.TryAdd(pieces[id].Text, id)) continue;
            json.WriteNumber(pieces[id].Text, id);
        }
        json.WriteEndObject();
        json.WriteStartArray("merges");
        var lookup = ids.GetAlternateLookup<ReadOnlySpan<char>>();
        foreach (var piece in pieces.Where(piece => piece.Kind is not (Unknown or Control or Unused)).OrderByDescending(piece => piece.Score))
        {
            for (var at = 1; at < piece.Text.Length; at++)
            {
                if (char.IsLowSurrogate(piece.Text[at])) continue;
                if (!lookup.ContainsKey(piece.Text.AsSpan(0, at)) || !lookup.ContainsKey(piece.Text.AsSpan(at))) continue;
                json.WriteStartArray();
                json.WriteStringValue(piece.Text.AsSpan(0, at));
                json.WriteStringValue(piece.Text.AsSpan(at));
                json.WriteEndArray();
            }
        }
        json.WriteEndArray();
    }

    /// <summary>Fields of a protobuf message: number, varint or fixed value, and content of length-delimited ones.</summary>
    private static IEnumerable<(int Field, ulong Value, ReadOnlyMemory<byte> Content)> Fields(ReadOnlyMemory<byte> message, string path)
    {
        var at = 0;
        while (at < message.Length)
        {
            var tag = Varint(message.Span, ref at, path);
            var (field, wire) = ((int)(tag >> 3), (int)(tag & 7));
            switch (wire)
            {
                case 0:
                    yield return (field, Varint(message.Span, ref at, path), default);
                    break;
                case 1 or 5:
                    var width = wire == 1 ? 8 : 4;
                    if (message.Length - at < width) throw CutShort(path);
                    yield return (field, width == 8 ? BinaryPrimitives.ReadUInt64LittleEndian(message.Span[at..]) : BinaryPrimitives.ReadUInt32LittleEndian(message.Span[at..]), default);
                    at += width;
                    break;
                case 2:
                    var length = Varint(message.Span, ref at, path);
                    if (length > (ulong)(message.Length - at)) throw CutShort(path);
                    yield return (field, 0, message.Slice(at, (int)length));
                    at += (int)length;
                    break;
                default:
                    throw new LancetException($"{path}: not a SentencePiece model (wire type {wire}).");
            }
        }
    }

    private static ulong Varint(ReadOnlySpan<byte> message, ref int at, string path)
    {
        var value = 0UL;
        for (var shift = 0; shift < 64; shift += 7)
        {
            if (at >= message.Length) throw CutShort(path);
            var next = message[at++];
            value |= (ulong)(next & 0x7F) << shift;
            if (next < 0x80) return value;
        }
        throw new LancetException($"{path}: not a SentencePiece model (a number of more than 64 bits).");
    }

    private static LancetException CutShort(string path) => new($"{path}: the SentencePiece model is cut short.");
}
