using System.Text.Json;
using Lancet.Generation;
using Lancet.Tokenization;

namespace Lancet.Cli.Commands;

/// <summary>lancet generate.</summary>
internal static class GenerateCommand
{
    public static int Run(Settings settings)
    {
        var prompt = settings.Required("prompt");
        using var model = ModelLoading.LoadForInference(settings);
        var tokenizer = Tokenizer.Load(model.Folder);
        var template = ModelLoading.TemplateOf(settings, tokenizer);
        var ids = settings.Flag("raw") ? tokenizer.Encode(prompt) : ChatGeneration.Prompt(tokenizer, template, [new("user", prompt)], ModelLoading.TemplateVariables(settings));
        var options = ChatSession.OptionsOf(settings, tokenizer, template);
        var isJson = settings.Flag("json");
        using var generator = new TextGenerator(model, 1, Math.Min(settings.Count("max-seq-length", 2), ids.Length + options.MaxNewTokens));
        var stream = new TokenStream(tokenizer);
        var tokens = generator.Generate([ids], options, isJson ? null : (_, id) => Console.Write(stream.Add(id)))[0];
        if (!isJson)
        {
            Console.WriteLine(stream.Finish());
            return 0;
        }
        using var json = new Utf8JsonWriter(Console.OpenStandardOutput());
        json.WriteStartObject();
        json.WriteString("text", tokenizer.Decode(tokens));
        json.WriteNumber("prompt_tokens", ids.Length);
        json.WriteNumber("new_tokens", tokens.Length);
        json.WriteEndObject();
        return 0;
    }
}
