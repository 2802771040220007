using System.Text.Json;

namespace Lancet.Tokenization;

/// <summary>The pre-tokeniser of a tokenizer.json: cuts normalised text into the pieces that the model turns into tokens one by one.</summary>
internal sealed class PreTokenizer
{
    // GPT-2's pattern, which a ByteLevel pre-tokeniser applies by itself.
    private const string ByteLevelPattern = @"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

    private const string PunctuationPattern = @"[\p{P}$+<=>^`|~]";
    private const string SpacePattern = @"\s+";

    private delegate void Step(ref MappedText text, ref List<(int Start, int End)> pieces);

    private readonly List<Step> _steps = [];

    /// <summary>Whether the pieces' UTF-8 bytes are what the model's vocabulary writes.</summary>
    public bool MapsBytes { get; private set; }

    /// <summary>Reads the section of a tokenizer.json.</summary>
    /// <exception cref="LancetException">A kind is not supported.</exception>
    public static PreTokenizer Read(JsonElement root, string path)
    {
        var result = new PreTokenizer();
        if (root.TryGetProperty("pre_tokenizer", out var section)) result.Add(section, path);
        return result;
    }

    /// <summary>Cuts a text that holds no added token.</summary>
    /// <param name="text">Text; changed where the pre-tokeniser rewrites it.</param>
    /// <returns>Ranges of the text; none is empty.</returns>
    public List<(int Start, int End)> Split(ref MappedText text)
    {
        List<(int Start, int End)> pieces = text.Text.Length == 0 ? [] : [(0, text.Text.Length)];
        foreach (var step in _steps) step(ref text, ref pieces);
        return pieces;
    }

    private void Add(JsonElement json, string path)
    {
        if (json.ValueKind != JsonValueKind.Object) return;
        // Bytes are mapped last of all where nothing follows; here something does.
        if (MapsBytes)
        {
            MapsBytes = false;
            _steps.Add(WriteBytes);
        }
        switch (Section.Type(json))
        {
            case "Sequence":
                foreach (var part in json.GetProperty("pretokenizers").EnumerateArray()) Add(part, path);
                break;
            case "Split": AddSplit(SplitPattern.Read(json.GetProperty("pattern"), path), json.GetProperty("behavior").GetString()!, Section.Flag(json, "invert")); break;
            case "Digits": AddSplit(SplitPattern.Of(Section.Flag(json, "individual_digits") ? @"\p{N}" : @"\p{N}+"), "Isolated", false); break;
            case "Whitespace": AddSplit(SplitPattern.Of(@"\w+|[^\w\s]+"), "Removed", true); break;
            case "WhitespaceSplit": AddSplit(SplitPattern.Of(SpacePattern), "Removed", false); break;
            case "Punctuation": AddSplit(SplitPattern.Of(PunctuationPattern), Section.Text(json, "behavior") ?? "Isolated", false); break;
            case "BertPreTokenizer":
                AddSplit(SplitPattern.Of(SpacePattern), "Removed", false);
                AddSplit(SplitPattern.Of(PunctuationPattern), "Isolated", false);
                break;
            case "CharDelimiterSplit": AddSplit(SplitPattern.Literal(json.GetProperty("delimiter").GetString()!), "Removed", false); break;
            case "ByteLevel":
                if (Section.Flag(json, "add_prefix_space", true)) _steps.Add((ref text, ref pieces) => Rewrite(ref text, ref pieces, (source, start, end, builder) =>
                {
                    if (source.Text[start] != ' ') builder.Write(" ", start);
                    builder.Copy(start, end);
                }));
                if (Section.Flag(json, "use_regex", true)) AddSplit(SplitPattern.Of(ByteLevelPattern), "Isolated", false);
                MapsBytes = true;
                break;
            case "Metaspace": AddMetaspace(json); break;
            case var other: throw new LancetException($"{path}: pre-tokenizer {other} is not supported.");
        }
    }

    private static void WriteBytes(ref MappedText text, ref List<(int Start, int End)> pieces) => Rewrite(ref text, ref pieces, (source, start, end, builder) =>
    {
        var places = new List<int>();
        var mapped = ByteLevel.Map(source.Text[start..end], start, places);
        for (var i = 0; i < mapped.Length; i++) builder.Write(mapped.AsSpan(i, 1), places[i]);
    });

    private void AddMetaspace(JsonElement json)
    {
        var (mark, scheme) = Section.Metaspace(json);
        _steps.Add((ref text, ref pieces) => Rewrite(ref text, ref pieces, (source, start, end, builder) =>
        {
            var isMarked = source.Text[start] == ' ' || source.Text.AsSpan(start, end - start).StartsWith(mark, StringComparison.Ordinal);
            if (!isMarked && (scheme == "always" || (scheme == "first" && start == 0 && source.Start == 0))) builder.Write(mark, start);
            for (var i = start; i < end; i++)
            {
                if (source.Text[i] == ' ') builder.Write(mark, i);
                else builder.Copy(i, i + 1);
            }
        }));
        if (Section.Flag(json, "split", true)) AddSplit(SplitPattern.Literal(mark), "MergedWithNext", false);
    }

    /// <summary>Writes every piece anew.</summary>
    private static void Rewrite(ref MappedText text, ref List<(int Start, int End)> pieces, Action<MappedText, int, int, MappedText.Builder> write)
    {
        var builder = new MappedText.Builder(text);
        var result = new List<(int, int)>(pieces.Count);
        foreach (var (start, end) in pieces)
        {
            var from = builder.Length;
            write(text, start, end, builder);
            if (builder.Length > from) result.Add((from, builder.Length));
        }
        (text, pieces) = (builder.Build(), result);
    }

    private void AddSplit(SplitPattern pattern, string behavior, bool isInverted) => _steps.Add((ref text, ref pieces) =>
    {
        var result = new List<(int, int)>(pieces.Count * 2);
        var matches = new List<(int Start, int End)>();
        foreach (var (start, end) in pieces)
        {
            matches.Clear();
            pattern.Matches(text.Text.AsSpan(start, end - start), matches);
            Cut(start, end, matches, behavior, isInverted, result);
        }
        pieces = result;
    });

    private static void Cut(int start, int end, List<(int Start, int End)> matches, string behavior, bool isInverted, List<(int Start, int End)> result)
    {
        var first = result.Count;
        var (lastIsMatch, at) = (false, start);
        foreach (var (from, to) in matches)
        {
            if (start + from > at) Part(at, start + from, isInverted);
            Part(start + from, start + to, !isInverted);
            at = start + to;
        }
        if (at < end) Part(at, end, isInverted);

        void Part(int from, int to, bool isMatch)
        {
            var joins = result.Count > first && behavior switch
            {
                "MergedWithPrevious" => isMatch && !lastIsMatch,
                "MergedWithNext" => !isMatch && lastIsMatch,
                "Contiguous" => isMatch == lastIsMatch,
                _ => false,
            };
            if (joins) result[^1] = (result[^1].Start, to);
            else if (behavior != "Removed" || !isMatch) result.Add((from, to));
            lastIsMatch = isMatch;
        }
    }
}
