using Lancet.Tile.IR;
using Lancet.Tile.Lowering.Threads;

namespace Lancet.Tile.Lowering;

// What programs of one launch tell each other: numbers drawn from a counter, flags, and matrices in the order in which registers hold them.
internal sealed partial class KernelLowering
{
    private readonly Dictionary<(DType Element, int Rows, int Columns), LinearLayout> _opaqueLayouts = [];

    // One thread adds, and all read what it found.
    private ScalarItem LowerScalarAtomicAdd(Operation operation, PointerItem pointer, ScalarItem value, ScalarItem? mask)
    {
        _order.Store(pointer, null);
        var type = pointer.Type.Element == DType.Int64 ? ThreadType.U64 : ThreadType.S32;
        var access = type == ThreadType.U64 ? ThreadType.B64 : ThreadType.B32;
        var isFirst = IsFirstThread();
        var condition = mask is null ? isFirst : _builder.And(ThreadType.Predicate, isFirst, mask.Source);
        var (address, offset) = Addresses(pointer, Single())(0);
        var old = _builder.Variable(ThreadBuilder.ClassOf(type), Source.Constant(0L));
        _builder.Effect(ThreadOpcode.AtomicAdd, type, [old], [address, value.Source], _converter.Guard(condition), offset);
        var place = _shared.BeginScratch(pointer.Type.Element.SizeInBytes());
        _builder.Effect(ThreadOpcode.StoreShared, access, [], [place, old], _converter.Guard(isFirst));
        _shared.Barrier();
        var result = _builder.New(ThreadBuilder.ClassOf(type));
        _builder.Effect(ThreadOpcode.LoadShared, access, [result], [place]);
        _shared.EndScratch();
        return new ScalarItem(operation.Result.Type, new(result));
    }

    private Source FlagAddress(Operation operation)
    {
        var (address, offset) = Addresses((PointerItem)Get(operation.Operands[0]), Single())(0);
        return offset == 0 ? address : _builder.Add(ThreadType.U64, address, Source.Constant(offset));
    }

    // One warp waits, another than the one that signals; the next barrier tells the others.
    private void LowerAwait(Operation operation)
    {
        _builder.Effect(ThreadOpcode.AwaitFlag, ThreadType.S32, [], [FlagAddress(operation), Scalar(operation.Operands[1]).Source], immediate: _kernel.Warps - 1);
        _order.NoteAwait();
    }

    private void LowerSignal(Operation operation)
    {
        if (_order.HasUnshownStores) _shared.Barrier();
        _builder.Effect(ThreadOpcode.SignalFlag, ThreadType.S32, [], [FlagAddress(operation), Scalar(operation.Operands[1]).Source], _converter.Guard(IsFirstThread()));
    }

    private Source IsFirstThread() => _builder.Compare(ThreadType.U32, Comparison.Equal, _builder.Special(SpecialRegister.ThreadId), Source.Constant(0));

    private TileItem LoadOpaque(Operation operation, PointerItem pointer)
    {
        if (_order.HasUnknownSignals) _shared.Barrier();
        var layout = OpaqueLayout(operation.Result.Type, _plan.Of(operation.Result));
        var (place, run) = OpaquePlaces(pointer, layout);
        var elements = new Element[layout.RegisterCount];
        for (var first = 0; first < elements.Length; first += run)
            LoadRun(pointer, place(first), run, Source.Constant(1), ElementArithmetic.Constant(pointer.Type.Element, 0, 0)).CopyTo(elements, first);
        return new TileItem(_converter, operation.Result.Type, layout, elements);
    }

    private void StoreOpaque(PointerItem pointer, Item value, bool accumulates)
    {
        if (_order.HasUnknownSignals) _shared.Barrier();
        var layout = OpaqueLayout(value.Type, value is TileItem tile ? tile.Layout : _plan.Blocked(value.Type));
        var (place, run) = OpaquePlaces(pointer, layout);
        var elements = value.In(layout);
        if (accumulates && !_target.HasWarpGroups) run = 1;
        for (var first = 0; first < elements.Length; first += run)
        {
            if (!accumulates)
            {
                StoreRun(pointer, place(first), elements.AsSpan(first, run), Source.Constant(1));
                continue;
            }
            var (address, offset) = place(first);
            _builder.Effect(ThreadOpcode.AddGlobal, ThreadType.F32, [], [address, .. elements[first..(first + run)].Select(element => element.Source)], immediate: offset);
        }
        _order.NoteOpaqueStore();
    }

    // A thread finds its own elements again, so all accesses to matrices of one shape agree on who holds what.
    private LinearLayout OpaqueLayout(TileType type, LinearLayout layout)
    {
        var key = (type.Element, type.Dimensions[0], type.Dimensions[1]);
        if (!_opaqueLayouts.TryAdd(key, layout) && !_opaqueLayouts[key].Equals(layout)) throw new TileException($"opaque matrices of type {type} are held in two layouts");
        if (layout.ReplicatedThreads() != 0) throw new TileException($"an opaque matrix of type {type} is smaller than the program's threads");
        return layout;
    }

    /// <summary>
    /// Where a register lies: warp after warp; in a warp's part the lanes' first four registers behind each other, then their next four. (With all warps' first four in front, sums of attention's
    /// backward pass took 2 % longer.)
    /// </summary>
    private (Func<int, (Source Address, long Offset)> Place, int Run) OpaquePlaces(PointerItem pointer, LinearLayout layout)
    {
        const int widest = 4, lanes = 32;
        long size = pointer.Type.Element.SizeInBytes();
        var together = Math.Min(widest, layout.RegisterCount);
        var start = Affine(pointer.Offset!, pointer.Offset!.DType)!;
        var first = _builder.Add(ThreadType.U64, pointer.Address, InBytes(start.Start, start.DType, size));
        var isAligned = size * together <= WidestAccess && Math.Min(_builder.Divisor(pointer.Address), _builder.Divisor(start.Start) * size) >= size * together;
        Source Part(int mask, long bytes) => _builder.Pure(
            ThreadOpcode.MultiplyWide, ThreadType.U32, _builder.And(ThreadType.B32, _builder.Special(SpecialRegister.ThreadId), Source.Constant(mask)), Source.Constant(bytes));
        var mine = _builder.Add(ThreadType.U64, _builder.Add(ThreadType.U64, first, Part(~(lanes - 1), layout.RegisterCount * size)), Part(lanes - 1, together * size));
        return (register => (mine, ((register / together * lanes * together) + (register % together)) * size), isAligned ? together : 1);
    }
}
