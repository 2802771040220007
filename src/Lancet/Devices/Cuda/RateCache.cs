using System.Globalization;
using System.Text;

namespace Lancet.Devices.Cuda;

/// <summary>
/// Measured rates of this machine's GPUs on disk, so that the same machine goes on with the same choices and starts at once. A line of the file is the GPU's name, the driver's version and three numbers,
/// with tabs between; lines that are anything else are ignored.
/// </summary>
internal sealed class RateCache(string path)
{
    private const int Fields = 5;

    // What a kernel takes besides its work in a graph; measured in docs/benchmarks.md, and not worth measuring again.
    private const double LaunchSeconds = 2e-6;

    /// <summary>Where it is kept. The file has a new name whenever rates are measured in another way: the first one's were those of a card that was not warm, the second one's of one that only multiplied.</summary>
    public static RateCache Default => new(Path.Combine(CacheFolder.Path, "rates.3"));

    /// <summary>Rates of a GPU, or null if they were not measured.</summary>
    public DeviceRates? Find(string name, string driver) => Read().GetValueOrDefault(Key(name, driver));

    /// <summary>Keeps rates. Three digits: more of them would be noise.</summary>
    /// <returns>What will be found from now on.</returns>
    public DeviceRates Add(string name, string driver, double matMulOperations, double memoryBytes, double hostBytes)
    {
        var all = Read();
        var rates = new DeviceRates(Rounded(matMulOperations), Rounded(memoryBytes), Rounded(hostBytes), LaunchSeconds);
        all[Key(name, driver)] = rates;
        var text = new StringBuilder();
        foreach (var (key, value) in all.OrderBy(entry => entry.Key, StringComparer.Ordinal)) text.Append(CultureInfo.InvariantCulture, $"{key}\t{value.MatMulOperations:R}\t{value.MemoryBytes:R}\t{value.HostBytes:R}\n");
        CacheFolder.TryWrite(path, Encoding.UTF8.GetBytes(text.ToString()));
        return rates;
    }

    private Dictionary<string, DeviceRates> Read()
    {
        var result = new Dictionary<string, DeviceRates>(StringComparer.Ordinal);
        if (CacheFolder.TryRead(path) is not { } contents) return result;
        foreach (var line in Encoding.UTF8.GetString(contents).Split('\n'))
        {
            var fields = line.Split('\t');
            if (fields.Length != Fields) continue;
            if (Number(fields[2]) is { } matMul && Number(fields[3]) is { } memory && Number(fields[4]) is { } host) result[Key(fields[0], fields[1])] = new(matMul, memory, host, LaunchSeconds);
        }
        return result;
    }

    private static string Key(string name, string driver) => name + "\t" + driver;

    private static double? Number(string text) => double.TryParse(text, NumberStyles.Float, CultureInfo.InvariantCulture, out var value) && value > 0 && double.IsFinite(value) ? value : null;

    private static double Rounded(double value) => double.Parse(value.ToString("E2", CultureInfo.InvariantCulture), CultureInfo.InvariantCulture);
}
