using Lancet.Tile.IR;
using Lancet.Tile.Lowering.Threads;

namespace Lancet.Tile.Lowering;

// Scratch memory lies in shared memory. Loads and stores reach it as they do global memory; copies into it are asynchronous.
internal sealed partial class KernelLowering
{
    // Layouts of the copies that were lowered, where threads are known to meet their own elements only.
    private readonly Dictionary<Operation, LinearLayout?> _copies = [];

    private PointerItem LowerScratch(Operation operation)
    {
        var type = operation.Result.Type;
        return new PointerItem(type, Source.Constant(_shared.Allocate(checked((int)operation.Integer * type.Element.SizeInBytes()))), null) { IsShared = true };
    }

    /// <summary>Starts a copy, a group: asynchronous in the widest pieces that the addresses allow, through registers if these have less than 4 bytes.</summary>
    private void LowerCopy(Operation operation)
    {
        var (from, to) = ((PointerItem)Get(operation.Operands[0]), (PointerItem)Get(operation.Operands[1]));
        var layout = _plan.Blocked(from.Type);
        _copies[operation] = Owned(to, layout);
        _order.Load(from, layout);
        _order.Store(to, Owned(to, layout));
        var run = Math.Min(RunLength(from, null, layout), RunLength(to, null, layout));
        var bytes = run * from.Type.Element.SizeInBytes();
        var original = _converter.IsOriginal(layout);
        var places = Addresses(to, layout);
        if (bytes >= 4)
        {
            var addresses = Addresses(from, layout);
            for (var first = 0; first < layout.RegisterCount; first += run) CopyAsync(places(first), addresses(first), bytes, Source.Constant(bytes), original);
        }
        else
        {
            var elements = LoadTile(from, null, ElementArithmetic.Constant(from.Type.Element, 0, 0), layout);
            for (var first = 0; first < elements.Length; first += run) StoreRun(to, places(first), elements.AsSpan(first, run), original);
        }
        _builder.Effect(ThreadOpcode.CommitCopies, ThreadType.B32, [], []);
    }

    private void LowerAwaitCopies(Operation operation)
    {
        _builder.Effect(ThreadOpcode.WaitCopies, ThreadType.B32, [], [], immediate: operation.Integer);
        foreach (var copy in _plan.Copies) _order.NoteCopy(copy.Operands[0].Type.Element, _copies.GetValueOrDefault(copy));
    }

    /// <summary>
    /// The layout of an access, for <see cref="MemoryOrder"/>. None for an access to scratch memory, unless it is one of whole tiles that lie one behind the other:
    /// only there do equal layouts mean that a thread meets its own elements.
    /// </summary>
    private LinearLayout? Owned(PointerItem pointer, LinearLayout layout)
    {
        if (!pointer.IsShared) return layout;
        if (pointer.Offset is null || Affine(pointer.Offset, pointer.Offset.DType) is not { } offset) return null;
        var elements = 1;
        for (var axis = pointer.Type.Rank - 1; axis >= 0; axis--)
        {
            var extent = pointer.Type.Dimensions[axis];
            if (extent > 1 && offset.Coefficient(axis) != Source.Constant(elements)) return null;
            elements *= extent;
        }
        return _builder.Divisor(offset.Start) % elements == 0 ? layout : null;
    }

    private void CopyAsync((Source Address, long Offset) target, (Source Address, long Offset) source, int width, Source count, Source condition) =>
        _builder.Append(new ThreadInstruction(ThreadOpcode.CopyAsync, ThreadType.B32, [], [target.Address, source.Address, count])
        {
            Guard = _converter.Guard(condition),
            Immediate = target.Offset,
            SourceOffset = source.Offset,
            Width = width,
            Location = _builder.Location,
        });
}
