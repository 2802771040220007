using Lancet.ChatTemplates;
using Lancet.Data;
using Lancet.Models;

namespace Lancet.Cli;

/// <summary>Texts that an export is verified on.</summary>
internal static class ExportTexts
{
    private static readonly (string Question, string Answer)[] s_conversations =
    [
        ("What is the capital of France, and what is it known for?", "The capital of France is Paris. It is known for the Eiffel Tower, its museums and its bread."),
        ("Write a C# method that adds two numbers.", "```csharp\nstatic int Add(int a, int b) => a + b;\n```\nIt takes 2 arguments and returns their sum."),
        ("Wie spät ist es in Tokio, wenn es in Berlin 12:00 Uhr ist?", "Im Winter ist es dort 20:00 Uhr, im Sommer 19:00 Uhr."),
        ("List three prime numbers above 1,000.", "1. 1009\n2. 1013\n3. 1019"),
    ];

    /// <summary>Rows of --data as they are rendered for training, else a few conversations through the chat template.</summary>
    public static IReadOnlyList<string> Of(Settings settings, LanguageModel model, ChatTemplate template)
    {
        var tokenizer = model.Tokenizer.For(template);
        var options = new ChatTemplateOptions { BosToken = tokenizer.BosToken, EosToken = tokenizer.EosToken };
        if (settings.Text("data") is not { } data) return [.. s_conversations.Select(pair => Render(template, options, pair.Question, pair.Answer))];
        return [.. Rows(settings, model, template, data).Take(16).Select(ids => tokenizer.Decode(ids, false))];
    }

    /// <summary>Token ids of the rows of --calibration-data, or null.</summary>
    public static IEnumerable<int[]>? Calibration(Settings settings, LanguageModel model, ChatTemplate template) =>
        settings.Text("calibration-data") is { } data ? Rows(settings, model, template, data).Take(settings.Count("calibration-rows", 1)) : null;

    private static IEnumerable<int[]> Rows(Settings settings, LanguageModel model, ChatTemplate template, string data)
    {
        var renderer = new RowRenderer(model.Tokenizer, template) { MaxLength = Math.Min(model.Config.MaxPositions, 512), VocabularySize = model.Config.VocabularySize, TrainsOnResponsesOnly = false, Columns = ModelLoading.Columns(settings) };
        return SftDataset.Load(data, renderer).Rows.Select(row => row.InputIds.ToArray());
    }

    private static string Render(ChatTemplate template, ChatTemplateOptions options, string question, string answer)
    {
        try
        {
            return template.Render([new("user", question), new("assistant", answer)], options);
        }
        catch (LancetException)
        {
            // Templates that want something else than a question and an answer are not what is verified here.
            return question + "\n" + answer;
        }
    }
}
