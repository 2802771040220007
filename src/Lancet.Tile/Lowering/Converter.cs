using Lancet.Tile.Lowering.Threads;

namespace Lancet.Tile.Lowering;

/// <summary>Moves tiles from layout to layout: by renaming registers where every thread holds what it needs, else through shared memory.</summary>
internal sealed class Converter(ThreadBuilder builder, ElementArithmetic arithmetic, SharedMemory shared)
{
    public ThreadBuilder Builder => builder;

    public Element[] Convert(TileItem tile, LinearLayout target)
    {
        if (tile.Layout.RegistersOf(target) is { } map) return [.. map.Select(register => tile.Elements[register])];
        builder.Program.LayoutConversions++;
        var (type, size) = Storage(tile.DType);
        var area = shared.BeginScratch(tile.Type.Count * size);
        WriteTo(area, tile, tile.Layout, tile.Elements);
        shared.Barrier();
        var start = builder.Add(ThreadType.U32, area, builder.Multiply(ThreadType.U32, ThreadIndex(target, tile.Type.Dimensions), Source.Constant(size)));
        var result = new Element[target.RegisterCount];
        for (var register = 0; register < result.Length; register++)
        {
            var value = builder.New(ThreadBuilder.ClassOf(type));
            builder.Effect(ThreadOpcode.LoadShared, type, [value], [start], immediate: (long)target.Index(tile.Type.Dimensions, register) * size);
            result[register] = tile.DType == DType.Bool
                ? new(builder.Compare(ThreadType.U32, IR.Comparison.NotEqual, value, Source.Constant(0)))
                : new(value, ElementArithmetic.IsHalf(tile.DType) ? RegisterPart.Low : RegisterPart.Whole);
        }
        shared.EndScratch();
        return result;
    }

    /// <summary>A predicate that holds in one of the threads that have copies of the same elements; true if there are no copies.</summary>
    public Source IsOriginal(LinearLayout layout)
    {
        var mask = layout.ReplicatedThreads();
        if (mask == 0) return Source.Constant(1);
        return builder.Compare(ThreadType.U32, IR.Comparison.Equal, builder.And(ThreadType.B32, builder.Special(SpecialRegister.ThreadId), Source.Constant(mask)), Source.Constant(0));
    }

    /// <summary>A guard register for a condition; none for true.</summary>
    public Register Guard(Source condition) => condition.IsConstant
        ? condition.Bits != 0 ? default : builder.Variable(RegisterClass.Predicate, condition)
        : condition.Register;

    /// <summary>The thread's part of the row-major index of its elements.</summary>
    public Source ThreadIndex(LinearLayout layout, ReadOnlySpan<int> shape)
    {
        var sum = Source.Constant(0L);
        for (var axis = 0; axis < shape.Length; axis++)
        {
            var stride = 1;
            for (var inner = axis + 1; inner < shape.Length; inner++) stride *= shape[inner];
            sum = builder.Add(ThreadType.U32, sum, builder.Multiply(ThreadType.U32, ThreadCoordinates.Of(builder, layout, axis), Source.Constant(stride)));
        }
        return sum;
    }

    private void WriteTo(Source area, TileItem tile, LinearLayout layout, Element[] elements)
    {
        var (type, size) = Storage(tile.DType);
        var guard = Guard(IsOriginal(layout));
        var start = builder.Add(ThreadType.U32, area, builder.Multiply(ThreadType.U32, ThreadIndex(layout, tile.Type.Dimensions), Source.Constant(size)));
        for (var register = 0; register < elements.Length; register++)
        {
            var value = tile.DType == DType.Bool ? builder.Select(ThreadType.B32, elements[register].Source, Source.Constant(1), Source.Constant(0)) : arithmetic.Alone(elements[register]);
            builder.Effect(ThreadOpcode.StoreShared, type, [], [start, value], guard, (long)layout.Index(tile.Type.Dimensions, register) * size);
        }
    }

    private static (ThreadType Type, int Size) Storage(DType dtype) => dtype switch
    {
        DType.BFloat16 or DType.Float16 => (ThreadType.U16, 2),
        DType.Float64 or DType.Int64 => (ThreadType.B64, 8),
        _ => (ThreadType.B32, 4),
    };
}
