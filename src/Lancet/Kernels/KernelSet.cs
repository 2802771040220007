using System.Collections.Concurrent;
using System.Numerics;
using Lancet.Tile;

namespace Lancet.Kernels;

/// <summary>The specialisations of one kernel, each traced when it is first asked for and kept for the life of the process.</summary>
/// <typeparam name="TKey">Compile-time choices: dtype, extents, flags.</typeparam>
internal sealed class KernelSet<TKey>(Func<TKey, Kernel> trace)
    where TKey : notnull
{
    private readonly ConcurrentDictionary<TKey, Kernel> _kernels = new();

    public Kernel this[TKey key] => _kernels.GetOrAdd(key, trace);
}

/// <summary>Small sums that launches and kernels share.</summary>
internal static class Blocks
{
    /// <summary>Elements that a program of an elementwise kernel handles.</summary>
    public const int Elementwise = 1024;

    /// <summary>⌈count / size⌉ as a grid extent.</summary>
    public static int Of(long count, int size) => checked((int)((count + size - 1) / size));

    /// <summary>The least power of two that is not below <paramref name="count"/>.</summary>
    public static int PowerOfTwo(int count) => (int)BitOperations.RoundUpToPowerOf2((uint)count);
}
