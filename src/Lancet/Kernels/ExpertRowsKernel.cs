using Lancet.Devices;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Kernels;

/// <summary>
/// Tokens to the rows of their experts and back; each is the other's backward pass.
/// <code>
/// gather   y[r] = x[order[r] / k]                          a token's row is written k times
/// sum      y[t] = b[t] + Σⱼ x[place[t·k + j]]              j in order, in fp32, rounded once; b may be absent
/// </code>
/// Nothing is saved.
/// </summary>
/// <param name="chosen">Experts of a token, k.</param>
/// <param name="columns">Columns of a row.</param>
public sealed class ExpertRowsKernel(int chosen, int columns)
{
    private const int Elements = 1024;
    private static readonly KernelSet<GatherChoice> GatherKernels = new(TraceGather);
    private static readonly KernelSet<SumChoice> SumKernels = new(TraceSum);

    /// <summary>y[r] = x[order[r] / k].</summary>
    /// <param name="device">Device.</param>
    /// <param name="x">[T, columns].</param>
    /// <param name="order">int32 [T · k] of <see cref="ExpertSortKernel"/>.</param>
    /// <param name="y">[T · k, columns] that is written.</param>
    public void Gather(Device device, ColumnSlice x, Tensor order, Tensor y)
    {
        var choice = new GatherChoice(chosen, columns, x.Tensor.DType, x.RowStride);
        device.Launch(GatherKernels[choice], GridOf(order.Count), [x.Tensor, order, y, (int)order.Count]);
    }

    /// <summary>y[t] = b[t] + Σⱼ x[place[t·k + j]].</summary>
    /// <param name="device">Device.</param>
    /// <param name="x">[T · k, columns].</param>
    /// <param name="place">int32 [T, k] of <see cref="ExpertSortKernel"/>.</param>
    /// <param name="addend">b [T, columns], or absent.</param>
    /// <param name="y">[T, columns] that is written.</param>
    public void Sum(Device device, Tensor x, Tensor place, Tensor addend, Tensor y)
    {
        var tokens = (int)place.Shape[0];
        device.Launch(SumKernels[new(chosen, columns, x.DType, addend.Exists)], GridOf(tokens), [x, place, addend.Exists ? addend : y, y, tokens]);
    }

    private Grid GridOf(long rows) => new(Blocks.Of(rows, Elements / Width(columns)), Blocks.Of(columns, Width(columns)));

    private static int Width(int columns) => Math.Min(Blocks.PowerOfTwo(columns), Elements);

    private static Kernel TraceGather(GatherChoice choice) => Kernel.Trace("expert_gather", k =>
    {
        var x = k.Pointer(choice.DType, "x");
        var order = k.Pointer(DType.Int32, "order");
        var y = k.Pointer(choice.DType, "y");
        var rows = k.Scalar(DType.Int32, "rows");
        var (row, column) = Place(k, choice.Columns);
        var inside = (row < rows).AsColumn() & (column < choice.Columns);
        var token = (k.Load(order + row, row < rows) / choice.Chosen).ToInt64();
        k.Store(y + ((row.ToInt64() * choice.Columns).AsColumn() + column.ToInt64()), k.Load(x + ((token * choice.Stride).AsColumn() + column.ToInt64()), inside), inside);
    });

    private static Kernel TraceSum(SumChoice choice) => Kernel.Trace("expert_sum", k =>
    {
        var x = k.Pointer(choice.DType, "x");
        var place = k.Pointer(DType.Int32, "place");
        var addend = k.Pointer(choice.DType, "addend");
        var y = k.Pointer(choice.DType, "y");
        var tokens = k.Scalar(DType.Int32, "tokens");
        var (token, column) = Place(k, choice.Columns);
        var inside = (token < tokens).AsColumn() & (column < choice.Columns);
        var offset = (token.ToInt64() * choice.Columns).AsColumn() + column.ToInt64();
        Tile.Tile? sum = choice.HasAddend ? k.Load(addend + offset, inside).ToFloat32() : null;
        for (var j = 0; j < choice.Chosen; j++)
        {
            var row = k.Load(place + (token * choice.Chosen + j), token < tokens).ToInt64();
            var value = k.Load(x + ((row * choice.Columns).AsColumn() + column.ToInt64()), inside).ToFloat32();
            sum = sum is null ? value : sum + value;
        }
        k.Store(y + offset, sum!.To(choice.DType), inside);
    });

    private static (Tile.Tile Row, Tile.Tile Column) Place(KernelBuilder k, int columns)
    {
        var width = Width(columns);
        return (k.ProgramId(0) * (Elements / width) + k.Range(Elements / width), (k.ProgramId(1) * width + k.Range(width)).AsRow());
    }

    private readonly record struct GatherChoice(int Chosen, int Columns, DType DType, long Stride);

    private readonly record struct SumChoice(int Chosen, int Columns, DType DType, bool HasAddend);
}
