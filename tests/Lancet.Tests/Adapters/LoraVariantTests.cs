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
using Lancet.Training;

namespace Lancet.Tests.Adapters;

/// <summary>DoRA, patterns of ranks and alphas, and choices of layers.</summary>
public sealed class LoraVariantTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("lancet-test-").FullName;

    public void Dispose() => Directory.Delete(_folder, true);

    /// <summary>Trained on stretched positions, an adapter is of no use on others. PEFT's own adapters say nothing of it.</summary>
    [Fact]
    public void An_adapter_is_only_loaded_with_the_context_extension_that_it_was_trained_with()
    {
        var fixture = new Fixture("llama");
        LanguageModel Load(string? extension) => LanguageModel.Load(fixture.Model, new LoadOptions { RopeScaling = extension is null ? null : RopeScaling.Parse(extension) });
        using var trained = Load("yarn:4");
        trained.LoadAdapter(fixture.Adapter);
        trained.SaveAdapter(_folder);
        foreach (var other in (string?[])[null, "yarn:2", "linear:4"])
        {
            using var model = Load(other);
            Assert.Contains("--rope-scaling yarn:4;", Assert.Throws<LancetException>(() => model.LoadAdapter(_folder)).Message, StringComparison.Ordinal);
            Assert.Null(model.Adapter);
        }
        using var same = Load("yarn:4");
        same.LoadAdapter(_folder);
        foreach (var (weight, again) in trained.Trained!.Weights.Zip(same.Trained!.Weights)) Assert.Equal(trained.Read(weight), same.Read(again));

        var path = Path.Combine(_folder, "adapter_model.safetensors");
        var bytes = File.ReadAllBytes(path);
        "yurn"u8.CopyTo(bytes.AsSpan(bytes.AsSpan().IndexOf("yarn:4"u8)));
        File.WriteAllBytes(path, bytes);
        Assert.StartsWith($"{path}: rope scaling yurn:4:", Assert.Throws<LancetException>(() => PeftAdapter.Open(_folder)).Message, StringComparison.Ordinal);
    }

    /// <summary>PEFT takes the lengths n of W + s·B·A as constants. So does this: when A or B move, m moves with n such that g = m / n stays.</summary>
    [Theory]
    [InlineData("qwen2", 0.0)]
    [InlineData("gemma2", 0.0)]
    [InlineData("qwen2", 0.3)]
    [InlineData("cohere", 0.0)]
    public void Gradients_of_DoRA_agree_with_central_differences_at_constant_factors(string name, double dropout)
    {
        var fixture = new Fixture(name);
        using var model = LanguageModel.Load(fixture.Model, new LoadOptions { DType = DType.Float64 });
        AddDrawnDora(model, new LoraOptions { Rank = 3, Alpha = 5, Dropout = dropout });
        using var differences = new CentralDifferences(model, fixture);
        var random = new DeterministicRandom(3);
        foreach (var projection in model.Decoder.Projections.Where(projection => !projection.Name.Contains("layers.1.", StringComparison.Ordinal)))
        {
            double[] Master(Weight weight) => model.Trained!.Master(weight).HostSpan<double>().ToArray();
            var (w, magnitudes) = (projection.Weight.Dense.HostSpan<double>().ToArray(), Master(projection.Magnitude!));
            double[] Lengths()
            {
                double[] a = Master(projection.A!), b = Master(projection.B!), lengths = new double[projection.OutFeatures];
                for (var o = 0; o < lengths.Length; o++)
                {
                    for (var i = 0; i < projection.InFeatures; i++)
                    {
                        var value = w[(o * projection.InFeatures) + i];
                        for (var r = 0; r < 3; r++) value += projection.Scale * b[(o * 3) + r] * a[(r * projection.InFeatures) + i];
                        lengths[o] += value * value;
                    }
                    lengths[o] = Math.Sqrt(lengths[o]);
                }
                return lengths;
            }
            var before = Lengths();
            foreach (var weight in projection.Adapter)
            {
                var at = random.NextInt32((int)weight.Shape.Count);
                differences.Check(weight, at, 1e-4, change =>
                {
                    var value = model.Trained!.Master(weight).HostSpan<double>()[at];
                    model.Trained.Master(weight).HostSpan<double>()[at] += change;
                    if (weight != projection.Magnitude)
                    {
                        var now = Lengths();
                        for (var o = 0; o < now.Length; o++) model.Trained.Master(projection.Magnitude!).HostSpan<double>()[o] = magnitudes[o] * now[o] / before[o];
                    }
                    var loss = differences.Loss();
                    model.Trained.Master(weight).HostSpan<double>()[at] = value;
                    magnitudes.CopyTo(model.Trained.Master(projection.Magnitude!).HostSpan<double>());
                    return loss;
                });
            }
        }
    }

    [Theory]
    [InlineData("qwen2", false)]
    [InlineData("phi3", false)]
    [InlineData("llama31-rope", true)]
    public void DoRA_is_saved_as_peft_names_it_read_again_and_merged(string name, bool isLikeGpu)
    {
        var fixture = new Fixture(name);
        var (adapter, merged) = (Path.Combine(_folder, "adapter"), Path.Combine(_folder, "merged"));
        float[] expected;
        using (var model = Load(fixture, isLikeGpu))
        {
            AddDrawnDora(model, new LoraOptions { Rank = 4 });
            AssertBorders(model, isLikeGpu);
            model.SaveAdapter(adapter);
            ModelWriter.Save(merged, model, DType.Float32);
            expected = Losses(model, fixture);
        }
        using (var file = SafetensorsFile.Open(Path.Combine(adapter, "adapter_model.safetensors")))
            Assert.Equal([64L], file["base_model.model.model.layers.1.mlp.down_proj.lora_magnitude_vector"].Dimensions);
        Assert.True(JsonNode.Parse(File.ReadAllText(Path.Combine(adapter, "adapter_config.json")))!["use_dora"]!.GetValue<bool>());
        using (var again = Load(fixture, isLikeGpu))
        {
            again.LoadAdapter(adapter);
            Assert.Equal(expected, Losses(again, fixture));
        }
        using var alone = LanguageModel.Load(merged);
        foreach (var (a, b) in expected.Zip(Losses(alone, fixture))) Assert.Equal(a, b, 2e-5f);
    }

    [Fact]
    public void A_new_DoRA_changes_nothing_until_it_is_trained()
    {
        var fixture = new Fixture("qwen2");
        using var plain = LanguageModel.Load(fixture.Model);
        using var model = LanguageModel.Load(fixture.Model);
        model.AddLora(new LoraOptions { Rank = 4, UsesDora = true });
        foreach (var (a, b) in Losses(plain, fixture).Zip(Losses(model, fixture))) Assert.Equal(a, b, 1e-5f);
    }

    [Theory]
    [InlineData("qwen2", DType.BFloat16, true, 0.1)]
    [InlineData("qwen2", DType.BFloat16, true, 0.0)]
    [InlineData("llama", DType.Float16, false, 0.0)]
    public void A_step_with_DoRA_on_the_simulated_gpu_computes_what_the_executor_computes(string name, DType dtype, bool isQuantized, double dropout)
    {
        var fixture = new Fixture(name);
        using var model = LanguageModel.Load(fixture.Model, new LoadOptions { Device = new SimulatorDevice(), OwnsDevice = true, DType = dtype, QuantizesToNf4 = isQuantized });
        AddDrawnDora(model, new LoraOptions { Rank = 4, Dropout = dropout });
        AssertBorders(model, dropout == 0);
        using var engine = new TrainingEngine(model, Options(fixture));
        var batch = fixture.Batch([0]);
        engine.BeginStep(1, batch.LabelTokenCount);
        engine.Accumulate(batch);
        Assert.True(double.IsFinite(engine.EndStep(1e-3).GradientNorm));
    }

    [Theory]
    [InlineData("gemma2", true, 0.1, false)]
    [InlineData("gemma2", true, 0.0, true)]
    [InlineData("llama", false, 0.0, true)]
    public void A_step_with_DoRA_is_planned_exactly_and_policies_give_the_same_bits(string name, bool isQuantized, double dropout, bool isLikeGpu)
    {
        var fixture = new Fixture(name);
        List<(double, double)>? first = null;
        foreach (var policy in Enum.GetValues<ActivationPolicy>())
        {
            using var model = Load(fixture, isLikeGpu, isQuantized: isQuantized);
            AddDrawnDora(model, new LoraOptions { Rank = 4, Dropout = dropout });
            AssertBorders(model, isLikeGpu);
            using var engine = new TrainingEngine(model, Options(fixture) with { Policy = policy });
            var before = model.Device.AllocatedBytes;
            var results = new List<(double, double)>();
            for (var step = 1; step <= 3; step++)
            {
                var batch = fixture.Batch([step, step + 1]);
                engine.BeginStep(step, batch.LabelTokenCount);
                engine.Accumulate(batch);
                var result = engine.EndStep(1e-3);
                results.Add((result.Loss, result.GradientNorm));
            }
            Assert.Equal(before, model.Device.AllocatedBytes);
            first ??= results;
            Assert.Equal(first, results);
        }
    }

    [Theory]
    [InlineData("llama", false)]
    [InlineData("qwen3-moe", true)]
    public void LoftQ_makes_up_for_as_much_of_the_quantisation_as_the_rank_allows(string name, bool isLikeGpu)
    {
        var fixture = new Fixture(name);
        using var exact = LanguageModel.Load(fixture.Model);
        using var model = LanguageModel.Load(fixture.Model, new LoadOptions { QuantizesToNf4 = true, Device = isLikeGpu ? new GpuPlanDevice() : new CpuDevice(), OwnsDevice = true });
        var weights = exact.Decoder.Weights.ToDictionary(weight => weight.Name, exact.Read);
        var quantized = model.Decoder.Weights.ToDictionary(weight => weight.Name, model.Read);
        const int rank = 6;
        model.AddLora(new LoraOptions { Rank = rank, Alpha = 9, UsesLoftQ = true });
        foreach (var projection in model.Decoder.Projections.Where(projection => projection.A is not null))
        {
            int rows = projection.OutFeatures, columns = projection.InFeatures;
            double[] residual = [.. weights[projection.Weight.Name].Zip(quantized[projection.Weight.Name], (w, q) => (double)w - q)];
            float[] a = model.Read(projection.A!), b = model.Read(projection.B!);
            double left = 0, all = residual.Sum(value => value * value);
            for (var i = 0; i < rows; i++)
            {
                for (var j = 0; j < columns; j++)
                {
                    var value = residual[(i * columns) + j];
                    for (var r = 0; r < rank; r++) value -= (double)projection.Scale * b[(i * rank) + r] * a[(r * columns) + j];
                    left += value * value;
                }
            }
            // What the largest singular values hold, one after the other by power iteration on what is left.
            var best = all;
            for (var r = 0; r < rank; r++) best -= Deflate(residual, rows, columns);
            Assert.True(left <= best + (0.01 * (all - best)), $"{projection.Name}: {left} of {all} is left, {best} could be");
        }
        Assert.Contains("use --method qlora", Assert.Throws<LancetException>(() => exact.AddLora(new LoraOptions { UsesLoftQ = true })).Message);
    }

    /// <summary>Takes the largest singular value out of a matrix and returns its square.</summary>
    private static double Deflate(double[] matrix, int rows, int columns)
    {
        var v = Enumerable.Range(0, columns).Select(i => 1.0 + (i * 0.37 % 1)).ToArray();
        var u = new double[rows];
        for (var iteration = 0; iteration < 300; iteration++)
        {
            for (var i = 0; i < rows; i++) u[i] = Enumerable.Range(0, columns).Sum(j => matrix[(i * columns) + j] * v[j]);
            Normalize(u);
            for (var j = 0; j < columns; j++) v[j] = 0;
            for (var i = 0; i < rows; i++)
                for (var j = 0; j < columns; j++) v[j] += matrix[(i * columns) + j] * u[i];
            if (iteration < 299) Normalize(v);
        }
        for (var i = 0; i < rows; i++)
            for (var j = 0; j < columns; j++) matrix[(i * columns) + j] -= u[i] * v[j];
        return v.Sum(value => value * value);

        static void Normalize(double[] vector)
        {
            var length = Math.Sqrt(vector.Sum(value => value * value));
            for (var i = 0; i < vector.Length; i++) vector[i] /= length;
        }
    }

    [Fact]
    public void Ranks_alphas_and_layers_follow_pefts_patterns()
    {
        var config = ModelConfig.Load(new Fixture("llama").Model);
        var decoder = new DecoderModel(config);
        KeyValuePair<string, double> Pair(string key, double value) => new(key, value);
        LanguageModel.Describe(decoder, new LoraOptions
        {
            Rank = 8,
            Alpha = 16,
            LayersToTransform = [0, 2],
            RankPattern = [Pair("layers.0.self_attn.q_proj", 2), Pair("q_proj", 4), Pair(@"layers\.[12]\.mlp\..*", 6)],
            AlphaPattern = [Pair("down_proj", 3)],
        });
        var projections = decoder.Projections.ToDictionary(projection => projection.Name["model.layers.".Length..]);
        Assert.Equal((2, 4, 8), (Rank("0.self_attn.q_proj"), Rank("2.self_attn.q_proj"), Rank("2.self_attn.k_proj")));
        Assert.Equal((8, 6), (Rank("0.mlp.up_proj"), Rank("2.mlp.up_proj")));
        Assert.All(projections, item => Assert.Equal(item.Key.StartsWith("1.", StringComparison.Ordinal), item.Value.A is null));
        Assert.Equal((3f / 8, 3f / 6, 2f), (projections["0.mlp.down_proj"].Scale, projections["2.mlp.down_proj"].Scale, projections["0.mlp.up_proj"].Scale));
        int Rank(string name) => (int)projections[name].A!.Shape[0];
    }

    [Fact]
    public void Chosen_layers_and_patterns_are_saved_and_read_again()
    {
        var fixture = new Fixture("llama");
        using (var model = LanguageModel.Load(fixture.Model))
        {
            model.AddLora(new LoraOptions { Rank = 8, Alpha = 4, UsesRankStabilization = true, LayersToTransform = [1], RankPattern = [new("v_proj", 2)], AlphaPattern = [new("down_proj", 12)], TargetModules = ["v_proj", "down_proj"] });
            model.SaveAdapter(_folder);
        }
        var config = JsonNode.Parse(File.ReadAllText(Path.Combine(_folder, "adapter_config.json")))!;
        Assert.Equal([1], config["layers_to_transform"]!.AsArray().Select(item => item!.GetValue<int>()));
        using var again = LanguageModel.Load(fixture.Model);
        again.LoadAdapter(_folder);
        var adapted = again.Decoder.Projections.Where(projection => projection.A is not null).ToDictionary(projection => projection.ModuleName);
        Assert.Equal(["down_proj", "v_proj"], adapted.Keys.Order());
        Assert.Equal((2L, 8L), (adapted["v_proj"].A!.Shape[0], adapted["down_proj"].A!.Shape[0]));
        Assert.Equal((4 / Math.Sqrt(2), 12 / Math.Sqrt(8)), (adapted["v_proj"].Scale, adapted["down_proj"].Scale), (a, b) => Math.Abs(a.Item1 - b.Item1) < 1e-6 && Math.Abs(a.Item2 - b.Item2) < 1e-6);
    }

    [Theory]
    [InlineData("rank_pattern has the key (q_proj, which is not a usable regular expression", "(q_proj", 8.0, 0)]
    [InlineData("rank_pattern gives model.layers.0.self_attn.q_proj rank 2.5; a positive integer is expected", "q_proj", 2.5, 0)]
    [InlineData("layers_to_transform 7 leaves no projection to adapt; the layers are 0 to 2", "q_proj", 8.0, 7)]
    public void What_cannot_be_meant_is_one_clear_error(string message, string pattern, double rank, int layer)
    {
        var decoder = new DecoderModel(ModelConfig.Load(new Fixture("llama").Model));
        var error = Assert.Throws<LancetException>(() => LanguageModel.Describe(decoder, new LoraOptions { RankPattern = [new(pattern, rank)], LayersToTransform = [layer] }));
        Assert.Contains(message, error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Experts_have_no_magnitudes_and_files_without_them_no_DoRA()
    {
        var decoder = new DecoderModel(ModelConfig.Load(new Fixture("mixtral").Model));
        Assert.Contains("DoRA's magnitudes of experts are not supported", Assert.Throws<LancetException>(() => LanguageModel.Describe(decoder, new LoraOptions { UsesDora = true })).Message);
        var fixture = new Fixture("llama");
        foreach (var file in Directory.GetFiles(fixture.Adapter)) File.Copy(file, Path.Combine(_folder, Path.GetFileName(file)));
        var path = Path.Combine(_folder, "adapter_config.json");
        var config = JsonNode.Parse(File.ReadAllText(path))!.AsObject();
        config["use_dora"] = true;
        File.WriteAllText(path, config.ToJsonString());
        using var model = LanguageModel.Load(fixture.Model);
        Assert.Contains("has no lora_magnitude_vector; the adapter is not complete", Assert.Throws<LancetException>(() => model.LoadAdapter(_folder)).Message);
    }

    private static LanguageModel Load(Fixture fixture, bool isLikeGpu, bool isQuantized = false) =>
        LanguageModel.Load(fixture.Model, new LoadOptions { Device = isLikeGpu ? new GpuPlanDevice() : new CpuDevice(), OwnsDevice = true, QuantizesToNf4 = isQuantized });

    // Beside NF4 weights only where rows are whole blocks.
    private static void AssertBorders(LanguageModel model, bool areThere) =>
        Assert.All(model.Decoder.Groups, group => Assert.Equal(areThere && (group.InFeatures % 64 == 0 || group.Projections.All(projection => projection.Weight.Quantized is null)), group.IsBordered));

    /// <summary>B not zero and magnitudes away from the lengths, so that everything that they do shows.</summary>
    private static void AddDrawnDora(LanguageModel model, LoraOptions options)
    {
        model.AddLora(options with { UsesDora = true });
        var random = new DeterministicRandom(11);
        foreach (var weight in model.Trained!.Weights)
        {
            var master = model.Trained.Master(weight);
            for (var i = 0; i < master.Count; i++)
            {
                if (weight.Role == WeightRole.Magnitude) Kernels.KernelLab.Set(master, i, Kernels.KernelLab.Get(master, i) * (1 + (0.2 * random.NextNormal())));
                else if (weight.Name.Contains("lora_B", StringComparison.Ordinal)) Kernels.KernelLab.Set(master, i, 0.1 * random.NextNormal());
            }
        }
        model.Trained.RefreshCopy(model.Device);
    }

    private static float[] Losses(LanguageModel model, Fixture fixture)
    {
        using var engine = new EvaluationEngine(model, fixture.MaxBatchTokens, fixture.MaxBatchTokens);
        var batch = fixture.Batch([0, 1, 2]);
        var losses = new float[batch.TokenCount];
        engine.Evaluate(batch, losses);
        return losses;
    }

    private static EngineOptions Options(Fixture fixture) => fixture.Options with { MaxGradientNorm = 0 };
}
