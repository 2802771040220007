using Lancet.Devices;
using Lancet.Tensors;
using Lancet.Tile;
using static Lancet.Tile.TileMath;

namespace Lancet.Kernels;

/// <summary>
/// Global L2 norm of the gradient arena and the clip coefficient, on the device:
/// <code>norm = √Σ g²     c = min(1, limit / (norm + 10⁻⁶))     (c = 1 without a limit)</code>
/// Sums of fixed shares are added in fixed order.
/// </summary>
public static class GradientNormKernel
{
    /// <summary>Most shares the sum is made of: elements of the workspace.</summary>
    public const int MaxShares = 1024;

    private static readonly KernelSet<DType> PartialKernels = new(TracePartial);
    private static readonly KernelSet<(DType DType, double Limit)> FinalKernels = new(TraceFinal);

    /// <summary>Computes norm and coefficient.</summary>
    /// <param name="device">Device.</param>
    /// <param name="gradients">fp32 or fp64.</param>
    /// <param name="limit">Largest norm; 0 for no clipping.</param>
    /// <param name="partial">Workspace of <see cref="MaxShares"/>, like the gradients.</param>
    /// <param name="norm">One number, like the gradients.</param>
    /// <param name="coefficient">One number, like the gradients.</param>
    public static void Compute(Device device, Tensor gradients, double limit, Tensor partial, Tensor norm, Tensor coefficient)
    {
        var blocks = Blocks.Of(gradients.Count, Blocks.Elementwise);
        var blocksPerShare = Math.Max(1, Blocks.Of(blocks, MaxShares));
        var shares = Math.Max(1, Blocks.Of(blocks, blocksPerShare));
        device.Launch(PartialKernels[gradients.DType], new Grid(shares), [gradients, partial, gradients.Count, blocksPerShare]);
        device.Launch(FinalKernels[(gradients.DType, limit)], new Grid(1), [partial, norm, coefficient, shares]);
    }

    private static Kernel TracePartial(DType dtype) => Kernel.Trace("gradient_norm_partial", k =>
    {
        var gradients = k.Pointer(dtype, "gradients");
        var partial = k.Pointer(dtype, "partial");
        var count = k.Scalar(DType.Int64, "count");
        var blocks = k.Scalar(DType.Int32, "blocks_per_share");
        var first = k.ProgramId(0).ToInt64() * blocks * Blocks.Elementwise;
        var lane = k.Range(Blocks.Elementwise).ToInt64();
        var sums = k.For(k.Constant(DType.Int32, 0), blocks, k.Constant(DType.Int32, 1), [k.Zeros(dtype, Blocks.Elementwise)], (block, carried) =>
        {
            var index = first + block.ToInt64() * Blocks.Elementwise + lane;
            var value = k.Load(gradients + index, index < count);
            return [carried[0] + value * value];
        })[0];
        k.Store(partial + k.ProgramId(0), Sum(sums));
    });

    private static Kernel TraceFinal((DType DType, double Limit) choice) => Kernel.Trace("gradient_norm", k =>
    {
        var partial = k.Pointer(choice.DType, "partial");
        var norm = k.Pointer(choice.DType, "norm");
        var coefficient = k.Pointer(choice.DType, "coefficient");
        var count = k.Scalar(DType.Int32, "shares");
        var lane = k.Range(MaxShares);
        var result = Sqrt(Sum(k.Load(partial + lane, lane < count)));
        k.Store(norm, result);
        var clip = choice.Limit > 0 ? Min(choice.Limit / (result + 1e-6), 1) : k.Full(choice.DType, 1);
        k.Store(coefficient, clip);
    });
}
