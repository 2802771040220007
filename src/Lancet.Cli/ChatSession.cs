using Lancet.ChatTemplates;
using Lancet.Generation;
using Lancet.Models;
using Lancet.Tokenization;

namespace Lancet.Cli;

/// <summary>Prompts in, answers out, through the model's chat template.</summary>
internal static class ChatSession
{
    /// <summary>Token ids of a conversation that the assistant is to continue.</summary>
    public static int[] Prompt(Tokenizer tokenizer, ChatTemplate template, IReadOnlyList<ChatMessage> messages) => tokenizer.Encode(
        template.Render(messages, new ChatTemplateOptions { AddsGenerationPrompt = true, BosToken = tokenizer.BosToken, EosToken = tokenizer.EosToken }), false);

    /// <summary>Greedy answers to single questions, generated together.</summary>
    public static IReadOnlyList<string> Answer(LanguageModel model, Tokenizer tokenizer, ChatTemplate template, IReadOnlyList<string> questions, int maxNewTokens)
    {
        int[][] prompts = [.. questions.Select(question => Prompt(tokenizer, template, [new("user", question)]))];
        using var generator = new TextGenerator(model, prompts.Length, prompts.Max(prompt => prompt.Length) + maxNewTokens);
        return [.. generator.Generate(prompts, new GenerationOptions { MaxNewTokens = maxNewTokens, StopTokenIds = StopTokens(tokenizer) }).Select(ids => tokenizer.Decode(ids).Trim())];
    }

    /// <summary>The end of text, and the ends of turn that templates use.</summary>
    public static IReadOnlyList<int> StopTokens(Tokenizer tokenizer) =>
        [.. ((int?[])[tokenizer.EosTokenId, .. ((string[])["<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>"]).Select(tokenizer.IdOf)]).OfType<int>().Distinct()];

    public static GenerationOptions OptionsOf(Settings settings, Tokenizer tokenizer) => new()
    {
        MaxNewTokens = settings.Count("max-new-tokens", 1),
        Temperature = settings.Number("temperature"),
        TopK = settings.Count("top-k"),
        TopP = settings.Number("top-p", 0, 1),
        MinP = settings.Number("min-p", 0, 1),
        RepetitionPenalty = settings.Number("repetition-penalty", 0.01),
        Seed = settings.Long("seed"),
        StopTokenIds = StopTokens(tokenizer),
    };
}
