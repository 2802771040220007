using System.Runtime.CompilerServices;
using System.Threading.Channels;
using Lancet.ChatTemplates;
using Lancet.Models;
using Lancet.Tokenization;

namespace Lancet.Generation;

/// <summary>Conversations in, text out: template, tokenizer and generator together.</summary>
public static class ChatGeneration
{
    private static readonly string[] s_turnEnds = ["<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>"];

    /// <summary>Token ids of a conversation that the assistant is to continue.</summary>
    public static int[] Prompt(Tokenizer tokenizer, ChatTemplate template, IReadOnlyList<ChatMessage> messages) => tokenizer.Encode(
        template.Render(messages, new ChatTemplateOptions { AddsGenerationPrompt = true, BosToken = tokenizer.BosToken, EosToken = tokenizer.EosToken }), false);

    /// <summary>The end of text, and the ends of turn that templates use.</summary>
    public static IReadOnlyList<int> StopTokens(Tokenizer tokenizer) => [.. ((int?[])[tokenizer.EosTokenId, .. s_turnEnds.Select(tokenizer.IdOf)]).OfType<int>().Distinct()];

    /// <summary>An answer as it comes, generated on a thread of its own.</summary>
    internal static async IAsyncEnumerable<string> StreamAsync(LanguageModel model, IReadOnlyList<ChatMessage> messages, GenerationOptions options, [EnumeratorCancellation] CancellationToken cancellation)
    {
        var tokenizer = model.Tokenizer;
        var prompt = Prompt(tokenizer, model.ChatTemplate, messages);
        var channel = Channel.CreateUnbounded<string>();
        using var stopped = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        var work = Task.Run(
            () =>
            {
                try
                {
                    using var generator = new TextGenerator(model, 1, prompt.Length + options.MaxNewTokens);
                    var stream = new TokenStream(tokenizer);
                    generator.Generate([prompt], options with { StopTokenIds = [.. options.StopTokenIds, .. StopTokens(tokenizer)] }, (_, id) => Write(stream.Add(id)), stopped.Token);
                    Write(stream.Finish());
                    channel.Writer.Complete();
                }
                catch (Exception error)
                {
                    channel.Writer.Complete(error);
                }
            },
            CancellationToken.None);
        try
        {
            await foreach (var text in channel.Reader.ReadAllAsync(cancellation).ConfigureAwait(false)) yield return text;
        }
        finally
        {
            // The reader may stop early; the generator must be done with the model before it is disposed of.
            await stopped.CancelAsync().ConfigureAwait(false);
            await work.ConfigureAwait(false);
        }

        void Write(string text)
        {
            if (text.Length > 0) channel.Writer.TryWrite(text);
        }
    }
}
