using Lancet.Layers;

namespace Lancet.Planning;

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
        ActivationPolicy.OffloadInput => "keep their input in host memory",
        ActivationPolicy.OffloadHalfMlp => "keep everything in host memory and recompute half of the MLP",
        ActivationPolicy.OffloadKeepHalfMlp => "keep half of the MLP here, recompute the other and keep the rest in host memory",
        _ => "keep everything in host memory",
    };
}
