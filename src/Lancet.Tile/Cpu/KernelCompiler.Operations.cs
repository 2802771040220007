using Lancet.Tile.IR;

namespace Lancet.Tile.Cpu;

// One method per group of opcodes: which form the result takes, and which instruction computes it.
internal sealed partial class KernelCompiler
{
    private void CompileOperation(Operation operation)
    {
        switch (operation.Opcode)
        {
            case Opcode.ProgramId or Opcode.ProgramCount:
                _code.Add(new ProgramInstruction(NewAffine(operation.Result, []), operation.Axis, operation.Opcode == Opcode.ProgramCount));
                break;
            case Opcode.Constant:
                CompileConstant(operation);
                break;
            case Opcode.Range:
                _code.Add(new SetAffineInstruction(NewAffine(operation.Result, [operation.Result.Type.Dimensions[0] > 1]), 0, 1));
                break;
            case Opcode.Broadcast:
                CompileBroadcast(operation);
                break;
            case Opcode.ExpandDimension:
                CompileExpand(operation);
                break;
            case Opcode.Transpose:
                CompileTranspose(operation);
                break;
            case Opcode.Interleave:
                CompileInterleave(operation);
                break;
            case Opcode.PointerAdd:
                CompilePointerAdd(operation);
                break;
            case Opcode.Compare:
                CompileCompare(operation);
                break;
            case Opcode.Select:
                CompileSelect(operation);
                break;
            case Opcode.Cast or Opcode.BitCast:
                CompileCast(operation);
                break;
            case Opcode.Scratch:
                CompileScratch(operation);
                break;
            case Opcode.Copy:
                CompileCopy(operation);
                break;
            case Opcode.AwaitCopies:
                // Copies are made at once.
                break;
            case Opcode.Load or Opcode.Store or Opcode.AtomicAdd:
                CompileMemory(operation);
                break;
            case Opcode.Await or Opcode.Signal:
                _code.Add(new FlagInstruction(Dense(operation.Operands[0]).Offset, ScalarOf(operation.Operands[1]), operation.Opcode == Opcode.Await, $"{_kernel.Name}, {operation.Location}", _isChecked));
                break;
            case Opcode.Gather:
                CompileGather(operation);
                break;
            case Opcode.ReduceSum or Opcode.ReduceMax or Opcode.ReduceMin:
                CompileReduce(operation);
                break;
            case Opcode.Dot:
                CompileDot(operation);
                break;
            case Opcode.Lookup:
                CompileLookup(operation);
                break;
            case Opcode.Philox:
                _code.Add(new PhiloxInstruction(Dense(operation.Operands[0]), ScalarOf(operation.Operands[1]), NewLanes(operation.Result)));
                break;
            case Opcode.For:
                CompileFor(operation);
                break;
            case Opcode.If:
                CompileIf(operation);
                break;
            default:
                CompileArithmetic(operation);
                break;
        }
    }

    // A phase of its own: no program may have gone on, and used its scratch memory again, before all have gathered.
    private void CompileGather(Operation operation)
    {
        var sources = operation.Operands.Select(value => Dense(value).Offset).ToArray();
        EndPhase();
        for (var i = 0; i < sources.Length; i++)
        {
            var target = NewLanes(operation.Results[i]).Offset;
            _code.Add(LaneSize(operation.Results[i].Type) == 4 ? new GatherInstruction<int>(sources[i], target) : new GatherInstruction<long>(sources[i], target));
        }
        EndPhase();
    }

    private void CompileInterleave(Operation operation)
    {
        var (a, b) = (Dense(operation.Operands[0]).Offset, Dense(operation.Operands[1]).Offset);
        var (target, count) = (NewLanes(operation.Result).Offset, operation.Result.Type.Count / 2);
        _code.Add(LaneSize(operation.Result.Type) == 4 ? new InterleaveInstruction<int>(a, b, target, count) : new InterleaveInstruction<long>(a, b, target, count));
    }

    private void CompileConstant(Operation operation)
    {
        var type = operation.Result.Type;
        if (type.Element is DType.Int32 or DType.Int64)
        {
            _code.Add(new SetAffineInstruction(NewAffine(operation.Result, []), operation.Integer, 0));
            return;
        }
        var offset = NewLanes(operation.Result).Offset;
        var bits = type.Element switch
        {
            DType.Float64 => BitConverter.DoubleToInt64Bits(operation.Number),
            DType.BFloat16 => BitConverter.SingleToInt32Bits((float)(BFloat16)operation.Number),
            DType.Float16 => BitConverter.SingleToInt32Bits((float)(Half)operation.Number),
            DType.Float32 => BitConverter.SingleToInt32Bits((float)operation.Number),
            DType.Bool => operation.Integer != 0 ? -1 : 0,
            _ => operation.Integer,
        };
        _code.Add(new SetLaneInstruction(offset, bits, type.Element == DType.Float64));
    }

    private void CompileBroadcast(Operation operation)
    {
        var (source, result) = (operation.Operands[0], operation.Result);
        int[] from = [.. source.Type.Dimensions], to = [.. result.Type.Dimensions];
        if (source.Type.IsPointer && _ranges.TryGetValue(source, out var range)) _ranges[result] = range;
        if (_forms[source] is Form.Affine or Form.Box)
        {
            var axes = new int[to.Length];
            for (var axis = 0; axis < to.Length; axis++) axes[axis] = from.Length == 0 || (from[axis] == 1 && to[axis] != 1) ? -1 : axis;
            MoveAxes(source, result, axes, false);
            return;
        }
        var lanes = (Form.Lanes)_forms[source];
        var (rows, cols) = Extent(result.Type);
        if (source.Type.Count == 1)
        {
            Alias(result, new LaneView(lanes.View.Offset, rows, cols, 0, 0), lanes.Slot);
        }
        else if (to.Length == 2)
        {
            var view = lanes.View;
            Alias(result, new LaneView(view.Offset, rows, cols, from[0] == 1 ? 0 : view.RowStride, from[1] == 1 ? 0 : view.ColStride), lanes.Slot);
        }
        else
        {
            var dense = Dense(source);
            var target = NewLanes(result);
            _code.Add(LaneSize(result.Type) == 4 ? new Broadcast3Instruction<int>(dense.Offset, from, target.Offset, to) : new Broadcast3Instruction<long>(dense.Offset, from, target.Offset, to));
        }
    }

    private void CompileExpand(Operation operation)
    {
        var (source, result) = (operation.Operands[0], operation.Result);
        if (_forms[source] is Form.Affine or Form.Box)
        {
            var axes = new int[result.Type.Rank];
            for (var axis = 0; axis < axes.Length; axis++) axes[axis] = axis == operation.Axis ? -1 : axis < operation.Axis ? axis : axis - 1;
            MoveAxes(source, result, axes, false);
            return;
        }
        var lanes = (Form.Lanes)_forms[source];
        var (rows, cols) = Extent(result.Type);
        var view = lanes.View;
        if (cols == view.Cols) Alias(result, view with { Rows = rows }, lanes.Slot);
        else if (view.Rows == 1) Alias(result, new LaneView(view.Offset, rows, 1, view.ColStride, 1), lanes.Slot);
        else CopyTo(result.Type, view, ((Form.Lanes)NewForm(result)).Slot!);
    }

    private void CompileTranspose(Operation operation)
    {
        var (source, result) = (operation.Operands[0], operation.Result);
        if (_forms[source] is Form.Affine or Form.Box)
        {
            MoveAxes(source, result, [1, 0], false);
            return;
        }
        var lanes = (Form.Lanes)_forms[source];
        var view = lanes.View;
        Alias(result, new LaneView(view.Offset, view.Cols, view.Rows, view.Cols == 1 ? 0 : view.ColStride, view.Rows == 1 ? 1 : view.RowStride), lanes.Slot);
    }

    private void MoveAxes(Value source, Value result, int[] from, bool wraps)
    {
        if (_forms[source] is Form.Affine affine)
        {
            var target = NewAffine(result, [.. from.Select(axis => axis >= 0 && affine.Varies[axis])]);
            _code.Add(new AffineAxesInstruction(affine.Descriptor, target, from, wraps));
        }
        else
        {
            var target = NewDescriptor();
            _forms[result] = new Form.Box(target);
            _code.Add(new BoxAxesInstruction(((Form.Box)_forms[source]).Descriptor, target, from, [.. source.Type.Dimensions], [.. result.Type.Dimensions]));
        }
    }

    /// <summary>A value that is another view of an existing slot.</summary>
    private void Alias(Value value, LaneView view, Slot? slot)
    {
        if (slot is not null) slot.Users++;
        _forms[value] = new Form.Lanes(view, slot);
    }

    private void CompilePointerAdd(Operation operation)
    {
        var (pointer, offset, result) = (operation.Operands[0], operation.Operands[1], operation.Result);
        _ranges[result] = _ranges[pointer];
        var size = result.Type.Element.SizeInBytes();
        if (AffineOf(pointer) is { } p && AffineOf(offset) is { } o)
        {
            var target = NewAffine(result, [.. p.Varies.Zip(o.Varies, (a, b) => a || b)]);
            CheckRange(operation, offset, o);
            _code.Add(new AffineAddInstruction(p.Descriptor, o.Descriptor, target, 1, size, false));
            return;
        }
        var (addresses, offsets) = (RowsOf(pointer), RowsOf(offset));
        _code.Add(new AddressInstruction(addresses, offsets, NewLanes(result), LaneSize(offset.Type) == 4, size));
    }

    private void CompileArithmetic(Operation operation)
    {
        var (operands, result) = (operation.Operands, operation.Result);
        var element = result.Type.Element;
        var is32 = element == DType.Int32;
        if (element is DType.Int32 or DType.Int64 && TryAffine(operation, is32)) return;
        if (element == DType.Bool && operation.Opcode == Opcode.And && _forms[operands[0]] is Form.Box left && _forms[operands[1]] is Form.Box right)
        {
            var target = NewDescriptor();
            _forms[result] = new Form.Box(target);
            _code.Add(new BoxAndInstruction(left.Descriptor, right.Descriptor, target));
            return;
        }
        if (operands.Length == 1)
        {
            var x = Dense(operands[0]);
            _code.Add(InstructionFactory.Unary(operation.Opcode, element, x, NewLanesOver(result, operands)) ?? throw Error(operation, $"{operation.Opcode} of {element} is not supported"));
        }
        else
        {
            var (a, b) = (RowsOf(operands[0]), RowsOf(operands[1]));
            _code.Add(InstructionFactory.Binary(operation.Opcode, element, a, b, NewLanesOver(result, operands)) ?? throw Error(operation, $"{operation.Opcode} of {element} is not supported"));
        }
    }

    private bool TryAffine(Operation operation, bool is32)
    {
        if (AffineOf(operation.Operands[0]) is not { } a) return false;
        var result = operation.Result;
        if (operation.Operands.Length == 1)
        {
            if (operation.Opcode == Opcode.Negate)
            {
                var minusOne = NewDescriptor();
                _code.Add(new SetAffineInstruction(minusOne, -1, 0));
                _code.Add(new AffineScaleInstruction(a.Descriptor, minusOne, NewAffine(result, a.Varies), is32));
                return true;
            }
            if (!a.IsUniform) return false;
            _code.Add(new ScalarIntegerInstruction(operation.Opcode, result.Type.Element, a.Descriptor, null, NewAffine(result, a.Varies)));
            return true;
        }
        if (AffineOf(operation.Operands[1]) is not { } b) return false;
        bool[] varies = [.. a.Varies.Zip(b.Varies, (x, y) => x || y)];
        switch (operation.Opcode)
        {
            case Opcode.Add or Opcode.Subtract:
                _code.Add(new AffineAddInstruction(a.Descriptor, b.Descriptor, NewAffine(result, varies), operation.Opcode == Opcode.Add ? 1 : -1, 1, is32));
                return true;
            case Opcode.Multiply when b.IsUniform:
                _code.Add(new AffineScaleInstruction(a.Descriptor, b.Descriptor, NewAffine(result, varies), is32));
                return true;
            case Opcode.Multiply when a.IsUniform:
                _code.Add(new AffineScaleInstruction(b.Descriptor, a.Descriptor, NewAffine(result, varies), is32));
                return true;
            case Opcode.Multiply:
                return false;
            default:
                if (!a.IsUniform || !b.IsUniform) return false;
                _code.Add(new ScalarIntegerInstruction(operation.Opcode, result.Type.Element, a.Descriptor, b.Descriptor, NewAffine(result, varies)));
                return true;
        }
    }

    private void CompileCompare(Operation operation)
    {
        var (x, y, result) = (operation.Operands[0], operation.Operands[1], operation.Result);
        if (operation.Comparison != Comparison.NotEqual && result.Type.Rank > 0 && x.Type.Element is DType.Int32 or DType.Int64 && AffineOf(x) is { } a && AffineOf(y) is { } b)
        {
            var varying = Enumerable.Range(0, result.Type.Rank).Where(axis => a.Varies[axis] || b.Varies[axis]).ToArray();
            if (operation.Comparison != Comparison.NotEqual && varying.Length <= 1)
            {
                var target = NewDescriptor();
                _forms[result] = new Form.Box(target);
                CheckRange(operation, x, a);
                CheckRange(operation, y, b);
                _code.Add(new BoxCompareInstruction(operation.Comparison, a.Descriptor, b.Descriptor, target, varying.Length == 0 ? 0 : varying[0], [.. result.Type.Dimensions]));
                return;
            }
        }
        var (left, right) = (RowsOf(x), RowsOf(y));
        _code.Add(InstructionFactory.Compare(operation.Comparison, x.Type.Element, left, right, NewLanes(result)));
    }

    private void CompileSelect(Operation operation)
    {
        var (mask, a, b) = (RowsOf(operation.Operands[0]), RowsOf(operation.Operands[1]), RowsOf(operation.Operands[2]));
        var result = NewLanesOver(operation.Result, operation.Operands[1], operation.Operands[2]);
        _code.Add(LaneSize(operation.Result.Type) == 4 ? new SelectInstruction<int>(mask, a, b, result) : new SelectInstruction<long>(mask, a, b, result));
    }

    private void CompileCast(Operation operation)
    {
        var (source, result) = (operation.Operands[0], operation.Result);
        var (from, to) = (source.Type.Element, result.Type.Element);
        if (operation.Opcode == Opcode.Cast && from is DType.Int32 or DType.Int64 && to is DType.Int32 or DType.Int64 && AffineOf(source) is { } affine)
        {
            if (to == DType.Int64) CheckRange(operation, source, affine);
            _code.Add(new AffineAxesInstruction(affine.Descriptor, NewAffine(result, affine.Varies), [.. Enumerable.Range(0, result.Type.Rank)], to == DType.Int32));
            return;
        }
        if (operation.Opcode == Opcode.Cast && (from, to) is (DType.BFloat16 or DType.Float16, DType.Float32) or (DType.Int8 or DType.UInt8, DType.Int32))
        {
            // Narrow tiles are held widened already.
            var held = (Form.Lanes)_forms[source];
            Alias(result, held.View, held.Slot);
            return;
        }
        var dense = Dense(source);
        var target = NewLanesOver(result, source);
        if (operation.Opcode == Opcode.BitCast)
        {
            _code.Add(InstructionFactory.BitCast(from, to, dense, target));
            return;
        }
        if (from == DType.Bool)
        {
            // 0 and −1 become 0 and 1.
            var numbers = _layout.Allocate(dense.Count * sizeof(int));
            var view = LaneView.Dense(numbers.Offset, dense.Rows, dense.Cols);
            _code.Add(InstructionFactory.Unary(Opcode.Negate, DType.Int32, dense, view)!);
            _layout.Free(numbers);
            (from, dense) = (DType.Int32, view);
            if (to == DType.Int32)
            {
                _code.Add(new CopyInstruction<int>(dense, target));
                return;
            }
        }
        InstructionFactory.Cast(from, to, dense, target, _code);
    }

    /// <summary>Emits a check that a closed form of int32 does not wrap, unless it is a single number, which wraps by itself.</summary>
    private void CheckRange(Operation operation, Value value, Form.Affine affine)
    {
        if (value.Type.Element == DType.Int32 && !affine.IsUniform) _code.Add(new CheckInt32Instruction(affine.Descriptor, [.. value.Type.Dimensions], operation, _kernel.Name));
    }

    private void CompileScratch(Operation operation)
    {
        var type = operation.Result.Type.Element;
        var slot = _layout.Allocate(checked((int)operation.Integer * type.SizeInBytes()));
        _ranges[operation.Result] = new("scratch memory", slot.Offset, operation.Integer);
        _code.Add(new ScratchInstruction(NewAffine(operation.Result, []), slot.Offset));
    }

    private void CompileCopy(Operation operation)
    {
        var (source, target) = (operation.Operands[0], operation.Operands[1]);
        var (rows, cols) = Extent(source.Type);
        var slot = _layout.Allocate(rows * cols * LaneSize(source.Type.With(source.Type.Element)));
        var between = LaneView.Dense(slot.Offset, rows, cols);
        _code.Add(InstructionFactory.Load(Pattern(operation, source, null), source.Type.Element, between, 0, 0, _isChecked));
        _code.Add(InstructionFactory.Store(Pattern(operation, target, null), source.Type.Element, between, _isChecked));
        _layout.Free(slot);
    }

    private AccessPattern Pattern(Operation operation, Value pointer, Value? mask)
    {
        var affine = AffineOf(pointer);
        var address = affine?.Descriptor ?? Dense(pointer).Offset;
        var (maskOffset, maskView) = (-1, (LaneView?)null);
        if (mask is not null)
        {
            if (_forms[mask] is Form.Box box) maskOffset = box.Descriptor;
            else maskView = LanesOf(mask);
        }
        return new AccessPattern(address, affine is not null, maskOffset, maskView, [.. pointer.Type.Dimensions], _ranges[pointer], operation, _kernel.Name);
    }

    private void CompileMemory(Operation operation)
    {
        var operands = operation.Operands;
        var pointer = operands[0];
        var maskIndex = operation.Opcode == Opcode.Load ? 1 : 2;
        var pattern = Pattern(operation, pointer, operands.Length > maskIndex ? operands[maskIndex] : null);
        if (operation.Opcode == Opcode.Load)
        {
            var other = operands.Length > 2 ? operands[2].Definition! : null;
            _code.Add(InstructionFactory.Load(pattern, pointer.Type.Element, NewLanes(operation.Result), other?.Number ?? 0, other?.Integer ?? 0, _isChecked));
        }
        else if (operation.Opcode == Opcode.Store)
        {
            var value = RowsOf(operands[1]);
            _code.Add(operation.Accumulates
                ? InstructionFactory.Accumulate(pattern, pointer.Type.Element, value, _isChecked)
                : InstructionFactory.Store(pattern, pointer.Type.Element, value, _isChecked));
        }
        else
        {
            var value = Dense(operands[1]);
            _code.Add(new AtomicAddInstruction(pattern, value, NewLanes(operation.Result), pointer.Type.Element == DType.Int32) { IsChecked = _isChecked });
        }
    }

    private void CompileReduce(Operation operation)
    {
        var (source, result) = (operation.Operands[0], operation.Result);
        if (operation.Axis == source.Type.Rank - 1)
        {
            var view = RowsOf(source);
            if (view.ColStride == 0) view = Dense(source);
            _code.Add(InstructionFactory.ReduceColumns(operation.Opcode, source.Type.Element, view, NewLanes(result)));
            return;
        }
        var dense = Dense(source);
        var (outer, inner) = (1, 1);
        for (var axis = 0; axis < operation.Axis; axis++) outer *= source.Type.Dimensions[axis];
        for (var axis = operation.Axis + 1; axis < source.Type.Rank; axis++) inner *= source.Type.Dimensions[axis];
        _code.Add(InstructionFactory.ReduceRows(operation.Opcode, source.Type.Element, dense.Offset, outer, source.Type.Dimensions[operation.Axis], inner, NewLanes(result).Offset));
    }

    private void CompileDot(Operation operation)
    {
        var (a, b, c) = (LanesOf(operation.Operands[0]), LanesOf(operation.Operands[1]), RowsOf(operation.Operands[2]));
        // Factors are read until the end, so the result may not overwrite one that is the accumulator as well.
        var isFactor = operation.Operands[2] == operation.Operands[0] || operation.Operands[2] == operation.Operands[1];
        var result = isFactor ? NewLanes(operation.Result) : NewLanesOver(operation.Result, operation.Operands[2]);
        if (operation.Result.Type.Element == DType.Float64)
        {
            _code.Add(new DotDoubleInstruction(a, b, c, result));
            return;
        }
        var packed = b.ColStride == 1 ? null : _layout.Allocate(b.Rows * b.Cols * sizeof(float));
        _code.Add(new DotInstruction(a, b, c, result, packed?.Offset ?? 0));
        if (packed is not null) _layout.Free(packed);
    }

    private void CompileLookup(Operation operation)
    {
        var index = Dense(operation.Operands[0]);
        _code.Add(new LookupInstruction(operation.Table!, index, NewLanesOver(operation.Result, operation.Operands[0])));
    }
}
