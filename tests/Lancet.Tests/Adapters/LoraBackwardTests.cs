using Lancet.Adapters;
using Lancet.Data;
using Lancet.Devices;
using Lancet.Devices.Cpu;
using Lancet.Kernels;
using Lancet.Layers;
using Lancet.Models;
using Lancet.Tests.Devices;
using Lancet.Tile;
using Lancet.Training;

namespace Lancet.Tests.Adapters;

/// <summary>Steps of models whose adapters' backward pass reads gradients of outputs once, for v and dB together (<see cref="LoraBackwardKernel"/>), and inputs once where they are dropped (<see cref="LoraDropoutKernel"/>) or made by an activation (<see cref="LoraActivationKernel"/>) or a norm (<see cref="LoraNormKernel"/>).</summary>
public sealed class LoraBackwardTests : IDisposable
{
    private const int Tokens = 96;
    private const int Vocabulary = 300;
    private readonly string _folder = Directory.CreateTempSubdirectory("lancet-lora-backward-").FullName;

    public void Dispose() => Directory.Delete(_folder, true);

    [Theory]
    [InlineData(false, 16, 0)]
    [InlineData(true, 8, 0)]
    [InlineData(false, 32, 0, "q_proj", "k_proj", "v_proj", "down_proj")]
    [InlineData(false, 16, 0, "k_proj", "v_proj", "up_proj", "down_proj")]
    [InlineData(false, 16, 0.2)]
    [InlineData(true, 8, 0.1)]
    [InlineData(false, 32, 0.5, "q_proj", "v_proj", "down_proj")]
    public void Gradients_are_those_of_separate_products(bool isQuantized, int rank, double dropout, params string[] targets)
    {
        WriteConfig();
        (Dictionary<string, float[]> Gradients, int Launches, int DroppingLaunches, int ActivationLaunches) Run(Device inner, DType dtype, ActivationPolicy policy, int chunk = Tokens)
        {
            using var device = new CountingDevice(inner);
            using var model = LanguageModel.Load(_folder, new LoadOptions { Device = device, IsDrawn = true, DType = dtype, QuantizesToNf4 = isQuantized });
            model.AddLora(new LoraOptions { Rank = rank, Alpha = 4 * rank, Dropout = dropout, TargetModules = targets.Length > 0 ? targets : [LoraOptions.AllLinear] });
            using var engine = new TrainingEngine(model, new EngineOptions { MaxTokens = Tokens, MaxSequenceLength = Tokens, Policy = policy, MaxGradientNorm = 0, MlpChunkTokens = chunk });
            DrawB(model, rank);
            PackedBatch[] batches = [Batch(0), Batch(1)];
            engine.BeginStep(1, batches.Sum(batch => batch.LabelTokenCount));
            foreach (var batch in batches) engine.Accumulate(batch);
            _ = engine.EndStep(0);
            return (model.Trained!.Weights.ToDictionary(weight => weight.Name, weight => weight.Gradient.HostSpan<float>().ToArray()), device.Launches, device.DroppingLaunches, device.ActivationLaunches);
        }
        var exact = Run(new CpuDevice(), DType.Float32, ActivationPolicy.Keep).Gradients;
        var separate = Run(new CpuDevice(), DType.BFloat16, ActivationPolicy.Keep);
        Assert.Equal(0, separate.Launches);
        var together = Run(new GpuPlanDevice(), DType.BFloat16, ActivationPolicy.Keep);
        Assert.True(together.Launches > 0);
        Assert.Equal(dropout > 0, together.DroppingLaunches > 0);
        // Three layers and two batches: h with u, and gradients with dA.
        Assert.Equal((0, dropout > 0 ? 0 : 12), (separate.ActivationLaunches, together.ActivationLaunches));
        // Roundings differ from weight to weight by chance, but not on the whole; a wrong operand would be off by as much as there is.
        double Error(Dictionary<string, float[]> gradients, string weight) => Math.Sqrt(exact[weight].Zip(gradients[weight], (x, y) => Math.Pow(x - y, 2)).Sum() / exact[weight].Sum(x => (double)x * x));
        Assert.All(exact.Keys, weight => Assert.InRange(Error(together.Gradients, weight), 0, 0.02));
        // A GPU's products round NF4 weights to bf16, which the processor's do not.
        if (!isQuantized) Assert.InRange(exact.Keys.Average(weight => Error(together.Gradients, weight)), 0, 1.05 * exact.Keys.Average(weight => Error(separate.Gradients, weight)));
        // Chunks of tokens add up in another order, and drop what the whole batch drops.
        var cut = Run(new GpuPlanDevice(), DType.BFloat16, ActivationPolicy.Keep, 40).Gradients;
        Assert.All(exact.Keys, weight => Assert.InRange(Error(cut, weight), 0, 0.02));
        foreach (var policy in new[] { ActivationPolicy.RecomputeMlp, ActivationPolicy.KeepInput, ActivationPolicy.OffloadInput, ActivationPolicy.OffloadQkv })
        {
            var other = Run(new LateCopyDevice(), DType.BFloat16, policy);
            Assert.Equal(together.Gradients, other.Gradients);
            Assert.Equal(together.Launches, other.Launches);
        }
    }

    /// <summary>Adapters with dropout in the border lose nothing of their input where nothing is trained.</summary>
    [Fact]
    public void Evaluation_drops_nothing()
    {
        WriteConfig();
        (float[] Evaluated, double Trained) Run(double dropout)
        {
            using var model = LanguageModel.Load(_folder, new LoadOptions { Device = new GpuPlanDevice(), OwnsDevice = true, IsDrawn = true, DType = DType.BFloat16 });
            model.AddLora(new LoraOptions { Rank = 16, Alpha = 64, Dropout = dropout, TargetModules = [LoraOptions.AllLinear] });
            using var engine = new TrainingEngine(model, new EngineOptions { MaxTokens = Tokens, MaxSequenceLength = Tokens });
            DrawB(model, 16);
            Assert.All(model.Decoder.Layers.SelectMany(layer => layer.Groups), group => Assert.True(group.IsBordered));
            using var evaluation = new EvaluationEngine(model, Tokens, Tokens);
            var batch = Batch(0);
            var losses = new float[Tokens];
            evaluation.Evaluate(batch, losses);
            engine.BeginStep(1, batch.LabelTokenCount);
            engine.Accumulate(batch);
            return (losses, engine.EndStep(0).Loss);
        }
        var (plain, dropping) = (Run(0), Run(0.5));
        Assert.Equal(plain.Evaluated, dropping.Evaluated);
        Assert.NotEqual(plain.Trained, dropping.Trained);
    }

    private void WriteConfig() => File.WriteAllText(
        Path.Combine(_folder, "config.json"),
        $$"""{"model_type":"llama","hidden_size":512,"intermediate_size":768,"num_hidden_layers":3,"num_attention_heads":8,"num_key_value_heads":4,"vocab_size":{{Vocabulary}},"rms_norm_eps":1e-5,"max_position_embeddings":2048}""");

    /// <summary>B as after some steps, in the masters and in what is read.</summary>
    private static void DrawB(LanguageModel model, int seed)
    {
        var random = new DeterministicRandom(seed);
        foreach (var weight in model.Trained!.Weights.Where(weight => weight.Name.Contains("lora_B", StringComparison.Ordinal)))
            foreach (ref var value in model.Trained.Master(weight).HostSpan<float>()) value = (float)(random.NextDouble() - 0.5) / 8;
        model.Trained.RefreshCopy(model.Device);
    }

    private static PackedBatch Batch(int number)
    {
        // Rows of a strip's last step are masked.
        var length = Tokens - (7 * number);
        var batch = new PackedBatch(Tokens, 1);
        int[] ids = [.. Enumerable.Range(0, length).Select(i => ((i * i) + (7 * i * (number + 1))) % Vocabulary)];
        batch.Add(ids, ids);
        return batch;
    }

    /// <summary>Counts the kernel's launches.</summary>
    private sealed class CountingDevice(Device inner) : ForwardingDevice(inner)
    {
        public int Launches { get; private set; }

        public int DroppingLaunches { get; private set; }

        public int ActivationLaunches { get; private set; }

        public override void Launch(Kernel kernel, Grid grid, ReadOnlySpan<KernelArgument> arguments)
        {
            if (kernel.Name == "lora_backward") Launches++;
            if (kernel.Name.StartsWith("lora_dropout", StringComparison.Ordinal)) DroppingLaunches++;
            if (kernel.Name.StartsWith("lora_activation", StringComparison.Ordinal)) ActivationLaunches++;
            base.Launch(kernel, grid, arguments);
        }

        protected override void Dispose(bool disposing) => Inner.Dispose();
    }
}
