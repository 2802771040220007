using System.Runtime.InteropServices;
using Lancet.Formats;
using Lancet.Layers;
using Lancet.Tile;

namespace Lancet.Models;

/// <summary>Writes models as Hugging Face folders, one tensor at a time.</summary>
public static class ModelWriter
{
    private const string PlainPrefix = "model.";

    /// <summary>Writes what a run has trained: the adapter, or all weights in fp32 with config.json.</summary>
    public static void SaveTrained(string folder, LanguageModel model)
    {
        if (model.Adapter is not null) model.SaveAdapter(folder);
        else Save(folder, model, DType.Float32);
    }

    /// <summary>Writes a complete model; an adapter is merged, W + s·B·A in fp32, and then rounded once.</summary>
    /// <param name="folder">Folder, which may exist.</param>
    /// <param name="model">Model.</param>
    /// <param name="dtype">fp32, bf16 or fp16.</param>
    /// <param name="maxShardBytes">Most bytes of a file.</param>
    /// <exception cref="LancetException">A merged weight is not finite, or the files cannot be written.</exception>
    public static void Save(string folder, LanguageModel model, DType dtype, long maxShardBytes = 5_000_000_000)
    {
        Directory.CreateDirectory(folder);
        var projections = model.Decoder.Projections.Where(projection => projection.A is not null).ToDictionary(projection => projection.Weight);
        var outputs = model.Decoder.Weights.Select(weight => Output(model, weight, projections.GetValueOrDefault(weight), dtype)).ToList();
        SafetensorsWriter.WriteModel(folder, outputs, maxShardBytes);
        AtomicFile.WriteText(Path.Combine(folder, "config.json"), Config(model, dtype));
    }

    /// <summary>A weight to be written, merged when it is its turn.</summary>
    internal static SafetensorsOutput Output(LanguageModel model, Weight weight, LoraLinear? projection, DType dtype) => new(
        NameIn(model, weight), dtype, [.. Enumerable.Range(0, weight.Shape.Rank).Select(axis => weight.Shape[axis])], stream => Write(stream, Merged(model, weight, projection), dtype, weight.Name));

    /// <summary>A weight's name in the files: of a model that sees, the language model becomes one of its own.</summary>
    internal static string NameIn(LanguageModel model, Weight weight) =>
        weight.Name.StartsWith(model.Config.WeightPrefix, StringComparison.Ordinal) ? PlainPrefix + weight.Name[model.Config.WeightPrefix.Length..] : weight.Name;

    /// <summary>What torch calls a dtype.</summary>
    internal static string NameOf(DType dtype) => dtype switch { DType.BFloat16 => "bfloat16", DType.Float16 => "float16", _ => "float32" };

    /// <summary>A weight's values, with its adapter merged: W + s·B·A.</summary>
    internal static float[] Merged(LanguageModel model, Weight weight, LoraLinear? projection)
    {
        var values = model.Read(weight);
        if (projection is null) return values;
        float[] a = model.Read(projection.A!), b = model.Read(projection.B!);
        var magnitudes = projection.Magnitude is null ? null : model.Read(projection.Magnitude);
        int rank = (int)projection.A!.Shape[0], columns = projection.InFeatures;
        Parallel.For(0, projection.OutFeatures, row =>
        {
            // B·A is summed in fp64 and added to the weight before anything is rounded.
            var sums = new double[columns];
            for (var r = 0; r < rank; r++)
            {
                double factor = b[(row * rank) + r];
                for (var column = 0; column < columns; column++) sums[column] += factor * a[(r * columns) + column];
            }
            var target = values.AsSpan((int)((long)row * columns), columns);
            var square = 0.0;
            for (var column = 0; column < columns; column++)
            {
                sums[column] = target[column] + (projection.Scale * sums[column]);
                square += sums[column] * sums[column];
            }
            // DoRA: the row gets the length of its magnitude.
            var length = magnitudes is null ? 1 : magnitudes[row] / Math.Sqrt(square);
            for (var column = 0; column < columns; column++) target[column] = (float)(length * sums[column]);
        });
        return values;
    }

    /// <summary>Refuses values that are not finite.</summary>
    internal static void CheckFinite(float[] values, string name)
    {
        foreach (var value in values)
            if (!float.IsFinite(value)) throw new LancetException($"{name} holds a value that is not finite ({value}); the model is not written.");
    }

    private static void Write(Stream stream, float[] values, DType dtype, string name)
    {
        CheckFinite(values, name);
        switch (dtype)
        {
            case DType.Float32: stream.Write(MemoryMarshal.AsBytes<float>(values)); break;
            case DType.BFloat16: WriteConverted(stream, values, value => (BFloat16)value); break;
            case DType.Float16: WriteConverted(stream, values, value => (Half)value); break;
            default: throw new ArgumentException($"Models are written in fp32, bf16 or fp16, not {dtype}.");
        }
    }

    private static void WriteConverted<T>(Stream stream, float[] values, Func<float, T> convert)
        where T : unmanaged
    {
        var chunk = new T[1 << 16];
        for (var start = 0; start < values.Length; start += chunk.Length)
        {
            var count = Math.Min(chunk.Length, values.Length - start);
            for (var i = 0; i < count; i++) chunk[i] = convert(values[start + i]);
            stream.Write(MemoryMarshal.AsBytes<T>(chunk.AsSpan(0, count)));
        }
    }

    /// <summary>The model's own config.json (of a model that sees, its language model's part), with the dtype of the new files and without a quantisation that they no longer have.</summary>
    internal static string Config(LanguageModel model, DType dtype, System.Text.Json.Nodes.JsonObject? quantization = null)
    {
        var json = System.Text.Json.Nodes.JsonNode.Parse(ModelConfig.ReadText(model.Folder))!.AsObject();
        if (model.Config.WeightPrefix != PlainPrefix && json["text_config"] is System.Text.Json.Nodes.JsonObject text)
        {
            var eos = json["eos_token_id"]?.DeepClone();
            json.Remove("text_config");
            json = text;
            if (eos is not null) json["eos_token_id"] = eos;
        }
        model.RopeScaling?.Apply(json, model.Folder);
        json.Remove("quantization_config");
        if (quantization is not null) json["quantization_config"] = quantization;
        json.Remove("torch_dtype");
        // A head that was trained apart from the embedding.
        if (model.Config.TiesWordEmbeddings && !model.Decoder.IsTied) json["tie_word_embeddings"] = false;
        json["dtype"] = System.Text.Json.Nodes.JsonValue.Create(NameOf(dtype));
        using var buffer = new MemoryStream();
        using (var writer = new System.Text.Json.Utf8JsonWriter(buffer, new System.Text.Json.JsonWriterOptions { Indented = true })) json.WriteTo(writer);
        return System.Text.Encoding.UTF8.GetString(buffer.ToArray());
    }
}
