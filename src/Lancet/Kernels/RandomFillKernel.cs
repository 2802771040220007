using Lancet.Devices;
using Lancet.Tensors;
using Lancet.Tile;
using static Lancet.Tile.TileMath;

namespace Lancet.Kernels;

/// <summary>What random numbers look like.</summary>
internal enum RandomDistribution
{
    /// <summary>Evenly spread in [offset − scale, offset + scale).</summary>
    Uniform,

    /// <summary>Normal of mean offset and deviation scale.</summary>
    Normal,

    /// <summary>All values of a byte.</summary>
    Bytes,
}

/// <summary>
/// Random numbers made where they are needed, for random weights and benchmarks: element i is a function of the seed and of i alone.
/// <code>
/// uniform    x = offset + scale·(2u − 1)                     u = Philox(seed, i) / 2²⁴
/// normal     x = offset + scale·√(−2·ln(1 − u))·cos(2πv)     u, v = Philox(seed, 2i), Philox(seed, 2i + 1)     (Box and Muller 1958)
/// </code>
/// Numbers are rounded to bf16 first, so that tensors of all dtypes get the same ones; uniform numbers are the same bits on all devices.
/// </summary>
internal static class RandomFillKernel
{
    private static readonly KernelSet<(DType DType, RandomDistribution Distribution)> Kernels = new(Trace);

    /// <summary>Overwrites a tensor.</summary>
    /// <param name="device">Device.</param>
    /// <param name="target">Floating point, or uint8 for <see cref="RandomDistribution.Bytes"/>.</param>
    /// <param name="distribution">Shape of the distribution.</param>
    /// <param name="seed">Seed.</param>
    /// <param name="scale">Half the width, or the deviation.</param>
    /// <param name="offset">Middle.</param>
    /// <param name="first">Index that the target's first element has, for a part of something larger.</param>
    public static void Fill(Device device, Tensor target, RandomDistribution distribution, long seed, double scale = 1, double offset = 0, long first = 0) => device.Launch(
        Kernels[(target.DType, distribution)], new Grid(Blocks.Of(target.Count, Blocks.Elementwise)), [target, seed, first, target.Count, (float)scale, (float)offset]);

    private static Kernel Trace((DType DType, RandomDistribution Distribution) choice) => Kernel.Trace("random_fill", k =>
    {
        var target = k.Pointer(choice.DType, "target");
        var seed = k.Scalar(DType.Int64, "seed");
        var first = k.Scalar(DType.Int64, "first");
        var count = k.Scalar(DType.Int64, "count");
        var scale = k.Scalar(DType.Float32, "scale");
        var offset = k.Scalar(DType.Float32, "offset");
        var index = k.ProgramId(0).ToInt64() * Blocks.Elementwise + k.Range(Blocks.Elementwise).ToInt64();
        var counter = first + index;
        if (choice.Distribution == RandomDistribution.Bytes)
        {
            k.Store(target + index, (k.RandomBits(seed, counter) >> 24).To(DType.Int32).To(choice.DType), index < count);
            return;
        }
        Tile.Tile value;
        if (choice.Distribution == RandomDistribution.Uniform)
        {
            value = (k.RandomUniform(seed, counter) * 2) - 1;
        }
        else
        {
            var radius = Sqrt(Log(1 - k.RandomUniform(seed, counter * 2)) * -2);
            value = radius * Cos(k.RandomUniform(seed, (counter * 2) + 1) * (2 * Math.PI));
        }
        var rounded = ((value * scale) + offset).To(DType.BFloat16);
        k.Store(target + index, choice.DType == DType.BFloat16 ? rounded : rounded.To(DType.Float32).To(choice.DType), index < count);
    });
}
