namespace Lancet.Tile.Cpu;

#pragma warning disable SA1402 // each operation is one line of meaning; they belong together

/// <summary>One rounding from 64-bit integers to the 16-bit formats.</summary>
internal static class NarrowRounding
{
    /// <summary>A double that rounds to 16 bits as the integer does: the lowest bits of large ones are gathered in one.</summary>
    public static double Sticky(long x) => x is >= -(1L << 53) and <= 1L << 53 ? x : (x & ~0x7FFL) | ((x & 0x7FF) != 0 ? 0x800L : 0L);
}

internal struct BFloat16Casting : ICastOperation<double, float>, ICastOperation<int, float>, ICastOperation<uint, float>, ICastOperation<long, float>
{
    static float ICastOperation<double, float>.Invoke(double x) => (BFloat16)x;

    static float ICastOperation<int, float>.Invoke(int x) => (BFloat16)(double)x;

    static float ICastOperation<uint, float>.Invoke(uint x) => (BFloat16)(double)x;

    static float ICastOperation<long, float>.Invoke(long x) => (BFloat16)NarrowRounding.Sticky(x);
}

internal struct Float16Casting : ICastOperation<double, float>, ICastOperation<int, float>, ICastOperation<uint, float>, ICastOperation<long, float>
{
    static float ICastOperation<double, float>.Invoke(double x) => (float)(Half)x;

    static float ICastOperation<int, float>.Invoke(int x) => (float)(Half)(double)x;

    static float ICastOperation<uint, float>.Invoke(uint x) => (float)(Half)(double)x;

    static float ICastOperation<long, float>.Invoke(long x) => (float)(Half)NarrowRounding.Sticky(x);
}
