using System.Buffers.Binary;

namespace Lancet.Formats.Gguf.Blocks;

/// <summary>
/// q3_k: 256 elements in sixteen groups of 16.
/// <code>
/// x = d·(s − 32)·(q − 4)     s is a 6-bit integer of the group
/// 32 bytes: bit k of byte l is the third bit of element 32k + l
/// 64 bytes: of each half of 128 elements, byte l holds the lower two bits of elements l, l + 32, l + 64 and l + 96
/// 12 bytes of s: bytes 0 to 7 the lower four bits of groups 0 to 7, and of groups 8 to 15 above them; byte 8 + j the upper two of groups j, j + 4, j + 8 and j + 12
/// fp16 d
/// </code>
/// </summary>
internal static class Q3KBlocks
{
    private const int Size = 256;
    private const int Bytes = 110;
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
            var meanSquare = (importance.IsEmpty ? 1 : 2) * Fit.MeanSquare(x);
            for (var group = 0; group < scales.Length; group++)
            {
                var part = x.Slice(group * GroupSize, GroupSize);
                Fit.Weigh(part, importance.IsEmpty ? default : importance.Slice(i + (group * GroupSize), GroupSize), meanSquare, weights, false);
                scales[group] = Fit.Symmetric(part, weights, 4);
            }
            var extreme = Fit.Extreme(scales);
            if (Math.Abs(extreme) < 1e-30f)
            {
                // q = 4 is zero with any scale.
                block[..32].Fill(255);
                continue;
            }
            var d = (Half)(extreme / -32);
            BinaryPrimitives.WriteHalfLittleEndian(block[108..], d);
            for (var group = 0; group < scales.Length; group++)
            {
                var s = Math.Clamp((int)MathF.Round(scales[group] * -32 / extreme), -32, 31);
                block[96 + (group % 8)] |= (byte)(((s + 32) & 15) << (group / 8 * 4));
                block[96 + 8 + (group % 4)] |= (byte)(((s + 32) >> 4) << (group / 4 * 2));
                var scale = (float)d * s;
                Fit.Round(x.Slice(group * GroupSize, GroupSize), 0, scale != 0 ? 1 / scale : 0, -4, 3, q.Slice(group * GroupSize, GroupSize));
            }
            for (var j = 0; j < Size; j++)
            {
                var value = q[j] + 4;
                block[j % 32] |= (byte)((value >> 2) << (j / 32));
                block[32 + (j / 128 * 32) + (j % 32)] |= (byte)((value & 3) << (j % 128 / 32 * 2));
            }
        }
    }

    public static void Dequantize(ReadOnlySpan<byte> source, Span<float> row)
    {
        for (int i = 0, at = 0; i < row.Length; i += Size, at += Bytes)
        {
            var block = source.Slice(at, Bytes);
            var d = (float)BinaryPrimitives.ReadHalfLittleEndian(block[108..]);
            for (var group = 0; group < Size / GroupSize; group++)
            {
                var s = ((block[96 + (group % 8)] >> (group / 8 * 4)) & 15) | (((block[96 + 8 + (group % 4)] >> (group / 4 * 2)) & 3) << 4);
                var scale = d * (s - 32);
                for (var j = group * GroupSize; j < (group + 1) * GroupSize; j++)
                {
                    var low = (block[32 + (j / 128 * 32) + (j % 32)] >> (j % 128 / 32 * 2)) & 3;
                    var high = (block[j % 32] >> (j / 32)) & 1;
                    row[i + j] = scale * ((low | (high << 2)) - 4);
                }
            }
        }
    }
}
