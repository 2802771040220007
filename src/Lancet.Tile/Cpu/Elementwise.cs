using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Lancet.Tile.Cpu;

/// <summary>An elementwise operation of two operands, on one element and on a vector of them.</summary>
internal interface IBinaryOperation<T>
    where T : unmanaged
{
    static abstract bool IsVectorized { get; }

    static abstract T Invoke(T a, T b);

    static abstract Vector512<T> Invoke(Vector512<T> a, Vector512<T> b);
}

/// <summary>An elementwise operation of one operand.</summary>
internal interface IUnaryOperation<T>
    where T : unmanaged
{
    static abstract bool IsVectorized { get; }

    static abstract T Invoke(T x);

    static abstract Vector512<T> Invoke(Vector512<T> x);
}

/// <summary>z = op(a, b) over tiles of equal shape; repeated rows, columns and scalars are read in place.</summary>
internal sealed unsafe class BinaryInstruction<T, TOperation>(LaneView a, LaneView b, LaneView z) : Instruction
    where T : unmanaged, INumber<T>
    where TOperation : struct, IBinaryOperation<T>
{
    private readonly bool _isFlat = (a.IsDense || a.IsScalar) && (b.IsDense || b.IsScalar);

    public override void Execute(ref Frame frame)
    {
        T* pa = frame.At<T>(a.Offset), pb = frame.At<T>(b.Offset), pz = frame.At<T>(z.Offset);
        if (_isFlat)
        {
            Row(pa, a.IsScalar, pb, b.IsScalar, pz, z.Count);
            return;
        }
        for (var row = 0; row < z.Rows; row++)
        {
            Row(pa, a.ColStride == 0, pb, b.ColStride == 0, pz, z.Cols);
            pa += a.RowStride;
            pb += b.RowStride;
            pz += z.Cols;
        }
    }

    private static void Row(T* a, bool isScalarA, T* b, bool isScalarB, T* z, int count)
    {
        var i = 0;
        if (TOperation.IsVectorized && count >= Vector512<T>.Count)
        {
            var last = count - Vector512<T>.Count;
            if (isScalarA && isScalarB)
            {
                var value = TOperation.Invoke(Vector512.Create(*a), Vector512.Create(*b));
                for (; i <= last; i += Vector512<T>.Count) value.Store(z + i);
            }
            else if (isScalarA)
            {
                var value = Vector512.Create(*a);
                for (; i <= last; i += Vector512<T>.Count) TOperation.Invoke(value, Vector512.Load(b + i)).Store(z + i);
            }
            else if (isScalarB)
            {
                var value = Vector512.Create(*b);
                for (; i <= last; i += Vector512<T>.Count) TOperation.Invoke(Vector512.Load(a + i), value).Store(z + i);
            }
            else
            {
                for (; i <= last; i += Vector512<T>.Count) TOperation.Invoke(Vector512.Load(a + i), Vector512.Load(b + i)).Store(z + i);
            }
        }
        for (; i < count; i++) z[i] = TOperation.Invoke(isScalarA ? *a : a[i], isScalarB ? *b : b[i]);
    }
}

/// <summary>z = op(x).</summary>
internal sealed unsafe class UnaryInstruction<T, TOperation>(LaneView x, LaneView z) : Instruction
    where T : unmanaged
    where TOperation : struct, IUnaryOperation<T>
{
    public override void Execute(ref Frame frame)
    {
        T* px = frame.At<T>(x.Offset), pz = frame.At<T>(z.Offset);
        var (count, i) = (z.Count, 0);
        if (TOperation.IsVectorized)
        {
            for (; i <= count - Vector512<T>.Count; i += Vector512<T>.Count) TOperation.Invoke(Vector512.Load(px + i)).Store(pz + i);
            if (i < count)
            {
                // The tail goes through the same vector code, so that an element's value does not depend on its place.
                var tail = stackalloc T[Vector512<T>.Count];
                Unsafe.InitBlock(tail, 0, (uint)(Vector512<T>.Count * sizeof(T)));
                for (var j = i; j < count; j++) tail[j - i] = px[j];
                TOperation.Invoke(Vector512.Load(tail)).Store(tail);
                for (var j = i; j < count; j++) pz[j] = tail[j - i];
            }
            return;
        }
        for (; i < count; i++) pz[i] = TOperation.Invoke(px[i]);
    }
}

/// <summary>mask = a ⋚ b, as 0 or −1 in 4-byte lanes.</summary>
internal sealed unsafe class CompareInstruction<T>(IR.Comparison comparison, LaneView a, LaneView b, LaneView z) : Instruction
    where T : unmanaged, INumber<T>
{
    public override void Execute(ref Frame frame)
    {
        T* pa = frame.At<T>(a.Offset), pb = frame.At<T>(b.Offset);
        var pz = frame.At<int>(z.Offset);
        for (var row = 0; row < z.Rows; row++)
        {
            Row(pa, a.ColStride == 0, pb, b.ColStride == 0, pz);
            pa += a.RowStride;
            pb += b.RowStride;
            pz += z.Cols;
        }
    }

    private void Row(T* a, bool isScalarA, T* b, bool isScalarB, int* z)
    {
        var i = 0;
        if (sizeof(T) == 4)
        {
            for (; i <= z_Cols - Vector512<T>.Count; i += Vector512<T>.Count)
            {
                var va = isScalarA ? Vector512.Create(*a) : Vector512.Load(a + i);
                var vb = isScalarB ? Vector512.Create(*b) : Vector512.Load(b + i);
                var mask = comparison switch
                {
                    IR.Comparison.Equal => Vector512.Equals(va, vb),
                    IR.Comparison.NotEqual => ~Vector512.Equals(va, vb),
                    IR.Comparison.Less => Vector512.LessThan(va, vb),
                    IR.Comparison.LessOrEqual => Vector512.LessThanOrEqual(va, vb),
                    IR.Comparison.Greater => Vector512.GreaterThan(va, vb),
                    _ => Vector512.GreaterThanOrEqual(va, vb),
                };
                mask.AsInt32().Store(z + i);
            }
        }
        for (; i < z_Cols; i++)
        {
            var (x, y) = (isScalarA ? *a : a[i], isScalarB ? *b : b[i]);
            z[i] = (comparison switch
            {
                IR.Comparison.Equal => x == y,
                IR.Comparison.NotEqual => x != y,
                IR.Comparison.Less => x < y,
                IR.Comparison.LessOrEqual => x <= y,
                IR.Comparison.Greater => x > y,
                _ => x >= y,
            }) ? -1 : 0;
        }
    }

    private int z_Cols => z.Cols;
}

/// <summary>z = mask ? a : b.</summary>
internal sealed unsafe class SelectInstruction<T>(LaneView mask, LaneView a, LaneView b, LaneView z) : Instruction
    where T : unmanaged
{
    public override void Execute(ref Frame frame)
    {
        var pm = frame.At<int>(mask.Offset);
        T* pa = frame.At<T>(a.Offset), pb = frame.At<T>(b.Offset), pz = frame.At<T>(z.Offset);
        for (var row = 0; row < z.Rows; row++)
        {
            var i = 0;
            if (sizeof(T) == 4)
            {
                for (; i <= z.Cols - Vector512<int>.Count; i += Vector512<int>.Count)
                {
                    var vm = mask.ColStride == 0 ? Vector512.Create(*pm) : Vector512.Load(pm + i);
                    var va = a.ColStride == 0 ? Vector512.Create(*(int*)pa) : Vector512.Load((int*)pa + i);
                    var vb = b.ColStride == 0 ? Vector512.Create(*(int*)pb) : Vector512.Load((int*)pb + i);
                    Vector512.ConditionalSelect(vm, va, vb).Store((int*)pz + i);
                }
            }
            for (; i < z.Cols; i++) pz[i] = pm[i * mask.ColStride] != 0 ? pa[i * a.ColStride] : pb[i * b.ColStride];
            pm += mask.RowStride;
            pa += a.RowStride;
            pb += b.RowStride;
            pz += z.Cols;
        }
    }
}

/// <summary>A strided view copied to dense lanes.</summary>
internal sealed unsafe class CopyInstruction<T>(LaneView x, LaneView z) : Instruction
    where T : unmanaged
{
    public override void Execute(ref Frame frame)
    {
        T* px = frame.At<T>(x.Offset), pz = frame.At<T>(z.Offset);
        if (x.IsDense && x.Offset == z.Offset) return;
        for (var row = 0; row < z.Rows; row++)
        {
            if (x.ColStride == 1 || z.Cols == 1) Buffer.MemoryCopy(px, pz, z.Cols * sizeof(T), z.Cols * sizeof(T));
            else if (x.ColStride == 0) new Span<T>(pz, z.Cols).Fill(*px);
            else for (var i = 0; i < z.Cols; i++) pz[i] = px[(long)i * x.ColStride];
            px += x.RowStride;
            pz += z.Cols;
        }
    }
}

/// <summary>A rank-3 broadcast, written out.</summary>
internal sealed unsafe class Broadcast3Instruction<T>(int from, int[] fromShape, int to, int[] toShape) : Instruction
    where T : unmanaged
{
    public override void Execute(ref Frame frame)
    {
        T* source = frame.At<T>(from), target = frame.At<T>(to);
        for (var i = 0; i < toShape[0]; i++)
            for (var j = 0; j < toShape[1]; j++)
                for (var k = 0; k < toShape[2]; k++)
                    *target++ = source[((i % fromShape[0] * fromShape[1]) + (j % fromShape[1])) * fromShape[2] + (k % fromShape[2])];
    }
}

/// <summary>z[2i] = a[i], z[2i + 1] = b[i].</summary>
internal sealed unsafe class InterleaveInstruction<T>(int a, int b, int z, int count) : Instruction
    where T : unmanaged
{
    public override void Execute(ref Frame frame)
    {
        T* even = frame.At<T>(a), odd = frame.At<T>(b), target = frame.At<T>(z);
        for (var i = 0; i < count; i++)
        {
            *target++ = even[i];
            *target++ = odd[i];
        }
    }
}

/// <summary>A conversion of one element.</summary>
internal interface ICastOperation<TFrom, TTo>
    where TFrom : unmanaged
    where TTo : unmanaged
{
    static abstract TTo Invoke(TFrom x);
}

/// <summary>z = cast(x), elementwise.</summary>
internal sealed unsafe class CastInstruction<TFrom, TTo, TOperation>(LaneView x, LaneView z) : Instruction
    where TFrom : unmanaged
    where TTo : unmanaged
    where TOperation : struct, ICastOperation<TFrom, TTo>
{
    public override void Execute(ref Frame frame)
    {
        var px = frame.At<TFrom>(x.Offset);
        var pz = frame.At<TTo>(z.Offset);
        for (var i = 0; i < z.Count; i++) pz[i] = TOperation.Invoke(px[i]);
    }
}
