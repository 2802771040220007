using System.Globalization;
using System.Text.Json;
using Lancet.Data;
using Lancet.Training;

namespace Lancet.Cli.Commands;

/// <summary>lancet eval.</summary>
internal static class EvalCommand
{
    private const int BatchTokens = 2048;

    public static int Run(Settings settings)
    {
        using var model = ModelLoading.LoadForInference(settings);
        var dataset = SftDataset.Load(HubLoading.Data(settings.Required("data")), ModelLoading.Renderer(settings, model.Config, ModelLoading.TokenizerOf(model.Folder)));
        var maxTokens = Math.Max(dataset.MaxLength, (int)Math.Min(BatchTokens, dataset.TokenCount));
        using var engine = new EvaluationEngine(model, maxTokens, dataset.MaxLength);
        foreach (var note in dataset.Notes) Console.Error.WriteLine(note);
        var result = Evaluator.Evaluate(engine, dataset, maxTokens);
        if (settings.Flag("json")) WriteJson(result, settings.Flag("per-example"));
        else WriteText(result, settings.Flag("per-example"));
        return 0;
    }

    private static void WriteText(EvaluationResult result, bool perExample)
    {
        if (perExample)
            for (var i = 0; i < result.Examples.Count; i++) Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"row {i + 1}: loss {result.Examples[i].Loss:F6} over {result.Examples[i].Tokens} tokens"));
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"loss {result.Loss:F6}  perplexity {result.Perplexity:F3}  tokens {result.Tokens}  rows {result.Examples.Count}"));
    }

    private static void WriteJson(EvaluationResult result, bool perExample)
    {
        using var json = new Utf8JsonWriter(Console.OpenStandardOutput());
        json.WriteStartObject();
        json.WriteNumber("loss", result.Loss);
        json.WriteNumber("perplexity", result.Perplexity);
        json.WriteNumber("tokens", result.Tokens);
        if (perExample)
        {
            json.WriteStartArray("examples");
            foreach (var example in result.Examples)
            {
                json.WriteStartObject();
                json.WriteNumber("loss", example.Loss);
                json.WriteNumber("tokens", example.Tokens);
                json.WriteEndObject();
            }
            json.WriteEndArray();
        }
        json.WriteEndObject();
    }
}
