using Lancet.Devices;
using Lancet.Kernels;
using Lancet.Layers;
using Lancet.Models;
using Lancet.Tensors;
using Lancet.Tile;
using Lancet.Tile.Cpu;
using Lancet.Training;

namespace Lancet.Planning;

/// <summary>
/// The memory of a training run, found by running a step of the described model on a device that computes nothing. Neither weights nor a
/// GPU are needed.
/// </summary>
public sealed class StepPlan
{
    // Page-locked memory is taken from everybody else on the machine.
    private const double ShareOfHostMemory = 0.5;

    private StepPlan(ActivationPolicy[] policies, StepMemory training, StepMemory evaluation, MemoryPlan memory, PlanningDevice device) =>
        (Policies, Training, Evaluation, Memory, MatMulWorkspaceBytes, Kernels) = (policies, training, evaluation, memory, device.MatMulWorkspaceBytes, device.Kernels);

    /// <summary>What each layer keeps.</summary>
    public ActivationPolicy[] Policies { get; }

    /// <summary>Buffers of a training step.</summary>
    public StepMemory Training { get; }

    /// <summary>Buffers of a forward pass.</summary>
    public StepMemory Evaluation { get; }

    /// <summary>Bytes by purpose.</summary>
    public MemoryPlan Memory { get; }

    /// <summary>Floating-point operations of the matrix products of one micro-batch.</summary>
    public double MatMulOperations { get; private init; }

    /// <summary>Workspace that the most demanding matrix product needs.</summary>
    public long MatMulWorkspaceBytes { get; }

    /// <summary>Kernels of a training step and of a forward pass at the full number of tokens.</summary>
    public IReadOnlyCollection<KernelVariant> Kernels { get; }

    /// <summary>Plans a run.</summary>
    /// <param name="decoder">Model, with trained weights marked and adapters described.</param>
    /// <param name="dtype">Dtype of activations.</param>
    /// <param name="weightBytes">Bytes of the frozen weights.</param>
    /// <param name="options">Batch, optimiser, policy and budget.</param>
    /// <param name="target">Device that the run is for; it need not be there. The processor by default.</param>
    /// <exception cref="LancetException">No policy fits the budget; the message says what would.</exception>
    public static StepPlan Create(DecoderModel decoder, DType dtype, long weightBytes, EngineOptions options, PlanTarget? target = null)
    {
        target ??= PlanTarget.Cpu(WorkerPool.Shared.ThreadCount);
        var layers = decoder.Layers.Count;
        StepPlan Try(Func<int, ActivationPolicy> policy) => Run(decoder, dtype, weightBytes, options, target, [.. Enumerable.Range(0, layers).Select(policy)]);
        var budget = options.MemoryBudget > 0 ? options.MemoryBudget : long.MaxValue;
        if (options.Policy is { } fixedPolicy)
        {
            // A processor's memory is the host's: there is nowhere to go.
            var plan = Try(_ => fixedPolicy == ActivationPolicy.Offload && !target.IsCuda ? ActivationPolicy.KeepInput : fixedPolicy);
            return plan.Memory.PeakBytes <= budget ? plan : throw DoesNotFit(plan, budget, options, target);
        }
        var cheapest = Try(_ => ActivationPolicy.Keep);
        if (cheapest.Memory.PeakBytes <= budget) return cheapest;
        // Each step down costs more time and less memory, so the fewest layers that have to take it are found by bisection.
        foreach (var (less, more) in Ladder(decoder.Layers.Sum(layer => layer.HostBytes(options.MaxTokens, dtype)), target))
        {
            var all = Try(_ => more);
            if (all.Memory.PeakBytes > budget)
            {
                cheapest = all;
                continue;
            }
            var (low, high) = (0, layers);
            while (high - low > 1)
            {
                var count = (low + high) / 2;
                var plan = Try(layer => layer < count ? more : less);
                if (plan.Memory.PeakBytes <= budget) (high, all) = (count, plan);
                else low = count;
            }
            return all;
        }
        throw DoesNotFit(cheapest, budget, options, target);
    }

    /// <summary>
    /// From fastest to leanest. On a GPU offloading takes less memory than keeping the input alone, and less time, because attention is not computed
    /// again; but it needs host memory. A processor's memory is the host's.
    /// </summary>
    private static (ActivationPolicy Less, ActivationPolicy More)[] Ladder(long hostBytes, PlanTarget target)
    {
        ActivationPolicy[] steps = !target.IsCuda ? [ActivationPolicy.Keep, ActivationPolicy.RecomputeMlp, ActivationPolicy.KeepInput]
            : hostBytes <= GC.GetGCMemoryInfo().TotalAvailableMemoryBytes * ShareOfHostMemory ? [ActivationPolicy.Keep, ActivationPolicy.RecomputeMlp, ActivationPolicy.Offload]
            : [ActivationPolicy.Keep, ActivationPolicy.RecomputeMlp, ActivationPolicy.KeepInput, ActivationPolicy.Offload];
        return [.. steps.Zip(steps.Skip(1))];
    }

    private static LancetException DoesNotFit(StepPlan plan, long budget, EngineOptions options, PlanTarget target) => new(
        $"The run needs {plan.Memory.PeakBytes / 1048576.0:N0} MiB, the budget is {budget / 1048576.0:N0} MiB. " +
        $"Lower --max-seq-length or --batch-size ({options.MaxTokens} tokens a micro-batch now), choose --activation-policy {(target.IsCuda ? "offload" : "keep-input")}, --method qlora or --optimizer adamw_8bit, or raise --memory-budget.");

    private static StepPlan Run(DecoderModel decoder, DType dtype, long weightBytes, EngineOptions options, PlanTarget target, ActivationPolicy[] policies)
    {
        using var device = new PlanningDevice(target);
        StepMemory training = new(), evaluation = new();
        Dry(training, isTraining: true);
        var operations = device.MatMulOperations;
        Dry(evaluation, isTraining: false);

        var trained = decoder.TrainedWeights.ToList();
        var count = ParameterArena.CountOf(trained);
        var master = (long)dtype.Accumulator().SizeInBytes();
        var state = options.HasEightBitState ? (count * 2) + (count / AdamWKernel.StateBlock * 2 * sizeof(float)) : count * 2 * master;
        var entries = new List<MemoryPlanEntry>
        {
            new("base weights", weightBytes),
            new("trained parameters", (count * master) + (ParameterArena.NeedsCopy(trained, dtype) ? count * dtype.SizeInBytes() : 0) + ScatteredCopies.TableBytes(trained.Where(weight => weight.IsInBorder).Select(weight => weight.Shape.Count))),
            new("gradients", count * master),
            new("optimiser state", state),
            new("index arrays and tables", new StepInputs(device, decoder.Config, dtype, options.MaxTokens, options.MaxSequenceLength).Bytes),
            new("matrix product workspace", device.MatMulWorkspaceBytes),
        };
        var breakdown = training.Breakdown();
        foreach (var (purpose, name) in ((MemoryPurpose, string)[])[(MemoryPurpose.SavedActivations, "saved activations"), (MemoryPurpose.Workspace, "step workspace"), (MemoryPurpose.Logits, "logits chunk")])
            entries.Add(new(name, breakdown.GetValueOrDefault(purpose)));
        if (evaluation.RequiredBytes > training.RequiredBytes) entries.Add(new("evaluation beyond training", evaluation.RequiredBytes - training.RequiredBytes));
        entries.Sort((a, b) => b.Bytes.CompareTo(a.Bytes));
        return new(policies, training, evaluation, new MemoryPlan(entries, Describe(policies)) { HostBytes = HostBytes(decoder, policies, options, dtype).Sum(), DriverBytes = target.DriverBytes }, device) { MatMulOperations = operations };

        void Dry(StepMemory memory, bool isTraining)
        {
            memory.BeginPlanning();
            var inputs = new StepInputs(device, decoder.Config, dtype, options.MaxTokens, options.MaxSequenceLength);
            var context = new StepContext(device, memory, dtype) { IsTraining = isTraining, HostMemory = HostMemory(device, decoder, policies, options, dtype, []) };
            inputs.Bind(context, options.MaxTokens);
            if (isTraining) decoder.ForwardBackward(context, policies, inputs.Losses.Rows(0, options.MaxTokens));
            else decoder.Forward(context, inputs.Losses.Rows(0, options.MaxTokens));
            memory.EndPlanning();
        }
    }

    /// <summary>Allocates the host memory of <see cref="ActivationPolicy.Offload"/>, bytes a layer; absent ones for other policies.</summary>
    internal static IReadOnlyList<Tensor> HostMemory(Device device, DecoderModel decoder, ActivationPolicy[] policies, EngineOptions options, DType dtype, List<DeviceBuffer> owned) =>
    [
        .. HostBytes(decoder, policies, options, dtype).Select(bytes =>
        {
            if (bytes == 0) return default;
            var buffer = device.AllocateHost(bytes, "activations of layers");
            owned.Add(buffer);
            return buffer.View(DType.UInt8, new Shape(bytes));
        }),
    ];

    private static IEnumerable<long> HostBytes(DecoderModel decoder, ActivationPolicy[] policies, EngineOptions options, DType dtype) =>
        decoder.Layers.Zip(policies, (layer, policy) => policy == ActivationPolicy.Offload ? layer.HostBytes(options.MaxTokens, dtype) : 0);

    private static string Describe(ActivationPolicy[] policies) => string.Join(", ", policies.GroupBy(policy => policy).OrderBy(group => group.Key).Select(group =>
        (group.Count() == policies.Length ? "all layers" : group.Count() == 1 ? "1 layer" : $"{group.Count()} layers") + " " + group.Key switch
        {
            ActivationPolicy.Keep => "keep everything",
            ActivationPolicy.RecomputeMlp => "recompute the MLP",
            ActivationPolicy.KeepInput => "keep their input only",
            _ => "keep their input and attention's output in host memory",
        }));
}
