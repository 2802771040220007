namespace Lancet.Tile.IR;

/// <summary>The operations of the tile IR. Every one can be lowered to PTX; none needs host memory.</summary>
public enum Opcode
{
    /// <summary>Index of the running program along a grid axis (<see cref="Operation.Axis"/>): scalar int32.</summary>
    ProgramId,

    /// <summary>Number of programs along a grid axis: scalar int32.</summary>
    ProgramCount,

    /// <summary>A literal scalar: <see cref="Operation.Number"/> (floats) or <see cref="Operation.Integer"/> (integers and bool).</summary>
    Constant,

    /// <summary>The tile [0, 1, …, n − 1] of int32.</summary>
    Range,

    /// <summary>Repeats size-1 axes (or a scalar) to the result's shape.</summary>
    Broadcast,

    /// <summary>Inserts an axis of extent 1 at <see cref="Operation.Axis"/>.</summary>
    ExpandDimension,

    /// <summary>Swaps the two axes of a matrix.</summary>
    Transpose,

    /// <summary>Elements of two tiles in turn along the last axis, which is twice as long: z[…, 2j] = a[…, j], z[…, 2j + 1] = b[…, j].</summary>
    Interleave,

    /// <summary>Sum; wraps for integers.</summary>
    Add,

    /// <summary>Difference; wraps for integers.</summary>
    Subtract,

    /// <summary>Product; wraps for integers.</summary>
    Multiply,

    /// <summary>Quotient; integers truncate towards zero. An integer divided by zero gives an unspecified value (0 on the CPU) and does not trap.</summary>
    Divide,

    /// <summary>Integer remainder, with the sign of the dividend; of a division by zero unspecified (0 on the CPU).</summary>
    Remainder,

    /// <summary>The smaller; a NaN operand gives NaN.</summary>
    Minimum,

    /// <summary>The larger; a NaN operand gives NaN.</summary>
    Maximum,

    /// <summary>Bitwise (integers) or logical (bool) conjunction.</summary>
    And,

    /// <summary>Bitwise or logical disjunction.</summary>
    Or,

    /// <summary>Bitwise or logical exclusive disjunction.</summary>
    Xor,

    /// <summary>Bits moved left; the count is taken modulo the width.</summary>
    ShiftLeft,

    /// <summary>Bits moved right: arithmetic for signed, logical for unsigned types.</summary>
    ShiftRight,

    /// <summary>Negation.</summary>
    Negate,

    /// <summary>Bitwise or logical complement.</summary>
    Not,

    /// <summary>Absolute value.</summary>
    Absolute,

    /// <summary>2 to the power x.</summary>
    Exp2,

    /// <summary>e to the power x.</summary>
    Exp,

    /// <summary>Binary logarithm.</summary>
    Log2,

    /// <summary>Natural logarithm.</summary>
    Log,

    /// <summary>Square root.</summary>
    Sqrt,

    /// <summary>1 / √x.</summary>
    Rsqrt,

    /// <summary>Hyperbolic tangent.</summary>
    Tanh,

    /// <summary>Hyperbolic tangent within 2⁻²² of 1, not of itself.</summary>
    TanhAbsolute,

    /// <summary>Gauss error function.</summary>
    Erf,

    /// <summary>Sine, radians.</summary>
    Sin,

    /// <summary>Cosine, radians.</summary>
    Cos,

    /// <summary>Largest integral value not above x.</summary>
    Floor,

    /// <summary>Nearest integral value, ties to even.</summary>
    Round,

    /// <summary>Comparison by <see cref="Operation.Comparison"/>: a bool tile.</summary>
    Compare,

    /// <summary>Operand 1 where operand 0 (bool) holds, operand 2 elsewhere.</summary>
    Select,

    /// <summary>
    /// Conversion between element types: to nearest even, once, for floats; float to integer truncates, saturates, and takes NaN to 0 (8-bit
    /// integers by way of int32); narrower integers wrap; true is 1.
    /// </summary>
    Cast,

    /// <summary>The same bits under another element type of equal width. (Which NaN a 16-bit NaN becomes is not specified.)</summary>
    BitCast,

    /// <summary>A pointer tile moved by an integer tile, in elements.</summary>
    PointerAdd,

    /// <summary>Memory of the running program, <see cref="Operation.Integer"/> elements that live as long as it: a scalar pointer, which only loads, stores and copies take.</summary>
    Scratch,

    /// <summary>Starts to read memory into scratch memory: operands source pointer, target pointer.</summary>
    Copy,

    /// <summary>Waits until all copies but the <see cref="Operation.Integer"/> last ones have arrived.</summary>
    AwaitCopies,

    /// <summary>Reads memory: operands pointer [, mask [, other]]. Masked-off elements read as other (0 if absent).</summary>
    Load,

    /// <summary>Writes memory: operands pointer, value [, mask].</summary>
    Store,

    /// <summary>Adds an integer to memory atomically and returns the former value, 0 where masked off: operands pointer, value [, mask].</summary>
    AtomicAdd,

    /// <summary>
    /// Waits until the int32 at a scalar pointer is at least a value, and sees what other programs stored before they signalled it: operands pointer,
    /// value. Only programs that have surely started may be waited for (see <see cref="KernelBuilder.Await"/>).
    /// </summary>
    Await,

    /// <summary>Sets the int32 at a scalar pointer, after all that the program stored before: operands pointer, value.</summary>
    Signal,

    /// <summary>Scalars of all programs of a cluster, as vectors in order of the programs; all wait here for each other: a result for each operand.</summary>
    Gather,

    /// <summary>Sum along <see cref="Operation.Axis"/>, in a fixed order.</summary>
    ReduceSum,

    /// <summary>Largest along <see cref="Operation.Axis"/>.</summary>
    ReduceMax,

    /// <summary>Smallest along <see cref="Operation.Axis"/>.</summary>
    ReduceMin,

    /// <summary>Matrix product a[M,K] · b[K,N] + accumulator[M,N]; the accumulator is fp32 (fp64 for fp64 operands).</summary>
    Dot,

    /// <summary>Element of <see cref="Operation.Table"/> at an int32 index tile: fp32.</summary>
    Lookup,

    /// <summary>Philox-4x32-10 random word: operands counter (int64 tile), seed (int64 scalar); word (counter mod 4) of block (counter div 4): uint32.</summary>
    Philox,

    /// <summary>Counted loop: operands low, high, step (scalar int32), then the initial carried tiles; one region whose arguments are the index and the carried tiles.</summary>
    For,

    /// <summary>Operand 0 is a scalar bool, the rest the values when it does not hold; the region yields the values when it holds.</summary>
    If,

    /// <summary>Ends a region and names its results.</summary>
    Yield,
}

/// <summary>Predicate of <see cref="Opcode.Compare"/>. Ordered: a comparison with NaN is false, except <see cref="NotEqual"/>.</summary>
public enum Comparison
{
    /// <summary>a = b.</summary>
    Equal,

    /// <summary>a ≠ b.</summary>
    NotEqual,

    /// <summary>a &lt; b.</summary>
    Less,

    /// <summary>a ≤ b.</summary>
    LessOrEqual,

    /// <summary>a &gt; b.</summary>
    Greater,

    /// <summary>a ≥ b.</summary>
    GreaterOrEqual,
}
