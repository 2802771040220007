namespace Lancet.ChatTemplates;

/// <summary>A turn of a conversation.</summary>
/// <param name="Role">system, user, assistant or tool.</param>
/// <param name="Content">Text.</param>
public sealed record ChatMessage(string Role, string Content);

/// <summary>What a template is rendered with, beside the messages.</summary>
public sealed record ChatTemplateOptions
{
    /// <summary>Whether the text ends with the opening of an assistant turn.</summary>
    public bool AddsGenerationPrompt { get; init; }

    /// <summary>Text of the beginning-of-text token.</summary>
    public string? BosToken { get; init; }

    /// <summary>Text of the end-of-text token.</summary>
    public string? EosToken { get; init; }
}

/// <summary>A rendered conversation.</summary>
/// <param name="Text">Text.</param>
/// <param name="Spans">Character ranges that the assistant wrote, ends of turn included.</param>
public sealed record RenderedChat(string Text, IReadOnlyList<(int Start, int End)> Spans);
