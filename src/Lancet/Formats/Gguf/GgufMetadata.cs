using System.Globalization;

namespace Lancet.Formats.Gguf;

/// <summary>
/// The key/value pairs of a GGUF file, in order. Values are of the CLR types that correspond to the format's: the integers, float, double,
/// bool, string, and arrays of them.
/// </summary>
/// <param name="path">File, for messages.</param>
public sealed class GgufMetadata(string path)
{
    private readonly List<KeyValuePair<string, object>> _items = [];
    private readonly Dictionary<string, object> _values = [];

    /// <summary>Pairs in the order of the file.</summary>
    public IReadOnlyList<KeyValuePair<string, object>> Items => _items;

    /// <summary>Adds a pair.</summary>
    /// <param name="key">Key; must be new.</param>
    /// <param name="value">Value of a type that GGUF has.</param>
    /// <exception cref="LancetException">The key is there already.</exception>
    public void Add(string key, object value)
    {
        if (!_values.TryAdd(key, value)) throw Error($"key {key} appears twice.");
        _items.Add(new(key, value));
    }

    /// <summary>Whether there is a key.</summary>
    public bool Contains(string key) => _values.ContainsKey(key);

    /// <summary>A text, or null where the key is missing.</summary>
    /// <exception cref="LancetException">The value is of another type; so for all other getters.</exception>
    public string? Text(string key) => Find<string>(key, "a text");

    /// <summary>Texts, or null.</summary>
    public string[]? Texts(string key) => Find<string[]>(key, "an array of texts");

    /// <summary>A truth value, or null.</summary>
    public bool? Flag(string key) => _values.TryGetValue(key, out var value) ? value is bool flag ? flag : throw Wrong(key, value, "a truth value") : null;

    /// <summary>An integer of any width, or null.</summary>
    public long? Integer(string key) => _values.TryGetValue(key, out var value) ? AsInteger(value) ?? throw Wrong(key, value, "an integer") : null;

    /// <summary>A number, or null.</summary>
    public double? Number(string key) => _values.TryGetValue(key, out var value) ? AsNumber(value) ?? throw Wrong(key, value, "a number") : null;

    /// <summary>Integers of any width, or null; a single one counts as a list of one.</summary>
    public int[]? Integers(string key) => _values.TryGetValue(key, out var value) ? value switch
    {
        int[] list => list,
        uint[] list when Array.TrueForAll(list, item => item <= int.MaxValue) => [.. list.Select(item => (int)item)],
        bool[] list => [.. list.Select(item => item ? 1 : 0)],
        _ when AsInteger(value) is { } single and >= int.MinValue and <= int.MaxValue => [(int)single],
        _ => throw Wrong(key, value, "integers"),
    }
    : null;

    /// <summary>Numbers, or null.</summary>
    public float[]? Numbers(string key) => Find<float[]>(key, "an array of fp32 numbers");

    /// <summary>A text that has to be there.</summary>
    public string RequiredText(string key) => Text(key) ?? throw Missing(key);

    /// <summary>An integer from 1 to 2³¹ − 1 that has to be there.</summary>
    public int Positive(string key) => Integer(key) switch
    {
        null => throw Missing(key),
        >= 1 and <= int.MaxValue and var value => (int)value,
        var value => throw Error($"key {key} is {value}; a positive integer is expected."),
    };

    /// <summary>An error that names the file.</summary>
    public LancetException Error(string message) => new($"{path}: {message}");

    private T? Find<T>(string key, string expected)
        where T : class => _values.TryGetValue(key, out var value) ? value as T ?? throw Wrong(key, value, expected) : null;

    private LancetException Missing(string key) => Error($"key {key} is missing.");

    private LancetException Wrong(string key, object value, string expected) => Error($"key {key} is of type {value.GetType().Name}; {expected} is expected.");

    private static long? AsInteger(object value) => value switch
    {
        byte or sbyte or short or ushort or int or uint or long => Convert.ToInt64(value, CultureInfo.InvariantCulture),
        ulong wide and <= long.MaxValue => (long)wide,
        _ => null,
    };

    private static double? AsNumber(object value) => value switch
    {
        float single => single,
        double number => number,
        _ => AsInteger(value),
    };
}
