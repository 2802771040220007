using System.Text.Json;
using Lancet.Kernels;

namespace Lancet.Models;

/// <summary>Typed access to the keys of a config.json, with errors that name file and key.</summary>
/// <param name="root">Object that is read.</param>
/// <param name="path">Name for messages.</param>
/// <param name="defaults">Values of keys that the object does not have, or null.</param>
/// <param name="asked">Receives the keys that are asked for; those of objects inside do not count.</param>
internal sealed class ConfigReader(JsonElement root, string path, ConfigReader? defaults = null, ISet<string>? asked = null)
{
    public string Path => path;

    public LancetException Error(string message) => new($"{path}: {message}");

    public JsonElement? Find(string key)
    {
        asked?.Add(key);
        return root.TryGetProperty(key, out var value) ? value.ValueKind == JsonValueKind.Null ? null : value : defaults?.Find(key);
    }

    /// <summary>The same object with values for keys that it does not have.</summary>
    /// <param name="json">A JSON object: the defaults of the configuration class in transformers.</param>
    public ConfigReader WithDefaults(string json)
    {
        using var document = JsonDocument.Parse(json);
        return new(root, path, new(document.RootElement.Clone(), path), asked);
    }

    public ConfigReader? Object(string key) => Find(key) is { ValueKind: JsonValueKind.Object } value ? new ConfigReader(value, $"{path} ({key})") : null;

    public string? Text(string key) => Find(key) is { } value ? value.ValueKind == JsonValueKind.String ? value.GetString() : throw Wrong(key, "a string", value) : null;

    public int? Integer(string key)
    {
        if (Find(key) is not { } value) return null;
        if (value.ValueKind == JsonValueKind.Number && value.TryGetInt32(out var integer)) return integer;
        if (value.ValueKind == JsonValueKind.Number && value.TryGetDouble(out var number) && number == Math.Floor(number) && Math.Abs(number) < int.MaxValue) return (int)number;
        throw Wrong(key, "an integer", value);
    }

    public int Positive(string key) => Integer(key) is { } value ? value > 0 ? value : throw Error($"{key} is {value}; a positive integer is expected.") : throw Error($"{key} is missing.");

    public double? Number(string key) => Find(key) is { } value ? value.ValueKind == JsonValueKind.Number ? value.GetDouble() : throw Wrong(key, "a number", value) : null;

    public bool? Boolean(string key) => Find(key) is { } value
        ? value.ValueKind is JsonValueKind.True or JsonValueKind.False ? value.GetBoolean() : throw Wrong(key, "true or false", value)
        : null;

    public IReadOnlyList<int> Integers(string key) => Find(key) switch
    {
        null => [],
        { ValueKind: JsonValueKind.Array } list => [.. list.EnumerateArray().Select(item => item.TryGetInt32(out var integer) ? integer : throw Wrong(key, "integers", list))],
        _ => [Integer(key)!.Value],
    };

    public double[]? Numbers(string key) => Find(key) is { } value
        ? value.ValueKind == JsonValueKind.Array && value.EnumerateArray().All(item => item.ValueKind == JsonValueKind.Number)
            ? [.. value.EnumerateArray().Select(item => item.GetDouble())]
            : throw Wrong(key, "a list of numbers", value)
        : null;

    public string[]? Texts(string key) => Find(key) is { } value
        ? value.ValueKind == JsonValueKind.Array && value.EnumerateArray().All(item => item.ValueKind == JsonValueKind.String)
            ? [.. value.EnumerateArray().Select(item => item.GetString()!)]
            : throw Wrong(key, "a list of strings", value)
        : null;

    public GatedActivation Activation(string key, string fallback) => (Text(key) ?? fallback) switch
    {
        "silu" or "swish" => GatedActivation.Silu,
        "gelu_pytorch_tanh" or "gelu_tanh" or "gelu_new" => GatedActivation.GeluTanh,
        "gelu" => GatedActivation.Gelu,
        var other => throw Error($"{key} is {other}; silu, gelu and gelu_pytorch_tanh are supported."),
    };

    private LancetException Wrong(string key, string expected, JsonElement value) => Error($"{key} is {value.GetRawText()}; {expected} is expected.");
}
