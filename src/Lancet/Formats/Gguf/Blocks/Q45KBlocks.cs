using System.Buffers.Binary;

namespace Lancet.Formats.Gguf.Blocks;

/// <summary>
/// q4_k and q5_k: 256 elements in eight groups of 32.
/// <code>
/// x = d·s·q − dmin·m      s and m are 6-bit integers of the group
/// fp16 d, fp16 dmin
/// 12 bytes of s and m: bytes 0 to 3 are s of groups 0 to 3, bytes 4 to 7 m; bytes 8 to 11 the lower four bits of s and m of groups 4 to 7, whose
/// upper two bits are the upper bits of bytes 0 to 7
/// for 5 bits 32 bytes: bit g of byte j is the fifth bit of element j of group g
/// 128 bytes: byte j of 32 holds the lower bits of element j of an even group, and of the next group above them
/// </code>
/// </summary>
internal static class Q45KBlocks
{
    private const int Size = 256;
    private const int Groups = 8;
    private const int GroupSize = Size / Groups;
    private const int ScaleLevels = 63;

    public static void Quantize(ReadOnlySpan<float> row, Span<byte> target, ReadOnlySpan<float> importance, int bits)
    {
        Span<float> weights = stackalloc float[GroupSize], scales = stackalloc float[Groups], minima = stackalloc float[Groups], groupWeights = stackalloc float[Groups];
        Span<int> q = stackalloc int[Size], s = stackalloc int[Groups], m = stackalloc int[Groups];
        var levels = (1 << bits) - 1;
        var bytes = bits == 4 ? 144 : 176;
        for (int i = 0, at = 0; i < row.Length; i += Size, at += bytes)
        {
            var x = row.Slice(i, Size);
            var block = target.Slice(at, bytes);
            var meanSquare = importance.IsEmpty ? 0 : 2 * Fit.MeanSquare(x);
            for (var group = 0; group < Groups; group++)
            {
                var part = x.Slice(group * GroupSize, GroupSize);
                Fit.Weigh(part, importance.IsEmpty ? default : importance.Slice(i + (group * GroupSize), GroupSize), importance.IsEmpty ? Fit.MeanSquare(part) : meanSquare, weights, false);
                scales[group] = Fit.Asymmetric(part, weights, levels, out minima[group]);
                groupWeights[group] = Fit.Sum(weights);
            }
            var (d, dmin) = (Fit.Scales(scales, groupWeights, ScaleLevels, s), Fit.Scales(minima, groupWeights, ScaleLevels, m));
            BinaryPrimitives.WriteHalfLittleEndian(block, d);
            BinaryPrimitives.WriteHalfLittleEndian(block[2..], dmin);
            block[4..].Clear();
            for (var group = 0; group < Groups; group++)
            {
                PackScales(block.Slice(4, 12), group, s[group], m[group]);
                var scale = (float)d * s[group];
                Fit.Round(x.Slice(group * GroupSize, GroupSize), (float)dmin * m[group], scale > 0 ? 1 / scale : 0, 0, levels, q.Slice(group * GroupSize, GroupSize));
            }
            Pack(q, block[16..], bits);
        }
    }

    public static void Dequantize(ReadOnlySpan<byte> source, Span<float> row, int bits)
    {
        var bytes = bits == 4 ? 144 : 176;
        for (int i = 0, at = 0; i < row.Length; i += Size, at += bytes)
        {
            var block = source.Slice(at, bytes);
            var (d, dmin) = ((float)BinaryPrimitives.ReadHalfLittleEndian(block), (float)BinaryPrimitives.ReadHalfLittleEndian(block[2..]));
            var high = bits == 5 ? block.Slice(16, 32) : default;
            var low = block[(bits == 5 ? 48 : 16)..];
            for (var group = 0; group < Groups; group++)
            {
                var (s, m) = UnpackScales(block.Slice(4, 12), group);
                var (scale, minimum) = (d * s, dmin * m);
                var part = row.Slice(i + (group * GroupSize), GroupSize);
                for (var j = 0; j < GroupSize; j++)
                {
                    var value = (low[(group / 2 * GroupSize) + j] >> (group % 2 * 4)) & 15;
                    if (bits == 5) value |= ((high[j] >> group) & 1) << 4;
                    part[j] = (scale * value) - minimum;
                }
            }
        }
    }

    private static void Pack(ReadOnlySpan<int> q, Span<byte> target, int bits)
    {
        var low = target;
        if (bits == 5)
        {
            for (var j = 0; j < GroupSize; j++)
                for (var group = 0; group < Groups; group++) target[j] |= (byte)((q[(group * GroupSize) + j] >> 4) << group);
            low = target[32..];
        }
        for (var pair = 0; pair < Groups / 2; pair++)
            for (var j = 0; j < GroupSize; j++)
                low[(pair * GroupSize) + j] = (byte)((q[(pair * 2 * GroupSize) + j] & 15) | ((q[(((pair * 2) + 1) * GroupSize) + j] & 15) << 4));
    }

    private static void PackScales(Span<byte> packed, int group, int s, int m)
    {
        if (group < 4)
        {
            packed[group] |= (byte)s;
            packed[group + 4] |= (byte)m;
        }
        else
        {
            packed[group + 4] |= (byte)((s & 15) | ((m & 15) << 4));
            packed[group - 4] |= (byte)((s >> 4) << 6);
            packed[group] |= (byte)((m >> 4) << 6);
        }
    }

    private static (int S, int M) UnpackScales(ReadOnlySpan<byte> packed, int group) => group < 4
        ? (packed[group] & 63, packed[group + 4] & 63)
        : ((packed[group + 4] & 15) | (packed[group - 4] >> 6 << 4), (packed[group + 4] >> 4) | (packed[group] >> 6 << 4));
}
