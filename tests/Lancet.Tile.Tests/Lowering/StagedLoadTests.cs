using Lancet.Tile.Ptx;
using static Lancet.Tile.TileMath;

namespace Lancet.Tile.Tests.Lowering;

/// <summary>Loads that go through shared memory although elementwise operations read them.</summary>
public class StagedLoadTests
{
    private const int Rows = 32, Columns = 64, Steps = 5;

    /// <summary>x is doubled in place, its rows' blocks transposed go to y, and products with w, which reads them as they were, are summed up.</summary>
    private static Kernel Trace(int stride, int stages, bool isLooped) => Kernel.Trace("staged", k =>
    {
        Pointer x = k.Pointer(DType.BFloat16, "x"), w = k.Pointer(DType.BFloat16, "w"), y = k.Pointer(DType.BFloat16, "y"), sums = k.Pointer(DType.Float32, "sums");
        var count = k.Scalar(DType.Int32, "count");
        var (column, inner) = (k.Range(Columns), k.Range(16));
        Tile Step(Tile start, Tile sum)
        {
            var row = start + k.Range(Rows);
            var place = x + ((row * stride).AsColumn() + column.AsRow());
            var inside = (row < count).AsColumn();
            var value = k.Load(place, inside, staged: true);
            k.Store(place, (value.ToFloat32() * 2).To(DType.BFloat16), inside);
            k.Store(y + ((column * (Rows * Steps)).AsColumn() + row.AsRow()), (value.Transposed().ToFloat32() + 1).To(DType.BFloat16));
            return Dot((value.ToFloat32() * 0.5).To(DType.BFloat16).Transposed(), k.Load(w + ((row * 16).AsColumn() + inner.AsRow()), inside), sum);
        }
        var zero = k.Zeros(DType.Float32, Columns, 16);
        var total = isLooped ? k.For(0, Rows * Steps, Rows, [zero], (start, carried) => [Step(start, carried[0])], stages: stages)[0] : Step(k.Constant(DType.Int32, 0), zero);
        k.Store(sums + ((column * 16).AsColumn() + inner.AsRow()), total);
    });

    // Rows of a stride of 65 elements have no pieces of 16 bytes.
    [Theory]
    [InlineData(64, 3, true, true)]
    [InlineData(72, 2, true, true)]
    [InlineData(64, 1, true, true)]
    [InlineData(64, 1, false, true)]
    [InlineData(65, 3, true, false)]
    [InlineData(65, 1, false, false)]
    public void Elementwise_operations_transposes_and_products_read_them(int stride, int stages, bool isLooped, bool isAsynchronous)
    {
        const int count = (Rows * Steps) - 7;
        foreach (var target in new[] { PtxTarget.Sm80, PtxTarget.Sm90 })
        {
            BFloat16[] Values(int length) => [.. Enumerable.Range(0, length).Select(i => (BFloat16)((i * 37 % 101 / 64f) - 0.75f))];
            using HostArray<BFloat16> x = new(Values(Rows * Steps * stride), DType.BFloat16), w = new(Values(Rows * Steps * 16), DType.BFloat16), y = new(Columns * Rows * Steps, DType.BFloat16);
            using var sums = new HostArray<float>(Columns * 16, DType.Float32);
            KernelArgument[] arguments = [x.Argument, w.Argument, y.Argument, sums.Argument, count];
            var kernel = Trace(stride, stages, isLooped);
            LoweringCheck.Run(kernel, new Grid(1), arguments, target);
            Assert.Equal(2 * Values(1)[0], x.Span[0]);
            var staged = PtxPrinter.Print(LoweringCheck.Lower(kernel, arguments, target), target).Split('\n').Count(line => line.Contains("cp.async", StringComparison.Ordinal) && line.Contains(", 16", StringComparison.Ordinal));
            // w alone is one copy a thread.
            Assert.Equal(isAsynchronous, staged > (stages > 1 ? stages : 1));
        }
    }

    [Fact]
    public void Only_matrices_are_staged() =>
        Assert.Contains("a matrix is needed", Assert.Throws<TileException>(() => Kernel.Trace("vector", k => k.Load(k.Pointer(DType.BFloat16) + k.Range(64), staged: true))).Message, StringComparison.Ordinal);
}
