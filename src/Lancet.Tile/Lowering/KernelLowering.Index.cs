using Lancet.Tile.IR;
using Lancet.Tile.Lowering.Threads;

namespace Lancet.Tile.Lowering;

// Index arithmetic in closed form, masks that are decided at compile time, and what they tell about runs of elements.
internal sealed partial class KernelLowering
{
    /// <summary>An integer item as an affine one of the wanted width; null if it is none.</summary>
    private AffineItem? Affine(Item item, DType element)
    {
        if (item.DType is not (DType.Int32 or DType.Int64)) return null;
        var affine = item switch
        {
            AffineItem known => known,
            ScalarItem scalar => new AffineItem(_builder, scalar.Type, scalar.Source, []),
            _ => null,
        };
        if (affine is null || affine.DType == element) return affine;
        var (to, from) = element == DType.Int64 ? (ThreadType.S64, ThreadType.S32) : (ThreadType.S32, ThreadType.S64);
        return new AffineItem(_builder, affine.Type.With(element), _builder.Convert(to, from, affine.Start), [.. affine.Terms.Select(term => (term.Axis, _builder.Convert(to, from, term.Coefficient)))]);
    }

    private AffineItem Combine(AffineItem a, AffineItem b, TileType type, int sign)
    {
        var thread = type.Element == DType.Int64 ? ThreadType.S64 : ThreadType.S32;
        Source Join(Source x, Source y) => sign > 0 ? _builder.Add(thread, x, y) : _builder.Subtract(thread, x, y);
        var terms = new List<(int Axis, Source Coefficient)>();
        foreach (var axis in a.Terms.Concat(b.Terms).Select(term => term.Axis).Distinct())
        {
            var coefficient = Join(a.Coefficient(axis), b.Coefficient(axis));
            if (coefficient != Source.Constant(0L)) terms.Add((axis, coefficient));
        }
        return new AffineItem(_builder, type, Join(a.Start, b.Start), terms);
    }

    private static Item Simplify(AffineItem item) => item.Terms.Count == 0 ? new ScalarItem(item.Type, new Element(item.Start)) : item;

    /// <summary>Sums, differences, multiples and conversions of affine items stay affine.</summary>
    private Item? AffineResult(Operation operation, Item[] operands)
    {
        var type = operation.Result.Type;
        if (type.Element is not (DType.Int32 or DType.Int64)) return null;
        switch (operation.Opcode)
        {
            case Opcode.Add or Opcode.Subtract when Affine(operands[0], type.Element) is { } a && Affine(operands[1], type.Element) is { } b:
                return Simplify(Combine(a, b, type, operation.Opcode == Opcode.Add ? 1 : -1));
            case Opcode.Multiply when Affine(operands[0], type.Element) is { } a && Affine(operands[1], type.Element) is { } b && (a.Terms.Count == 0 || b.Terms.Count == 0):
                if (a.Terms.Count == 0) (a, b) = (b, a);
                return new AffineItem(_builder, type, _builder.Multiply(a.ThreadType, a.Start, b.Start), [.. a.Terms.Select(term => (term.Axis, _builder.Multiply(a.ThreadType, term.Coefficient, b.Start)))]);
            case Opcode.ShiftLeft when Affine(operands[0], type.Element) is { } a && operands[1] is ScalarItem { Source.IsConstant: true } count && count.Source.Bits is >= 0 and < 31:
                var factor = Source.Constant(1L << (int)count.Source.Bits);
                return new AffineItem(_builder, type, _builder.Multiply(a.ThreadType, a.Start, factor), [.. a.Terms.Select(term => (term.Axis, _builder.Multiply(a.ThreadType, term.Coefficient, factor)))]);
            case Opcode.Cast when Affine(operands[0], operands[0].DType) is not null && operands[0].DType is DType.Int32 or DType.Int64:
                return Affine(operands[0], type.Element) is { } cast ? new AffineItem(_builder, type, cast.Start, cast.Terms) : null;
            default:
                return null;
        }
    }

    /// <summary>Masks whose value is known, and conjunctions with them.</summary>
    private Item? Decided(Operation operation, Item[] operands)
    {
        if (operation.Result.Type.Element != DType.Bool) return null;
        if (operation.Opcode is Opcode.And or Opcode.Or)
        {
            var neutral = operation.Opcode == Opcode.And ? 1 : 0;
            for (var i = 0; i < 2; i++)
            {
                if (operands[i] is not ScalarItem { Source.IsConstant: true } known) continue;
                return (known.Source.Bits != 0 ? 1 : 0) == neutral ? operands[1 - i] : known;
            }
        }
        if (operation.Opcode != Opcode.Compare || Affine(operands[0], operands[0].DType) is not { } a || Affine(operands[1], operands[1].DType) is not { } b) return null;
        if (Bounds(a) is not { } x || Bounds(b) is not { } y) return null;
        // The operands' extremes may belong to one axis that both vary along; the test is then stricter than need be, never wrong.
        bool? holds = operation.Comparison switch
        {
            Comparison.Less => x.High < y.Low ? true : x.Low >= y.High ? false : null,
            Comparison.LessOrEqual => x.High <= y.Low ? true : x.Low > y.High ? false : null,
            Comparison.Greater => x.Low > y.High ? true : x.High <= y.Low ? false : null,
            Comparison.GreaterOrEqual => x.Low >= y.High ? true : x.High < y.Low ? false : null,
            _ => null,
        };
        return holds is { } value ? new ScalarItem(operation.Result.Type, new Element(Source.Constant(value ? 1L : 0L))) : null;
    }

    private static (long Low, long High)? Bounds(AffineItem item)
    {
        if (!item.Start.IsConstant) return null;
        var (low, high) = (item.Start.Bits, item.Start.Bits);
        foreach (var (axis, coefficient) in item.Terms)
        {
            if (!coefficient.IsConstant) return null;
            var reach = coefficient.Bits * (item.Type.Dimensions[axis] - 1);
            if (reach > 0) high += reach;
            else low += reach;
        }
        return (low, high);
    }

    /// <summary>Whether an item has one value for each run of <paramref name="count"/> elements along an axis (runs start at multiples of the count).</summary>
    private bool IsUniform(Item? item, int axis, int count)
    {
        switch (item)
        {
            case null or ScalarItem:
                return true;
            case AffineItem affine:
                return affine.Coefficient(axis) == Source.Constant(0L);
            case ViewItem view:
                return !view.From.Contains(axis);
            case LazyItem { Operation.Opcode: Opcode.Compare } compare when Affine(compare.Operands[0], compare.Operands[0].DType) is { } a && Affine(compare.Operands[1], compare.Operands[1].DType) is { } b:
                return IsUniform(compare.Operation!.Comparison, a, b, axis, count);
            case LazyItem lazy:
                return lazy.Operands.All(operand => IsUniform(operand, axis, count));
            default:
                return false;
        }
    }

    private bool IsUniform(Comparison comparison, AffineItem a, AffineItem b, int axis, int count)
    {
        if (a.Coefficient(axis) == b.Coefficient(axis)) return true;
        // x + c·j < y for j in 0 … count − 1: if c·count divides everything else, all hold or none.
        var (moving, still) = b.Coefficient(axis) == Source.Constant(0L) ? (a, b) : (b, a);
        if (still.Coefficient(axis) != Source.Constant(0L)) return false;
        if (ReferenceEquals(moving, a) ? comparison is not (Comparison.Less or Comparison.GreaterOrEqual) : comparison is not (Comparison.Greater or Comparison.LessOrEqual)) return false;
        var step = moving.Coefficient(axis);
        if (!step.IsConstant || step.Bits <= 0 || !System.Numerics.BitOperations.IsPow2(step.Bits)) return false;
        var divisor = Math.Min(_builder.Divisor(a.Start), _builder.Divisor(b.Start));
        foreach (var term in a.Terms.Concat(b.Terms))
            if (term.Axis != axis) divisor = Math.Min(divisor, _builder.Divisor(term.Coefficient));
        return divisor >= step.Bits * count;
    }
}
