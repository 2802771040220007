using System.Globalization;
using System.Text;
using System.Text.Json;

namespace Lancet.Formats;

/// <summary>The README.md of an exported model as the Hugging Face Hub reads it: what it was made of, how it was trained, and what was measured.</summary>
public static class ModelCard
{
    /// <summary>The text of a card.</summary>
    /// <param name="baseModel">Folder or name of the base model.</param>
    /// <param name="adapter">Folder of the run that trained the adapter, or null; its configuration and last metrics are quoted.</param>
    /// <param name="exports">Types that were written, with what verification said; none for what a run itself leaves.</param>
    public static string Create(string baseModel, string? adapter, IReadOnlyList<(string Type, ExportReport? Report)> exports)
    {
        var name = Hub.HubId.TryParse(baseModel, Hub.HubRepositoryKind.Model)?.Name ?? (Hub.HubId.NameOf(baseModel) is var known && known != baseModel ? known : Path.GetFileName(Path.TrimEndingDirectorySeparator(Path.GetFullPath(baseModel))));
        var text = new StringBuilder();
        text.Append(CultureInfo.InvariantCulture, $"---\nbase_model: {name}\npipeline_tag: text-generation\ntags:\n- lancet\n{(adapter is null ? "" : "- lora\n")}---\n\n");
        text.Append(CultureInfo.InvariantCulture, $"# {(adapter is null ? name : $"{name}, fine-tuned")}\n\n");
        text.Append(adapter is null ? "Exported by Lancet.\n" : exports.Count == 0 ? "Fine-tuned by Lancet.\n" : "Fine-tuned and exported by Lancet; the adapter is merged.\n");
        if (adapter is not null) AppendRun(text, adapter);
        if (exports.Count > 0) text.Append("\n## Export\n\n");
        foreach (var (type, report) in exports) text.Append(CultureInfo.InvariantCulture, $"- {type}: {(report is null ? "not verified" : "against adapter-on-base: " + report)}\n");
        return text.ToString();
    }

    private static void AppendRun(StringBuilder text, string adapter)
    {
        if (LastMetrics(Path.Combine(adapter, "metrics.jsonl")) is { Count: > 0 } metrics)
        {
            text.Append("\n## Results\n\n| | |\n|---|---|\n");
            foreach (var (key, value) in metrics) text.Append(CultureInfo.InvariantCulture, $"| {key} | {value} |\n");
        }
        var config = Path.Combine(adapter, "config.resolved.yaml");
        if (!File.Exists(config)) return;
        // Where files lie on the machine that trained is nobody's business.
        var lines = File.ReadLines(config).Where(line => !line.EndsWith(": null", StringComparison.Ordinal) && !line.Contains('/') && !line.Contains('\\'));
        text.Append(CultureInfo.InvariantCulture, $"\n## Configuration\n\n```yaml\n{string.Join('\n', lines)}\n```\n");
    }

    /// <summary>The last loss, evaluation and step that a run wrote down.</summary>
    private static Dictionary<string, string> LastMetrics(string path)
    {
        var result = new Dictionary<string, string>();
        if (!File.Exists(path)) return result;
        foreach (var line in File.ReadLines(path))
        {
            try
            {
                using var row = JsonDocument.Parse(line);
                foreach (var key in (string[])["step", "epoch", "loss", "eval_loss"])
                    if (row.RootElement.TryGetProperty(key, out var value) && value.ValueKind == JsonValueKind.Number) result[key] = value.GetRawText();
            }
            catch (JsonException)
            {
                // A line that was cut off when a run was killed says nothing.
            }
        }
        return result;
    }
}
