using System.Globalization;
using Lancet.Formats.Gguf;
using Lancet.Kernels;
using Lancet.Models.Families;

namespace Lancet.Models;

/// <summary>What the code says of a family of models; docs/models.md and <c>lancet doctor --models</c> are made of it.</summary>
/// <param name="ModelType"><c>model_type</c> of a config.json.</param>
/// <param name="Differences">How it differs from the plain decoder: pre-norms, rotary embedding, grouped queries, SwiGLU.</param>
/// <param name="Keys">Keys of config.json that the family reads beside those that all read.</param>
/// <param name="Targets">Projections that LoRA targets unless it is told otherwise.</param>
/// <param name="GgufName">Architecture in GGUF files; null if there is none.</param>
public sealed record SupportedModel(string ModelType, IReadOnlyList<string> Differences, IReadOnlyList<string> Keys, IReadOnlyList<string> Targets, string? GgufName)
{
    private const int Layers = 12;

    // Shapes, and keys without which some family has nothing to show.
    private const string Shape = """
        "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 12, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 256, "max_position_embeddings": 8192,
        "sliding_window": 64, "num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "embedding_multiplier": 12, "attention_multiplier": 0.5,
        "residual_multiplier": 0.5, "logits_scaling": 8, "logit_scale": 0.5
        """;

    /// <summary>Every family, in the order in which docs/models.md has them.</summary>
    public static IReadOnlyList<SupportedModel> All { get; } = [.. ModelFamily.All.Select(Describe)];

    /// <summary>A row of a Markdown table for each family, below the table's head.</summary>
    /// <param name="more">A further column: its name, and its text for a family.</param>
    public static IEnumerable<string> Table((string Name, Func<SupportedModel, string> Text)? more = null)
    {
        yield return "| `model_type` | differs from the plain decoder | keys of its own | LoRA targets | GGUF |" + (more is { } column ? $" {column.Name} |" : "");
        yield return "|---|---|---|---|---|" + (more is null ? "" : "---|");
        foreach (var model in All)
            yield return $"| `{model.ModelType}` | {string.Join("; ", model.Differences)} | {Code(model.Keys)} | {Code(model.Targets)} | {(model.GgufName is null ? "" : $"`{model.GgufName}`")} |" + (more is { } last ? $" {last.Text(model)} |" : "");
    }

    private static string Code(IEnumerable<string> names) => string.Join(" ", names.Select(name => $"`{name}`"));

    private static SupportedModel Describe(ModelFamily family)
    {
        var (config, keys) = ModelConfig.Describe(family, $$"""{ {{Shape}}, "text_config": { {{Shape}} } }""");
        return new(family.ModelType, [.. Differs(config)], [.. keys.Order(StringComparer.Ordinal)], [.. new DecoderModel(config).ModuleNames], GgufArchitecture.NameOf(family.ModelType));
    }

    private static IEnumerable<string> Differs(ModelConfig config)
    {
        if (config.WeightPrefix != "model.") yield return "the language model of one that sees";
        if (config.Norm == NormKind.RootMeanSquarePlusOne) yield return "norms scale by 1 + w";
        if (config.Norm == NormKind.Layer) yield return "layer norms without biases";
        if (config.HasPostNorms) yield return config.HasPreNorms ? "norms behind attention and MLP, too" : "norms behind attention and MLP only";
        if (config.IsParallel) yield return "attention and MLP side by side from one norm";
        if (config.QueryKeyNorm != QueryKeyNorm.None) yield return config.QueryKeyNorm == QueryKeyNorm.Projection ? "all queries of a token normed together, and all keys" : "query and key heads normed";
        if (config.HasQueryKeyValueBias) yield return "biases of queries, keys and values";
        if (config.HasFusedProjections) yield return "query, key and value in one weight, gate and up in another";
        if (config.Activation != GatedActivation.Silu) yield return "GeGLU";
        if (config.Experts is { } experts) yield return $"experts in {Of(experts.Layers.Count(isSparse => isSparse))}, their weights summing to 1 {(experts.IsNormalized ? "always" : "if the file says so")}";
        if (config.Windows.Count(window => window > 0) is > 0 and var windows) yield return $"the window in {Of(windows)}";
        var rotaries = Enumerable.Range(0, Layers).Select(config.RotaryOf).ToList();
        if (rotaries.Contains(null)) yield return $"no positions in {Of(rotaries.Count(rotary => rotary is null))}";
        if (config.Rotaries.Count > 1) yield return "other frequencies in layers with a window";
        if (config.IsRotaryInterleaved) yield return "neighbours rotated together";
        if (config.EmbeddingScale != 1) yield return config.IsEmbeddingScaleRounded ? "embeddings × √hidden" : "a factor of embeddings";
        if (config.AttentionScale != 1 / Math.Sqrt(config.HeadDimension)) yield return "a scale of q·k of its own";
        if (config.ResidualScale != 1) yield return "a factor of what joins the residual stream";
        if (config.AttentionSoftCap != 0 || config.LogitSoftCap != 0) yield return "soft caps of scores and logits";
        if (config.LogitScale != 1) yield return "a factor of logits";
        if (config.TiesWordEmbeddings) yield return "tied head unless the file says otherwise";
    }

    private static string Of(int layers) => layers == Layers ? "every layer" : Layers % layers == 0 ? $"one of {Layers / layers} layers"
        : Layers % (Layers - layers) == 0 ? string.Create(CultureInfo.InvariantCulture, $"{(Layers / (Layers - layers)) - 1} of {Layers / (Layers - layers)} layers") : string.Create(CultureInfo.InvariantCulture, $"{layers} of {Layers} layers");
}
