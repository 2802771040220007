using System.Globalization;
using System.Text;
using System.Text.Json;

namespace Lancet.ChatTemplates.Jinja;

/// <summary>How tojson writes: json.dumps' indent, separators, ensure_ascii and sort_keys.</summary>
internal sealed record JsonStyle(int? Indent = null, string? ItemSeparator = null, string KeySeparator = ": ", bool IsAscii = false, bool SortsKeys = false);

/// <summary>Python's view of values: truth, text, comparison and arithmetic.</summary>
internal static class Values
{
    public static bool IsTrue(object? value) => value switch
    {
        null or Undefined => false,
        bool b => b,
        long i => i != 0,
        double d => d != 0,
        string s => s.Length > 0,
        List<object?> list => list.Count > 0,
        Dictionary<string, object?> map => map.Count > 0,
        _ => true,
    };

    public static string Text(object? value) => value switch
    {
        null => "None",
        Undefined => "",
        bool b => b ? "True" : "False",
        long i => i.ToString(CultureInfo.InvariantCulture),
        double d => Float(d),
        string s => s,
        List<object?> or Dictionary<string, object?> => Structure(value),
        _ => "function",
    };

    /// <summary>A number as Python writes it: with a point or an exponent.</summary>
    private static string Float(double value)
    {
        if (!double.IsFinite(value)) return double.IsNaN(value) ? "nan" : value > 0 ? "inf" : "-inf";
        if (value == Math.Floor(value) && Math.Abs(value) < 1e16) return value.ToString("0.0", CultureInfo.InvariantCulture);
        var text = value.ToString("R", CultureInfo.InvariantCulture).Replace('E', 'e');
        if (text.AsSpan().ContainsAny('e', '.')) return text;
        // .NET writes some more digits out than Python does.
        var digits = text.TrimStart('-');
        var others = digits[1..].TrimEnd('0');
        return $"{text[..^digits.Length]}{digits[0]}{(others.Length > 0 ? "." : "")}{others}e+{digits.Length - 1}";
    }

    /// <summary>Lists and mappings as Python writes them. They may hold themselves, so depth and length are bounded.</summary>
    private static string Structure(object value)
    {
        var text = new StringBuilder();
        Write(value, 0);
        return text.ToString();

        void Write(object? item, int depth)
        {
            CheckSize(text, depth);
            switch (item)
            {
                case List<object?> list:
                    text.Append('[');
                    for (var i = 0; i < list.Count; i++)
                    {
                        if (i > 0) text.Append(", ");
                        Write(list[i], depth + 1);
                    }
                    text.Append(']');
                    break;
                case Dictionary<string, object?> map:
                    text.Append('{');
                    foreach (var (key, element) in map)
                    {
                        if (text[^1] != '{') text.Append(", ");
                        text.Append(Quoted(key)).Append(": ");
                        Write(element, depth + 1);
                    }
                    text.Append('}');
                    break;
                default: text.Append(Quoted(item)); break;
            }
        }
    }

    private static void CheckSize(StringBuilder text, int depth)
    {
        if (depth > 100 || text.Length > 10_000_000) throw new LancetException("chat template: a list or mapping that holds itself, or is too large to be written.");
    }

    public static new bool Equals(object? a, object? b) => (a, b) switch
    {
        (null or Undefined, null or Undefined) => a?.GetType() == b?.GetType(),
        (string x, string y) => x == y,
        _ when ReferenceEquals(a, b) => true,
        (List<object?> x, List<object?> y) => x.Count == y.Count && x.Zip(y).All(pair => Equals(pair.First, pair.Second)),
        (Dictionary<string, object?> x, Dictionary<string, object?> y) => x.Count == y.Count && x.All(item => y.TryGetValue(item.Key, out var other) && Equals(item.Value, other)),
        _ => IsNumber(a) && IsNumber(b) ? Number(a) == Number(b) : ReferenceEquals(a, b),
    };

    public static int Compare(object? a, object? b) => (a, b) switch
    {
        (string x, string y) => string.CompareOrdinal(x, y),
        _ when IsNumber(a) && IsNumber(b) => Number(a).CompareTo(Number(b)),
        _ => throw new LancetException($"chat template: {Describe(a)} and {Describe(b)} cannot be ordered."),
    };

    public static bool Contains(object? container, object? item) => container switch
    {
        string s => item is string part && s.Contains(part, StringComparison.Ordinal),
        List<object?> list => list.Exists(element => Equals(element, item)),
        Dictionary<string, object?> map => item is string key && map.ContainsKey(key),
        Undefined => false,
        _ => throw new LancetException($"chat template: {Describe(container)} contains nothing."),
    };

    public static object Arithmetic(string symbol, object? a, object? b)
    {
        if (symbol == "+" && a is string x && b is string y) return x + y;
        if (symbol == "+" && a is List<object?> first && b is List<object?> second) return first.Concat(second).ToList();
        if (symbol == "*" && (a, b) is (string or long, string or long) && (a is string || b is string))
        {
            var (text, count) = a is string s ? (s, (long)Number(b)) : ((string)b!, (long)Number(a));
            if (count * text.Length > 1_000_000) throw new LancetException("chat template: a repeated string grows past a million characters.");
            return new StringBuilder().Insert(0, text, (int)Math.Max(0, count)).ToString();
        }
        if (symbol == "%" && a is string format) return Format(format, b is List<object?> list ? list : [b]);
        if (!IsNumber(a) || !IsNumber(b)) throw new LancetException($"chat template: {Describe(a)} {symbol} {Describe(b)} is not defined.");
        if (a is double || b is double || symbol is "/" or "**")
        {
            double p = Number(a), q = Number(b);
            var result = symbol switch { "+" => p + q, "-" => p - q, "*" => p * q, "/" => p / q, "//" => Math.Floor(p / q), "%" => p - (q * Math.Floor(p / q)), _ => Math.Pow(p, q) };
            return symbol == "**" && a is not double && b is not double && result == Math.Floor(result) && Math.Abs(result) < 1e15 ? (object)(long)result : result;
        }
        long i = Integer(a), j = Integer(b);
        if (symbol is "//" or "%" && j == 0) throw new LancetException("chat template: division by zero.");
        return symbol switch { "+" => i + j, "-" => i - j, "*" => i * j, "//" => (long)Math.Floor((double)i / j), _ => ((i % j) + j) % j };
    }

    public static IEnumerable<object?> Iterate(object? value) => value switch
    {
        List<object?> list => Read(list),
        Dictionary<string, object?> map => map.Keys,
        string s => Letters.Of(s),
        Undefined => [],
        null => throw new LancetException("chat template: a loop over a value that is not there."),
        _ => throw new LancetException($"chat template: {Describe(value)} cannot be looped over."),
    };

    /// <summary>Notes that a template looks into a list.</summary>
    public static List<object?> Read(List<object?> list)
    {
        if (list is ContentParts parts) parts.WasRead = true;
        return list;
    }

    public static bool IsNumber(object? value) => value is long or double or bool;

    public static double Number(object? value) => value switch { long i => i, double d => d, bool b => b ? 1 : 0, _ => throw new LancetException($"chat template: {Describe(value)} is not a number.") };

    public static long Integer(object? value) => (long)Number(value);

    public static string Describe(object? value) => value switch
    {
        null => "none",
        Undefined => "an undefined value",
        bool => "a truth value",
        long or double => "a number",
        string => "a string",
        List<object?> => "a list",
        Dictionary<string, object?> => "a mapping",
        _ => "a function",
    };

    /// <summary>JSON as Hugging Face's tojson writes it: Python's separators, nothing but control characters and quotes escaped.</summary>
    public static string Json(object? value, JsonStyle style)
    {
        var text = new StringBuilder();
        Write(value, 0);
        return text.ToString();

        void Write(object? item, int depth)
        {
            CheckSize(text, depth);
            switch (item)
            {
                case string s: Quote(s); break;
                case bool b: text.Append(b ? "true" : "false"); break;
                case null or Undefined: text.Append("null"); break;
                case List<object?> list: Group('[', ']', list.Count, depth, i => Write(list[i], depth + 1)); break;
                case Dictionary<string, object?> map:
                    var pairs = style.SortsKeys ? [.. map.OrderBy(pair => pair.Key, StringComparer.Ordinal)] : map.ToList();
                    Group('{', '}', pairs.Count, depth, i =>
                    {
                        Quote(pairs[i].Key);
                        text.Append(style.KeySeparator);
                        Write(pairs[i].Value, depth + 1);
                    });
                    break;
                default: text.Append(Text(item)); break;
            }
        }

        void Quote(string item)
        {
            text.Append('"');
            foreach (var c in item)
            {
                _ = c switch
                {
                    '"' => text.Append("\\\""),
                    '\\' => text.Append("\\\\"),
                    '\n' => text.Append("\\n"),
                    '\r' => text.Append("\\r"),
                    '\t' => text.Append("\\t"),
                    '\b' => text.Append("\\b"),
                    '\f' => text.Append("\\f"),
                    < ' ' => text.Append(CultureInfo.InvariantCulture, $"\\u{(int)c:x4}"),
                    > '~' when style.IsAscii => text.Append(CultureInfo.InvariantCulture, $"\\u{(int)c:x4}"),
                    _ => text.Append(c),
                };
            }
            text.Append('"');
        }

        void Group(char open, char close, int count, int depth, Action<int> element)
        {
            text.Append(open);
            for (var i = 0; i < count; i++)
            {
                if (i > 0) text.Append(style.ItemSeparator ?? (style.Indent is null ? ", " : ","));
                if (style.Indent is { } width) text.Append('\n').Append(' ', width * (depth + 1));
                element(i);
            }
            if (style.Indent is { } outer && count > 0) text.Append('\n').Append(' ', outer * depth);
            text.Append(close);
        }
    }

    /// <summary>A JSON value as a template sees it.</summary>
    public static object? FromJson(JsonElement element) => element.ValueKind switch
    {
        JsonValueKind.String => element.GetString(),
        JsonValueKind.Number => element.TryGetInt64(out var integer) ? (object)integer : element.GetDouble(),
        JsonValueKind.True => true,
        JsonValueKind.False => false,
        JsonValueKind.Array => element.EnumerateArray().Select(FromJson).ToList(),
        JsonValueKind.Object => Mapping(element),
        _ => null,
    };

    // Of a key that occurs twice the last value counts, as in Python.
    private static Dictionary<string, object?> Mapping(JsonElement element)
    {
        var map = new Dictionary<string, object?>();
        foreach (var property in element.EnumerateObject()) map[property.Name] = FromJson(property.Value);
        return map;
    }

    /// <summary>A value inside of a list, as Python's repr writes it.</summary>
    private static string Quoted(object? value)
    {
        if (value is not string s) return value is Undefined ? "Undefined" : Text(value);
        var quote = s.Contains('\'', StringComparison.Ordinal) && !s.Contains('"', StringComparison.Ordinal) ? '"' : '\'';
        var text = new StringBuilder().Append(quote);
        foreach (var c in s)
        {
            _ = c switch
            {
                '\\' => text.Append("\\\\"),
                '\n' => text.Append("\\n"),
                '\r' => text.Append("\\r"),
                '\t' => text.Append("\\t"),
                < ' ' or '\x7f' => text.Append(CultureInfo.InvariantCulture, $"\\x{(int)c:x2}"),
                _ when c == quote => text.Append('\\').Append(c),
                _ => text.Append(c),
            };
        }
        return text.Append(quote).ToString();
    }

    /// <summary>Python's formatting with %s, %d, %i, %f (and %.2f) and %%.</summary>
    public static string Format(string format, List<object?> arguments)
    {
        var text = new StringBuilder();
        var next = 0;
        for (var i = 0; i < format.Length; i++)
        {
            if (format[i] != '%')
            {
                text.Append(format[i]);
                continue;
            }
            var digits = -1;
            if (++i < format.Length && format[i] == '.')
                for (digits = 0; ++i < format.Length && char.IsAsciiDigit(format[i]);) digits = Math.Min(100, (digits * 10) + format[i] - '0');
            var kind = i < format.Length ? format[i] : throw new LancetException("chat template: a format ends with '%'.");
            if (kind == '%')
            {
                text.Append('%');
                continue;
            }
            var value = next < arguments.Count ? arguments[next++] : throw new LancetException("chat template: a format lacks an argument.");
            text.Append(kind switch
            {
                's' => Text(value),
                'd' or 'i' => Integer(value).ToString(CultureInfo.InvariantCulture),
                'f' => Number(value).ToString($"F{(digits < 0 ? 6 : digits)}", CultureInfo.InvariantCulture),
                _ => throw new LancetException($"chat template: the format '%{kind}' is not known."),
            });
        }
        return next == arguments.Count ? text.ToString() : throw new LancetException("chat template: a format has too many arguments.");
    }
}
