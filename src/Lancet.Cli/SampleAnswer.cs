using System.Text.Json;
using Lancet.ChatTemplates;
using Lancet.Data;

namespace Lancet.Cli;

/// <summary>A question out of the data, with the model's answer before and after training.</summary>
/// <param name="prompt">The conversation up to the assistant's last turn.</param>
internal sealed class SampleAnswer(IReadOnlyList<ChatMessage> prompt)
{
    public IReadOnlyList<ChatMessage> Prompt { get; } = prompt;

    public string Question => Prompt[^1].Content ?? "";

    public string Before { get; set; } = "";

    public string After { get; set; } = "";

    /// <summary>Questions spread over the held-out rows, or over the training rows where none are held out; none from rows that are no conversations.</summary>
    /// <param name="settings">Options of the train command.</param>
    /// <param name="data">Held-out rows, or training rows where there are none.</param>
    /// <param name="count">Rows to choose from.</param>
    public static List<SampleAnswer> Choose(Settings settings, DataSources data, int count)
    {
        var wanted = Math.Min(settings.Count("sample-answers"), count);
        var split = settings.Number("eval-split");
        var rows = split > 0 ? data.ReadHeldOut(split) : data.Read();
        var columns = ModelLoading.Columns(settings);
        var result = new List<SampleAnswer>();
        var (at, next) = (0, 0);
        foreach (var (row, place) in rows)
        {
            if (next == wanted) break;
            if (at++ < (long)next * count / wanted) continue;
            next++;
            if (PromptOf(row, columns, place) is { } prompt) result.Add(new(prompt));
        }
        return result;
    }

    private static List<ChatMessage>? PromptOf(JsonElement row, ColumnMapping columns, string place)
    {
        if (Conversation.TryRead(row, columns, place) is not { Messages: var messages }) return null;
        var last = messages.ToList().FindLastIndex(message => message.Role == "assistant");
        // The last question is shown beside the answers, so a turn without text is passed over.
        return last > 0 && messages[last - 1].Content is { Length: > 0 } ? [.. messages.Take(last)] : null;
    }
}
