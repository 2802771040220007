using System.Buffers;
using System.Globalization;
using System.Text;
using System.Text.Json;

namespace Lancet.Tokenization;

/// <summary>A token beside the model's vocabulary that is found in text before anything else happens to it.</summary>
internal sealed record AddedToken(string Content, int Id, bool StripsLeft, bool StripsRight, bool IsSingleWord, bool IsNormalized, bool IsSpecial)
{
    /// <summary>Reads the list of a tokenizer.json.</summary>
    public static List<AddedToken> Read(JsonElement root)
    {
        var result = new List<AddedToken>();
        if (!root.TryGetProperty("added_tokens", out var list) || list.ValueKind != JsonValueKind.Array) return result;
        foreach (var item in list.EnumerateArray())
        {
            var special = Section.Flag(item, "special");
            var token = new AddedToken(item.GetProperty("content").GetString()!, item.GetProperty("id").GetInt32(), Section.Flag(item, "lstrip"), Section.Flag(item, "rstrip"), Section.Flag(item, "single_word"), Section.Flag(item, "normalized", !special), special);
            if (token.Content.Length > 0) result.Add(token);
        }
        return result;
    }
}

/// <summary>Finds added tokens in text: the leftmost, and of those that start at one place the longest.</summary>
internal sealed class AddedTokenFinder
{
    private readonly Dictionary<(int Node, char Next), int> _edges = [];
    private readonly List<AddedToken?> _ends = [null];
    private readonly SearchValues<char> _firsts;

    public AddedTokenFinder(IEnumerable<(string Content, AddedToken Token)> tokens)
    {
        var firsts = new HashSet<char>();
        foreach (var (content, token) in tokens)
        {
            if (content.Length == 0) continue;
            firsts.Add(content[0]);
            var node = 0;
            foreach (var c in content)
            {
                if (!_edges.TryGetValue((node, c), out var next))
                {
                    next = _ends.Count;
                    _ends.Add(null);
                    _edges[(node, c)] = next;
                }
                node = next;
            }
            _ends[node] ??= token;
        }
        _firsts = SearchValues.Create([.. firsts]);
    }

    /// <summary>A token in a text, what it takes away around itself included.</summary>
    internal readonly record struct Found(AddedToken Token, int Start, int From, int To);

    /// <summary>The next token from a place on, or null.</summary>
    public Found? Next(string text, int at)
    {
        var start = at;
        while (start < text.Length)
        {
            var candidate = text.AsSpan(start).IndexOfAny(_firsts);
            if (candidate < 0) return null;
            start += candidate;
            if (Longest(text, start) is not var (token, length))
            {
                start++;
                continue;
            }
            int from = start, to = start + length;
            if (token.IsSingleWord && (IsWord(text, from - 1, false) || IsWord(text, to, true)))
            {
                start = to;
                continue;
            }
            while (token.StripsLeft && from > at && char.IsWhiteSpace(text[from - 1])) from--;
            while (token.StripsRight && to < text.Length && char.IsWhiteSpace(text[to])) to++;
            return new(token, start, from, to);
        }
        return null;
    }

    private (AddedToken Token, int Length)? Longest(string text, int start)
    {
        (AddedToken, int)? best = null;
        var node = 0;
        for (var i = start; i < text.Length && _edges.TryGetValue((node, text[i]), out node); i++)
            if (_ends[node] is { } token) best = (token, i + 1 - start);
        return best;
    }

    private static bool IsWord(string text, int at, bool forwards)
    {
        if (at < 0 || at >= text.Length) return false;
        var rune = default(Rune);
        if (forwards) Rune.DecodeFromUtf16(text.AsSpan(at), out rune, out _);
        else Rune.DecodeLastFromUtf16(text.AsSpan(0, at + 1), out rune, out _);
        return rune.Value is 0x200C or 0x200D || Rune.IsLetterOrDigit(rune)
            || Rune.GetUnicodeCategory(rune) is UnicodeCategory.NonSpacingMark or UnicodeCategory.SpacingCombiningMark or UnicodeCategory.EnclosingMark or UnicodeCategory.ConnectorPunctuation or UnicodeCategory.LetterNumber;
    }
}
