using System.Collections.ObjectModel;
using System.Text.Json;

namespace Lancet.ChatTemplates;

/// <summary>A turn of a conversation.</summary>
/// <param name="Role">system, user, assistant or tool; templates may know others.</param>
/// <param name="Content">Text; null where a turn has none, as in an assistant's turn that only calls tools.</param>
public sealed record ChatMessage(string Role, string? Content)
{
    /// <summary>What else the template sees of the turn, as the data has it: <c>tool_calls</c>, <c>tool_call_id</c>, <c>name</c>, <c>reasoning_content</c> and the like.</summary>
    public IReadOnlyDictionary<string, JsonElement> Fields { get; init; } = ReadOnlyDictionary<string, JsonElement>.Empty;

    /// <summary>
    /// The turn's content in parts, a list of <c>{"type": "text", "text": …}</c>, where the data has it so; <see cref="Content"/> is their text. Templates that read parts get them.
    /// </summary>
    public JsonElement? Parts { get; init; }

    /// <summary>Whether a turn without text has <c>content</c> as none; a template can tell that from a turn without the key.</summary>
    public bool HasContent { get; init; } = true;

    /// <summary>Whether an assistant's turn is trained; OpenAI's <c>"weight": 0</c> switches it off.</summary>
    public bool IsTrained { get; init; } = true;
}

/// <summary>What a template is rendered with, beside the messages.</summary>
public sealed record ChatTemplateOptions
{
    /// <summary>Whether the text ends with the opening of an assistant turn.</summary>
    public bool AddsGenerationPrompt { get; init; }

    /// <summary>Text of the beginning-of-text token.</summary>
    public string? BosToken { get; init; }

    /// <summary>Text of the end-of-text token.</summary>
    public string? EosToken { get; init; }

    /// <summary>Tools that the model may call, a list of JSON schemas in OpenAI's form; null for none.</summary>
    public JsonElement? Tools { get; init; }

    /// <summary>Further variables of the template, what Hugging Face calls <c>chat_template_kwargs</c>: <c>enable_thinking</c>, <c>reasoning_effort</c> and the like.</summary>
    public IReadOnlyDictionary<string, JsonElement> Variables { get; init; } = ReadOnlyDictionary<string, JsonElement>.Empty;
}

/// <summary>A rendered conversation.</summary>
/// <param name="Text">Text.</param>
/// <param name="Spans">Character ranges that the assistant wrote, ends of turn included, in order.</param>
public sealed record RenderedChat(string Text, IReadOnlyList<(int Start, int End)> Spans);
