using System.Text;
using Lancet.Formats;
using Lancet.Models;
using Lancet.Quantization;
using Lancet.Tests.Training;
using Lancet.Tile;
using Lancet.Training;

namespace Lancet.Tests.Models;

/// <summary>Checkpoints that bitsandbytes has quantised to NF4 with double quantisation, written here byte by byte as it does.</summary>
public class BitsAndBytesTests
{
    [Fact]
    public void A_quantised_checkpoint_is_read_to_the_bit_and_trains()
    {
        using var folder = new ModelFolder("llama", ("num_hidden_layers", 1), ("tie_word_embeddings", true));
        var expected = Write(folder.Path);
        using var model = LanguageModel.Load(folder.Path);
        foreach (var weight in model.Decoder.Weights) Assert.Equal(expected[weight.Name], model.Read(weight));
        model.AddLora(new Lancet.Adapters.LoraOptions { Rank = 4 });
        using var engine = new TrainingEngine(model, new EngineOptions { MaxTokens = 8, MaxSequenceLength = 8 });
        var batch = new Lancet.Data.PackedBatch(8, 1);
        batch.Add([1, 2, 3, 4, 5], [1, 2, 3, 4, 5]);
        engine.BeginStep(1, batch.LabelTokenCount);
        engine.Accumulate(batch);
        var quantized = engine.EndStep(0);

        // The same numbers in fp32 give the same loss.
        using var plainFolder = new ModelFolder("llama", ("num_hidden_layers", 1), ("tie_word_embeddings", true));
        SafetensorsWriter.Write(Path.Combine(plainFolder.Path, "model.safetensors"), [.. model.Decoder.Weights.Select(weight => Output(
            weight.Name, DType.Float32, [.. Enumerable.Range(0, weight.Shape.Rank).Select(axis => weight.Shape[axis])], System.Runtime.InteropServices.MemoryMarshal.AsBytes(expected[weight.Name].AsSpan()).ToArray()))]);
        using var plain = LanguageModel.Load(plainFolder.Path);
        using var evaluation = new EvaluationEngine(plain, 8, 8);
        var losses = new float[8];
        evaluation.Evaluate(batch, losses);
        Assert.Equal(losses[..4].Average(), quantized.Loss, 1e-6);
    }

    [Fact]
    public void An_export_holds_what_loading_in_four_bits_makes_and_its_adapter_is_merged_first()
    {
        var fixture = new Fixture("qwen2");
        var folder = Directory.CreateTempSubdirectory("lancet-test-").FullName;
        using (var model = LanguageModel.Load(fixture.Model)) Nf4ModelWriter.Save(folder, model, maxShardBytes: 50_000);
        Assert.True(Directory.GetFiles(folder, "model-*-of-*.safetensors").Length > 1);
        using (LanguageModel expected = LanguageModel.Load(fixture.Model, new LoadOptions { QuantizesToNf4 = true }), actual = LanguageModel.Load(folder))
        {
            foreach (var (weight, other) in expected.Decoder.Weights.Zip(actual.Decoder.Weights))
            {
                Assert.Equal(weight.Quantized is null, other.Quantized is null);
                if (weight.Role == WeightRole.Projection) Assert.Equal(expected.Read(weight), actual.Read(other));
            }
        }
        using (var model = LanguageModel.Load(fixture.Model))
        {
            model.LoadAdapter(fixture.Adapter);
            Nf4ModelWriter.Save(folder, model);
        }
        using LanguageModel merged = LanguageModel.Load(folder), plain = LanguageModel.Load(fixture.Model);
        plain.LoadAdapter(fixture.Adapter);
        var last = plain.Decoder.Projections.Last();
        var values = ModelWriter.Merged(plain, last.Weight, last);
        Assert.All(values.Zip(merged.Read(merged.Decoder.Projections.Last().Weight)), pair => Assert.Equal(pair.First, pair.Second, values.Max(Math.Abs) * 0.16f));
        Directory.Delete(folder, true);
    }

    /// <summary>Skip lists (llm_int8_skip_modules) leave modules dense in the file, without double quantisation scales are fp32, and codes may be stored as another dtype.</summary>
    [Theory]
    [InlineData("llama", "model.layers.0.mlp", false, false)]
    [InlineData("llama", "q_proj", false, true)]
    [InlineData("llama", "none", true, false)]
    [InlineData("qwen3-moe", "experts.2.", false, false)]
    [InlineData("qwen3-moe", "experts.2.", false, true)]
    [InlineData("llama", "none", false, false, DType.BFloat16)]
    [InlineData("llama", "none", true, true, DType.Float32)]
    public void Skipped_modules_stay_dense_even_under_qlora_and_plain_scales_are_written_out(string name, string skipped, bool isPlain, bool isLikeGpu, DType storage = DType.UInt8)
    {
        var folder = Directory.CreateTempSubdirectory("lancet-test-").FullName;
        File.Copy(Path.Combine(new Fixture(name).Model, "config.json"), Path.Combine(folder, "config.json"));
        var expected = Write(folder, null, skipped, isPlain, storage);
        using (var model = LanguageModel.Load(folder, new LoadOptions { QuantizesToNf4 = true, Device = isLikeGpu ? new Devices.GpuPlanDevice() : new Lancet.Devices.Cpu.CpuDevice(), OwnsDevice = true }))
        {
            foreach (var weight in model.Decoder.Weights)
            {
                Assert.Equal(expected[weight.Name], model.Read(weight));
                Assert.Equal(weight.Role == WeightRole.Projection && !isPlain && !weight.Name.Contains(skipped, StringComparison.Ordinal), weight.Quantized is not null);
            }
            model.AddLora(new Lancet.Adapters.LoraOptions { Rank = 4 });
            using var engine = new TrainingEngine(model, new EngineOptions { MaxTokens = 8, MaxSequenceLength = 8 });
            var batch = new Lancet.Data.PackedBatch(8, 1);
            batch.Add([1, 2, 3, 4, 5], [1, 2, 3, 4, 5]);
            engine.BeginStep(1, batch.LabelTokenCount);
            engine.Accumulate(batch);
            var loss = engine.EndStep(0).Loss;
            // The same numbers in fp32 give the same loss.
            SafetensorsWriter.Write(Path.Combine(folder, "model.safetensors"), [.. model.Decoder.Weights.Select(weight => Output(
                weight.Name, DType.Float32, [.. Enumerable.Range(0, weight.Shape.Rank).Select(axis => weight.Shape[axis])], System.Runtime.InteropServices.MemoryMarshal.AsBytes(expected[weight.Name].AsSpan()).ToArray()))]);
            using var plain = LanguageModel.Load(folder);
            using var evaluation = new EvaluationEngine(plain, 8, 8);
            var losses = new float[8];
            evaluation.Evaluate(batch, losses);
            Assert.Equal(losses[..4].Average(), loss, 1e-4);
        }
        Directory.Delete(folder, true);
    }

    /// <summary>bitsandbytes dequantises to the dtype in a tensor's state, and transformers computes in that of the configuration.</summary>
    [Theory]
    [InlineData(DType.Float32, "float32")]
    [InlineData(DType.BFloat16, "bfloat16")]
    [InlineData(DType.Float16, "float16")]
    public void An_export_is_of_the_dtype_that_is_asked_for(DType dtype, string name)
    {
        var folder = Directory.CreateTempSubdirectory("lancet-test-").FullName;
        using (var model = LanguageModel.Load(new Fixture("llama").Model)) Nf4ModelWriter.Save(folder, model, dtype);
        var config = System.Text.Json.Nodes.JsonNode.Parse(File.ReadAllText(Path.Combine(folder, "config.json")))!;
        Assert.Equal(name, (string)config["dtype"]!);
        Assert.Equal(name, (string)config["quantization_config"]!["bnb_4bit_compute_dtype"]!);
        using (var file = SafetensorsFile.Open(Path.Combine(folder, "model.safetensors")))
        {
            Assert.Equal(dtype, file["model.norm.weight"].DType);
            var states = file.Entries.Values.Where(tensor => tensor.Name.EndsWith(".bitsandbytes__nf4", StringComparison.Ordinal)).ToList();
            Assert.NotEmpty(states);
            Assert.All(states, state => Assert.Contains($"\"dtype\": \"{name}\"", Encoding.UTF8.GetString(state.Span), StringComparison.Ordinal));
        }
        Directory.Delete(folder, true);
    }

    [Fact]
    public void An_export_names_what_it_leaves_in_sixteen_bits()
    {
        var folder = Directory.CreateTempSubdirectory("lancet-test-").FullName;
        using (var model = LanguageModel.Load(new Fixture("mixtral").Model)) Nf4ModelWriter.Save(folder, model);
        var config = System.Text.Json.Nodes.JsonNode.Parse(File.ReadAllText(Path.Combine(folder, "config.json")))!["quantization_config"]!;
        Assert.Equal(["lm_head", "model.layers.0.block_sparse_moe.gate"], config["llm_int8_skip_modules"]!.AsArray().Take(2).Select(name => (string)name!));
        using (var model = LanguageModel.Load(folder)) Assert.All(model.Decoder.Weights, weight => Assert.Equal(weight.Role == WeightRole.Projection, weight.Quantized is not null));
        Directory.Delete(folder, true);
    }

    [Theory]
    [InlineData(".absmax")]
    [InlineData(".nested_absmax")]
    [InlineData(".nested_quant_map")]
    public void A_missing_part_is_named(string part)
    {
        using var folder = new ModelFolder("llama", ("num_hidden_layers", 1), ("tie_word_embeddings", true));
        Write(folder.Path, part);
        Assert.Contains("q_proj.weight" + part, Assert.Throws<LancetException>(() => LanguageModel.Load(folder.Path)).Message);
    }

    private static SafetensorsOutput Output(string name, DType dtype, long[] shape, byte[] bytes) => new(name, dtype, shape, stream => stream.Write(bytes));

    /// <summary>Writes random weights, and returns what they stand for.</summary>
    private static Dictionary<string, float[]> Write(string folder, string? without = null, string skipped = "none", bool isPlain = false, DType storage = DType.UInt8)
    {
        var random = new DeterministicRandom(9);
        var outputs = new List<SafetensorsOutput>();
        var values = new Dictionary<string, float[]>();
        foreach (var weight in new DecoderModel(ModelConfig.Load(folder)).Weights)
        {
            var count = (int)weight.Shape.Count;
            long[] shape = [.. Enumerable.Range(0, weight.Shape.Rank).Select(axis => weight.Shape[axis])];
            if (weight.Role != WeightRole.Projection || weight.Name.Contains(skipped, StringComparison.Ordinal))
            {
                float[] dense = [.. Enumerable.Range(0, count).Select(_ => (float)random.NextNormal())];
                outputs.Add(Output(weight.Name, DType.Float32, shape, System.Runtime.InteropServices.MemoryMarshal.AsBytes(dense.AsSpan()).ToArray()));
                values[weight.Name] = dense;
                continue;
            }
            var (blocks, groups) = ((count + 63) / 64, (((count + 63) / 64) + 255) / 256);
            byte[] Bytes(int length) => [.. Enumerable.Range(0, length).Select(_ => (byte)random.NextInt32(256))];
            var (codes, scaleCodes) = (Bytes(count / 2), Bytes(blocks));
            float[] groupScales = [.. Enumerable.Range(0, groups).Select(_ => (float)(0.05 + (0.02 * random.NextDouble())))];
            const double offset = 0.0625;
            void Add(string suffix, DType dtype, long[] extents, byte[] bytes)
            {
                if (suffix.Length == 0 || suffix != without) outputs.Add(Output(weight.Name + suffix, dtype, extents, bytes));
            }
            Add("", storage, [count / 2 / storage.SizeInBytes(), 1], codes);
            if (isPlain)
            {
                float[] absMax = [.. Enumerable.Range(0, blocks).Select(_ => (float)(0.05 + (0.02 * random.NextDouble())))];
                Add(".absmax", DType.Float32, [blocks], System.Runtime.InteropServices.MemoryMarshal.AsBytes(absMax.AsSpan()).ToArray());
                var plainState = Encoding.UTF8.GetBytes($$"""{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [{{shape[0]}}, {{shape[1]}}]}""");
                Add(".quant_state.bitsandbytes__nf4", DType.UInt8, [plainState.Length], plainState);
                values[weight.Name] = [.. Enumerable.Range(0, count).Select(i => Nf4Code.Table[i % 2 == 0 ? codes[i / 2] >> 4 : codes[i / 2] & 15] * absMax[i / 64])];
                continue;
            }
            Add(".absmax", DType.UInt8, [blocks], scaleCodes);
            Add(".quant_map", DType.Float32, [16], System.Runtime.InteropServices.MemoryMarshal.AsBytes(Nf4Code.Table).ToArray());
            Add(".nested_absmax", DType.Float32, [groups], System.Runtime.InteropServices.MemoryMarshal.AsBytes(groupScales.AsSpan()).ToArray());
            Add(".nested_quant_map", DType.Float32, [256], System.Runtime.InteropServices.MemoryMarshal.AsBytes(DynamicCode.Signed.AsSpan()).ToArray());
            var state = Encoding.UTF8.GetBytes($$"""{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [{{shape[0]}}, {{shape[1]}}], "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": {{offset}}}""");
            Add(".quant_state.bitsandbytes__nf4", DType.UInt8, [state.Length], state);
            values[weight.Name] = [.. Enumerable.Range(0, count).Select(i =>
            {
                // First element in the high nibble; scale = map[code] · group scale + offset, in fp32.
                var scale = (DynamicCode.Signed[scaleCodes[i / 64]] * groupScales[i / 64 / 256]) + (float)offset;
                return Nf4Code.Table[i % 2 == 0 ? codes[i / 2] >> 4 : codes[i / 2] & 15] * scale;
            })];
        }
        SafetensorsWriter.Write(Path.Combine(folder, "model.safetensors"), outputs);
        return values;
    }
}
