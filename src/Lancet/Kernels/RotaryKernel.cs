using Lancet.Devices;
using Lancet.Tensors;
using Lancet.Tile;
using static Lancet.Tile.TileMath;

namespace Lancet.Kernels;

/// <summary>
/// Rotary position embedding (Su et al. 2021), in place, on all query and key heads of a row in one launch.
/// <code>
/// forward    (x₁, x₂) ← (x₁·cos − x₂·sin, x₂·cos + x₁·sin)       x₁, x₂: the two halves of a head's first d elements; interleaved (Cohere): its neighbours
/// backward   the same with −sin (a rotation's inverse is its transpose)
/// </code>
/// cos and sin are fp32 tables over integer positions; nothing is kept. Elements past d (partial rotary) stay.
/// </summary>
/// <param name="heads">Heads side by side in a row: queries, then keys.</param>
/// <param name="headDimension">Elements of a head.</param>
/// <param name="rotaryDimension">Rotated elements of a head, d.</param>
/// <param name="isInterleaved">Whether elements 2i and 2i + 1 are rotated together, instead of i and i + d/2.</param>
public sealed class RotaryKernel(int heads, int headDimension, int rotaryDimension, bool isInterleaved = false)
{
    private const int HeadBlock = 8;
    private static readonly KernelSet<Choice> Kernels = new(Trace);

    /// <summary>Rotates.</summary>
    /// <param name="device">Device.</param>
    /// <param name="rows">Tokens.</param>
    /// <param name="x">[rows, heads · headDimension], overwritten.</param>
    /// <param name="positions">int32 [rows].</param>
    /// <param name="cos">fp32 [positions, d/2].</param>
    /// <param name="sin">fp32 [positions, d/2].</param>
    /// <param name="isBackward">Whether to rotate back.</param>
    public void Apply(Device device, int rows, ColumnSlice x, Tensor positions, Tensor cos, Tensor sin, bool isBackward) => device.Launch(
        Kernels[new(heads, headDimension, rotaryDimension, isInterleaved, x.Tensor.DType, x.RowStride, isBackward)], new Grid(rows, Blocks.Of(heads, HeadBlock)), [x.Tensor, positions, cos, sin]);

    private static Kernel Trace(Choice choice) => Kernel.Trace(choice.IsBackward ? "rotary_backward" : "rotary_forward", k =>
    {
        k.Warps = 2;
        var x = k.Pointer(choice.DType, "x");
        var positions = k.Pointer(DType.Int32, "positions");
        var cosTable = k.Pointer(DType.Float32, "cos");
        var sinTable = k.Pointer(DType.Float32, "sin");
        var accumulator = choice.DType.Accumulator();
        var half = choice.RotaryDimension / 2;
        var row = k.ProgramId(0);
        var head = k.ProgramId(1) * HeadBlock + k.Range(HeadBlock);
        var lane = k.Range(Blocks.PowerOfTwo(half));
        var position = k.Load(positions + row);
        var cos = k.Load(cosTable + (position * half + lane), lane < half).To(accumulator).AsRow();
        var sin = k.Load(sinTable + (position * half + lane), lane < half).To(accumulator).AsRow();
        if (choice.IsBackward) sin = -sin;
        var inside = (head < choice.Heads).AsColumn() & (lane < half).AsRow();
        Pointer Heads(Tile.Tile element) => x + (row.ToInt64() * choice.Stride + ((head * choice.HeadDimension).AsColumn() + element.AsRow()));
        var first = Heads(choice.IsInterleaved ? lane * 2 : lane);
        var second = first + (choice.IsInterleaved ? 1 : half);
        var x1 = k.Load(first, inside).ToFloat32();
        var x2 = k.Load(second, inside).ToFloat32();
        var y1 = (x1 * cos - x2 * sin).To(choice.DType);
        var y2 = (x2 * cos + x1 * sin).To(choice.DType);
        if (choice.IsInterleaved)
        {
            var element = k.Range(2 * Blocks.PowerOfTwo(half));
            k.Store(Heads(element), Interleave(y1, y2), (head < choice.Heads).AsColumn() & (element < choice.RotaryDimension).AsRow());
            return;
        }
        k.Store(first, y1, inside);
        k.Store(second, y2, inside);
    });

    private readonly record struct Choice(int Heads, int HeadDimension, int RotaryDimension, bool IsInterleaved, DType DType, long Stride, bool IsBackward);
}
