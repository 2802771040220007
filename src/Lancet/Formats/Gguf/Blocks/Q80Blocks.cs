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

    // Blocks whose largest elements are found, and scales rounded to fp16, together.
    private const int Together = 8;

    // Bytes by which reading is ahead. Processors do so by themselves only within a page of 4 KiB, and rows are read much faster than that.
    private const int Ahead = 8192;
    private const int CacheLine = 64;

    public static void Quantize(ReadOnlySpan<float> row, Span<byte> target)
    {
        ref var x = ref MemoryMarshal.GetReference(row);
        ref var y = ref MemoryMarshal.GetReference(target);
        Span<float> inverses = stackalloc float[Together];
        var blocks = row.Length / Size;
        for (var first = 0; first < blocks; first += Together)
        {
            var count = Math.Min(Together, blocks - first);
            ref var values = ref Unsafe.Add(ref x, first * Size);
            var extremes = Avx2.IsSupported && count == Together ? Extremes(ref values) : Extremes(ref values, count);
            var scales = HalfVectors.Narrow(extremes / Vector256.Create(127f));
            Vector256.ConditionalSelect(Vector256.GreaterThan(extremes, Vector256<float>.Zero), Vector256.Create(127f) / extremes, Vector256<float>.Zero).StoreUnsafe(ref MemoryMarshal.GetReference(inverses));
            for (var block = 0; block < count; block++)
            {
                ref var into = ref Unsafe.Add(ref y, (first + block) * Bytes);
                Unsafe.WriteUnaligned(ref into, BitConverter.IsLittleEndian ? scales[block] : BinaryPrimitives.ReverseEndianness(scales[block]));
                Round(ref Unsafe.Add(ref values, block * Size), inverses[block], ref Unsafe.Add(ref into, 2));
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

    /// <summary>Magnitudes of the largest elements of eight blocks.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static unsafe Vector256<float> Extremes(ref float x)
    {
        // A hint, which may point anywhere.
        for (var at = 0; at < Together * Size * sizeof(float); at += CacheLine) Sse.Prefetch0((byte*)Unsafe.AsPointer(ref x) + Ahead + at);
        // Blocks' vectors are joined in pairs, so that a comparison halves two of them, or four, at once.
        Vector256<float> low = OfFour(ref x), high = OfFour(ref Unsafe.Add(ref x, 4 * Size));
        return Vector256.MaxNative(Avx.Permute2x128(low, high, 0x20), Avx.Permute2x128(low, high, 0x31));

        static Vector256<float> OfFour(ref float x)
        {
            var first = OfTwo(Widest(ref x), Widest(ref Unsafe.Add(ref x, Size))).AsDouble();
            var second = OfTwo(Widest(ref Unsafe.Add(ref x, 2 * Size)), Widest(ref Unsafe.Add(ref x, 3 * Size))).AsDouble();
            return Vector256.MaxNative(Avx.UnpackLow(first, second).AsSingle(), Avx.UnpackHigh(first, second).AsSingle());
        }

        static Vector256<float> OfTwo(Vector256<float> first, Vector256<float> second) => Vector256.MaxNative(Avx.UnpackLow(first, second), Avx.UnpackHigh(first, second));
    }

    /// <summary>The same of fewer blocks, and on other processors.</summary>
    private static Vector256<float> Extremes(ref float x, int count)
    {
        Span<float> extremes = stackalloc float[Together];
        for (var block = 0; block < count; block++)
        {
            var most = Widest(ref Unsafe.Add(ref x, block * Size));
            var half = Vector128.MaxNative(most.GetLower(), most.GetUpper());
            half = Vector128.MaxNative(half, Vector128.Shuffle(half, Vector128.Create(2, 3, 0, 1)));
            extremes[block] = Vector128.MaxNative(half, Vector128.Shuffle(half, Vector128.Create(1, 0, 3, 2))).ToScalar();
        }
        return Fit.At(extremes, 0);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> Widest(ref float x)
    {
        Vector256<float> a = Vector256.Abs(Vector256.LoadUnsafe(ref x, 0)), b = Vector256.Abs(Vector256.LoadUnsafe(ref x, 8)), c = Vector256.Abs(Vector256.LoadUnsafe(ref x, 16)), d = Vector256.Abs(Vector256.LoadUnsafe(ref x, 24));
        return Vector256.MaxNative(Vector256.MaxNative(a, b), Vector256.MaxNative(c, d));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Round(ref float x, float inverse, ref byte target)
    {
        var factor = Vector256.Create(inverse);
        Vector256<int> a = Integers(Vector256.LoadUnsafe(ref x, 0) * factor), b = Integers(Vector256.LoadUnsafe(ref x, 8) * factor), c = Integers(Vector256.LoadUnsafe(ref x, 16) * factor), d = Integers(Vector256.LoadUnsafe(ref x, 24) * factor);
        // AVX packs halves of vectors; fours of bytes are put in order at the end.
        var packed = Avx2.IsSupported
            ? Avx2.PermuteVar8x32(Avx2.PackSignedSaturate(Avx2.PackSignedSaturate(a, b), Avx2.PackSignedSaturate(c, d)).AsInt32(), Vector256.Create(0, 4, 1, 5, 2, 6, 3, 7)).AsByte()
            : Vector256.Narrow(Vector256.Narrow(a, b), Vector256.Narrow(c, d)).AsByte();
        packed.StoreUnsafe(ref target);
    }

    // AVX's conversion rounds to nearest by itself.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<int> Integers(Vector256<float> x) => Avx.IsSupported ? Avx.ConvertToVector256Int32(x) : Vector256.ConvertToInt32Native(Vector256.Round(x));
}
