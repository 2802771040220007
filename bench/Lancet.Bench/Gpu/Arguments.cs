using System.Globalization;

namespace Lancet.Bench.Gpu;

/// <summary>Options as <c>--name value</c> and flags as <c>--name</c>.</summary>
internal sealed class Arguments(string[] arguments)
{
    public bool Has(string flag) => arguments.Contains(flag);

    public string? Text(string name) => Array.IndexOf(arguments, name) is >= 0 and var i && i + 1 < arguments.Length ? arguments[i + 1] : null;

    public int Number(string name, int fallback) => Text(name) is { } text ? int.Parse(text, CultureInfo.InvariantCulture) : fallback;

    /// <summary>Bytes with a suffix K, M or G (powers of 1024), or 0.</summary>
    public long Bytes(string name)
    {
        if (Text(name) is not { } text) return 0;
        var digits = text.TrimEnd('i', 'B', 'b');
        var factor = char.ToUpperInvariant(digits[^1]) switch { 'K' => 1L << 10, 'M' => 1L << 20, 'G' => 1L << 30, _ => 1L };
        return (long)(double.Parse(factor == 1 ? digits : digits[..^1], CultureInfo.InvariantCulture) * factor);
    }

    /// <summary>Whether something is to be run: all is, without <c>--filter</c>; otherwise what has one of its comma-separated words in its name.</summary>
    public bool Selects(string name) => Text("--filter") is not { } filter || filter.Split(',').Any(word => name.Contains(word, StringComparison.OrdinalIgnoreCase));
}
