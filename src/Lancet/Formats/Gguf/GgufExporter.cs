using System.Runtime.InteropServices;
using Lancet.ChatTemplates;
using Lancet.Models;
using Lancet.Tensors;

namespace Lancet.Formats.Gguf;

/// <summary>How a model is written as GGUF.</summary>
public sealed record GgufExportOptions
{
    /// <summary>Types of the matrices.</summary>
    public GgufMix Mix { get; init; } = GgufMix.Find("q8_0");

    /// <summary>The model's name in the file; that of its folder if null.</summary>
    public string? ModelName { get; init; }

    /// <summary>Chat template; that of the model's tokenizer if null.</summary>
    public ChatTemplate? ChatTemplate { get; init; }

    /// <summary>How much each input column of a projection matters, by the weight's name; null if that is not known.</summary>
    public ImportanceMatrix? Importance { get; init; }
}

/// <summary>Writes models as GGUF files for llama.cpp and what builds on it. Tensors are merged, quantised and written one by one, so memory stays flat.</summary>
public static class GgufExporter
{
    /// <summary>Writes a model; an adapter is merged in fp32 first.</summary>
    /// <param name="path">File.</param>
    /// <param name="model">Model.</param>
    /// <param name="options">Types and template.</param>
    /// <returns>What llama.cpp will do differently from the model, for the user to read.</returns>
    /// <exception cref="LancetException">GGUF cannot express the model or its tokenizer, a value is not finite, or the file cannot be written.</exception>
    public static IReadOnlyList<string> Write(string path, LanguageModel model, GgufExportOptions options)
    {
        // Training with modules_to_save may have parted head and embedding.
        var (config, mix) = (model.Config with { TiesWordEmbeddings = model.Decoder.IsTied }, options.Mix);
        var architecture = GgufArchitecture.Of(config);
        var metadata = new GgufMetadata(path);
        metadata.Add("general.architecture", architecture.Name);
        metadata.Add("general.type", "model");
        metadata.Add("general.name", GgufVocabulary.ModelName(model.Folder, options.ModelName ?? Path.GetFileNameWithoutExtension(Path.TrimEndingDirectorySeparator(Path.GetFullPath(model.Folder)))));
        metadata.Add("general.file_type", (uint)mix.FileType);
        if (mix.Type.IsQuantized()) metadata.Add("general.quantization_version", 2u);
        GgufModelMetadata.Add(metadata, architecture, config);
        GgufVocabulary.Add(metadata, options.ChatTemplate is { } template ? model.Tokenizer.For(template) : model.Tokenizer, config.VocabularySize, options.ChatTemplate ?? model.ChatTemplate);
        var projections = model.Decoder.Projections.Where(projection => projection.A is not null).ToDictionary(projection => projection.Weight);
        var outputs = new List<GgufOutput>();
        foreach (var (name, values) in GgufModelMetadata.RotaryTensors(config)) outputs.Add(new(name, GgufTensorType.Float32, [values.Length], stream => stream.Write(MemoryMarshal.AsBytes<float>(values))));
        // Matrices of a layer's experts are one tensor, expert after expert.
        foreach (var parts in model.Decoder.Weights.Select(weight => (Weight: weight, Map: GgufTensorMap.Of(architecture, config, weight))).GroupBy(part => part.Map.Name))
        {
            var (first, map) = parts.First();
            // Norms, biases and routers are few, and read as fp32.
            var type = first.Role is WeightRole.Norm or WeightRole.Bias or WeightRole.Router ? GgufTensorType.Float32 : mix.TypeOf(map.Name, first.Shape[1], config, options.Importance is not null);
            outputs.Add(new(parts.Key, type, map.Expert < 0 ? Dimensions(first.Shape) : [parts.Count(), .. Dimensions(first.Shape)], stream =>
            {
                foreach (var (weight, place) in parts)
                    Write(stream, place.ToFile(ModelWriter.Merged(model, weight, projections.GetValueOrDefault(weight)), Columns(weight)), Columns(weight), type, weight.Name, options.Importance);
            }));
        }
        GgufWriter.Write(path, metadata, outputs);
        return [.. architecture.Notes];
    }

    /// <summary>Extents of a weight.</summary>
    internal static long[] Dimensions(Shape shape) => [.. Enumerable.Range(0, shape.Rank).Select(axis => shape[axis])];

    private static int Columns(Weight weight) => weight.Shape.Rank == 1 ? 1 : (int)weight.Shape[weight.Shape.Rank - 1];

    private static void Write(Stream stream, float[] values, int columns, GgufTensorType type, string name, ImportanceMatrix? importance)
    {
        ModelWriter.CheckFinite(values, name);
        if (type == GgufTensorType.Float32)
        {
            stream.Write(MemoryMarshal.AsBytes<float>(values));
            return;
        }
        // As many rows at a time as make some megabytes.
        var rowsAtATime = Math.Max(1, (1 << 22) / columns);
        var rowBytes = checked((int)type.Bytes(columns));
        var buffer = new byte[checked(rowsAtATime * rowBytes)];
        var weights = importance?.Find(name, columns) ?? [];
        for (var start = 0; start < values.Length; start += rowsAtATime * columns)
        {
            var count = Math.Min(rowsAtATime * columns, values.Length - start);
            var bytes = buffer.AsMemory(0, count / columns * rowBytes);
            Blocks.BlockCodec.QuantizeRows(type, values.AsMemory(start, count), columns, bytes, weights);
            stream.Write(bytes.Span);
        }
    }
}
