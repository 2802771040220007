using System.Text.Json;
using Lancet.Tokenization;

namespace Lancet.Tests.Parity;

/// <summary>
/// The tokenizers of Llama 2, Llama 3, Gemma 3, Qwen 3, gpt-oss and DeepSeek-V3 against @huggingface/tokenizers, token for token, over
/// 20,000 strings each.
/// </summary>
public class TokenizerParityTests
{
    public static TheoryData<string> Models => ["llama2", "llama3", "gemma3", "qwen3", "gptoss", "deepseek_v3"];

    /// <summary>Kinds of normalisers, pre-tokenisers and models that the published ones above lack. (The reference has no MergedWithNext and no Contiguous; see PreTokenizerTests.)</summary>
    public static TheoryData<string> Made => ["unigram", "unigram-whole", "nfkd", "nfd", "words", "removed"];

    [Theory]
    [MemberData(nameof(Models))]
    public void Ids_and_texts_are_those_of_the_reference(string model) => Compare(model, ParityData.Model(model), 20_000, _ => false);

    [Theory]
    [MemberData(nameof(Made))]
    public void Other_kinds_give_what_the_reference_gives(string kind) => Compare(kind, ParityData.Made(kind), 3_500, text => kind switch
    {
        // The reference splits at JavaScript's white space; Hugging Face's at Unicode's, which has U+0085 and lacks U+FEFF.
        "words" or "nfd" => text.AsSpan().ContainsAny('\u0085', '\uFEFF'),
        // The reference reads a run of the bytes EF BB BF as a byte order mark and drops it; Hugging Face's tokenizers keep U+FEFF.
        // JavaScript also writes a capital sigma at a word's end as a final one; the Rust library goes character by character.
        "nfkd" => text.AsSpan().ContainsAny('\uFEFF', '\u03A3', '\u03F9'),
        // Assigned in Unicode 17, which node and .NET know or not.
        "removed" => text.Contains('\u0CDC', StringComparison.Ordinal),
        _ => false,
    });

    private static void Compare(string model, string folder, int least, Func<string, bool> differs)
    {
        var rows = ParityData.Lines($"{model}.jsonl");
        Tokenizer? tokenizer = null;
        var wrong = new List<string>();
        var (count, mismatches) = (0, 0);
        foreach (var row in rows)
        {
            tokenizer ??= Tokenizer.Load(folder);
            var text = ParityData.Text(row[0]);
            if (differs(text)) continue;
            count++;
            var ids = ParityData.Ids(row[1]);
            var encoded = tokenizer.Encode(text, false, out var starts);
            Compare("ids", ids, encoded);
            // Places never fall and stay in the text.
            for (var i = 0; i < starts.Length; i++)
                if (starts[i] < (i == 0 ? 0 : starts[i - 1]) || starts[i] >= text.Length) Note($"places: {string.Join(' ', starts)}");
            var stream = new TokenStream(tokenizer, false);
            CompareText("streamed text", ParityData.Text(row[3]), string.Concat(ids.Select(stream.Add)) + stream.Finish());
            Compare("ids with special tokens", ParityData.Ids(row[2]), tokenizer.Encode(text));
            CompareText("text", ParityData.Text(row[3]), tokenizer.Decode(ids, false));
            CompareText("text without special tokens", ParityData.Text(row[4]), tokenizer.Decode(ids, true));

            void Compare(string what, int[] expected, int[] actual)
            {
                if (!expected.AsSpan().SequenceEqual(actual)) Note($"{what}: expected {string.Join(' ', expected)}, got {string.Join(' ', actual)}");
            }

            void CompareText(string what, string expected, string actual)
            {
                if (expected != actual) Note($"{what}: expected {Shown(expected)}, got {Shown(actual)}");
            }

            void Note(string what)
            {
                mismatches++;
                if (wrong.Count < 12) wrong.Add($"{Shown(text)} {what}");
            }
        }
        Assert.True(count >= least, $"{count} strings only");
        Assert.True(mismatches == 0, $"{model}: {mismatches} mismatches over {count} strings\n{string.Join('\n', wrong)}");
    }

    private static string Shown(string text) => string.Concat(text.Select(c => c is > ' ' and < '\x7f' ? c.ToString() : $"\\u{(int)c:X4}"));
}
