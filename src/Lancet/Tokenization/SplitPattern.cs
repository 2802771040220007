using System.Globalization;
using System.Text;
using System.Text.Json;
using System.Text.RegularExpressions;

namespace Lancet.Tokenization;

/// <summary>
/// A regular expression of a tokenizer.json over code points. .NET's expressions see UTF-16 units, for which a character outside the
/// basic plane is two surrogates without a category; such characters are therefore shown to them as one character of the same category.
/// </summary>
internal sealed partial class SplitPattern
{
    /// <summary>One character of the basic plane for each general category; private use and unassigned stand for themselves.</summary>
    private static readonly char[] s_standIns = CreateStandIns();

    private readonly Regex? _regex;
    private readonly string? _literal;

    private SplitPattern(Regex? regex, string? literal) => (_regex, _literal) = (regex, literal);

    /// <summary>A pattern that stands in the code.</summary>
    public static SplitPattern Of(string regex) => new(Compile(regex), null);

    /// <summary>A fixed text.</summary>
    public static SplitPattern Literal(string text) => new(null, text);

    /// <summary>The pattern of a Split or Replace.</summary>
    public static SplitPattern Read(JsonElement pattern, string path)
    {
        if (pattern.TryGetProperty("String", out var text)) return Literal(text.GetString()!);
        var regex = pattern.GetProperty("Regex").GetString()!;
        try
        {
            return new(Compile(regex), null);
        }
        catch (ArgumentException error)
        {
            throw new LancetException($"{path}: pattern {regex} is not understood: {error.Message}", error);
        }
    }

    /// <summary>Appends where the pattern matches; empty matches are left out.</summary>
    public void Matches(ReadOnlySpan<char> text, List<(int Start, int End)> matches)
    {
        if (_literal is not null)
        {
            if (_literal.Length == 0) return;
            for (var at = 0; text[at..].IndexOf(_literal, StringComparison.Ordinal) is var found && found >= 0; at += found + _literal.Length)
                matches.Add((at + found, at + found + _literal.Length));
            return;
        }
        if (text.IndexOfAnyInRange('\uD800', '\uDFFF') < 0)
        {
            foreach (var match in _regex!.EnumerateMatches(text))
                if (match.Length > 0) matches.Add((match.Index, match.Index + match.Length));
            return;
        }
        var shown = new char[text.Length];
        var places = new int[text.Length + 1];
        var count = 0;
        for (var i = 0; i < text.Length;)
        {
            places[count] = i;
            var isWhole = Rune.DecodeFromUtf16(text[i..], out var rune, out var consumed) == System.Buffers.OperationStatus.Done;
            // A lone surrogate stays one for the pattern, as in the reference; it becomes U+FFFD with its bytes.
            shown[count++] = !isWhole ? text[i] : rune.IsBmp ? (char)rune.Value : s_standIns[(int)Rune.GetUnicodeCategory(rune)];
            i += consumed;
        }
        places[count] = text.Length;
        foreach (var match in _regex!.EnumerateMatches(shown.AsSpan(0, count)))
            if (match.Length > 0) matches.Add((places[match.Index], places[match.Index + match.Length]));
    }

    private static Regex Compile(string regex)
    {
        // Possessive quantifiers are atomic groups in .NET; tokenizer patterns use them on single classes only.
        regex = Possessive().Replace(regex, "(?>$1$2)");
        // Without regard to case the long s is an s, which .NET does not know.
        regex = IgnoreCase().Replace(regex, group => group.Value.Replace("s", "[sſ]", StringComparison.Ordinal));
        return new Regex(regex, RegexOptions.CultureInvariant | RegexOptions.Compiled);
    }

    private static char[] CreateStandIns()
    {
        var result = new char[30];
        // The last character of a category stands for it: patterns that name ranges name the common ones.
        for (var code = 0xFFFF; code >= 0x80; code--)
        {
            var category = (int)CharUnicodeInfo.GetUnicodeCategory((char)code);
            if (result[category] == 0) result[category] = (char)code;
        }
        return result;
    }

    [GeneratedRegex(@"((?:\[(?:\\.|[^\]\\])*\])|\\[pP]\{\w+\}|\\\w|[^\\\]\)\s])([?*+]|\{\d+(?:,\d*)?\})\+")]
    private static partial Regex Possessive();

    [GeneratedRegex(@"\(\?i:[a-z'|]*\)")]
    private static partial Regex IgnoreCase();
}
