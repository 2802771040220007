using Lancet.Tile.IR;
using Lancet.Tile.Lowering.Threads;

namespace Lancet.Tile.Lowering;

// Reductions in a fixed order: registers, then lanes, then warps.
internal sealed partial class KernelLowering
{
    private Item LowerReduce(Operation operation)
    {
        var (operand, axis) = (operation.Operands[0], operation.Axis);
        var item = Get(operand);
        var layout = _plan.IsLazy(operand) ? _plan.Blocked(operand.Type) : _plan.Of(operand);
        var elements = item.In(layout);
        var result = layout.Slice(axis);
        var type = operation.Result.Type;
        int[] shape = [.. type.Dimensions];
        var dtype = type.Element;
        var combine = operation.Opcode switch { Opcode.ReduceSum => Opcode.Add, Opcode.ReduceMax => Opcode.Maximum, _ => Opcode.Minimum };

        // Registers: pairwise, in order of the coordinate.
        var groups = new SortedDictionary<int, SortedDictionary<int, Element>>();
        for (var register = 0; register < elements.Length; register++)
        {
            var index = 0;
            for (var a = 0; a < layout.Rank; a++)
                if (a != axis) index = (index * operand.Type.Dimensions[a]) + layout.Coordinate(a, register);
            if (!groups.TryGetValue(index, out var group)) groups[index] = group = [];
            group[layout.Coordinate(axis, register)] = elements[register];
        }
        var sums = new Element[result.RegisterCount];
        for (var register = 0; register < sums.Length; register++) sums[register] = Fold([.. groups[result.Index(shape, register)].Values], combine, dtype);

        // Lanes: butterflies over the lane bits that move along the axis.
        for (var bit = 0; bit < 5; bit++)
        {
            if (layout.Lanes[bit][axis] == 0) continue;
            for (var register = 0; register < sums.Length; register++) sums[register] = _arithmetic.Binary(combine, dtype, sums[register], Shuffle(sums[register], 1 << bit, dtype));
        }
        var warpBits = Enumerable.Range(0, layout.Warps.Count).Where(bit => layout.Warps[bit][axis] != 0).ToList();
        if (warpBits.Count > 0) sums = ReduceWarps(sums, layout, result, warpBits, shape, axis, combine, dtype);
        return type.IsScalar ? new ScalarItem(type, sums[0]) : new TileItem(_converter, type, result, sums);
    }

    private Element Fold(Element[] values, Opcode combine, DType dtype)
    {
        while (values.Length > 1)
        {
            var next = new Element[(values.Length + 1) / 2];
            for (var i = 0; i < next.Length; i++) next[i] = (2 * i) + 1 < values.Length ? _arithmetic.Binary(combine, dtype, values[2 * i], values[(2 * i) + 1]) : values[2 * i];
            values = next;
        }
        return values[0];
    }

    private Element Shuffle(Element value, int mask, DType dtype)
    {
        Register Exchange(Source word)
        {
            var result = _builder.New(RegisterClass.Bits32);
            _builder.Effect(ThreadOpcode.ShuffleXor, ThreadType.B32, [result], [word], immediate: mask);
            return result;
        }
        if (ThreadBuilder.ClassOf(ElementArithmetic.TypeOf(dtype)) == RegisterClass.Bits32) return new(Exchange(value.Source));
        var low = Exchange(_builder.Convert(ThreadType.U32, ThreadType.U64, value.Source));
        var high = Exchange(_builder.Convert(ThreadType.U32, ThreadType.U64, _builder.ShiftRight(ThreadType.U64, value.Source, 32)));
        return new(_builder.Or(ThreadType.B64, _builder.Convert(ThreadType.U64, ThreadType.U32, low), _builder.ShiftLeft(ThreadType.B64, _builder.Convert(ThreadType.U64, ThreadType.U32, high), 32)));
    }

    // Every warp writes its part, and all threads add the parts up in order of the warps.
    private Element[] ReduceWarps(Element[] sums, LinearLayout layout, LinearLayout result, List<int> warpBits, int[] shape, int axis, Opcode combine, DType dtype)
    {
        var size = Math.Max(4, dtype.SizeInBytes());
        var access = size == 8 ? ThreadType.B64 : ThreadType.B32;
        var count = shape.Aggregate(1, (product, extent) => product * extent);
        var parts = 1 << warpBits.Count;
        var area = _shared.BeginScratch(parts * count * size);
        var thread = _builder.Special(SpecialRegister.ThreadId);

        // Lanes along the axis, and threads with copies, hold the same sums; one of them writes.
        var silent = result.ReplicatedThreads();
        var part = Source.Constant(0L);
        for (var i = 0; i < warpBits.Count; i++)
        {
            silent &= ~(1 << (5 + warpBits[i]));
            var bit = _builder.And(ThreadType.B32, _builder.ShiftRight(ThreadType.U32, thread, 5 + warpBits[i]), Source.Constant(1));
            part = _builder.Or(ThreadType.B32, part, _builder.ShiftLeft(ThreadType.B32, bit, i));
        }
        var guard = silent == 0 ? default : _converter.Guard(_builder.Compare(ThreadType.U32, Comparison.Equal, _builder.And(ThreadType.B32, thread, Source.Constant(silent)), Source.Constant(0)));
        var place = _builder.Add(ThreadType.U32, area, _builder.Multiply(ThreadType.U32, _converter.ThreadIndex(result, shape), Source.Constant(size)));
        var target = _builder.Add(ThreadType.U32, place, _builder.Multiply(ThreadType.U32, part, Source.Constant(count * size)));
        for (var register = 0; register < sums.Length; register++)
            _builder.Effect(ThreadOpcode.StoreShared, access, [], [target, sums[register].Source], guard, (long)result.Index(shape, register) * size);
        _shared.Barrier();
        var totals = new Element[sums.Length];
        for (var register = 0; register < totals.Length; register++)
        {
            var values = new Element[parts];
            for (var p = 0; p < parts; p++)
            {
                var value = _builder.New(ThreadBuilder.ClassOf(access));
                _builder.Effect(ThreadOpcode.LoadShared, access, [value], [place], immediate: ((long)p * count * size) + ((long)result.Index(shape, register) * size));
                values[p] = new(value);
            }
            totals[register] = Fold(values, combine, dtype);
        }
        _shared.EndScratch();
        return totals;
    }
}
