using Lancet.Tile.IR;

namespace Lancet.Tile;

// Emission with type checks: how operands broadcast, which element types an operation takes, and what it yields.
public sealed partial class KernelBuilder
{
    internal Tile Unary(Opcode opcode, Tile x)
    {
        if (!Verifier.Takes(opcode, x.Element)) throw Error($"{opcode} of {x.Value.Type}{Widen(x)}");
        return Emit(opcode, x.Value.Type, [x.Value]);
    }

    internal Tile Binary(Opcode opcode, Tile a, Tile b)
    {
        (a, b) = Unify(a, b, opcode.ToString());
        if (!Verifier.Takes(opcode, a.Element)) throw Error($"{opcode} of {a.Value.Type}{Widen(a)}");
        return Emit(opcode, a.Value.Type, [a.Value, b.Value]);
    }

    internal Tile Compare(Comparison comparison, Tile a, Tile b)
    {
        (a, b) = Unify(a, b, "comparison");
        if (!Verifier.Computes(a.Element)) throw Error($"comparison of {a.Value.Type}{Widen(a)}");
        return Emit(Opcode.Compare, a.Value.Type.With(DType.Bool), [a.Value, b.Value], comparison: comparison);
    }

    internal Tile Select(Tile condition, Tile a, Tile b)
    {
        if (condition.Element != DType.Bool) throw Error($"selection by {condition.Value.Type}; a bool tile is needed");
        (a, b) = Unify(a, b, "selection");
        var shape = CommonShape(condition.Dimensions, a.Dimensions, "selection");
        return Emit(Opcode.Select, a.Value.Type.WithShape(shape), [Broadcast(condition, shape).Value, Broadcast(a, shape).Value, Broadcast(b, shape).Value]);
    }

    internal Tile Cast(Tile x, DType element)
    {
        if (x.Element == element) return x;
        if (element == DType.Bool) throw Error("a cast to bool; compare with zero instead");
        return Emit(Opcode.Cast, x.Value.Type.With(element), [x.Value]);
    }

    internal Tile BitCast(Tile x, DType element)
    {
        if (x.Element == element) return x;
        if (x.Element == DType.Bool || element == DType.Bool || x.Element.SizeInBytes() != element.SizeInBytes()) throw Error($"the bits of {x.Value.Type} as {element}: widths differ");
        return Emit(Opcode.BitCast, x.Value.Type.With(element), [x.Value]);
    }

    internal Tile ExpandDimension(Tile x, int axis)
    {
        if (axis < 0 || axis > x.Rank || x.Rank == 3) throw Error($"cannot insert axis {axis} into {x.Value.Type}");
        int[] shape = [.. x.Dimensions[..axis], 1, .. x.Dimensions[axis..]];
        return Emit(Opcode.ExpandDimension, x.Value.Type.WithShape(shape), [x.Value], axis: axis);
    }

    internal Tile Transpose(Tile x)
    {
        if (x.Rank != 2) throw Error($"transposing {x.Value.Type}; a matrix is needed");
        return Emit(Opcode.Transpose, x.Value.Type.WithShape(x.Dimensions[1], x.Dimensions[0]), [x.Value]);
    }

    internal Tile Interleave(Tile a, Tile b)
    {
        if (!a.Value.Type.Equals(b.Value.Type) || a.Rank == 0) throw Error($"interleaving {a.Value.Type} and {b.Value.Type}; two tiles of one type are needed");
        return Emit(Opcode.Interleave, a.Value.Type.WithShape([.. a.Dimensions[..^1], 2 * a.Dimensions[^1]]), [a.Value, b.Value]);
    }

    internal Tile Broadcast(Tile x, ReadOnlySpan<int> dimensions) => new(this, BroadcastValue(x.Value, dimensions));

    internal Pointer PointerAdd(Pointer pointer, Tile offset)
    {
        if (offset.Element is not (DType.Int32 or DType.Int64)) throw Error($"an offset of type {offset.Value.Type}; int32 or int64 is needed");
        var shape = CommonShape(pointer.Value.Type.Dimensions, offset.Dimensions, "pointer offset");
        Value[] operands = [BroadcastValue(pointer.Value, shape), BroadcastValue(offset.Value, shape)];
        var value = NewValue(operands[0].Type);
        Append(new Operation(Opcode.PointerAdd, operands, [value], _location));
        return new Pointer(this, value);
    }

    internal Tile Reduce(Opcode opcode, Tile x, int axis)
    {
        if (axis < 0 || axis >= x.Rank) throw Error($"{opcode} of {x.Value.Type} along axis {axis}");
        if (!Verifier.Computes(x.Element)) throw Error($"{opcode} of {x.Value.Type}{Widen(x)}");
        int[] shape = [.. x.Dimensions[..axis], .. x.Dimensions[(axis + 1)..]];
        return Emit(opcode, x.Value.Type.WithShape(shape), [x.Value], axis: axis);
    }

    internal Tile Dot(Tile a, Tile b, Tile? accumulator)
    {
        if (a.Rank != 2 || b.Rank != 2 || a.Dimensions[1] != b.Dimensions[0] || a.Element != b.Element || !a.Element.IsFloat())
            throw Error($"product of {a.Value.Type} and {b.Value.Type}; [M,K] and [K,N] of one floating-point type are needed");
        var type = new TileType(a.Element == DType.Float64 ? DType.Float64 : DType.Float32, false, a.Dimensions[0], b.Dimensions[1]);
        accumulator ??= Zeros(type.Element, type.Dimensions);
        if (!accumulator.Value.Type.Equals(type)) throw Error($"accumulator of type {accumulator.Value.Type}; {type} is needed");
        return Emit(Opcode.Dot, type, [a.Value, b.Value, accumulator.Value]);
    }

    internal Tile Literal(double value, Tile like)
    {
        if (like.Element == DType.Bool) throw Error($"the literal {value} beside a bool tile");
        if (!like.Element.IsFloat() && value != Math.Floor(value)) throw Error($"the literal {value} beside {like.Value.Type}, which holds integers");
        return Constant(like.Element, value);
    }

    private Tile MaskFor(Tile mask, ref Value address)
    {
        if (mask.Element != DType.Bool) throw Error($"a mask of type {mask.Value.Type}; bool is needed");
        var shape = CommonShape(address.Type.Dimensions, mask.Dimensions, "mask");
        address = BroadcastValue(address, shape);
        return Broadcast(mask, shape);
    }

    /// <summary>Brings two operands to one element type (int32 widens to int64) and one shape.</summary>
    private (Tile A, Tile B) Unify(Tile a, Tile b, string what)
    {
        if (a.Element != b.Element)
        {
            if ((a.Element, b.Element) is (DType.Int32, DType.Int64)) a = Cast(a, DType.Int64);
            else if ((a.Element, b.Element) is (DType.Int64, DType.Int32)) b = Cast(b, DType.Int64);
            else throw Error($"{what} of {a.Value.Type} and {b.Value.Type}; convert one with To(…)");
        }
        var shape = CommonShape(a.Dimensions, b.Dimensions, what);
        return (Broadcast(a, shape), Broadcast(b, shape));
    }

    private int[] CommonShape(ReadOnlySpan<int> a, ReadOnlySpan<int> b, string what)
    {
        if (a.Length == 0) return b.ToArray();
        if (b.Length == 0) return a.ToArray();
        if (a.Length != b.Length) throw Error($"{what} of shapes [{Join(a)}] and [{Join(b)}]: ranks differ; use AsRow() or AsColumn()");
        var shape = new int[a.Length];
        for (var axis = 0; axis < shape.Length; axis++)
        {
            if (a[axis] != b[axis] && a[axis] != 1 && b[axis] != 1) throw Error($"{what} of shapes [{Join(a)}] and [{Join(b)}]: axis {axis} differs");
            shape[axis] = Math.Max(a[axis], b[axis]);
        }
        return shape;
    }

    private Value BroadcastValue(Value value, ReadOnlySpan<int> dimensions)
    {
        if (value.Type.Dimensions.SequenceEqual(dimensions)) return value;
        if (!CommonShape(value.Type.Dimensions, dimensions, "broadcast").AsSpan().SequenceEqual(dimensions)) throw Error($"{value.Type} cannot be broadcast to [{Join(dimensions)}]");
        var result = NewValue(value.Type.WithShape(dimensions));
        Append(new Operation(Opcode.Broadcast, [value], [result], _location));
        return result;
    }

    private Value Declare(TileType type, string name)
    {
        if (!type.IsPointer && !Verifier.Computes(type.Element)) throw Error($"parameter {name} of type {type}; pass an int32 or an fp32");
        var value = NewValue(type);
        _parameters.Add(new Parameter(name, value));
        return value;
    }

    private Tile Emit(Opcode opcode, TileType type, Value[] operands, int axis = 0, Comparison comparison = default, long integer = 0, double number = 0, float[]? table = null)
    {
        var result = NewValue(type);
        Append(new Operation(opcode, operands, [result], _location) { Axis = axis, Comparison = comparison, Integer = integer, Number = number, Table = table });
        return new Tile(this, result);
    }

    private Tile EmitLoad(TileType type, Value[] operands, bool isStaged)
    {
        if (isStaged && type.Rank != 2) throw Error($"a staged load of {type}; a matrix is needed");
        var result = NewValue(type);
        Append(new Operation(Opcode.Load, operands, [result], _location) { IsStaged = isStaged && type.Element.SizeInBytes() == 2 });
        return new Tile(this, result);
    }

    private void EmitVoid(Opcode opcode, Value[] operands) => Append(new Operation(opcode, operands, [], _location));

    private void Append(Operation operation)
    {
        foreach (var result in operation.Results) result.Definition = operation;
        _regions.Peek().Operations.Add(operation);
    }

    private Value NewValue(TileType type) => new(_nextId++, type);

    private TileException Error(string message) => new($"kernel {_name}, {_location}: {message}.");

    private static string Widen(Tile x) => x.Element is DType.BFloat16 or DType.Float16 ? "; widen with ToFloat32() first" : x.Element is DType.Int8 or DType.UInt8 ? "; widen with To(DType.Int32) first" : "";

    private static string Join(ReadOnlySpan<int> shape) => string.Join(',', shape.ToArray());
}
