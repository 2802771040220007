using System.Collections;

namespace Lancet.Tile.Cpu;

/// <summary>
/// Memory of which debug launches know what has been written yet, so that they can report a read of what has not. Whoever allocates a buffer
/// with undefined contents tracks it; checked stores mark what they write, and writes from outside kernels are told with
/// <see cref="MarkDefined"/>. Launches that are not checked neither look nor mark.
/// </summary>
public static class UninitializedMemory
{
    private static readonly Lock s_lock = new();
    private static readonly List<Tracked> s_blocks = [];
    private static volatile bool s_isAnyTracked;

    /// <summary>Takes the bytes from <paramref name="address"/> on as undefined, until the returned object is disposed (which is due before the memory is freed).</summary>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="bytes"/> is negative or above 2³¹ − 1.</exception>
    public static IDisposable Track(nint address, long bytes)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(bytes);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(bytes, int.MaxValue);
        var block = new Tracked(address, (int)bytes);
        lock (s_lock)
        {
            s_blocks.Add(block);
            s_isAnyTracked = true;
        }
        return block;
    }

    /// <summary>Takes the bytes as written, by a copy for example.</summary>
    public static void MarkDefined(nint address, long bytes)
    {
        if (!s_isAnyTracked) return;
        lock (s_lock)
        {
            foreach (var block in s_blocks)
            {
                var (first, last) = (Math.Max(address, block.Address), Math.Min(address + bytes, block.Address + block.IsDefined.Length));
                for (var at = first; at < last; at++) block.IsDefined[(int)(at - block.Address)] = true;
            }
        }
    }

    /// <summary>Whether none of the bytes is known to be undefined.</summary>
    internal static bool IsDefined(nint address, int bytes)
    {
        if (!s_isAnyTracked) return true;
        lock (s_lock)
        {
            foreach (var block in s_blocks)
            {
                var (first, last) = (Math.Max(address, block.Address), Math.Min(address + bytes, block.Address + block.IsDefined.Length));
                for (var at = first; at < last; at++)
                    if (!block.IsDefined[(int)(at - block.Address)]) return false;
            }
        }
        return true;
    }

    private sealed class Tracked(nint address, int bytes) : IDisposable
    {
        public nint Address { get; } = address;

        public BitArray IsDefined { get; } = new(bytes);

        public void Dispose()
        {
            lock (s_lock)
            {
                s_blocks.Remove(this);
                s_isAnyTracked = s_blocks.Count > 0;
            }
        }
    }
}
