using System.Text.Json;
using Lancet.Adapters;
using Lancet.Data;
using Lancet.Devices;
using Lancet.Devices.Cpu;
using Lancet.Generation;
using Lancet.Kernels;
using Lancet.Models;
using Lancet.Tile;
using Lancet.Training;

namespace Lancet.Tests.Training;

/// <summary>The engine where the golden fixtures do not reach: adapters with dropout, several chunks of logits, fp16's range, memory.</summary>
public class EngineTests
{
    private static readonly AdamWConstants s_adamW = new(0.9, 0.999, 1e-8, 0.01);

    [Theory]
    [InlineData("qwen2")]
    [InlineData("gemma2")]
    public void Adapter_gradients_with_dropout_agree_with_central_differences_in_fp64(string name)
    {
        var fixture = new Fixture(name);
        using var model = LanguageModel.Load(fixture.Model, new LoadOptions { DType = DType.Float64 });
        model.LoadAdapter(fixture.Adapter, dropout: 0.3);
        using var differences = new CentralDifferences(model, fixture);
        var random = new DeterministicRandom(3);
        foreach (var (weight, gradient) in differences.Gradients) differences.Check(weight, random.NextInt32(gradient.Length));
    }

    [Theory]
    [InlineData("llama", false)]
    [InlineData("gemma2", true)]
    public void Logits_in_several_chunks_give_the_losses_and_gradients_of_one(string family, bool isTied)
    {
        // 70,001 fp64 logits a row are cut into chunks of about 119 rows.
        using var folder = new ModelFolder(family, ("vocab_size", 70001), ("hidden_size", 16), ("intermediate_size", 16), ("num_hidden_layers", 1), ("tie_word_embeddings", isTied), ("final_logit_softcapping", 3.0));
        (double Loss, double[][] Gradients) Run(int[] lengths, bool together)
        {
            using var model = LanguageModel.Load(folder.Path, new LoadOptions { DType = DType.Float64, IsFullyTrained = true, IsFromScratch = true });
            using var engine = new TrainingEngine(model, new EngineOptions { MaxTokens = lengths.Sum(), MaxSequenceLength = 128, AdamW = s_adamW });
            var random = new DeterministicRandom(5);
            var batches = new List<PackedBatch>();
            foreach (var length in lengths)
            {
                if (batches.Count == 0 || !together) batches.Add(new PackedBatch(lengths.Sum(), lengths.Length));
                int[] ids = [.. Enumerable.Range(0, length).Select(_ => random.NextInt32(70001))];
                batches[^1].Add(ids, ids);
            }
            engine.BeginStep(1, batches.Sum(batch => batch.LabelTokenCount));
            foreach (var batch in batches) engine.Accumulate(batch);
            return (engine.EndStep(0).Loss, [.. model.Trained!.Weights.Select(weight => weight.Gradient.HostSpan<double>().ToArray())]);
        }
        int[] lengths = [100, 60, 90];
        var (chunked, whole) = (Run(lengths, true), Run(lengths, false));
        Assert.Equal(whole.Loss, chunked.Loss, 1e-12);
        foreach (var (a, b) in chunked.Gradients.Zip(whole.Gradients))
            for (var i = 0; i < a.Length; i++)
                if (!(Math.Abs(a[i] - b[i]) < 1e-13)) Assert.Fail($"element {i}: {a[i]} and {b[i]}");
    }

    [Theory]
    [InlineData("llama")]
    [InlineData("gemma2")]
    public void The_head_leaves_out_rows_without_a_label(string family)
    {
        const int length = 60;
        using var folder = new ModelFolder(family, ("vocab_size", HeadSpy.Vocabulary), ("intermediate_size", 256), ("final_logit_softcapping", 3.0), ("tie_word_embeddings", false));
        using var device = new HeadSpy();
        using var model = LanguageModel.Load(folder.Path, new LoadOptions { DType = DType.Float64, Device = device, OwnsDevice = true, IsFullyTrained = true, IsFromScratch = true });
        using var engine = new TrainingEngine(model, new EngineOptions { MaxTokens = 2 * length, MaxSequenceLength = length, AdamW = s_adamW, MaxGradientNorm = 0 });
        var random = new DeterministicRandom(6);
        PackedBatch Batch(params (int First, int Count)[] labelled)
        {
            var batch = new PackedBatch(2 * length, 2);
            foreach (var (first, count) in labelled)
            {
                int[] ids = [.. Enumerable.Range(0, length).Select(_ => random.NextInt32(HeadSpy.Vocabulary))];
                batch.Add(ids, [.. ids.Select((id, i) => i >= first && i < first + count ? id : PackedBatch.IgnoredLabel)]);
            }
            return batch;
        }
        double Loss(PackedBatch batch)
        {
            device.Rows = 0;
            engine.BeginStep(1, batch.LabelTokenCount);
            engine.Accumulate(batch);
            return engine.EndStep(0).Loss;
        }
        var some = Batch((35, 25), (20, 12));
        var loss = Loss(some);
        // 37 labels in whole eighths of 120 rows, which are 16 rows each.
        Assert.Equal(48, device.Rows);
        float[] losses = new float[2 * length], all = new float[2 * length];
        device.Rows = 0;
        engine.Evaluate(some, losses);
        Assert.Equal(48, device.Rows);
        Assert.Equal(losses.Where((_, t) => some.Labels[t] != PackedBatch.IgnoredLabel).Average(), loss, 1e-5);
        // Each loss is the token's own, and that of a batch in which all tokens have labels.
        var whole = new PackedBatch(2 * length, 2);
        for (var row = 0; row < 2; row++) whole.Add(some.TokenIds[(row * length)..((row + 1) * length)], some.TokenIds[(row * length)..((row + 1) * length)]);
        engine.Evaluate(whole, all);
        Assert.Equal(48 + (2 * length), device.Rows);
        for (var t = 0; t < losses.Length; t++) Assert.Equal(some.Labels[t] == PackedBatch.IgnoredLabel ? 0 : all[t], losses[t], 1e-6f);
        foreach (var (weight, gradient) in model.Trained!.Weights.Select(weight => (weight, weight.Gradient.HostSpan<double>().ToArray())).ToList())
        {
            for (var i = 0; i < 3; i++)
            {
                var at = random.NextInt32(gradient.Length);
                double At(double change)
                {
                    var values = model.Trained.Master(weight).HostSpan<double>();
                    var value = values[at];
                    values[at] = value + change;
                    var changed = Loss(some);
                    values[at] = value;
                    return changed;
                }
                Assert.Equal((At(1e-5) - At(-1e-5)) / 2e-5, gradient[at], 1e-7);
            }
        }
        // Other steps have other rows, and all of them if nearly all have labels.
        Loss(Batch((0, length), (4, length)));
        Assert.Equal(2 * length, device.Rows);
        Loss(Batch((1, 1), (0, 0)));
        Assert.Equal(16, device.Rows);
        Assert.Equal(loss, Loss(some));
    }

    /// <summary>Counts the rows of logits.</summary>
    private sealed class HeadSpy() : ForwardingDevice(new CpuDevice())
    {
        public const int Vocabulary = 211;

        public int Rows { get; set; }

        public override void MatMul(in MatMul product)
        {
            if (product.N == Vocabulary) Rows += product.M;
            base.MatMul(product);
        }

        protected override void Dispose(bool disposing)
        {
            if (disposing) Inner.Dispose();
        }
    }

    [Theory]
    [InlineData(DType.BFloat16)]
    [InlineData(DType.Float16)]
    public void A_new_adapter_in_16_bits_learns_in_its_first_step(DType dtype)
    {
        var fixture = new Fixture("llama");
        double Norm(DType type)
        {
            using var model = LanguageModel.Load(fixture.Model, new LoadOptions { DType = type });
            model.AddLora(new LoraOptions { Rank = 4 });
            using var engine = new TrainingEngine(model, new EngineOptions { MaxTokens = fixture.MaxBatchTokens, MaxSequenceLength = 512, AdamW = s_adamW });
            var batch = fixture.Batch([0, 1, 2, 3]);
            engine.BeginStep(1, batch.LabelTokenCount);
            engine.Accumulate(batch);
            return engine.EndStep(0).GradientNorm;
        }
        // B is zero, so the gradient is B's alone and comes from A's copy in the compute dtype.
        Assert.Equal(1, Norm(dtype) / Norm(DType.Float32), 0.01);
    }

    [Fact]
    public void Fp16_keeps_gradients_that_its_numbers_could_not_hold_when_divided()
    {
        var fixture = new Fixture("llama");
        double Norm(DType dtype)
        {
            using var model = LanguageModel.Load(fixture.Model, new LoadOptions { DType = dtype });
            model.LoadAdapter(fixture.Adapter);
            using var engine = new TrainingEngine(model, new EngineOptions { MaxTokens = fixture.MaxBatchTokens, MaxSequenceLength = 512, AdamW = s_adamW });
            // As if this micro-batch were a part of a step of sixteen million tokens.
            engine.BeginStep(1, 1 << 24);
            engine.Accumulate(fixture.Batch([0, 1, 2, 3]));
            return engine.EndStep(0).GradientNorm;
        }
        Assert.Equal(1, Norm(DType.Float16) / Norm(DType.Float32), 0.01);
    }

    [Fact]
    public void Answers_before_a_run_do_not_count_as_its_memory()
    {
        var fixture = new Fixture("gemma2");
        using var model = LanguageModel.Load(fixture.Model);
        model.LoadAdapter(fixture.Adapter);
        using (var generator = new TextGenerator(model, 2, 64)) generator.Generate([[1, 2, 3], [4, 5]], new GenerationOptions { MaxNewTokens = 4 });
        using var engine = new TrainingEngine(model, new EngineOptions { MaxTokens = fixture.MaxBatchTokens, MaxSequenceLength = 512, AdamW = s_adamW });
        engine.BeginStep(1, 1);
        engine.Accumulate(fixture.Batch([0, 1, 2, 3]));
        engine.EndStep(0);
        Assert.InRange(engine.PeakMemoryBytes, 0.98 * engine.Plan.PeakBytes, 1.02 * engine.Plan.PeakBytes);
    }

    [Fact]
    public void A_run_that_is_stopped_before_its_first_step_can_be_resumed()
    {
        var fixture = new Fixture("llama");
        using var output = new ModelFolder("llama");
        using var stopped = new CancellationTokenSource();
        stopped.Cancel();
        SftResult Run(bool resume, CancellationToken cancellation)
        {
            using var model = LanguageModel.Load(fixture.Model);
            model.LoadAdapter(fixture.Adapter);
            var batch = fixture.Batch([0, 1, 2, 3]);
            var rows = Enumerable.Range(0, 4).Select(i => new TokenizedRow([1, 2, 3, 4 + i], [1, 2, 3, 4 + i])).ToList();
            return new SftTrainer(model, new SftDataset(rows), new SftOptions { Output = output.Path, MaxSteps = 2, Resume = resume }).Train(null, cancellation);
        }
        var first = Run(false, stopped.Token);
        Assert.True(first.IsInterrupted);
        Assert.Empty(first.Steps);
        var second = Run(true, CancellationToken.None);
        Assert.False(second.IsInterrupted);
        Assert.Equal([1, 2], second.Steps.Select(step => step.Step));
    }
}

/// <summary>A temporary folder with the config.json of a tiny model.</summary>
internal sealed class ModelFolder : IDisposable
{
    public ModelFolder(string family, params (string Key, object Value)[] more)
    {
        var config = new Dictionary<string, object>
        {
            ["model_type"] = family,
            ["hidden_size"] = 32,
            ["intermediate_size"] = 48,
            ["num_hidden_layers"] = 2,
            ["num_attention_heads"] = 2,
            ["num_key_value_heads"] = 1,
            ["head_dim"] = 16,
            ["vocab_size"] = 64,
            ["max_position_embeddings"] = 256,
            ["sliding_window"] = 8,
            ["query_pre_attn_scalar"] = 16,
            ["hidden_activation"] = "gelu_pytorch_tanh",
        };
        foreach (var (key, value) in more) config[key] = value;
        File.WriteAllText(System.IO.Path.Combine(Path, "config.json"), JsonSerializer.Serialize(config));
    }

    public string Path { get; } = Directory.CreateTempSubdirectory("lancet-test-").FullName;

    public void Dispose() => Directory.Delete(Path, true);
}
