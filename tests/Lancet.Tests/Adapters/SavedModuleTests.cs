using System.Text.Json.Nodes;
using Lancet.Adapters;
using Lancet.Devices;
using Lancet.Devices.Cpu;
using Lancet.Formats;
using Lancet.Kernels;
using Lancet.Models;
using Lancet.Tests.Devices;
using Lancet.Tests.Training;
using Lancet.Tile;
using Lancet.Training;

namespace Lancet.Tests.Adapters;

/// <summary>Embedding and head trained in full beside an adapter (PEFT's modules_to_save).</summary>
public sealed class SavedModuleTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("lancet-test-").FullName;

    public void Dispose() => Directory.Delete(_folder, true);

    // llama has a head of its own, llama31-rope and gemma2 (with its factor of embeddings) have tied ones.
    [Theory]
    [InlineData("llama", false, "embed_tokens", "lm_head")]
    [InlineData("llama31-rope", false, "embed_tokens", "lm_head")]
    [InlineData("llama31-rope", true, "lm_head")]
    [InlineData("gemma2", false, "embed_tokens")]
    public void Gradients_agree_with_central_differences_in_fp64(string name, bool ensuresTying, params string[] modules)
    {
        var fixture = new Fixture(name);
        using var model = LanguageModel.Load(fixture.Model, new LoadOptions { DType = DType.Float64 });
        model.AddLora(new LoraOptions { Rank = 2, TargetModules = ["q_proj"], ModulesToSave = modules, EnsuresWeightTying = ensuresTying });
        using var differences = new CentralDifferences(model, fixture);
        Weight[] trained = [.. model.Trained!.Weights.Where(weight => weight.Role is WeightRole.Embedding or WeightRole.Head)];
        Assert.Equal(ensuresTying ? 1 : modules.Length, trained.Length);
        Assert.Equal(ensuresTying, model.Decoder.IsTied);
        foreach (var weight in trained)
            foreach (var column in (int[])[0, 5]) differences.Check(weight, (differences.Batch.TokenIds[3] * (int)weight.Shape[1]) + column, 1e-5);
    }

    [Theory]
    [InlineData("llama", false, false, "embed_tokens", "lm_head")]
    [InlineData("llama31-rope", false, true, "embed_tokens")]
    [InlineData("llama31-rope", false, false, "embed_tokens", "lm_head")]
    [InlineData("llama31-rope", true, false, "embed_tokens")]
    public void They_are_saved_as_peft_names_them_read_again_and_merged(string name, bool ensuresTying, bool isLikeGpu, params string[] modules)
    {
        var fixture = new Fixture(name);
        var (adapter, merged) = (Path.Combine(_folder, "adapter"), Path.Combine(_folder, "merged"));
        float[] expected, before;
        using (var model = LanguageModel.Load(fixture.Model, new LoadOptions { Device = isLikeGpu ? new GpuPlanDevice() : new CpuDevice(), OwnsDevice = true }))
        {
            before = Losses(model, fixture);
            model.AddLora(new LoraOptions { Rank = 4, ModulesToSave = modules, EnsuresWeightTying = ensuresTying });
            foreach (var (a, b) in before.Zip(Losses(model, fixture))) Assert.Equal(a, b, 1e-5f);
            using (var engine = new TrainingEngine(model, Options(fixture)))
            {
                for (var step = 1; step <= 2; step++) Step(engine, fixture, step);
                Assert.InRange(engine.PeakMemoryBytes, 0.9 * engine.Plan.PeakBytes, 1.1 * engine.Plan.PeakBytes);
            }
            model.SaveAdapter(adapter);
            ModelWriter.Save(merged, model, DType.Float32);
            expected = Losses(model, fixture);
            Assert.NotEqual(before, expected);
        }
        using (var file = SafetensorsFile.Open(Path.Combine(adapter, "adapter_model.safetensors")))
        {
            Assert.Equal(modules.Contains("lm_head"), file.Entries.ContainsKey("base_model.model.lm_head.weight"));
            Assert.Equal(modules.Contains("embed_tokens"), file.Entries.ContainsKey("base_model.model.model.embed_tokens.weight"));
        }
        Assert.Equal(modules, JsonNode.Parse(File.ReadAllText(Path.Combine(adapter, "adapter_config.json")))!["modules_to_save"]!.AsArray().Select(item => item!.GetValue<string>()));
        using (var again = LanguageModel.Load(fixture.Model))
        {
            again.LoadAdapter(adapter);
            foreach (var (a, b) in expected.Zip(Losses(again, fixture))) Assert.Equal(a, b, 1e-5f);
        }
        Assert.Equal(name == "llama" || !ensuresTying, !ModelConfig.Load(merged).TiesWordEmbeddings);
        using var alone = LanguageModel.Load(merged);
        foreach (var (a, b) in expected.Zip(Losses(alone, fixture))) Assert.Equal(a, b, 2e-5f);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void They_have_a_learning_rate_of_their_own(bool hasEightBitState)
    {
        var fixture = new Fixture("llama");
        Dictionary<string, float[]> Run(double rate, double factor)
        {
            using var model = LanguageModel.Load(fixture.Model);
            model.AddLora(new LoraOptions { Rank = 4, ModulesToSave = ["embed_tokens", "lm_head"] });
            using var engine = new TrainingEngine(model, Options(fixture) with { HasEightBitState = hasEightBitState, EmbeddingRateFactor = factor });
            Step(engine, fixture, 1, rate);
            return model.Trained!.Weights.ToDictionary(weight => weight.Name, model.Read);
        }
        // A first step's gradients do not depend on rates: with each group's rate its values are those of a run with that rate for all.
        var (fast, slow, mixed) = (Run(1e-2, 1), Run(1e-3, 1), Run(1e-2, 0.1));
        foreach (var (name, values) in mixed) Assert.Equal(name.Contains("lora", StringComparison.Ordinal) ? fast[name] : slow[name], values);
        Assert.NotEqual(fast["lm_head.weight"], slow["lm_head.weight"]);
        Assert.NotEqual(fast["model.embed_tokens.weight"], slow["model.embed_tokens.weight"]);
    }

    [Fact]
    public void Other_modules_and_other_shapes_are_refused()
    {
        var fixture = new Fixture("llama");
        using var model = LanguageModel.Load(fixture.Model);
        Assert.Contains("modules_to_save names score; embed_tokens and lm_head are supported", Assert.Throws<LancetException>(() => LanguageModel.Describe(new DecoderModel(model.Config), new LoraOptions { ModulesToSave = ["score"] })).Message);
        model.AddLora(new LoraOptions { Rank = 4, ModulesToSave = ["lm_head"] });
        model.SaveAdapter(_folder);
        Assert.Contains("hold neither embedding nor head", Assert.Throws<LancetException>(() => Formats.Gguf.GgufAdapterWriter.Write(Path.Combine(_folder, "a.gguf"), model, Formats.Gguf.GgufMix.Find("f16"))).Message);
        var path = Path.Combine(_folder, "adapter_config.json");
        var text = File.ReadAllText(path);
        File.WriteAllText(path, text.Replace("\"lm_head\"", "\"lm_head\", \"score\"", StringComparison.Ordinal));
        using var again = LanguageModel.Load(fixture.Model);
        Assert.Contains("modules_to_save names score, of which", Assert.Throws<LancetException>(() => again.LoadAdapter(_folder)).Message);
        File.WriteAllText(path, text);
        using var other = LanguageModel.Load(new Fixture("phi3-longrope").Model);
        Assert.Contains("the adapter was made for another", Assert.Throws<LancetException>(() => other.LoadAdapter(_folder)).Message);
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

    private static void Step(TrainingEngine engine, Fixture fixture, int step, double rate = 1e-2)
    {
        var batch = fixture.Batch([step, step + 1]);
        engine.BeginStep(step, batch.LabelTokenCount);
        engine.Accumulate(batch);
        engine.EndStep(rate);
    }
}
