using System.Text.Json;
using Lancet.Tokenization;

namespace Lancet.Tests.Text;

/// <summary>What a Split does with its matches, as the documentation of Hugging Face's tokenizers shows it, and tokens that are found before it.</summary>
public class PreTokenizerTests
{
    [Theory]
    [InlineData("Removed", "the|final|countdown")]
    [InlineData("Isolated", "the|-|final|-|-|countdown")]
    [InlineData("MergedWithPrevious", "the-|final-|-|countdown")]
    [InlineData("MergedWithNext", "the|-final|-|-countdown")]
    [InlineData("Contiguous", "the|-|final|--|countdown")]
    public void A_match_goes_where_its_behaviour_says(string behavior, string expected)
    {
        using var json = JsonDocument.Parse($$$"""{"pre_tokenizer": {"type": "Split", "pattern": {"String": "-"}, "behavior": "{{{behavior}}}", "invert": false}}""");
        var text = new MappedText("the-final--countdown", null, 0);
        var pieces = PreTokenizer.Read(json.RootElement, "test").Split(ref text);
        Assert.Equal(expected, string.Join('|', pieces.Select(piece => text.Text[piece.Start..piece.End])));
    }

    [Fact]
    public void Added_tokens_are_the_leftmost_and_longest_and_mind_words_and_spaces()
    {
        static AddedToken Token(string content, int id, bool left = false, bool right = false, bool word = false) => new(content, id, left, right, word, false, true);
        AddedToken[] tokens = [Token("<a>", 1), Token("<a><b>", 2), Token("<l>", 3, left: true), Token("<r>", 4, right: true), Token("word", 5, word: true)];
        var finder = new AddedTokenFinder(tokens.Select(token => (token.Content, token)));
        Assert.Equal([(2, "<a><b>"), (1, "<a>"), (3, "  <l>"), (4, "<r> \n"), (5, "word")], Find("x<a><b><a>  <l> <r> \nwords sword word!"));

        List<(int, string)> Find(string text)
        {
            var result = new List<(int, string)>();
            for (var at = 0; finder.Next(text, at) is { } found; at = found.To) result.Add((found.Token.Id, text[found.From..found.To]));
            return result;
        }
    }

    [Fact]
    public void Bytes_that_are_no_text_become_a_replacement_each_as_in_hugging_face()
    {
        var tokenizer = Tokenizer.Load(Path.Combine(TestFiles.Tokenizers, "llama2"));
        int Byte(string token) => tokenizer.IdOf(token)!.Value;
        Assert.Equal("\uFFFD\uFFFD\uFFFD", tokenizer.Decode([Byte("<0xE2>"), Byte("<0x82>"), Byte("<0x41>")]));
        Assert.Equal("\u20AC", tokenizer.Decode([Byte("<0xE2>"), Byte("<0x82>"), Byte("<0xAC>")]));
        var stream = new TokenStream(tokenizer);
        Assert.Equal(["", "", "\u20AC"], new[] { "<0xE2>", "<0x82>", "<0xAC>" }.Select(token => stream.Add(Byte(token))));
        stream.Add(Byte("<0xE2>"));
        Assert.Equal("\uFFFD", stream.Finish());
    }

    [Fact]
    public void A_batch_gives_what_its_texts_give_one_by_one()
    {
        var tokenizer = Tokenizer.Load(Path.Combine(TestFiles.Tokenizers, "qwen2"));
        string[] texts = [.. Enumerable.Range(0, 2000).Select(i => $"text {i % 700} of {i} é 日本")];
        Assert.Equal(texts.Select(text => tokenizer.Encode(text)), tokenizer.EncodeBatch(texts));
    }
}
