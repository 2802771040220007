using System.Text.Json;
using Lancet.ChatTemplates;
using Lancet.Formats;
using Lancet.Formats.Gguf;
using Lancet.Formats.Ollama;
using Lancet.Models;
using Lancet.Tile;
using Lancet.Tokenization;

namespace Lancet.Cli.Commands;

/// <summary>lancet export.</summary>
internal static class ExportCommand
{
    private const int Bad = 1;

    private sealed record Export(string Path, string Type, double Limit, ExportReport? Report)
    {
        public bool IsBad => Report is { } report && !(report.Divergence <= Limit);
    }

    public static int Run(Settings settings)
    {
        var target = PushCommand.TargetOf(settings);
        var (folder, output) = (HubLoading.Folder(settings.Required("model")), settings.Required("output"));
        HubLoading.ResolveAdapter(settings);
        if (Path.GetFullPath(folder) == Path.GetFullPath(output)) throw new LancetException("--output is the model's own folder; choose another one.");
        var format = settings.OneOf("format", "safetensors", "nf4", "gguf", "gguf-adapter");
        var mixes = settings.List("type").Select(GgufMix.Find).ToList();
        if (mixes.Count == 0) throw new LancetException("--type is missing.");
        if (settings.Text("max-divergence") != "auto") _ = settings.Number("max-divergence");
        var verifies = settings.Flag("verify") && format != "gguf-adapter";
        List<Export> exports;
        ExportCheck? check = null;
        using (var model = LanguageModel.Load(folder, new LoadOptions { RopeScaling = ModelLoading.RopeScalingOf(settings) }))
        {
            if (settings.Text("adapter") is { } adapter) model.LoadAdapter(adapter);
            // What is taken for want of a template says nothing about how the model ends its turns.
            var template = ModelLoading.ChosenTemplate(settings, Tokenizer.Exists(folder) ? model.Tokenizer : null);
            exports = format switch
            {
                "gguf" => WriteGguf(settings, model, template, output, mixes),
                "gguf-adapter" => WriteAdapter(model, output, mixes),
                _ => WriteFolder(settings, model, template, output, format == "nf4"),
            };
            if (verifies && Tokenizer.Exists(folder)) check = new ExportCheck(model, ExportTexts.Of(settings, model, template ?? ChatTemplate.ChatMl), tokenizer: TokenizerOf(model, template));
        }
        if (check is not null) exports = [.. exports.Select(export => Verify(settings, check, export))];
        foreach (var export in exports) Console.Error.WriteLine($"{Path.GetFullPath(export.Path)} ({export.Type}){(export.Report is { } report ? ": " + report : verifies && check is null ? ": not verified, the model has no tokenizer" : "")}");
        // Beside a single file may lie anything.
        if (Directory.Exists(output) && format != "gguf-adapter") AtomicFile.WriteText(Path.Combine(output, "README.md"), ModelCard.Create(folder, settings.Text("adapter"), [.. exports.Select(export => (export.Type, export.Report))]));
        if (settings.Flag("json")) WriteJson(exports);
        foreach (var export in exports.Where(export => export.IsBad))
            Console.Error.WriteLine($"{export.Path}: the export does not answer as the model does: {export.Report!.Divergence:G3} nats a token where {export.Limit:G3} are expected at most of {export.Type}. Do not use it; choose a type with more bits, or report this with the model's name. --max-divergence sets another limit.");
        if (exports.Exists(export => export.IsBad)) return Bad;
        PushCommand.Push(settings, target);
        return 0;
    }

    private static Export Verify(Settings settings, ExportCheck check, Export export)
    {
        var limit = settings.Text("max-divergence") == "auto" ? export.Limit : settings.Number("max-divergence");
        // Quantised weights are held in fp32, or where that is too much for this machine in bf16.
        var (parameters, free) = (ModelConfig.Load(export.Path).ParameterCount, GC.GetGCMemoryInfo().TotalAvailableMemoryBytes * 8 / 10);
        if (parameters * 2 > free)
        {
            Console.Error.WriteLine($"{export.Path}: not verified: that takes {parameters * 2 / 1e9:N1} GB of memory, {free / 1e9:N1} GB are there.");
            return export;
        }
        return export with { Limit = limit, Report = check.Compare(export.Path, new LoadOptions { DType = parameters * 4 > free ? DType.BFloat16 : DType.Float32 }) };
    }

    private static Tokenizer TokenizerOf(LanguageModel model, ChatTemplate? template) => template is null ? model.Tokenizer : model.Tokenizer.For(template);

    private static List<Export> WriteGguf(Settings settings, LanguageModel model, ChatTemplate? template, string output, List<GgufMix> mixes)
    {
        var isFile = IsFile(output, mixes);
        var name = NameOf(settings, model);
        var exports = new List<Export>();
        var importance = mixes.Exists(mix => mix.Type.IsQuantized()) && ExportTexts.Calibration(settings, model, template ?? ChatTemplate.ChatMl) is { } rows ? ImportanceMatrix.Gather(model, rows) : null;
        foreach (var mix in mixes)
        {
            var path = isFile ? output : Path.Combine(output, $"{name}-{mix.Name}.gguf");
            var notes = GgufExporter.Write(path, model, new GgufExportOptions { Mix = mix, ChatTemplate = template, ModelName = name, Importance = importance });
            if (exports.Count == 0)
            {
                foreach (var note in notes) Console.Error.WriteLine(note);
                var modelfile = Path.Combine(Path.GetDirectoryName(Path.GetFullPath(path))!, "Modelfile");
                AtomicFile.WriteText(modelfile, OllamaModelfile.Create(Path.GetFileName(path), TokenizerOf(model, template), template ?? ChatTemplate.ChatMl, settings.Text("system")));
            }
            exports.Add(new(path, mix.Name, ExportLimits.Of(mix), null));
        }
        return exports;
    }

    private static List<Export> WriteAdapter(LanguageModel model, string output, List<GgufMix> mixes)
    {
        var isFile = IsFile(output, mixes);
        var exports = new List<Export>();
        foreach (var mix in mixes)
        {
            var path = isFile ? output : Path.Combine(output, $"adapter-{mix.Name}.gguf");
            GgufAdapterWriter.Write(path, model, mix);
            exports.Add(new(path, mix.Name, 0, null));
        }
        return exports;
    }

    private static List<Export> WriteFolder(Settings settings, LanguageModel model, ChatTemplate? template, string output, bool isNf4)
    {
        var dtype = settings.DType("dtype");
        if (isNf4)
        {
            Nf4ModelWriter.Save(output, model, dtype, settings.Bytes("max-shard-size"));
        }
        else
        {
            DiskSpace.Require(output, model.Decoder.Weights.Sum(weight => weight.Shape.Count * dtype.SizeInBytes()));
            ModelWriter.Save(output, model, dtype, settings.Bytes("max-shard-size"));
        }
        if (Tokenizer.Exists(model.Folder)) model.Tokenizer.SaveTo(output, template);
        return [isNf4 ? new(output, "nf4", ExportLimits.Nf4, null) : new(output, settings.Required("dtype"), ExportLimits.Of(dtype), null)];
    }

    private static bool IsFile(string output, List<GgufMix> mixes)
    {
        var isFile = output.EndsWith(".gguf", StringComparison.OrdinalIgnoreCase);
        return !isFile || mixes.Count == 1 ? isFile : throw new LancetException($"--output {output} is one file, but --type names {mixes.Count} types; give a folder.");
    }

    private static string NameOf(Settings settings, LanguageModel model)
    {
        var name = Path.GetFileName(Path.TrimEndingDirectorySeparator(Path.GetFullPath(settings.Text("adapter") ?? model.Folder)));
        return GgufFile.IsGguf(name) ? Path.GetFileNameWithoutExtension(name) : name;
    }

    private static void WriteJson(List<Export> exports)
    {
        using var json = new Utf8JsonWriter(Console.OpenStandardOutput(), new JsonWriterOptions { Indented = true });
        json.WriteStartObject();
        json.WriteStartArray("exports");
        foreach (var export in exports)
        {
            json.WriteStartObject();
            json.WriteString("path", export.Path);
            json.WriteString("type", export.Type);
            json.WriteBoolean("verified", export.Report is not null && !export.IsBad);
            if (export.Report is { } report)
            {
                json.WriteNumber("tokens", report.Tokens);
                json.WriteNumber("largest_logit_difference", Math.Min(report.LargestDifference, double.MaxValue));
                json.WriteNumber("divergence", double.IsFinite(report.Divergence) ? report.Divergence : double.MaxValue);
                json.WriteNumber("perplexity", double.IsFinite(report.Perplexity) ? report.Perplexity : double.MaxValue);
                json.WriteNumber("reference_perplexity", report.ReferencePerplexity);
                json.WriteNumber("same_top_tokens", report.SameTopTokens);
            }
            json.WriteEndObject();
        }
        json.WriteEndArray();
        json.WriteEndObject();
    }
}
