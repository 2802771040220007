using Lancet.Tile.IR;
using Lancet.Tile.Lowering.Threads;

namespace Lancet.Tile.Lowering;

// Matrix products: on tensor cores for bf16 and fp16, with fused multiply-adds for fp32.
internal sealed partial class KernelLowering
{
    private readonly List<(Item Item, SharedItem Place, int Scope)> _writtenOperands = [];
    private bool _hasPendingCopies;

    /// <summary>Brings a matrix that only products read into shared memory.</summary>
    private SharedItem LoadShared(Operation operation, PointerItem pointer)
    {
        var type = operation.Result.Type;
        var tile = NewTile(type, 1);
        // An earlier iteration's products may still read the place.
        if (_loops.Count > 0) _shared.Barrier();
        _order.Load(pointer, null);
        CopyToShared(operation, tile);
        return Shared(type, tile);
    }

    private SharedItem Shared(TileType type, SharedTile tile, bool isTransposed = false) => new(type, tile, isTransposed) { Read = ReadShared };

    /// <summary>A matrix in shared memory, in registers: pieces of 16 bytes where the layout has them.</summary>
    private Element[] ReadShared(SharedTile tile, LinearLayout layout)
    {
        FinishCopies();
        var run = Math.Min(layout.Contiguous(1), WidestAccess / tile.ElementSize);
        var pointer = new PointerItem(new TileType(tile.DType, true), tile.Offset, null) { IsShared = true };
        var places = Places(tile, layout);
        var result = new Element[layout.RegisterCount];
        for (var first = 0; first < result.Length; first += run) LoadRun(pointer, places(first), run, Source.Constant(1), ElementArithmetic.Constant(tile.DType, 0, 0)).CopyTo(result, first);
        return result;
    }

    private SharedTile NewTile(TileType type, int stages)
    {
        var tile = SharedTile.Of(type);
        return tile with { Offset = Source.Constant(_shared.Allocate(SharedMemory.Align(tile.Bytes) * stages)) };
    }

    /// <summary>
    /// Emits the copy of a load's matrix or vector to a place in shared memory: asynchronous 16-byte copies, or through registers if addresses or masks do not allow them. Where the condition does not hold,
    /// asynchronous copies write zeros and read nothing.
    /// </summary>
    private void CopyToShared(Operation operation, SharedTile tile, Source? condition = null)
    {
        var type = operation.Result.Type;
        var pointer = (PointerItem)Get(operation.Operands[0]);
        var mask = operation.Operands.Length > 1 ? Get(operation.Operands[1]) : null;
        var layout = LinearLayout.Blocked(type.Dimensions, WidestAccess / tile.ElementSize, _copyingWarps);
        var original = _converter.IsOriginal(layout);
        var run = WidestAccess / tile.ElementSize;
        if (CanCopyAsync(operation))
        {
            var addresses = Addresses(pointer, layout);
            var conditions = mask?.In(layout);
            var places = Places(tile, layout);
            for (var register = 0; register < layout.RegisterCount; register += run)
            {
                var isRead = _builder.And(ThreadType.Predicate, condition ?? Source.Constant(1), conditions?[register].Source ?? Source.Constant(1));
                var bytes = _builder.Select(ThreadType.B32, isRead, Source.Constant(WidestAccess), Source.Constant(0));
                CopyAsync(places(register), addresses(register), WidestAccess, bytes, original);
            }
            _hasPendingCopies = true;
            return;
        }
        var elements = LoadTile(pointer, mask, ElementArithmetic.Constant(type.Element, 0, 0), layout);
        var access = tile.ElementSize == 2 ? ThreadType.U16 : ThreadType.B32;
        for (var register = 0; register < elements.Length; register++)
            _builder.Effect(ThreadOpcode.StoreShared, access, [], [Place(tile, layout, register), _arithmetic.Alone(elements[register])], _converter.Guard(original));
        _hasPendingCopies = true;
    }

    /// <summary>Shared address of the element that a thread holds in a register.</summary>
    private Source Place(SharedTile tile, LinearLayout layout, int register)
    {
        Source Coordinate(int axis) => _builder.Add(ThreadType.S32, ThreadCoordinates.Of(_builder, layout, axis), Source.Constant(layout.Coordinate(axis, register)));
        return tile.Address(_builder, layout.Rank == 1 ? Source.Constant(0) : Coordinate(0), Coordinate(layout.Rank - 1));
    }

    /// <summary>For each register the shared address of its element: a register and a constant number of bytes.</summary>
    private Func<int, (Source Address, long Offset)> Places(SharedTile tile, LinearLayout layout)
    {
        if (!tile.CanStep) return register => (Place(tile, layout, register), 0);
        var first = Place(tile, layout, 0);
        return register =>
        {
            var (bits, bytes) = tile.Step(layout.Coordinate(0, register), layout.Coordinate(1, register));
            return (_builder.Xor(ThreadType.B32, first, Source.Constant(bits)), bytes);
        };
    }

    /// <summary>Whether a load's matrix can be copied in pieces of 16 bytes: they are aligned, whole in memory, and all in or all out of the mask, with zeros outside.</summary>
    private bool CanCopyAsync(Operation operation)
    {
        var type = operation.Result.Type;
        var size = type.Element.SizeInBytes();
        var layout = LinearLayout.Blocked(type.Dimensions, WidestAccess / size, _copyingWarps);
        if (operation.Operands.Length > 2 && Scalar(operation.Operands[2]).Source is not { IsConstant: true, Bits: 0 }) return false;
        return layout.Contiguous(layout.Rank - 1) * size >= WidestAccess
            && RunLength((PointerItem)Get(operation.Operands[0]), operation.Operands.Length > 1 ? Get(operation.Operands[1]) : null, layout) * size == WidestAccess;
    }

    /// <summary>Waits for copies outside of pipelines, so that all threads see them.</summary>
    private void FinishCopies()
    {
        if (!_hasPendingCopies) return;
        _hasPendingCopies = false;
        _builder.Effect(ThreadOpcode.CommitCopies, ThreadType.B32, [], []);
        _builder.Effect(ThreadOpcode.WaitCopies, ThreadType.B32, [], []);
        ShowToOthers();
    }

    /// <summary>Makes what this thread wrote to shared memory visible to all threads, and to products of warp groups.</summary>
    private void ShowToOthers()
    {
        if (_loops.TryPeek(out var loop)) loop.Ahead?.BeforeShowing();
        if (_usesWarpGroups) _builder.Effect(ThreadOpcode.ProxyFence, ThreadType.B32, [], []);
        _shared.Barrier();
    }

    private Item LowerDot(Operation operation)
    {
        if (_environments.Peek().TryGetValue(operation.Result, out var started)) return started;
        var (a, b, c) = (Get(operation.Operands[0]), Get(operation.Operands[1]), Get(operation.Operands[2]));
        FinishCopies();
        var type = operation.Result.Type;
        if (type.Element == DType.Float64) throw new TileException("a product of fp64 is not available on the GPU; fp64 kernels are for the CPU and tests");
        var layout = _plan.Of(operation.Result);
        var accumulator = c.In(layout);
        if (_plan.Product(operation) is { SuitsWarpGroups: true } group && _usesWarpGroups && CanDescribe(b)) return MultiplyInWarpGroups(operation, group, a, b, layout, accumulator);
        var result = _plan.Product(operation) is { } layouts
            ? MultiplyOnTensorCores(layouts, a, b, accumulator)
            : MultiplyScalar(a, b, layout, accumulator);
        return new TileItem(_converter, type, layout, result);
    }

    private Element[] MultiplyOnTensorCores(ProductLayouts layouts, Item a, Item b, Element[] accumulator)
    {
        var left = Fragments(Placed(a, layouts.Left()), layouts, isLeft: true);
        var right = Fragments(Placed(b, layouts.Right()), layouts, isLeft: false);
        var (rows, columns, steps) = (layouts.WarpRows / 16, layouts.WarpColumns / 8, layouts.K / 16);
        var sums = accumulator.Select(element => element.Source).ToArray();
        var type = a.DType == DType.BFloat16 ? ThreadType.BF16 : ThreadType.F16;
        for (var step = 0; step < steps; step++)
        {
            for (var row = 0; row < rows; row++)
            {
                var x = left(row, step);
                for (var column = 0; column < columns; column++)
                {
                    var y = right(column, step);
                    var first = 4 * (column + (columns * row));
                    Register[] d = [_builder.New(RegisterClass.Bits32), _builder.New(RegisterClass.Bits32), _builder.New(RegisterClass.Bits32), _builder.New(RegisterClass.Bits32)];
                    _builder.Effect(ThreadOpcode.MatrixMultiply, type, d, [.. x, .. y, .. sums.AsSpan(first, 4)]);
                    for (var i = 0; i < 4; i++) sums[first + i] = d[i];
                }
            }
        }
        return [.. sums.Select(sum => new Element(sum))];
    }

    /// <summary>Gives the registers of an operand's fragment for a piece of rows (or columns) and a step of 16 along the summed extent; each is loaded once.</summary>
    private Func<int, int, Source[]> Fragments(Item item, ProductLayouts layouts, bool isLeft)
    {
        if (item is SharedItem shared) return SharedFragments(shared, layouts, isLeft);
        // Register order of both operand layouts: pairs, then the pieces of 8, then steps, then rows or columns.
        var elements = item.In(isLeft ? layouts.Left() : layouts.Right());
        var (size, steps) = (isLeft ? 4 : 2, layouts.K / 16);
        return (piece, step) =>
        {
            var first = 2 * size * (step + (steps * piece));
            return [.. Enumerable.Range(0, size).Select(i => _arithmetic.Pack(elements[first + (2 * i)], elements[first + (2 * i) + 1]))];
        };
    }

    /// <summary>
    /// Fragments read with ldmatrix. Four 8×8 matrices at a time: for A the 16×16 piece, for B two neighbouring columns' pieces. Lane 8·i + r
    /// points at row r of matrix i.
    /// </summary>
    private Func<int, int, Source[]> SharedFragments(SharedItem item, ProductLayouts layouts, bool isLeft)
    {
        var tile = item.Tile;
        var lane = _builder.And(ThreadType.B32, _builder.Special(SpecialRegister.ThreadId), Source.Constant(31));
        var row8 = _builder.And(ThreadType.B32, lane, Source.Constant(7));
        var bit3 = _builder.ShiftLeft(ThreadType.B32, _builder.And(ThreadType.B32, _builder.ShiftRight(ThreadType.U32, lane, 3), Source.Constant(1)), 3);
        var bit4 = _builder.ShiftLeft(ThreadType.B32, _builder.ShiftRight(ThreadType.U32, lane, 4), 3);
        // The order of matrices is rows first for A (a0 a1: rows 0 and 8), summed extent first for B (b0 b1: k 0 and 8).
        var (outerPart, innerPart) = isLeft ? (bit3, bit4) : (bit4, bit3);
        // Stored rows run along the outer extent (rows of A, columns of B) unless A is a transpose or B is not.
        var isOuterStored = isLeft != item.IsTransposed;
        var warpOuter = ThreadCoordinates.Of(_builder, WarpOnly(isLeft ? layouts.Left() : layouts.Right()), isLeft ? 0 : 1);
        var pieces = isLeft ? 1 : Math.Min(2, layouts.WarpColumns / 8);
        var cache = new Dictionary<(int, int), Source[]>();
        return (piece, step) =>
        {
            if (cache.TryGetValue((piece, step), out var known)) return known;
            var block = piece / pieces;
            var (outer, inner) = (block * (isLeft ? 16 : 8 * pieces), step * 16);
            var (outerLane, innerLane) = isOuterStored
                ? (_builder.Add(ThreadType.S32, outerPart, row8), innerPart)
                : (outerPart, _builder.Add(ThreadType.S32, innerPart, row8));
            if (!isLeft && pieces == 1) outerLane = isOuterStored ? row8 : Source.Constant(0L);
            outerLane = _builder.Add(ThreadType.S32, outerLane, warpOuter);
            var (storedRow, storedColumn, rowStep, columnStep) = isOuterStored ? (outerLane, innerLane, outer, inner) : (innerLane, outerLane, inner, outer);
            var (bits, bytes) = tile.Step(rowStep, columnStep);
            var address = _builder.Xor(ThreadType.B32, tile.Address(_builder, storedRow, storedColumn), Source.Constant(bits));
            var registers = Enumerable.Range(0, isLeft ? 4 : 2 * pieces).Select(_ => _builder.New(RegisterClass.Bits32)).ToArray();
            _builder.Effect(ThreadOpcode.LoadMatrix, ThreadType.B32, registers, [address], immediate: bytes, isTransposed: !isOuterStored);
            if (isLeft) cache[(piece, step)] = [.. registers.Select(register => (Source)register)];
            else
                for (var i = 0; i < pieces; i++) cache[((block * pieces) + i, step)] = [registers[2 * i], registers[(2 * i) + 1]];
            return cache[(piece, step)];
        };
    }

    // Only what the warp's number contributes.
    private static LinearLayout WarpOnly(LinearLayout layout) => new(layout.Rank, [], [.. Enumerable.Range(0, 5).Select(_ => new int[layout.Rank])], [.. layout.Warps]);

    /// <summary>The product in fp32, element by element in order of the summed extent, with operands in shared memory.</summary>
    private Element[] MultiplyScalar(Item a, Item b, LinearLayout layout, Element[] accumulator)
    {
        var (x, y) = (InSharedMemory(a), InSharedMemory(b));
        var k = a.Type.Dimensions[1];
        var sums = accumulator.Select(element => _builder.Variable(RegisterClass.Bits32, element.Source)).ToArray();
        var rows = Enumerable.Range(0, sums.Length).Select(register => layout.Coordinate(0, register)).Distinct().ToArray();
        var columns = Enumerable.Range(0, sums.Length).Select(register => layout.Coordinate(1, register)).Distinct().ToArray();
        var index = _builder.Variable(RegisterClass.Bits32, Source.Constant(0));
        var loop = new ThreadLoop();
        _builder.Append(loop);
        _builder.Open(loop.Header);
        loop.Condition = _builder.Compare(ThreadType.S32, Comparison.Less, index, Source.Constant(k)).Register;
        _builder.Close();
        _builder.Open(loop.Body);
        var threadRow = ThreadCoordinates.Of(_builder, layout, 0);
        var threadColumn = ThreadCoordinates.Of(_builder, layout, 1);
        var left = rows.ToDictionary(row => row, row => Read(x, _builder.Add(ThreadType.S32, threadRow, Source.Constant(row)), index));
        var right = columns.ToDictionary(column => column, column => Read(y, index, _builder.Add(ThreadType.S32, threadColumn, Source.Constant(column))));
        for (var register = 0; register < sums.Length; register++)
        {
            var sum = _builder.Fma(left[layout.Coordinate(0, register)], right[layout.Coordinate(1, register)], sums[register]);
            _builder.Assign(sums[register], sum);
        }
        _builder.Assign(index, _builder.Add(ThreadType.S32, index, Source.Constant(1)));
        _builder.Close();
        return [.. sums.Select(sum => new Element(sum))];
    }

    private Source Read(SharedItem item, Source row, Source column)
    {
        var address = item.IsTransposed ? item.Tile.Address(_builder, column, row) : item.Tile.Address(_builder, row, column);
        var value = _builder.New(RegisterClass.Bits32);
        _builder.Effect(ThreadOpcode.LoadShared, item.Tile.ElementSize == 2 ? ThreadType.U16 : ThreadType.B32, [value], [address]);
        return item.DType == DType.Float32 ? value : _arithmetic.Cast([new Element(value, RegisterPart.Low)], item.DType, DType.Float32)[0].Source;
    }

    /// <summary>Writes an operand that is in registers to shared memory.</summary>
    private SharedItem InSharedMemory(Item item)
    {
        if (item is SharedItem shared) return shared;
        if (FindInSharedMemory(item) is { } written) return written;
        var tile = NewOperand(item.Type);
        var layout = item is TileItem held ? held.Layout : _plan.Blocked(item.Type);
        var elements = item.In(layout);
        var guard = _converter.Guard(_converter.IsOriginal(layout));
        // Halves in neighbouring columns are stored together, up to a swizzled piece.
        var run = tile.ElementSize == 2 ? Math.Min(layout.Contiguous(1), WidestAccess / tile.ElementSize) : 1;
        var places = Places(tile, layout);
        for (var register = 0; register < elements.Length; register += run)
        {
            var (place, bytes) = places(register);
            Source[] values = run == 1 ? [_arithmetic.Alone(elements[register])] : [.. Enumerable.Range(0, run / 2).Select(i => _arithmetic.Pack(elements[register + (2 * i)], elements[register + (2 * i) + 1]))];
            _builder.Effect(ThreadOpcode.StoreShared, tile.ElementSize == 2 && run == 1 ? ThreadType.U16 : ThreadType.B32, [], [place, .. values], guard, bytes);
        }
        ShowToOthers();
        var result = Shared(item.Type, tile);
        _writtenOperands.Add((item, result, _builder.Scope));
        return result;
    }

    /// <summary>
    /// An operand that was computed in rows, or whose transpose is wanted: in shared memory, from where fragments are read whole. Others stay where they are: a product's result needs at most to change warps, for which the
    /// scratch area, that all conversions share, is less memory.
    /// </summary>
    private Item Placed(Item item, LinearLayout fragments)
    {
        var (tile, isTransposed) = item is ViewItem { From: [1, 0], Tile: TileItem inner } ? (inner, true) : (item as TileItem, false);
        if (tile is null || tile.DType.SizeInBytes() != 2 || tile.Layout.Contiguous(1) == 1 || (tile.Layout.IsProduct && !isTransposed)) return item;
        if (tile.Layout.RegistersOf(isTransposed ? fragments.Project([1, 0]) : fragments) is not null) return item;
        var shared = InSharedMemory(tile);
        return isTransposed ? Shared(item.Type, shared.Tile, true) : shared;
    }

    // A place that no product of an earlier iteration reads any more.
    private SharedTile NewOperand(TileType type)
    {
        if (!_loops.TryPeek(out var loop) || _shared.Barriers > loop.Barriers) return NewTile(type, 1);
        if (loop.Ahead is { } ahead) return ahead.Alternate(NewTile(type, 2));
        _shared.Barrier();
        return NewTile(type, 1);
    }

    private SharedItem? FindInSharedMemory(Item item)
    {
        foreach (var (known, place, scope) in _writtenOperands)
            if (known == item && _builder.IsOpen(scope)) return place;
        return null;
    }
}
