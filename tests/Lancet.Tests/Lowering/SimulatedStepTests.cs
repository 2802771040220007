using Lancet.Generation;
using Lancet.Models;
using Lancet.Tests.Devices;
using Lancet.Tests.Training;
using Lancet.Tile;
using Lancet.Tile.Ptx;
using Lancet.Training;

namespace Lancet.Tests.Lowering;

/// <summary>Whole training steps on the simulated GPU: every kernel in the formats, shapes and alignments that training gives it.</summary>
public class SimulatedStepTests
{
    [Theory]
    [InlineData("llama", DType.BFloat16, false, false)]
    [InlineData("llama31-rope", DType.BFloat16, false, false, false, 0.0)]
    [InlineData("qwen2", DType.BFloat16, false, false, true, 0.0)]
    [InlineData("gemma2", DType.BFloat16, true, false)]
    [InlineData("qwen2", DType.Float32, true, true)]
    [InlineData("qwen3", DType.Float16, false, true)]
    [InlineData("phi3-longrope", DType.BFloat16, false, false)]
    [InlineData("granite", DType.BFloat16, false, false, false, 0.0)]
    [InlineData("smollm3", DType.Float16, true, false)]
    [InlineData("olmo2", DType.BFloat16, true, false)]
    [InlineData("gemma3", DType.BFloat16, false, false)]
    [InlineData("cohere-qk-norm", DType.BFloat16, true, false)]
    [InlineData("cohere2", DType.BFloat16, false, false, false, 0.0)]
    [InlineData("mixtral", DType.BFloat16, true, false)]
    public void A_step_computes_what_the_executor_computes(string name, DType dtype, bool isFullyTrained, bool hasEightBitState, bool isQuantized = true, double dropout = 0.1) =>
        Step(new SimulatorDevice(), name, dtype, isFullyTrained, hasEightBitState, isQuantized, dropout);

    /// <summary>With products of warp groups, where warps and blocks differ as well.</summary>
    [Theory]
    [InlineData("llama", DType.BFloat16)]
    [InlineData("gemma2", DType.Float16)]
    [InlineData("llama", DType.BFloat16, 0.1)]
    public void So_does_a_step_on_Hopper(string name, DType dtype, double dropout = 0) => Step(new SimulatorDevice(PtxTarget.Sm90), name, dtype, false, false, false, dropout);

    /// <summary>MLPs in chunks of tokens, of which a short batch leaves the last ones empty.</summary>
    [Theory]
    [InlineData("llama", false)]
    [InlineData("gemma2", true)]
    public void So_does_a_step_in_chunks(string name, bool isFullyTrained) => Step(new SimulatorDevice(), name, DType.BFloat16, isFullyTrained, false, true, 0, 24);

    private static void Step(SimulatorDevice device, string name, DType dtype, bool isFullyTrained, bool hasEightBitState, bool isQuantized, double dropout, int chunk = int.MaxValue / 2)
    {
        using var closed = device;
        var fixture = new Fixture(name);
        using var model = LanguageModel.Load(fixture.Model, new LoadOptions { Device = device, DType = dtype, IsFullyTrained = isFullyTrained, QuantizesToNf4 = !isFullyTrained && isQuantized });
        if (!isFullyTrained) model.LoadAdapter(fixture.Adapter, dropout);
        using var engine = new TrainingEngine(model, new EngineOptions { MaxTokens = fixture.MaxBatchTokens, MaxSequenceLength = fixture.MaxBatchTokens, HasEightBitState = hasEightBitState, MlpChunkTokens = chunk });
        var batch = fixture.Batch([0, 1]);
        engine.BeginStep(1, batch.LabelTokenCount);
        engine.Accumulate(batch);
        engine.EndStep(0.001);
    }

    [Theory]
    [InlineData("llama31-rope", DType.BFloat16)]
    [InlineData("gemma2", DType.Float16)]
    [InlineData("cohere", DType.BFloat16)]
    [InlineData("qwen3-moe", DType.BFloat16)]
    public void Generation_computes_what_the_executor_computes(string name, DType dtype)
    {
        var fixture = new Fixture(name);
        using var device = new SimulatorDevice();
        using var model = LanguageModel.Load(fixture.Model, new LoadOptions { Device = device, DType = dtype });
        model.LoadAdapter(fixture.Adapter);
        using var generator = new TextGenerator(model, 2, 24);
        Assert.Equal(2, generator.Generate([[5, 9, 30, 2, 77, 8], [3, 4]], new GenerationOptions { MaxNewTokens = 4 }).Count);
    }
}
