using System.Buffers.Binary;

namespace Lancet.Formats.Gguf.Blocks;

/// <summary>
/// q4_0, q4_1, q5_0 and q5_1: blocks of 32 elements.
/// <code>
/// q4_0, q5_0   x = d·(q − 2^(bits − 1))    fp16 d
/// q4_1, q5_1   x = d·q + m                 fp16 d, fp16 m
/// then for 5 bits 4 bytes: bit j is the fifth bit of element j
/// then 16 bytes: byte j holds the lower four bits of element j, and of element j + 16 above them
/// </code>
/// </summary>
internal static class SmallBlocks
{
    private const int Size = 32;

    public static void Quantize(ReadOnlySpan<float> row, Span<byte> target, ReadOnlySpan<float> importance, int bits, bool hasMinimum)
    {
        Span<float> weights = stackalloc float[Size];
        Span<int> q = stackalloc int[Size];
        var half = 1 << (bits - 1);
        var meanSquare = importance.IsEmpty ? 0 : Fit.MeanSquare(row);
        for (int i = 0, at = 0; i < row.Length; i += Size)
        {
            var x = row.Slice(i, Size);
            if (!importance.IsEmpty) Fit.Weigh(x, importance.Slice(i, Size), meanSquare, weights, false);
            if (hasMinimum)
            {
                // Without importance the range is divided evenly, as every other program does.
                float scale, minimum;
                if (importance.IsEmpty)
                {
                    var (low, high) = Range(x);
                    (scale, minimum) = ((high - low) / ((2 * half) - 1), -low);
                }
                else
                {
                    scale = Fit.Asymmetric(x, weights, (2 * half) - 1, out minimum);
                }
                Fit.Round(x, minimum, scale > 0 ? 1 / scale : 0, 0, (2 * half) - 1, q);
                BinaryPrimitives.WriteHalfLittleEndian(target[at..], (Half)scale);
                BinaryPrimitives.WriteHalfLittleEndian(target[(at + 2)..], (Half)(-minimum));
                at += 4;
            }
            else
            {
                var scale = importance.IsEmpty ? Fit.Extreme(x) / -half : Fit.Symmetric(x, weights, half);
                Fit.Round(x, 0, scale != 0 ? 1 / scale : 0, -half, half - 1, q);
                for (var j = 0; j < Size; j++) q[j] += half;
                BinaryPrimitives.WriteHalfLittleEndian(target[at..], (Half)scale);
                at += 2;
            }
            if (bits == 5)
            {
                uint high = 0;
                for (var j = 0; j < Size; j++) high |= (uint)(q[j] >> 4) << j;
                BinaryPrimitives.WriteUInt32LittleEndian(target[at..], high);
                at += 4;
            }
            for (var j = 0; j < Size / 2; j++) target[at + j] = (byte)((q[j] & 15) | ((q[j + 16] & 15) << 4));
            at += Size / 2;
        }
    }

    public static void Dequantize(ReadOnlySpan<byte> source, Span<float> row, int bits, bool hasMinimum)
    {
        for (int i = 0, at = 0; i < row.Length; i += Size)
        {
            var scale = (float)BinaryPrimitives.ReadHalfLittleEndian(source[at..]);
            at += 2;
            var shift = -scale * (1 << (bits - 1));
            if (hasMinimum)
            {
                shift = (float)BinaryPrimitives.ReadHalfLittleEndian(source[at..]);
                at += 2;
            }
            uint high = 0;
            if (bits == 5)
            {
                high = BinaryPrimitives.ReadUInt32LittleEndian(source[at..]);
                at += 4;
            }
            for (var j = 0; j < Size / 2; j++)
            {
                row[i + j] = (scale * ((source[at + j] & 15) | (int)((high >> j << 4) & 16))) + shift;
                row[i + j + 16] = (scale * ((source[at + j] >> 4) | (int)((high >> (j + 16) << 4) & 16))) + shift;
            }
            at += Size / 2;
        }
    }

    private static (float Low, float High) Range(ReadOnlySpan<float> x)
    {
        var (low, high) = (x[0], x[0]);
        foreach (var value in x) (low, high) = (Math.Min(low, value), Math.Max(high, value));
        return (low, high);
    }
}
