using System.Text.Json;
using CsCheck;
using Lancet.Tokenization;

namespace Lancet.Tests.Text;

/// <summary>Tokenizers against Hugging Face's library (tests/tokenizers, made by make_tokenizers.mjs).</summary>
public class TokenizerTests
{
    private static readonly JsonElement s_expected = JsonDocument.Parse(File.ReadAllText(Path.Combine(TestFiles.Tokenizers, "expected.json"))).RootElement;

    public static TheoryData<string> Kinds => [.. s_expected.EnumerateArray().Select(kind => kind.GetProperty("name").GetString()!)];

    /// <summary>Texts that a kind was compared on.</summary>
    internal static IEnumerable<string> Texts(string kind) => s_expected.EnumerateArray().Single(item => item.GetProperty("name").GetString() == kind).GetProperty("rows").EnumerateArray().Select(row => row.GetProperty("text").GetString()!);

    [Theory]
    [MemberData(nameof(Kinds))]
    public void Ids_and_texts_are_those_of_hugging_face(string kind)
    {
        var tokenizer = Load(kind);
        foreach (var row in s_expected.EnumerateArray().Single(item => item.GetProperty("name").GetString() == kind).GetProperty("rows").EnumerateArray())
        {
            var text = row.GetProperty("text").GetString()!;
            var ids = Integers(row.GetProperty("ids"));
            Assert.True(ids.SequenceEqual(tokenizer.Encode(text, false)), $"{kind} {JsonSerializer.Serialize(text)}: expected {string.Join(' ', ids)}, got {string.Join(' ', tokenizer.Encode(text, false))}");
            Assert.Equal(Integers(row.GetProperty("with_special")), tokenizer.Encode(text));
            Assert.True(row.GetProperty("decoded").GetString() == tokenizer.Decode(ids), $"{kind}: decoded {JsonSerializer.Serialize(tokenizer.Decode(ids))} instead of {row.GetProperty("decoded").GetRawText()}");
        }
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public void Streamed_text_is_the_decoded_text(string kind)
    {
        var tokenizer = Load(kind);
        Gen.String.Array[0, 4].Sample(
            parts =>
            {
                var ids = tokenizer.Encode(string.Join(" 日本 é ", parts), false);
                var stream = new TokenStream(tokenizer);
                Assert.Equal(tokenizer.Decode(ids), string.Concat(ids.Select(stream.Add)) + stream.Finish());
            },
            iter: 50,
            threads: 1);
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public void Starts_never_fall_and_cut_the_text_where_tokens_begin(string kind)
    {
        var tokenizer = Load(kind);
        const string text = "First words, 日本語 then<s> more  ✓ text.\n";
        var ids = tokenizer.Encode(text, false, out var starts);
        Assert.Equal(ids.Length, starts.Length);
        for (var i = 1; i < starts.Length; i++) Assert.InRange(starts[i], starts[i - 1], text.Length - 1);
        Assert.Equal(text.IndexOf("<s>", StringComparison.Ordinal), starts[Array.IndexOf(ids, 1)]);
    }

    [Fact]
    public void Normalisation_is_that_of_unicode()
    {
        // Made by scripts/make-normalization.py with Python's unicodedata: text, forms C, D, KC and KD.
        foreach (var row in JsonDocument.Parse(File.ReadAllText(Path.Combine(TestFiles.Tokenizers, "normalization.json"))).RootElement.EnumerateArray())
        {
            var text = row[0].GetString()!;
            for (var form = 1; form <= 4; form++)
            {
                var normalized = Normalization.Apply(new(text, null, 0), composes: form % 2 == 1, isCompatible: form > 2);
                Assert.Equal(row[form].GetString(), normalized.Text);
                for (var i = 0; i < normalized.Text.Length; i++) Assert.InRange(normalized.Origin(i), 0, text.Length - 1);
            }
        }
        Assert.Equal([0, 2, 3, 5], Normalization.Apply(new("e\u0301xA\u030Ay", null, 0), composes: true, isCompatible: false).Origins!);
    }

    private static Tokenizer Load(string kind) => Tokenizer.Load(Path.Combine(TestFiles.Tokenizers, kind));

    private static int[] Integers(JsonElement list) => [.. list.EnumerateArray().Select(item => item.GetInt32())];
}
