using System.Buffers.Binary;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Lancet.Formats.Gguf.Blocks;

/// <summary>q8_0: 32 elements x = d·q, q from −127 to 127. A block is fp16 d, then 32 signed bytes.</summary>
internal static class Q80Blocks
{
    public const int Size = 32;
    public const int Bytes = 2 + 32;

    // Blocks whose scales are rounded to fp16 together.
    private const int Together = 8;

    public static void Quantize(ReadOnlySpan<float> row, Span<byte> target)
    {
        ref var x = ref MemoryMarshal.GetReference(row);
        ref var y = ref MemoryMarshal.GetReference(target);
        Span<float> extremes = stackalloc float[Together];
        var blocks = row.Length / Size;
        for (var first = 0; first < blocks; first += Together)
        {
            var count = Math.Min(Together, blocks - first);
            for (var block = 0; block < count; block++) extremes[block] = Extreme(ref Unsafe.Add(ref x, (first + block) * Size));
            var scales = HalfVectors.Narrow(Fit.At(extremes, 0) / Vector256.Create(127f));
            for (var block = 0; block < count; block++)
            {
                ref var into = ref Unsafe.Add(ref y, (first + block) * Bytes);
                Unsafe.WriteUnaligned(ref into, BitConverter.IsLittleEndian ? scales[block] : BinaryPrimitives.ReverseEndianness(scales[block]));
                Round(ref Unsafe.Add(ref x, (first + block) * Size), extremes[block] > 0 ? 127 / extremes[block] : 0, ref Unsafe.Add(ref into, 2));
            }
        }
    }

    public static void Dequantize(ReadOnlySpan<byte> source, Span<float> row)
    {
        ref var y = ref MemoryMarshal.GetReference(row);
        for (int i = 0, at = 0; i < row.Length; i += Size, at += Bytes)
        {
            var scale = (float)BinaryPrimitives.ReadHalfLittleEndian(source[at..]);
            var q = Vector256.LoadUnsafe(ref MemoryMarshal.GetReference(MemoryMarshal.Cast<byte, sbyte>(source.Slice(at + 2, Size))));
            var (low, high) = Vector256.Widen(q);
            var (a, b) = Vector256.Widen(low);
            var (c, d) = Vector256.Widen(high);
            (Vector256.ConvertToSingle(a) * scale).StoreUnsafe(ref y, (nuint)i);
            (Vector256.ConvertToSingle(b) * scale).StoreUnsafe(ref y, (nuint)i + 8);
            (Vector256.ConvertToSingle(c) * scale).StoreUnsafe(ref y, (nuint)i + 16);
            (Vector256.ConvertToSingle(d) * scale).StoreUnsafe(ref y, (nuint)i + 24);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static float Extreme(ref float x)
    {
        if (Avx512F.IsSupported)
        {
            var widest = Vector512.MaxNative(Vector512.Abs(Vector512.LoadUnsafe(ref x, 0)), Vector512.Abs(Vector512.LoadUnsafe(ref x, 16)));
            return Largest(Vector256.MaxNative(widest.GetLower(), widest.GetUpper()));
        }
        Vector256<float> a = Vector256.Abs(Vector256.LoadUnsafe(ref x, 0)), b = Vector256.Abs(Vector256.LoadUnsafe(ref x, 8)), c = Vector256.Abs(Vector256.LoadUnsafe(ref x, 16)), d = Vector256.Abs(Vector256.LoadUnsafe(ref x, 24));
        return Largest(Vector256.MaxNative(Vector256.MaxNative(a, b), Vector256.MaxNative(c, d)));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static float Largest(Vector256<float> most)
    {
        var half = Vector128.MaxNative(most.GetLower(), most.GetUpper());
        half = Vector128.MaxNative(half, Vector128.Shuffle(half, Vector128.Create(2, 3, 0, 1)));
        return Vector128.MaxNative(half, Vector128.Shuffle(half, Vector128.Create(1, 0, 3, 2))).ToScalar();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Round(ref float x, float inverse, ref byte target)
    {
        if (Avx512F.IsSupported)
        {
            // This conversion rounds to nearest by itself, and so does AVX's below.
            var wide = Vector512.Create(inverse);
            Avx512F.ConvertToVector128SByte(Avx512F.ConvertToVector512Int32(Vector512.LoadUnsafe(ref x, 0) * wide)).AsByte().StoreUnsafe(ref target);
            Avx512F.ConvertToVector128SByte(Avx512F.ConvertToVector512Int32(Vector512.LoadUnsafe(ref x, 16) * wide)).AsByte().StoreUnsafe(ref target, 16);
            return;
        }
        var factor = Vector256.Create(inverse);
        var low = Vector256.Narrow(Integers(Vector256.LoadUnsafe(ref x, 0) * factor), Integers(Vector256.LoadUnsafe(ref x, 8) * factor));
        var high = Vector256.Narrow(Integers(Vector256.LoadUnsafe(ref x, 16) * factor), Integers(Vector256.LoadUnsafe(ref x, 24) * factor));
        Vector256.Narrow(low, high).AsByte().StoreUnsafe(ref target);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<int> Integers(Vector256<float> x) => Avx.IsSupported ? Avx.ConvertToVector256Int32(x) : Vector256.ConvertToInt32Native(Vector256.Round(x));
}
