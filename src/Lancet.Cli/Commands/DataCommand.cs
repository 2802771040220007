using System.Text;
using System.Text.Json;
using Lancet.Data;
using Lancet.Models;
using Lancet.Tokenization;

namespace Lancet.Cli.Commands;

/// <summary>lancet data preview: what the model will see, and which of it is trained.</summary>
internal static class DataCommand
{
    public static int Preview(Settings settings)
    {
        var folder = HubLoading.Folder(settings.Required("model"), hasWeights: false);
        var tokenizer = ModelLoading.TokenizerOf(folder);
        var renderer = ModelLoading.Renderer(settings, ModelConfig.Load(folder), tokenizer);
        var isJson = settings.Flag("json");
        var colours = !Console.IsOutputRedirected && Environment.GetEnvironmentVariable("NO_COLOR") is null;
        var (data, shown) = (HubLoading.Data(settings.Required("data")), 0);
        foreach (var (row, place) in data.Read().Take(settings.Count("rows", 1)))
        {
            var tokens = renderer.Cut(renderer.RenderWhole(row, place, out var shape));
            if (shown++ == 0) Console.Error.WriteLine($"{place}: {RowShapes.Describe(shape)}");
            if (isJson) WriteJson(tokens, place);
            else WriteText(tokens, place, tokenizer is null ? id => $"{id} " : new TokenStream(tokenizer, false).Add, colours);
        }
        return shown > 0 ? 0 : throw new LancetException($"{data}: no rows.");
    }

    private static void WriteText(TokenizedRow row, string place, Func<int, string> text, bool colours)
    {
        Console.WriteLine($"--- {place}: {row.InputIds.Length} tokens, {row.LabelTokenCount} trained (marked {(colours ? "in green" : "⟦so⟧")})");
        var line = new StringBuilder();
        var isMarked = false;
        for (var i = 0; i < row.InputIds.Length; i++)
        {
            var isTrained = i > 0 && row.Labels[i] != PackedBatch.IgnoredLabel;
            if (isTrained != isMarked) line.Append(isTrained ? colours ? "\u001b[32m" : "⟦" : colours ? "\u001b[0m" : "⟧");
            isMarked = isTrained;
            line.Append(text(row.InputIds[i]));
        }
        if (isMarked) line.Append(colours ? "\u001b[0m" : "⟧");
        Console.WriteLine(line);
    }

    private static void WriteJson(TokenizedRow row, string place)
    {
        using (var json = new Utf8JsonWriter(Console.OpenStandardOutput()))
        {
            json.WriteStartObject();
            json.WriteString("row", place);
            json.WriteStartArray("input_ids");
            foreach (var id in row.InputIds) json.WriteNumberValue(id);
            json.WriteEndArray();
            json.WriteStartArray("labels");
            foreach (var label in row.Labels) json.WriteNumberValue(label);
            json.WriteEndArray();
            json.WriteEndObject();
        }
        Console.WriteLine();
    }
}
