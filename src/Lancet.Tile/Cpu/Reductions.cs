using System.Numerics;
using System.Runtime.Intrinsics;

namespace Lancet.Tile.Cpu;

/// <summary>
/// Reduction along the last axis. The order is fixed by the length alone: one partial result per lane of a 512-bit vector over the elements
/// congruent to it, then a tree over the lanes, then the tail.
/// </summary>
internal sealed unsafe class ReduceColumnsInstruction<T, TOperation>(LaneView x, LaneView z) : Instruction
    where T : unmanaged, INumber<T>
    where TOperation : struct, IBinaryOperation<T>
{
    public override void Execute(ref Frame frame)
    {
        T* px = frame.At<T>(x.Offset), pz = frame.At<T>(z.Offset);
        for (var row = 0; row < x.Rows; row++) pz[row] = Reduce(px + ((long)row * x.RowStride), x.Cols);
    }

    private static T Reduce(T* p, int count)
    {
        var lanes = Vector512<T>.Count;
        if (count < lanes) return Tree(p, count);
        var partial = Vector512.Load(p);
        var i = lanes;
        for (; i <= count - lanes; i += lanes) partial = TOperation.Invoke(partial, Vector512.Load(p + i));
        var buffer = stackalloc T[lanes];
        partial.Store(buffer);
        var result = Tree(buffer, lanes);
        for (; i < count; i++) result = TOperation.Invoke(result, p[i]);
        return result;
    }

    private static T Tree(T* p, int count) => count switch
    {
        1 => p[0],
        _ => TOperation.Invoke(Tree(p, count / 2), Tree(p + (count / 2), count - (count / 2))),
    };
}

/// <summary>Reduction along an earlier axis of a dense tile seen as [outer, n, inner]: elements in order of the axis.</summary>
internal sealed unsafe class ReduceRowsInstruction<T, TOperation>(int from, int outer, int n, int inner, int to) : Instruction
    where T : unmanaged, INumber<T>
    where TOperation : struct, IBinaryOperation<T>
{
    public override void Execute(ref Frame frame)
    {
        T* px = frame.At<T>(from), pz = frame.At<T>(to);
        for (var o = 0; o < outer; o++, px += (long)n * inner, pz += inner)
        {
            Buffer.MemoryCopy(px, pz, inner * sizeof(T), inner * sizeof(T));
            for (var j = 1; j < n; j++)
            {
                var row = px + ((long)j * inner);
                var i = 0;
                for (; i <= inner - Vector512<T>.Count; i += Vector512<T>.Count) TOperation.Invoke(Vector512.Load(pz + i), Vector512.Load(row + i)).Store(pz + i);
                for (; i < inner; i++) pz[i] = TOperation.Invoke(pz[i], row[i]);
            }
        }
    }
}
