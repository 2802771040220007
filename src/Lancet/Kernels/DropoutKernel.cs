using Lancet.Devices;
using Lancet.Tensors;
using Lancet.Tile;
using static Lancet.Tile.TileMath;

namespace Lancet.Kernels;

/// <summary>Which masks a launch draws.</summary>
/// <param name="Seed">int64 [1]: the step's seed.</param>
/// <param name="Site">Number of the place in the model, which tells its masks from all others.</param>
/// <param name="FirstRow">Rows of the batch before the first that is given.</param>
public readonly record struct DropoutMasks(Tensor Seed, int Site, long FirstRow)
{
    /// <summary>Random words that a place has for itself.</summary>
    public const long CountersPerSite = 1L << 40;

    /// <summary>Counter of the first element, of rows of a number of columns; the others follow it.</summary>
    public long FirstCounter(long columns) => (Site * CountersPerSite) + (FirstRow * columns);
}

/// <summary>
/// Inverted dropout, y = x·m/(1 − p) with m ~ Bernoulli(1 − p). The mask is Philox-4x32-10 (Salmon et al. 2011) of the step's seed, the place
/// in the model and the element's index, so nothing is kept: the backward pass applies the same function to the gradient.
/// </summary>
/// <param name="probability">p, the share of dropped elements, in [0, 1).</param>
public sealed class DropoutKernel(double probability)
{
    private static readonly KernelSet<Choice> Kernels = new(Trace);

    /// <summary>p, the share of dropped elements.</summary>
    public double Probability => probability;

    /// <summary>y = dropout(x); y may be x.</summary>
    /// <param name="device">Device.</param>
    /// <param name="x">Any shape; rows are along the first axis.</param>
    /// <param name="y">Like x.</param>
    /// <param name="masks">What is dropped.</param>
    public void Apply(Device device, Tensor x, Tensor y, DropoutMasks masks) => Launch(device, x, y, masks, false);

    /// <summary>y += dropout(x) with the mask of <see cref="Apply"/>.</summary>
    /// <param name="device">Device.</param>
    /// <param name="x">Any shape; rows are along the first axis.</param>
    /// <param name="y">Like x.</param>
    /// <param name="masks">What is dropped.</param>
    public void AddTo(Device device, Tensor x, Tensor y, DropoutMasks masks) => Launch(device, x, y, masks, true);

    private void Launch(Device device, Tensor x, Tensor y, DropoutMasks masks, bool adds) =>
        device.Launch(Kernels[new(probability, x.DType, adds)], new Grid(Blocks.Of(x.Count, Blocks.Elementwise)), [x, y, masks.Seed, masks.FirstCounter(x.Shape.RowCount), x.Count]);

    /// <summary>Whether the elements of counters are kept: whether a uniform number in [0, 1), a multiple of 2⁻²⁴, is p or more; as a comparison of the random bits themselves.</summary>
    internal static Tile.Tile AreKept(KernelBuilder k, Tile.Tile seed, Tile.Tile counter, double probability)
    {
        const double steps = 1 << 24, bitsPerStep = 1 << 8;
        return k.RandomBits(seed, counter) >= Math.Min(Math.Ceiling((float)probability * steps), steps - 1) * bitsPerStep;
    }

    private static Kernel Trace(Choice choice) => Kernel.Trace(choice.Adds ? "dropout_add_to" : "dropout", k =>
    {
        var x = k.Pointer(choice.DType, "x");
        var y = k.Pointer(choice.DType, "y");
        var seed = k.Pointer(DType.Int64, "seed");
        var first = k.Scalar(DType.Int64, "first_counter");
        var count = k.Scalar(DType.Int64, "count");
        var index = k.ProgramId(0).ToInt64() * Blocks.Elementwise + k.Range(Blocks.Elementwise).ToInt64();
        var inside = index < count;
        var value = k.Load(x + index, inside).ToFloat32();
        var isKept = AreKept(k, k.Load(seed), first + index, choice.Probability);
        var result = Select(isKept, value * (1 / (1 - choice.Probability)), 0);
        if (choice.Adds) result = k.Load(y + index, inside).ToFloat32() + result;
        k.Store(y + index, result.To(choice.DType), inside);
    });

    private readonly record struct Choice(double Probability, DType DType, bool Adds);
}
