using Lancet.Tensors;

namespace Lancet.Quantization;

/// <summary>
/// A weight matrix in the NF4 format of QLoRA (Dettmers et al. 2023) in the layout of bitsandbytes: the matrix flattened row by row, two
/// codes a byte with the first element in the high nibble, one scale for every 64 elements; with double quantisation the scales are
/// 8-bit codes into a 256-entry table, scaled for every 256 of them, plus an offset.
/// </summary>
/// <param name="Rows">Rows of the weight (output features).</param>
/// <param name="Columns">Columns of the weight (input features).</param>
/// <param name="Codes">Packed codes: uint8 [Rows · Columns / 2].</param>
/// <param name="AbsMaxCodes">Scale codes: uint8, one per block of 64.</param>
/// <param name="NestedAbsMax">fp32, one per 256 scale codes.</param>
/// <param name="NestedCodeTable">fp32 [256].</param>
/// <param name="NestedOffset">fp32 [1], added to every decoded scale.</param>
public sealed record Nf4Weight(int Rows, int Columns, Tensor Codes, Tensor AbsMaxCodes, Tensor NestedAbsMax, Tensor NestedCodeTable, Tensor NestedOffset)
{
    /// <summary>Elements that share a scale.</summary>
    public const int BlockSize = 64;

    /// <summary>Scales that share a second-level scale.</summary>
    public const int NestedBlockSize = 256;

    /// <summary>Entries of the table of scale codes.</summary>
    public const int NestedTableSize = 256;

    /// <summary>Size in bytes of everything.</summary>
    public long Bytes => Codes.Bytes + AbsMaxCodes.Bytes + NestedAbsMax.Bytes + NestedCodeTable.Bytes + NestedOffset.Bytes;
}
