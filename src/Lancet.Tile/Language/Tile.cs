using Lancet.Tile.IR;

namespace Lancet.Tile;

/// <summary>
/// A block of values inside a kernel: a scalar, vector, matrix or rank-3 tile of one element type. Operators work elementwise and
/// broadcast as NumPy does for equal ranks; scalars broadcast to anything. Literals take the other operand's element type; int32 widens to
/// int64 beside an int64; nothing else converts by itself. Arithmetic on bf16 and fp16 is not allowed: widen with <see cref="ToFloat32"/>,
/// compute, and round once with <see cref="To"/>.
/// </summary>
public sealed class Tile
{
    internal Tile(KernelBuilder builder, Value value) => (Builder, Value) = (builder, value);

    internal KernelBuilder Builder { get; }

    internal Value Value { get; }

    /// <summary>Element type.</summary>
    public DType Element => Value.Type.Element;

    /// <summary>Extent of each axis.</summary>
    public ReadOnlySpan<int> Dimensions => Value.Type.Dimensions;

    /// <summary>Number of axes; 0 for a scalar.</summary>
    public int Rank => Value.Type.Rank;

    /// <summary>Converts the elements; rounds to nearest even into narrower floats, truncates float to integer.</summary>
    public Tile To(DType element) => Builder.Cast(this, element);

    /// <summary>Converts the elements to fp32 (fp64 stays fp64, so that a kernel traced in fp64 computes in fp64).</summary>
    public Tile ToFloat32() => Element == DType.Float64 ? this : To(DType.Float32);

    /// <summary>Converts the elements to int64, for offsets into buffers that may pass 2³¹ elements.</summary>
    public Tile ToInt64() => To(DType.Int64);

    /// <summary>The same bits under another element type of equal width.</summary>
    public Tile BitCast(DType element) => Builder.BitCast(this, element);

    /// <summary>A vector [n] as a matrix of one row [1, n].</summary>
    public Tile AsRow() => Builder.ExpandDimension(this, 0);

    /// <summary>A vector [n] as a matrix of one column [n, 1].</summary>
    public Tile AsColumn() => Builder.ExpandDimension(this, Rank);

    /// <summary>Inserts an axis of extent 1.</summary>
    public Tile ExpandDimension(int axis) => Builder.ExpandDimension(this, axis);

    /// <summary>Repeats axes of extent 1 to the given shape.</summary>
    public Tile BroadcastTo(params ReadOnlySpan<int> dimensions) => Builder.Broadcast(this, dimensions);

    /// <summary>A matrix with its axes swapped.</summary>
    public Tile Transposed() => Builder.Transpose(this);

    /// <summary>Elementwise a = b.</summary>
    public Tile EqualTo(Tile other) => Builder.Compare(Comparison.Equal, this, other);

    /// <summary>Elementwise a = b.</summary>
    public Tile EqualTo(double other) => Builder.Compare(Comparison.Equal, this, Builder.Literal(other, this));

    /// <summary>Elementwise a ≠ b.</summary>
    public Tile NotEqualTo(Tile other) => Builder.Compare(Comparison.NotEqual, this, other);

    /// <summary>Elementwise a ≠ b.</summary>
    public Tile NotEqualTo(double other) => Builder.Compare(Comparison.NotEqual, this, Builder.Literal(other, this));

#pragma warning disable CS1591 // the operators mean what they say, elementwise
    public static Tile operator +(Tile a, Tile b) => a.Builder.Binary(Opcode.Add, a, b);
    public static Tile operator +(Tile a, double b) => a.Builder.Binary(Opcode.Add, a, a.Builder.Literal(b, a));
    public static Tile operator +(double a, Tile b) => b.Builder.Binary(Opcode.Add, b.Builder.Literal(a, b), b);
    public static Tile operator -(Tile a, Tile b) => a.Builder.Binary(Opcode.Subtract, a, b);
    public static Tile operator -(Tile a, double b) => a.Builder.Binary(Opcode.Subtract, a, a.Builder.Literal(b, a));
    public static Tile operator -(double a, Tile b) => b.Builder.Binary(Opcode.Subtract, b.Builder.Literal(a, b), b);
    public static Tile operator *(Tile a, Tile b) => a.Builder.Binary(Opcode.Multiply, a, b);
    public static Tile operator *(Tile a, double b) => a.Builder.Binary(Opcode.Multiply, a, a.Builder.Literal(b, a));
    public static Tile operator *(double a, Tile b) => b.Builder.Binary(Opcode.Multiply, b.Builder.Literal(a, b), b);
    public static Tile operator /(Tile a, Tile b) => a.Builder.Binary(Opcode.Divide, a, b);
    public static Tile operator /(Tile a, double b) => a.Builder.Binary(Opcode.Divide, a, a.Builder.Literal(b, a));
    public static Tile operator /(double a, Tile b) => b.Builder.Binary(Opcode.Divide, b.Builder.Literal(a, b), b);
    public static Tile operator %(Tile a, Tile b) => a.Builder.Binary(Opcode.Remainder, a, b);
    public static Tile operator %(Tile a, double b) => a.Builder.Binary(Opcode.Remainder, a, a.Builder.Literal(b, a));
    public static Tile operator &(Tile a, Tile b) => a.Builder.Binary(Opcode.And, a, b);
    public static Tile operator &(Tile a, double b) => a.Builder.Binary(Opcode.And, a, a.Builder.Literal(b, a));
    public static Tile operator |(Tile a, Tile b) => a.Builder.Binary(Opcode.Or, a, b);
    public static Tile operator ^(Tile a, Tile b) => a.Builder.Binary(Opcode.Xor, a, b);
    public static Tile operator <<(Tile a, Tile b) => a.Builder.Binary(Opcode.ShiftLeft, a, b);
    public static Tile operator <<(Tile a, int b) => a.Builder.Binary(Opcode.ShiftLeft, a, a.Builder.Literal(b, a));
    public static Tile operator >>(Tile a, Tile b) => a.Builder.Binary(Opcode.ShiftRight, a, b);
    public static Tile operator >>(Tile a, int b) => a.Builder.Binary(Opcode.ShiftRight, a, a.Builder.Literal(b, a));
    public static Tile operator -(Tile a) => a.Builder.Unary(Opcode.Negate, a);
    public static Tile operator ~(Tile a) => a.Builder.Unary(Opcode.Not, a);
    public static Tile operator !(Tile a) => a.Builder.Unary(Opcode.Not, a);
    public static Tile operator <(Tile a, Tile b) => a.Builder.Compare(Comparison.Less, a, b);
    public static Tile operator <(Tile a, double b) => a.Builder.Compare(Comparison.Less, a, a.Builder.Literal(b, a));
    public static Tile operator >(Tile a, Tile b) => a.Builder.Compare(Comparison.Greater, a, b);
    public static Tile operator >(Tile a, double b) => a.Builder.Compare(Comparison.Greater, a, a.Builder.Literal(b, a));
    public static Tile operator <=(Tile a, Tile b) => a.Builder.Compare(Comparison.LessOrEqual, a, b);
    public static Tile operator <=(Tile a, double b) => a.Builder.Compare(Comparison.LessOrEqual, a, a.Builder.Literal(b, a));
    public static Tile operator >=(Tile a, Tile b) => a.Builder.Compare(Comparison.GreaterOrEqual, a, b);
    public static Tile operator >=(Tile a, double b) => a.Builder.Compare(Comparison.GreaterOrEqual, a, a.Builder.Literal(b, a));
#pragma warning restore CS1591
}

/// <summary>A tile of addresses (or one address) of elements of one type.</summary>
public sealed class Pointer
{
    internal Pointer(KernelBuilder builder, Value value) => (Builder, Value) = (builder, value);

    internal KernelBuilder Builder { get; }

    internal Value Value { get; }

    /// <summary>Type of what is pointed to.</summary>
    public DType Element => Value.Type.Element;

    /// <summary>Moves the addresses by an integer tile, in elements; shapes broadcast.</summary>
    public static Pointer operator +(Pointer pointer, Tile offset) => pointer.Builder.PointerAdd(pointer, offset);

    /// <summary>Moves the addresses by a constant, in elements.</summary>
    public static Pointer operator +(Pointer pointer, long offset) => pointer.Builder.PointerAdd(pointer, pointer.Builder.Constant(DType.Int64, offset));
}
