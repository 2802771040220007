using Lancet.Devices;
using Lancet.Kernels;
using Lancet.Layers;
using Lancet.Models;
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

    private StepPlan(PolicyChoice choice, StepMemory training, StepMemory evaluation, MemoryPlan memory, PlanningDevice device) =>
        (Policies, Lag, PredictedSeconds, Training, Evaluation, Memory, MatMulWorkspaceBytes, Kernels) =
        (choice.Policies, choice.Lag, choice.Prediction.Seconds, training, evaluation, memory, device.MatMulWorkspaceBytes, device.Kernels);

    /// <summary>What each layer keeps.</summary>
    public ActivationPolicy[] Policies { get; }

    /// <summary>See <see cref="DecoderModel.ForwardBackward"/>.</summary>
    public int Lag { get; }

    /// <summary>Predicted seconds of the forward and backward pass of one micro-batch, see <see cref="PlanTarget.Rates"/>.</summary>
    public double PredictedSeconds { get; }

    /// <summary>What the choice was made from: policies in all layers, fastest first.</summary>
    public IReadOnlyList<PolicyForecast> Forecasts { get; private set; } = [];

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
        if (options.Mix is { } mix) return Run(decoder, dtype, weightBytes, options, target, new(mix.Policies, mix.Lag, default));
        var budget = options.MemoryBudget > 0 ? options.MemoryBudget : long.MaxValue;
        // A processor's memory is the host's: there is nowhere to go.
        ActivationPolicy[] candidates = options.Policy is { } only ? [target.IsCuda ? only : SavedParts.OnDevice(only)]
            : [.. Enum.GetValues<ActivationPolicy>().Where(policy => target.IsCuda || !SavedParts.Of(policy).UsesHost)];
        var search = new PolicySearch(decoder.Layers.Count, candidates.ToDictionary(policy => policy, policy => Trace(decoder, dtype, options, target, policy)));
        var uniform = search.Uniform().ToList();
        var hostBytes = options.Policy is null ? (long)(GC.GetGCMemoryInfo().TotalAvailableMemoryBytes * ShareOfHostMemory) : long.MaxValue;
        StepPlan Plan(PolicyChoice choice) => Run(decoder, dtype, weightBytes, options, target, choice);
        var leanest = uniform.MinBy(item => item.Prediction.PeakBytes);
        var plan = Plan(new([.. Enumerable.Repeat(leanest.Policy, decoder.Layers.Count)], 0, leanest.Prediction));
        var besides = plan.Memory.PeakBytes - Math.Max(plan.Training.RequiredBytes, plan.Evaluation.RequiredBytes);
        IReadOnlyList<PolicyForecast> forecasts = [.. uniform.Select(item => new PolicyForecast(item.Policy, item.Prediction.Seconds, besides + item.Prediction.PeakBytes, item.Prediction.HostBytes))];
        if (options.Policy is not null && options.MemoryBudget == 0)
        {
            plan.Forecasts = forecasts;
            return plan;
        }
        var room = budget - besides;
        while (search.Best(room, hostBytes) is { } choice)
        {
            plan = Plan(choice);
            plan.Forecasts = forecasts;
            if (plan.Memory.PeakBytes <= budget) return plan;
            // The search counts what lives at the same time; placed in one piece of memory that takes a little more, for another mix perhaps less.
            room = choice.Prediction.PeakBytes - Math.Max(1, (plan.Training.RequiredBytes - choice.Prediction.PeakBytes) / 4);
        }
        foreach (var (policy, prediction) in uniform)
        {
            plan = Plan(new([.. Enumerable.Repeat(policy, decoder.Layers.Count)], 0, prediction));
            plan.Forecasts = forecasts;
            if (plan.Memory.PeakBytes <= budget && plan.Memory.HostBytes <= hostBytes) return plan;
        }
        throw DoesNotFit(Plan(new([.. Enumerable.Repeat(leanest.Policy, decoder.Layers.Count)], 0, leanest.Prediction)), budget, options, target);
    }

    private static LancetException DoesNotFit(StepPlan plan, long budget, EngineOptions options, PlanTarget target) => new(
        $"The run needs {plan.Memory.PeakBytes / 1048576.0:N0} MiB, the budget is {budget / 1048576.0:N0} MiB. " +
        $"Lower --max-seq-length or --batch-size ({options.MaxTokens} tokens a micro-batch now), choose --activation-policy {(target.IsCuda ? "offload" : "keep-input")}, --method qlora or --optimizer adamw_8bit, or raise --memory-budget.");

    private static StepPlan Run(DecoderModel decoder, DType dtype, long weightBytes, EngineOptions options, PlanTarget target, PolicyChoice choice)
    {
        using var device = new PlanningDevice(target);
        StepMemory training = new(), evaluation = new();
        DryRun(decoder, dtype, options, device, training, choice.Policies, choice.Lag, null);
        var operations = device.MatMulOperations;
        DryRun(decoder, dtype, options, device, evaluation, null, 0, null);

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
        return new(choice, training, evaluation, new MemoryPlan(entries, PolicyForecast.Describe(choice.Policies)) { HostBytes = training.HostBytes, DriverBytes = target.DriverBytes }, device) { MatMulOperations = operations };
    }

    /// <summary>What a step asks for in which all layers keep the same.</summary>
    private static StepTrace Trace(DecoderModel decoder, DType dtype, EngineOptions options, PlanTarget target, ActivationPolicy policy)
    {
        var trace = new StepTrace(target.Rates, options.MaxSequenceLength);
        using var device = new PlanningDevice(target) { Trace = trace };
        DryRun(decoder, dtype, options, device, new StepMemory { Trace = trace }, [.. Enumerable.Repeat(policy, decoder.Layers.Count)], 0, trace);
        return trace;
    }

    /// <summary>Runs a training step without computing, or a forward pass if there are no policies.</summary>
    private static void DryRun(DecoderModel decoder, DType dtype, EngineOptions options, PlanningDevice device, StepMemory memory, ActivationPolicy[]? policies, int lag, StepTrace? trace)
    {
        var inputs = new StepInputs(device, decoder.Config, dtype, options.MaxTokens, options.MaxSequenceLength);
        var context = new StepContext(device, memory, dtype) { IsTraining = policies is not null, Trace = trace };
        inputs.Bind(context, options.MaxTokens);
        memory.BeginPlanning();
        if (policies is not null) decoder.ForwardBackward(context, policies, inputs.Losses.Rows(0, options.MaxTokens), lag);
        else decoder.Forward(context, inputs.Losses.Rows(0, options.MaxTokens));
        // Traces are told of lives, so offsets are only needed without.
        if (trace is null) memory.EndPlanning();
    }
}

/// <summary>What a policy in all layers is predicted to take.</summary>
/// <param name="Policy">Policy.</param>
/// <param name="Seconds">Time of the forward and backward pass of one micro-batch.</param>
/// <param name="PeakBytes">Memory.</param>
/// <param name="HostBytes">Page-locked host memory besides.</param>
public sealed record PolicyForecast(ActivationPolicy Policy, double Seconds, long PeakBytes, long HostBytes)
{
    /// <summary>A mix in words.</summary>
    internal static string Describe(ActivationPolicy[] policies) => string.Join(", ", policies.GroupBy(policy => policy).OrderBy(group => group.Key).Select(group =>
        (group.Count() == policies.Length ? "all layers" : group.Count() == 1 ? "1 layer" : $"{group.Count()} layers") + " " + Describe(group.Key)));

    /// <summary>A policy in words.</summary>
    internal static string Describe(ActivationPolicy policy) => policy switch
    {
        ActivationPolicy.Keep => "keep everything",
        ActivationPolicy.RecomputeMlp => "recompute the MLP",
        ActivationPolicy.KeepInput => "keep their input only",
        ActivationPolicy.Offload => "keep their input and attention's output in host memory",
        ActivationPolicy.OffloadQkv => "keep input, q, k, v and attention's output in host memory",
        ActivationPolicy.OffloadAttention => "keep everything in host memory and recompute the MLP",
        ActivationPolicy.OffloadKeepMlp => "keep the MLP here and the rest in host memory",
        _ => "keep everything in host memory",
    };
}
