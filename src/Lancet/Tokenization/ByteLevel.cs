using System.Text;

namespace Lancet.Tokenization;

/// <summary>GPT-2's one-to-one map between bytes and printable characters, in which byte-level vocabularies are written.</summary>
internal static class ByteLevel
{
    private static readonly char[] s_characters = CreateCharacters();
    private static readonly short[] s_bytes = CreateBytes();

    /// <summary>The character that stands for a byte.</summary>
    public static char Character(byte value) => s_characters[value];

    /// <summary>The byte that a character stands for.</summary>
    public static bool TryGetByte(char character, out byte value)
    {
        var found = character < s_bytes.Length ? s_bytes[character] : -1;
        value = (byte)found;
        return found >= 0;
    }

    /// <summary>The UTF-8 bytes of a text as such characters, with the index of the text's character that each byte comes from.</summary>
    public static string Map(string text, int start, List<int> origins)
    {
        var result = new StringBuilder(text.Length);
        Span<byte> bytes = stackalloc byte[4];
        for (var i = 0; i < text.Length;)
        {
            // A lone surrogate becomes U+FFFD, as everywhere in UTF-8.
            Rune.DecodeFromUtf16(text.AsSpan(i), out var rune, out var consumed);
            foreach (var value in bytes[..rune.EncodeToUtf8(bytes)])
            {
                result.Append(s_characters[value]);
                origins.Add(start + i);
            }
            i += consumed;
        }
        return result.ToString();
    }

    private static short[] CreateBytes()
    {
        var result = new short[s_characters.Max() + 1];
        Array.Fill(result, (short)-1);
        for (var value = 0; value < 256; value++) result[s_characters[value]] = (short)value;
        return result;
    }

    private static char[] CreateCharacters()
    {
        var result = new char[256];
        var next = 256;
        for (var value = 0; value < 256; value++)
            result[value] = value is (>= '!' and <= '~') or (>= 0xA1 and <= 0xAC) or >= 0xAE ? (char)value : (char)next++;
        return result;
    }
}
