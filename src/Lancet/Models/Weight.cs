using Lancet.Devices;
using Lancet.Quantization;
using Lancet.Tensors;

namespace Lancet.Models;

/// <summary>What a weight is, which decides how it may be stored and whether weight decay applies.</summary>
public enum WeightRole
{
    /// <summary>Matrix of a projection inside a layer; may be quantised.</summary>
    Projection,

    /// <summary>Token embedding matrix; never quantised.</summary>
    Embedding,

    /// <summary>Output head; never quantised.</summary>
    Head,

    /// <summary>Matrix of a router, which chooses experts; never quantised.</summary>
    Router,

    /// <summary>Scale of a norm; no weight decay.</summary>
    Norm,

    /// <summary>Bias of a projection; no weight decay.</summary>
    Bias,

    /// <summary>A LoRA matrix, an fp32 master that is always trained.</summary>
    Adapter,

    /// <summary>DoRA's magnitudes of a projection's outputs.</summary>
    Magnitude,
}

/// <summary>
/// A named weight: its shape is known when the model is described, its storage is assigned when the model is loaded. Trained weights have
/// an fp32 master and an fp32 gradient in the parameter arena; frozen ones are dense in their own dtype or NF4.
/// </summary>
/// <param name="name">Name in the checkpoint.</param>
/// <param name="shape">[out, in] for matrices, [n] for vectors.</param>
/// <param name="role">What it is.</param>
public sealed class Weight(string name, Shape shape, WeightRole role)
{
    /// <summary>Name in the checkpoint.</summary>
    public string Name { get; } = name;

    /// <summary>[out, in] for matrices, [n] for vectors.</summary>
    public Shape Shape { get; } = shape;

    /// <summary>What it is.</summary>
    public WeightRole Role { get; } = role;

    /// <summary>Values that the computation reads; absent for NF4 weights.</summary>
    public Tensor Dense { get; set; }

    /// <summary>Whether <see cref="Dense"/> is in page-locked host memory, which a GPU's kernels read over the link.</summary>
    public bool IsInHostMemory { get; set; }

    /// <summary>Elements between rows of <see cref="Dense"/>; 0 where it is dense.</summary>
    public long RowStride { get; set; }

    /// <summary>Whether the computation reads the weight from the border of a base weight, see <see cref="Layers.ProjectionGroup"/>, and not from <see cref="Dense"/>.</summary>
    public bool IsInBorder { get; set; }

    /// <summary>Where the weight gets its memory among others of its kind, or null.</summary>
    public (WeightStack Memory, int Index)? Stack { get; set; }

    /// <summary>The NF4 form, or null.</summary>
    public Nf4Weight? Quantized { get; set; }

    /// <summary>fp32 gradient, absent for frozen weights. Backward passes add to it.</summary>
    public Tensor Gradient { get; set; }

    /// <summary>Whether the weight is trained. Decided before its memory is assigned, so that a step can be planned.</summary>
    public bool IsTrained { get; set; }

    /// <summary>Whether AdamW's weight decay applies (Hugging Face exempts norms and biases).</summary>
    public bool Decays => Role is not (WeightRole.Norm or WeightRole.Bias);

    /// <summary>Whether the computation reads the weight in the accumulator's dtype, whatever the activations are.</summary>
    public bool IsWide => Role is WeightRole.Norm or WeightRole.Bias or WeightRole.Magnitude;

    /// <summary>The weight as the right operand of a product.</summary>
    /// <param name="isTransposed">True for X · Wᵀ, false for dY · W.</param>
    public MatMulOperand Operand(bool isTransposed) => new(Dense, isTransposed, RowStride, Quantized);

    /// <summary>The memory of a frozen weight that is worth moving: its elements, or its NF4 codes and their scales.</summary>
    internal IEnumerable<WeightBlock> Blocks()
    {
        if (Quantized is null)
        {
            yield return WeightBlock.Of(Dense, delta => Dense = Dense.MovedBy(delta));
            yield break;
        }
        yield return WeightBlock.Of(Quantized.Codes, delta =>
        {
            Dense = Dense.MovedBy(delta);
            Quantized = Quantized with { Codes = Dense };
        });
        yield return WeightBlock.Of(Quantized.AbsMaxCodes, delta => Quantized = Quantized with { AbsMaxCodes = Quantized.AbsMaxCodes.MovedBy(delta) });
    }

    /// <inheritdoc/>
    public override string ToString() => $"{Name} {Shape}";
}
