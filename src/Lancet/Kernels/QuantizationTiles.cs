using Lancet.Quantization;
using Lancet.Tile;
using static Lancet.Tile.TileMath;

namespace Lancet.Kernels;

/// <summary>Block-wise quantisation inside kernels: scales, and <see cref="DynamicCode"/>.</summary>
internal static class QuantizationTiles
{
    // A memory access for each lane of a warp is what looking up costs, so that the code is calculated but for its last step or two.
    private const int Corrections = 2;

    /// <summary>What brings a block with the largest magnitude <paramref name="scale"/> into [−1, 1]: its inverse, and 0 for a block of zeros.</summary>
    public static Tile.Tile InverseOf(Tile.Tile scale) => Select(scale > 0, 1 / Select(scale > 0, scale, 1), 0);

    /// <summary>Values of codes.</summary>
    public static Tile.Tile Decode(KernelBuilder k, bool isSigned, Tile.Tile codes) => k.Lookup(TableOf(isSigned), codes.To(DType.Int32));

    /// <summary>Codes of x, fp32 in [−1, 1] or [0, 1]: numbers of midpoints below.</summary>
    public static Tile.Tile Encode(KernelBuilder k, bool isSigned, Tile.Tile x)
    {
        // Decade i has n = 2ⁱ (signed) or 2ⁱ⁺¹ equal parts, and all below it have as many but one. The sum of n and the number of x's part is a line in x. Next to a decade's begin, to 0 and
        // to 1, whose midpoints are none of the line's, it is off by one, and so may be what was rounded.
        (double Slope, double Start) Line(int decade)
        {
            var parts = 1 << (isSigned ? decade : decade + 1);
            return (parts / (0.9 * DynamicCode.Scale(decade)), parts * (8.0 / 9));
        }

        Tile.Tile All(double value) => k.Full(DType.Float32, value, x.Dimensions);
        var magnitude = isSigned ? Abs(x) : x;
        var (slope, start) = (All(Line(0).Slope), All(Line(0).Start));
        for (var decade = 1; decade < DynamicCode.Decades; decade++)
        {
            var isAbove = magnitude > DynamicCode.Scale(decade - 1);
            (slope, start) = (Select(isAbove, All(Line(decade).Slope), slope), Select(isAbove, All(Line(decade).Start), start));
        }
        var place = Floor(magnitude * slope + start).To(DType.Int32);
        var code = isSigned ? 127 + Select(x < 0, -place, place) : place - 1;
        var midpoints = DynamicCode.Midpoints(TableOf(isSigned));
        var (zero, one) = (k.Full(DType.Int32, 0, x.Dimensions), k.Full(DType.Int32, 1, x.Dimensions));
        code = Min(Max(code - 1, 0), midpoints.Length - Corrections);
        for (var i = 0; i < Corrections; i++) code += Select(x > k.Lookup(midpoints, code), one, zero);
        return code.To(DType.UInt8);
    }

    private static float[] TableOf(bool isSigned) => isSigned ? DynamicCode.Signed : DynamicCode.Unsigned;
}
