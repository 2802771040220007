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

    [Theory]
    [MemberData(nameof(Models))]
    public void Ids_and_texts_are_those_of_the_reference(string model)
    {
        var rows = ParityData.Lines($"{model}.jsonl");
        Tokenizer? tokenizer = null;
        var wrong = new List<string>();
        var (count, mismatches) = (0, 0);
        foreach (var row in rows)
        {
            tokenizer ??= Tokenizer.Load(ParityData.Model(model));
            count++;
            var text = ParityData.Text(row[0]);
            var ids = ParityData.Ids(row[1]);
            Compare("ids", ids, tokenizer.Encode(text, false));
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
        Assert.True(count >= 20_000, $"{count} strings only");
        Assert.True(mismatches == 0, $"{model}: {mismatches} mismatches over {count} strings\n{string.Join('\n', wrong)}");
    }

    private static string Shown(string text) => string.Concat(text.Select(c => c is > ' ' and < '\x7f' ? c.ToString() : $"\\u{(int)c:X4}"));
}
