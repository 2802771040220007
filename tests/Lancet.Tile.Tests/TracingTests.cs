using Lancet.Tile.IR;
using static Lancet.Tile.TileMath;

namespace Lancet.Tile.Tests;

public class TracingTests
{
    [Fact]
    public void The_norm_kernel_of_the_design_traces()
    {
        const int columns = 100;
        var kernel = Kernel.Trace("rms_norm_forward", k =>
        {
            var x = k.Pointer(DType.BFloat16); var w = k.Pointer(DType.BFloat16); var y = k.Pointer(DType.BFloat16);
            var rstd = k.Pointer(DType.Float32); var epsilon = k.Scalar(DType.Float32);
            var row = k.ProgramId(0);
            var column = k.Range(128); var inside = column < columns;
            var value = k.Load(x + row * columns + column, inside).ToFloat32();
            var r = Rsqrt(Sum(value * value) / columns + epsilon);
            k.Store(rstd + row, r);
            k.Store(y + row * columns + column, (value * r * k.Load(w + column, inside).ToFloat32()).To(DType.BFloat16), inside);
        });
        Assert.Equal(5, kernel.Parameters.Count);
        Assert.Equal(2, kernel.Body.Operations.Count(o => o.Opcode == Opcode.Store));
        Assert.Contains(kernel.Body.Operations, o => o.Opcode == Opcode.ReduceSum && o.Location.Line > 0);
    }

    [Fact]
    public void Arithmetic_on_a_storage_format_names_the_remedy()
    {
        var error = Assert.Throws<TileException>(() => Kernel.Trace("bad", k =>
        {
            var x = k.Load(k.Pointer(DType.BFloat16) + k.Range(8));
            _ = x * x;
        }));
        Assert.Contains("ToFloat32", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_loop_must_return_what_it_carries() =>
        Assert.Throws<TileException>(() => Kernel.Trace("bad", k => k.For(0, 4, 1, [k.Zeros(DType.Float32, 8)], (i, c) => [c[0].To(DType.Float64)])));
}
