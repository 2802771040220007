using Lancet.Devices;
using Lancet.Models;
using Lancet.Tile;
using Lancet.Training;

namespace Lancet.Planning;

/// <summary>Finds the longest sequences that a budget has room for, by planning steps of one length after the other.</summary>
public static class ContextSearch
{
    /// <summary>Lengths are multiples of this many tokens.</summary>
    public const int Step = 128;

    /// <summary>Most tokens of a micro-batch that are tried.</summary>
    public const int MostTokens = 1 << 22;

    private const int MostAttempts = 6;

    /// <summary>The longest sequences whose step fits: those that are <see cref="Step"/> tokens longer do not, or were not tried (<see cref="MostTokens"/>).</summary>
    /// <param name="decoder">Model, with trained weights marked and adapters described.</param>
    /// <param name="dtype">Dtype of activations.</param>
    /// <param name="weightBytes">Bytes of the frozen weights.</param>
    /// <param name="rows">Sequences of a micro-batch.</param>
    /// <param name="options">
    /// Optimiser, policy and budgets; the number of tokens is what is searched for. Of <see cref="EngineOptions.MemoryBudget"/>, the device's whole memory here, the driver takes its share.
    /// </param>
    /// <param name="target">Device that the run is for; it need not be there.</param>
    /// <returns>Tokens of a sequence, the plan at this length, and the options that it was made with, the driver's share taken off the budget.</returns>
    /// <exception cref="LancetException">Not even <see cref="Step"/> tokens fit.</exception>
    public static (int Length, StepPlan Plan, EngineOptions Options) Longest(DecoderModel decoder, DType dtype, long weightBytes, int rows, EngineOptions options, PlanTarget target)
    {
        var (length, found, tooLong) = (0, default((StepPlan Plan, EngineOptions Options)?), MostTokens / rows / Step * Step + Step);
        // Twice as long until it does not fit, then halfway between what does and what does not.
        while (length + Step < tooLong)
        {
            var middle = length + ((tooLong - length) / Step / 2 * Step);
            var tried = Math.Max(length + Step, Math.Min(length * 2, middle));
            if (Find(tried) is { } fits) (length, found) = (tried, fits);
            else tooLong = tried;
        }
        return found is not { } longest
            ? throw new LancetException($"Not even sequences of {Step} tokens fit a memory of {options.MemoryBudget / 1048576.0:N0} MiB. Choose --method qlora or --optimizer adamw_8bit, or raise --memory-budget or --host-memory-budget.")
            : (length, longest.Plan, longest.Options);

        // The driver's share depends on the host memory that a plan takes, so plans are made with what the one before has shown, a few times.
        (StepPlan Plan, EngineOptions Options)? Find(int length)
        {
            var driverBytes = target.DriverBytes(0, 0);
            for (var attempt = 0; attempt < MostAttempts; attempt++)
            {
                var reduced = options with { MaxTokens = checked(length * rows), MaxSequenceLength = length, MemoryBudget = Math.Max(1, options.MemoryBudget - driverBytes) };
                if (new StepPlanner(decoder, dtype, weightBytes, reduced, target).Find(out _) is not { } plan) return null;
                driverBytes = plan.Memory.DriverBytes + plan.Memory.FurtherGraphBytes;
                if (plan.Memory.PeakBytes + driverBytes <= options.MemoryBudget) return (plan, reduced);
            }
            return null;
        }
    }
}
