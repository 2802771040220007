using Lancet.Devices;
using Lancet.Tensors;
using Lancet.Tile;
using static Lancet.Tile.TileMath;

namespace Lancet.Kernels;

/// <summary>
/// Inverted dropout, y = x·m/(1 − p) with m ~ Bernoulli(1 − p). The mask is Philox-4x32-10 (Salmon et al. 2011) of the step's seed, the place
/// in the model and the element's index, so nothing is kept: the backward pass applies the same function to the gradient.
/// </summary>
/// <param name="probability">p, the share of dropped elements, in [0, 1).</param>
public sealed class DropoutKernel(double probability)
{
    private static readonly KernelSet<Choice> Kernels = new(Trace);

    /// <summary>y = dropout(x); y may be x.</summary>
    /// <param name="device">Device.</param>
    /// <param name="x">Any shape.</param>
    /// <param name="y">Like x.</param>
    /// <param name="seed">int64 [1]: the step's seed.</param>
    /// <param name="site">Number of the place in the model, which tells its masks from all others.</param>
    public void Apply(Device device, Tensor x, Tensor y, Tensor seed, int site) => Launch(device, x, y, seed, site, false);

    /// <summary>y += dropout(x) with the mask of <see cref="Apply"/>.</summary>
    /// <param name="device">Device.</param>
    /// <param name="x">Any shape.</param>
    /// <param name="y">Like x.</param>
    /// <param name="seed">int64 [1]: the step's seed.</param>
    /// <param name="site">Number of the place in the model.</param>
    public void AddTo(Device device, Tensor x, Tensor y, Tensor seed, int site) => Launch(device, x, y, seed, site, true);

    private void Launch(Device device, Tensor x, Tensor y, Tensor seed, int site, bool adds) =>
        device.Launch(Kernels[new(probability, x.DType, adds)], new Grid(Blocks.Of(x.Count, Blocks.Elementwise)), [x, y, seed, (long)site << 40, x.Count]);

    private static Kernel Trace(Choice choice) => Kernel.Trace(choice.Adds ? "dropout_add_to" : "dropout", k =>
    {
        var x = k.Pointer(choice.DType, "x");
        var y = k.Pointer(choice.DType, "y");
        var seed = k.Pointer(DType.Int64, "seed");
        var site = k.Scalar(DType.Int64, "site");
        var count = k.Scalar(DType.Int64, "count");
        var index = k.ProgramId(0).ToInt64() * Blocks.Elementwise + k.Range(Blocks.Elementwise).ToInt64();
        var inside = index < count;
        var value = k.Load(x + index, inside).ToFloat32();
        var isKept = k.RandomUniform(k.Load(seed), site + index) >= choice.Probability;
        var result = Select(isKept, value * (1 / (1 - choice.Probability)), 0);
        if (choice.Adds) result = k.Load(y + index, inside).ToFloat32() + result;
        k.Store(y + index, result.To(choice.DType), inside);
    });

    private readonly record struct Choice(double Probability, DType DType, bool Adds);
}
