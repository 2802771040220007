using Lancet.Tile.IR;
using Lancet.Tile.Ptx;

namespace Lancet.Tile.Lowering;

/// <summary>
/// A load that reads one block of a matrix whose rows are a constant apart, with zeros past the matrix's last row:
/// <code>load(p + (row + range)·stride + (column + range), (row + range &lt; rows) and …)</code>
/// where p and rows are parameters, so that the hardware can copy it by itself. The kernel writes nothing through p: what threads write the hardware would see behind a fence only.
/// </summary>
/// <param name="Map">The matrix.</param>
/// <param name="Row">First row of the block, a scalar.</param>
/// <param name="Column">First column of the block, a scalar; null for 0.</param>
internal sealed record TensorBlock(TensorMap Map, Value Row, Value? Column)
{
    // The hardware's limit, and what was worth it: with blocks of 32 rows the kernel of queries' gradients of wide, capped heads was slower on an H200.
    private const int MostRows = 256;
    private const int LeastRows = 64;
    private const int PieceBytes = 16;

    /// <summary>What a load reads, or null if it is no such block.</summary>
    /// <param name="load">A load.</param>
    /// <param name="kernel">Its kernel.</param>
    /// <param name="divisible">Bit i: argument i is divisible by 16.</param>
    public static TensorBlock? Of(Operation load, Kernel kernel, ulong divisible)
    {
        var type = load.Result.Type;
        if (load.IsOpaque || load.Operands.Length != 2 || type.Rank != 2 || type.Element.SizeInBytes() != 2 || type.Dimensions[0] is < LeastRows or > MostRows || type.Dimensions[1] % TensorMap.BlockColumns != 0) return null;
        if (load.Operands[0].Definition is not { Opcode: Opcode.PointerAdd } address || ParameterOf(address.Operands[0], kernel) is not (>= 0 and < 64 and var pointer) || (divisible >> pointer & 1) == 0 || IsWritten(kernel.Body, kernel.Parameters[pointer].Value)) return null;
        if (address.Operands[1].Definition is not { Opcode: Opcode.Add } offset) return null;
        for (var i = 0; i < 2; i++)
        {
            if (Along(offset.Operands[i], 0)?.Definition is not { Opcode: Opcode.Multiply } product || Along(offset.Operands[1 - i], 1) is not { } columns) continue;
            if (Constant(product.Operands[1]) is not { } stride || stride <= 0 || stride * 2 % PieceBytes != 0) continue;
            var rows = Uncast(product.Operands[0]);
            if (!IsRun(rows, out var row) || row is null || !IsRun(columns, out var column) || RowsOf(load.Operands[1], rows, type.Dimensions[1], kernel) is not { } count) continue;
            return new(new(pointer, count, stride, type.Dimensions[0], type.Element), row, column);
        }
        return null;
    }

    // The parameter that bounds the rows, from a mask that says nothing else.
    private static int? RowsOf(Value mask, Value rows, int width, Kernel kernel)
    {
        if (mask.Definition is not { Opcode: Opcode.And } both) return Bound(mask);
        for (var i = 0; i < 2; i++)
            if (Bound(both.Operands[i]) is { } bound && HoldsForAll(both.Operands[1 - i])) return bound;
        return null;

        int? Bound(Value value) => Along(value, 0)?.Definition is { Opcode: Opcode.Compare, Comparison: Comparison.Less } less && less.Operands[0] == rows && ParameterOf(less.Operands[1], kernel) is >= 0 and var parameter ? parameter : null;
        bool HoldsForAll(Value value) => Along(value, 1)?.Definition is { Opcode: Opcode.Compare, Comparison: Comparison.Less } less && less.Operands[0].Definition?.Opcode == Opcode.Range && Constant(less.Operands[1]) >= width;
    }

    // The vector that a matrix repeats along the other axis, or null.
    private static Value? Along(Value matrix, int axis)
    {
        while (matrix.Definition is { Opcode: Opcode.Broadcast or Opcode.Cast } view) matrix = view.Operands[0];
        return matrix.Definition is { Opcode: Opcode.ExpandDimension } expansion && expansion.Axis == 1 - axis && expansion.Operands[0].Type.Rank == 1 ? Uncast(expansion.Operands[0]) : null;
    }

    // Whether a vector is a range, or a scalar and a range.
    private static bool IsRun(Value vector, out Value? start)
    {
        start = null;
        if (vector.Definition is { Opcode: Opcode.Range }) return true;
        if (vector.Definition is not { Opcode: Opcode.Add } sum) return false;
        for (var i = 0; i < 2 && start is null; i++)
            if (sum.Operands[1 - i].Definition is { Opcode: Opcode.Range } && sum.Operands[i].Definition is { Opcode: Opcode.Broadcast } splat && splat.Operands[0].Type is { IsScalar: true, Element: DType.Int32 }) start = splat.Operands[0];
        return start is not null;
    }

    private static bool IsWritten(Region region, Value pointer) => region.Operations.Exists(operation =>
        (operation.Opcode is Opcode.Store or Opcode.AtomicAdd && operation.Operands[0].Root == pointer) || (operation.Body is { } body && IsWritten(body, pointer)));

    private static int ParameterOf(Value value, Kernel kernel)
    {
        while (value.Definition is { Opcode: Opcode.Broadcast } view) value = view.Operands[0];
        for (var i = 0; i < kernel.Parameters.Count; i++)
            if (kernel.Parameters[i].Value == value) return i;
        return -1;
    }

    private static long? Constant(Value value)
    {
        while (value.Definition is { Opcode: Opcode.Broadcast or Opcode.Cast } view) value = view.Operands[0];
        return value.Definition is { Opcode: Opcode.Constant } constant && value.Type.Element.IsInteger() ? constant.Integer : null;
    }

    private static Value Uncast(Value value)
    {
        while (value.Definition is { Opcode: Opcode.Cast } cast) value = cast.Operands[0];
        return value;
    }
}
