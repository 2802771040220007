using Lancet.Data;

namespace Lancet.Formats.Hub;

/// <summary>Which files of a repository are needed.</summary>
public static class HubFiles
{
    private static readonly string[] s_modelExtensions = [".safetensors", ".json", ".jinja", ".model", ".txt"];

    /// <summary>Weights as safetensors, configuration, tokenizer and chat template of a model or an adapter: never pickles, nor the same weights in another form, nor what lies in folders.</summary>
    public static IReadOnlyList<string> OfModel(IReadOnlyList<string> files)
    {
        var hasHuggingFaceWeights = files.Any(file => file.StartsWith("model", StringComparison.Ordinal) && file.EndsWith(".safetensors", StringComparison.Ordinal));
        // Mistral's repositories hold their weights twice.
        return [.. files.Where(file => !file.Contains('/', StringComparison.Ordinal) && s_modelExtensions.Contains(Path.GetExtension(file)) && !(hasHuggingFaceWeights && file.StartsWith("consolidated", StringComparison.Ordinal)))];
    }

    /// <summary>What tells of a model without being it: those of <see cref="OfModel"/> that are no weights.</summary>
    public static IReadOnlyList<string> OfModelWithoutWeights(IReadOnlyList<string> files) => [.. OfModel(files).Where(file => Path.GetExtension(file) != ".safetensors")];

    /// <summary>Data files of a data set: those of its training split where names tell splits apart, else all.</summary>
    public static IReadOnlyList<string> OfDataset(IReadOnlyList<string> files)
    {
        string[] rows = [.. files.Where(file => !Path.GetFileName(file).StartsWith('.') && RowReader.IsDataFile(file))];
        string[] training = [.. rows.Where(file => file.Contains("train", StringComparison.OrdinalIgnoreCase))];
        return training.Length > 0 ? training : rows;
    }
}
