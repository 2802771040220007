using Lancet.Tensors;

namespace Lancet.Models;

/// <summary>A piece of memory that frozen weights fill, and how they are told that it has moved.</summary>
/// <param name="Address">First byte when the block was described.</param>
/// <param name="Bytes">Size.</param>
/// <param name="Move">Moves the weights' views by a number of bytes.</param>
internal sealed record WeightBlock(nint Address, long Bytes, Action<nint> Move)
{
    // Kernels and products may count on it.
    private const long Alignment = 256;

    /// <summary>Size, rounded up so that another block can follow.</summary>
    public long AlignedBytes => (Bytes + Alignment - 1) / Alignment * Alignment;

    /// <summary>The block of one tensor.</summary>
    public static WeightBlock Of(Tensor tensor, Action<nint> move) => new(tensor.Address, tensor.Bytes, move);

    /// <summary>Blocks of weights that lie one behind the other (<see cref="WeightStack"/>); none where some are NF4 and others are not.</summary>
    public static IEnumerable<WeightBlock> OfStack(IEnumerable<Weight> weights)
    {
        WeightBlock[][] parts = [.. weights.Select(weight => weight.Blocks().ToArray())];
        if (Array.Exists(parts, part => part.Length != parts[0].Length)) yield break;
        for (var i = 0; i < parts[0].Length; i++)
        {
            WeightBlock[] all = [.. parts.Select(part => part[i])];
            yield return new(all[0].Address, all.Sum(block => block.Bytes), delta => Array.ForEach(all, block => block.Move(delta)));
        }
    }
}
