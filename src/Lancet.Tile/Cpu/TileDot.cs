using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Lancet.Tile.Cpu;

/// <summary>
/// z = a·b + c for tiles in scratch memory. Each element of z is one chain of fused multiply-adds in order of k, starting from c, so its value
/// does not depend on blocking. b is read row by row; a transposed b is first written out in <c>packed</c>.
/// </summary>
internal sealed unsafe class DotInstruction(LaneView a, LaneView b, LaneView c, LaneView z, int packed) : Instruction
{
    private readonly CopyInstruction<float> _start = new(c, z);

    public override void Execute(ref Frame frame)
    {
        var (m, n, k) = (z.Rows, z.Cols, a.Cols);
        float* pa = frame.At<float>(a.Offset), pb = frame.At<float>(b.Offset), pz = frame.At<float>(z.Offset);
        long strideB = b.RowStride;
        if (b.ColStride != 1)
        {
            var copy = frame.At<float>(packed);
            if (b.RowStride == 1)
            {
                TransposedCopy.Copy(pb, b.ColStride, n, k, copy, n);
            }
            else
            {
                for (var j = 0; j < n; j++)
                    for (var i = 0; i < k; i++) copy[((long)i * n) + j] = pb[((long)j * b.ColStride) + ((long)i * b.RowStride)];
            }
            pb = copy;
            strideB = n;
        }
        _start.Execute(ref frame);
        var row = 0;
        for (; row + 8 <= m; row += 8) Rows8(pa + ((long)row * a.RowStride), a.RowStride, a.ColStride, pb, strideB, pz + ((long)row * n), n, k);
        for (; row < m; row++) Row1(pa + ((long)row * a.RowStride), a.ColStride, pb, strideB, pz + ((long)row * n), n, k);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Rows8(float* a, long rowA, long colA, float* b, long strideB, float* z, int n, int k)
    {
        var j = 0;
        for (; j + 32 <= n; j += 32)
        {
            float* z0 = z + j, z1 = z0 + n, z2 = z1 + n, z3 = z2 + n, z4 = z3 + n, z5 = z4 + n, z6 = z5 + n, z7 = z6 + n;
            var (c00, c01) = (Vector512.Load(z0), Vector512.Load(z0 + 16));
            var (c10, c11) = (Vector512.Load(z1), Vector512.Load(z1 + 16));
            var (c20, c21) = (Vector512.Load(z2), Vector512.Load(z2 + 16));
            var (c30, c31) = (Vector512.Load(z3), Vector512.Load(z3 + 16));
            var (c40, c41) = (Vector512.Load(z4), Vector512.Load(z4 + 16));
            var (c50, c51) = (Vector512.Load(z5), Vector512.Load(z5 + 16));
            var (c60, c61) = (Vector512.Load(z6), Vector512.Load(z6 + 16));
            var (c70, c71) = (Vector512.Load(z7), Vector512.Load(z7 + 16));
            float* pb = b + j, pa = a;
            for (var i = 0; i < k; i++, pb += strideB, pa += colA)
            {
                Vector512<float> b0 = Vector512.Load(pb), b1 = Vector512.Load(pb + 16);
                var v = Vector512.Create(pa[0]);
                c00 = Vector512.FusedMultiplyAdd(v, b0, c00);
                c01 = Vector512.FusedMultiplyAdd(v, b1, c01);
                v = Vector512.Create(pa[rowA]);
                c10 = Vector512.FusedMultiplyAdd(v, b0, c10);
                c11 = Vector512.FusedMultiplyAdd(v, b1, c11);
                v = Vector512.Create(pa[2 * rowA]);
                c20 = Vector512.FusedMultiplyAdd(v, b0, c20);
                c21 = Vector512.FusedMultiplyAdd(v, b1, c21);
                v = Vector512.Create(pa[3 * rowA]);
                c30 = Vector512.FusedMultiplyAdd(v, b0, c30);
                c31 = Vector512.FusedMultiplyAdd(v, b1, c31);
                v = Vector512.Create(pa[4 * rowA]);
                c40 = Vector512.FusedMultiplyAdd(v, b0, c40);
                c41 = Vector512.FusedMultiplyAdd(v, b1, c41);
                v = Vector512.Create(pa[5 * rowA]);
                c50 = Vector512.FusedMultiplyAdd(v, b0, c50);
                c51 = Vector512.FusedMultiplyAdd(v, b1, c51);
                v = Vector512.Create(pa[6 * rowA]);
                c60 = Vector512.FusedMultiplyAdd(v, b0, c60);
                c61 = Vector512.FusedMultiplyAdd(v, b1, c61);
                v = Vector512.Create(pa[7 * rowA]);
                c70 = Vector512.FusedMultiplyAdd(v, b0, c70);
                c71 = Vector512.FusedMultiplyAdd(v, b1, c71);
            }
            c00.Store(z0);
            c01.Store(z0 + 16);
            c10.Store(z1);
            c11.Store(z1 + 16);
            c20.Store(z2);
            c21.Store(z2 + 16);
            c30.Store(z3);
            c31.Store(z3 + 16);
            c40.Store(z4);
            c41.Store(z4 + 16);
            c50.Store(z5);
            c51.Store(z5 + 16);
            c60.Store(z6);
            c61.Store(z6 + 16);
            c70.Store(z7);
            c71.Store(z7 + 16);
        }
        if (j == n) return;
        for (var row = 0; row < 8; row++) Columns(a + (row * rowA), colA, b, strideB, z + ((long)row * n), j, n, k);
    }

    private static void Row1(float* a, long colA, float* b, long strideB, float* z, int n, int k) => Columns(a, colA, b, strideB, z, 0, n, k);

    private static void Columns(float* a, long colA, float* b, long strideB, float* z, int j, int n, int k)
    {
        for (; j + 16 <= n; j += 16)
        {
            var sum = Vector512.Load(z + j);
            for (var i = 0; i < k; i++) sum = Vector512.FusedMultiplyAdd(Vector512.Create(a[i * colA]), Vector512.Load(b + (i * strideB) + j), sum);
            sum.Store(z + j);
        }
        for (; j < n; j++)
        {
            var sum = z[j];
            for (var i = 0; i < k; i++) sum = MathF.FusedMultiplyAdd(a[i * colA], b[(i * strideB) + j], sum);
            z[j] = sum;
        }
    }
}

/// <summary>z = a·b + c in fp64, for tests.</summary>
internal sealed unsafe class DotDoubleInstruction(LaneView a, LaneView b, LaneView c, LaneView z) : Instruction
{
    private readonly CopyInstruction<double> _start = new(c, z);

    public override void Execute(ref Frame frame)
    {
        double* pa = frame.At<double>(a.Offset), pb = frame.At<double>(b.Offset), pz = frame.At<double>(z.Offset);
        _start.Execute(ref frame);
        for (var row = 0; row < z.Rows; row++)
        {
            for (var i = 0; i < a.Cols; i++)
            {
                var value = pa[((long)row * a.RowStride) + ((long)i * a.ColStride)];
                double* from = pb + ((long)i * b.RowStride), to = pz + ((long)row * z.Cols);
                for (var j = 0; j < z.Cols; j++) to[j] = Math.FusedMultiplyAdd(value, from[(long)j * b.ColStride], to[j]);
            }
        }
    }
}
