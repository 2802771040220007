using System.Text.Json.Nodes;
using Lancet.Models;

namespace Lancet.Bench.Gpu;

/// <summary>Configurations of well-known models, read from the files in models/ that the Python peer reads too.</summary>
internal static class ModelShapes
{
    private const string Prefix = "models.";
    private const string Suffix = ".json";

    /// <summary>Names of the models.</summary>
    public static IEnumerable<string> Names => typeof(ModelShapes).Assembly.GetManifestResourceNames().Where(name => name.StartsWith(Prefix, StringComparison.Ordinal)).Select(name => name[Prefix.Length..^Suffix.Length]);

    /// <summary>Text of a model's config.json.</summary>
    /// <param name="name">Such as <c>llama-3.1-8b</c>.</param>
    /// <param name="layers">Layers instead of the model's own; 0 for these.</param>
    public static string Json(string name, int layers = 0)
    {
        using var stream = typeof(ModelShapes).Assembly.GetManifestResourceStream(Prefix + name + Suffix) ?? throw new LancetException($"--model {name}: known are {string.Join(", ", Names)}.");
        var config = JsonNode.Parse(stream)!.AsObject();
        if (layers > 0) config["num_hidden_layers"] = layers;
        return config.ToJsonString();
    }

    /// <summary>A model's configuration.</summary>
    public static ModelConfig Config(string name, int layers = 0) => ModelConfig.Parse(Json(name, layers), name);
}
