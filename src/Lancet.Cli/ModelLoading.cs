using System.Text.Json;
using Lancet.ChatTemplates;
using Lancet.Data;
using Lancet.Devices;
using Lancet.Models;
using Lancet.Tokenization;

namespace Lancet.Cli;

/// <summary>What several commands load in the same way.</summary>
internal static class ModelLoading
{
    /// <summary>A model for evaluation or generation, with its adapter.</summary>
    public static LanguageModel LoadForInference(Settings settings)
    {
        var choice = settings.Device();
        HubLoading.ResolveAdapter(settings);
        var options = new LoadOptions { DType = settings.DType("dtype"), QuantizesToNf4 = settings.OneOf("quantize", "none", "nf4") == "nf4", RopeScaling = RopeScalingOf(settings) };
        var ptxFolder = settings.PtxFolder(choice);
        var model = Load(HubLoading.Folder(settings.Required("model")), choice.Open(ptxFolder), options);
        try
        {
            if (settings.Text("adapter") is { } adapter) model.LoadAdapter(adapter);
            return model;
        }
        catch
        {
            model.Dispose();
            throw;
        }
    }

    /// <summary>A model on a device that becomes its own.</summary>
    public static LanguageModel Load(string folder, Device device, LoadOptions options)
    {
        try
        {
            return LanguageModel.Load(folder, options with { Device = device, OwnsDevice = true });
        }
        catch
        {
            device.Dispose();
            throw;
        }
    }

    public static RopeScaling? RopeScalingOf(Settings settings) => settings.Text("rope-scaling") is { } text ? RopeScaling.Parse(text) : null;

    public static Tokenizer? TokenizerOf(string folder) => Tokenizer.Exists(folder) ? Tokenizer.Load(folder) : null;

    /// <summary>The template that somebody chose, else ChatML.</summary>
    public static ChatTemplate TemplateOf(Settings settings, Tokenizer? tokenizer) => ChosenTemplate(settings, tokenizer) ?? ChatTemplate.ChatMl;

    /// <summary>The template of the command line, else of the adapter, which was trained with it, else of the checkpoint; null for none.</summary>
    public static ChatTemplate? ChosenTemplate(Settings settings, Tokenizer? tokenizer)
    {
        if (settings.Text("chat-template") is { } choice)
        {
            if (ChatTemplate.Names.Contains(choice, StringComparer.OrdinalIgnoreCase)) return ChatTemplate.Named(choice);
            return File.Exists(choice) ? ChatTemplate.Parse(File.ReadAllText(choice)) : throw new LancetException($"{choice}: chat template not found. A file is expected, or a name: {string.Join(", ", ChatTemplate.Names)}.");
        }
        if (settings.Knows("adapter") && settings.Text("adapter") is { } adapter && Path.Combine(adapter, Tokenizer.ChatTemplateFile) is var trained && File.Exists(trained)) return ChatTemplate.Parse(File.ReadAllText(trained));
        return tokenizer?.ChatTemplate is { } source ? ChatTemplate.Parse(source) : null;
    }

    public static RowRenderer Renderer(Settings settings, ModelConfig config, Tokenizer? tokenizer) => new(tokenizer, TemplateOf(settings, tokenizer))
    {
        MaxLength = settings.Count("max-seq-length", 2),
        VocabularySize = config.VocabularySize,
        TrainsOnResponsesOnly = settings.Flag("train-on-responses-only"),
        Columns = Columns(settings),
        TemplateVariables = TemplateVariables(settings),
    };

    public static ColumnMapping Columns(Settings settings) => ColumnMapping.Parse(settings.Text("columns"));

    /// <summary>--chat-template-kwargs, with --enable-thinking among them.</summary>
    public static IReadOnlyDictionary<string, JsonElement> TemplateVariables(Settings settings)
    {
        var variables = new Dictionary<string, JsonElement>();
        if (settings.Text("chat-template-kwargs") is { } text)
        {
            try
            {
                using var document = JsonDocument.Parse(text);
                foreach (var property in document.RootElement.EnumerateObject()) variables[property.Name] = property.Value.Clone();
            }
            catch (Exception error) when (error is JsonException or InvalidOperationException)
            {
                throw new LancetException($"--chat-template-kwargs is {text}; expected a JSON object such as {{\"reasoning_effort\": \"low\"}}.", error);
            }
        }
        if (settings.Text("enable-thinking") is not null) variables["enable_thinking"] = JsonDocument.Parse(settings.Flag("enable-thinking") ? "true" : "false").RootElement;
        return variables;
    }
}
