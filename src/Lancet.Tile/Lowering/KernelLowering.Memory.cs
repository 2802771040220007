using Lancet.Tile.IR;
using Lancet.Tile.Lowering.Threads;

namespace Lancet.Tile.Lowering;

// Loads and stores: the widest accesses that addresses, alignment and masks allow.
internal sealed partial class KernelLowering
{
    private const int WidestAccess = 16;

    private Item LowerLoad(Operation operation)
    {
        // A pipeline has copied it.
        if (_environments.Peek().TryGetValue(operation.Result, out var copied)) return copied;
        var type = operation.Result.Type;
        var pointer = (PointerItem)Get(operation.Operands[0]);
        if (operation.IsOpaque) return LoadOpaque(operation, pointer);
        if (_plan.IsShared(operation)) return LoadShared(operation, pointer);
        var mask = operation.Operands.Length > 1 ? Get(operation.Operands[1]) : null;
        var other = operation.Operands.Length > 2 ? Scalar(operation.Operands[2]).Element : ElementArithmetic.Constant(type.Element, 0, 0);
        if (type.IsScalar)
        {
            _order.Load(pointer, null);
            return new ScalarItem(type, LoadRun(pointer, Addresses(pointer, Single())(0), 1, mask is null ? Source.Constant(1) : ((ScalarItem)mask).Source, other)[0]);
        }
        var layout = _plan.Of(operation.Result);
        _order.Load(pointer, Owned(pointer, layout));
        return new TileItem(_converter, type, layout, LoadTile(pointer, mask, other, layout));
    }

    private Element[] LoadTile(PointerItem pointer, Item? mask, Element other, LinearLayout layout)
    {
        var run = RunLength(pointer, mask, layout);
        var addresses = Addresses(pointer, layout);
        var conditions = mask?.In(layout);
        var result = new Element[layout.RegisterCount];
        for (var first = 0; first < result.Length; first += run)
            LoadRun(pointer, addresses(first), run, conditions is null ? Source.Constant(1) : conditions[first].Source, other).CopyTo(result, first);
        return result;
    }

    private void LowerStore(Operation operation)
    {
        var pointer = (PointerItem)Get(operation.Operands[0]);
        var value = Get(operation.Operands[1]);
        var mask = operation.Operands.Length > 2 ? Get(operation.Operands[2]) : null;
        if (operation.IsOpaque)
        {
            StoreOpaque(pointer, value, operation.Accumulates);
            return;
        }
        if (pointer.Type.IsScalar)
        {
            _order.Store(pointer, null);
            var first = IsFirstThread();
            var condition = mask is null ? first : _builder.And(ThreadType.Predicate, first, ((ScalarItem)mask).Source);
            StoreRun(pointer, Addresses(pointer, Single())(0), [((ScalarItem)value).Element], condition);
            return;
        }
        var layout = value switch
        {
            TileItem tile => tile.Layout,
            _ when !_plan.IsLazy(operation.Operands[1]) => _plan.Of(operation.Operands[1]),
            _ => _plan.Blocked(pointer.Type),
        };
        (layout, var elements) = Gathered(pointer, mask, layout, value.In(layout));
        _order.Store(pointer, Owned(pointer, layout));
        var run = RunLength(pointer, mask, layout);
        var addresses = Addresses(pointer, layout);
        var conditions = mask?.In(layout);
        var original = _converter.IsOriginal(layout);
        for (var first = 0; first < elements.Length; first += run)
        {
            var condition = conditions is null ? original : _builder.And(ThreadType.Predicate, original, conditions[first].Source);
            StoreRun(pointer, addresses(first), elements.AsSpan(first, run), condition);
        }
    }

    private Item LowerAtomicAdd(Operation operation)
    {
        var pointer = (PointerItem)Get(operation.Operands[0]);
        var value = Get(operation.Operands[1]);
        var mask = operation.Operands.Length > 2 ? Get(operation.Operands[2]) : null;
        if (pointer.Type.IsScalar) return LowerScalarAtomicAdd(operation, pointer, (ScalarItem)value, (ScalarItem?)mask);
        var layout = _plan.Of(operation.Result);
        if (layout.ReplicatedThreads() != 0)
            throw new TileException("an atomic addition whose tile is smaller than the program's threads is not available on the GPU; use a tile of 32 · Warps elements or more");
        _order.Store(pointer, layout);
        var addresses = Addresses(pointer, layout);
        var elements = value.In(layout);
        var conditions = mask?.In(layout);
        var type = pointer.Type.Element == DType.Int64 ? ThreadType.U64 : ThreadType.S32;
        var result = new Element[elements.Length];
        for (var register = 0; register < elements.Length; register++)
        {
            var (address, offset) = addresses(register);
            var old = _builder.Variable(ThreadBuilder.ClassOf(type), Source.Constant(0L));
            _builder.Effect(ThreadOpcode.AtomicAdd, type, [old], [address, elements[register].Source], conditions is null ? default : _converter.Guard(conditions[register].Source), offset);
            result[register] = new(old);
        }
        return new TileItem(_converter, operation.Result.Type, layout, result);
    }

    /// <summary>The layout of a scalar: one register, the same in all threads.</summary>
    private LinearLayout Single() => LinearLayout.Blocked([], 1, _kernel.Warps);

    /// <summary>For each register the address of its element: a register and a constant number of bytes.</summary>
    private Func<int, (Source Address, long Offset)> Addresses(PointerItem pointer, LinearLayout layout)
    {
        if (pointer.Offset is null) return _ => (pointer.Address, 0);
        long size = pointer.Type.Element.SizeInBytes();
        var dtype = pointer.Offset.DType;
        Source Move(Source address, Source offset) => pointer.IsShared
            ? _builder.Add(ThreadType.U32, address, _builder.Multiply(ThreadType.S32, dtype == DType.Int64 ? _builder.Convert(ThreadType.S32, ThreadType.S64, offset) : offset, Source.Constant(size)))
            : _builder.Add(ThreadType.U64, address, InBytes(offset, dtype, size));
        if (Affine(pointer.Offset, dtype) is { } affine)
        {
            var (thread, offsets) = affine.Split(layout);
            var start = Move(pointer.Address, thread);
            return register => offsets[register] is { IsConstant: true } constant && constant.Bits * size is >= int.MinValue and <= int.MaxValue
                ? (start, constant.Bits * size)
                : (Move(start, offsets[register]), 0);
        }
        var elements = pointer.Offset.In(layout);
        return register => (Move(pointer.Address, elements[register].Source), 0);
    }

    private Source InBytes(Source offset, DType dtype, long size) => dtype == DType.Int64
        ? _builder.Multiply(ThreadType.S64, offset, Source.Constant(size))
        : _builder.Pure(ThreadOpcode.MultiplyWide, ThreadType.S32, offset, Source.Constant(size));

    /// <summary>How many neighbouring registers can be read or written in one access: neighbours in memory, aligned, all in or all out of the mask.</summary>
    private int RunLength(PointerItem pointer, Item? mask, LinearLayout layout)
    {
        var size = pointer.Type.Element.SizeInBytes();
        if (UnitAxis(pointer) is not var (axis, offset)) return 1;
        var run = Math.Min(layout.Contiguous(axis), WidestAccess / size);
        var divisor = Math.Min(_builder.Divisor(pointer.Address) / size, _builder.Divisor(offset.Start));
        foreach (var term in offset.Terms)
            if (term.Axis != axis) divisor = Math.Min(divisor, _builder.Divisor(term.Coefficient));
        run = (int)Math.Max(1, Math.Min(run, divisor));
        while (run > 1 && !IsUniform(mask, axis, run)) run /= 2;
        return run;
    }

    /// <summary>The axis whose neighbours are neighbours in memory, and the offset; null if there is none.</summary>
    private (int Axis, AffineItem Offset)? UnitAxis(PointerItem pointer)
    {
        if (pointer.Offset is null || Affine(pointer.Offset, pointer.Offset.DType) is not { } offset) return null;
        foreach (var (axis, coefficient) in offset.Terms)
            if (coefficient == Source.Constant(1L)) return (axis, offset);
        return null;
    }

    private Element[] LoadRun(PointerItem pointer, (Source Address, long Offset) at, int run, Source condition, Element other)
    {
        var dtype = pointer.Type.Element;
        var size = dtype.SizeInBytes();
        var (type, count) = Access(dtype, run);
        var result = new Element[run];
        if (condition is { IsConstant: true, Bits: 0 })
        {
            Array.Fill(result, other);
            return result;
        }
        var guard = _converter.Guard(condition);
        var initial = Repeat(other, dtype, size, run);
        var registers = new Register[count];
        for (var i = 0; i < count; i++) registers[i] = guard.Exists ? _builder.Variable(ThreadBuilder.ClassOf(type), initial) : _builder.New(ThreadBuilder.ClassOf(type));
        _builder.Effect(pointer.IsShared ? ThreadOpcode.LoadShared : ThreadOpcode.LoadGlobal, type, registers, [at.Address], guard, at.Offset);
        for (var i = 0; i < run; i++)
        {
            result[i] = size switch
            {
                2 when run == 1 => new(registers[0], RegisterPart.Low),
                2 => new(registers[i / 2], i % 2 == 0 ? RegisterPart.Low : RegisterPart.High),
                1 when run == 1 => new(registers[0]),
                1 => new(Byte(registers[i / 4], i % 4, dtype)),
                _ => new(registers[i]),
            };
        }
        return result;
    }

    private void StoreRun(PointerItem pointer, (Source Address, long Offset) at, ReadOnlySpan<Element> elements, Source condition)
    {
        var dtype = pointer.Type.Element;
        if (condition is { IsConstant: true, Bits: 0 }) return;
        var (type, count) = Access(dtype, elements.Length);
        var sources = new Source[count + 1];
        sources[0] = at.Address;
        for (var i = 0; i < count; i++)
        {
            sources[i + 1] = dtype.SizeInBytes() switch
            {
                2 when elements.Length == 1 => _arithmetic.Alone(elements[0]),
                2 => _arithmetic.Pack(elements[2 * i], elements[(2 * i) + 1]),
                1 when elements.Length == 1 => elements[0].Source,
                1 => Bytes(elements.Slice(4 * i, Math.Min(4, elements.Length))),
                _ => elements[i].Source,
            };
        }
        _builder.Effect(pointer.IsShared ? ThreadOpcode.StoreShared : ThreadOpcode.StoreGlobal, type, [], sources, _converter.Guard(condition), at.Offset);
    }

    /// <summary>Type and number of registers of an access to a run of elements.</summary>
    private static (ThreadType Type, int Count) Access(DType dtype, int run) => (dtype.SizeInBytes(), run) switch
    {
        (1, 1) => (dtype == DType.Int8 ? ThreadType.S8 : ThreadType.U8, 1),
        (1, 2) => (ThreadType.U16, 1),
        (1, _) => (ThreadType.B32, run / 4),
        (2, 1) => (ThreadType.U16, 1),
        (2, _) => (ThreadType.B32, run / 2),
        (8, _) => (ThreadType.B64, run),
        _ => (ThreadType.B32, run),
    };

    private static Source Repeat(Element other, DType dtype, int size, int run) => size switch
    {
        1 when run > 1 => Source.Constant((other.Source.Bits & 0xff) * 0x01010101),
        2 when run > 1 => Source.Constant((other.Source.Bits & 0xffff) * 0x00010001),
        _ => dtype == DType.Int8 ? Source.Constant((long)(sbyte)other.Source.Bits) : other.Source,
    };

    private Source Byte(Source word, int index, DType dtype) => dtype == DType.Int8
        ? _builder.ShiftRight(ThreadType.S32, _builder.ShiftLeft(ThreadType.B32, word, 24 - (8 * index)), 24)
        : _builder.And(ThreadType.B32, _builder.ShiftRight(ThreadType.U32, word, 8 * index), Source.Constant(255));

    private Source Bytes(ReadOnlySpan<Element> elements)
    {
        var word = Source.Constant(0L);
        for (var i = 0; i < elements.Length; i++)
        {
            var value = _builder.And(ThreadType.B32, elements[i].Source, Source.Constant(255));
            word = _builder.Or(ThreadType.B32, word, _builder.ShiftLeft(ThreadType.B32, value, 8 * i));
        }
        return word;
    }
}
