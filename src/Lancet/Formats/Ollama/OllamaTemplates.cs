using Lancet.ChatTemplates;

namespace Lancet.Formats.Ollama;

/// <summary>The named chat templates in the syntax of Ollama, Go's text/template. Tests hold them to what the Jinja templates render. Ollama itself puts the beginning of text in front.</summary>
internal static class OllamaTemplates
{
    private const string EosMark = "\u0001eos\u0001";
    private const string FirstSystem = "{{ if and $.System (eq $i 1) }}{{ $.System }}\n\n{{ end }}";

    private static readonly Dictionary<string, string> s_sources = new()
    {
        ["chatml"] = "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n",
        ["qwen"] = "{{ if not .System }}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{{ end }}{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n",
        ["llama-3"] = "{{ range .Messages }}<|start_header_id|>{{ .Role }}<|end_header_id|>\n\n{{ .Content }}<|eot_id|>{{ end }}<|start_header_id|>assistant<|end_header_id|>\n\n",
        ["gemma"] = "{{ range $i, $m := .Messages }}{{ if eq .Role \"user\" }}<start_of_turn>user\n" + FirstSystem + "{{ .Content }}<end_of_turn>\n{{ else if eq .Role \"assistant\" }}<start_of_turn>model\n{{ .Content }}<end_of_turn>\n{{ end }}{{ end }}<start_of_turn>model\n",
        ["mistral"] = "{{ range $i, $m := .Messages }}{{ if eq .Role \"user\" }}[INST] " + FirstSystem + "{{ .Content }} [/INST]{{ else if eq .Role \"assistant\" }} {{ .Content }}" + EosMark + "{{ end }}{{ end }}",
        ["phi"] = "{{ range .Messages }}<|{{ .Role }}|>\n{{ .Content }}<|end|>\n{{ end }}<|assistant|>\n",
        ["zephyr"] = "{{ range .Messages }}<|{{ .Role }}|>\n{{ .Content }}" + EosMark + "\n{{ end }}<|assistant|>\n",
        ["alpaca"] = "{{ if .System }}{{ .System }}{{ else }}Below is an instruction that describes a task. Write a response that appropriately completes the request.{{ end }}\n\n"
            + "{{ range .Messages }}{{ if eq .Role \"user\" }}### Instruction:\n{{ .Content }}\n\n{{ else if eq .Role \"assistant\" }}### Response:\n{{ .Content }}" + EosMark + "\n\n{{ end }}{{ end }}### Response:\n",
        ["vicuna"] = "{{ if .System }}{{ .System }}{{ else }}A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to the user's questions.{{ end }} "
            + "{{ range .Messages }}{{ if eq .Role \"user\" }}USER: {{ .Content }} {{ else if eq .Role \"assistant\" }}ASSISTANT: {{ .Content }}" + EosMark + "{{ end }}{{ end }}ASSISTANT:",
    };

    /// <summary>The template of a name, or null.</summary>
    /// <param name="name">One of <see cref="ChatTemplate.Names"/>.</param>
    /// <param name="eosToken">Text of the end-of-text token.</param>
    public static string? Find(string name, string? eosToken) => s_sources.GetValueOrDefault(name)?.Replace(EosMark, eosToken ?? "", StringComparison.Ordinal);

    /// <summary>Name of the template that renders as another does, by conversations with and without a system message; null if none does.</summary>
    public static string? NameOf(ChatTemplate template, string? bosToken, string? eosToken)
    {
        ChatMessage[] turns = [new("user", "one"), new("assistant", "two"), new("user", "three")];
        var options = new ChatTemplateOptions { AddsGenerationPrompt = true, BosToken = bosToken, EosToken = eosToken };
        var (bare, whole) = (Render(template, turns), Render(template, [new("system", "zero"), .. turns]));
        if (bare is null) return null;
        // A template that refuses system messages is one that agrees without them.
        return ChatTemplate.Names.FirstOrDefault(name => ChatTemplate.Named(name) is var named && Render(named, turns) == bare && (whole is null || Render(named, [new("system", "zero"), .. turns]) == whole));

        string? Render(ChatTemplate other, IReadOnlyList<ChatMessage> messages)
        {
            try
            {
                var text = other.Render(messages, options);
                // Some templates leave the beginning of text to the tokenizer.
                return bosToken is { Length: > 0 } && text.StartsWith(bosToken, StringComparison.Ordinal) ? text[bosToken.Length..] : text;
            }
            catch (LancetException)
            {
                return null;
            }
        }
    }
}
