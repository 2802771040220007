using System.Globalization;
using System.Text.Json;
using Lancet.Data;
using Lancet.Models;

namespace Lancet.Cli.Commands;

/// <summary>lancet data validate: every row that a training run would refuse.</summary>
internal static class DataValidateCommand
{
    public static int Run(Settings settings)
    {
        var folder = HubLoading.Folder(settings.Required("model"), hasWeights: false);
        var data = HubLoading.Data(settings.Required("data"));
        var renderer = ModelLoading.Renderer(settings, ModelConfig.Load(folder), ModelLoading.TokenizerOf(folder));
        var named = settings.Count("max-errors");
        var isJson = settings.Flag("json");
        var census = new ShapeCensus();
        var messages = new List<string>();
        var (good, bad) = (0L, 0L);
        foreach (var (row, place) in data.Read(Refuse))
        {
            try
            {
                renderer.RenderTrained(row, place, out var shape);
                census.Add(shape, place);
                good++;
            }
            catch (LancetException error)
            {
                Refuse(error);
            }
        }
        if (isJson) WriteJson(good, bad, census, messages);
        else if (bad > messages.Count) Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"and {bad - messages.Count} more"));
        if (good > 0) foreach (var line in census.Describe(data.ToString())) Console.Error.WriteLine(line);
        if (bad > 0) throw new LancetException(string.Create(CultureInfo.InvariantCulture, $"{data}: {bad} of {good + bad} rows cannot be used."));
        if (good == 0) throw new LancetException($"{data}: no rows.");
        if (!isJson) Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{data}: {good} rows, all good"));
        return 0;

        void Refuse(LancetException error)
        {
            if (bad++ >= named) return;
            messages.Add(error.Message);
            if (!isJson) Console.WriteLine(error.Message);
        }
    }

    private static void WriteJson(long good, long bad, ShapeCensus census, List<string> messages)
    {
        using (var json = new Utf8JsonWriter(Console.OpenStandardOutput()))
        {
            json.WriteStartObject();
            json.WriteNumber("rows", good + bad);
            json.WriteNumber("bad_rows", bad);
            DataStatsCommand.WriteShapes(json, census);
            json.WriteStartArray("errors");
            foreach (var message in messages) json.WriteStringValue(message);
            json.WriteEndArray();
            json.WriteEndObject();
        }
        Console.WriteLine();
    }
}
