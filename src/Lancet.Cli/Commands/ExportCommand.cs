using Lancet.Models;
using Lancet.Tokenization;

namespace Lancet.Cli.Commands;

/// <summary>lancet export.</summary>
internal static class ExportCommand
{
    public static int Run(Settings settings)
    {
        var (folder, output) = (settings.Required("model"), settings.Required("output"));
        if (Path.GetFullPath(folder) == Path.GetFullPath(output)) throw new LancetException("--output is the model's own folder; choose another one.");
        using var model = LanguageModel.Load(folder);
        if (settings.Text("adapter") is { } adapter) model.LoadAdapter(adapter);
        ModelWriter.Save(output, model, settings.DType("dtype"), settings.Bytes("max-shard-size"));
        if (Tokenizer.Exists(folder))
            foreach (var file in Tokenizer.Load(folder).Files) File.Copy(file, Path.Combine(output, Path.GetFileName(file)), true);
        if (settings.Text("adapter") is { } trained && Path.Combine(trained, Tokenizer.ChatTemplateFile) is var template && File.Exists(template)) File.Copy(template, Path.Combine(output, Tokenizer.ChatTemplateFile), true);
        Console.Error.WriteLine($"Merged model: {Path.GetFullPath(output)}");
        return 0;
    }
}
