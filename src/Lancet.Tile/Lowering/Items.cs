using Lancet.Tile.IR;
using Lancet.Tile.Lowering.Threads;

namespace Lancet.Tile.Lowering;

/// <summary>A value of the tile IR during lowering. It can give a thread's elements in any layout that is asked for.</summary>
internal abstract class Item(TileType type)
{
    public TileType Type { get; } = type;

    public DType DType => Type.Element;

    /// <summary>The elements that a thread holds in a layout, by register.</summary>
    public abstract Element[] In(LinearLayout layout);

    /// <summary>The same value with its axes moved: axis a of this is axis <paramref name="from"/>[a] of the result, −1 for an axis of extent 1.</summary>
    public abstract Item View(TileType type, int[] from);

    /// <summary>Waits until the value is there, if it is still being computed.</summary>
    public virtual void Settle()
    {
    }

    /// <summary>Whether this is arithmetic on thread numbers and scalars, which any layout can recompute.</summary>
    public virtual bool IsLazy => false;
}

/// <summary>One element, the same in all threads.</summary>
internal sealed class ScalarItem(TileType type, Element element) : Item(type)
{
    public Element Element { get; } = element;

    public Source Source => Element.Source;

    public override bool IsLazy => true;

    public override Element[] In(LinearLayout layout)
    {
        var result = new Element[layout.RegisterCount];
        Array.Fill(result, Element);
        return result;
    }

    public override Item View(TileType type, int[] from) => new ScalarItem(type, Element);
}

/// <summary>Index arithmetic: base + Σ coefficient · coordinate, int32 or int64, with scalar coefficients.</summary>
internal sealed class AffineItem(ThreadBuilder builder, TileType type, Source start, IReadOnlyList<(int Axis, Source Coefficient)> terms) : Item(type)
{
    public Source Start { get; } = start;

    public IReadOnlyList<(int Axis, Source Coefficient)> Terms { get; } = terms;

    public ThreadType ThreadType => DType == DType.Int64 ? ThreadType.S64 : ThreadType.S32;

    public override bool IsLazy => true;

    /// <summary>Coefficient of an axis; 0 if there is none.</summary>
    public Source Coefficient(int axis)
    {
        foreach (var term in Terms)
            if (term.Axis == axis) return term.Coefficient;
        return Source.Constant(0L);
    }

    public override Element[] In(LinearLayout layout)
    {
        var (thread, offsets) = Split(layout);
        return [.. offsets.Select(offset => new Element(builder.Add(ThreadType, thread, offset)))];
    }

    /// <summary>The thread's part of the value, and what each register adds to it.</summary>
    public (Source Thread, Source[] Offsets) Split(LinearLayout layout)
    {
        var thread = Start;
        foreach (var (axis, coefficient) in Terms)
        {
            var coordinate = ThreadCoordinates.Of(builder, layout, axis);
            if (DType == DType.Int32) thread = builder.Add(ThreadType.S32, thread, builder.Multiply(ThreadType.S32, coordinate, coefficient));
            else thread = builder.Add(ThreadType.S64, thread, Wide(coordinate, coefficient));
        }
        var offsets = new Source[layout.RegisterCount];
        for (var register = 0; register < offsets.Length; register++)
        {
            var offset = Source.Constant(0L);
            foreach (var (axis, coefficient) in Terms)
                offset = builder.Add(ThreadType, offset, builder.Multiply(ThreadType, coefficient, Source.Constant(layout.Coordinate(axis, register))));
            offsets[register] = offset;
        }
        return (thread, offsets);
    }

    public override Item View(TileType type, int[] from) =>
        new AffineItem(builder, type, Start, [.. Terms.Where(term => from[term.Axis] >= 0).Select(term => (from[term.Axis], term.Coefficient))]);

    private Source Wide(Source coordinate, Source coefficient) => coefficient.IsConstant && coefficient.Bits is >= int.MinValue and <= int.MaxValue
        ? builder.Pure(ThreadOpcode.MultiplyWide, ThreadType.S32, coordinate, coefficient)
        : builder.Multiply(ThreadType.S64, builder.Convert(ThreadType.S64, ThreadType.S32, coordinate), coefficient);
}

/// <summary>An elementwise operation on lazy operands, computed where and in the layout in which it is used.</summary>
internal sealed class LazyItem(TileType type, Item[] operands, Func<Element[], Element> apply) : Item(type)
{
    public Item[] Operands { get; } = operands;

    /// <summary>The operation, for questions about masks.</summary>
    public Operation? Operation { get; init; }

    public override bool IsLazy => true;

    public override Element[] In(LinearLayout layout)
    {
        var inputs = Operands.Select(operand => operand.In(layout)).ToArray();
        var result = new Element[layout.RegisterCount];
        var arguments = new Element[inputs.Length];
        for (var register = 0; register < result.Length; register++)
        {
            for (var i = 0; i < inputs.Length; i++) arguments[i] = inputs[i][register];
            result[register] = apply(arguments);
        }
        return result;
    }

    public override Item View(TileType type, int[] from) =>
        new LazyItem(type, [.. Operands.Select(operand => operand.View(new TileType(operand.DType, operand.Type.IsPointer, type.Dimensions), from))], apply) { Operation = Operation };
}

/// <summary>A tile held in registers.</summary>
/// <param name="converter">Moves it to other layouts.</param>
/// <param name="type">Type.</param>
/// <param name="layout">Who holds what.</param>
/// <param name="elements">A thread's elements, by register.</param>
/// <param name="await">Called before each use; for results that are still being computed.</param>
internal sealed class TileItem(Converter converter, TileType type, LinearLayout layout, Element[] elements, Action? await = null) : Item(type)
{
    private readonly List<(LinearLayout Layout, Element[] Elements, int Scope)> _converted = [];

    public LinearLayout Layout { get; } = layout;

    public Element[] Elements
    {
        get
        {
            Settle();
            return elements;
        }
    }

    public override void Settle() => await?.Invoke();

    /// <summary>Whether these registers hold the tile.</summary>
    public bool IsIn(Register[] registers) => elements.Select(element => element.Source.Register).SequenceEqual(registers);

    public override Element[] In(LinearLayout layout)
    {
        if (layout.Equals(Layout)) return Elements;
        foreach (var known in _converted)
            if (known.Layout.Equals(layout) && converter.Builder.IsOpen(known.Scope)) return known.Elements;
        var result = converter.Convert(this, layout);
        _converted.Add((layout, result, converter.Builder.Scope));
        return result;
    }

    public override Item View(TileType type, int[] from) => new ViewItem(this, type, from);
}

/// <summary>A tile in registers seen with axes inserted, repeated or swapped.</summary>
internal sealed class ViewItem(Item tile, TileType type, int[] from) : Item(type)
{
    public Item Tile { get; } = tile;

    public override void Settle() => Tile.Settle();

    /// <summary>Axis of this view for each axis of the tile.</summary>
    public int[] From { get; } = from;

    public override Element[] In(LinearLayout layout)
    {
        var inner = layout.Project(From);
        // Registers may fall together in the projection: find each one's element by its coordinates.
        var places = new Dictionary<int, int>();
        for (var register = inner.RegisterCount - 1; register >= 0; register--) places[inner.Index(Tile.Type.Dimensions, register)] = register;
        var elements = Tile.In(inner);
        var result = new Element[layout.RegisterCount];
        for (var register = 0; register < result.Length; register++)
        {
            var index = 0;
            for (var axis = 0; axis < From.Length; axis++) index = (index * Tile.Type.Dimensions[axis]) + (From[axis] < 0 ? 0 : layout.Coordinate(From[axis], register));
            result[register] = elements[places[index]];
        }
        return result;
    }

    public override Item View(TileType type, int[] from) => new ViewItem(Tile, type, [.. From.Select(axis => axis < 0 ? -1 : from[axis])]);
}

/// <summary>Addresses: a base address and an offset in elements.</summary>
internal sealed class PointerItem(TileType type, Source address, Item? offset) : Item(type)
{
    public Source Address { get; } = address;

    public Item? Offset { get; } = offset;

    /// <summary>Whether the address is one of shared memory: 32 bits, from its start.</summary>
    public bool IsShared { get; init; }

    public override bool IsLazy => Offset?.IsLazy ?? true;

    public override Element[] In(LinearLayout layout) => throw new InvalidOperationException("Addresses are used by memory operations only.");

    public override Item View(TileType type, int[] from) =>
        new PointerItem(type, Address, Offset?.View(new TileType(Offset.DType, false, type.Dimensions), from)) { IsShared = IsShared };
}

/// <summary>A 16-bit or fp32 matrix in shared memory, waiting to be an operand of products.</summary>
internal sealed class SharedItem(TileType type, SharedTile tile, bool isTransposed) : Item(type)
{
    public SharedTile Tile { get; } = tile;

    /// <summary>Whether the value is the transpose of what is stored.</summary>
    public bool IsTransposed { get; } = isTransposed;

    /// <summary>Reads the matrix, not transposed, into registers.</summary>
    public required Func<SharedTile, LinearLayout, Element[]> Read { get; init; }

    public override Element[] In(LinearLayout layout) => Read(Tile, IsTransposed ? layout.Project([1, 0]) : layout);

    public override Item View(TileType type, int[] from) => new SharedItem(type, Tile, from is [1, 0] ? !IsTransposed : IsTransposed) { Read = Read };
}

/// <summary>A tile in memory, read where and in the layout in which it is used.</summary>
internal sealed class StoredItem(TileType type, Func<LinearLayout, Element[]> read) : Item(type)
{
    public override Element[] In(LinearLayout layout) => read(layout);

    public override Item View(TileType type, int[] from) => new ViewItem(this, type, from);
}

/// <summary>Coordinates of a thread's first element.</summary>
internal static class ThreadCoordinates
{
    /// <summary>What the thread's number adds to the coordinate along an axis; the rest comes from the register.</summary>
    public static Source Of(ThreadBuilder builder, LinearLayout layout, int axis)
    {
        var thread = builder.Special(SpecialRegister.ThreadId);
        var sum = Source.Constant(0L);
        for (var bit = 0; bit < layout.ThreadBits;)
        {
            var basis = layout.Thread(bit)[axis];
            var length = 1;
            if (basis == 0)
            {
                bit++;
                continue;
            }
            while (bit + length < layout.ThreadBits && layout.Thread(bit + length)[axis] == basis << length) length++;
            var isTop = bit + length == layout.ThreadBits;
            var part = builder.ShiftRight(ThreadType.U32, thread, bit);
            if (!isTop) part = builder.And(ThreadType.B32, part, Source.Constant((1L << length) - 1));
            sum = builder.Add(ThreadType.S32, sum, builder.ShiftLeft(ThreadType.B32, part, System.Numerics.BitOperations.Log2((uint)basis)));
            bit += length;
        }
        return sum;
    }
}
