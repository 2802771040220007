using System.Text;

namespace Lancet.Devices.Cuda;

/// <summary>
/// Algorithms chosen for shapes of products, kept on disk so that the same machine goes on with the same choice, and so with the same bits.
/// A line of the file is a key, a tab, and the library's 64 opaque bytes in hexadecimal; lines that are anything else are ignored.
/// </summary>
internal sealed class AlgorithmCache
{
    private readonly string _path;
    private readonly Dictionary<string, byte[]> _entries = [];

    /// <summary>Reads a file if it is there.</summary>
    public AlgorithmCache(string path)
    {
        _path = path;
        Read();
    }

    /// <summary>Number of choices.</summary>
    public int Count => _entries.Count;

    /// <summary>
    /// An extent as it counts for the choice: the next of eight steps an octave. Widths of models are such numbers mostly; token counts that
    /// differ a little share an algorithm.
    /// </summary>
    public static int Bucket(int extent)
    {
        if (extent < 16) return extent;
        var step = 1 << (System.Numerics.BitOperations.Log2((uint)extent) - 3);
        return checked((extent + step - 1) / step * step);
    }

    /// <summary>The algorithm of a key, or null.</summary>
    public byte[]? Find(string key) => _entries.GetValueOrDefault(key);

    /// <summary>Keeps a choice. What other processes have chosen meanwhile for this key stays.</summary>
    public byte[] Add(string key, ReadOnlySpan<byte> algorithm)
    {
        _entries[key] = algorithm.ToArray();
        Read();
        var text = new StringBuilder();
        foreach (var (name, bytes) in _entries.OrderBy(entry => entry.Key, StringComparer.Ordinal)) text.Append(name).Append('\t').Append(Convert.ToHexStringLower(bytes)).Append('\n');
        CacheFolder.TryWrite(_path, Encoding.UTF8.GetBytes(text.ToString()));
        return _entries[key];
    }

    private void Read()
    {
        if (CacheFolder.TryRead(_path) is not { } contents) return;
        foreach (var line in Encoding.UTF8.GetString(contents).Split('\n'))
        {
            var tab = line.IndexOf('\t', StringComparison.Ordinal);
            if (tab <= 0 || line.Length - tab - 1 != 2 * Interop.CublasLtAlgorithm.Size) continue;
            try
            {
                _entries[line[..tab]] = Convert.FromHexString(line.AsSpan(tab + 1));
            }
            catch (FormatException)
            {
                // Not one of ours.
            }
        }
    }
}
