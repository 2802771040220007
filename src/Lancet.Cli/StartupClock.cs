using System.Diagnostics;
using System.Globalization;
using Lancet.Devices;
using Lancet.Training;

namespace Lancet.Cli;

/// <summary>Where the time from the start of the process to the first step went.</summary>
internal sealed class StartupClock
{
    private readonly List<SetupTime> _times = [];
    private readonly Stopwatch _clock = Stopwatch.StartNew();

    public StartupClock()
    {
        using var process = Process.GetCurrentProcess();
        _times.Add(new("process", Math.Max(0, (DateTime.Now - process.StartTime).TotalSeconds)));
    }

    /// <summary>Parts by name, in order.</summary>
    public IReadOnlyList<SetupTime> Times => _times;

    /// <summary>A part has ended, in which some time went into parts of its own.</summary>
    public void Note(string name, params IReadOnlyList<SetupTime> parts)
    {
        _times.AddRange(parts);
        _times.Add(new(name, Math.Max(0, _clock.Elapsed.TotalSeconds - parts.Sum(part => part.Seconds))));
        _clock.Restart();
    }

    /// <summary>All of it in one line. Parts that took no time worth mentioning are left out.</summary>
    public string Describe(DevicePreparation preparation)
    {
        static string Seconds(double value) => value.ToString("F2", CultureInfo.InvariantCulture);
        var text = $"first step after {Seconds(_times.Sum(time => time.Seconds))} s: {string.Join(", ", _times.Where(time => time.Seconds >= 0.005).Select(time => $"{time.Name} {Seconds(time.Seconds)}"))}";
        if (preparation.Assembled + preparation.Read > 0) text += $"; {preparation.Assembled} kernels assembled, {preparation.Read} from the cache in {Seconds(preparation.KernelSeconds)} s of all threads";
        return preparation.Products == 0 ? text : text + $"; {preparation.Products} shapes of products timed in {Seconds(preparation.ProductSeconds)} s";
    }
}
