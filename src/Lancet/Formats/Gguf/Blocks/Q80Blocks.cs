using System.Buffers.Binary;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;

namespace Lancet.Formats.Gguf.Blocks;

/// <summary>q8_0: 32 elements x = d·q, q from −127 to 127. A block is fp16 d, then 32 signed bytes.</summary>
internal static class Q80Blocks
{
    public const int Size = 32;
    public const int Bytes = 2 + 32;

    public static void Quantize(ReadOnlySpan<float> row, Span<byte> target)
    {
        for (int i = 0, at = 0; i < row.Length; i += Size, at += Bytes)
        {
            ref var x = ref MemoryMarshal.GetReference(row[i..]);
            Vector256<float> a = Vector256.LoadUnsafe(ref x, 0), b = Vector256.LoadUnsafe(ref x, 8), c = Vector256.LoadUnsafe(ref x, 16), d = Vector256.LoadUnsafe(ref x, 24);
            var most = Vector256.Max(Vector256.Max(Vector256.Abs(a), Vector256.Abs(b)), Vector256.Max(Vector256.Abs(c), Vector256.Abs(d)));
            var half = Vector128.Max(most.GetLower(), most.GetUpper());
            half = Vector128.Max(half, Vector128.Shuffle(half, Vector128.Create(2, 3, 0, 1)));
            var extreme = Math.Max(half[0], half[1]);
            var inverse = extreme > 0 ? 127 / extreme : 0;
            BinaryPrimitives.WriteHalfLittleEndian(target[at..], (Half)(extreme / 127));
            var low = Vector256.Narrow(Integers(a * inverse), Integers(b * inverse));
            var high = Vector256.Narrow(Integers(c * inverse), Integers(d * inverse));
            Vector256.Narrow(low, high).StoreUnsafe(ref MemoryMarshal.GetReference(MemoryMarshal.Cast<byte, sbyte>(target.Slice(at + 2, Size))));
        }
    }

    public static void Dequantize(ReadOnlySpan<byte> source, Span<float> row)
    {
        for (int i = 0, at = 0; i < row.Length; i += Size, at += Bytes)
        {
            var scale = (float)BinaryPrimitives.ReadHalfLittleEndian(source[at..]);
            for (var j = 0; j < Size; j++) row[i + j] = scale * (sbyte)source[at + 2 + j];
        }
    }

    private static Vector256<int> Integers(Vector256<float> x) => Vector256.ConvertToInt32Native(Vector256.Round(x));
}
