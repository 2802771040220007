using System.Text.Json;
using System.Text.RegularExpressions;
using Lancet.Formats;

namespace Lancet.Tokenization;

/// <summary>
/// Learns a byte-level BPE vocabulary from text (Sennrich et al. 2016): the most frequent adjacent pair becomes a token until the vocabulary
/// is full; of equally frequent pairs the one of lower ids wins, so the result depends on the text alone.
/// </summary>
public static class BpeTrainer
{
    // Llama 3's pre-tokeniser, with digits one by one.
    private const string Pattern = @"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

    /// <summary>Trains a tokenizer and writes tokenizer.json and tokenizer_config.json.</summary>
    /// <param name="texts">Corpus.</param>
    /// <param name="vocabularySize">Ids, special tokens included.</param>
    /// <param name="specialTokens">Special tokens, which get the last ids.</param>
    /// <param name="eosToken">Which of them ends a text.</param>
    /// <param name="chatTemplate">Jinja source, or null.</param>
    /// <param name="folder">Where the files go.</param>
    public static void Train(IEnumerable<string> texts, int vocabularySize, IReadOnlyList<string> specialTokens, string eosToken, string? chatTemplate, string folder)
    {
        var words = CountWords(texts);
        var vocabulary = Enumerable.Range(0, 256).Select(value => ByteLevel.Character((byte)value).ToString()).Order(StringComparer.Ordinal).ToList();
        var merges = Learn(words, vocabulary, vocabularySize - specialTokens.Count);
        AtomicFile.Write(Path.Combine(folder, "tokenizer.json"), stream => WriteTokenizer(stream, vocabulary, merges, specialTokens));
        AtomicFile.Write(Path.Combine(folder, "tokenizer_config.json"), stream =>
        {
            using var json = new Utf8JsonWriter(stream, new JsonWriterOptions { Indented = true });
            json.WriteStartObject();
            json.WriteString("tokenizer_class", "PreTrainedTokenizerFast");
            json.WriteString("eos_token", eosToken);
            if (chatTemplate is not null) json.WriteString("chat_template", chatTemplate);
            json.WriteEndObject();
        });
    }

    private static List<(int[] Symbols, long Count)> CountWords(IEnumerable<string> texts)
    {
        var regex = new Regex(Pattern, RegexOptions.CultureInvariant);
        var counts = new Dictionary<string, long>();
        foreach (var text in texts)
            foreach (var match in regex.EnumerateMatches(text))
                counts[text.Substring(match.Index, match.Length)] = counts.GetValueOrDefault(text.Substring(match.Index, match.Length)) + 1;
        var ids = Enumerable.Range(0, 256).Select(value => ByteLevel.Character((byte)value)).Order().Select((c, i) => (c, i)).ToDictionary(pair => pair.c, pair => pair.i);
        return [.. counts.OrderBy(item => item.Key, StringComparer.Ordinal).Select(item => (ByteLevel.Map(item.Key, 0, []).Select(c => ids[c]).ToArray(), item.Value))];
    }

    private static List<(string, string)> Learn(List<(int[] Symbols, long Count)> words, List<string> vocabulary, int size)
    {
        var merges = new List<(string, string)>();
        var known = vocabulary.ToHashSet();
        var counts = new Dictionary<(int, int), long>();
        var places = new Dictionary<(int, int), HashSet<int>>();
        for (var w = 0; w < words.Count; w++) Count(w, 1);
        var queue = new PriorityQueue<(int, int), (long NegativeCount, int, int)>();
        foreach (var (pair, count) in counts) queue.Enqueue(pair, (-count, pair.Item1, pair.Item2));
        while (vocabulary.Count < size && queue.TryDequeue(out var best, out var priority))
        {
            var count = counts.GetValueOrDefault(best);
            if (count < 2) continue;
            if (-priority.NegativeCount != count)
            {
                queue.Enqueue(best, (-count, best.Item1, best.Item2));
                continue;
            }
            var text = vocabulary[best.Item1] + vocabulary[best.Item2];
            merges.Add((vocabulary[best.Item1], vocabulary[best.Item2]));
            var id = known.Add(text) ? vocabulary.Count : vocabulary.IndexOf(text);
            if (id == vocabulary.Count) vocabulary.Add(text);
            var touched = new HashSet<(int, int)>();
            foreach (var w in places[best].ToList())
            {
                Count(w, -1);
                words[w] = (Replace(words[w].Symbols, best, id), words[w].Count);
                Count(w, 1);
                for (var i = 0; i + 1 < words[w].Symbols.Length; i++)
                    if (words[w].Symbols[i] == id || words[w].Symbols[i + 1] == id) touched.Add((words[w].Symbols[i], words[w].Symbols[i + 1]));
            }
            foreach (var pair in touched) queue.Enqueue(pair, (-counts[pair], pair.Item1, pair.Item2));
        }
        return merges;

        void Count(int w, int sign)
        {
            var (symbols, count) = words[w];
            for (var i = 0; i + 1 < symbols.Length; i++)
            {
                var pair = (symbols[i], symbols[i + 1]);
                counts[pair] = counts.GetValueOrDefault(pair) + (sign * count);
                if (!places.TryGetValue(pair, out var set)) places[pair] = set = [];
                if (sign > 0) set.Add(w);
                else set.Remove(w);
            }
        }
    }

    private static int[] Replace(int[] symbols, (int Left, int Right) pair, int id)
    {
        var result = new List<int>(symbols.Length);
        for (var i = 0; i < symbols.Length; i++)
        {
            if (i + 1 < symbols.Length && symbols[i] == pair.Left && symbols[i + 1] == pair.Right)
            {
                result.Add(id);
                i++;
            }
            else
            {
                result.Add(symbols[i]);
            }
        }
        return [.. result];
    }

    private static void WriteTokenizer(Stream stream, List<string> vocabulary, List<(string Left, string Right)> merges, IReadOnlyList<string> specialTokens)
    {
        using var json = new Utf8JsonWriter(stream, new JsonWriterOptions { Indented = false, Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping });
        json.WriteStartObject();
        json.WriteString("version", "1.0");
        json.WriteNull("truncation");
        json.WriteNull("padding");
        json.WriteStartArray("added_tokens");
        for (var i = 0; i < specialTokens.Count; i++)
        {
            json.WriteStartObject();
            json.WriteNumber("id", vocabulary.Count + i);
            json.WriteString("content", specialTokens[i]);
            foreach (var flag in (string[])["single_word", "lstrip", "rstrip", "normalized"]) json.WriteBoolean(flag, false);
            json.WriteBoolean("special", true);
            json.WriteEndObject();
        }
        json.WriteEndArray();
        json.WriteNull("normalizer");
        json.WriteRaw("pre_tokenizer", () =>
        {
            json.WriteStartObject();
            json.WriteString("type", "Sequence");
            json.WriteStartArray("pretokenizers");
            json.WriteStartObject();
            json.WriteString("type", "Split");
            json.WriteStartObject("pattern");
            json.WriteString("Regex", Pattern);
            json.WriteEndObject();
            json.WriteString("behavior", "Isolated");
            json.WriteBoolean("invert", false);
            json.WriteEndObject();
            WriteByteLevel();
            json.WriteEndArray();
            json.WriteEndObject();
        });
        json.WriteNull("post_processor");
        json.WriteRaw("decoder", WriteByteLevel);
        json.WriteStartObject("model");
        json.WriteString("type", "BPE");
        json.WriteNull("dropout");
        json.WriteNull("unk_token");
        json.WriteBoolean("fuse_unk", false);
        json.WriteBoolean("byte_fallback", false);
        json.WriteBoolean("ignore_merges", false);
        json.WriteStartObject("vocab");
        for (var i = 0; i < vocabulary.Count; i++) json.WriteNumber(vocabulary[i], i);
        json.WriteEndObject();
        json.WriteStartArray("merges");
        foreach (var (left, right) in merges)
        {
            json.WriteStartArray();
            json.WriteStringValue(left);
            json.WriteStringValue(right);
            json.WriteEndArray();
        }
        json.WriteEndArray();
        json.WriteEndObject();
        json.WriteEndObject();

        void WriteByteLevel()
        {
            json.WriteStartObject();
            json.WriteString("type", "ByteLevel");
            json.WriteBoolean("add_prefix_space", false);
            json.WriteBoolean("trim_offsets", true);
            json.WriteBoolean("use_regex", false);
            json.WriteEndObject();
        }
    }

    private static void WriteRaw(this Utf8JsonWriter json, string name, Action value)
    {
        json.WritePropertyName(name);
        value();
    }
}
