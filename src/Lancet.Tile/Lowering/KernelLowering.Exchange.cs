using Lancet.Tile.IR;
using Lancet.Tile.Lowering.Threads;

namespace Lancet.Tile.Lowering;

// Stores of products' results. Where a thread holds them, two neighbours lie together and a store of a warp touches eight rows, four bytes a thread; before
// the store, lanes exchange elements until each has 16 bytes that lie together.
internal sealed partial class KernelLowering
{
    /// <summary>A lane bit and a register bit that change places, so that a lane then holds what the register told apart before.</summary>
    private readonly record struct Exchange(int Lane, int Register);

    /// <summary>
    /// The elements of a product's result as they are stored best: longer runs than its own layout has, by exchanges between lanes. The same layout and elements where there is nothing to
    /// gain, where the mask would have to move, too, or where threads write what they read, whose accesses are as short anyway and would then be of others' elements.
    /// </summary>
    private (LinearLayout Layout, Element[] Elements) Gathered(PointerItem pointer, Item? mask, LinearLayout layout, Element[] elements)
    {
        var size = pointer.Type.Element.SizeInBytes();
        if (!layout.IsProduct || pointer.IsShared || size is not (2 or 4) || _order.WasRead(pointer, layout) || mask is { IsLazy: false } || UnitAxis(pointer) is not var (axis, _)) return (layout, elements);
        var own = RunLength(pointer, mask, layout);
        // In a loop stores overlap with other work, and exchanges of pairs take as many instructions as they save.
        if (own > 1 && _order.IsInLoop) return (layout, elements);
        for (var run = WidestAccess / size; run > own; run /= 2)
        {
            if (Exchanges(layout, axis, run, size == 2 ? 1 : 0) is not var (exchanges, target) || RunLength(pointer, mask, target) != run) continue;
            return (target, Exchanged(layout, elements, exchanges, target, size == 2));
        }
        return (layout, elements);
    }

    /// <summary>The exchanges that give each thread <paramref name="run"/> neighbours along an axis, and the layout then; null if lanes do not hold them. The lowest register bits are left alone.</summary>
    private static (List<Exchange> Exchanges, LinearLayout Target)? Exchanges(LinearLayout layout, int axis, int run, int untouched)
    {
        int[][] registers = [.. layout.Registers], lanes = [.. layout.Lanes];
        bool IsNear(int[] basis) => basis[axis] > 0 && basis[axis] < run && !basis.Where((x, other) => other != axis && x != 0).Any();
        var exchanges = new List<Exchange>();
        for (var distance = 1; distance < run; distance <<= 1)
        {
            bool IsWanted(int[] basis) => IsNear(basis) && basis[axis] == distance;
            if (Array.Exists(registers, IsWanted)) continue;
            var lane = Array.FindIndex(lanes, IsWanted);
            // What a lane gets in return is near if there is such a thing, so that lanes next to each other store next to each other.
            var register = Enumerable.Range(untouched, Math.Max(0, registers.Length - untouched)).Where(bit => !IsNear(registers[bit])).OrderBy(bit => registers[bit][axis] == 0).ThenBy(bit => registers[bit].Sum()).FirstOrDefault(-1);
            if (lane < 0 || register < 0) return null;
            (registers[register], lanes[lane]) = (lanes[lane], registers[register]);
            exchanges.Add(new(lane, register));
        }
        int[][] ordered = [.. registers.Where(IsNear).OrderBy(basis => basis[axis]), .. registers.Where(basis => !IsNear(basis))];
        return (exchanges, new LinearLayout(layout.Rank, ordered, lanes, [.. layout.Warps]));
    }

    private Element[] Exchanged(LinearLayout layout, Element[] elements, List<Exchange> exchanges, LinearLayout target, bool isHalf)
    {
        // 16-bit elements go in pairs.
        var pair = isHalf ? 1 : 0;
        var words = _arithmetic.Words(elements, isHalf);
        int[][] registers = [.. layout.Registers], lanes = [.. layout.Lanes];
        foreach (var (lane, register) in exchanges)
        {
            var bit = _builder.And(ThreadType.B32, _builder.Special(SpecialRegister.ThreadId), Source.Constant(1L << lane));
            var isSet = _builder.Compare(ThreadType.U32, Comparison.NotEqual, bit, Source.Constant(0));
            Source Either(Source set, Source clear) => _builder.Select(ThreadType.B32, isSet, set, clear);
            var step = 1 << (register - pair);
            for (var i = 0; i < words.Length; i++)
            {
                if ((i & step) != 0) continue;
                var (low, high) = (words[i], words[i | step]);
                var other = Shuffle(new Element(Either(low, high)), 1 << lane, DType.UInt32).Source;
                (words[i], words[i | step]) = (Either(other, low), Either(high, other));
            }
            (registers[register], lanes[lane]) = (lanes[lane], registers[register]);
        }
        var moved = ElementArithmetic.Elements(words, elements.Length, isHalf);
        return [.. new LinearLayout(layout.Rank, registers, lanes, [.. layout.Warps]).RegistersOf(target)!.Select(register => moved[register])];
    }
}
