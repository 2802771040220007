using Lancet.Layers;
using Lancet.Models;

namespace Lancet.Formats.Gguf;

/// <summary>Writes LoRA adapters as GGUF files, which llama.cpp applies to a model of the same architecture (<c>--lora</c>).</summary>
public static class GgufAdapterWriter
{
    /// <summary>Writes a model's adapter.</summary>
    /// <param name="path">File.</param>
    /// <param name="model">Model with an adapter.</param>
    /// <param name="mix">f32, f16, bf16 or q8_0.</param>
    /// <exception cref="LancetException">The model has no adapter, GGUF cannot express it, or the file cannot be written.</exception>
    public static void Write(string path, LanguageModel model, GgufMix mix)
    {
        if (model.Adapter is null) throw new LancetException("There is no adapter to write; give one with --adapter.");
        if (mix.Name is not ("f32" or "f16" or "bf16" or "q8_0")) throw new LancetException($"--type is {mix.Name}; adapters are written as f32, f16, bf16 or q8_0.");
        if (model.Adapter.UsesDora) throw new LancetException("llama.cpp has no DoRA adapters; merge the adapter instead (--format gguf).");
        if (model.Adapter.ModulesToSave.Count > 0) throw new LancetException("llama.cpp's adapters hold neither embedding nor head (modules_to_save); merge the adapter instead (--format gguf).");
        var architecture = GgufArchitecture.Of(model.Config);
        var projections = model.Decoder.Projections.Where(projection => projection.A is not null).ToList();
        // llama.cpp scales by this over the rank of each matrix; what an adapter's own factor differs by goes into B.
        var alpha = projections[0].Scale * projections[0].A!.Shape[0];
        var metadata = new GgufMetadata(path);
        metadata.Add("general.architecture", architecture.Name);
        metadata.Add("general.type", "adapter");
        metadata.Add("general.name", Path.GetFileNameWithoutExtension(path));
        metadata.Add("adapter.type", "lora");
        metadata.Add("adapter.lora.alpha", alpha);
        var parts = projections.Select(projection => (Projection: projection, Map: GgufTensorMap.Of(architecture, model.Config, projection.Weight))).GroupBy(part => part.Map.Name);
        GgufWriter.Write(path, metadata, [.. parts.SelectMany(group => Outputs([.. group], model, alpha, mix))]);
    }

    /// <summary>The two tensors of a projection, or of all experts' projections of a kind, stacked as their weights are.</summary>
    private static IEnumerable<GgufOutput> Outputs(List<(LoraLinear Projection, GgufTensorMap Map)> parts, LanguageModel model, float alpha, GgufMix mix)
    {
        var (first, map) = parts[0];
        var rank = (int)first.A!.Shape[0];
        GgufOutput Output(string suffix, Func<LoraLinear, Weight> select, int columns, Func<LoraLinear, GgufTensorMap, float[], float[]> change)
        {
            var type = columns % mix.Type.BlockSize() == 0 ? mix.Type : GgufTensorType.Float16;
            var dimensions = GgufExporter.Dimensions(select(first).Shape);
            return new(map.Name + suffix, type, map.Expert < 0 ? dimensions : [parts.Count, .. dimensions], stream =>
            {
                foreach (var (projection, place) in parts)
                {
                    var weight = select(projection);
                    var values = change(projection, place, model.Read(weight));
                    ModelWriter.CheckFinite(values, weight.Name);
                    var bytes = new byte[type.Bytes(values.Length)];
                    Blocks.BlockCodec.QuantizeRows(type, values, columns, bytes);
                    stream.Write(bytes);
                }
            });
        }
        yield return Output(".lora_a", projection => projection.A!, first.InFeatures, (_, _, values) => values);
        yield return Output(".lora_b", projection => projection.B!, rank, (projection, place, values) =>
        {
            var factor = projection.Scale * rank / alpha;
            if (factor != 1)
                for (var i = 0; i < values.Length; i++) values[i] *= factor;
            // The product's rows change places, and are multiplied, as those of the weight that it is added to.
            return place.ToFile(values, rank);
        });
    }
}
