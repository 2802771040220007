using Lancet.Adapters;
using Lancet.Devices;
using Lancet.Layers;
using Lancet.Models;
using Lancet.Planning;
using Lancet.Tile;
using Lancet.Training;

namespace Lancet.Tests.Planning;

/// <summary>The longest context of a budget, and how far host memory extends it.</summary>
public class ContextSearchTests
{
    private const long Budget = 224 << 20;

    [Theory]
    [InlineData(1, null)]
    [InlineData(3, null)]
    [InlineData(1, ActivationPolicy.KeepInput)]
    public void The_length_found_fits_and_a_step_more_does_not(int rows, ActivationPolicy? policy)
    {
        var options = Options(1 << 30) with { Policy = policy };
        var (length, plan, chosen) = ContextSearch.Longest(Describe(), DType.BFloat16, 0, rows, options, PlanTarget.Cuda);
        Assert.True(length > 0 && length % ContextSearch.Step == 0);
        static long Besides(MemoryPlan memory) => memory.DriverBytes + memory.FurtherGraphBytes;
        Assert.InRange(plan.Memory.DriverBytes, PlanTarget.Cuda.DriverBytes(plan.Memory.HostBytes, 1), PlanTarget.Cuda.DriverBytes(plan.Memory.HostBytes, GraphCache.MostNodes));
        Assert.Equal(PlanTarget.Cuda.DriverBytes(plan.Memory.HostBytes, GraphCache.MostNodes), Besides(plan.Memory));
        Assert.InRange(plan.Memory.PeakBytes + Besides(plan.Memory), 0, Budget);
        StepPlan At(int tokens, long budget) => StepPlan.Create(Describe(), DType.BFloat16, 0, options with { MaxTokens = tokens * rows, MaxSequenceLength = tokens, MemoryBudget = budget }, PlanTarget.Cuda);
        Assert.Equal(plan.Policies, At(length, chosen.MemoryBudget).Policies);
        // Longer sequences have no plan, or one whose host memory takes more of the driver's.
        long longer;
        try
        {
            var memory = At(length + ContextSearch.Step, Budget - Besides(plan.Memory)).Memory;
            longer = memory.PeakBytes + Besides(memory);
        }
        catch (LancetException)
        {
            longer = long.MaxValue;
        }
        Assert.True(longer > Budget);
    }

    [Fact]
    public void Host_memory_extends_the_context_until_inputs_are_all_that_goes_there()
    {
        (int Length, StepPlan Plan, EngineOptions Options) With(long hostBytes, ActivationPolicy? policy = null) => ContextSearch.Longest(Describe(), DType.BFloat16, 0, 1, Options(hostBytes) with { Policy = policy }, PlanTarget.Cuda);
        var (here, _, _) = With(1, ActivationPolicy.KeepInput);
        var (inputs, plan, _) = With(1 << 30, ActivationPolicy.OffloadInput);
        Assert.True(inputs > here * 1.2, $"{inputs} with inputs in host memory, {here} without");
        // As much host memory as inputs take is enough for that length, and half of it for one between.
        Assert.InRange(With(plan.Memory.HostBytes).Length, inputs, int.MaxValue);
        Assert.InRange(With(plan.Memory.HostBytes / 2).Length, here + ContextSearch.Step, inputs);
    }

    [Fact]
    public void A_budget_that_nothing_fits_is_an_error()
    {
        var error = Assert.Throws<LancetException>(() => ContextSearch.Longest(Describe(), DType.BFloat16, Budget, 1, Options(0), PlanTarget.Cuda));
        Assert.Contains("Not even sequences of 128 tokens fit a memory of 224 MiB", error.Message);
    }

    private static EngineOptions Options(long hostBytes) => new() { MaxTokens = 1, MaxSequenceLength = 1, MemoryBudget = Budget, HostMemoryBudget = hostBytes };

    private static DecoderModel Describe()
    {
        var decoder = new DecoderModel(ModelConfig.Parse(
            """{"model_type":"llama","hidden_size":256,"intermediate_size":896,"num_hidden_layers":12,"num_attention_heads":4,"num_key_value_heads":2,"vocab_size":1000,"rms_norm_eps":1e-5,"max_position_embeddings":2048}""", "test"));
        LanguageModel.Describe(decoder, new LoraOptions());
        decoder.DescribeStorage(PlanTarget.Cuda, DType.BFloat16);
        return decoder;
    }
}
