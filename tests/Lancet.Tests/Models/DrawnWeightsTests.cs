using Lancet.Adapters;
using Lancet.Data;
using Lancet.Devices.Cpu;
using Lancet.Kernels;
using Lancet.Models;
using Lancet.Tensors;
using Lancet.Tile;
using Lancet.Training;

namespace Lancet.Tests.Models;

/// <summary>Random weights that are drawn on the device from config.json alone, as the benchmarks use them.</summary>
public sealed class DrawnWeightsTests
{
    private const string Config = """
        {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 320, "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
         "rope_theta": 10000.0, "tie_word_embeddings": false, "hidden_act": "silu"}
        """;

    [Theory]
    [InlineData(false, 0.25, 1.0)]
    [InlineData(true, 0.02, 0.0)]
    public void NumbersHaveTheirDistributionAndAreEqualInAllDTypes(bool isNormal, double scale, double offset)
    {
        const int count = 100_000;
        var distribution = isNormal ? RandomDistribution.Normal : RandomDistribution.Uniform;
        using var device = new CpuDevice();
        using var memory = device.Allocate(count * 6L, "test");
        Tensor wide = memory.View(DType.Float32, new Shape(count)), narrow = memory.View(DType.BFloat16, new Shape(count), count * 4L);
        RandomFillKernel.Fill(device, wide, distribution, 5, scale, offset);
        RandomFillKernel.Fill(device, narrow, distribution, 5, scale, offset);
        device.Synchronize();
        var values = wide.HostSpan<float>().ToArray();
        Assert.Equal(values, Array.ConvertAll(narrow.HostSpan<BFloat16>().ToArray(), value => (float)value));
        var mean = values.Average(value => (double)value);
        var deviation = Math.Sqrt(values.Average(value => (value - mean) * (value - mean)));
        var expected = isNormal ? scale : scale / Math.Sqrt(3);
        // Four deviations of a mean and of a variance of so many numbers.
        Assert.InRange(mean, offset - (4 * expected / Math.Sqrt(count)), offset + (4 * expected / Math.Sqrt(count)));
        Assert.InRange(deviation, expected * 0.99, expected * 1.01);
        RandomFillKernel.Fill(device, wide.Rows(0, 100), distribution, 5, scale, offset, 1000);
        device.Synchronize();
        Assert.Equal(values[1000..1100], wide.HostSpan<float>()[..100].ToArray());
    }

    [Theory]
    [InlineData("lora")]
    [InlineData("qlora")]
    [InlineData("full")]
    public void AModelOfDrawnWeightsTrains(string method)
    {
        var folder = Directory.CreateTempSubdirectory("lancet-test-").FullName;
        try
        {
            File.WriteAllText(Path.Combine(folder, "config.json"), Config);
            using var model = LanguageModel.Load(folder, new LoadOptions { IsDrawn = true, IsFullyTrained = method == "full", QuantizesToNf4 = method == "qlora" });
            if (method != "full") model.AddLora(new LoraOptions { Rank = 4 });
            Assert.Equal(method == "full", model.Decoder.Embedding.IsTrained);
            Assert.Equal(method == "qlora", model.Decoder.Projections.All(projection => projection.Weight.Quantized is not null));
            using var engine = new TrainingEngine(model, new EngineOptions { MaxTokens = 64, MaxSequenceLength = 64 });
            var batch = new PackedBatch(64, 1);
            int[] ids = [.. Enumerable.Range(0, 64).Select(i => i * 37 % 320)];
            batch.Add(ids, ids);
            var losses = new List<double>();
            for (var step = 1; step <= 3; step++)
            {
                engine.BeginStep(step, batch.LabelTokenCount);
                engine.Accumulate(batch);
                losses.Add(engine.EndStep(1e-2).Loss);
            }
            // Random weights know nothing: about ln 320, and less after each step on the same row.
            Assert.InRange(losses[0], 5, 7);
            Assert.True(losses[2] < losses[0], string.Join(", ", losses));
        }
        finally
        {
            Directory.Delete(folder, true);
        }
    }
}
