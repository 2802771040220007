using CsCheck;
using Lancet.Adapters;
using Lancet.Devices;
using Lancet.Kernels;
using Lancet.Layers;
using Lancet.Models;
using Lancet.Planning;
using Lancet.Tensors;
using Lancet.Tests.Devices;
using Lancet.Tests.Training;
using Lancet.Tile;
using Lancet.Training;

namespace Lancet.Tests.Planning;

/// <summary>Mixes of activation policies: what they compute, what they are predicted to take, and which one is chosen.</summary>
public class ActivationPolicyTests
{
    private static readonly ActivationPolicy[] s_all = Enum.GetValues<ActivationPolicy>();

    public static TheoryData<string, int> Lags() => new(new[] { "llama", "gemma2", "qwen3", "cohere2", "qwen3-moe" }.SelectMany(name => Enumerable.Range(0, 4).Select(lag => (name, lag))));

    [Theory]
    [MemberData(nameof(Lags))]
    public void Copies_that_arrive_at_the_last_moment_change_no_bit(string name, int lag)
    {
        var fixture = new Fixture(name);
        (double, double)[] Run(Device device, ActivationPolicy[] policies, bool fetchesEarly, int lead)
        {
            using var model = LanguageModel.Load(fixture.Model, new LoadOptions { Device = device, OwnsDevice = true });
            model.LoadAdapter(fixture.Adapter);
            using var engine = new TrainingEngine(model, fixture.PlainOptions with { Mix = (policies, new(lag, fetchesEarly, lead)) });
            return [.. Enumerable.Range(0, 2).Select(step => fixture.Step(engine, step)).Select(result => (result.Loss, result.GradientNorm))];
        }
        var layers = ModelConfig.Load(fixture.Model).LayerCount;
        var expected = Run(new GpuPlanDevice(), [.. Enumerable.Repeat(ActivationPolicy.Keep, layers)], false, 0);
        foreach (var (policy, fetchesEarly, lead) in s_all.Where(policy => SavedParts.Of(policy).UsesHost).SelectMany(policy => new[] { (policy, false, 0), (policy, true, 0), (policy, false, 1), (policy, true, 2) }))
        {
            var device = new LateCopyDevice();
            Assert.Equal(expected, Run(device, [.. Enumerable.Repeat(policy, layers)], fetchesEarly, lead));
            // An input alone is one copy a layer, which is awaited at once without a lag.
            Assert.True(device.CopyCount > 0 && device.MostPending > (policy == ActivationPolicy.OffloadInput && lag == 0 ? 0 : 1));
        }
        // Every policy beside every other.
        for (var shift = 1; shift < s_all.Length; shift++) Assert.Equal(expected, Run(new LateCopyDevice(), [.. Enumerable.Range(0, layers).Select(layer => s_all[layer * shift % s_all.Length])], shift % 2 == 0, shift % 3));
    }

    [Theory]
    [InlineData("llama", false, 16)]
    [InlineData("gemma2", false, 7)]
    [InlineData("granite", true, 16)]
    [InlineData("qwen2", true, 40)]
    [InlineData("llama", false, 16, 0.2)]
    public void Policies_agree_to_the_bit_with_mlps_in_chunks_and_chunks_agree_with_whole_batches(string name, bool isFullyTrained, int chunk, double dropout = 0)
    {
        var fixture = new Fixture(name);
        ((double Loss, double Norm)[] Results, Dictionary<string, float[]> Trained) Run(Device device, int tokens, params ActivationPolicy[] policies)
        {
            using var model = LanguageModel.Load(fixture.Model, new LoadOptions { Device = device, OwnsDevice = true, IsFullyTrained = isFullyTrained });
            if (!isFullyTrained) model.LoadAdapter(fixture.Adapter, dropout);
            var layers = model.Config.LayerCount;
            using var engine = new TrainingEngine(model, fixture.PlainOptions with { Mix = ([.. Enumerable.Range(0, layers).Select(layer => policies[layer % policies.Length])], new(1, tokens == chunk)), MlpChunkTokens = tokens });
            // The second batch is shorter: its last chunks are empty.
            var results = new[] { fixture.Step(engine, 0), fixture.Step(engine, 0, 1) }.Select(result => (result.Loss, result.GradientNorm)).ToArray();
            return (results, model.Trained!.Weights.ToDictionary(weight => weight.Name, weight => model.Trained.Master(weight).HostSpan<float>().ToArray()));
        }
        Assert.True(fixture.MaxBatchTokens > 3 * chunk);
        var whole = Run(new GpuPlanDevice(), fixture.MaxBatchTokens, ActivationPolicy.Keep);
        var cut = Run(new GpuPlanDevice(), chunk, ActivationPolicy.Keep);
        Assert.Equal(whole.Results[0].Loss, cut.Results[0].Loss);
        for (var step = 0; step < 2; step++) Assert.Equal(1, cut.Results[step].Norm / whole.Results[step].Norm, 1e-6);
        Assert.NotEqual(whole.Trained, cut.Trained);
        foreach (var policy in s_all)
        {
            var other = Run(new LateCopyDevice(), chunk, policy);
            Assert.Equal(cut.Results, other.Results);
            Assert.Equal(cut.Trained, other.Trained);
        }
        Assert.Equal(cut.Trained, Run(new LateCopyDevice(), chunk, s_all).Trained);
    }

    [Fact]
    public void Chunks_cover_a_batch_and_none_is_longer_than_in_the_longest() =>
        Gen.Select(Gen.Int[1, 300], Gen.Int[1, 300], Gen.Int[1, 64]).Sample((most, tokens, size) =>
        {
            tokens = Math.Min(tokens, most);
            var chunks = TokenChunks.Of(most, size);
            var next = 0;
            for (var chunk = 0; chunk < chunks.Count; chunk++)
            {
                var (start, count) = chunks.Rows(chunk, tokens);
                Assert.Equal(next, start);
                Assert.InRange(count, 0, chunks.Rows(chunk, most).Count);
                next += count;
            }
            Assert.Equal(tokens, next);
        });

    [Fact]
    public void The_embedding_moves_to_host_memory_where_that_is_what_fits_and_changes_no_bit()
    {
        var fixture = new Fixture("llama");
        ((double, double)[] Results, MemoryPlan Plan, bool IsMoved) Run(ActivationPolicy? policy, long budget)
        {
            using var model = LanguageModel.Load(fixture.Model, new LoadOptions { Device = new GpuPlanDevice(), OwnsDevice = true });
            model.LoadAdapter(fixture.Adapter);
            var embedding = model.Read(model.Decoder.Embedding);
            using var engine = new TrainingEngine(model, fixture.PlainOptions with { Policy = policy, MemoryBudget = budget });
            (double, double)[] results = [.. Enumerable.Range(0, 2).Select(step => fixture.Step(engine, step)).Select(result => (result.Loss, result.GradientNorm))];
            Assert.Equal(embedding, model.Read(model.Decoder.Embedding));
            return (results, engine.Plan, model.Decoder.Embedding.IsInHostMemory);
        }
        var expected = Run(ActivationPolicy.Keep, 0);
        Assert.False(expected.IsMoved);
        var least = s_all.Min(policy => Run(policy, 0).Plan.PeakBytes);
        var (results, plan, isMoved) = Run(null, least - 1);
        Assert.True(isMoved);
        Assert.True(plan.PeakBytes < least && plan.HostBytes > 0);
        Assert.Equal(expected.Results, results);
    }

    [Fact]
    public void A_mix_is_predicted_as_a_dry_run_of_it_goes() =>
        Gen.Select(Gen.Int[0, s_all.Length - 1].Array[6], Gen.Select(Gen.Int[0, 13], Gen.Bool, Gen.Int[0, 6], (lag, fetchesEarly, lead) => new CopyTiming(lag, fetchesEarly, lead)), Gen.Bool, Gen.Int[0, 6]).Sample(
            (choice, timing, isQuantized, streamed) =>
            {
                var (decoder, inputs) = Describe(6, isQuantized);
                ActivationPolicy[] policies = [.. choice.Select(index => s_all[index])];
                StepTrace Uniform(ActivationPolicy policy)
                {
                    var trace = new StepTrace(DeviceRates.H100, Length);
                    Dry(decoder, inputs, trace, new StepMemory { Trace = trace }, [.. Enumerable.Repeat(policy, 6)], new(0, timing.FetchesEarly), trace);
                    return trace;
                }
                var stream = streamed == 0 ? null : StreamForecast.Of(decoder, StreamSchedule.Spread(6, streamed), DeviceRates.H100);
                var predicted = new PolicyMix(6).Predict([.. policies.Select(Uniform)], timing, stream);
                decoder.Stream = stream is null ? null : DescribeStream(decoder, stream.Schedule);
                var (clock, memory) = (new Clock(), new StepMemory());
                Dry(decoder, inputs, clock, memory, policies, timing, clock);
                Assert.Equal(1, predicted.Seconds / clock.Seconds, 1e-9);
                Assert.Equal(memory.MostAliveBytes, predicted.PeakBytes);
                Assert.Equal(memory.HostBytes, predicted.HostBytes);
            },
            iter: 60);

    [Fact]
    public void A_smaller_budget_takes_no_less_time_and_no_plan_is_beaten_by_one_policy_in_all_layers()
    {
        var (decoder, _) = Describe(12, false);
        StepPlan Plan(ActivationPolicy? policy, long budget) =>
            StepPlan.Create(decoder, DType.BFloat16, 0, new EngineOptions { MaxTokens = Length, MaxSequenceLength = Length, Policy = policy, MemoryBudget = budget }, PlanTarget.Cuda);
        var most = Plan(ActivationPolicy.Keep, 0);
        var least = s_all.Min(policy => Plan(policy, 0).Memory.PeakBytes);
        Assert.True(least < most.Memory.PeakBytes * 0.7, $"{least} of {most.Memory.PeakBytes}");
        Assert.Equal(most.Policies, Plan(null, 0).Policies);
        var seconds = 0.0;
        for (var share = 16; share >= 0; share--)
        {
            var budget = least + ((most.Memory.PeakBytes - least) * share / 16);
            var plan = Plan(null, budget);
            Assert.InRange(plan.Memory.PeakBytes, 0, budget);
            Assert.True(plan.PredictedSeconds >= seconds * 0.999, $"{share}/16: {plan.PredictedSeconds} after {seconds}: {plan.Memory.ActivationPolicy}");
            // Forecasts count what lives at the same time, which placed in one piece of memory takes a little more.
            Assert.All(plan.Forecasts.Where(forecast => forecast.PeakBytes <= budget * 0.97), forecast => Assert.True(plan.PredictedSeconds <= forecast.Seconds * 1.001, $"{share}/16: {forecast} before {plan.Memory.ActivationPolicy}"));
            Assert.Equal(plan.Policies, Plan(null, budget).Policies);
            seconds = plan.PredictedSeconds;
        }
        Assert.Throws<LancetException>(() => Plan(null, least / 2));
        var (tight, host) = (least + ((most.Memory.PeakBytes - least) / 8), Plan(null, least + ((most.Memory.PeakBytes - least) / 8)).Memory.HostBytes);
        var poor = StepPlan.Create(decoder, DType.BFloat16, 0, new EngineOptions { MaxTokens = Length, MaxSequenceLength = Length, MemoryBudget = tight, HostMemoryBudget = host / 2 }, PlanTarget.Cuda);
        Assert.InRange(poor.Memory.HostBytes, 0, host / 2);
        Assert.True(poor.PredictedSeconds >= Plan(null, tight).PredictedSeconds);
        // Little host memory, and less than what keeping inputs takes here: both together do.
        tight = Plan(ActivationPolicy.KeepInput, 0).Memory.PeakBytes - (1 << 20);
        host = Plan(ActivationPolicy.OffloadInput, 0).Memory.HostBytes - (1 << 18);
        poor = StepPlan.Create(decoder, DType.BFloat16, 0, new EngineOptions { MaxTokens = Length, MaxSequenceLength = Length, MemoryBudget = tight, HostMemoryBudget = host }, PlanTarget.Cuda);
        Assert.InRange(poor.Memory.PeakBytes, 0, tight);
        Assert.InRange(poor.Memory.HostBytes, 1, host);
    }

    private const int Length = 512;

    private static (DecoderModel Decoder, StepInputs Inputs) Describe(int layers, bool isQuantized)
    {
        var decoder = new DecoderModel(ModelConfig.Parse(
            $$"""{"model_type":"llama","hidden_size":256,"intermediate_size":896,"num_hidden_layers":{{layers}},"num_attention_heads":4,"num_key_value_heads":2,"vocab_size":1000,"rms_norm_eps":1e-5,"max_position_embeddings":2048}""", "test"));
        LanguageModel.Describe(decoder, new LoraOptions());
        decoder.DescribeStorage(PlanTarget.Cuda, DType.BFloat16, isQuantized);
        return (decoder, new StepInputs(new PlanningDevice(PlanTarget.Cuda), decoder.Config, DType.BFloat16, Length, Length));
    }

    private static void Dry(DecoderModel decoder, StepInputs inputs, IDeviceTrace device, StepMemory memory, ActivationPolicy[] policies, CopyTiming timing, IStepTrace trace)
    {
        using var planning = new PlanningDevice(PlanTarget.Cuda) { Trace = device };
        var context = new StepContext(planning, memory, DType.BFloat16) { IsTraining = true, Trace = trace };
        inputs.Bind(context, Length);
        memory.BeginPlanning();
        decoder.ForwardBackward(context, policies, inputs.Losses.Rows(0, Length), timing);
    }

    private static StreamedWeights DescribeStream(DecoderModel decoder, StreamSchedule schedule)
    {
        Tensor Memory(long bytes) => new(DecoderModel.DescribedAddress, DType.UInt8, new Shape(bytes));
        return new(decoder, schedule, [.. schedule.Layers.Select(layer => new StreamedWeights.Entry(Memory(decoder.Layers[layer].FrozenBytes), [.. decoder.Layers[layer].FrozenBlocks()], null))], [.. Enumerable.Repeat(Memory(StreamedWeights.SlotBytes(decoder, schedule.Layers)), StreamSchedule.Slots)]);
    }

    /// <summary>Three clocks, for the compute stream and the copy streams, that run as the calls come.</summary>
    private sealed class Clock : IDeviceTrace, IStepTrace
    {
        private readonly Dictionary<int, double> _ends = [];
        private double _now;
        private double _copiesOut;
        private double _copiesIn;

        public double Seconds => _now;

        public void Kernel(double bytes) => Run(DeviceRates.H100.Seconds(bytes));

        public void MatMul(in MatMul product) => Run(DeviceRates.H100.Seconds(product));

        public void GroupedOperations(double operations) => Run(DeviceRates.H100.GroupedSeconds(operations));

        public void CopyOut(long bytes, int channel) => _ends[channel] = _copiesOut = Math.Max(_copiesOut, _now) + (bytes / DeviceRates.H100.HostBytes);

        public void CopyIn(long bytes, int channel) => _ends[channel] = _copiesIn = Math.Max(_copiesIn, _now) + (bytes / DeviceRates.H100.HostBytes);

        public void Await(int channel) => _now = Math.Max(_now, _ends[channel]);

        public void Begin(StepPhase phase, int layer)
        {
        }

        public void Attention(int tokens, int width, int window, bool isBackward) => Run(DeviceRates.H100.AttentionSeconds(tokens, tokens, width, window, isBackward));

        private void Run(double seconds) => _now += seconds;
    }
}
