namespace Lancet.Tokenization;

/// <summary>
/// Byte-pair encoding of one piece of text (Sennrich et al. 2016): the adjacent pair with the lowest merge rank is merged until none is left.
/// Pieces that were seen before come from a cache.
/// </summary>
internal sealed class BytePairEncoder
{
    private const int MaxCacheEntries = 50_000;
    private readonly Dictionary<string, int> _vocabulary;
    private readonly Dictionary<(int Left, int Right), (int Rank, int Merged)> _merges = [];
    private readonly Dictionary<string, Piece[]> _cache = [];
    private readonly bool _ignoresMerges;
    private readonly bool _fallsBackToBytes;
    private readonly int? _unknown;
    private readonly bool _fusesUnknown;

    /// <summary>A token of a piece and the index of the piece's character where it starts.</summary>
    internal readonly record struct Piece(int Id, int Start);

    public BytePairEncoder(Dictionary<string, int> vocabulary, IEnumerable<(string Left, string Right)> merges, bool ignoresMerges, bool fallsBackToBytes, int? unknown, bool fusesUnknown)
    {
        (_vocabulary, _ignoresMerges, _fallsBackToBytes, _unknown, _fusesUnknown) = (vocabulary, ignoresMerges, fallsBackToBytes, unknown, fusesUnknown);
        var rank = 0;
        foreach (var (left, right) in merges)
        {
            if (vocabulary.TryGetValue(left, out var a) && vocabulary.TryGetValue(right, out var b) && vocabulary.TryGetValue(left + right, out var merged)) _merges.TryAdd((a, b), (rank, merged));
            rank++;
        }
    }

    /// <summary>Tokens of a piece.</summary>
    public Piece[] Encode(string piece)
    {
        if (_cache.TryGetValue(piece, out var known)) return known;
        var result = _ignoresMerges && _vocabulary.TryGetValue(piece, out var whole) ? [new(whole, 0)] : Merge(Split(piece));
        if (_cache.Count >= MaxCacheEntries) _cache.Clear();
        if (piece.Length < 256) _cache[piece] = result;
        return result;
    }

    private List<Piece> Split(string piece)
    {
        var symbols = new List<Piece>(piece.Length);
        var lastIsUnknown = false;
        for (var i = 0; i < piece.Length;)
        {
            var length = char.IsHighSurrogate(piece[i]) && i + 1 < piece.Length ? 2 : 1;
            var text = piece.Substring(i, length);
            var isUnknown = false;
            if (_vocabulary.TryGetValue(text, out var id))
            {
                symbols.Add(new(id, i));
            }
            else if (!_fallsBackToBytes || !AddBytes(symbols, text, i))
            {
                isUnknown = true;
                if (_unknown is { } unknown && !(_fusesUnknown && lastIsUnknown)) symbols.Add(new(unknown, i));
            }
            lastIsUnknown = isUnknown;
            i += length;
        }
        return symbols;
    }

    private bool AddBytes(List<Piece> symbols, string text, int start)
    {
        var bytes = System.Text.Encoding.UTF8.GetBytes(text);
        var ids = new int[bytes.Length];
        for (var i = 0; i < bytes.Length; i++)
            if (!_vocabulary.TryGetValue($"<0x{bytes[i]:X2}>", out ids[i])) return false;
        foreach (var id in ids) symbols.Add(new(id, start));
        return true;
    }

    /// <summary>Merges with a priority queue over a linked list: n log n for a piece of n symbols.</summary>
    private Piece[] Merge(List<Piece> symbols)
    {
        var count = symbols.Count;
        if (count < 2) return [.. symbols];
        int[] ids = [.. symbols.Select(symbol => symbol.Id)], next = new int[count], previous = new int[count];
        for (var i = 0; i < count; i++) (next[i], previous[i]) = (i + 1 < count ? i + 1 : -1, i - 1);
        // Equal ranks are merged from left to right.
        var queue = new PriorityQueue<(int Left, int LeftId, int RightId), (int Rank, int Left)>();
        void Offer(int left)
        {
            if (left < 0 || next[left] < 0) return;
            if (_merges.TryGetValue((ids[left], ids[next[left]]), out var merge)) queue.Enqueue((left, ids[left], ids[next[left]]), (merge.Rank, left));
        }
        for (var i = 0; i < count; i++) Offer(i);
        while (queue.TryDequeue(out var candidate, out _))
        {
            var (left, leftId, rightId) = candidate;
            var right = next[left];
            if (ids[left] != leftId || right < 0 || ids[right] != rightId) continue;
            ids[left] = _merges[(leftId, rightId)].Merged;
            ids[right] = -1;
            next[left] = next[right];
            if (next[right] >= 0) previous[next[right]] = left;
            Offer(previous[left]);
            Offer(left);
        }
        var result = new List<Piece>();
        for (var i = 0; i >= 0; i = next[i]) result.Add(new(ids[i], symbols[i].Start));
        return [.. result];
    }
}
