using System.Numerics;

namespace Lancet.Tile.IR;

/// <summary>
/// Checks that a kernel is legal IR: every operand is defined before and around its use, types and attributes fit each opcode, regions are
/// complete, extents are powers of two. Back ends rely on it and check nothing of this again.
/// </summary>
internal sealed class Verifier
{
    private const int LargestTile = 1 << 24;
    // That every GPU with clusters has (CUDA programming guide, "Thread Block Clusters").
    private const int LargestCluster = 8;
    private readonly Kernel _kernel;
    private readonly HashSet<Value> _visible = [];
    private readonly HashSet<int> _ids = [];
    private Operation? _operation;

    private Verifier(Kernel kernel) => _kernel = kernel;

    /// <summary>Returns if the kernel is legal.</summary>
    /// <exception cref="TileException">It is not; names kernel, operation, source line and rule.</exception>
    public static void Check(Kernel kernel)
    {
        var verifier = new Verifier(kernel);
        verifier.CheckSignature();
        verifier.CheckRegion(kernel.Body, null);
    }

    private void CheckSignature()
    {
        Require(_kernel.Name.Length > 0 && _kernel.Name.All(letter => char.IsAsciiLetterOrDigit(letter) || letter == '_'), "a kernel's name consists of letters, digits and underscores");
        Require(BitOperations.IsPow2(_kernel.Warps) && _kernel.Warps <= 32, $"{_kernel.Warps} warps; a power of two up to 32 is needed");
        Require(BitOperations.IsPow2(_kernel.Cluster) && _kernel.Cluster <= LargestCluster, $"a cluster of {_kernel.Cluster} programs; a power of two up to {LargestCluster} is needed");
        Require(_kernel.Shape.ProgramsPerMultiprocessor >= 1, $"{_kernel.Shape.ProgramsPerMultiprocessor} programs a multiprocessor; 1 or more are needed");
        foreach (var parameter in _kernel.Parameters)
        {
            var type = parameter.Value.Type;
            Require(type.IsScalar && (type.IsPointer || Computes(type.Element)), $"parameter {parameter.Name} has type {type}; a scalar pointer or a scalar of 32 or 64 bits is needed");
            Require(parameter.Value.Definition is null, $"parameter {parameter.Name} is the result of an operation");
            Define(parameter.Value);
        }
    }

    /// <summary>Checks a region in whose scope everything defined so far is; what it defines is gone afterwards.</summary>
    private void CheckRegion(Region region, Operation? owner)
    {
        var defined = new List<Value>(region.Arguments);
        foreach (var argument in region.Arguments)
        {
            Require(argument.Definition is null, $"region argument {argument} is the result of an operation");
            Define(argument);
        }
        for (var i = 0; i < region.Operations.Count; i++)
        {
            var operation = _operation = region.Operations[i];
            foreach (var operand in operation.Operands)
                Require(_visible.Contains(operand), _ids.Contains(operand.Id) ? $"{operand} is used outside the loop or branch that defines it" : $"{operand} is used before it is defined");
            CheckOperation(operation, owner, i == region.Operations.Count - 1);
            _operation = operation;
            foreach (var result in operation.Results)
            {
                Define(result);
                Require(result.Definition == operation, $"{result} does not name this operation as its definition");
                defined.Add(result);
            }
        }
        _operation = owner ?? _operation;
        if (owner is not null) Require(region.Operations.Count > 0 && region.Operations[^1].Opcode == Opcode.Yield, "the body does not end in a yield");
        foreach (var value in defined) _visible.Remove(value);
    }

    private void Define(Value value)
    {
        Require(_ids.Add(value.Id), $"{value} is defined twice");
        _visible.Add(value);
        var type = value.Type;
        Require(type.Rank <= 3, $"{value} has type {type}; tiles have at most 3 axes");
        foreach (var extent in type.Dimensions) Require(BitOperations.IsPow2(extent), $"{value} has type {type}; extents are powers of two");
        long count = 1;
        foreach (var extent in type.Dimensions) Require((count *= extent) <= LargestTile, $"{value} has type {type}; a tile has at most {LargestTile} elements");
        Require(!type.IsPointer || type.Element != DType.Bool, $"{value} points to bools, which have no memory format");
    }

    private void CheckOperation(Operation operation, Operation? owner, bool isLast)
    {
        var operands = operation.Operands;
        Require((operation.Body is not null) == operation.Opcode is Opcode.For or Opcode.If, operation.Body is null ? "the body is missing" : "only loops and branches have a body");
        switch (operation.Opcode)
        {
            case Opcode.Yield:
                CheckYield(operation, owner, isLast);
                return;
            case Opcode.For:
                CheckFor(operation);
                return;
            case Opcode.If:
                CheckIf(operation);
                return;
            case Opcode.Store:
                Counts(2, 3, 0);
                CheckAccess(operands[0], operands.Length > 2 ? operands[2] : null);
                Has(operands[1], Pointee(operands[0]), "the stored value");
                return;
            case Opcode.Copy:
                Counts(2, 2, 0);
                CheckAccess(operands[0], null);
                Has(operands[1], operands[0].Type, "the target");
                Require(operands[1].IsScratch() && !operands[0].IsScratch(), "copies lead from memory to scratch memory");
                return;
            case Opcode.AwaitCopies:
                Counts(0, 0, 0);
                Require(operation.Integer >= 0, $"{operation.Integer} copies that need not arrive; 0 or more are possible");
                return;
            case Opcode.Scratch:
                Counts(0);
                Require(owner is null, "scratch memory belongs to the whole program: it stands outside of loops and branches");
                Require(operation.Result.Type is { IsPointer: true, IsScalar: true }, $"scratch memory of type {operation.Result.Type}; it is a scalar pointer");
                Require(operation.Integer is > 0 and <= LargestTile, $"scratch memory of {operation.Integer} elements; 1 to {LargestTile} are possible");
                return;
            case Opcode.Await or Opcode.Signal:
                Counts(2, 2, 0);
                Require(operands[0].Type is { Element: DType.Int32, IsPointer: true, IsScalar: true }, $"{operation.Opcode} does not take {operands[0].Type}; a scalar pointer to i32 is needed");
                Require(!operands[0].IsScratch(), "other programs do not see scratch memory");
                Has(operands[1], new TileType(DType.Int32, false), "the value");
                return;
        }
        if (operation.Opcode == Opcode.Gather)
        {
            CheckGather(operation, owner);
            return;
        }
        Require(operation.Results.Length == 1, $"{operation.Results.Length} results; one is needed");
        CheckValue(operation, operands, operation.Result.Type);
    }

    private void CheckGather(Operation operation, Operation? owner)
    {
        Require(owner is null, "all programs of a cluster gather: it stands outside of loops and branches");
        Require(_kernel.Cluster > 1, "the kernel's programs are alone");
        Require(operation.Operands.Length > 0 && operation.Results.Length == operation.Operands.Length, $"{operation.Operands.Length} operands and {operation.Results.Length} results; one or more, and as many, are needed");
        for (var i = 0; i < operation.Operands.Length; i++)
        {
            var type = operation.Operands[i].Type;
            Require(type.IsScalar && !type.IsPointer && Computes(type.Element), $"Gather does not take {type}; scalars of 32 or 64 bits are needed");
            Is(operation.Results[i].Type, type.WithShape(_kernel.Cluster));
        }
    }

    private void CheckValue(Operation operation, Value[] operands, TileType type)
    {
        if (operation.Opcode.IsBinary() || operation.Opcode.IsUnary())
        {
            Counts(operation.Opcode.IsBinary() ? 2 : 1);
            foreach (var operand in operands) Has(operand, type, "the operand");
            Require(!type.IsPointer && Takes(operation.Opcode, type.Element), $"{operation.Opcode} does not take {type}");
            return;
        }
        switch (operation.Opcode)
        {
            case Opcode.ProgramId or Opcode.ProgramCount:
                Counts(0);
                Require(operation.Axis is >= 0 and <= 2, $"grid axis {operation.Axis} does not exist");
                Is(type, new TileType(DType.Int32, false));
                break;
            case Opcode.Constant:
                Counts(0);
                Require(type.IsScalar && !type.IsPointer, $"a constant of type {type}; constants are scalars");
                Require(type.Element.IsFloat() || Passes.ScalarArithmetic.Wrap(type.Element, operation.Integer) == operation.Integer, $"{operation.Integer} does not fit {type}");
                break;
            case Opcode.Range:
                Counts(0);
                Require(type.Element == DType.Int32 && !type.IsPointer && type.Rank == 1, $"a range of type {type}; it is a vector of i32");
                break;
            case Opcode.Broadcast:
                CheckBroadcast(operands, type);
                break;
            case Opcode.ExpandDimension:
                Counts(1);
                Require(operation.Axis >= 0 && operation.Axis <= operands[0].Type.Rank, $"axis {operation.Axis} of {operands[0].Type} does not exist");
                Is(type, operands[0].Type.WithShape([.. operands[0].Type.Dimensions[..operation.Axis], 1, .. operands[0].Type.Dimensions[operation.Axis..]]));
                break;
            case Opcode.Transpose:
                Counts(1);
                Require(operands[0].Type.Rank == 2, $"transposing {operands[0].Type}; a matrix is needed");
                Is(type, operands[0].Type.WithShape(operands[0].Type.Dimensions[1], operands[0].Type.Dimensions[0]));
                break;
            case Opcode.Interleave:
                Counts(2);
                Has(operands[1], operands[0].Type, "operand 1");
                Require(!type.IsPointer && operands[0].Type.Rank > 0, $"interleaving {operands[0].Type}; tiles of rank 1 or more are needed");
                Is(type, operands[0].Type.WithShape([.. operands[0].Type.Dimensions[..^1], 2 * operands[0].Type.Dimensions[^1]]));
                break;
            case Opcode.Compare:
                Counts(2);
                Has(operands[1], operands[0].Type, "operand 1");
                Require(!operands[0].Type.IsPointer && Computes(operands[0].Type.Element), $"Compare does not take {operands[0].Type}");
                Is(type, operands[0].Type.With(DType.Bool));
                break;
            case Opcode.Select:
                Counts(3);
                Has(operands[0], type.With(DType.Bool), "the condition");
                Has(operands[1], type, "operand 1");
                Has(operands[2], type, "operand 2");
                Require(!type.IsPointer, "Select does not take pointers");
                break;
            case Opcode.Cast or Opcode.BitCast:
                CheckCast(operation.Opcode, operands, type);
                break;
            case Opcode.PointerAdd:
                Counts(2);
                Require(type.IsPointer && type.Equals(operands[0].Type), $"{operands[0]} has type {operands[0].Type} and the result {type}; both are the same pointers");
                Require(IsOffset(operands[1].Type) && operands[1].Type.SameShape(type), $"the offset {operands[1]} has type {operands[1].Type}; i32 or i64 in the shape of {type} is needed");
                break;
            case Opcode.Load:
                Counts(1, 3);
                CheckAccess(operands[0], operands.Length > 1 ? operands[1] : null);
                Is(type, Pointee(operands[0]));
                if (operands.Length < 3) break;
                Has(operands[2], new TileType(type.Element, false), "the other value");
                Require(operands[2].Definition is { Opcode: Opcode.Constant }, $"the other value {operands[2]} is not a constant");
                break;
            case Opcode.AtomicAdd:
                Counts(2, 3);
                CheckAccess(operands[0], operands.Length > 2 ? operands[2] : null);
                Require(!operands[0].IsScratch(), "other programs do not see scratch memory: load, add and store");
                Require(IsOffset(type), $"AtomicAdd does not take {type}; i32 or i64 is needed");
                Has(operands[1], Pointee(operands[0]), "the added value");
                Is(type, Pointee(operands[0]));
                break;
            case Opcode.ReduceSum or Opcode.ReduceMax or Opcode.ReduceMin:
                Counts(1);
                var (source, axis) = (operands[0].Type, operation.Axis);
                Require(axis >= 0 && axis < source.Rank, $"axis {axis} of {source} does not exist");
                Require(!source.IsPointer && Computes(source.Element), $"{operation.Opcode} does not take {source}");
                Is(type, source.WithShape([.. source.Dimensions[..axis], .. source.Dimensions[(axis + 1)..]]));
                break;
            case Opcode.Dot:
                CheckDot(operands, type);
                break;
            case Opcode.Lookup:
                Counts(1);
                Require(operation.Table is { Length: >= 1 and <= 256 } table && BitOperations.IsPow2(table.Length), $"a table of {operation.Table?.Length ?? 0} entries; a power of two up to 256 is needed");
                Require(operands[0].Type is { Element: DType.Int32, IsPointer: false }, $"the index {operands[0]} has type {operands[0].Type}; i32 is needed");
                Is(type, operands[0].Type.With(DType.Float32));
                break;
            case Opcode.Philox:
                Counts(2);
                Require(operands[0].Type is { Element: DType.Int64, IsPointer: false }, $"the counter {operands[0]} has type {operands[0].Type}; i64 is needed");
                Has(operands[1], new TileType(DType.Int64, false), "the seed");
                Is(type, operands[0].Type.With(DType.UInt32));
                break;
            default:
                Require(false, $"unknown opcode {operation.Opcode}");
                break;
        }
    }

    private void CheckBroadcast(Value[] operands, TileType type)
    {
        Counts(1);
        var from = operands[0].Type;
        var fits = from.Element == type.Element && from.IsPointer == type.IsPointer && (from.IsScalar || from.Rank == type.Rank);
        for (var axis = 0; fits && axis < from.Rank; axis++) fits = from.Dimensions[axis] == type.Dimensions[axis] || from.Dimensions[axis] == 1;
        Require(fits, $"{from} cannot be broadcast to {type}");
    }

    private void CheckCast(Opcode opcode, Value[] operands, TileType type)
    {
        Counts(1);
        var from = operands[0].Type;
        Require(!from.IsPointer && !type.IsPointer && from.SameShape(type) && type.Element != DType.Bool, $"{from} cannot become {type}");
        if (opcode == Opcode.BitCast) Require(from.Element != DType.Bool && from.Element.SizeInBytes() == type.Element.SizeInBytes(), $"{from} and {type} differ in width");
    }

    private void CheckDot(Value[] operands, TileType type)
    {
        Counts(3);
        var (a, b) = (operands[0].Type, operands[1].Type);
        Require(
            a.Rank == 2 && b.Rank == 2 && a.Dimensions[1] == b.Dimensions[0] && a.Element == b.Element && a.Element.IsFloat() && !a.IsPointer && !b.IsPointer,
            $"product of {a} and {b}; [M,K] and [K,N] of one floating-point type are needed");
        Is(type, new TileType(a.Element.Accumulator(), false, a.Dimensions[0], b.Dimensions[1]));
        Has(operands[2], type, "the accumulator");
    }

    private void CheckYield(Operation operation, Operation? owner, bool isLast)
    {
        Require(owner is not null, "a yield in the kernel's body, which ends without one");
        Require(isLast, "operations follow the yield");
        Require(operation.Results.Length == 0, "a yield has no results");
        var results = owner!.Results;
        Require(operation.Operands.Length == results.Length, $"{operation.Operands.Length} values are yielded but the {owner.Opcode} at {owner.Location} has {results.Length} results");
        for (var i = 0; i < results.Length; i++) Has(operation.Operands[i], results[i].Type, $"yielded value {i}");
    }

    private void CheckFor(Operation operation)
    {
        var (operands, body) = (operation.Operands, operation.Body!);
        Require(operands.Length == 3 + operation.Results.Length, $"{operands.Length} operands and {operation.Results.Length} results; a loop has low, high, step and an initial value for each result");
        for (var i = 0; i < 3; i++) Has(operands[i], new TileType(DType.Int32, false), "the loop bound");
        Require(operation.Stages >= 1, $"{operation.Stages} stages; 1 or more are needed");
        Require(body.Arguments.Count == 1 + operation.Results.Length, $"the body has {body.Arguments.Count} arguments; the index and {operation.Results.Length} carried tiles are needed");
        Has(body.Arguments[0], new TileType(DType.Int32, false), "the loop index");
        for (var i = 0; i < operation.Results.Length; i++)
        {
            var type = operation.Results[i].Type;
            Require(!type.IsPointer, $"{operation.Results[i]} has type {type}; pointers are not carried");
            Has(operands[i + 3], type, $"initial value {i}");
            Has(body.Arguments[i + 1], type, $"carried tile {i}");
        }
        CheckRegion(body, operation);
    }

    private void CheckIf(Operation operation)
    {
        var operands = operation.Operands;
        Require(operands.Length == 1 + operation.Results.Length, $"{operands.Length} operands and {operation.Results.Length} results; a branch has the condition and a value for each result");
        Has(operands[0], new TileType(DType.Bool, false), "the condition");
        Require(operation.Body!.Arguments.Count == 0, "a branch's body has no arguments");
        for (var i = 0; i < operation.Results.Length; i++)
        {
            Require(!operation.Results[i].Type.IsPointer, $"{operation.Results[i]} has type {operation.Results[i].Type}; branches do not give pointers");
            Has(operands[i + 1], operation.Results[i].Type, $"alternative {i}");
        }
        CheckRegion(operation.Body, operation);
    }

    private void CheckAccess(Value pointer, Value? mask)
    {
        Require(!_operation!.IsOpaque || !pointer.IsScratch(), "scratch memory has no order of the compiler's choosing");
        Require(pointer.Type.IsPointer, $"the address {pointer} has type {pointer.Type}; a pointer is needed");
        if (mask is not null) Has(mask, pointer.Type.With(DType.Bool), "the mask");
    }

    private static TileType Pointee(Value pointer) => pointer.Type.With(pointer.Type.Element);

    private static bool IsOffset(TileType type) => type is { Element: DType.Int32 or DType.Int64, IsPointer: false };

    /// <summary>
    /// Whether arithmetic is done in this type. Narrow floats and bytes are storage formats: they are loaded, converted, selected, multiplied
    /// by Dot and stored, but not computed with.
    /// </summary>
    internal static bool Computes(DType element) => element is DType.Float32 or DType.Float64 or DType.Int32 or DType.UInt32 or DType.Int64;

    /// <summary>Whether an elementwise operation is defined on an element type.</summary>
    internal static bool Takes(Opcode opcode, DType element) => opcode switch
    {
        Opcode.And or Opcode.Or or Opcode.Xor or Opcode.Not => element == DType.Bool || (element.IsInteger() && Computes(element)),
        Opcode.ShiftLeft or Opcode.ShiftRight or Opcode.Remainder => element.IsInteger() && Computes(element),
        Opcode.Negate or Opcode.Absolute => Computes(element),
        _ => opcode.IsUnary() ? element is DType.Float32 or DType.Float64 : Computes(element),
    };

    private void Counts(int operands) => Counts(operands, operands);

    private void Counts(int least, int most, int results = 1)
    {
        var operation = _operation!;
        Require(operation.Operands.Length >= least && operation.Operands.Length <= most, $"{operation.Operands.Length} operands; {(least == most ? $"{least}" : $"{least} to {most}")} are needed");
        Require(operation.Results.Length == results, $"{operation.Results.Length} results; {results} are needed");
    }

    private void Has(Value value, TileType type, string what) => Require(value.Type.Equals(type), $"{what} {value} has type {value.Type}; {type} is needed");

    private void Is(TileType result, TileType type) => Require(result.Equals(type), $"the result has type {result}; {type} is needed");

    private void Require(bool holds, string message)
    {
        if (holds) return;
        throw new TileException(_operation is { } operation
            ? $"kernel {_kernel.Name}, {operation.Opcode} at {operation.Location}: {message}, in: {Printer.Print(operation)}"
            : $"kernel {_kernel.Name}: {message}.");
    }
}
