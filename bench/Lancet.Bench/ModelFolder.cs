using System.Runtime.InteropServices;
using System.Text.Json;
using System.Text.Json.Nodes;
using Lancet.Bench.Gpu;
using Lancet.Formats;
using Lancet.Models;
using Lancet.Tile;
using Lancet.Tokenization;

namespace Lancet.Bench;

/// <summary>
/// Writes a model folder of true shapes and sizes, to time what depends on them alone: random bf16 weights, and a tokenizer with as many tokens and merges as the model's,
/// made from a smaller one by merges that never come up in a text.
/// </summary>
internal static class ModelFolder
{
    private const int NoiseElements = 1 << 22;
    private const double Deviation = 0.02;

    public static void Write(string folder, string model, string tokenizer)
    {
        Directory.CreateDirectory(folder);
        var config = ModelShapes.Config(model);
        AtomicFile.WriteText(Path.Combine(folder, "config.json"), ModelShapes.Json(model));
        WriteWeights(folder, config);
        WriteTokenizer(folder, tokenizer, config.VocabularySize);
        Console.WriteLine($"{folder}: {model}, {new FileInfo(Path.Combine(folder, "model.safetensors")).Length / 1e6:F0} MB of weights, {config.VocabularySize} tokens");
    }

    private static void WriteWeights(string folder, ModelConfig config)
    {
        var random = new DeterministicRandom(1);
        var noise = new BFloat16[NoiseElements];
        for (var i = 0; i < noise.Length; i++) noise[i] = (BFloat16)(float)(Deviation * random.NextNormal());
        SafetensorsWriter.Write(Path.Combine(folder, "model.safetensors"), [.. new DecoderModel(config).Weights.Select(weight =>
        {
            var start = random.NextInt32(NoiseElements / 2);
            return new SafetensorsOutput(weight.Name, DType.BFloat16, [.. Enumerable.Range(0, weight.Shape.Rank).Select(axis => weight.Shape[axis])], stream =>
            {
                for (long left = weight.Shape.Count; left > 0;)
                {
                    var count = (int)Math.Min(left, NoiseElements / 2);
                    stream.Write(MemoryMarshal.AsBytes(noise.AsSpan(start, count)));
                    left -= count;
                }
            });
        })], new Dictionary<string, string> { ["format"] = "pt" });
    }

    private static void WriteTokenizer(string folder, string source, int vocabularySize)
    {
        var root = JsonNode.Parse(File.ReadAllBytes(Path.Combine(source, "tokenizer.json")))!;
        var (model, added) = (root["model"]!, root["added_tokens"]!.AsArray());
        var (vocabulary, merges) = (model["vocab"]!.AsObject(), model["merges"]!.AsArray());
        string[] parts = [.. vocabulary.Select(item => item.Key).Where(token => !added.Any(special => special!["content"]!.GetValue<string>() == token))];
        var known = vocabulary.Select(item => item.Key).ToHashSet();
        var random = new DeterministicRandom(2);
        for (var id = Math.Max(vocabulary.Count, added.Max(token => token!["id"]!.GetValue<int>()) + 1); id < vocabularySize;)
        {
            var (first, second) = (parts[random.NextInt32(parts.Length)], parts[random.NextInt32(parts.Length)]);
            if (!known.Add(first + second)) continue;
            vocabulary[first + second] = id++;
            merges.Add((JsonNode)new JsonArray(first, second));
        }
        using (var stream = File.Create(Path.Combine(folder, "tokenizer.json")))
        using (var json = new Utf8JsonWriter(stream))
            root.WriteTo(json);
        File.Copy(Path.Combine(source, "tokenizer_config.json"), Path.Combine(folder, "tokenizer_config.json"), true);
        if (Tokenizer.Load(folder).VocabularySize != vocabularySize) throw new LancetException($"{folder}: the tokenizer has another number of tokens than {vocabularySize}.");
    }
}
