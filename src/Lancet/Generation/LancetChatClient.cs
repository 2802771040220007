using System.Runtime.CompilerServices;
using System.Text;
using Lancet.Models;
using Microsoft.Extensions.AI;

namespace Lancet.Generation;

/// <summary>A model behind the chat interface of Microsoft.Extensions.AI. The model is not owned; requests must not overlap.</summary>
/// <param name="model">Model, with or without an adapter.</param>
/// <param name="defaults">Options where a request has none.</param>
public sealed class LancetChatClient(LanguageModel model, GenerationOptions defaults) : IChatClient
{
    /// <inheritdoc/>
    public async Task<ChatResponse> GetResponseAsync(IEnumerable<ChatMessage> messages, ChatOptions? options = null, CancellationToken cancellationToken = default)
    {
        var text = new StringBuilder();
        await foreach (var update in GetStreamingResponseAsync(messages, options, cancellationToken).ConfigureAwait(false)) text.Append(update.Text);
        return new ChatResponse(new ChatMessage(ChatRole.Assistant, text.ToString()));
    }

    /// <inheritdoc/>
    public async IAsyncEnumerable<ChatResponseUpdate> GetStreamingResponseAsync(IEnumerable<ChatMessage> messages, ChatOptions? options = null, [EnumeratorCancellation] CancellationToken cancellationToken = default)
    {
        var turns = messages.Select(message => new ChatTemplates.ChatMessage(message.Role.Value, message.Text)).ToList();
        await foreach (var text in model.GenerateAsync(turns, Merge(options), cancellationToken).ConfigureAwait(false)) yield return new ChatResponseUpdate(ChatRole.Assistant, text);
    }

    /// <inheritdoc/>
    public object? GetService(Type serviceType, object? serviceKey = null) => serviceKey is null && serviceType.IsInstanceOfType(this) ? this : serviceType == typeof(LanguageModel) ? model : null;

    /// <inheritdoc/>
    public void Dispose()
    {
    }

    private GenerationOptions Merge(ChatOptions? options) => options is null ? defaults : defaults with
    {
        MaxNewTokens = options.MaxOutputTokens ?? defaults.MaxNewTokens,
        Temperature = options.Temperature ?? defaults.Temperature,
        TopP = options.TopP ?? defaults.TopP,
        TopK = options.TopK ?? defaults.TopK,
        Seed = options.Seed ?? defaults.Seed,
    };
}
