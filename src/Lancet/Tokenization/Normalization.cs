using System.Globalization;
using System.Text;

namespace Lancet.Tokenization;

/// <summary>
/// Unicode normalisation forms C, D, KC and KD (Unicode Standard Annex 15), with the place that every character comes from. .NET normalises
/// through ICU, which Lancet must do without.
/// </summary>
internal static class Normalization
{
    private const int HangulBase = 0xAC00, LeadBase = 0x1100, VowelBase = 0x1161, TailBase = 0x11A7, VowelCount = 21, TailCount = 28, HangulCount = 11172;
    private static readonly Lazy<Tables> s_tables = new(Tables.Read);

    /// <summary>Normalises a text.</summary>
    /// <param name="source">Text; a composed character comes from where its first part does.</param>
    /// <param name="composes">Form C rather than form D.</param>
    /// <param name="isCompatible">Form KC or KD: compatibility characters are taken apart, too.</param>
    public static MappedText Apply(MappedText source, bool composes, bool isCompatible)
    {
        var text = source.Text;
        // Nothing below U+00C0 decomposes or combines, and nothing of ASCII is a compatibility character.
        if (text.AsSpan().IndexOfAnyExceptInRange('\0', isCompatible ? '\u007F' : '\u00BF') < 0) return source;
        var marks = new List<Mark>(text.Length);
        for (var i = 0; i < text.Length;)
        {
            var isPair = char.IsHighSurrogate(text[i]) && i + 1 < text.Length && char.IsLowSurrogate(text[i + 1]);
            Decompose(isPair ? char.ConvertToUtf32(text[i], text[i + 1]) : text[i], source.Origin(i), isCompatible, marks);
            i += isPair ? 2 : 1;
        }
        Order(marks);
        if (composes) Compose(marks);
        var result = new StringBuilder(text.Length);
        var places = new List<int>(text.Length);
        foreach (var mark in marks)
        {
            // A lone surrogate is not a code point that can be converted, and stays as it is.
            if (mark.Code < 0x10000) result.Append((char)mark.Code);
            else result.Append(char.ConvertFromUtf32(mark.Code));
            // Marks that changed places with others count as coming from where the last of them does, so that places never fall.
            var place = places.Count == 0 ? mark.Origin : Math.Max(mark.Origin, places[^1]);
            while (places.Count < result.Length) places.Add(place);
        }
        return new(result.ToString(), [.. places], source.Start);
    }

    private static void Decompose(int code, int origin, bool isCompatible, List<Mark> marks)
    {
        if (code is >= HangulBase and < HangulBase + HangulCount)
        {
            var index = code - HangulBase;
            marks.Add(new(LeadBase + (index / (VowelCount * TailCount)), 0, origin));
            marks.Add(new(VowelBase + (index % (VowelCount * TailCount) / TailCount), 0, origin));
            if (index % TailCount > 0) marks.Add(new(TailBase + (index % TailCount), 0, origin));
        }
        else if (isCompatible && s_tables.Value.Compatible.TryGetValue(code, out var simple))
        {
            foreach (var part in simple) Decompose(part, origin, true, marks);
        }
        else if (s_tables.Value.Decompositions.TryGetValue(code, out var parts))
        {
            Decompose(parts.First, origin, isCompatible, marks);
            if (parts.Second > 0) Decompose(parts.Second, origin, isCompatible, marks);
        }
        else
        {
            marks.Add(new(code, s_tables.Value.Classes.GetValueOrDefault(code), origin));
        }
    }

    /// <summary>Sorts every run of combining marks by class, keeping the order of equals.</summary>
    private static void Order(List<Mark> marks)
    {
        for (var i = 1; i < marks.Count; i++)
        {
            for (var j = i; j > 0 && marks[j].Class > 0 && marks[j - 1].Class > marks[j].Class; j--) (marks[j - 1], marks[j]) = (marks[j], marks[j - 1]);
        }
    }

    /// <summary>Joins each starter with the marks after it that no other mark of the same class separates from it.</summary>
    private static void Compose(List<Mark> marks)
    {
        var (starter, kept) = (-1, 0);
        for (var i = 0; i < marks.Count; i++)
        {
            var mark = marks[i];
            var isBlocked = starter >= 0 && kept - 1 > starter && (marks[kept - 1].Class >= mark.Class || marks[kept - 1].Class == 0);
            if (starter >= 0 && !isBlocked && Join(marks[starter].Code, mark.Code) is var joined && joined > 0)
            {
                marks[starter] = marks[starter] with { Code = joined };
                continue;
            }
            if (mark.Class == 0) starter = kept;
            marks[kept++] = mark;
        }
        marks.RemoveRange(kept, marks.Count - kept);
    }

    private static int Join(int first, int second)
    {
        if (first is >= LeadBase and < LeadBase + 19 && second is >= VowelBase and < VowelBase + VowelCount) return HangulBase + ((((first - LeadBase) * VowelCount) + second - VowelBase) * TailCount);
        if (first is >= HangulBase and < HangulBase + HangulCount && (first - HangulBase) % TailCount == 0 && second is > TailBase and < TailBase + TailCount) return first + second - TailBase;
        return s_tables.Value.Compositions.GetValueOrDefault((first, second));
    }

    private readonly record struct Mark(int Code, int Class, int Origin);

    /// <summary>normalization.txt, which scripts/make-normalization.py writes.</summary>
    private sealed class Tables
    {
        public Dictionary<int, (int First, int Second)> Decompositions { get; } = [];

        public Dictionary<(int First, int Second), int> Compositions { get; } = [];

        public Dictionary<int, int[]> Compatible { get; } = [];

        public Dictionary<int, int> Classes { get; } = [];

        public static Tables Read()
        {
            var result = new Tables();
            using var stream = typeof(Normalization).Assembly.GetManifestResourceStream("Lancet.normalization.txt")!;
            using var reader = new StreamReader(stream);
            while (reader.ReadLine() is { } line)
            {
                var parts = line.Split(' ');
                if (parts[0] == "D")
                {
                    var (code, first, second) = (Number(parts[1]), Number(parts[2]), parts.Length > 3 ? Number(parts[3]) : 0);
                    result.Decompositions[code] = (first, second);
                    if (parts.Length == 4) result.Compositions[(first, second)] = code;
                }
                else if (parts[0] == "K")
                {
                    result.Compatible[Number(parts[1])] = [.. parts[2..].Select(Number)];
                }
                else if (parts[0] == "C")
                {
                    for (var code = Number(parts[2]); code <= Number(parts[3]); code++) result.Classes[code] = int.Parse(parts[1], CultureInfo.InvariantCulture);
                }
            }
            return result;
        }

        private static int Number(string text) => int.Parse(text, NumberStyles.HexNumber, CultureInfo.InvariantCulture);
    }
}
