using System.Text;

namespace Lancet.Tokenization;

/// <summary>What a byte-pair encoder does with text that its vocabulary lacks.</summary>
/// <param name="MapsBytes">Pieces are encoded as byte-level characters.</param>
/// <param name="IgnoresMerges">A piece that is a token as a whole is that token.</param>
/// <param name="FallsBackToBytes">A character without a token becomes the tokens of its UTF-8 bytes.</param>
/// <param name="Unknown">Token of characters that have none; null drops them.</param>
/// <param name="FusesUnknown">Neighbouring unknown characters become one token.</param>
internal sealed record BytePairOptions(bool MapsBytes, bool IgnoresMerges, bool FallsBackToBytes, int? Unknown, bool FusesUnknown);

/// <summary>Byte-pair encoding of one piece of text (Sennrich et al. 2016): the adjacent pair with the lowest merge rank is merged until none is left.</summary>
internal sealed class BytePairEncoder : TokenModel
{
    // Up to this many symbols, looking at every pair again after each merge beats a queue.
    private const int ShortPiece = 24;
    private readonly Dictionary<string, int>.AlternateLookup<ReadOnlySpan<char>> _vocabulary;
    private readonly Dictionary<ulong, (int Rank, int Merged)> _merges = [];
    private readonly int[] _byteTokens;
    private readonly BytePairOptions _options;

    public BytePairEncoder(Dictionary<string, int> vocabulary, IEnumerable<(string Left, string Right)> merges, BytePairOptions options)
    {
        (_vocabulary, _options, _byteTokens) = (vocabulary.GetAlternateLookup<ReadOnlySpan<char>>(), options, ByteTokens(vocabulary));
        var rank = 0;
        foreach (var (left, right) in merges)
        {
            if (vocabulary.TryGetValue(left, out var a) && vocabulary.TryGetValue(right, out var b) && vocabulary.TryGetValue(left + right, out var merged)) _merges.TryAdd(Key(a, b), (rank, merged));
            rank++;
        }
    }

    protected override TokenPiece[] Compute(ReadOnlySpan<char> piece)
    {
        if (!_options.MapsBytes) return EncodeSymbols(piece);
        var size = piece.Length * 3;
        Span<char> mapped = size <= 384 ? stackalloc char[size] : new char[size];
        Span<int> places = size <= 384 ? stackalloc int[size] : new int[size];
        Span<byte> bytes = stackalloc byte[4];
        var count = 0;
        for (var i = 0; i < piece.Length;)
        {
            // A lone surrogate becomes U+FFFD, as everywhere in UTF-8.
            Rune.DecodeFromUtf16(piece[i..], out var rune, out var consumed);
            foreach (var value in bytes[..rune.EncodeToUtf8(bytes)]) (mapped[count], places[count++]) = (ByteLevel.Character(value), i);
            i += consumed;
        }
        var result = EncodeSymbols(mapped[..count]);
        for (var i = 0; i < result.Length; i++) result[i] = result[i] with { Start = places[result[i].Start] };
        return result;
    }

    private static ulong Key(int left, int right) => ((ulong)(uint)left << 32) | (uint)right;

    private TokenPiece[] EncodeSymbols(ReadOnlySpan<char> piece)
    {
        if (_options.IgnoresMerges && _vocabulary.TryGetValue(piece, out var whole)) return [new(whole, 0)];
        var symbols = Split(piece);
        return symbols.Count < 2 ? [.. symbols] : symbols.Count <= ShortPiece ? MergeShort(symbols) : MergeLong(symbols);
    }

    private List<TokenPiece> Split(ReadOnlySpan<char> piece)
    {
        var symbols = new List<TokenPiece>(piece.Length);
        var lastIsUnknown = false;
        for (var i = 0; i < piece.Length;)
        {
            var character = piece.Slice(i, CharacterLength(piece[i..]));
            var isUnknown = false;
            if (_vocabulary.TryGetValue(character, out var id))
            {
                symbols.Add(new(id, i));
            }
            else if (!_options.FallsBackToBytes || !TryAddBytes(character, i, _byteTokens, symbols))
            {
                isUnknown = true;
                if (_options.Unknown is { } unknown && !(_options.FusesUnknown && lastIsUnknown)) symbols.Add(new(unknown, i));
            }
            lastIsUnknown = isUnknown;
            i += character.Length;
        }
        return symbols;
    }

    private TokenPiece[] MergeShort(List<TokenPiece> symbols)
    {
        while (symbols.Count > 1)
        {
            var (best, at, merged) = (int.MaxValue, -1, 0);
            for (var i = 0; i + 1 < symbols.Count; i++)
                if (_merges.TryGetValue(Key(symbols[i].Id, symbols[i + 1].Id), out var merge) && merge.Rank < best) (best, at, merged) = (merge.Rank, i, merge.Merged);
            if (at < 0) break;
            symbols[at] = symbols[at] with { Id = merged };
            symbols.RemoveAt(at + 1);
        }
        return [.. symbols];
    }

    /// <summary>Merges with a priority queue over a linked list: n log n for a piece of n symbols.</summary>
    private TokenPiece[] MergeLong(List<TokenPiece> symbols)
    {
        var count = symbols.Count;
        int[] ids = new int[count], next = new int[count], previous = new int[count];
        for (var i = 0; i < count; i++) (ids[i], next[i], previous[i]) = (symbols[i].Id, i + 1 < count ? i + 1 : -1, i - 1);
        // Equal ranks are merged from left to right.
        var queue = new PriorityQueue<(int Left, ulong Pair, int Merged), (int Rank, int Left)>();
        void Offer(int left)
        {
            if (left < 0 || next[left] < 0) return;
            var pair = Key(ids[left], ids[next[left]]);
            if (_merges.TryGetValue(pair, out var merge)) queue.Enqueue((left, pair, merge.Merged), (merge.Rank, left));
        }
        for (var i = 0; i < count; i++) Offer(i);
        while (queue.TryDequeue(out var candidate, out _))
        {
            var (left, pair, merged) = candidate;
            var right = next[left];
            if (ids[left] < 0 || right < 0 || Key(ids[left], ids[right]) != pair) continue;
            ids[left] = merged;
            ids[right] = -1;
            next[left] = next[right];
            if (next[right] >= 0) previous[next[right]] = left;
            Offer(previous[left]);
            Offer(left);
        }
        var result = new List<TokenPiece>();
        for (var i = 0; i >= 0; i = next[i]) result.Add(new(ids[i], symbols[i].Start));
        return [.. result];
    }
}
