using System.Runtime.CompilerServices;
using System.Text.Json;
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
    /// <param name="tokenizer">Tokenizer.</param>
    /// <param name="template">Chat template.</param>
    /// <param name="messages">Conversation so far.</param>
    /// <param name="variables">Further variables of the template, such as <c>enable_thinking</c>.</param>
    public static int[] Prompt(Tokenizer tokenizer, ChatTemplate template, IReadOnlyList<ChatMessage> messages, IReadOnlyDictionary<string, JsonElement>? variables = null)
    {
        tokenizer = tokenizer.For(template);
        var options = new ChatTemplateOptions { AddsGenerationPrompt = true, BosToken = tokenizer.BosToken, EosToken = tokenizer.EosToken };
        return tokenizer.Encode(template.Render(messages, variables is null ? options : options with { Variables = variables }), false);
    }

    /// <summary>The end of text, the token that ends an assistant's turn in the template, and the ends of turn that are in common use.</summary>
    public static IReadOnlyList<int> StopTokens(Tokenizer tokenizer, ChatTemplate template) =>
        [.. ((int?[])[tokenizer.EosTokenId, TurnEnd(tokenizer, template), .. s_turnEnds.Select(tokenizer.IdOf)]).OfType<int>().Distinct()];

    /// <summary>The special token that a template writes behind an assistant's turn; null where it writes none, or needs a longer conversation.</summary>
    public static int? TurnEnd(Tokenizer tokenizer, ChatTemplate template)
    {
        const string Probe = "lancet";
        tokenizer = tokenizer.For(template);
        try
        {
            var rendered = template.RenderWithSpans([new("user", "?"), new("assistant", Probe)], new ChatTemplateOptions { BosToken = tokenizer.BosToken, EosToken = tokenizer.EosToken });
            if (rendered.Spans.Count == 0) return null;
            var (start, end) = rendered.Spans[^1];
            var written = rendered.Text[start..end];
            var at = written.LastIndexOf(Probe, StringComparison.Ordinal);
            return at < 0 ? null : tokenizer.Encode(written[(at + Probe.Length)..], false).Cast<int?>().FirstOrDefault(id => tokenizer.IsSpecial(id!.Value));
        }
        catch (LancetException)
        {
            return null;
        }
    }

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
                    generator.Generate([prompt], options with { StopTokenIds = [.. options.StopTokenIds, .. StopTokens(tokenizer, model.ChatTemplate)] }, (_, id) => Write(stream.Add(id)), stopped.Token);
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
