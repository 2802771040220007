namespace Lancet.ChatTemplates.Jinja;

/// <summary>Attributes, items, slices and Python's string, list and mapping methods.</summary>
internal static class Members
{
    public static object? Attribute(object? target, string name) => target switch
    {
        // In Python a mapping's methods hide keys of their names.
        Dictionary<string, object?> map => map is not Namespace && name is "items" or "keys" or "values" or "get" && MapMethod(map, name) is { } method ? method : map.GetValueOrDefault(name, Undefined.Value),
        Group group when name is "grouper" or "list" => group[name == "list" ? 1 : 0],
        string text => (object?)StringMethod(text, name) ?? Undefined.Value,
        List<object?> list => name switch
        {
            "append" => (Callable)((arguments, _) =>
            {
                list.Add(arguments[0]);
                return null;
            }),
            "index" => (Callable)((arguments, _) => Found(list.FindIndex(item => Values.Equals(item, arguments[0])))),
            "count" => (Callable)((arguments, _) => (long)list.Count(item => Values.Equals(item, arguments[0]))),
            _ => Undefined.Value,
        },
        Undefined => throw new LancetException($"chat template: .{name} of an undefined value."),
        _ => Undefined.Value,
    };

    /// <summary>What filters call an attribute: an index, or names with dots between them.</summary>
    public static object? Path(object? target, object? path) => path is long
        ? Item(target, path)
        : Values.Text(path).Split('.').Aggregate(target, (value, name) => long.TryParse(name, System.Globalization.CultureInfo.InvariantCulture, out var index) ? Item(value, index) : Attribute(value, name));

    public static object? Item(object? target, object? key) => (target, key) switch
    {
        (Dictionary<string, object?> map, string name) => map.TryGetValue(name, out var value) ? value : Undefined.Value,
        (List<object?> list, long i) => i < list.Count && i >= -list.Count ? Values.Read(list)[(int)(i < 0 ? i + list.Count : i)] : Undefined.Value,
        (string text, long i) => new Letters(text) is var letters && i < letters.Count && i >= -letters.Count ? letters[(int)(i < 0 ? i + letters.Count : i)].ToString() : Undefined.Value,
        (Undefined, _) => throw new LancetException("chat template: an item of an undefined value."),
        _ => Undefined.Value,
    };

    public static object Slice(object? target, object? start, object? stop, object? step)
    {
        var by = step is null ? 1 : (int)Values.Integer(step);
        if (by == 0) throw new LancetException("chat template: a slice with step 0.");
        var letters = target is string text ? new Letters(text) : (Letters?)null;
        var length = letters?.Count ?? target switch { List<object?> list => list.Count, _ => throw new LancetException($"chat template: a slice of {Values.Describe(target)}.") };
        int Bound(object? value, int fallback) => value is null ? fallback : (int)Math.Clamp(Values.Integer(value) is var i && i < 0 ? i + length : i, by < 0 ? -1 : 0, by < 0 ? length - 1 : length);
        var (from, to) = by > 0 ? (Bound(start, 0), Bound(stop, length)) : (Bound(start, length - 1), Bound(stop, -1));
        var indices = new List<int>();
        for (var i = from; by > 0 ? i < to : i > to; i += by) indices.Add(i);
        return letters is { } all ? all.Select(indices) : indices.Select(i => ((List<object?>)target!)[i]).ToList();
    }

    private static Callable? MapMethod(Dictionary<string, object?> map, string name) => name switch
    {
        "items" => (_, _) => map.Select(item => (object?)new List<object?> { item.Key, item.Value }).ToList(),
        "keys" => (_, _) => map.Keys.Select(key => (object?)key).ToList(),
        "values" => (_, _) => map.Values.ToList(),
        "get" => (arguments, _) => map.TryGetValue(Values.Text(arguments[0]), out var value) ? value : arguments.Count > 1 ? arguments[1] : null,
        _ => null,
    };

    private static Callable? StringMethod(string text, string name) => name switch
    {
        "strip" => (arguments, _) => arguments.Count > 0 ? text.Trim(Values.Text(arguments[0]).ToCharArray()) : text.Trim(),
        "lstrip" => (arguments, _) => arguments.Count > 0 ? text.TrimStart(Values.Text(arguments[0]).ToCharArray()) : text.TrimStart(),
        "rstrip" => (arguments, _) => arguments.Count > 0 ? text.TrimEnd(Values.Text(arguments[0]).ToCharArray()) : text.TrimEnd(),
        "split" => (arguments, _) => Split(text, arguments),
        "startswith" => (arguments, _) => Any(arguments[0], part => text.StartsWith(part, StringComparison.Ordinal)),
        "endswith" => (arguments, _) => Any(arguments[0], part => text.EndsWith(part, StringComparison.Ordinal)),
        "replace" => (arguments, named) => Replace(text, Values.Text(arguments[0]), Values.Text(arguments[1]), arguments.Count > 2 ? arguments[2] : named.GetValueOrDefault("count")),
        "upper" => (_, _) => text.ToUpperInvariant(),
        "lower" => (_, _) => text.ToLowerInvariant(),
        "title" => (_, _) => Filters.Title(text),
        "capitalize" => (_, _) => Filters.Capitalize(text),
        "find" => (arguments, _) => Letters.Find(text, Values.Text(arguments[0])),
        "rfind" => (arguments, _) => Letters.Find(text, Values.Text(arguments[0]), true),
        "index" => (arguments, _) => Found(Letters.Find(text, Values.Text(arguments[0]))),
        "rindex" => (arguments, _) => Found(Letters.Find(text, Values.Text(arguments[0]), true)),
        "count" => (arguments, _) => Values.Text(arguments[0]) is { Length: > 0 } part ? (long)text.Split(part).Length - 1 : new Letters(text).Count + 1L,
        "rsplit" => (arguments, _) => SplitRight(text, arguments),
        "splitlines" => (_, _) => text.Length == 0 ? [] : text.ReplaceLineEndings("\n") is var lines && lines.EndsWith('\n') ? Split(lines[..^1], ["\n"]) : Split(lines, ["\n"]),
        "partition" => (arguments, _) => Values.Text(arguments[0]) is var part && text.IndexOf(part, StringComparison.Ordinal) is var at && at < 0 ? new List<object?> { text, "", "" } : [text[..at], part, text[(at + part.Length)..]],
        "rpartition" => (arguments, _) => Values.Text(arguments[0]) is var part && text.LastIndexOf(part, StringComparison.Ordinal) is var at && at < 0 ? new List<object?> { "", "", text } : [text[..at], part, text[(at + part.Length)..]],
        "removeprefix" => (arguments, _) => Values.Text(arguments[0]) is var part && text.StartsWith(part, StringComparison.Ordinal) ? text[part.Length..] : text,
        "removesuffix" => (arguments, _) => Values.Text(arguments[0]) is var part && text.EndsWith(part, StringComparison.Ordinal) ? text[..^part.Length] : text,
        "isalnum" => (_, _) => text.Length > 0 && text.All(char.IsLetterOrDigit),
        "isalpha" => (_, _) => text.Length > 0 && text.All(char.IsLetter),
        "isdigit" or "isdecimal" or "isnumeric" => (_, _) => text.Length > 0 && text.All(char.IsDigit),
        "isspace" => (_, _) => text.Length > 0 && text.All(char.IsWhiteSpace),
        "islower" => (_, _) => Filters.Test("lower")!(text, null),
        "isupper" => (_, _) => Filters.Test("upper")!(text, null),
        "join" => (arguments, _) => string.Join(text, Values.Iterate(arguments[0]).Select(Values.Text)),
        _ => null,
    };

    private static object Found(long index) => index >= 0 ? index : throw new LancetException("chat template: index() of something that is not there.");

    private static bool Any(object? argument, Func<string, bool> test) => argument is List<object?> options ? options.Any(option => test(Values.Text(option))) : test(Values.Text(argument));

    /// <summary>Python's str.replace: an empty text stands between all characters.</summary>
    public static string Replace(string text, string from, string to, object? count)
    {
        var left = count is null || Values.Integer(count) < 0 ? long.MaxValue : Values.Integer(count);
        if (from.Length > 0 && left == long.MaxValue && (to.Length <= from.Length || text.Length < 100_000)) return Bounded(text, from, to);
        var result = new System.Text.StringBuilder();
        var at = 0;
        for (; left > 0 && result.Length < MaxText; left--)
        {
            var found = text.IndexOf(from, at, StringComparison.Ordinal);
            if (found < 0) break;
            result.Append(text, at, found - at).Append(to);
            at = found + from.Length;
            if (from.Length > 0) continue;
            if (at >= text.Length) break;
            result.Append(text[at++]);
        }
        return result.Length < MaxText ? result.Append(text, at, text.Length - at).ToString() : throw new LancetException("chat template: a replacement grows past fifty million characters.");
    }

    private const int MaxText = 50_000_000;

    private static string Bounded(string text, string from, string to) => (long)text.Length / from.Length * to.Length <= MaxText
        ? text.Replace(from, to, StringComparison.Ordinal)
        : throw new LancetException("chat template: a replacement grows past fifty million characters.");

    /// <summary>Python's str.rsplit: as split, but a limit leaves the left end whole.</summary>
    private static List<object?> SplitRight(string text, List<object?> arguments)
    {
        if (arguments.Count < 2) return Split(text, arguments);
        static string Turned(string part) => new([.. part.Reverse()]);
        List<object?> turned = [arguments[0] is null ? null : Turned(Values.Text(arguments[0])), arguments[1]];
        return [.. Split(Turned(text), turned).Select(part => Turned((string)part!)).Reverse()];
    }

    /// <summary>Python's str.split: without a separator at runs of white space, none of it at the ends except what the limit leaves.</summary>
    private static List<object?> Split(string text, List<object?> arguments)
    {
        var limit = arguments.Count > 1 && Values.Integer(arguments[1]) >= 0 ? (int)Math.Min(Values.Integer(arguments[1]), int.MaxValue - 1) + 1 : int.MaxValue;
        if (arguments.Count > 0 && arguments[0] is not null) return [.. text.Split(Values.Text(arguments[0]), limit, StringSplitOptions.None)];
        var parts = new List<object?>();
        for (var at = 0; at < text.Length;)
        {
            while (at < text.Length && char.IsWhiteSpace(text[at])) at++;
            if (at == text.Length) break;
            var end = at;
            while (end < text.Length && (parts.Count + 1 == limit || !char.IsWhiteSpace(text[end]))) end++;
            parts.Add(text[at..end]);
            at = end;
        }
        return parts;
    }
}
