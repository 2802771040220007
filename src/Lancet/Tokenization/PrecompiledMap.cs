using System.Buffers.Binary;
using System.Globalization;
using System.Text;
using System.Text.Json;

namespace Lancet.Tokenization;

/// <summary>
/// SentencePiece's compiled normalisation rules: a double-array trie from UTF-8 text to places in a block of zero-terminated texts that
/// stand for it (sentencepiece/src/normalizer.cc describes the layout).
/// </summary>
internal sealed class PrecompiledMap
{
    private readonly uint[] _units;
    private readonly byte[] _texts;

    private PrecompiledMap(uint[] units, byte[] texts) => (_units, _texts) = (units, texts);

    /// <summary>Reads the base64 text of a tokenizer.json; null where there are no rules.</summary>
    public static PrecompiledMap? Read(JsonElement value, string path) => value.ValueKind == JsonValueKind.String ? Read(value.GetBytesFromBase64(), path) : null;

    /// <summary>Reads the rules; null where there are none.</summary>
    public static PrecompiledMap? Read(ReadOnlySpan<byte> blob, string path)
    {
        if (blob.Length == 0) return null;
        var size = blob.Length < 4 ? uint.MaxValue : BinaryPrimitives.ReadUInt32LittleEndian(blob);
        if (size > blob.Length - 4 || size % 4 != 0) throw new LancetException($"{path}: precompiled_charsmap is cut short.");
        var units = new uint[size / 4];
        for (var i = 0; i < units.Length; i++) units[i] = BinaryPrimitives.ReadUInt32LittleEndian(blob[(4 + (4 * i))..]);
        return new(units, blob[(4 + (int)size)..].ToArray());
    }

    /// <summary>Normalises a text: short grapheme clusters as a whole where a rule has them, the others character by character.</summary>
    public MappedText Apply(MappedText text)
    {
        var builder = new MappedText.Builder(text);
        for (var i = 0; i < text.Text.Length;)
        {
            var cluster = StringInfo.GetNextTextElementLength(text.Text, i);
            if (Encoding.UTF8.GetByteCount(text.Text.AsSpan(i, cluster)) < 6 && Find(text.Text.AsSpan(i, cluster)) is { } whole)
            {
                builder.Write(whole, i);
            }
            else
            {
                for (var j = i; j < i + cluster;)
                {
                    Rune.DecodeFromUtf16(text.Text.AsSpan(j), out _, out var length);
                    if (Find(text.Text.AsSpan(j, length)) is { } part) builder.Write(part, j);
                    else builder.Copy(j, j + length);
                    j += length;
                }
            }
            i += cluster;
        }
        return builder.Build();
    }

    /// <summary>What stands for the shortest start of a text that a rule has.</summary>
    private string? Find(ReadOnlySpan<char> text)
    {
        Span<byte> bytes = stackalloc byte[Encoding.UTF8.GetMaxByteCount(text.Length)];
        bytes = bytes[..Encoding.UTF8.GetBytes(text, bytes)];
        if (_units.Length == 0) return null;
        var node = Offset(_units[0]);
        foreach (var value in bytes)
        {
            if (value == 0) return null;
            node ^= value;
            if (node >= _units.Length) return null;
            var unit = _units[node];
            if ((unit & 0x800000FF) != value) return null;
            node ^= Offset(unit);
            if ((unit & 0x100) == 0) continue;
            if (node >= _units.Length) return null;
            var at = (int)(_units[node] & 0x7FFFFFFF);
            if (at >= _texts.Length) return null;
            var end = _texts.AsSpan(at).IndexOf((byte)0);
            return Encoding.UTF8.GetString(end < 0 ? _texts.AsSpan(at) : _texts.AsSpan(at, end));
        }
        return null;
    }

    private static uint Offset(uint unit) => (unit >> 10) << (int)((unit & 0x200) >> 6);
}
