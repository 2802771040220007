using System.Text.Json;
using Lancet.Data;
using Lancet.Models;

namespace Lancet.Cli.Commands;

/// <summary>lancet data stats: lengths, truncation, trained tokens and duplicates of all rows.</summary>
internal static class DataStatsCommand
{
    private const int BarWidth = 40;

    public static int Run(Settings settings)
    {
        var folder = HubLoading.Folder(settings.Required("model"), hasWeights: false);
        var data = HubLoading.Data(settings.Required("data"));
        var renderer = ModelLoading.Renderer(settings, ModelConfig.Load(folder), ModelLoading.TokenizerOf(folder));
        var isJson = settings.Flag("json");
        var statistics = DataStatistics.Of(data, renderer);
        foreach (var line in statistics.Shapes.Describe(data.ToString())) Console.Error.WriteLine(line);
        if (isJson) WriteJson(statistics);
        else WriteText(statistics);
        return 0;
    }

    /// <summary>Rows by shape, under names as in a config file.</summary>
    public static void WriteShapes(Utf8JsonWriter json, ShapeCensus shapes)
    {
        json.WriteStartObject("shapes");
        foreach (var (shape, rows) in shapes.Counts) json.WriteNumber(JsonNamingPolicy.SnakeCaseLower.ConvertName(shape.ToString()), rows);
        json.WriteEndObject();
    }

    private static void WriteText(DataStatistics of)
    {
        Line("rows", $"{of.Rows:N0}");
        foreach (var (shape, rows) in of.Shapes.Counts) Line("", $"{rows:N0} {RowShapes.Describe(shape)}");
        Line("tokens", $"{of.Tokens:N0}{(of.TruncatedRows > 0 ? Text($", {of.KeptTokens:N0} after cutting") : "")}");
        Line("trained", $"{of.TrainedTokens:N0} ({of.TrainedShare * 100:F1}%)");
        Line("length", $"min {of.LengthQuantile(0):N0}, median {of.LengthQuantile(0.5):N0}, p95 {of.LengthQuantile(0.95):N0}, max {of.LengthQuantile(1):N0}");
        Line("truncated", $"{of.TruncatedRows:N0} rows ({100.0 * of.TruncatedRows / of.Rows:F1}%) are longer than {of.MaxLength:N0} tokens");
        Line("nothing trained", $"{of.RowsWithoutTrainedTokens:N0} rows{(of.RowsWithoutTrainedTokens > 0 ? ", which training refuses; lancet data validate names them" : "")}");
        Line("duplicates", $"{of.DuplicateRows:N0} rows repeat an earlier one ({100.0 * of.DuplicateRows / of.Rows:F1}%)");
        Console.WriteLine();
        var names = of.Histogram.Select(bucket => bucket.From == bucket.To ? Text($"{bucket.From:N0}") : Text($"{bucket.From:N0}–{bucket.To:N0}")).ToList();
        var width = names.Max(name => name.Length);
        var most = of.Histogram.Max(bucket => bucket.Rows);
        foreach (var (name, bucket) in names.Zip(of.Histogram))
        {
            // A bucket with a row is never without a bar.
            var bar = new string('█', (int)Math.Ceiling((double)bucket.Rows * BarWidth / most));
            Console.WriteLine(Text($"{name.PadLeft(width)} tokens  {bar}{(bar.Length > 0 ? " " : "")}{bucket.Rows:N0}"));
        }

        static void Line(string name, FormattableString value) => Console.WriteLine($"{name,-16}{FormattableString.Invariant(value)}");
        static string Text(FormattableString value) => FormattableString.Invariant(value);
    }

    private static void WriteJson(DataStatistics of)
    {
        using (var json = new Utf8JsonWriter(Console.OpenStandardOutput()))
        {
            json.WriteStartObject();
            json.WriteNumber("rows", of.Rows);
            WriteShapes(json, of.Shapes);
            json.WriteNumber("tokens", of.Tokens);
            json.WriteNumber("kept_tokens", of.KeptTokens);
            json.WriteNumber("trained_tokens", of.TrainedTokens);
            json.WriteNumber("trained_share", of.TrainedShare);
            json.WriteStartObject("length");
            json.WriteNumber("min", of.LengthQuantile(0));
            json.WriteNumber("median", of.LengthQuantile(0.5));
            json.WriteNumber("p95", of.LengthQuantile(0.95));
            json.WriteNumber("max", of.LengthQuantile(1));
            json.WriteEndObject();
            json.WriteStartArray("histogram");
            foreach (var bucket in of.Histogram)
            {
                json.WriteStartObject();
                json.WriteNumber("from", bucket.From);
                json.WriteNumber("to", bucket.To);
                json.WriteNumber("rows", bucket.Rows);
                json.WriteEndObject();
            }
            json.WriteEndArray();
            json.WriteNumber("max_seq_length", of.MaxLength);
            json.WriteNumber("truncated_rows", of.TruncatedRows);
            json.WriteNumber("rows_without_trained_tokens", of.RowsWithoutTrainedTokens);
            json.WriteNumber("duplicate_rows", of.DuplicateRows);
            json.WriteEndObject();
        }
        Console.WriteLine();
    }
}
