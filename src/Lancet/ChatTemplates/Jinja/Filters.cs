using System.Globalization;

namespace Lancet.ChatTemplates.Jinja;

/// <summary>Jinja's filters and tests, as far as chat templates use them.</summary>
internal static class Filters
{
    public delegate object? Filter(object? value, List<object?> arguments, Dictionary<string, object?> named);

    public static Filter? Find(string name) => name switch
    {
        "trim" => (value, _, _) => Values.Text(value).Trim(),
        "length" or "count" => (value, _, _) => value switch { string s => new Letters(s).Count, List<object?> list => list.Count, Dictionary<string, object?> map => map.Count, Undefined => 0L, _ => throw Wrong(name, value) } is var n ? (long)n : 0L,
        "upper" => (value, _, _) => Values.Text(value).ToUpperInvariant(),
        "lower" => (value, _, _) => Values.Text(value).ToLowerInvariant(),
        "title" => (value, _, _) => Title(Values.Text(value)),
        "capitalize" => (value, _, _) => Capitalize(Values.Text(value)),
        "string" => (value, _, _) => Values.Text(value),
        "int" => (value, arguments, named) => value switch
        {
            string s => long.TryParse(s.Trim(), CultureInfo.InvariantCulture, out var i) ? i : double.TryParse(s, CultureInfo.InvariantCulture, out var d) && double.IsFinite(d) ? (long)d : Argument(arguments, named, 0, "default", 0L),
            null or List<object?> or Dictionary<string, object?> => Argument(arguments, named, 0, "default", 0L),
            _ => Values.Integer(value),
        },
        "float" => (value, arguments, named) => value is string s ? double.TryParse(s, CultureInfo.InvariantCulture, out var d) ? d : Argument(arguments, named, 0, "default", 0.0) : Values.Number(value),
        "abs" => (value, _, _) => value is long i ? (object)Math.Abs(i) : Math.Abs(Values.Number(value)),
        "round" => (value, arguments, _) => Math.Round(Values.Number(value), arguments.Count > 0 ? (int)Values.Integer(arguments[0]) : 0),
        "safe" => (value, _, _) => value,
        "e" or "escape" or "forceescape" => (value, _, _) => Escape(Values.Text(value)),
        "list" => (value, _, _) => Values.Iterate(value).ToList(),
        "first" => (value, _, _) => Values.Iterate(value).FirstOrDefault(Undefined.Value),
        "last" => (value, _, _) => Values.Iterate(value).LastOrDefault(Undefined.Value),
        "reverse" => (value, _, _) => value is string s ? string.Concat(Letters.Of(s).Reverse()) : Values.Iterate(value).Reverse().ToList(),
        "unique" => (value, _, _) => Values.Iterate(value).Aggregate(new List<object?>(), (list, item) => list.Exists(other => Values.Equals(other, item)) ? list : [.. list, item]),
        "sort" => (value, arguments, named) => Sort(Values.Iterate(value), Values.IsTrue(Argument(arguments, named, 0, "reverse", false)), Values.IsTrue(Argument(arguments, named, 1, "case_sensitive", false)), Key(Argument(arguments, named, 2, "attribute", null))),
        "sum" => (value, arguments, named) => Attributes(value, Argument(arguments, named, 0, "attribute", null)).Aggregate(Argument(arguments, named, 1, "start", 0L), (sum, item) => Values.IsNumber(item) ? Values.Arithmetic("+", sum, item) : throw Wrong(name, item)),
        "min" or "max" => (value, arguments, named) => Sort(Values.Iterate(value), name == "max", Values.IsTrue(Argument(arguments, named, 0, "case_sensitive", false)), Key(Argument(arguments, named, 1, "attribute", null))).FirstOrDefault(Undefined.Value),
        "groupby" => (value, arguments, named) => Groups(Values.Iterate(value), Key(Argument(arguments, named, 0, "attribute", null))),
        "format" => (value, arguments, _) => Values.Format(Values.Text(value), arguments),
        "items" => (value, _, _) => value is Dictionary<string, object?> map ? map.Select(item => (object?)new List<object?> { item.Key, item.Value }).ToList() : value is Undefined ? new List<object?>() : throw Wrong(name, value),
        "dictsort" => (value, arguments, named) => value is Dictionary<string, object?> map
            ? Sort(
                map.Select(item => (object?)new List<object?> { item.Key, item.Value }),
                Values.IsTrue(Argument(arguments, named, 2, "reverse", false)),
                Values.IsTrue(Argument(arguments, named, 0, "case_sensitive", false)),
                pair => ((List<object?>)pair!)[Values.Text(Argument(arguments, named, 1, "by", "key")) == "value" ? 1 : 0])
            : throw Wrong(name, value),
        "join" => (value, arguments, named) => string.Join(
            Values.Text(arguments.Count > 0 ? arguments[0] : ""),
            Values.Iterate(value).Select(item => Values.Text(named.TryGetValue("attribute", out var attribute) ? Members.Path(item, attribute) : item))),
        "replace" => (value, arguments, named) => Members.Replace(Values.Text(value), Values.Text(arguments[0]), Values.Text(arguments[1]), Argument(arguments, named, 2, "count", null)),
        "default" or "d" => (value, arguments, named) =>
            value is Undefined || (!Values.IsTrue(value) && Values.IsTrue(arguments.Count > 1 ? arguments[1] : named.GetValueOrDefault("boolean"))) ? arguments.Count > 0 ? arguments[0] : "" : value,
        "tojson" => (value, arguments, named) => Values.Json(value, Style(arguments, named)),
        "indent" => (value, arguments, named) => Indent(Values.Text(value), Argument(arguments, named, 0, "width", 4L), Values.IsTrue(Argument(arguments, named, 1, "first", false)), Values.IsTrue(Argument(arguments, named, 2, "blank", false))),
        "map" => (value, arguments, named) => named.TryGetValue("attribute", out var attribute)
            ? Values.Iterate(value).Select(item => Members.Path(item, attribute)).ToList()
            : Values.Iterate(value).Select(item => (Find(Values.Text(arguments[0])) ?? throw Wrong(name, arguments[0]))(item, [.. arguments.Skip(1)], [])).ToList(),
        "select" or "reject" => (value, arguments, _) => Values.Iterate(value).Where(item => Passes(item, arguments, 0) == (name == "select")).ToList(),
        "selectattr" or "rejectattr" => (value, arguments, _) => Values.Iterate(value).Where(item => Passes(Members.Path(item, arguments[0]), arguments, 1) == (name == "selectattr")).ToList(),
        _ => null,
    };

    public static Func<object?, object?, bool>? Test(string name) => name switch
    {
        "defined" => (value, _) => value is not Undefined,
        "undefined" => (value, _) => value is Undefined,
        "none" => (value, _) => value is null,
        "string" => (value, _) => value is string,
        "number" => (value, _) => Values.IsNumber(value),
        "integer" => (value, _) => value is long,
        "float" => (value, _) => value is double,
        "boolean" => (value, _) => value is bool,
        "true" => (value, _) => value is true,
        "false" => (value, _) => value is false,
        "mapping" => (value, _) => value is Dictionary<string, object?>,
        "sequence" or "iterable" => (value, _) => value is List<object?> or string or Dictionary<string, object?> or Undefined,
        "callable" => (value, _) => value is Callable,
        "lower" => (value, _) => value is string s && s == s.ToLowerInvariant() && s != s.ToUpperInvariant(),
        "upper" => (value, _) => value is string s && s == s.ToUpperInvariant() && s != s.ToLowerInvariant(),
        "odd" => (value, _) => Values.Integer(value) % 2 != 0,
        "even" => (value, _) => Values.Integer(value) % 2 == 0,
        "divisibleby" => (value, argument) => Values.Integer(value) % Values.Integer(argument) == 0,
        "equalto" or "eq" => Values.Equals,
        "sameas" => (value, argument) => value?.GetType() == argument?.GetType() && Values.Equals(value, argument),
        "ne" => (value, argument) => !Values.Equals(value, argument),
        "gt" => (value, argument) => Values.Compare(value, argument) > 0,
        "lt" => (value, argument) => Values.Compare(value, argument) < 0,
        "ge" => (value, argument) => Values.Compare(value, argument) >= 0,
        "le" => (value, argument) => Values.Compare(value, argument) <= 0,
        "in" => (value, argument) => Values.Contains(argument, value),
        _ => null,
    };

    public static string Capitalize(string text) => text.Length == 0 ? text : char.ToUpperInvariant(text[0]) + text[1..].ToLowerInvariant();

    public static string Title(string text) => CultureInfo.InvariantCulture.TextInfo.ToTitleCase(text.ToLowerInvariant());

    /// <summary>An argument by place or name.</summary>
    private static object? Argument(List<object?> arguments, Dictionary<string, object?> named, int place, string name, object? fallback) =>
        arguments.Count > place ? arguments[place] : named.TryGetValue(name, out var value) ? value : fallback;

    private static List<object?> Sort(IEnumerable<object?> items, bool isReversed, bool isCaseSensitive, Func<object?, object?> key)
    {
        // Like Python, which compares what is equal no further: none and none keep their order.
        var order = Comparer<object?>.Create((a, b) => Key(a) is var x && Key(b) is var y && Values.Equals(x, y) ? 0 : Values.Compare(x, y));
        // Values that cannot be ordered are refused here: what a comparer throws comes out of the sort wrapped.
        var all = items.ToList();
        for (var i = 1; i < all.Count; i++) order.Compare(all[0], all[i]);
        return isReversed ? [.. all.OrderByDescending(item => item, order)] : [.. all.OrderBy(item => item, order)];

        object? Key(object? item) => key(item) is var value && value is string text && !isCaseSensitive ? text.ToLowerInvariant() : value;
    }

    private static Func<object?, object?> Key(object? attribute) => attribute is null ? item => item : item => Members.Path(item, attribute);

    private static IEnumerable<object?> Attributes(object? value, object? attribute) => Values.Iterate(value).Select(Key(attribute));

    private static List<object?> Groups(IEnumerable<object?> items, Func<object?, object?> key)
    {
        var groups = new List<object?>();
        object? last = null;
        foreach (var item in Sort(items, false, false, key))
        {
            var own = key(item) is string text ? text.ToLowerInvariant() : key(item);
            if (groups.Count > 0 && Values.Equals(own, last)) ((List<object?>)((Group)groups[^1]!)[1]!).Add(item);
            else groups.Add(new Group(key(item), [item]));
            last = own;
        }
        return groups;
    }

    private static string Escape(string text) => text.Replace("&", "&amp;", StringComparison.Ordinal).Replace("<", "&lt;", StringComparison.Ordinal).Replace(">", "&gt;", StringComparison.Ordinal)
        .Replace("'", "&#39;", StringComparison.Ordinal).Replace("\"", "&#34;", StringComparison.Ordinal);

    private static JsonStyle Style(List<object?> arguments, Dictionary<string, object?> named)
    {
        var style = new JsonStyle
        {
            Indent = Argument(arguments, named, 0, "indent", null) is long indent ? (int)Math.Clamp(indent, 0, 16) : null,
            IsAscii = Values.IsTrue(named.GetValueOrDefault("ensure_ascii")),
            SortsKeys = Values.IsTrue(named.GetValueOrDefault("sort_keys")),
        };
        return named.GetValueOrDefault("separators") is List<object?> { Count: 2 } pair ? style with { ItemSeparator = Values.Text(pair[0]), KeySeparator = Values.Text(pair[1]) } : style;
    }

    private static string Indent(string text, object? width, bool first, bool blank)
    {
        var space = width is string own ? own : new string(' ', (int)Math.Clamp(Values.Integer(width), 0, 64));
        var lines = text.Split('\n');
        for (var i = 0; i < lines.Length; i++)
            if (i == 0 ? first : blank || lines[i].Length > 0) lines[i] = space + lines[i];
        return string.Join('\n', lines);
    }

    private static bool Passes(object? value, List<object?> arguments, int from) => arguments.Count <= from
        ? Values.IsTrue(value)
        : (Test(Values.Text(arguments[from])) ?? throw new LancetException($"chat template: the test '{Values.Text(arguments[from])}' is not known."))(value, arguments.Count > from + 1 ? arguments[from + 1] : null);

    private static LancetException Wrong(string filter, object? value) => new($"chat template: the filter '{filter}' does not apply to {Values.Describe(value)}.");
}
