namespace Lancet.Training;

/// <summary>How the learning rate goes over a run; Hugging Face's names and formulas.</summary>
/// <param name="Kind">linear, cosine, constant or constant_with_warmup.</param>
/// <param name="PeakRate">Rate after the warm-up.</param>
/// <param name="WarmupSteps">Steps over which the rate rises from zero.</param>
/// <param name="TotalSteps">Steps of the run.</param>
public sealed record LearningRateSchedule(string Kind, double PeakRate, int WarmupSteps, int TotalSteps)
{
    /// <summary>Kinds that are known.</summary>
    public static IReadOnlyList<string> Kinds { get; } = ["linear", "cosine", "constant", "constant_with_warmup"];

    /// <summary>Rate of a step, counted from 0: with a warm-up the first step's rate is 0, as in Hugging Face.</summary>
    public double Rate(int step)
    {
        if (Kind == "constant") return PeakRate;
        if (step < WarmupSteps) return PeakRate * step / Math.Max(1, WarmupSteps);
        var progress = (double)(step - WarmupSteps) / Math.Max(1, TotalSteps - WarmupSteps);
        return Kind switch
        {
            "linear" => PeakRate * Math.Max(0, (double)(TotalSteps - step) / Math.Max(1, TotalSteps - WarmupSteps)),
            "cosine" => PeakRate * Math.Max(0, 0.5 * (1 + Math.Cos(Math.PI * progress))),
            _ => PeakRate,
        };
    }
}
