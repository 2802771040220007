using Lancet.Devices;
using Lancet.Tensors;
using Lancet.Tile;
using static Lancet.Tile.TileMath;

namespace Lancet.Kernels;

/// <summary>u [T, columns] from what programs that each saw a strip of an adapter's input leave: u = Σ partial[strip], added up in order and rounded once.</summary>
internal static class LoraInputSums
{
    private const int Block = 1024;
    private const int StripsAtATime = 4;
    private static readonly KernelSet<(DType DType, int Columns, long Stride)> Kernels = new(Trace);

    /// <summary>Sums of strips, [strips, T, columns], as a kernel's argument.</summary>
    public static KernelArgument Argument(Tensor partial, int rows, int columns, int strips) => KernelArgument.Pointer(partial.Address, partial.DType, partial.Count, (long)strips * rows * columns);

    /// <summary>Writes u.</summary>
    /// <param name="device">Device.</param>
    /// <param name="rows">T.</param>
    /// <param name="columns">Columns of u: ranks of all adapters.</param>
    /// <param name="strips">Strips.</param>
    /// <param name="partial">[strips, T, columns] in the accumulator's type.</param>
    /// <param name="u">[T, columns] that is written.</param>
    public static void AddUp(Device device, int rows, int columns, int strips, KernelArgument partial, ColumnSlice u)
    {
        if (rows == 0) return;
        device.Launch(Kernels[(u.Tensor.DType, columns, u.RowStride)], new Grid(Blocks.Of((long)rows * columns, Block)), [partial, u.Argument(rows, columns), rows, strips]);
    }

    private static Kernel Trace((DType DType, int Columns, long Stride) choice) => Kernel.Trace("lora_input_sums", k =>
    {
        var partial = k.Pointer(choice.DType.Accumulator(), "partial_u");
        var u = k.Pointer(choice.DType, "u");
        var rows = k.Scalar(DType.Int32, "rows");
        var strips = k.Scalar(DType.Int32, "strips");
        var element = k.ProgramId(0).ToInt64() * Block + k.Range(Block).ToInt64();
        var count = rows.ToInt64() * choice.Columns;
        var inside = element < count;
        var total = Sum(k.For(k.Constant(DType.Int32, 0), strips, k.Constant(DType.Int32, StripsAtATime), [k.Zeros(choice.DType.Accumulator(), StripsAtATime, Block)], (start, carried) =>
        {
            var strip = start + k.Range(StripsAtATime);
            return [carried[0] + k.Load(partial + ((strip.ToInt64() * count).AsColumn() + element.AsRow()), (strip < strips).AsColumn() & inside.AsRow())];
        })[0], 0);
        k.Store(u + (element / choice.Columns * choice.Stride + element % choice.Columns), total.To(choice.DType), inside);
    });
}
