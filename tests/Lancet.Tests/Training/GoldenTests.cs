using System.Text.Json;
using Lancet.Adapters;
using Lancet.Data;
using Lancet.Devices;
using Lancet.Devices.Cpu;
using Lancet.Formats;
using Lancet.Kernels;
using Lancet.Layers;
using Lancet.Models;
using Lancet.Tests.Devices;
using Lancet.Training;

namespace Lancet.Tests.Training;

/// <summary>
/// The engine against Hugging Face transformers and PEFT in fp64 (tests/golden): losses, the first step's gradients by name, and training.
/// The allowed error is a small multiple of the error of Hugging Face's own fp32 run.
/// </summary>
public class GoldenTests
{
    public static TheoryData<string> Fixtures => ["gemma", "gemma2", "llama", "llama31-rope", "mistral-swa", "qwen2", "qwen3", "phi3", "phi3-longrope", "granite", "smollm3", "olmo2", "gemma3", "cohere", "cohere-qk-norm", "cohere2", "mixtral", "qwen3-moe", "qwen2-dora", "llama-saved-tied"];

    [Theory]
    [MemberData(nameof(Fixtures))]
    public void Losses_gradients_and_training_agree_with_hugging_face(string name) => AssertTraining(name, new CpuDevice());

    [Theory]
    [MemberData(nameof(Fixtures))]
    public void Adapters_in_the_border_of_their_weights_agree_with_hugging_face(string name) => AssertTraining(name, new GpuPlanDevice());

    [Theory]
    [InlineData("qwen2", false, false, "q_proj", "down_proj")]
    [InlineData("qwen2", false, false, "k_proj", "o_proj", "up_proj")]
    [InlineData("qwen2", true, false, "k_proj", "o_proj", "up_proj")]
    [InlineData("qwen2", true, false, "q_proj", "k_proj", "v_proj")]
    [InlineData("qwen2", false, true, "all-linear")]
    [InlineData("qwen2", true, true, "all-linear")]
    [InlineData("qwen2", false, true, "k_proj", "o_proj", "up_proj")]
    [InlineData("llama", true, true, "all-linear")]
    [InlineData("gemma2", false, true, "all-linear")]
    [InlineData("granite", false, true, "all-linear")]
    [InlineData("cohere", false, true, "all-linear")]
    [InlineData("phi3", false, true, "all-linear")]
    public void Borders_of_some_projections_give_the_gradients_of_separate_products(string name, bool isQuantized, bool usesDora, params string[] targets)
    {
        var fixture = new Fixture(name);
        Dictionary<string, float[]> Gradients(Device device)
        {
            using var model = LanguageModel.Load(fixture.Model, new LoadOptions { Device = device, OwnsDevice = true, QuantizesToNf4 = isQuantized });
            // A rank that is no multiple of eight leaves gaps in the border.
            model.AddLora(new LoraOptions { Rank = 3, Alpha = 5, TargetModules = targets, UsesDora = usesDora });
            Assert.Equal(device.PlanTarget.IsCuda, model.Decoder.Groups.Any(group => group.IsBordered));
            using var engine = new TrainingEngine(model, fixture.Options with { MaxGradientNorm = 0 });
            for (var step = 0; step < 3; step++) Step(engine, fixture, step);
            return model.Trained!.Weights.ToDictionary(weight => weight.Name, weight => weight.Gradient.HostSpan<float>().ToArray());
        }
        var (expected, actual) = (Gradients(new CpuDevice()), Gradients(new GpuPlanDevice()));
        Assert.Equal(expected.Keys.Order(), actual.Keys.Order());
        foreach (var (weight, values) in expected)
        {
            var difference = Math.Sqrt(values.Zip(actual[weight], (x, y) => Math.Pow(x - y, 2)).Sum() / values.Sum(x => (double)x * x));
            Assert.True(difference < 2e-5, $"{weight}: {difference}");
        }
    }

    [Fact]
    public void A_weight_with_a_border_is_read_and_merged_as_before()
    {
        var fixture = new Fixture("qwen2");
        using var plain = LanguageModel.Load(fixture.Model);
        using var bordered = LanguageModel.Load(fixture.Model, new LoadOptions { Device = new GpuPlanDevice(), OwnsDevice = true });
        bordered.LoadAdapter(fixture.Adapter);
        Assert.Contains(bordered.Decoder.Groups, group => group.IsBordered);
        foreach (var (weight, other) in plain.Decoder.Weights.Zip(bordered.Decoder.Weights)) Assert.Equal(plain.Read(weight), bordered.Read(other));
    }

    private static void AssertTraining(string name, Device device)
    {
        var fixture = new Fixture(name);
        using var model = LanguageModel.Load(fixture.Model, new LoadOptions { Device = device, OwnsDevice = true });
        model.LoadAdapter(fixture.Adapter);
        using var engine = new TrainingEngine(model, fixture.Options);
        fixture.AssertLosses((batch, losses) => engine.Evaluate(batch, losses), "loss");

        using var expected = SafetensorsFile.Open(Path.Combine(fixture.Folder, "gradients_step0.safetensors"));
        for (var step = 0; step < 12; step++)
        {
            var result = Step(engine, fixture, step);
            if (step == 0) AssertGradients(model, expected);
            Assert.Equal(fixture.TrainLoss[step], result.Loss, Math.Max(6 * fixture.TrainLossError, 1e-5));
            Assert.Equal(1, result.GradientNorm / fixture.GradientNorm[step], 3e-5);
        }
    }

    [Theory]
    [MemberData(nameof(Fixtures))]
    public void The_model_without_an_adapter_agrees_with_hugging_face(string name)
    {
        var fixture = new Fixture(name);
        using var model = LanguageModel.Load(fixture.Model, new LoadOptions { IsFullyTrained = true });
        using var engine = new TrainingEngine(model, fixture.Options);
        fixture.AssertLosses((batch, losses) => engine.Evaluate(batch, losses), "base_loss");
    }

    [Theory]
    [InlineData("llama", false, false)]
    [InlineData("gemma2", false, false)]
    [InlineData("qwen3", true, false)]
    [InlineData("qwen2", true, false)]
    [InlineData("granite", false, false)]
    [InlineData("olmo2", true, false)]
    [InlineData("cohere", false, false)]
    [InlineData("cohere-qk-norm", true, false)]
    [InlineData("llama", false, true)]
    [InlineData("gemma2", true, true)]
    [InlineData("granite", false, true)]
    [InlineData("phi3", false, true)]
    [InlineData("olmo2", false, true)]
    [InlineData("cohere", false, true)]
    [InlineData("cohere2", true, true)]
    [InlineData("mixtral", true, false)]
    [InlineData("qwen3-moe", false, true)]
    public void Activation_policies_give_the_same_bits(string name, bool isFullyTrained, bool isLikeGpu)
    {
        var fixture = new Fixture(name);
        List<(double, double)>? first = null;
        long former = long.MaxValue;
        foreach (var policy in Enum.GetValues<ActivationPolicy>())
        {
            // To a processor the others are what it had already.
            if (!isLikeGpu && policy > ActivationPolicy.Offload) continue;
            using var model = LanguageModel.Load(fixture.Model, new LoadOptions { IsFullyTrained = isFullyTrained, Device = isLikeGpu ? new GpuPlanDevice() : new CpuDevice(), OwnsDevice = true });
            if (!isFullyTrained) model.LoadAdapter(fixture.Adapter, dropout: isLikeGpu ? 0 : 0.1);
            using var engine = new TrainingEngine(model, fixture.Options with { Policy = policy });
            var usesHost = isLikeGpu && SavedParts.Of(policy).UsesHost;
            Assert.Equal(usesHost, engine.Plan.HostBytes > 0);
            var results = Enumerable.Range(0, 3).Select(step => Step(engine, fixture, step)).Select(result => (result.Loss, result.GradientNorm)).ToList();
            first ??= results;
            Assert.Equal(first, results);
            // What comes back from host memory comes ahead of need, which a model of three layers does not win back; a processor keeps what would go there.
            Assert.True(engine.Plan.PeakBytes <= former || policy >= ActivationPolicy.Offload);
            former = engine.Plan.PeakBytes;
        }
    }

    [Fact]
    public void A_budget_mixes_policies_and_gives_the_same_bits()
    {
        var fixture = new Fixture("llama");
        (List<(double, double)> Results, MemoryPlan Plan) Run(ActivationPolicy? policy, long budget)
        {
            using var model = LanguageModel.Load(fixture.Model, new LoadOptions { Device = new GpuPlanDevice(), OwnsDevice = true });
            model.LoadAdapter(fixture.Adapter);
            using var engine = new TrainingEngine(model, fixture.Options with { Policy = policy, MemoryBudget = budget });
            return ([.. Enumerable.Range(0, 3).Select(step => Step(engine, fixture, step)).Select(result => (result.Loss, result.GradientNorm))], engine.Plan);
        }
        var (expected, most) = Run(ActivationPolicy.Keep, 0);
        var recomputed = Run(ActivationPolicy.RecomputeMlp, 0).Plan;
        Assert.True(recomputed.PeakBytes < most.PeakBytes);
        var (results, plan) = Run(null, recomputed.PeakBytes - 1);
        Assert.Equal(expected, results);
        Assert.True(plan.PeakBytes < recomputed.PeakBytes && plan.HostBytes > 0, plan.ActivationPolicy);
        Assert.Contains("in host memory", plan.ActivationPolicy);
        Assert.Contains("--activation-policy offload", Assert.Throws<LancetException>(() => Run(null, 1 << 16)).Message);
    }

    [Theory]
    [InlineData("gemma2")]
    [InlineData("qwen2")]
    [InlineData("qwen3")]
    [InlineData("phi3-longrope")]
    [InlineData("granite")]
    [InlineData("smollm3")]
    [InlineData("olmo2")]
    [InlineData("gemma3")]
    [InlineData("cohere-qk-norm")]
    [InlineData("cohere2")]
    [InlineData("mixtral")]
    [InlineData("qwen3-moe")]
    public void All_gradients_of_full_training_agree_with_central_differences_in_fp64(string name)
    {
        var fixture = new Fixture(name);
        using var model = LanguageModel.Load(fixture.Model, new LoadOptions { IsFullyTrained = true, DType = Lancet.Tile.DType.Float64 });
        using var differences = new CentralDifferences(model, fixture);
        var random = new DeterministicRandom(7);
        // One element of every weight of the first and last layers; the rows of the embedding that the batch uses.
        foreach (var weight in model.Trained!.Weights)
        {
            if (weight.Name.Contains("layers.1.", StringComparison.Ordinal)) continue;
            differences.Check(weight, weight.Role == WeightRole.Embedding ? (differences.Batch.TokenIds[3] * (int)weight.Shape[1]) + 5 : random.NextInt32((int)weight.Shape.Count));
        }
    }

    [Fact]
    public void One_batch_equals_accumulated_batches_of_one_row()
    {
        var fixture = new Fixture("llama");
        double[] Run(int[][] micro)
        {
            using var model = LanguageModel.Load(fixture.Model);
            model.LoadAdapter(fixture.Adapter);
            using var engine = new TrainingEngine(model, fixture.Options);
            var batches = micro.Select(fixture.Batch).ToList();
            engine.BeginStep(1, batches.Sum(batch => batch.LabelTokenCount));
            foreach (var batch in batches) engine.Accumulate(batch);
            var result = engine.EndStep(0.001);
            return [result.Loss, result.GradientNorm];
        }
        var together = Run([[0, 1, 2, 3]]);
        var apart = Run([[0], [1], [2], [3]]);
        Assert.Equal(together[0], apart[0], 1e-6);
        Assert.Equal(1, together[1] / apart[1], 1e-6);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_saved_state_continues_with_the_same_bits(bool hasEightBitState)
    {
        var fixture = new Fixture("mistral-swa");
        var state = new Dictionary<string, byte[]>();
        StepResult[] Run(int from, int count, bool load, int saveAfter)
        {
            using var model = LanguageModel.Load(fixture.Model);
            model.LoadAdapter(fixture.Adapter, dropout: 0.2);
            using var engine = new TrainingEngine(model, fixture.Options with { HasEightBitState = hasEightBitState });
            if (load) engine.LoadState((name, bytes) => state[name].CopyTo(bytes));
            var results = new List<StepResult>();
            for (var step = from; step < from + count; step++)
            {
                results.Add(Step(engine, fixture, step));
                if (step == saveAfter) engine.SaveState((name, _, _, bytes) => state[name] = bytes.ToArray());
            }
            return [.. results];
        }
        var straight = Run(0, 6, false, 2);
        Assert.Equal(straight[3..], Run(3, 3, true, -1));
    }

    [Fact]
    public void A_step_allocates_no_device_memory_and_the_plan_is_what_is_used()
    {
        var fixture = new Fixture("gemma2");
        using var model = LanguageModel.Load(fixture.Model);
        model.LoadAdapter(fixture.Adapter);
        using var engine = new TrainingEngine(model, fixture.Options);
        Step(engine, fixture, 0);
        var before = model.Device.AllocatedBytes;
        Step(engine, fixture, 1);
        Assert.Equal(before, model.Device.AllocatedBytes);
        Assert.InRange(engine.PeakMemoryBytes, 0.98 * engine.Plan.PeakBytes, 1.02 * engine.Plan.PeakBytes);
    }

    [Fact]
    public void A_budget_that_nothing_fits_is_refused_with_advice()
    {
        var fixture = new Fixture("llama");
        using var model = LanguageModel.Load(fixture.Model);
        model.LoadAdapter(fixture.Adapter);
        var error = Assert.Throws<LancetException>(() => new TrainingEngine(model, fixture.Options with { MemoryBudget = 1 << 16 }));
        Assert.Contains("--memory-budget", error.Message, StringComparison.Ordinal);
    }

    private static StepResult Step(TrainingEngine engine, Fixture fixture, int step)
    {
        var batch = fixture.Batch([.. Enumerable.Range(step * 4, 4)]);
        engine.BeginStep(step + 1, batch.LabelTokenCount);
        engine.Accumulate(batch);
        // Linear schedule from 0.005 over 12 steps with 3 warm-up steps.
        return engine.EndStep(0.005 * (step < 3 ? step / 3.0 : (12.0 - step) / 9));
    }

    private static void AssertGradients(LanguageModel model, SafetensorsFile expected)
    {
        var seen = 0;
        foreach (var weight in model.Trained!.Weights)
        {
            var key = expected.Entries.Keys.Single(name => name.Replace(".default", "", StringComparison.Ordinal).EndsWith(weight.Name, StringComparison.Ordinal));
            var values = new float[weight.Shape.Count];
            expected[key].CopyTo(values);
            var ours = weight.Gradient.HostSpan<float>();
            double error = 0, size = 0;
            for (var i = 0; i < values.Length; i++)
            {
                error += Math.Pow(values[i] - ours[i], 2);
                size += Math.Pow(values[i], 2);
            }
            Assert.True(Math.Sqrt(error) <= 3e-5 * Math.Sqrt(size), $"{weight.Name}: relative error {Math.Sqrt(error / size)}");
            seen++;
        }
        Assert.Equal(expected.Entries.Count, seen);
    }
}
