using Lancet.Devices.Cpu;
using Lancet.Models;
using Lancet.Tests.Devices;
using Lancet.Tile;
using Lancet.Training;

namespace Lancet.Tests.Training;

/// <summary>What counts for the whole process is measured while no other test runs.</summary>
[CollectionDefinition(nameof(ProcessMeasurements), DisableParallelization = true)]
public class ProcessMeasurements;

/// <summary>A step's managed memory, on all threads.</summary>
[Collection(nameof(ProcessMeasurements))]
public class AllocationTests
{
    [Theory]
    [InlineData("qwen3", 0.1, false)]
    [InlineData("qwen3-moe", 0.1, false)]
    [InlineData("qwen2-dora", 0.1, false)]
    [InlineData("qwen2-dora", 0.0, true)]
    [InlineData("qwen3", 0.0, true)]
    [InlineData("qwen3", 0.1, true, DType.BFloat16)]
    public void A_step_allocates_no_managed_memory(string name, double dropout, bool isLikeGpu, DType dtype = DType.Float32)
    {
        var fixture = new Fixture(name);
        using var model = LanguageModel.Load(fixture.Model, new LoadOptions { Device = isLikeGpu ? new GpuPlanDevice() : new CpuDevice(), OwnsDevice = true, DType = dtype });
        model.LoadAdapter(fixture.Adapter, dropout: dropout);
        using var engine = new TrainingEngine(model, new EngineOptions { MaxTokens = fixture.MaxBatchTokens, MaxSequenceLength = 512, AdamW = new Lancet.Kernels.AdamWConstants(0.9, 0.999, 1e-8, 0.01) });
        var batch = fixture.Batch([0, 1, 2, 3]);
        void Step(int step)
        {
            engine.BeginStep(step, batch.LabelTokenCount);
            engine.Accumulate(batch);
            engine.EndStep(1e-3);
        }
        // Code that runs for the first time, or often, allocates for its compilation.
        for (var step = 1; step < 140; step++) Step(step);
        var before = GC.GetTotalAllocatedBytes(true);
        for (var step = 140; step < 150; step++) Step(step);
        // A few hundred bytes are the measurement's own.
        Assert.InRange(GC.GetTotalAllocatedBytes(true) - before, 0, 1024);
    }
}
