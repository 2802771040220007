using System.Runtime.InteropServices;
using System.Text.Json.Nodes;
using Lancet.Formats;
using Lancet.Models;
using Lancet.Tests.Training;
using Lancet.Tile;
using Lancet.Tokenization;

namespace Lancet.Tests.Export;

/// <summary>Models that the export tests write: golden fixtures with a tokenizer, changed where llama.cpp cannot express them, and small drawn ones.</summary>
internal static class ExportModels
{
    /// <summary>Golden fixtures, with what has to be changed for llama.cpp: what is another shape than the fixture's gets new weights.</summary>
    public static TheoryData<string, string> Families => new()
    {
        { "llama", "{}" },
        { "llama31-rope", "{}" },
        // A window that no prompt reaches: llama.cpp has none here.
        { "mistral-swa", """{"sliding_window": 64}""" },
        { "gemma", "{}" },
        { "gemma2", "{}" },
        { "gemma3", "{}" },
        { "qwen2", "{}" },
        { "qwen3", "{}" },
        { "qwen3-moe", "{}" },
        { "mixtral", """{"sliding_window": null}""" },
        { "phi3", "{}" },
        // llama.cpp takes the long factors for contexts, of 256 tokens at least, beyond the original one; Lancet for sequences.
        { "phi3-longrope", """{"rope_parameters": {"original_max_position_embeddings": 512}}""" },
        { "phi3-longrope", """{"rope_parameters": {"original_max_position_embeddings": 4}}""" },
        { "granite", "{}" },
        { "smollm3", """{"no_rope_layers": [1, 1, 1], "no_rope_layer_interval": 4}""" },
        { "olmo2", "{}" },
        { "cohere", "{}" },
        { "cohere2", """{"head_dim": 16, "num_hidden_layers": 4, "layer_types": null}""" },
    };

    /// <summary>A copy of a fixture's model with changes of its config.json and a tokenizer.</summary>
    public static string Copy(string parent, string name, string changes)
    {
        var folder = Path.Combine(parent, name);
        Directory.CreateDirectory(folder);
        var source = new Fixture(name).Model;
        foreach (var file in Directory.GetFiles(source)) File.Copy(file, Path.Combine(folder, Path.GetFileName(file)));
        var config = JsonNode.Parse(File.ReadAllText(Path.Combine(folder, "config.json")))!.AsObject();
        var changed = JsonNode.Parse(changes)!.AsObject();
        foreach (var (key, value) in changed)
        {
            if (value is JsonObject inner) foreach (var (part, number) in inner) config[key]![part] = number?.DeepClone();
            else config[key] = value?.DeepClone();
        }
        File.WriteAllText(Path.Combine(folder, "config.json"), config.ToJsonString());
        if (changed.ContainsKey("head_dim")) Draw(folder);
        BpeTrainer.Train(["some words, and some more words to make tokens of"], 300, ["<|endoftext|>"], "<|endoftext|>", null, folder);
        return folder;
    }

    /// <summary>A drawn model of one layer with a tokenizer of tests/tokenizers.</summary>
    public static string WithTokenizer(string parent, string kind)
    {
        var folder = Path.Combine(parent, kind);
        Directory.CreateDirectory(folder);
        File.Copy(Path.Combine(TestFiles.Tokenizers, kind, "tokenizer.json"), Path.Combine(folder, "tokenizer.json"));
        var config = new JsonObject { ["model_type"] = "llama", ["vocab_size"] = Tokenizer.Load(folder).VocabularySize, ["hidden_size"] = 64, ["intermediate_size"] = 96, ["num_hidden_layers"] = 1, ["num_attention_heads"] = 4 };
        File.WriteAllText(Path.Combine(folder, "config.json"), config.ToJsonString());
        Draw(folder);
        return folder;
    }

    /// <summary>Compares logits; differences are counted in deviations of the logits.</summary>
    public static void AssertClose(float[] expected, float[] actual, double tolerance)
    {
        Assert.Equal(expected.Length, actual.Length);
        var scale = Math.Sqrt(expected.Average(logit => (double)logit * logit));
        var difference = expected.Zip(actual, (x, y) => Math.Abs(x - y)).Max() / scale;
        Assert.True(difference < tolerance, $"logits differ by {difference} of their deviation");
    }

    /// <summary>Writes weights large enough to tell models apart.</summary>
    private static void Draw(string folder)
    {
        var random = new DeterministicRandom(3);
        SafetensorsWriter.Write(Path.Combine(folder, "model.safetensors"), [.. new DecoderModel(ModelConfig.Load(folder)).Weights.Select(weight =>
        {
            float[] values = [.. Enumerable.Range(0, (int)weight.Shape.Count).Select(_ => (float)((weight.Role == WeightRole.Norm ? 1 : 0) + (0.15 * random.NextNormal())))];
            return new SafetensorsOutput(weight.Name, DType.Float32, [.. Enumerable.Range(0, weight.Shape.Rank).Select(axis => weight.Shape[axis])], stream => stream.Write(MemoryMarshal.AsBytes<float>(values)));
        })]);
    }
}
