using Lancet.Devices;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Kernels;

/// <summary>
/// Copies of many matrices of one flat buffer into blocks of wider matrices, in one launch. Program p copies <see cref="Elements"/> elements of
/// the matrix that row p of a table describes.
/// <code>
/// y[target + (e / columns)·stride + e % columns] = factor·x[source + e]     for e in [first, first + Elements), e &lt; count
/// table row  source, target, first, count, columns, stride                  factors in a table of their own
/// </code>
/// </summary>
internal static class ScatterKernel
{
    /// <summary>Elements that a program copies.</summary>
    public const int Elements = 4096;

    /// <summary>Numbers in a row of the table.</summary>
    public const int Fields = 6;

    private static readonly KernelSet<(DType From, DType To)> Kernels = new(Trace);

    /// <summary>Copies.</summary>
    /// <param name="device">Device.</param>
    /// <param name="x">Flat source.</param>
    /// <param name="y">Everything from the lowest target on.</param>
    /// <param name="places">int64 [programs, <see cref="Fields"/>].</param>
    /// <param name="factors">fp32 [programs].</param>
    public static void Copy(Device device, Tensor x, Tensor y, Tensor places, Tensor factors) =>
        device.Launch(Kernels[(x.DType, y.DType)], new Grid((int)factors.Count), [x, y, places, factors]);

    private static Kernel Trace((DType From, DType To) choice) => Kernel.Trace("scatter_copies", k =>
    {
        var x = k.Pointer(choice.From, "x");
        var y = k.Pointer(choice.To, "y");
        var places = k.Pointer(DType.Int64, "places");
        var factors = k.Pointer(DType.Float32, "factors");
        var program = k.ProgramId(0);
        Tile.Tile Field(int i) => k.Load(places + (program * Fields + i));
        var (source, target, columns, stride) = (Field(0), Field(1), Field(4), Field(5));
        var element = (Field(2) + k.Range(Elements).ToInt64()).To(DType.Int32);
        var inside = element < Field(3).To(DType.Int32);
        var width = columns.To(DType.Int32);
        var value = k.Load(x + (source + element.ToInt64()), inside) * k.Load(factors + program).To(choice.From);
        k.Store(y + (target + (element / width).ToInt64() * stride + (element % width).ToInt64()), value.To(choice.To), inside);
    });
}
