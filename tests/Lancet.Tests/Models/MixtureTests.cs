using System.Text.Json.Nodes;
using Lancet.Adapters;
using Lancet.Devices;
using Lancet.Devices.Cpu;
using Lancet.Formats;
using Lancet.Kernels;
using Lancet.Layers;
using Lancet.Models;
using Lancet.Tests.Devices;
using Lancet.Tests.Training;
using Lancet.Tile;
using Lancet.Tile.Cpu;
using Lancet.Training;

namespace Lancet.Tests.Models;

/// <summary>Models with experts beyond the golden fixtures, whose adapters are on attention: adapters of experts and routers, dense layers among sparse ones, files.</summary>
public sealed class MixtureTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("lancet-test-").FullName;

    public void Dispose() => Directory.Delete(_folder, true);

    [Theory]
    [InlineData("mixtral", 0.0, "w1", "w2", "w3", "gate")]
    [InlineData("mixtral", 0.3, "w1", "w2", "o_proj")]
    [InlineData("qwen3-moe", 0.2, "down_proj", "gate")]
    [InlineData("qwen3-moe", 0.0, "up_proj", "q_proj")]
    public void Gradients_of_experts_adapters_agree_with_central_differences_in_fp64(string name, double dropout, params string[] targets)
    {
        var fixture = new Fixture(name);
        using var model = LanguageModel.Load(fixture.Model, new LoadOptions { DType = DType.Float64 });
        AddDrawnLora(model, new LoraOptions { Rank = 3, Alpha = 5, Dropout = dropout, TargetModules = targets });
        using var differences = new CentralDifferences(model, fixture);
        var gradients = differences.Gradients;
        var random = new DeterministicRandom(3);
        // Small steps, lest a token changes its experts between the two.
        foreach (var (weight, gradient) in gradients.Where(item => !item.Key.Name.Contains("layers.1.", StringComparison.Ordinal)))
            differences.Check(weight, random.NextInt32(gradient.Length), 1e-5);
        Assert.Contains(gradients, item => item.Key.Name.Contains("experts.2.", StringComparison.Ordinal) && item.Value.Any(value => value != 0));
    }

    [Theory]
    [InlineData("mixtral", false)]
    [InlineData("qwen3-moe", false)]
    [InlineData("qwen3-moe", true)]
    public void Adapters_of_experts_are_saved_as_peft_names_them_and_merged(string name, bool withRouter)
    {
        var fixture = new Fixture(name);
        var (adapter, merged) = (Path.Combine(_folder, "adapter"), Path.Combine(_folder, "merged"));
        string[] targets = withRouter ? ["gate", "down_proj"] : [LoraOptions.AllLinear];
        float[] expected;
        using (var model = LanguageModel.Load(fixture.Model))
        {
            AddDrawnLora(model, new LoraOptions { Rank = 4, TargetModules = targets });
            model.SaveAdapter(adapter);
            ModelWriter.Save(merged, model, DType.Float32);
            expected = Losses(model, fixture);
        }
        using (SafetensorsFile before = SafetensorsFile.Open(Path.Combine(fixture.Model, "model.safetensors")), after = SafetensorsFile.Open(Path.Combine(merged, "model.safetensors")))
            Assert.Equal(before.Entries.Keys.Order(), after.Entries.Keys.Order());
        using (var file = SafetensorsFile.Open(Path.Combine(adapter, "adapter_model.safetensors")))
        {
            var block = "base_model.model.model.layers.2." + (name == "mixtral" ? "block_sparse_moe" : "mlp");
            Assert.Contains($"{block}.experts.3.{(name == "mixtral" ? "w2" : "down_proj")}.lora_B.weight", file.Entries.Keys);
            Assert.Equal(withRouter, file.Entries.ContainsKey($"{block}.gate.lora_A.weight"));
        }
        using (var again = LanguageModel.Load(fixture.Model))
        {
            again.LoadAdapter(adapter);
            Assert.Equal(expected, Losses(again, fixture));
        }
        using var alone = LanguageModel.Load(merged);
        foreach (var (a, b) in expected.Zip(Losses(alone, fixture))) Assert.Equal(a, b, 2e-5f);
    }

    [Theory]
    [InlineData("mixtral", DType.BFloat16, false, false)]
    [InlineData("mixtral", DType.BFloat16, true, false)]
    [InlineData("qwen3-moe", DType.Float16, false, true)]
    [InlineData("qwen3-moe", DType.Float32, true, true)]
    public void A_step_on_the_simulated_gpu_computes_what_the_executor_computes(string name, DType dtype, bool isQuantized, bool isHopper)
    {
        var fixture = new Fixture(name);
        using var model = LanguageModel.Load(fixture.Model, new LoadOptions { Device = isHopper ? new SimulatorDevice(Tile.Ptx.PtxTarget.Sm90) : new SimulatorDevice(), OwnsDevice = true, DType = dtype, QuantizesToNf4 = isQuantized });
        AddDrawnLora(model, new LoraOptions { Rank = 4 });
        using var engine = new TrainingEngine(model, Options(fixture) with { Policy = ActivationPolicy.RecomputeMlp });
        var result = Step(engine, fixture, 1);
        // The losses of the processor in fp32, to the rounding of the dtype and of NF4.
        using var plain = LanguageModel.Load(fixture.Model, new LoadOptions { QuantizesToNf4 = isQuantized });
        AddDrawnLora(plain, new LoraOptions { Rank = 4 });
        using var reference = new TrainingEngine(plain, Options(fixture));
        var expected = Step(reference, fixture, 1);
        Assert.Equal(expected.Loss, result.Loss, dtype == DType.Float32 ? 1e-5 : 0.05);
        Assert.Equal(1, expected.GradientNorm / result.GradientNorm, dtype == DType.Float32 ? 1e-4 : 0.1);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_gpu_writes_experts_out_from_nf4_and_plans_for_it(bool hasDropout)
    {
        var fixture = new Fixture("qwen3-moe");
        (List<StepResult> Results, MemoryPlan Plan) Run(Device device)
        {
            using var model = LanguageModel.Load(fixture.Model, new LoadOptions { Device = device, OwnsDevice = true, QuantizesToNf4 = true });
            AddDrawnLora(model, new LoraOptions { Rank = 4, Dropout = hasDropout ? 0.1 : 0 });
            using var engine = new TrainingEngine(model, Options(fixture) with { Policy = ActivationPolicy.Keep });
            return ([.. Enumerable.Range(1, 3).Select(step => Step(engine, fixture, step))], engine.Plan);
        }
        var (processor, gpu) = (Run(new CpuDevice()), Run(new GpuPlanDevice()));
        foreach (var (a, b) in processor.Results.Zip(gpu.Results)) Assert.Equal(a.Loss, b.Loss, 1e-5);
        Assert.True(gpu.Plan.Entries.Single(entry => entry.Purpose == "step workspace").Bytes >= processor.Plan.Entries.Single(entry => entry.Purpose == "step workspace").Bytes);
    }

    [Fact]
    public void A_step_is_planned_exactly_and_gives_the_same_bits_on_any_number_of_threads()
    {
        var fixture = new Fixture("qwen3-moe");
        List<(double, double)>? first = null;
        foreach (var threads in (int[])[1, 2, 3])
        {
            using var pool = new WorkerPool(threads);
            using var model = LanguageModel.Load(fixture.Model, new LoadOptions { Device = new CpuDevice(pool), OwnsDevice = true });
            AddDrawnLora(model, new LoraOptions { Rank = 4 });
            using var engine = new TrainingEngine(model, Options(fixture));
            var before = model.Device.AllocatedBytes;
            var results = Enumerable.Range(1, 3).Select(step => Step(engine, fixture, step)).Select(result => (result.Loss, result.GradientNorm)).ToList();
            Assert.Equal(before, model.Device.AllocatedBytes);
            Assert.InRange(engine.PeakMemoryBytes, 0.98 * engine.Plan.PeakBytes, 1.02 * engine.Plan.PeakBytes);
            first ??= results;
            Assert.Equal(first, results);
        }
    }

    [Fact]
    public void Layers_that_the_config_leaves_dense_have_one_mlp()
    {
        ModelConfig Config(string more) => ModelConfig.Parse($$"""
            {"model_type": "qwen3_moe", "hidden_size": 64, "intermediate_size": 96, "moe_intermediate_size": 32, "num_hidden_layers": 6, "num_attention_heads": 4, "vocab_size": 320, "num_experts": 4,
             "num_experts_per_tok": 2, {{more}} }
            """, "config.json");
        Assert.Equal([true, false, true, true, true, true], Sparse(Config("\"mlp_only_layers\": [1]")));
        Assert.Equal([false, true, false, false, false, true], Sparse(Config("\"decoder_sparse_step\": 2, \"mlp_only_layers\": [3]")));
        Assert.False(Config("\"mlp_only_layers\": []").Experts!.IsNormalized);
        var names = new DecoderModel(Config("\"mlp_only_layers\": [1]")).Weights.ToDictionary(weight => weight.Name, weight => weight.Shape[0]);
        Assert.Equal((96, 32), (names["model.layers.1.mlp.gate_proj.weight"], names["model.layers.2.mlp.experts.3.gate_proj.weight"]));
        Assert.Equal(1e6, ModelConfig.Parse("""{"model_type": "mixtral", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 320}""", "config.json").Rotary.Theta);
        static IEnumerable<bool> Sparse(ModelConfig config) => Enumerable.Range(0, config.LayerCount).Select(config.IsSparse);
    }

    [Fact]
    public void A_layers_experts_are_adapted_alike_or_not_at_all()
    {
        var fixture = new Fixture("mixtral");
        using var model = LanguageModel.Load(fixture.Model);
        var error = Assert.Throws<LancetException>(() => LanguageModel.Describe(new DecoderModel(model.Config), new LoraOptions { TargetModules = ["experts.1.w2"] }));
        Assert.Contains("layers.0.block_sparse_moe.experts.1.w2 has an adapter and model.layers.0.block_sparse_moe.experts.0.w2 has none", error.Message);
        AddDrawnLora(model, new LoraOptions { Rank = 2 });
        model.SaveAdapter(_folder);
        var path = Path.Combine(_folder, "adapter_config.json");
        var config = JsonNode.Parse(File.ReadAllText(path))!.AsObject();
        config["alpha_pattern"] = new JsonObject { ["model.layers.1.block_sparse_moe.experts.2.w3"] = 7 };
        File.WriteAllText(path, config.ToJsonString());
        using var again = LanguageModel.Load(fixture.Model);
        Assert.Contains("adapters of a layer's experts must be alike", Assert.Throws<LancetException>(() => again.LoadAdapter(_folder)).Message);
    }

    [Theory]
    [InlineData("\"model_type\": \"mixtral\", \"num_experts_per_tok\": 9", "num_experts_per_tok is 9; 1 to num_local_experts 8 are possible")]
    [InlineData("\"model_type\": \"mixtral\", \"num_local_experts\": 1000", "num_local_experts is 1000; 1 to 512 experts are supported")]
    [InlineData("\"model_type\": \"mixtral\", \"output_router_logits\": true", "output_router_logits is true")]
    [InlineData("\"model_type\": \"qwen3_moe\", \"decoder_sparse_step\": 0", "decoder_sparse_step is 0; a positive integer is expected")]
    [InlineData("\"model_type\": \"qwen3_moe\", \"moe_intermediate_size\": 0", "the experts' intermediate size is 0; a positive integer is expected")]
    public void What_makes_no_sense_is_one_clear_error(string keys, string message)
    {
        var error = Assert.Throws<LancetException>(() => ModelConfig.Parse($$"""{"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 320, {{keys}} }""", "config.json"));
        Assert.Contains(message, error.Message, StringComparison.Ordinal);
    }

    /// <summary>An adapter whose B is not zero, so that everything that it does shows.</summary>
    internal static void AddDrawnLora(LanguageModel model, LoraOptions options)
    {
        model.AddLora(options);
        var random = new DeterministicRandom(11);
        foreach (var weight in model.Trained!.Weights.Where(weight => weight.Name.Contains("lora_B", StringComparison.Ordinal)))
        {
            var master = model.Trained.Master(weight);
            for (var i = 0; i < master.Count; i++) Kernels.KernelLab.Set(master, i, 0.1 * random.NextNormal());
        }
        model.Trained.RefreshCopy(model.Device);
    }

    internal static float[] Losses(LanguageModel model, Fixture fixture)
    {
        using var engine = new EvaluationEngine(model, fixture.MaxBatchTokens, fixture.MaxBatchTokens);
        var batch = fixture.Batch([0, 1, 2]);
        var losses = new float[batch.TokenCount];
        engine.Evaluate(batch, losses);
        return losses;
    }

    private static EngineOptions Options(Fixture fixture) => fixture.Options with { MaxGradientNorm = 0 };

    private static StepResult Step(TrainingEngine engine, Fixture fixture, int step)
    {
        var batch = fixture.Batch([step, step + 1]);
        engine.BeginStep(step, batch.LabelTokenCount);
        engine.Accumulate(batch);
        return engine.EndStep(1e-3);
    }
}
