using System.Globalization;
using Lancet.Devices.Cuda;

namespace Lancet.Bench.Gpu;

/// <summary>Times of repeated measurements.</summary>
/// <param name="Median">Milliseconds of one launch.</param>
/// <param name="Low">Tenth percentile.</param>
/// <param name="High">Ninetieth percentile.</param>
internal readonly record struct Timing(double Median, double Low, double High)
{
    public static Timing Of(List<double> values)
    {
        values.Sort();
        return new(values[values.Count / 2], values[values.Count / 10], values[values.Count - 1 - (values.Count / 10)]);
    }

    /// <summary>From the tenth to the ninetieth percentile, as parts of the median.</summary>
    public string Spread => string.Create(CultureInfo.InvariantCulture, $"−{(1 - (Low / Median)) * 100:F1} +{((High / Median) - 1) * 100:F1} %");
}

/// <summary>
/// Device time of work between two events. Every sample goes once or more through all sets of buffers, which together outgrow the L2
/// cache, and starts behind work that is queued already, so that the device never waits for the host.
/// </summary>
internal static class KernelTimer
{
    private const double LeastSampleMilliseconds = 1;
    private const int MostSamples = 25;
    private const int LeastSamples = 5;
    private const int MostRounds = 200;

    /// <summary>Measures.</summary>
    /// <param name="device">GPU.</param>
    /// <param name="launch">Queues the work on one set of buffers.</param>
    /// <param name="sets">Sets of buffers.</param>
    /// <param name="restore">Gives overwritten inputs their values back, untimed; null if nothing is overwritten.</param>
    /// <param name="budget">Milliseconds to spend on it.</param>
    public static Timing Measure(CudaDevice device, Action<int> launch, int sets, Action? restore = null, double budget = 150)
    {
        void Round()
        {
            for (var set = 0; set < sets; set++) launch(set);
        }
        restore?.Invoke();
        Round();
        restore?.Invoke();
        var first = device.Time(Round);
        var rounds = restore is null ? (int)Math.Clamp(Math.Ceiling(LeastSampleMilliseconds / first), 1, MostRounds) : 1;
        var samples = (int)Math.Clamp(budget / (first * rounds * (restore is null ? 1 : 2)), LeastSamples, MostSamples);
        var times = new List<double>();
        for (var sample = 0; sample < samples; sample++)
        {
            if (restore is not null) restore();
            else launch(0);
            times.Add(device.Time(() =>
            {
                for (var round = 0; round < rounds; round++) Round();
            }) / (rounds * sets));
        }
        return Timing.Of(times);
    }
}
