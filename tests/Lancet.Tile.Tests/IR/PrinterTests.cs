using Lancet.Tile.IR;
using static Lancet.Tile.TileMath;

namespace Lancet.Tile.Tests.IR;

public class PrinterTests
{
    [Fact]
    public void A_small_kernel_prints_as_expected()
    {
        var kernel = Kernel.Trace("golden", k =>
        {
            k.At("Golden.cs", 1);
            var (x, n) = (k.Pointer(DType.BFloat16, "x"), k.Scalar(DType.Int32, "n"));
            var range = k.Range(8);
            var at = x + range;
            var value = k.Load(at, range < n, 0.5, file: "Golden.cs", line: 2).ToFloat32();
            k.At("Golden.cs", 3);
            var zero = k.Constant(DType.Int32, 0L);
            var one = k.Constant(DType.Int32, 1L);
            var sum = k.For(zero, n, one, [value], (i, c) => [Exp2(c[0])], 2, false, false, "Golden.cs", 4)[0];
            var chosen = k.If(n > zero, [sum], () => [k.Lookup([0, 0.25f, 0.5f, 1], range & 3)], "Golden.cs", 5)[0];
            k.Store(at, (chosen * Sum(chosen, 0, "Golden.cs", 6)).To(DType.BFloat16), null, "Golden.cs", 7);
        });
        Assert.Equal(
            """
            kernel golden(x: *bf16 %0, n: i32 %1) warps 4
              %2: i32[8] = range  // Golden.cs:1
              %3: *bf16[8] = broadcast %0  // Golden.cs:1
              %4: *bf16[8] = pointer_add %3, %2  // Golden.cs:1
              %5: i32[8] = broadcast %1  // Golden.cs:1
              %6: bool[8] = compare less %2, %5  // Golden.cs:1
              %7: bf16 = constant 0.5  // Golden.cs:2
              %8: bf16[8] = load %4, %6, %7  // Golden.cs:2
              %9: f32[8] = cast %8  // Golden.cs:2
              %10: i32 = constant 0  // Golden.cs:3
              %11: i32 = constant 1  // Golden.cs:3
              %15: f32[8] = for %12: i32 from %10 to %1 step %11 stages 2 carrying %13: f32[8] = %9  // Golden.cs:4
                %14: f32[8] = exp2 %13  // Golden.cs:4
                yield %14  // Golden.cs:4
              %16: bool = compare greater %1, %10  // Golden.cs:4
              %21: f32[8] = if %16 else %15  // Golden.cs:5
                %17: i32 = constant 3  // Golden.cs:5
                %18: i32[8] = broadcast %17  // Golden.cs:5
                %19: i32[8] = and %2, %18  // Golden.cs:5
                %20: f32[8] = lookup %19 table [0, 0.25, 0.5, 1]  // Golden.cs:5
                yield %20  // Golden.cs:5
              %22: f32 = reduce_sum %21 axis 0  // Golden.cs:6
              %23: f32[8] = broadcast %22  // Golden.cs:6
              %24: f32[8] = multiply %21, %23  // Golden.cs:6
              %25: bf16[8] = cast %24  // Golden.cs:6
              store %4, %25  // Golden.cs:7

            """,
            kernel.ToString(),
            ignoreLineEndingDifferences: true);
    }

    [Fact]
    public void Tracing_again_prints_the_same() => Assert.Equal(RandomKernel.Build(11).ToString(), RandomKernel.Build(11).ToString());

    [Fact]
    public void Long_tables_are_cut_and_every_axis_is_shown()
    {
        var text = Kernel.Trace("table", k =>
        {
            var x = k.Pointer(DType.Float32);
            k.Store(x + k.Range(4).AsColumn(), k.Lookup([.. Enumerable.Range(0, 16).Select(i => (float)i)], k.Range(4)).AsColumn() * k.ProgramId(2).To(DType.Float32));
        }).ToString();
        Assert.Contains("table [0, 1, 2, 3, 4, 5, 6, 7, … 16 entries]", text, StringComparison.Ordinal);
        Assert.Contains("expand_dimension %1 axis 1", text, StringComparison.Ordinal);
        Assert.Contains("program_id 2", text, StringComparison.Ordinal);
    }
}
