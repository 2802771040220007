using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Lancet.Devices.Cpu;

/// <summary>
/// The innermost product: a tile of <see cref="Rows"/> × <see cref="Columns"/> sums over one block of K, held in registers. a is packed as
/// [depth][Rows]; rows of b, of which <see cref="Columns"/> elements are read, lie strideB apart. The sum of a block starts from zero and is then added to the tile, which keeps long sums accurate.
/// </summary>
internal static unsafe class MicroKernel
{
    /// <summary>Rows of a register tile.</summary>
    public static readonly int Rows = Vector512.IsHardwareAccelerated ? 12 : 6;

    /// <summary>Columns of a register tile.</summary>
    public static readonly int Columns = Vector512.IsHardwareAccelerated ? 32 : 16;

    /// <summary>Elements of a cache line.</summary>
    public const int LineFloats = 16;

    /// <summary>tile (+)= a · b. Meanwhile it asks for depth cache lines from <paramref name="next"/> on, which will be needed soon; the address need not be valid.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Multiply(int depth, float* a, float* b, long strideB, float* tile, long tileStride, bool isFirst, float* next)
    {
        if (Vector512.IsHardwareAccelerated) Multiply512(depth, a, b, strideB, tile, tileStride, isFirst, next);
        else Multiply256(depth, a, b, strideB, tile, tileStride, isFirst, next);
    }

    private static void Multiply512(int depth, float* a, float* b, long strideB, float* tile, long tileStride, bool isFirst, float* next)
    {
        Vector512<float> c0_0 = Vector512<float>.Zero, c0_1 = Vector512<float>.Zero;
        Vector512<float> c1_0 = Vector512<float>.Zero, c1_1 = Vector512<float>.Zero;
        Vector512<float> c2_0 = Vector512<float>.Zero, c2_1 = Vector512<float>.Zero;
        Vector512<float> c3_0 = Vector512<float>.Zero, c3_1 = Vector512<float>.Zero;
        Vector512<float> c4_0 = Vector512<float>.Zero, c4_1 = Vector512<float>.Zero;
        Vector512<float> c5_0 = Vector512<float>.Zero, c5_1 = Vector512<float>.Zero;
        Vector512<float> c6_0 = Vector512<float>.Zero, c6_1 = Vector512<float>.Zero;
        Vector512<float> c7_0 = Vector512<float>.Zero, c7_1 = Vector512<float>.Zero;
        Vector512<float> c8_0 = Vector512<float>.Zero, c8_1 = Vector512<float>.Zero;
        Vector512<float> c9_0 = Vector512<float>.Zero, c9_1 = Vector512<float>.Zero;
        Vector512<float> c10_0 = Vector512<float>.Zero, c10_1 = Vector512<float>.Zero;
        Vector512<float> c11_0 = Vector512<float>.Zero, c11_1 = Vector512<float>.Zero;
        for (var k = 0; k < depth; k++, a += 12, b += strideB, next += LineFloats)
        {
            if (Sse.IsSupported) Sse.Prefetch1(next);
            Vector512<float> b0 = Vector512.Load(b), b1 = Vector512.Load(b + 16);
            var v = Vector512.Create(a[0]);
            c0_0 = Vector512.FusedMultiplyAdd(v, b0, c0_0);
            c0_1 = Vector512.FusedMultiplyAdd(v, b1, c0_1);
            v = Vector512.Create(a[1]);
            c1_0 = Vector512.FusedMultiplyAdd(v, b0, c1_0);
            c1_1 = Vector512.FusedMultiplyAdd(v, b1, c1_1);
            v = Vector512.Create(a[2]);
            c2_0 = Vector512.FusedMultiplyAdd(v, b0, c2_0);
            c2_1 = Vector512.FusedMultiplyAdd(v, b1, c2_1);
            v = Vector512.Create(a[3]);
            c3_0 = Vector512.FusedMultiplyAdd(v, b0, c3_0);
            c3_1 = Vector512.FusedMultiplyAdd(v, b1, c3_1);
            v = Vector512.Create(a[4]);
            c4_0 = Vector512.FusedMultiplyAdd(v, b0, c4_0);
            c4_1 = Vector512.FusedMultiplyAdd(v, b1, c4_1);
            v = Vector512.Create(a[5]);
            c5_0 = Vector512.FusedMultiplyAdd(v, b0, c5_0);
            c5_1 = Vector512.FusedMultiplyAdd(v, b1, c5_1);
            v = Vector512.Create(a[6]);
            c6_0 = Vector512.FusedMultiplyAdd(v, b0, c6_0);
            c6_1 = Vector512.FusedMultiplyAdd(v, b1, c6_1);
            v = Vector512.Create(a[7]);
            c7_0 = Vector512.FusedMultiplyAdd(v, b0, c7_0);
            c7_1 = Vector512.FusedMultiplyAdd(v, b1, c7_1);
            v = Vector512.Create(a[8]);
            c8_0 = Vector512.FusedMultiplyAdd(v, b0, c8_0);
            c8_1 = Vector512.FusedMultiplyAdd(v, b1, c8_1);
            v = Vector512.Create(a[9]);
            c9_0 = Vector512.FusedMultiplyAdd(v, b0, c9_0);
            c9_1 = Vector512.FusedMultiplyAdd(v, b1, c9_1);
            v = Vector512.Create(a[10]);
            c10_0 = Vector512.FusedMultiplyAdd(v, b0, c10_0);
            c10_1 = Vector512.FusedMultiplyAdd(v, b1, c10_1);
            v = Vector512.Create(a[11]);
            c11_0 = Vector512.FusedMultiplyAdd(v, b0, c11_0);
            c11_1 = Vector512.FusedMultiplyAdd(v, b1, c11_1);
        }
        if (!isFirst)
        {
            c0_0 += Vector512.Load(tile);
            c0_1 += Vector512.Load(tile + 16);
            c1_0 += Vector512.Load(tile + (1 * tileStride));
            c1_1 += Vector512.Load(tile + (1 * tileStride) + 16);
            c2_0 += Vector512.Load(tile + (2 * tileStride));
            c2_1 += Vector512.Load(tile + (2 * tileStride) + 16);
            c3_0 += Vector512.Load(tile + (3 * tileStride));
            c3_1 += Vector512.Load(tile + (3 * tileStride) + 16);
            c4_0 += Vector512.Load(tile + (4 * tileStride));
            c4_1 += Vector512.Load(tile + (4 * tileStride) + 16);
            c5_0 += Vector512.Load(tile + (5 * tileStride));
            c5_1 += Vector512.Load(tile + (5 * tileStride) + 16);
            c6_0 += Vector512.Load(tile + (6 * tileStride));
            c6_1 += Vector512.Load(tile + (6 * tileStride) + 16);
            c7_0 += Vector512.Load(tile + (7 * tileStride));
            c7_1 += Vector512.Load(tile + (7 * tileStride) + 16);
            c8_0 += Vector512.Load(tile + (8 * tileStride));
            c8_1 += Vector512.Load(tile + (8 * tileStride) + 16);
            c9_0 += Vector512.Load(tile + (9 * tileStride));
            c9_1 += Vector512.Load(tile + (9 * tileStride) + 16);
            c10_0 += Vector512.Load(tile + (10 * tileStride));
            c10_1 += Vector512.Load(tile + (10 * tileStride) + 16);
            c11_0 += Vector512.Load(tile + (11 * tileStride));
            c11_1 += Vector512.Load(tile + (11 * tileStride) + 16);
        }
        c0_0.Store(tile);
        c0_1.Store(tile + 16);
        c1_0.Store(tile + (1 * tileStride));
        c1_1.Store(tile + (1 * tileStride) + 16);
        c2_0.Store(tile + (2 * tileStride));
        c2_1.Store(tile + (2 * tileStride) + 16);
        c3_0.Store(tile + (3 * tileStride));
        c3_1.Store(tile + (3 * tileStride) + 16);
        c4_0.Store(tile + (4 * tileStride));
        c4_1.Store(tile + (4 * tileStride) + 16);
        c5_0.Store(tile + (5 * tileStride));
        c5_1.Store(tile + (5 * tileStride) + 16);
        c6_0.Store(tile + (6 * tileStride));
        c6_1.Store(tile + (6 * tileStride) + 16);
        c7_0.Store(tile + (7 * tileStride));
        c7_1.Store(tile + (7 * tileStride) + 16);
        c8_0.Store(tile + (8 * tileStride));
        c8_1.Store(tile + (8 * tileStride) + 16);
        c9_0.Store(tile + (9 * tileStride));
        c9_1.Store(tile + (9 * tileStride) + 16);
        c10_0.Store(tile + (10 * tileStride));
        c10_1.Store(tile + (10 * tileStride) + 16);
        c11_0.Store(tile + (11 * tileStride));
        c11_1.Store(tile + (11 * tileStride) + 16);
    }

    private static void Multiply256(int depth, float* a, float* b, long strideB, float* tile, long tileStride, bool isFirst, float* next)
    {
        Vector256<float> c0_0 = Vector256<float>.Zero, c0_1 = Vector256<float>.Zero;
        Vector256<float> c1_0 = Vector256<float>.Zero, c1_1 = Vector256<float>.Zero;
        Vector256<float> c2_0 = Vector256<float>.Zero, c2_1 = Vector256<float>.Zero;
        Vector256<float> c3_0 = Vector256<float>.Zero, c3_1 = Vector256<float>.Zero;
        Vector256<float> c4_0 = Vector256<float>.Zero, c4_1 = Vector256<float>.Zero;
        Vector256<float> c5_0 = Vector256<float>.Zero, c5_1 = Vector256<float>.Zero;
        for (var k = 0; k < depth; k++, a += 6, b += strideB, next += LineFloats)
        {
            if (Sse.IsSupported) Sse.Prefetch1(next);
            Vector256<float> b0 = Vector256.Load(b), b1 = Vector256.Load(b + 8);
            var v = Vector256.Create(a[0]);
            c0_0 = Vector256.FusedMultiplyAdd(v, b0, c0_0);
            c0_1 = Vector256.FusedMultiplyAdd(v, b1, c0_1);
            v = Vector256.Create(a[1]);
            c1_0 = Vector256.FusedMultiplyAdd(v, b0, c1_0);
            c1_1 = Vector256.FusedMultiplyAdd(v, b1, c1_1);
            v = Vector256.Create(a[2]);
            c2_0 = Vector256.FusedMultiplyAdd(v, b0, c2_0);
            c2_1 = Vector256.FusedMultiplyAdd(v, b1, c2_1);
            v = Vector256.Create(a[3]);
            c3_0 = Vector256.FusedMultiplyAdd(v, b0, c3_0);
            c3_1 = Vector256.FusedMultiplyAdd(v, b1, c3_1);
            v = Vector256.Create(a[4]);
            c4_0 = Vector256.FusedMultiplyAdd(v, b0, c4_0);
            c4_1 = Vector256.FusedMultiplyAdd(v, b1, c4_1);
            v = Vector256.Create(a[5]);
            c5_0 = Vector256.FusedMultiplyAdd(v, b0, c5_0);
            c5_1 = Vector256.FusedMultiplyAdd(v, b1, c5_1);
        }
        if (!isFirst)
        {
            c0_0 += Vector256.Load(tile);
            c0_1 += Vector256.Load(tile + 8);
            c1_0 += Vector256.Load(tile + (1 * tileStride));
            c1_1 += Vector256.Load(tile + (1 * tileStride) + 8);
            c2_0 += Vector256.Load(tile + (2 * tileStride));
            c2_1 += Vector256.Load(tile + (2 * tileStride) + 8);
            c3_0 += Vector256.Load(tile + (3 * tileStride));
            c3_1 += Vector256.Load(tile + (3 * tileStride) + 8);
            c4_0 += Vector256.Load(tile + (4 * tileStride));
            c4_1 += Vector256.Load(tile + (4 * tileStride) + 8);
            c5_0 += Vector256.Load(tile + (5 * tileStride));
            c5_1 += Vector256.Load(tile + (5 * tileStride) + 8);
        }
        c0_0.Store(tile);
        c0_1.Store(tile + 8);
        c1_0.Store(tile + (1 * tileStride));
        c1_1.Store(tile + (1 * tileStride) + 8);
        c2_0.Store(tile + (2 * tileStride));
        c2_1.Store(tile + (2 * tileStride) + 8);
        c3_0.Store(tile + (3 * tileStride));
        c3_1.Store(tile + (3 * tileStride) + 8);
        c4_0.Store(tile + (4 * tileStride));
        c4_1.Store(tile + (4 * tileStride) + 8);
        c5_0.Store(tile + (5 * tileStride));
        c5_1.Store(tile + (5 * tileStride) + 8);
    }
}
