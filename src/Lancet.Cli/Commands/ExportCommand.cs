using Lancet.Formats.Gguf;
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
        var isGguf = settings.OneOf("format", "safetensors", "gguf") == "gguf";
        var mixes = settings.List("type").Select(GgufMix.Find).ToList();
        using var model = LanguageModel.Load(folder);
        if (settings.Text("adapter") is { } adapter) model.LoadAdapter(adapter);
        if (isGguf) WriteGguf(settings, model, output, mixes);
        else WriteSafetensors(settings, model, output);
        return 0;
    }

    private static void WriteGguf(Settings settings, LanguageModel model, string output, List<GgufMix> mixes)
    {
        var isFile = output.EndsWith(".gguf", StringComparison.OrdinalIgnoreCase);
        if (mixes.Count == 0) throw new LancetException("--type is missing.");
        if (isFile && mixes.Count > 1) throw new LancetException($"--output {output} is one file, but --type names {mixes.Count} types; give a folder.");
        var name = Path.GetFileName(Path.TrimEndingDirectorySeparator(Path.GetFullPath(settings.Text("adapter") ?? model.Folder)));
        var template = ModelLoading.TemplateOf(settings, ModelLoading.TokenizerOf(model.Folder));
        foreach (var mix in mixes)
        {
            var path = isFile ? output : Path.Combine(output, $"{name}-{mix.Name}.gguf");
            var notes = GgufExporter.Write(path, model, new GgufExportOptions { Mix = mix, ChatTemplate = template, ModelName = name });
            if (mix == mixes[0]) foreach (var note in notes) Console.Error.WriteLine(note);
            Console.Error.WriteLine($"GGUF: {Path.GetFullPath(path)}, {new FileInfo(path).Length / 1e6:N1} MB");
        }
    }

    private static void WriteSafetensors(Settings settings, LanguageModel model, string output)
    {
        ModelWriter.Save(output, model, settings.DType("dtype"), settings.Bytes("max-shard-size"));
        ModelLoading.TokenizerOf(model.Folder)?.CopyTo(output);
        if (settings.Text("adapter") is { } trained && Path.Combine(trained, Tokenizer.ChatTemplateFile) is var template && File.Exists(template)) File.Copy(template, Path.Combine(output, Tokenizer.ChatTemplateFile), true);
        Console.Error.WriteLine($"Merged model: {Path.GetFullPath(output)}");
    }
}
