using System.Text;
using System.Text.Json;
using System.Text.RegularExpressions;

namespace Lancet.Tokenization;

/// <summary>The normaliser and pre-tokeniser of a tokenizer.json: what happens to text before byte-pair encoding.</summary>
internal sealed class TextPipeline
{
    // GPT-2's pattern, which a ByteLevel pre-tokeniser applies by itself.
    private const string ByteLevelPattern = @"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

    private readonly List<Func<Normalized, Normalized>> _normalizers = [];
    private readonly List<Func<Piece, IEnumerable<Piece>>> _splitters = [];

    /// <summary>A stretch of text, where each of its characters comes from, and whether it starts the input.</summary>
    internal readonly record struct Piece(string Text, int[] Origins, bool IsFirst);

    private readonly record struct Normalized(string Text, int[] Origins);

    /// <summary>Whether pieces are written in byte-level characters.</summary>
    public bool IsByteLevel { get; private set; }

    /// <summary>Reads the two sections.</summary>
    public static TextPipeline Read(JsonElement root, string path)
    {
        var result = new TextPipeline();
        if (root.TryGetProperty("normalizer", out var normalizer)) result.AddNormalizer(normalizer, path);
        if (root.TryGetProperty("pre_tokenizer", out var splitter)) result.AddSplitter(splitter, path);
        return result;
    }

    /// <summary>The pieces of a text that holds no special token.</summary>
    /// <param name="text">Text.</param>
    /// <param name="start">Its place in the whole input.</param>
    public IEnumerable<Piece> Split(string text, int start)
    {
        var normalized = new Normalized(text, [.. Enumerable.Range(start, text.Length)]);
        foreach (var normalize in _normalizers) normalized = normalize(normalized);
        IEnumerable<Piece> pieces = [new(normalized.Text, normalized.Origins, start == 0)];
        foreach (var split in _splitters) pieces = pieces.SelectMany(split);
        return pieces.Where(piece => piece.Text.Length > 0);
    }

    private void AddNormalizer(JsonElement json, string path)
    {
        if (json.ValueKind != JsonValueKind.Object) return;
        switch (Type(json))
        {
            case "Sequence":
                foreach (var part in json.GetProperty("normalizers").EnumerateArray()) AddNormalizer(part, path);
                break;
            case "Prepend":
                var prefix = json.GetProperty("prepend").GetString()!;
                _normalizers.Add(value => value.Text.Length == 0 ? value : new(prefix + value.Text, [.. Enumerable.Repeat(value.Origins[0], prefix.Length), .. value.Origins]));
                break;
            case "Replace":
                var pattern = new Regex(Pattern(json.GetProperty("pattern"), path), RegexOptions.CultureInvariant);
                var content = json.GetProperty("content").GetString()!;
                _normalizers.Add(value => Replace(value, pattern, content));
                break;
            case "NFC" or "NFD":
                var composes = Type(json) == "NFC";
                _normalizers.Add(value => Normalization.Apply(value.Text, value.Origins, composes) is var (text, origins) ? new(text, origins) : value);
                break;
            case "Lowercase": _normalizers.Add(value => value with { Text = value.Text.ToLowerInvariant() }); break;
            case "Strip": _normalizers.Add(value => Slice(value, value.Text.Length - value.Text.TrimStart().Length, value.Text.TrimEnd().Length)); break;
            case var other: throw new LancetException($"{path}: normalizer {other} is not supported.");
        }
    }

    private static Normalized Slice(Normalized value, int start, int end) => start >= end ? new("", []) : new(value.Text[start..end], value.Origins[start..end]);

    private static Normalized Replace(Normalized value, Regex pattern, string content)
    {
        var text = new StringBuilder();
        var origins = new List<int>();
        var at = 0;
        foreach (var match in pattern.EnumerateMatches(value.Text))
        {
            text.Append(value.Text, at, match.Index - at).Append(content);
            origins.AddRange(value.Origins[at..match.Index]);
            if (content.Length > 0) origins.AddRange(Enumerable.Repeat(value.Origins[Math.Min(match.Index, value.Origins.Length - 1)], content.Length));
            at = match.Index + match.Length;
        }
        text.Append(value.Text, at, value.Text.Length - at);
        origins.AddRange(value.Origins[at..]);
        return new(text.ToString(), [.. origins]);
    }

    private void AddSplitter(JsonElement json, string path)
    {
        if (json.ValueKind != JsonValueKind.Object) return;
        switch (Type(json))
        {
            case "Sequence":
                foreach (var part in json.GetProperty("pretokenizers").EnumerateArray()) AddSplitter(part, path);
                break;
            case "Split":
                AddSplit(Pattern(json.GetProperty("pattern"), path), json.GetProperty("behavior").GetString()!, json.TryGetProperty("invert", out var invert) && invert.GetBoolean());
                break;
            case "Digits":
                AddSplit(json.TryGetProperty("individual_digits", out var individual) && individual.GetBoolean() ? @"\p{N}" : @"\p{N}+", "Isolated", false);
                break;
            case "Whitespace": AddSplit(@"\w+|[^\w\s]+", "Removed", true); break;
            case "WhitespaceSplit": AddSplit(@"\s+", "Removed", false); break;
            case "Punctuation": AddSplit(@"[\p{P}$+<=>^`|~]", json.TryGetProperty("behavior", out var behavior) ? behavior.GetString()! : "Isolated", false); break;
            case "ByteLevel":
                IsByteLevel = true;
                if (json.TryGetProperty("add_prefix_space", out var space) && space.GetBoolean())
                    _splitters.Add(piece => [piece.Text.Length > 0 && piece.Text[0] != ' ' ? piece with { Text = " " + piece.Text, Origins = [piece.Origins[0], .. piece.Origins] } : piece]);
                if (!json.TryGetProperty("use_regex", out var regex) || regex.GetBoolean()) AddSplit(ByteLevelPattern, "Isolated", false);
                _splitters.Add(ToBytes);
                break;
            case "Metaspace": AddMetaspace(json); break;
            case var other: throw new LancetException($"{path}: pre-tokenizer {other} is not supported.");
        }
    }

    private static IEnumerable<Piece> ToBytes(Piece piece)
    {
        var places = new List<int>(piece.Text.Length);
        var text = ByteLevel.Map(piece.Text, 0, places);
        yield return new(text, [.. places.Select(place => piece.Origins[place])], piece.IsFirst);
    }

    private void AddMetaspace(JsonElement json)
    {
        var mark = json.TryGetProperty("replacement", out var replacement) ? replacement.GetString()! : "▁";
        var scheme = json.TryGetProperty("prepend_scheme", out var prepend) ? prepend.GetString()! : json.TryGetProperty("add_prefix_space", out var space) && !space.GetBoolean() ? "never" : "always";
        var splits = !json.TryGetProperty("split", out var split) || split.GetBoolean();
        _splitters.Add(piece =>
        {
            var text = piece.Text.Replace(" ", mark, StringComparison.Ordinal);
            var result = piece with { Text = text };
            if (text.Length > 0 && !text.StartsWith(mark, StringComparison.Ordinal) && (scheme == "always" || (scheme == "first" && piece.IsFirst)))
                result = new(mark + text, [piece.Origins[0], .. piece.Origins], piece.IsFirst);
            return [result];
        });
        if (splits) AddSplit(Regex.Escape(mark), "MergedWithNext", false);
    }

    private void AddSplit(string pattern, string behavior, bool isInverted)
    {
        var regex = new Regex(pattern, RegexOptions.CultureInvariant);
        _splitters.Add(piece => Cut(piece, regex, behavior, isInverted));
    }

    private static List<Piece> Cut(Piece piece, Regex regex, string behavior, bool isInverted)
    {
        var parts = new List<(int Start, int End, bool IsMatch)>();
        var at = 0;
        foreach (var match in regex.EnumerateMatches(piece.Text))
        {
            if (match.Length == 0) continue;
            if (match.Index > at) parts.Add((at, match.Index, isInverted));
            parts.Add((match.Index, match.Index + match.Length, !isInverted));
            at = match.Index + match.Length;
        }
        if (at < piece.Text.Length) parts.Add((at, piece.Text.Length, isInverted));
        var cut = new List<(int Start, int End)>();
        var opensNext = false;
        var lastIsMatch = false;
        foreach (var (start, end, isMatch) in parts)
        {
            var joins = behavior switch
            {
                "MergedWithPrevious" => isMatch && cut.Count > 0 && !lastIsMatch,
                "MergedWithNext" => opensNext && cut.Count > 0,
                "Contiguous" => cut.Count > 0 && isMatch == lastIsMatch,
                _ => false,
            };
            if (behavior == "Removed" && isMatch) continue;
            if (joins && !(behavior == "MergedWithNext" && isMatch)) cut[^1] = (cut[^1].Start, end);
            else cut.Add((start, end));
            (opensNext, lastIsMatch) = (isMatch, isMatch);
        }
        return [.. cut.Select((range, i) => new Piece(piece.Text[range.Start..range.End], piece.Origins[range.Start..range.End], piece.IsFirst && i == 0 && range.Start == 0))];
    }

    private static string Type(JsonElement json) => json.TryGetProperty("type", out var type) ? type.GetString() ?? "" : "";

    private static string Pattern(JsonElement pattern, string path)
    {
        if (pattern.TryGetProperty("String", out var text)) return Regex.Escape(text.GetString()!);
        var regex = pattern.GetProperty("Regex").GetString()!;
        // Possessive quantifiers are atomic groups in .NET; tokenizer patterns use them on single classes only.
        regex = Regex.Replace(regex, @"((?:\[(?:\\.|[^\]\\])*\])|\\[pP]\{\w+\}|\\\w|[^\\\]\)\s])([?*+]|\{\d+(?:,\d*)?\})\+", "(?>$1$2)");
        try
        {
            _ = new Regex(regex, RegexOptions.CultureInvariant);
            return regex;
        }
        catch (ArgumentException error)
        {
            throw new LancetException($"{path}: pattern {regex} is not understood: {error.Message}", error);
        }
    }
}
