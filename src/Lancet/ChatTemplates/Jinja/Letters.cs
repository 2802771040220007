using System.Text;

namespace Lancet.ChatTemplates.Jinja;

/// <summary>A text as Python counts it: a character beyond the first plane is one letter, not two.</summary>
internal readonly struct Letters
{
    private readonly string _text;

    // Where letters start, and the end; null where each is one character.
    private readonly int[]? _starts;

    public Letters(string text)
    {
        _text = text;
        if (text.AsSpan().ContainsAnyInRange('\uD800', '\uDFFF')) _starts = [.. Starts(text), text.Length];
        Count = _starts is null ? text.Length : _starts.Length - 1;
    }

    public int Count { get; }

    public ReadOnlySpan<char> this[int index] => _starts is null ? _text.AsSpan(index, 1) : _text.AsSpan(_starts[index].._starts[index + 1]);

    public string Select(IEnumerable<int> indices)
    {
        var result = new StringBuilder();
        foreach (var index in indices) result.Append(this[index]);
        return result.ToString();
    }

    public static IEnumerable<string> Of(string text)
    {
        var letters = new Letters(text);
        for (var i = 0; i < letters.Count; i++) yield return letters[i].ToString();
    }

    /// <summary>The place of a part in letters, from the left or the right; -1 if there is none.</summary>
    public static long Find(string text, string part, bool isLast = false) =>
        (isLast ? text.LastIndexOf(part, StringComparison.Ordinal) : text.IndexOf(part, StringComparison.Ordinal)) is var at && at > 0 ? new Letters(text[..at]).Count : at;

    private static IEnumerable<int> Starts(string text)
    {
        for (var i = 0; i < text.Length; i++)
        {
            yield return i;
            if (i + 1 < text.Length && char.IsSurrogatePair(text[i], text[i + 1])) i++;
        }
    }
}
