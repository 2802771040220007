using System.Buffers.Binary;

namespace Lancet.Formats.Gguf.Blocks;

/// <summary>
/// q2_k: 256 elements in sixteen groups of 16.
/// <code>
/// x = d·s·q − dmin·m      s and m are 4-bit integers of the group
/// 16 bytes of s, with m above it
/// 64 bytes: of each half of 128 elements, byte l holds elements l, l + 32, l + 64 and l + 96
/// fp16 d, fp16 dmin
/// </code>
/// </summary>
internal static class Q2KBlocks
{
    private const int Size = 256;
    private const int Bytes = 84;
    private const int GroupSize = 16;
    private const int ScaleLevels = 15;

    public static void Quantize(ReadOnlySpan<float> row, Span<byte> target, ReadOnlySpan<float> importance)
    {
        Span<float> weights = stackalloc float[GroupSize], scales = stackalloc float[Size / GroupSize], minima = stackalloc float[Size / GroupSize], groupWeights = stackalloc float[Size / GroupSize];
        Span<int> q = stackalloc int[Size], s = stackalloc int[Size / GroupSize], m = stackalloc int[Size / GroupSize];
        for (int i = 0, at = 0; i < row.Length; i += Size, at += Bytes)
        {
            var x = row.Slice(i, Size);
            var block = target.Slice(at, Bytes);
            block.Clear();
            var meanSquare = importance.IsEmpty ? 0 : Fit.MeanSquare(x);
            for (var group = 0; group < scales.Length; group++)
            {
                var part = x.Slice(group * GroupSize, GroupSize);
                Fit.Weigh(part, importance.IsEmpty ? default : importance.Slice(i + (group * GroupSize), GroupSize), meanSquare, weights, false);
                scales[group] = Fit.Asymmetric(part, weights, 3, out minima[group]);
                groupWeights[group] = Fit.Sum(weights);
            }
            var (d, dmin) = (Fit.Scales(scales, groupWeights, ScaleLevels, s), Fit.Scales(minima, groupWeights, ScaleLevels, m));
            BinaryPrimitives.WriteHalfLittleEndian(block[80..], d);
            BinaryPrimitives.WriteHalfLittleEndian(block[82..], dmin);
            for (var group = 0; group < scales.Length; group++)
            {
                block[group] = (byte)(s[group] | (m[group] << 4));
                var scale = (float)d * s[group];
                Fit.Round(x.Slice(group * GroupSize, GroupSize), (float)dmin * m[group], scale > 0 ? 1 / scale : 0, 0, 3, q.Slice(group * GroupSize, GroupSize));
            }
            for (var j = 0; j < Size; j++) block[16 + (j / 128 * 32) + (j % 32)] |= (byte)(q[j] << (j % 128 / 32 * 2));
        }
    }

    public static void Dequantize(ReadOnlySpan<byte> source, Span<float> row)
    {
        for (int i = 0, at = 0; i < row.Length; i += Size, at += Bytes)
        {
            var block = source.Slice(at, Bytes);
            var (d, dmin) = ((float)BinaryPrimitives.ReadHalfLittleEndian(block[80..]), (float)BinaryPrimitives.ReadHalfLittleEndian(block[82..]));
            for (var j = 0; j < Size; j++)
            {
                var packed = block[j / GroupSize];
                var value = (block[16 + (j / 128 * 32) + (j % 32)] >> (j % 128 / 32 * 2)) & 3;
                row[i + j] = (d * (packed & 15) * value) - (dmin * (packed >> 4));
            }
        }
    }
}
