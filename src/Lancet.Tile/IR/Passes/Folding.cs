namespace Lancet.Tile.IR.Passes;

/// <summary>What a pure operation comes to when operands are constants or the operation changes nothing; exact to the bit.</summary>
internal sealed class Folding(Rewriter rewriter)
{
    /// <summary>The value of an integer or bool constant or of a tile filled with one; else null.</summary>
    public static long? Integer(Value value) =>
        Constant(value) is { } constant && !value.Type.Element.IsFloat() ? ScalarArithmetic.Wrap(value.Type.Element, constant.Integer) : null;

    /// <summary>The value that stands for the operation with these operands; null if it has to be computed.</summary>
    public Value? Fold(Operation operation, Value[] operands)
    {
        var type = operation.Result.Type;
        switch (operation.Opcode)
        {
            case Opcode.Constant:
                return null;
            case Opcode.Broadcast:
                return operands[0].Type.Equals(type) ? operands[0] : Scalar(operands[0]) is { } filler && filler != operands[0] ? Fill(operation, filler, type) : null;
            case Opcode.ExpandDimension:
                return Scalar(operands[0]) is { } expanded ? Fill(operation, expanded, type) : null;
            case Opcode.Transpose:
                if (operands[0].Definition is { Opcode: Opcode.Transpose } twice) return twice.Operands[0];
                return Scalar(operands[0]) is { } transposed ? Fill(operation, transposed, type) : null;
            case Opcode.PointerAdd:
                return Integer(operands[1]) == 0 && operands[0].Type.Equals(type) ? operands[0] : null;
            case Opcode.Compare:
                return Integer(operands[0]) is { } left && Integer(operands[1]) is { } right
                    ? Filled(operation, type, ScalarArithmetic.Compare(operation.Comparison, left, right) ? 1 : 0)
                    : null;
            case Opcode.Select:
                return operands[1] == operands[2] ? operands[1] : Integer(operands[0]) is { } condition ? operands[condition != 0 ? 1 : 2] : null;
            case Opcode.Cast:
                return FoldCast(operation, operands[0], type);
            case Opcode.BitCast:
                return operands[0].Definition is { Opcode: Opcode.BitCast } first && first.Operands[0].Type.Equals(type) ? first.Operands[0] : null;
        }
        if (type.Element.IsFloat() || type.IsPointer) return null;
        if (operation.Opcode.IsUnary()) return FoldUnary(operation, operands[0], type);
        return operation.Opcode.IsBinary() ? FoldBinary(operation, operands[0], operands[1], type) : null;
    }

    /// <summary>The constant that a value is or is filled with.</summary>
    internal static Operation? Constant(Value value) => Scalar(value)?.Definition is { Opcode: Opcode.Constant } constant ? constant : null;

    /// <summary>The scalar that a value is or is filled with; null if it holds more.</summary>
    private static Value? Scalar(Value value) => value.Type.IsScalar
        ? value
        : value.Definition is { Opcode: Opcode.Broadcast } broadcast && broadcast.Operands[0].Type.IsScalar ? broadcast.Operands[0] : null;

    private Value Fill(Operation like, Value scalar, TileType type) => type.IsScalar ? scalar : rewriter.Emit(like, Opcode.Broadcast, type, [scalar]);

    private Value Filled(Operation like, TileType type, long integer, double number = 0) =>
        Fill(like, rewriter.Emit(like, Opcode.Constant, new TileType(type.Element, false), [], integer: integer, number: number), type);

    private Value? FoldUnary(Operation operation, Value x, TileType type)
    {
        if (Integer(x) is { } value && ScalarArithmetic.Unary(operation.Opcode, type.Element, value) is { } result) return Filled(operation, type, result);
        // −(−x) and ~(~x), in wrapping arithmetic
        return operation.Opcode is Opcode.Negate or Opcode.Not && x.Definition is { } inner && inner.Opcode == operation.Opcode ? inner.Operands[0] : null;
    }

    private Value? FoldBinary(Operation operation, Value a, Value b, TileType type)
    {
        var element = type.Element;
        var (x, y) = (Integer(a), Integer(b));
        if (x is { } left && y is { } right) return ScalarArithmetic.Binary(operation.Opcode, element, left, right) is { } result ? Filled(operation, type, result) : null;
        var ones = element == DType.Bool ? 1 : ScalarArithmetic.Wrap(element, -1);
        switch (operation.Opcode)
        {
            case Opcode.Add or Opcode.Or or Opcode.Xor:
                if (y == 0) return a;
                if (x == 0) return b;
                if (operation.Opcode == Opcode.Or) return a == b ? a : x == ones || y == ones ? Filled(operation, type, ones) : null;
                return operation.Opcode == Opcode.Xor && a == b ? Filled(operation, type, 0) : null;
            case Opcode.Subtract:
                return y == 0 ? a : a == b ? Filled(operation, type, 0) : null;
            case Opcode.Multiply:
                return y == 1 ? a : x == 1 ? b : x == 0 || y == 0 ? Filled(operation, type, 0) : null;
            case Opcode.And:
                return a == b || y == ones ? a : x == ones ? b : x == 0 || y == 0 ? Filled(operation, type, 0) : null;
            case Opcode.Divide:
                return y == 1 ? a : null;
            case Opcode.Remainder:
                return y == 1 ? Filled(operation, type, 0) : null;
            case Opcode.Minimum or Opcode.Maximum:
                return a == b ? a : null;
            case Opcode.ShiftLeft or Opcode.ShiftRight:
                return y is { } count && (count & (ScalarArithmetic.Width(element) - 1)) == 0 ? a : null;
            default:
                return null;
        }
    }

    private Value? FoldCast(Operation operation, Value x, TileType type)
    {
        var (from, to) = (x.Type.Element, type.Element);
        if (Constant(x) is { } constant)
        {
            var folded = from.IsFloat()
                ? ScalarArithmetic.Cast(ScalarArithmetic.Round(from, constant.Number), to)
                : ScalarArithmetic.Cast(ScalarArithmetic.Wrap(from, constant.Integer), to);
            return folded is var (integer, number) ? Filled(operation, type, integer, number) : null;
        }
        // Widened and narrowed again: the wider integer holds every value of the narrower.
        if (x.Definition is not { Opcode: Opcode.Cast } inner || !inner.Operands[0].Type.Equals(type)) return null;
        return to.IsInteger() && from.IsInteger() && ScalarArithmetic.Width(from) >= ScalarArithmetic.Width(to) ? inner.Operands[0] : null;
    }
}
