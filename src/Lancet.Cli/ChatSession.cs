using System.Text.Json;
using Lancet.ChatTemplates;
using Lancet.Generation;
using Lancet.Models;
using Lancet.Tokenization;

namespace Lancet.Cli;

/// <summary>Prompts in, answers out, through the model's chat template.</summary>
internal static class ChatSession
{
    /// <summary>Greedy answers to conversations, generated together.</summary>
    public static IReadOnlyList<string> Answer(
        LanguageModel model, Tokenizer tokenizer, ChatTemplate template, IReadOnlyDictionary<string, JsonElement> variables, IReadOnlyList<IReadOnlyList<ChatMessage>> conversations, int maxNewTokens, CancellationToken cancellation)
    {
        int[][] prompts = [.. conversations.Select(conversation => ChatGeneration.Prompt(tokenizer, template, conversation, variables))];
        using var generator = new TextGenerator(model, prompts.Length, prompts.Max(prompt => prompt.Length) + maxNewTokens);
        return [.. generator.Generate(prompts, new GenerationOptions { MaxNewTokens = maxNewTokens, StopTokenIds = ChatGeneration.StopTokens(tokenizer, template) }, null, cancellation).Select(ids => tokenizer.Decode(ids).Trim())];
    }

    public static GenerationOptions OptionsOf(Settings settings, Tokenizer tokenizer, ChatTemplate template) => new()
    {
        MaxNewTokens = settings.Count("max-new-tokens", 1),
        Temperature = settings.Number("temperature"),
        TopK = settings.Count("top-k"),
        TopP = settings.Number("top-p", 0, 1),
        MinP = settings.Number("min-p", 0, 1),
        RepetitionPenalty = settings.Number("repetition-penalty", 0.01),
        Seed = settings.Long("seed"),
        StopTokenIds = ChatGeneration.StopTokens(tokenizer, template),
    };
}
