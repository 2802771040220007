using Lancet.Tile.Cpu;
using static Lancet.Tile.TileMath;

namespace Lancet.Tile.Tests.Cpu;

public unsafe class ExecutorTests
{
    private static KernelArgument Arg<T>(T* p, DType dtype, long count)
        where T : unmanaged => KernelArgument.Pointer((nint)p, dtype, count);

    private static Kernel Norm(int columns) => Kernel.Trace("norm", k =>
    {
        var x = k.Pointer(DType.Float32, "x");
        var w = k.Pointer(DType.Float32, "w");
        var y = k.Pointer(DType.Float32, "y");
        var epsilon = k.Scalar(DType.Float32);
        var row = k.ProgramId(0);
        var column = k.Range((int)System.Numerics.BitOperations.RoundUpToPowerOf2((uint)columns));
        var inside = column < columns;
        var value = k.Load(x + row * columns + column, inside);
        var r = Rsqrt(Sum(value * value) / columns + epsilon);
        k.Store(y + row * columns + column, value * r * k.Load(w + column, inside), inside);
    });

    [Theory]
    [InlineData(1, 1)]
    [InlineData(3, 100)]
    [InlineData(17, 576)]
    public void A_norm_equals_the_scalar_formula(int rows, int columns)
    {
        var random = new Random(rows * columns);
        var x = new float[rows * columns];
        var w = new float[columns];
        for (var i = 0; i < x.Length; i++) x[i] = random.NextSingle() - 0.5f;
        for (var i = 0; i < w.Length; i++) w[i] = random.NextSingle();
        var y = new float[x.Length];
        var single = new float[x.Length];
        fixed (float* px = x, pw = w, py = y, ps = single)
        {
            var kernel = Norm(columns);
            using var one = new WorkerPool(1);
            using var three = new WorkerPool(3);
            CpuExecutor.Launch(kernel, new Grid(rows), [Arg(px, DType.Float32, x.Length), Arg(pw, DType.Float32, columns), Arg(py, DType.Float32, y.Length), 1e-5f], three);
            CpuExecutor.Launch(kernel, new Grid(rows), [Arg(px, DType.Float32, x.Length), Arg(pw, DType.Float32, columns), Arg(ps, DType.Float32, y.Length), 1e-5f], one, debug: true);
        }
        Assert.Equal(single, y);
        for (var row = 0; row < rows; row++)
        {
            var mean = 0.0;
            for (var i = 0; i < columns; i++) mean += (double)x[(row * columns) + i] * x[(row * columns) + i] / columns;
            for (var i = 0; i < columns; i++) Assert.Equal(x[(row * columns) + i] / Math.Sqrt(mean + 1e-5) * w[i], y[(row * columns) + i], 1e-5);
        }
    }

    [Fact]
    public void A_launch_allocates_nothing()
    {
        var kernel = Norm(64);
        var data = new float[64 * 4];
        fixed (float* p = data)
        {
            using var pool = new WorkerPool(1);
            void Run(float* q) => CpuExecutor.Launch(kernel, new Grid(2), [Arg(q, DType.Float32, 128), Arg(q, DType.Float32, 64), Arg(q + 128, DType.Float32, 128), 1e-5f], pool);
            for (var i = 0; i < 50; i++) Run(p);
            var before = GC.GetAllocatedBytesForCurrentThread();
            for (var i = 0; i < 10; i++) Run(p);
            Assert.Equal(before, GC.GetAllocatedBytesForCurrentThread());
        }
    }

    [Fact]
    public void An_access_out_of_bounds_names_kernel_parameter_and_line()
    {
        var kernel = Norm(64);
        var data = new float[256];
        fixed (float* p = data)
        {
            var q = p;
            var error = Assert.Throws<TileException>(() => CpuExecutor.Launch(kernel, new Grid(2), [Arg(q, DType.Float32, 127), Arg(q, DType.Float32, 64), Arg(q + 128, DType.Float32, 128), 1e-5f], debug: true));
            Assert.Contains("norm", error.Message, StringComparison.Ordinal);
            Assert.Contains("index 127 of x", error.Message, StringComparison.Ordinal);
            Assert.Contains("ExecutorTests.cs:", error.Message, StringComparison.Ordinal);
        }
    }

    [Fact]
    public void Wrong_arguments_are_refused()
    {
        var kernel = Norm(64);
        Assert.Throws<TileException>(() => CpuExecutor.Launch(kernel, new Grid(1), [1, 2, 3]));
        Assert.Throws<TileException>(() => CpuExecutor.Launch(kernel, new Grid(1), [1, 2, 3, 4]));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Blocked_product_with_a_loop_equals_the_plain_one(bool isTransposed)
    {
        const int m = 37, n = 50, k = 70;
        var kernel = Kernel.Trace("product", b =>
        {
            var pa = b.Pointer(DType.Float32);
            var pb = b.Pointer(DType.Float32);
            var pc = b.Pointer(DType.Float32);
            var row = b.ProgramId(0) * 32 + b.Range(32);
            var column = b.ProgramId(1) * 32 + b.Range(32);
            var sum = b.For(0, k, 16, [b.Zeros(DType.Float32, 32, 32)], (start, carried) =>
            {
                var at = start + b.Range(16);
                var left = b.Load(pa + (row * k).AsColumn() + at.AsRow(), (row < m).AsColumn() & (at < k).AsRow());
                var right = isTransposed
                    ? b.Load(pb + (column * k).AsColumn() + at.AsRow(), (column < n).AsColumn() & (at < k).AsRow()).Transposed()
                    : b.Load(pb + (at * n).AsColumn() + column.AsRow(), (at < k).AsColumn() & (column < n).AsRow());
                return [Dot(left, right, carried[0])];
            })[0];
            b.Store(pc + (row * n).AsColumn() + column.AsRow(), sum, (row < m).AsColumn() & (column < n).AsRow());
        });
        var random = new Random(5);
        float[] a = new float[m * k], w = new float[k * n], c = new float[m * n];
        for (var i = 0; i < a.Length; i++) a[i] = random.NextSingle() - 0.5f;
        for (var i = 0; i < w.Length; i++) w[i] = random.NextSingle() - 0.5f;
        fixed (float* pa = a, pw = w, pc = c)
            CpuExecutor.Launch(kernel, new Grid(2, 2), [Arg(pa, DType.Float32, a.Length), Arg(pw, DType.Float32, w.Length), Arg(pc, DType.Float32, c.Length)], debug: true);
        for (var i = 0; i < m; i++)
        {
            for (var j = 0; j < n; j++)
            {
                var sum = 0.0;
                for (var x = 0; x < k; x++) sum += (double)a[(i * k) + x] * (isTransposed ? w[(j * k) + x] : w[(x * n) + j]);
                Assert.Equal(sum, c[(i * n) + j], 1e-5);
            }
        }
    }

    [Fact]
    public void Swapped_carried_tiles_and_branches_keep_their_values()
    {
        var kernel = Kernel.Trace("swap", k =>
        {
            var output = k.Pointer(DType.Float32);
            var range = k.Range(8);
            var pair = k.For(0, 3, 1, [range.To(DType.Float32), k.Full(DType.Float32, 100, 8)], (i, c) => [c[1], c[0]]);
            var chosen = k.If(k.ProgramId(0).EqualTo(1), [pair[0]], () => [pair[1] * 2]);
            k.Store(output + k.ProgramId(0) * 8 + range, chosen[0] + pair[0]);
        });
        var y = new float[16];
        fixed (float* p = y) CpuExecutor.Launch(kernel, new Grid(2), [Arg(p, DType.Float32, 16)], debug: true);
        for (var i = 0; i < 8; i++)
        {
            Assert.Equal(200, y[i]);
            Assert.Equal(100 + (2 * i), y[8 + i]);
        }
    }
}
