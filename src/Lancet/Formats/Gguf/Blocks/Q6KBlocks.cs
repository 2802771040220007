using System.Buffers.Binary;

namespace Lancet.Formats.Gguf.Blocks;

/// <summary>
/// q6_k: 256 elements in sixteen groups of 16.
/// <code>
/// x = d·s·(q − 32)     s is a signed byte of the group
/// 128 bytes of lower four bits, 64 bytes of upper two, 16 bytes of s, fp16 d
/// of each half of 128 elements, lower byte l (0 to 31) holds elements l and l + 64, lower byte l + 32 elements l + 32 and l + 96, and upper byte l
/// elements l, l + 32, l + 64 and l + 96
/// </code>
/// </summary>
internal static class Q6KBlocks
{
    private const int Size = 256;
    private const int Bytes = 210;
    private const int GroupSize = 16;

    public static void Quantize(ReadOnlySpan<float> row, Span<byte> target, ReadOnlySpan<float> importance)
    {
        Span<float> weights = stackalloc float[GroupSize], scales = stackalloc float[Size / GroupSize];
        Span<int> q = stackalloc int[Size];
        for (int i = 0, at = 0; i < row.Length; i += Size, at += Bytes)
        {
            var x = row.Slice(i, Size);
            var block = target.Slice(at, Bytes);
            block.Clear();
            for (var group = 0; group < scales.Length; group++)
            {
                var part = x.Slice(group * GroupSize, GroupSize);
                if (importance.IsEmpty) Fit.Weigh(part, default, 0, weights, true);
                scales[group] = Fit.Symmetric(part, importance.IsEmpty ? weights : importance.Slice(i + (group * GroupSize), GroupSize), 32);
            }
            var extreme = Fit.Extreme(scales);
            if (Math.Abs(extreme) < 1e-30f) continue;
            var d = (Half)(extreme / -128);
            BinaryPrimitives.WriteHalfLittleEndian(block[208..], d);
            for (var group = 0; group < scales.Length; group++)
            {
                var s = Math.Clamp((int)MathF.Round(scales[group] * -128 / extreme), -128, 127);
                block[192 + group] = (byte)s;
                var scale = (float)d * s;
                Fit.Round(x.Slice(group * GroupSize, GroupSize), 0, scale != 0 ? 1 / scale : 0, -32, 31, q.Slice(group * GroupSize, GroupSize));
            }
            for (var half = 0; half < 2; half++)
            {
                var part = q.Slice(half * 128, 128);
                for (var l = 0; l < 32; l++)
                {
                    int a = part[l] + 32, b = part[l + 32] + 32, c = part[l + 64] + 32, e = part[l + 96] + 32;
                    block[(half * 64) + l] = (byte)((a & 15) | ((c & 15) << 4));
                    block[(half * 64) + l + 32] = (byte)((b & 15) | ((e & 15) << 4));
                    block[128 + (half * 32) + l] = (byte)((a >> 4) | ((b >> 4) << 2) | ((c >> 4) << 4) | ((e >> 4) << 6));
                }
            }
        }
    }

    public static void Dequantize(ReadOnlySpan<byte> source, Span<float> row)
    {
        for (int i = 0, at = 0; i < row.Length; i += Size, at += Bytes)
        {
            var block = source.Slice(at, Bytes);
            var d = (float)BinaryPrimitives.ReadHalfLittleEndian(block[208..]);
            for (var j = 0; j < Size; j++)
            {
                var (half, quarter, l) = (j / 128, j % 128 / 32, j % 32);
                var low = block[(half * 64) + (quarter % 2 * 32) + l] >> (quarter / 2 * 4);
                var high = block[128 + (half * 32) + l] >> (quarter * 2);
                row[i + j] = d * (sbyte)block[192 + (j / GroupSize)] * (((low & 15) | ((high & 3) << 4)) - 32);
            }
        }
    }
}
