using Lancet.Quantization;
using Lancet.Tensors;

namespace Lancet.Devices;

/// <summary>
/// One matrix product C = alpha · op(A) · op(B) + beta · C + bias, accumulated in fp32 (fp64 if C is fp64) in an order that depends on K
/// alone. A, B and C are row-major with leading dimensions, so that a projection can write a column slice of a wider buffer.
/// </summary>
public readonly struct MatMul
{
    /// <summary>Rows of C.</summary>
    public required int M { get; init; }

    /// <summary>Columns of C.</summary>
    public required int N { get; init; }

    /// <summary>Summed extent.</summary>
    public required int K { get; init; }

    /// <summary>Left operand: [M, K], or [K, M] if transposed.</summary>
    public required MatMulOperand A { get; init; }

    /// <summary>Right operand: [K, N], or [N, K] if transposed (a weight [out, in] in a forward pass).</summary>
    public required MatMulOperand B { get; init; }

    /// <summary>Result, fp32, bf16 or fp64.</summary>
    public required Tensor C { get; init; }

    /// <summary>Elements between rows of C; 0 means N.</summary>
    public long LeadingDimensionC { get; init; }

    /// <summary>Factor of the product.</summary>
    public float Alpha { get; init; }

    /// <summary>0 overwrites C, 1 adds to it.</summary>
    public float Beta { get; init; }

    /// <summary>What <see cref="Beta"/> multiplies if it is not C: [M, N], dense like C, which may not be it. Saves copying it there.</summary>
    public Tensor Addend { get; init; }

    /// <summary>Added to every row: N elements of fp32 (fp64 if C is fp64), or absent.</summary>
    public Tensor Bias { get; init; }
}

/// <summary>An operand of a product: a dense tensor, or an NF4 weight.</summary>
/// <param name="Tensor">The elements; for an NF4 weight, the packed codes.</param>
/// <param name="IsTransposed">Whether the stored matrix is used transposed.</param>
/// <param name="LeadingDimension">Elements between stored rows; 0 means dense.</param>
/// <param name="Quantized">Scales of an NF4 weight; null for dense tensors.</param>
public readonly record struct MatMulOperand(Tensor Tensor, bool IsTransposed = false, long LeadingDimension = 0, Nf4Weight? Quantized = null);
