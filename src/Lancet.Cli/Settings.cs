using System.Globalization;
using Lancet.Devices;
using Lancet.Devices.Cuda;
using Lancet.Layers;
using Lancet.Tile;
using YamlDotNet.RepresentationModel;

namespace Lancet.Cli;

/// <summary>An option of a command, which is a key of the config file as well.</summary>
/// <param name="Name">Without the dashes.</param>
/// <param name="Default">Value where neither the command line nor the config file has one; null for none.</param>
/// <param name="Help">What it does.</param>
/// <param name="IsFlag">Whether the option alone means true.</param>
/// <param name="IsArgument">Whether it is given by its place instead of its name.</param>
internal sealed record Setting(string Name, string? Default, string Help, bool IsFlag = false, bool IsArgument = false);

/// <summary>The values of a command's options: command line over config file over defaults.</summary>
internal sealed class Settings
{
    private readonly Dictionary<string, string?> _values = [];
    private readonly HashSet<string> _given = [];

    public Settings(IReadOnlyList<Setting> definitions, IReadOnlyDictionary<string, string?> commandLine)
    {
        Definitions = definitions;
        foreach (var definition in definitions) _values[definition.Name] = definition.Default;
        if (commandLine.GetValueOrDefault("config") is { } config)
        {
            foreach (var (key, value) in ReadConfig(config))
            {
                if (!_values.ContainsKey(key) || key == "config") throw new LancetException($"{config}: unknown key {key}; known are {string.Join(", ", definitions.Select(definition => definition.Name))}.");
                _values[key] = value;
                _given.Add(key);
            }
        }
        foreach (var (key, value) in commandLine)
        {
            _values[key] = value;
            _given.Add(key);
        }
    }

    public IReadOnlyList<Setting> Definitions { get; }

    /// <summary>Whether the user chose a value.</summary>
    public bool IsGiven(string name) => _given.Contains(name);

    public string? Text(string name) => string.IsNullOrEmpty(_values[name]) ? null : _values[name];

    /// <summary>Whether the command has such an option.</summary>
    public bool Knows(string name) => _values.ContainsKey(name);

    public string Required(string name) => Text(name) ?? throw new LancetException(Definitions.Any(definition => definition.Name == name && definition.IsArgument) ? $"{name.ToUpperInvariant()} is needed." : $"--{name} is needed.");

    public void Default(string name, string value)
    {
        if (!_given.Contains(name)) _values[name] = value;
    }

    /// <summary>Replaces a value by what it came to mean, for the record of the run.</summary>
    public void Resolve(string name, string value) => _values[name] = value;

    /// <summary>The device that was chosen, and with it the dtype where none was; both are resolved for the record.</summary>
    public DeviceChoice Device()
    {
        var text = Required("device");
        if (!DeviceChoice.TryParse(text, out var choice)) throw Bad("device", text, "auto, cpu, cuda or cuda:N");
        Resolve("device", choice.ToString());
        if (_values.TryGetValue("dtype", out var dtype) && dtype == "auto") Resolve("dtype", choice.IsCuda ? "bfloat16" : "float32");
        return choice;
    }

    /// <summary>The folder of --dump-ptx, created, or null.</summary>
    /// <exception cref="LancetException">PTX is asked for, but the run is on the processor.</exception>
    public PtxFolder? PtxFolder(DeviceChoice choice) => Text("dump-ptx") is not { } path ? null
        : choice.IsCuda ? new(path)
        : throw new LancetException("--dump-ptx: the processor compiles no PTX. Use --device cuda; lancet plan --device cuda --dump-ptx FOLDER needs no GPU.");

    public bool Flag(string name) => (Text(name) ?? "false").ToLowerInvariant() switch { "true" or "yes" or "1" or "on" => true, "false" or "no" or "0" or "off" => false, var other => throw Bad(name, other, "true or false") };

    public int Count(string name, int minimum = 0) => int.TryParse(Text(name), NumberStyles.Integer, CultureInfo.InvariantCulture, out var value) && value >= minimum ? value : throw Bad(name, Text(name), $"an integer from {minimum} on");

    public long Long(string name) => long.TryParse(Text(name), NumberStyles.Integer, CultureInfo.InvariantCulture, out var value) ? value : throw Bad(name, Text(name), "an integer");

    public double Number(string name, double minimum = 0, double maximum = double.MaxValue) =>
        double.TryParse(Text(name), NumberStyles.Float, CultureInfo.InvariantCulture, out var value) && value >= minimum && value <= maximum
            ? value
            : throw Bad(name, Text(name), maximum == double.MaxValue ? $"a number from {minimum} on" : $"a number from {minimum} to {maximum}");

    public string OneOf(string name, params ReadOnlySpan<string> choices)
    {
        var value = Required(name);
        return choices.Contains(value) ? value : throw Bad(name, value, string.Join(", ", choices.ToArray()));
    }

    public string[] List(string name) => (Text(name) ?? "").Split(',', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries);

    /// <summary>Integers from 0 on, separated by commas.</summary>
    public int[] Integers(string name) => [.. List(name).Select(item => int.TryParse(item, NumberStyles.None, CultureInfo.InvariantCulture, out var value) ? value : throw Bad(name, Text(name), "integers separated by commas"))];

    /// <summary>Numbers by key, such as <c>q_proj=8,down_proj=4</c>.</summary>
    public KeyValuePair<string, double>[] Pairs(string name) => [.. List(name).Select(item =>
    {
        var split = item.LastIndexOf('=');
        return split > 0 && double.TryParse(item.AsSpan(split + 1), NumberStyles.Float, CultureInfo.InvariantCulture, out var value) && value > 0
            ? new KeyValuePair<string, double>(item[..split].Trim(), value)
            : throw Bad(name, Text(name), "pairs such as q_proj=8,down_proj=4");
    })];

    /// <summary>Bytes, with KB, MB, GB (powers of 1024) allowed.</summary>
    public long Bytes(string name)
    {
        if (Text(name) is not { } text) return 0;
        var digits = text.TrimEnd().ToUpperInvariant().Replace("IB", "B", StringComparison.Ordinal).TrimEnd('B');
        var shift = digits.Length > 0 ? digits[^1] switch { 'K' => 10, 'M' => 20, 'G' => 30, 'T' => 40, _ => 0 } : 0;
        if (shift > 0) digits = digits[..^1];
        return double.TryParse(digits, NumberStyles.Float, CultureInfo.InvariantCulture, out var value) && value > 0 ? (long)(value * (1L << shift)) : throw Bad(name, text, "a size such as 8GB");
    }

    public DType DType(string name) => Required(name) switch
    {
        "float32" or "fp32" => Tile.DType.Float32,
        "bfloat16" or "bf16" => Tile.DType.BFloat16,
        "float16" or "fp16" => Tile.DType.Float16,
        var other => throw Bad(name, other, "float32, bfloat16 or float16"),
    };

    public ActivationPolicy? Policy(string name) => OneOf(name, ["auto", .. ActivationPolicies.Names]) is var value && value == "auto" ? null : ActivationPolicies.Parse(value);

    /// <summary>The number of layers whose weights wait in host memory; null for auto.</summary>
    public int? StreamedLayers() => Text("streamed-layers") is null or "auto" ? null : Count("streamed-layers", 0);

    /// <summary>The resolved values as YAML, a key a line.</summary>
    public string ToYaml() => string.Concat(Definitions.Where(definition => definition.Name is not ("config" or "dry-run" or "json" or "dump-ptx")).Select(definition => $"{definition.Name}: {Scalar(_values[definition.Name])}\n"));

    private static string Scalar(string? value) => value is null ? "null"
        : value.Length > 0 && value.All(c => char.IsAsciiLetterOrDigit(c) || c is '.' or '-' or '_' or '/') ? value
        : "\"" + value.Replace("\\", "\\\\", StringComparison.Ordinal).Replace("\"", "\\\"", StringComparison.Ordinal).Replace("\n", "\\n", StringComparison.Ordinal) + "\"";

    private LancetException Bad(string name, string? value, string expected) => new($"--{name} is {value ?? "missing"}; expected {expected}.");

    /// <summary>Reads a YAML file; JSON is YAML too. Underscores in keys are as good as dashes.</summary>
    private static Dictionary<string, string?> ReadConfig(string path)
    {
        if (!File.Exists(path)) throw new LancetException($"{path}: config file not found.");
        try
        {
            var stream = new YamlStream();
            using var reader = new StreamReader(path);
            stream.Load(reader);
            if (stream.Documents.Count == 0) return [];
            if (stream.Documents[0].RootNode is not YamlMappingNode root) throw new LancetException($"{path}: a mapping of option names to values is expected.");
            var values = new Dictionary<string, string?>();
            foreach (var (name, node) in root.Children)
            {
                var key = ((YamlScalarNode)name).Value!.Replace('_', '-');
                var value = node switch
                {
                    YamlScalarNode { Value: null or "null" or "~" or "" } => null,
                    YamlScalarNode scalar => scalar.Value,
                    YamlSequenceNode list => string.Join(',', list.Children.Select(item => ((YamlScalarNode)item).Value)),
                    YamlMappingNode pairs => string.Join(',', pairs.Children.Select(pair => $"{((YamlScalarNode)pair.Key).Value}={((YamlScalarNode)pair.Value).Value}")),
                    _ => throw new LancetException($"{path}: {key} holds nested values; a single value, a list, or pairs are expected."),
                };
                if (!values.TryAdd(key, value)) throw new LancetException($"{path}: {key} is given twice.");
            }
            return values;
        }
        catch (Exception error) when (error is YamlDotNet.Core.YamlException or InvalidCastException)
        {
            throw new LancetException($"{path}: not readable as YAML or JSON: {error.Message}", error);
        }
    }
}
