using System.Text;
using System.Text.Json;
using Lancet.Tokenization;

namespace Lancet.Tests.Text;

/// <summary>tokenizer.model files, written here from the vocabulary of a tokenizer.json and read without it.</summary>
public class SentencePieceTests
{
    private static readonly string[] s_texts = ["Hello, world!", "", " ", "  two  spaces ", "It's 12345 o'clock", "日本語 😀 é", "a\n\tb", "<s>already</s>", "System.Collections.Generic.List<T>.Add(T)"];

    [Fact]
    public void A_bpe_model_gives_what_its_tokenizer_json_gives()
    {
        var folder = Path.Combine(TestFiles.Tokenizers, "llama2");
        using var json = JsonDocument.Parse(File.ReadAllText(Path.Combine(folder, "tokenizer.json")));
        var model = json.RootElement.GetProperty("model");
        var ranks = new Dictionary<string, int>();
        foreach (var merge in model.GetProperty("merges").EnumerateArray()) ranks.TryAdd(merge.GetString()!.Replace(" ", "", StringComparison.Ordinal), ranks.Count);
        var pieces = model.GetProperty("vocab").EnumerateObject().OrderBy(item => item.Value.GetInt32())
            .Select((item, id) => Piece(item.Name, -ranks.GetValueOrDefault(item.Name, 100_000), id == 0 ? 2 : id < 4 ? 3 : item.Name.StartsWith("<0x", StringComparison.Ordinal) ? 6 : 1));
        byte[] file = [.. pieces.SelectMany(piece => piece), .. Message(2, [.. Number(3, 2), .. Number(35, 1)])];
        var (expected, actual) = (Tokenizer.Load(folder), Load(file));
        foreach (var text in s_texts)
        {
            Assert.Equal(expected.Encode(text), actual.Encode(text));
            Assert.Equal(expected.Decode(expected.Encode(text, false)), actual.Decode(actual.Encode(text, false)));
        }
        Assert.Equal(1, actual.Encode("x")[0]);
    }

    [Fact]
    public void A_unigram_model_takes_the_likeliest_pieces()
    {
        byte[] file =
        [
            .. Piece("<unk>", 0, 2), .. Piece("<s>", 0, 3), .. Piece("</s>", 0, 3), .. Piece("▁ab", -3, 1), .. Piece("▁a", -1, 1), .. Piece("b", -1.5f, 1), .. Piece("▁", -2, 1), .. Piece("bc", -4, 1),
            .. Message(2, Number(3, 1)),
        ];
        var tokenizer = Load(file);
        // ▁a + b costs 2.5, ▁ab 3.
        Assert.Equal([1, 4, 5], tokenizer.Encode("ab"));
        Assert.Equal([4, 7, 6, 0, 5], tokenizer.Encode("abc ??b", false));
        Assert.Equal("ab b", tokenizer.Decode([4, 5, 6, 5]));
    }

    [Fact]
    public void Compiled_rules_are_applied()
    {
        // A double array with one key, the ligature fi (EF AC 81), each node in a block of its own.
        var units = new uint[1600];
        units[0] = 256 << 10;
        units[256 ^ 0xEF] = 0xEF | ((256u ^ 0xEF ^ 512) << 10);
        units[512 ^ 0xAC] = 0xAC | ((512u ^ 0xAC ^ 1024) << 10);
        units[1024 ^ 0x81] = 0x81 | 0x100 | ((1024u ^ 0x81 ^ 1280) << 10);
        units[1280] = 0x80000000;
        var bytes = units.SelectMany(BitConverter.GetBytes).ToArray();
        byte[] rules = [.. BitConverter.GetBytes(bytes.Length), .. bytes, .. "fi\0"u8];
        var map = PrecompiledMap.Read(rules, "test")!;
        Assert.Equal("a fi é", map.Apply(new("a ﬁ é", null, 0)).Text);
        Assert.Throws<LancetException>(() => PrecompiledMap.Read(rules.AsSpan(0, 100), "test"));
    }

    [Theory]
    [InlineData(new byte[] { 10, 200 })]
    [InlineData(new byte[] { 0xFF, 0xFF, 0xFF })]
    [InlineData(new byte[] { 11 })]
    [InlineData(new byte[0])]
    public void A_broken_file_ends_with_a_message(byte[] file) => Assert.Contains("SentencePiece", Assert.Throws<LancetException>(() => Load(file)).Message);

    private static Tokenizer Load(byte[] file)
    {
        var folder = Directory.CreateTempSubdirectory();
        try
        {
            File.WriteAllBytes(Path.Combine(folder.FullName, "tokenizer.model"), file);
            return Tokenizer.Load(folder.FullName);
        }
        finally
        {
            folder.Delete(true);
        }
    }

    private static byte[] Piece(string text, float score, int kind) => Message(1, [.. Message(1, Encoding.UTF8.GetBytes(text)), 21, .. BitConverter.GetBytes(score), .. Number(3, kind)]);

    private static byte[] Message(int field, byte[] content) => [.. Varint((field << 3) | 2), .. Varint(content.Length), .. content];

    private static byte[] Number(int field, int value) => [.. Varint(field << 3), .. Varint(value)];

    private static IEnumerable<byte> Varint(int value)
    {
        for (; value >= 0x80; value >>= 7) yield return (byte)(value | 0x80);
        yield return (byte)value;
    }
}
