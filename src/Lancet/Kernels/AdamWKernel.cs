using Lancet.Devices;
using Lancet.Tensors;
using Lancet.Tile;
using static Lancet.Tile.TileMath;

namespace Lancet.Kernels;

/// <summary>Constants of AdamW.</summary>
/// <param name="Beta1">Decay of the first moment.</param>
/// <param name="Beta2">Decay of the second moment.</param>
/// <param name="Epsilon">Added to the root of the second moment.</param>
/// <param name="WeightDecay">Decoupled decay, times the learning rate.</param>
public readonly record struct AdamWConstants(double Beta1, double Beta2, double Epsilon, double WeightDecay);

/// <summary>
/// AdamW (Loshchilov and Hutter 2019) over one flat arena, in one launch.
/// <code>
/// g ← c·g        p ← p·(1 − η·λ)        m ← β₁m + (1 − β₁)g        v ← β₂v + (1 − β₂)g²
/// p ← p − η/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + ε)
/// </code>
/// c is the clip coefficient. Step-dependent factors come from a device tensor, so that the launch is the same at every step. Elements from
/// the decay boundary on (norms, biases) have λ = 0. The 8-bit form keeps m and v as dynamic 8-bit codes with one scale for each
/// <see cref="StateBlock"/> elements (Dettmers et al. 2022).
/// </summary>
/// <param name="constants">Constants.</param>
public sealed class AdamWKernel(AdamWConstants constants)
{
    /// <summary>Elements of the 8-bit state that share a scale.</summary>
    public const int StateBlock = 256;

    private const int StateBlocksPerProgram = 4;

    /// <summary>Entries of the tensor of step factors: η, η/(1 − β₁ᵗ), 1/√(1 − β₂ᵗ).</summary>
    public const int StepFactorCount = 3;

    private static readonly KernelSet<(AdamWConstants Constants, DType DType)> Kernels = new(Trace);
    private static readonly KernelSet<AdamWConstants> EightBitKernels = new(TraceEightBit);

    /// <summary>The step factors for the host to send.</summary>
    /// <param name="learningRate">η.</param>
    /// <param name="step">t, from 1.</param>
    /// <param name="factors">Receives <see cref="StepFactorCount"/> numbers.</param>
    public void StepFactors(double learningRate, int step, Span<double> factors)
    {
        factors[0] = learningRate;
        factors[1] = learningRate / (1 - Math.Pow(constants.Beta1, step));
        factors[2] = 1 / Math.Sqrt(1 - Math.Pow(constants.Beta2, step));
    }

    /// <summary>An update with state in the parameters' dtype.</summary>
    /// <param name="device">Device.</param>
    /// <param name="parameters">fp32 or fp64 [n].</param>
    /// <param name="gradients">Like the parameters.</param>
    /// <param name="first">m, like the parameters.</param>
    /// <param name="second">v, like the parameters.</param>
    /// <param name="stepFactors">Like the parameters: [<see cref="StepFactorCount"/>].</param>
    /// <param name="clip">c: one number.</param>
    /// <param name="decayBoundary">First element without decay.</param>
    public void Update(Device device, Tensor parameters, Tensor gradients, Tensor first, Tensor second, Tensor stepFactors, Tensor clip, long decayBoundary) => device.Launch(
        Kernels[(constants, parameters.DType)], new Grid(Blocks.Of(parameters.Count, Blocks.Elementwise)),
        [parameters, gradients, first, second, stepFactors, clip, decayBoundary, parameters.Count]);

    /// <summary>An update with 8-bit state.</summary>
    /// <param name="device">Device.</param>
    /// <param name="parameters">fp32 [n], n a multiple of <see cref="StateBlock"/>.</param>
    /// <param name="gradients">fp32 [n].</param>
    /// <param name="first">Codes of m: uint8 [n].</param>
    /// <param name="second">Codes of v: uint8 [n].</param>
    /// <param name="firstScales">fp32 [n / <see cref="StateBlock"/>].</param>
    /// <param name="secondScales">fp32 [n / <see cref="StateBlock"/>].</param>
    /// <param name="stepFactors">fp32 [<see cref="StepFactorCount"/>].</param>
    /// <param name="clip">c: fp32 [1].</param>
    /// <param name="decayBoundary">First element without decay.</param>
    public void UpdateEightBit(
        Device device, Tensor parameters, Tensor gradients, Tensor first, Tensor second, Tensor firstScales, Tensor secondScales, Tensor stepFactors, Tensor clip, long decayBoundary) =>
        device.Launch(
            EightBitKernels[constants], new Grid(Blocks.Of(parameters.Count, StateBlock * StateBlocksPerProgram)),
            [parameters, gradients, first, second, firstScales, secondScales, stepFactors, clip, decayBoundary, firstScales.Count]);

    private static (Tile.Tile Parameter, Tile.Tile First, Tile.Tile Second) Step(
        KernelBuilder k, AdamWConstants constants, Pointer factors, Tile.Tile index, Tile.Tile boundary, Tile.Tile p, Tile.Tile g, Tile.Tile m, Tile.Tile v)
    {
        var shrink = 1 - k.Load(factors) * constants.WeightDecay;
        p = Select(index < boundary, p * shrink, p);
        m = constants.Beta1 * m + (1 - constants.Beta1) * g;
        v = constants.Beta2 * v + (1 - constants.Beta2) * (g * g);
        p -= k.Load(factors + 1) * (m / (Sqrt(v) * k.Load(factors + 2) + constants.Epsilon));
        return (p, m, v);
    }

    private static Kernel Trace((AdamWConstants Constants, DType DType) choice) => Kernel.Trace("adamw", k =>
    {
        var parameters = k.Pointer(choice.DType, "parameters");
        var gradients = k.Pointer(choice.DType, "gradients");
        var first = k.Pointer(choice.DType, "first_moments");
        var second = k.Pointer(choice.DType, "second_moments");
        var factors = k.Pointer(choice.DType, "step_factors");
        var clip = k.Pointer(choice.DType, "clip");
        var boundary = k.Scalar(DType.Int64, "decay_boundary");
        var count = k.Scalar(DType.Int64, "count");
        var index = k.ProgramId(0).ToInt64() * Blocks.Elementwise + k.Range(Blocks.Elementwise).ToInt64();
        var inside = index < count;
        var (p, m, v) = Step(
            k, choice.Constants, factors, index, boundary, k.Load(parameters + index, inside), k.Load(gradients + index, inside) * k.Load(clip),
            k.Load(first + index, inside), k.Load(second + index, inside));
        k.Store(first + index, m, inside);
        k.Store(second + index, v, inside);
        k.Store(parameters + index, p, inside);
    });

    private static Kernel TraceEightBit(AdamWConstants constants) => Kernel.Trace("adamw_8bit", k =>
    {
        var parameters = k.Pointer(DType.Float32, "parameters");
        var gradients = k.Pointer(DType.Float32, "gradients");
        var first = k.Pointer(DType.UInt8, "first_moments");
        var second = k.Pointer(DType.UInt8, "second_moments");
        var firstScales = k.Pointer(DType.Float32, "first_scales");
        var secondScales = k.Pointer(DType.Float32, "second_scales");
        var factors = k.Pointer(DType.Float32, "step_factors");
        var clip = k.Pointer(DType.Float32, "clip");
        var boundary = k.Scalar(DType.Int64, "decay_boundary");
        var blocks = k.Scalar(DType.Int64, "blocks");
        var block = k.ProgramId(0).ToInt64() * StateBlocksPerProgram + k.Range(StateBlocksPerProgram).ToInt64();
        var index = (block * StateBlock).AsColumn() + k.Range(StateBlock).ToInt64().AsRow();
        var isBlock = block < blocks;
        var inside = isBlock.AsColumn();
        Tile.Tile Decoded(Pointer codes, Pointer scales, bool isSigned) => QuantizationTiles.Decode(k, isSigned, k.Load(codes + index, inside)) * k.Load(scales + block, isBlock).AsColumn();
        var (p, m, v) = Step(
            k, constants, factors, index, boundary, k.Load(parameters + index, inside), k.Load(gradients + index, inside) * k.Load(clip), Decoded(first, firstScales, true), Decoded(second, secondScales, false));
        k.Store(parameters + index, p, inside);
        Encode(first, firstScales, true, m);
        Encode(second, secondScales, false, v);

        void Encode(Pointer codes, Pointer scales, bool isSigned, Tile.Tile value)
        {
            var scale = ReduceMax(Abs(value), 1);
            k.Store(scales + block, scale, isBlock);
            k.Store(codes + index, QuantizationTiles.Encode(k, isSigned, value * QuantizationTiles.InverseOf(scale).AsColumn()), inside);
        }
    });
}
