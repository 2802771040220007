using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Lancet.Tile.Cpu;

/// <summary>Copies a block of a row-major fp32 matrix into its transpose, in 8 × 8 and 4 × 4 squares held in registers.</summary>
public static unsafe class TransposedCopy
{
    /// <summary>target[c · targetStride + r] = source[r · sourceStride + c] for all rows r and columns c.</summary>
    public static void Copy(float* source, long sourceStride, int rows, int columns, float* target, long targetStride)
    {
        var row = 0;
        if (Avx.IsSupported)
        {
            for (; row + 8 <= rows; row += 8)
            {
                var column = 0;
                for (; column + 8 <= columns; column += 8) Square8(source + (row * sourceStride) + column, sourceStride, target + (column * targetStride) + row, targetStride);
                Plain(source + (row * sourceStride) + column, sourceStride, 8, columns - column, target + (column * targetStride) + row, targetStride);
            }
        }
        if (Sse.IsSupported)
        {
            for (; row + 4 <= rows; row += 4)
            {
                var column = 0;
                for (; column + 4 <= columns; column += 4) Square4(source + (row * sourceStride) + column, sourceStride, target + (column * targetStride) + row, targetStride);
                Plain(source + (row * sourceStride) + column, sourceStride, 4, columns - column, target + (column * targetStride) + row, targetStride);
            }
        }
        Plain(source + (row * sourceStride), sourceStride, rows - row, columns, target + row, targetStride);
    }

    private static void Plain(float* source, long sourceStride, int rows, int columns, float* target, long targetStride)
    {
        for (var row = 0; row < rows; row++)
            for (var column = 0; column < columns; column++)
                target[(column * targetStride) + row] = source[(row * sourceStride) + column];
    }

    private static void Square4(float* source, long sourceStride, float* target, long targetStride)
    {
        Vector128<float> a = Vector128.Load(source), b = Vector128.Load(source + sourceStride), c = Vector128.Load(source + (2 * sourceStride)), d = Vector128.Load(source + (3 * sourceStride));
        Vector128<float> ab0 = Sse.UnpackLow(a, b), cd0 = Sse.UnpackLow(c, d), ab1 = Sse.UnpackHigh(a, b), cd1 = Sse.UnpackHigh(c, d);
        Sse.MoveLowToHigh(ab0, cd0).Store(target);
        Sse.MoveHighToLow(cd0, ab0).Store(target + targetStride);
        Sse.MoveLowToHigh(ab1, cd1).Store(target + (2 * targetStride));
        Sse.MoveHighToLow(cd1, ab1).Store(target + (3 * targetStride));
    }

    private static void Square8(float* source, long sourceStride, float* target, long targetStride)
    {
        Vector256<float> r0 = Vector256.Load(source), r1 = Vector256.Load(source + sourceStride), r2 = Vector256.Load(source + (2 * sourceStride)), r3 = Vector256.Load(source + (3 * sourceStride));
        Vector256<float> r4 = Vector256.Load(source + (4 * sourceStride)), r5 = Vector256.Load(source + (5 * sourceStride)), r6 = Vector256.Load(source + (6 * sourceStride)), r7 = Vector256.Load(source + (7 * sourceStride));
        Vector256<float> t0 = Avx.UnpackLow(r0, r1), t1 = Avx.UnpackHigh(r0, r1), t2 = Avx.UnpackLow(r2, r3), t3 = Avx.UnpackHigh(r2, r3);
        Vector256<float> t4 = Avx.UnpackLow(r4, r5), t5 = Avx.UnpackHigh(r4, r5), t6 = Avx.UnpackLow(r6, r7), t7 = Avx.UnpackHigh(r6, r7);
        Vector256<float> s0 = Avx.Shuffle(t0, t2, 0x44), s1 = Avx.Shuffle(t0, t2, 0xEE), s2 = Avx.Shuffle(t1, t3, 0x44), s3 = Avx.Shuffle(t1, t3, 0xEE);
        Vector256<float> s4 = Avx.Shuffle(t4, t6, 0x44), s5 = Avx.Shuffle(t4, t6, 0xEE), s6 = Avx.Shuffle(t5, t7, 0x44), s7 = Avx.Shuffle(t5, t7, 0xEE);
        Avx.Permute2x128(s0, s4, 0x20).Store(target);
        Avx.Permute2x128(s1, s5, 0x20).Store(target + targetStride);
        Avx.Permute2x128(s2, s6, 0x20).Store(target + (2 * targetStride));
        Avx.Permute2x128(s3, s7, 0x20).Store(target + (3 * targetStride));
        Avx.Permute2x128(s0, s4, 0x31).Store(target + (4 * targetStride));
        Avx.Permute2x128(s1, s5, 0x31).Store(target + (5 * targetStride));
        Avx.Permute2x128(s2, s6, 0x31).Store(target + (6 * targetStride));
        Avx.Permute2x128(s3, s7, 0x31).Store(target + (7 * targetStride));
    }
}
