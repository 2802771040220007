using System.Globalization;
using System.Text.Json.Nodes;

namespace Lancet.Models;

/// <summary>
/// Context extension: positions stretched beyond a model's native length, as <c>rope_scaling</c> of a config.json would say it. Linear divides all frequencies by
/// the factor (Chen et al. 2023), yarn the low ones only, and scales attention (Peng et al. 2023).
/// </summary>
/// <param name="Type">linear or yarn.</param>
/// <param name="Factor">New length over native length; above 1.</param>
public sealed record RopeScaling(string Type, double Factor)
{
    private static readonly string[] s_types = ["linear", "yarn"];

    /// <summary>Reads TYPE:FACTOR, such as yarn:4.</summary>
    /// <exception cref="LancetException">It is something else.</exception>
    public static RopeScaling Parse(string text)
    {
        var parts = text.Split(':');
        return parts.Length == 2 && s_types.Contains(parts[0]) && double.TryParse(parts[1], NumberStyles.Float, CultureInfo.InvariantCulture, out var factor) && factor is > 1 and <= 1024
            ? new(parts[0], factor)
            : throw new LancetException($"rope scaling {text}: linear:FACTOR or yarn:FACTOR is expected, with a factor above 1, such as yarn:4.");
    }

    /// <summary>Writes it into a configuration, whose native length grows.</summary>
    /// <param name="config">The object that holds the language model's keys.</param>
    /// <param name="path">Name for messages.</param>
    /// <exception cref="LancetException">Positions are stretched already, or not alike in all layers.</exception>
    internal void Apply(JsonObject config, string path)
    {
        var block = config["rope_parameters"] as JsonObject ?? config["rope_scaling"] as JsonObject;
        if (config.ContainsKey("rope_local_base_freq") || config["text_config"] is JsonObject || (block?.Any(entry => entry.Value is JsonObject) ?? false))
            throw new LancetException($"{path}: layers of this model turn positions in different ways; a rope scaling for all of them is not supported.");
        var type = (string?)block?["rope_type"] ?? (string?)block?["type"] ?? "default";
        if (type != "default") throw new LancetException($"{path}: the model's positions are stretched already ({type}); a rope scaling of {Type} cannot be added.");
        var native = (int?)config["max_position_embeddings"] ?? 2048;
        var target = config["rope_parameters"] as JsonObject;
        if (target is null) config["rope_scaling"] = target = [];
        target.Remove("type");
        target["rope_type"] = JsonValue.Create(Type);
        // With a point: transformers wants a float there.
        target["factor"] = JsonNode.Parse(Factor.ToString("0.0##############", CultureInfo.InvariantCulture));
        target["original_max_position_embeddings"] = JsonValue.Create(native);
        config["max_position_embeddings"] = JsonValue.Create(checked((int)Math.Round(native * Factor)));
    }

    /// <summary>The same for the text of a config.json.</summary>
    internal string Apply(string json, string path)
    {
        var config = JsonNode.Parse(json)!.AsObject();
        Apply(config, path);
        return config.ToJsonString();
    }

    /// <inheritdoc/>
    public override string ToString() => string.Create(CultureInfo.InvariantCulture, $"{Type}:{Factor}");
}
