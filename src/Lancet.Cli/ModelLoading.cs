using Lancet.ChatTemplates;
using Lancet.Data;
using Lancet.Models;
using Lancet.Tokenization;

namespace Lancet.Cli;

/// <summary>What several commands load in the same way.</summary>
internal static class ModelLoading
{
    /// <summary>A model for evaluation or generation, with its adapter.</summary>
    public static LanguageModel LoadForInference(Settings settings)
    {
        CheckDevice(settings);
        var model = LanguageModel.Load(settings.Required("model"), new LoadOptions { DType = settings.DType("dtype"), QuantizesToNf4 = settings.OneOf("quantize", "none", "nf4") == "nf4" });
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

    /// <summary>Only the processor can be used so far.</summary>
    public static void CheckDevice(Settings settings) => settings.OneOf("device", "cpu");

    public static Tokenizer? TokenizerOf(string folder) => Tokenizer.Exists(folder) ? Tokenizer.Load(folder) : null;

    /// <summary>The template of the command line, else of the checkpoint, else ChatML.</summary>
    public static ChatTemplate TemplateOf(Settings settings, Tokenizer? tokenizer)
    {
        if (settings.Text("chat-template") is { } path) return File.Exists(path) ? ChatTemplate.Parse(File.ReadAllText(path)) : throw new LancetException($"{path}: chat template not found.");
        return tokenizer?.ChatTemplate is { } source ? ChatTemplate.Parse(source) : ChatTemplate.ChatMl;
    }

    public static RowRenderer Renderer(Settings settings, ModelConfig config, Tokenizer? tokenizer) => new(tokenizer, TemplateOf(settings, tokenizer))
    {
        MaxLength = settings.Count("max-seq-length", 2),
        VocabularySize = config.VocabularySize,
        TrainsOnResponsesOnly = settings.Flag("train-on-responses-only"),
    };
}
