using System.Collections.Concurrent;

namespace Lancet.Tokenization;

/// <summary>A token of a piece and the index of the piece's character where it starts.</summary>
internal readonly record struct TokenPiece(int Id, int Start);

/// <summary>Turns a piece of text into tokens. Pieces that were seen before come from a cache that threads share.</summary>
internal abstract class TokenModel
{
    private const int MaxCacheEntries = 50_000;
    private const int MaxCachedLength = 128;
    private readonly ConcurrentDictionary<string, TokenPiece[]> _cache = new();
    private readonly ConcurrentDictionary<string, TokenPiece[]>.AlternateLookup<ReadOnlySpan<char>> _lookup;
    private int _entries;

    protected TokenModel() => _lookup = _cache.GetAlternateLookup<ReadOnlySpan<char>>();

    /// <summary>Tokens of a piece.</summary>
    public TokenPiece[] Encode(ReadOnlySpan<char> piece)
    {
        if (_lookup.TryGetValue(piece, out var known)) return known;
        var result = Compute(piece);
        if (piece.Length <= MaxCachedLength && _entries < MaxCacheEntries && _lookup.TryAdd(piece, result)) Interlocked.Increment(ref _entries);
        return result;
    }

    /// <summary>Tokens of a piece that is not in the cache.</summary>
    protected abstract TokenPiece[] Compute(ReadOnlySpan<char> piece);

    /// <summary>UTF-16 units of the character at the start of a text: two for a pair of surrogates.</summary>
    protected static int CharacterLength(ReadOnlySpan<char> text) => text.Length > 1 && char.IsSurrogatePair(text[0], text[1]) ? 2 : 1;

    /// <summary>Ids of <c>&lt;0x00&gt;</c> to <c>&lt;0xFF&gt;</c>, −1 where the vocabulary lacks one.</summary>
    protected static int[] ByteTokens(Dictionary<string, int> vocabulary)
    {
        var result = new int[256];
        for (var i = 0; i < 256; i++) result[i] = vocabulary.GetValueOrDefault($"<0x{i:X2}>", -1);
        return result;
    }

    /// <summary>Appends the tokens of a character's UTF-8 bytes; nothing where one of them is missing.</summary>
    protected static bool TryAddBytes(ReadOnlySpan<char> character, int start, int[] byteTokens, List<TokenPiece> tokens)
    {
        System.Text.Rune.DecodeFromUtf16(character, out var rune, out _);
        Span<byte> bytes = stackalloc byte[4];
        bytes = bytes[..rune.EncodeToUtf8(bytes)];
        foreach (var value in bytes)
            if (byteTokens[value] < 0) return false;
        foreach (var value in bytes) tokens.Add(new(byteTokens[value], start));
        return true;
    }
}
