using System.Globalization;
using System.Text;
using Lancet.ChatTemplates;
using Lancet.Generation;
using Lancet.Tokenization;

namespace Lancet.Formats.Ollama;

/// <summary>
/// The Modelfile with which <c>ollama create</c> takes a GGUF file: template and stop tokens from the chat template that the model was trained with.
/// </summary>
public static class OllamaModelfile
{
    /// <summary>The text of a Modelfile.</summary>
    /// <param name="file">GGUF file, as seen from the Modelfile.</param>
    /// <param name="tokenizer">The model's tokenizer.</param>
    /// <param name="template">The model's chat template.</param>
    /// <param name="system">System message of every conversation, or null.</param>
    /// <param name="context">Tokens of the context, or 0 for Ollama's default.</param>
    public static string Create(string file, Tokenizer tokenizer, ChatTemplate template, string? system = null, int context = 0)
    {
        var text = new StringBuilder();
        text.Append("# ollama create NAME -f Modelfile\n");
        text.Append(CultureInfo.InvariantCulture, $"FROM ./{file}\n");
        if (OllamaTemplates.NameOf(template, tokenizer.BosToken, tokenizer.EosToken) is { } name && OllamaTemplates.Find(name, tokenizer.EosToken) is { } source)
            text.Append(CultureInfo.InvariantCulture, $"TEMPLATE {Quote(source)}\n");
        else
            text.Append("# The chat template is none of those that Lancet can write for Ollama; Ollama takes it from the file if it knows it.\n");
        foreach (var id in ChatGeneration.StopTokens(tokenizer, template))
            if (tokenizer.TextOf(id, false) is { Length: > 0 } stop) text.Append(CultureInfo.InvariantCulture, $"PARAMETER stop {Quote(stop)}\n");
        if (context > 0) text.Append(CultureInfo.InvariantCulture, $"PARAMETER num_ctx {context}\n");
        if (system is not null) text.Append(CultureInfo.InvariantCulture, $"SYSTEM {Quote(system)}\n");
        return text.ToString();
    }

    // Quotes in threes may hold anything but themselves.
    private static string Quote(string value) => value.Contains('\n') || value.Contains('"')
        ? value.Contains("\"\"\"", StringComparison.Ordinal) ? throw new LancetException("A Modelfile cannot hold three quotation marks in a row.") : "\"\"\"" + value + "\"\"\""
        : "\"" + value + "\"";
}
