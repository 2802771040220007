namespace Lancet.Tokenization;

/// <summary>
/// Unigram encoding of one piece of text (Kudo 2018): of all ways to cut it into tokens the one with the greatest sum of log
/// probabilities (Viterbi). A character that no token covers costs ten more than the least likely token.
/// </summary>
internal sealed class UnigramEncoder : TokenModel
{
    private const double UnknownPenalty = 10;
    private readonly Dictionary<string, int>.AlternateLookup<ReadOnlySpan<char>> _vocabulary;
    private readonly double[] _scores;
    private readonly int[] _byteTokens;
    private readonly int _longest;
    private readonly int? _unknown;
    private readonly double _unknownScore;
    private readonly bool _fallsBackToBytes;

    public UnigramEncoder(Dictionary<string, int> vocabulary, double[] scores, int? unknown, bool fallsBackToBytes)
    {
        (_vocabulary, _scores, _unknown, _fallsBackToBytes) = (vocabulary.GetAlternateLookup<ReadOnlySpan<char>>(), scores, unknown, fallsBackToBytes);
        _byteTokens = ByteTokens(vocabulary);
        _longest = vocabulary.Count == 0 ? 0 : vocabulary.Keys.Max(token => token.Length);
        _unknownScore = (scores.Length == 0 ? 0 : scores.Min()) - UnknownPenalty;
    }

    protected override TokenPiece[] Compute(ReadOnlySpan<char> piece)
    {
        var best = new (double Score, int From, int Id)[piece.Length + 1];
        for (var i = 1; i <= piece.Length; i++) best[i] = (double.NegativeInfinity, -1, -1);
        for (var start = 0; start < piece.Length;)
        {
            var single = CharacterLength(piece[start..]);
            var covered = false;
            for (var length = single; length <= _longest && start + length <= piece.Length; length++)
            {
                if (!_vocabulary.TryGetValue(piece.Slice(start, length), out var id)) continue;
                covered |= length == single;
                Offer(start, start + length, _scores[id], id);
            }
            if (!covered) Offer(start, start + single, _unknownScore, -1);
            start += single;
        }
        var tokens = new Stack<(int From, int To, int Id)>();
        for (var end = piece.Length; end > 0; end = best[end].From) tokens.Push((best[end].From, end, best[end].Id));
        var result = new List<TokenPiece>(tokens.Count);
        while (tokens.TryPop(out var token))
        {
            if (token.Id >= 0)
            {
                result.Add(new(token.Id, token.From));
                continue;
            }
            // Unknown neighbours are one token; their bytes are looked up together, too.
            var to = token.To;
            while (tokens.TryPeek(out var next) && next.Id < 0) to = tokens.Pop().To;
            if (!_fallsBackToBytes || !TryAddAllBytes(piece, token.From, to, result))
                if (_unknown is { } unknown) result.Add(new(unknown, token.From));
        }
        return [.. result];

        void Offer(int from, int to, double score, int id)
        {
            if (best[from].Score + score > best[to].Score) best[to] = (best[from].Score + score, from, id);
        }
    }

    private bool TryAddAllBytes(ReadOnlySpan<char> piece, int from, int to, List<TokenPiece> result)
    {
        var count = result.Count;
        while (from < to)
        {
            var length = CharacterLength(piece[from..]);
            if (!TryAddBytes(piece.Slice(from, length), from, _byteTokens, result))
            {
                result.RemoveRange(count, result.Count - count);
                return false;
            }
            from += length;
        }
        return true;
    }
}
