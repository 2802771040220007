using System.Globalization;
using System.Text;
using System.Text.Json;

namespace Lancet.Tokenization;

/// <summary>The normaliser of a tokenizer.json: what happens to text before it is cut.</summary>
internal sealed class Normalizer
{
    private readonly List<Func<MappedText, MappedText>> _steps = [];

    /// <summary>Reads the section of a tokenizer.json.</summary>
    /// <exception cref="LancetException">A kind is not supported.</exception>
    public static Normalizer Read(JsonElement root, string path)
    {
        var result = new Normalizer();
        if (root.TryGetProperty("normalizer", out var section)) result.Add(section, path);
        return result;
    }

    /// <summary>Whether there is anything to do.</summary>
    public bool IsEmpty => _steps.Count == 0;

    /// <summary>Normalises a text.</summary>
    public MappedText Apply(MappedText text)
    {
        foreach (var step in _steps) text = step(text);
        return text;
    }

    private void Add(JsonElement json, string path)
    {
        if (json.ValueKind != JsonValueKind.Object) return;
        switch (Section.Type(json))
        {
            case "Sequence":
                foreach (var part in json.GetProperty("normalizers").EnumerateArray()) Add(part, path);
                break;
            case "Prepend":
                var prefix = json.GetProperty("prepend").GetString()!;
                _steps.Add(text => text.Text.Length == 0 ? text : Prepend(text, prefix));
                break;
            case "Replace":
                var pattern = SplitPattern.Read(json.GetProperty("pattern"), path);
                var content = json.GetProperty("content").GetString()!;
                _steps.Add(text => Replace(text, pattern, content));
                break;
            case "NFC": _steps.Add(text => Normalization.Apply(text, composes: true, isCompatible: false)); break;
            case "NFD": _steps.Add(text => Normalization.Apply(text, composes: false, isCompatible: false)); break;
            case "NFKC": _steps.Add(text => Normalization.Apply(text, composes: true, isCompatible: true)); break;
            case "NFKD": _steps.Add(text => Normalization.Apply(text, composes: false, isCompatible: true)); break;
            case "Nmt": _steps.Add(text => Map(text, Nmt)); break;
            case "Lowercase": _steps.Add(text => Map(text, Lower)); break;
            case "StripAccents": _steps.Add(text => Map(text, (rune, _, _) => Rune.GetUnicodeCategory(rune) is UnicodeCategory.NonSpacingMark or UnicodeCategory.SpacingCombiningMark or UnicodeCategory.EnclosingMark ? "" : null)); break;
            case "Strip":
                var (left, right) = (Section.Flag(json, "strip_left", true), Section.Flag(json, "strip_right", true));
                _steps.Add(text => Strip(text, left, right));
                break;
            case "Precompiled":
                var map = PrecompiledMap.Read(json.GetProperty("precompiled_charsmap"), path);
                if (map is not null) _steps.Add(map.Apply);
                break;
            case var other: throw new LancetException($"{path}: normalizer {other} is not supported.");
        }
    }

    private static MappedText Prepend(MappedText text, string prefix)
    {
        var builder = new MappedText.Builder(text);
        builder.Write(prefix, 0);
        builder.Copy(0, text.Text.Length);
        return builder.Build();
    }

    private static MappedText Strip(MappedText text, bool left, bool right)
    {
        var (start, end) = (0, text.Text.Length);
        while (left && start < end && char.IsWhiteSpace(text.Text[start])) start++;
        while (right && end > start && char.IsWhiteSpace(text.Text[end - 1])) end--;
        if ((start, end) == (0, text.Text.Length)) return text;
        // Built anew rather than cut: what is left still starts the input where the text did.
        var builder = new MappedText.Builder(text);
        builder.Copy(start, end);
        return builder.Build();
    }

    private static MappedText Replace(MappedText text, SplitPattern pattern, string content)
    {
        var matches = new List<(int Start, int End)>();
        pattern.Matches(text.Text, matches);
        if (matches.Count == 0) return text;
        // One character for another leaves every place where it is.
        if (content.Length == 1 && matches.TrueForAll(match => match.End - match.Start == 1))
        {
            return text with
            {
                Text = string.Create(text.Text.Length, (text.Text, matches, content[0]), static (target, state) =>
                {
                    state.Text.CopyTo(target);
                    foreach (var (start, _) in state.matches) target[start] = state.Item3;
                }),
            };
        }
        var builder = new MappedText.Builder(text);
        var at = 0;
        foreach (var (start, end) in matches)
        {
            builder.Copy(at, start);
            builder.Write(content, start);
            at = end;
        }
        builder.Copy(at, text.Text.Length);
        return builder.Build();
    }

    /// <summary>Replaces code points; null keeps one.</summary>
    private static MappedText Map(MappedText text, Func<Rune, string, int, string?> change)
    {
        MappedText.Builder? builder = null;
        var kept = 0;
        for (var i = 0; i < text.Text.Length;)
        {
            if (Rune.DecodeFromUtf16(text.Text.AsSpan(i), out var rune, out var consumed) == System.Buffers.OperationStatus.Done && change(rune, text.Text, i) is { } replacement)
            {
                builder ??= new(text);
                builder.Copy(kept, i);
                builder.Write(replacement, i);
                kept = i + consumed;
            }
            i += consumed;
        }
        if (builder is null) return text;
        builder.Copy(kept, text.Text.Length);
        return builder.Build();
    }

    private static string? Lower(Rune rune, string text, int at)
    {
        // The one code point whose small form is two; all others are one to one.
        if (rune.Value == 0x130) return "i\u0307";
        var lower = Rune.ToLowerInvariant(rune);
        return lower == rune ? null : lower.ToString();
    }

    /// <summary>SentencePiece's nmt rules: control characters go, odd spaces become spaces.</summary>
    private static string? Nmt(Rune rune, string text, int at) => rune.Value switch
    {
        (>= 0x01 and <= 0x08) or 0x0B or (>= 0x0E and <= 0x1F) or 0x7F or 0x8F or 0x9F => "",
        0x09 or 0x0A or 0x0C or 0x0D or 0x1680 or (>= 0x200B and <= 0x200F) or 0x2028 or 0x2029 or 0x2581 or 0xFEFF or 0xFFFD => " ",
        _ => null,
    };
}
