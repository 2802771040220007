using Lancet.ChatTemplates;
using Lancet.Generation;
using Lancet.Tokenization;

namespace Lancet.Cli.Commands;

/// <summary>lancet chat: a conversation in the terminal. /reset forgets it, /exit ends.</summary>
internal static class ChatCommand
{
    public static int Run(Settings settings)
    {
        using var model = ModelLoading.LoadForInference(settings);
        var tokenizer = Tokenizer.Load(model.Folder);
        var template = ModelLoading.TemplateOf(settings, tokenizer);
        var variables = ModelLoading.TemplateVariables(settings);
        var options = ChatSession.OptionsOf(settings, tokenizer, template);
        using var generator = new TextGenerator(model, 1, Math.Min(settings.Count("max-seq-length", 2), model.Config.MaxPositions));
        var messages = Start(settings);
        Console.Error.WriteLine("/reset forgets the conversation, /exit ends.");
        while (true)
        {
            Console.Write("> ");
            var line = Console.ReadLine();
            if (line is null or "/exit") return 0;
            if (line == "/reset")
            {
                messages = Start(settings);
                continue;
            }
            if (string.IsNullOrWhiteSpace(line)) continue;
            messages.Add(new("user", line));
            var stream = new TokenStream(tokenizer);
            var tokens = generator.Generate([ChatGeneration.Prompt(tokenizer, template, messages, variables)], options, (_, id) => Console.Write(stream.Add(id)))[0];
            Console.WriteLine(stream.Finish());
            messages.Add(new("assistant", tokenizer.Decode(tokens)));
        }
    }

    private static List<ChatMessage> Start(Settings settings) => settings.Text("system") is { } system ? [new("system", system)] : [];
}
