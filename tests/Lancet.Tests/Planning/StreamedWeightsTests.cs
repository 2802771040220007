using Lancet.Adapters;
using Lancet.Data;
using Lancet.Devices;
using Lancet.Layers;
using Lancet.Models;
using Lancet.Planning;
using Lancet.Tests.Devices;
using Lancet.Tests.Training;
using Lancet.Tile;
using Lancet.Training;

namespace Lancet.Tests.Planning;

/// <summary>Frozen weights that wait in host memory: what a run computes with them, what memory it takes, and when a plan has any.</summary>
public sealed class StreamedWeightsTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("lancet-streamed-").FullName;

    public void Dispose() => Directory.Delete(_folder, true);

    public static TheoryData<string, bool> Models() => new(new[] { "llama", "gemma2", "qwen2", "cohere2", "mixtral", "qwen3-moe" }.SelectMany(name => new[] { (name, false), (name, true) }));

    [Theory]
    [MemberData(nameof(Models))]
    public void Streamed_weights_change_no_bit_and_can_be_read_at_any_time(string name, bool isQuantized)
    {
        var fixture = new Fixture(name);
        var batch = fixture.Batch([0, 1]);
        (List<double> Results, Dictionary<string, float[]> Weights, float[] Losses) Run(Device device, int streamed, bool whileLoading)
        {
            using var model = LanguageModel.Load(fixture.Model, new LoadOptions { Device = device, OwnsDevice = true, QuantizesToNf4 = isQuantized, StreamedLayers = whileLoading ? streamed : 0 });
            Assert.Equal(whileLoading, model.Decoder.Stream is not null);
            model.LoadAdapter(fixture.Adapter);
            using var engine = new TrainingEngine(model, fixture.PlainOptions with { StreamedLayers = streamed, Policy = ActivationPolicy.OffloadAttention });
            Assert.Equal(streamed == 0, model.Decoder.Stream is null);
            var results = new List<double>();
            for (var step = 0; step < 3; step++)
            {
                var result = fixture.Step(engine, step);
                results.AddRange([result.Loss, result.GradientNorm]);
            }
            var losses = new float[batch.TokenCount];
            engine.Evaluate(batch, losses);
            return (results, model.Decoder.Weights.Concat(model.Trained!.Weights).DistinctBy(weight => weight.Name).ToDictionary(weight => weight.Name, model.Read), losses);
        }
        var expected = Run(new GpuPlanDevice(), 0, false);
        var layers = ModelConfig.Load(fixture.Model).LayerCount;
        for (var streamed = 1; streamed <= layers; streamed++)
        {
            foreach (var whileLoading in new[] { false, true })
            {
                var actual = Run(new LateCopyDevice(), streamed, whileLoading);
                Assert.Equal(expected.Results, actual.Results);
                Assert.Equal(expected.Weights, actual.Weights);
                Assert.Equal(expected.Losses, actual.Losses);
            }
        }
    }

    [Theory]
    [InlineData("lora")]
    [InlineData("qlora")]
    [InlineData("some")]
    public void Slots_are_used_again_and_again_in_deep_models(string method)
    {
        const int layers = 9;
        File.WriteAllText(Path.Combine(_folder, "config.json"), Config(layers));
        (double, double)[] Run(Device device, int streamed, ActivationPolicy policy)
        {
            var options = new LoadOptions { Device = device, OwnsDevice = true, IsDrawn = true, DType = DType.BFloat16, QuantizesToNf4 = method == "qlora", StreamedLayers = policy == ActivationPolicy.Keep ? streamed : 0 };
            using var model = LanguageModel.Load(_folder, options);
            // Projections without an adapter lie as they were loaded, beside those with theirs in the border.
            model.AddLora(method == "some" ? new LoraOptions { TargetModules = ["v_proj", "down_proj"] } : new LoraOptions());
            using var engine = new TrainingEngine(model, new EngineOptions { MaxTokens = Tokens, MaxSequenceLength = Tokens, StreamedLayers = streamed, Policy = policy });
            return [.. Enumerable.Range(1, 3).Select(step => Step(engine, step)).Select(result => (result.Loss, result.GradientNorm))];
        }
        var expected = Run(new GpuPlanDevice(), 0, ActivationPolicy.Keep);
        Assert.NotEqual(expected[0], expected[1]);
        foreach (var streamed in new[] { 1, 3, 4, 6, layers })
            foreach (var policy in new[] { ActivationPolicy.Keep, ActivationPolicy.OffloadQkv }) Assert.Equal(expected, Run(new LateCopyDevice(), streamed, policy));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Memory_is_saved_as_planned(bool isQuantized)
    {
        const int layers = 12;
        File.WriteAllText(Path.Combine(_folder, "config.json"), Config(layers));
        (MemoryPlan Plan, long Peak, double Seconds) Run(int streamed, bool whileLoading)
        {
            using var model = LanguageModel.Load(_folder, new LoadOptions { Device = new GpuPlanDevice(), OwnsDevice = true, IsDrawn = true, DType = DType.BFloat16, QuantizesToNf4 = isQuantized, StreamedLayers = whileLoading ? streamed : 0 });
            model.AddLora(new LoraOptions());
            using var engine = new TrainingEngine(model, new EngineOptions { MaxTokens = Tokens, MaxSequenceLength = Tokens, StreamedLayers = streamed, Policy = ActivationPolicy.KeepInput });
            _ = Step(engine, 1);
            return (engine.Plan, engine.PeakMemoryBytes, engine.PredictedSeconds);
        }
        var (without, afterwards, atOnce) = (Run(0, false), Run(layers, false), Run(layers, true));
        foreach (var (plan, peak, _) in new[] { without, afterwards, atOnce }) Assert.Equal(plan.PeakBytes, peak, plan.PeakBytes * 0.01);
        // From config.json alone, too.
        var decoder = new DecoderModel(ModelConfig.Load(_folder));
        LanguageModel.Describe(decoder, new LoraOptions());
        var bytes = decoder.DescribeStorage(PlanTarget.Cuda, DType.BFloat16, isQuantized) + decoder.FrozenBytes(DType.BFloat16, isQuantized);
        var described = StepPlan.Create(decoder, DType.BFloat16, bytes, new EngineOptions { MaxTokens = Tokens, MaxSequenceLength = Tokens, StreamedLayers = layers, Policy = ActivationPolicy.KeepInput }, PlanTarget.Cuda);
        Assert.Equal(string.Join("; ", atOnce.Plan.Entries), string.Join("; ", described.Memory.Entries));
        // A model that streams already is not predicted to copy its weights twice.
        Assert.Equal(1, atOnce.Seconds / described.PredictedSeconds, 1e-9);
        Assert.Equal(1, afterwards.Seconds / described.PredictedSeconds, 1e-9);
        Assert.True(without.Seconds <= described.PredictedSeconds);
        Assert.Equal(0, without.Plan.HostBytes);
        Assert.Equal(afterwards.Plan.HostBytes, atOnce.Plan.HostBytes);
        Assert.True(afterwards.Peak <= without.Peak && atOnce.Peak <= afterwards.Peak);
        // Two of the twelve have a slot.
        Assert.Equal(atOnce.Plan.HostBytes * 10 / 12, without.Peak - atOnce.Peak, atOnce.Plan.HostBytes * 0.01);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_model_that_a_budget_does_not_hold_trains_the_same(bool isQuantized)
    {
        // In bf16 the weights are most of the memory, so they are streamed as they are loaded; in NF4 they fit until the step is planned.
        File.WriteAllText(Path.Combine(_folder, "config.json"), Config(12, 512));
        var options = new EngineOptions { MaxTokens = Tokens, MaxSequenceLength = Tokens };
        (DecoderModel Decoder, long WeightBytes) Describe()
        {
            var decoder = new DecoderModel(ModelConfig.Load(_folder));
            LanguageModel.Describe(decoder, new LoraOptions { Rank = 4 });
            return (decoder, decoder.DescribeStorage(PlanTarget.Cuda, DType.BFloat16, isQuantized) + decoder.FrozenBytes(DType.BFloat16, isQuantized));
        }
        StepPlan Plan(EngineOptions with) => StepPlan.Create(Describe().Decoder, DType.BFloat16, Describe().WeightBytes, with, PlanTarget.Cuda);
        var least = Enum.GetValues<ActivationPolicy>().Min(policy => Plan(options with { Policy = policy }).Memory.PeakBytes);
        var tight = options with { MemoryBudget = least - (Describe().WeightBytes * (isQuantized ? 2 : 3) / 4), HostMemoryBudget = 1 << 30 };
        Assert.Contains("The run needs", Assert.Throws<LancetException>(() => Plan(tight with { StreamedLayers = 0 })).Message);
        Assert.True(Plan(tight).StreamedLayers.Count > StreamSchedule.Slots);
        (double, double)[] Run(EngineOptions with, bool isTight)
        {
            var device = new GpuPlanDevice();
            var (decoder, weightBytes) = Describe();
            var streamed = StepPlan.LayersToStream(decoder, DType.BFloat16, weightBytes, with, device);
            Assert.Equal(isTight && !isQuantized, streamed > 0);
            using var model = LanguageModel.Load(_folder, new LoadOptions { Device = device, OwnsDevice = true, IsDrawn = true, DType = DType.BFloat16, QuantizesToNf4 = isQuantized, StreamedLayers = streamed });
            model.AddLora(new LoraOptions { Rank = 4 });
            using var engine = new TrainingEngine(model, with);
            (double, double)[] results = [.. Enumerable.Range(1, 3).Select(step => Step(engine, step)).Select(result => (result.Loss, result.GradientNorm))];
            Assert.Equal(isTight, model.Decoder.Stream is not null);
            Assert.InRange(engine.Plan.PeakBytes, 0, with.MemoryBudget);
            Assert.Equal(engine.Plan.PeakBytes, engine.PeakMemoryBytes, engine.Plan.PeakBytes * 0.02);
            return results;
        }
        Assert.Equal(Run(options with { MemoryBudget = 1 << 30 }, false), Run(tight, true));
    }

    [Fact]
    public void An_adapter_that_is_refused_leaves_the_weights_streamed()
    {
        using var model = LanguageModel.Load(new Fixture("llama").Model, new LoadOptions { Device = new GpuPlanDevice(), OwnsDevice = true, StreamedLayers = 3 });
        Assert.Throws<LancetException>(() => model.AddLora(new LoraOptions { TargetModules = ["nothing"] }));
        Assert.NotNull(model.Decoder.Stream);
    }

    [Fact]
    public void A_number_of_layers_that_there_are_not_is_an_error()
    {
        var fixture = new Fixture("llama");
        using var model = LanguageModel.Load(fixture.Model, new LoadOptions { Device = new GpuPlanDevice(), OwnsDevice = true });
        model.LoadAdapter(fixture.Adapter);
        Assert.Contains("--streamed-layers 4: the model has 3 layers", Assert.Throws<LancetException>(() => new TrainingEngine(model, fixture.PlainOptions with { StreamedLayers = 4 })).Message);
        using var trained = LanguageModel.Load(fixture.Model, new LoadOptions { Device = new GpuPlanDevice(), OwnsDevice = true, IsFullyTrained = true });
        Assert.Contains("only layers with frozen matrices", Assert.Throws<LancetException>(() => new TrainingEngine(trained, fixture.PlainOptions with { StreamedLayers = 1 })).Message);
    }

    [Theory]
    [InlineData(32, 1)]
    [InlineData(32, 12)]
    [InlineData(32, 20)]
    [InlineData(32, 32)]
    [InlineData(3, 2)]
    public void Streamed_layers_are_different_ones_up_to_the_last(int layers, int count)
    {
        var streamed = StreamSchedule.Spread(layers, count);
        Assert.Equal(count, streamed.Distinct().Count());
        Assert.Equal(streamed.Order(), streamed);
        Assert.InRange(streamed[0], 0, layers - 1);
        Assert.Equal(layers - 1, streamed[^1]);
    }

    private const int Tokens = 96;

    private static string Config(int layers, int hidden = 128) =>
        $$"""{"model_type":"llama","hidden_size":{{hidden}},"intermediate_size":{{2 * hidden}},"num_hidden_layers":{{layers}},"num_attention_heads":4,"num_key_value_heads":2,"vocab_size":300,"rms_norm_eps":1e-5,"max_position_embeddings":2048}""";

    private static StepResult Step(TrainingEngine engine, int step)
    {
        var batch = new PackedBatch(Tokens, 1);
        int[] ids = [.. Enumerable.Range(0, Tokens).Select(i => (i * 7 * step) % 300)];
        batch.Add(ids, ids);
        engine.BeginStep(step, batch.LabelTokenCount);
        engine.Accumulate(batch);
        return engine.EndStep(0.01);
    }
}
