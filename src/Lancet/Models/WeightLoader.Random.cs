using Lancet.Kernels;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Models;

// Random weights for benchmarks: drawn on the device from config.json alone, so that no bytes pass through the host.
internal sealed partial class WeightLoader
{
    // Hugging Face's initialisation. Norm scales vary a little, so that no kernel is timed on constants.
    private const double Deviation = 0.02;
    private long _draws;

    /// <summary>Seed of weights that are drawn.</summary>
    public long Seed { get; init; }

    /// <summary>The model: how its weights are named; where 1 is added to norm scales, drawn ones lie around 0.</summary>
    public required ModelConfig Config { get; init; }

    private void Draw(Weight weight, bool quantize)
    {
        if (quantize && weight.Role == WeightRole.Projection && weight.Shape.Count % 2 == 0)
        {
            var dense = Staging(weight.Shape.Count * dtype.SizeInBytes()).View(dtype, weight.Shape);
            Draw(weight, dense);
            Quantize(weight, dense);
            return;
        }
        weight.Dense = weight.IsWide ? Allocate(dtype.Accumulator(), weight.Shape, weight.Name) : Allocate(weight, "elements", dtype, weight.Shape);
        Draw(weight, weight.Dense);
    }

    private void Draw(Weight weight, Tensor target)
    {
        var seed = unchecked((Seed * 6364136223846793005L) + ++_draws);
        if (weight.Role == WeightRole.Norm) RandomFillKernel.Fill(device, target, RandomDistribution.Uniform, seed, 0.125, Config.Norm == NormKind.RootMeanSquarePlusOne ? 0 : 1);
        else RandomFillKernel.Fill(device, target, RandomDistribution.Normal, seed, Deviation);
    }
}
