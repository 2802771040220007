namespace Lancet.ChatTemplates;

/// <summary>Chat templates of well-known formats, for checkpoints that carry none or another than the one wanted.</summary>
internal static class NamedTemplates
{
    /// <summary>The opening of a template: takes a system message off the list, as <c>system</c>.</summary>
    private const string TakeSystem =
        """
        {%- set system = none -%}
        {%- if messages and messages[0]['role'] == 'system' -%}
          {%- set system = messages[0]['content'] | trim -%}
          {%- set messages = messages[1:] -%}
        {%- endif -%}

        """;

    private static readonly Dictionary<string, string> s_sources = new(StringComparer.OrdinalIgnoreCase)
    {
        ["chatml"] = Turns("'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n'", "'<|im_start|>assistant\\n'"),
        ["qwen"] =
            """
            {%- if not messages or messages[0]['role'] != 'system' -%}
              {{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' -}}
            {%- endif -%}

            """ + Turns("'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n'", "'<|im_start|>assistant\\n'"),
        ["llama-3"] = "{{- bos_token -}}" + Turns("'<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>'", "'<|start_header_id|>assistant<|end_header_id|>\\n\\n'"),
        ["gemma"] = "{{- bos_token -}}" + TakeSystem + Turns(
            "'<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\\n' + (system + '\\n\\n' if loop.first and system else '') + message['content'] | trim + '<end_of_turn>\\n'",
            "'<start_of_turn>model\\n'"),
        ["mistral"] = "{{- bos_token -}}" + TakeSystem + Turns(
            "' ' + message['content'] | trim + eos_token if message['role'] == 'assistant' else '[INST] ' + (system + '\\n\\n' if loop.first and system else '') + message['content'] | trim + ' [/INST]'", "''"),
        ["phi"] = Turns("'<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n'", "'<|assistant|>\\n'"),
        ["zephyr"] = Turns("'<|' + message['role'] + '|>\\n' + message['content'] + eos_token + '\\n'", "'<|assistant|>\\n'"),
        ["alpaca"] = "{{- bos_token -}}" + TakeSystem +
            "{{- (system or 'Below is an instruction that describes a task. Write a response that appropriately completes the request.') + '\\n\\n' -}}" +
            Turns("'### Response:\\n' + message['content'] + eos_token + '\\n\\n' if message['role'] == 'assistant' else '### Instruction:\\n' + message['content'] + '\\n\\n'", "'### Response:\\n'"),
        ["vicuna"] = "{{- bos_token -}}" + TakeSystem +
            "{{- (system or \"A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to the user's questions.\") + ' ' -}}" +
            Turns("'ASSISTANT: ' + message['content'] + eos_token if message['role'] == 'assistant' else 'USER: ' + message['content'] + ' '", "'ASSISTANT:'"),
    };

    /// <summary>Names of the templates.</summary>
    public static IReadOnlyList<string> Names { get; } = [.. s_sources.Keys.Order(StringComparer.Ordinal)];

    /// <summary>Source of a template, or null.</summary>
    public static string? Find(string name) => s_sources.GetValueOrDefault(name);

    /// <summary>The token that a template of this library writes behind every turn, by the template's source; null for others.</summary>
    public static string? TurnEnd(string source) => s_sources.FirstOrDefault(item => item.Value == source).Key switch
    {
        "chatml" or "qwen" => "<|im_end|>",
        "llama-3" => "<|eot_id|>",
        "gemma" => "<end_of_turn>",
        "phi" => "<|end|>",
        _ => null,
    };

    private static string Turns(string turn, string prompt) =>
        $$$"""{%- for message in messages -%}{{- {{{turn}}} -}}{%- endfor -%}{%- if add_generation_prompt -%}{{- {{{prompt}}} -}}{%- endif -%}""";
}
