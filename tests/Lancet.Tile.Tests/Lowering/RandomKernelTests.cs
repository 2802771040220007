using static Lancet.Tile.TileMath;

namespace Lancet.Tile.Tests.Lowering;

/// <summary>
/// Kernels put together at random, of masked loads, arithmetic, reductions, loops, branches, transposes and products, at odd sizes: what they compute lowered
/// must be what the tile executor computes. A failing seed is a bug report.
/// </summary>
public class RandomKernelTests
{
    public static TheoryData<int> Seeds => [.. Enumerable.Range(0, int.Parse(Environment.GetEnvironmentVariable("LANCET_RANDOM_KERNELS") ?? "60", System.Globalization.CultureInfo.InvariantCulture))];

    [Theory]
    [MemberData(nameof(Seeds))]
    public void Lowered_and_executed_agree(int seed)
    {
        var random = new Random(seed);
        int Pick(params ReadOnlySpan<int> choices) => choices[random.Next(choices.Length)];
        var dtype = new[] { DType.BFloat16, DType.Float16, DType.Float32 }[random.Next(3)];
        int rows = Pick(16, 32, 64), columns = Pick(8, 16, 32, 64, 128), depth = Pick(16, 32), stages = Pick(1, 2, 3);
        // Half the kernels get sizes that allow wide, asynchronous and so pipelined copies.
        var isEven = random.Next(2) == 0;
        int m = isEven ? Pick(16, 48, 64) : Pick(1, 5, 16, 33, 70), n = isEven ? Pick(16, 48, 64, 128) : Pick(1, 7, 16, 40, 128), k = isEven ? Pick(16, 48, 96, 128) : Pick(1, 16, 50, 64);
        var kernel = new Generator(random, dtype, rows, columns, depth, stages).Trace(Pick(1, 2, 4, 8), $"random_{seed}");

        using var x = Numbers(random, dtype, m * n);
        using var w = Numbers(random, DType.Float32, n);
        using var a = Numbers(random, dtype, m * k);
        using var b = Numbers(random, dtype, k * n);
        using var index = Numbers(random, DType.Int32, m * n);
        using var y = Numbers(random, DType.Float32, m * n);
        using var z = Numbers(random, dtype, m * n);
        using var q = Numbers(random, DType.Int32, m * n);
        LoweringCheck.Run(kernel, new Grid((m + rows - 1) / rows, (n + columns - 1) / columns), [x.Argument(dtype), w.Argument(DType.Float32), a.Argument(dtype), b.Argument(dtype), index.Argument(DType.Int32), y.Argument(DType.Float32), z.Argument(dtype), q.Argument(DType.Int32), m, n, k]);
    }

    private static HostBytes Numbers(Random random, DType dtype, int count)
    {
        var result = new HostBytes(count * dtype.SizeInBytes());
        for (var i = 0; i < count; i++)
        {
            var value = (float)((random.NextDouble() * 4) - 2);
            switch (dtype)
            {
                case DType.Float32: result.As<float>()[i] = value; break;
                case DType.BFloat16: result.As<BFloat16>()[i] = (BFloat16)value; break;
                case DType.Float16: result.As<Half>()[i] = (Half)value; break;
                default: result.As<int>()[i] = random.Next(4) == 0 ? random.Next() - (1 << 30) : random.Next(-20, 20); break;
            }
        }
        return result;
    }

    private sealed class HostBytes(int bytes) : IDisposable
    {
        private readonly HostArray<byte> _array = new(bytes, DType.UInt8);

        public Span<T> As<T>()
            where T : unmanaged => System.Runtime.InteropServices.MemoryMarshal.Cast<byte, T>(_array.Span);

        public KernelArgument Argument(DType dtype) => KernelArgument.Pointer((nint)_array.Argument.Bits, dtype, bytes / dtype.SizeInBytes());

        public void Dispose() => _array.Dispose();
    }

    /// <summary>
    /// Writes one kernel. Everything that decides (comparisons, floors, integers) comes from loaded or integer values, which are exact, so that
    /// a last bit of a sum cannot turn into something large.
    /// </summary>
    private sealed class Generator(Random random, DType dtype, int rows, int columns, int depth, int stages)
    {
        private readonly List<Tile> _floats = [];
        private readonly List<Tile> _integers = [];
        private readonly List<Tile> _conditions = [];

        public Kernel Trace(int warps, string name) => Kernel.Trace(name, k =>
        {
            k.Warps = warps;
            Pointer x = k.Pointer(dtype), w = k.Pointer(DType.Float32), a = k.Pointer(dtype), b = k.Pointer(dtype), index = k.Pointer(DType.Int32);
            Pointer y = k.Pointer(DType.Float32), z = k.Pointer(dtype), q = k.Pointer(DType.Int32);
            Tile m = k.Scalar(DType.Int32), n = k.Scalar(DType.Int32), length = k.Scalar(DType.Int32);
            var row = (k.ProgramId(0) * rows) + k.Range(rows);
            var column = (k.ProgramId(1) * columns) + k.Range(columns);
            var inside = (row < m).AsColumn() & (column < n).AsRow();
            var place = (row.AsColumn() * n) + column.AsRow();
            var loaded = k.Load(x + place, inside, random.Next(2)).ToFloat32();
            var weights = k.Load(w + column, column < n);
            var chosen = k.Load(index + place, inside, 3);
            _floats.AddRange([loaded, weights.AsRow().BroadcastTo(rows, columns), Floor(loaded * 3), Round(loaded * 5)]);
            _integers.AddRange([chosen, place, row.AsColumn().BroadcastTo(rows, columns), (loaded * 100).To(DType.Int32)]);
            _conditions.AddRange([inside, loaded > 0.25, chosen < 3]);
            for (var i = 0; i < 4; i++) Step(k);
            if (random.Next(4) > 0) _floats.Add(Product(k, a, b, row, column, m, n, length));
            for (var i = 0; i < 3; i++) Step(k);
            k.Store(y + place, _floats[^1], inside);
            k.Store(z + place, (_floats[^2] * 0.25).To(dtype), random.Next(2) == 0 ? inside : inside & Condition());
            k.Store(q + place, _integers[^1], inside);
        });

        private Tile Number() => _floats[random.Next(_floats.Count)];

        private Tile Integer() => _integers[random.Next(_integers.Count)];

        private Tile Condition() => _conditions[random.Next(_conditions.Count)];

        private void Step(KernelBuilder k)
        {
            var number = Number();
            _floats.Add(random.Next(14) switch
            {
                0 => number + Number(),
                1 => number * Tanh(Number()),
                2 => Select(Condition(), number, Number()),
                3 => Sum(number, 1).AsColumn() / columns + number,
                4 => number - (Sum(number, 0).AsRow() / rows),
                5 => ReduceMax(number, 1).AsColumn().BroadcastTo(rows, columns),
                6 => ReduceMin(number, 0).AsRow().BroadcastTo(rows, columns) * 0.5,
                7 => Exp(-Abs(number)),
                8 => Rsqrt((number * number) + 1) * number,
                9 => number.To(dtype).ToFloat32(),
                10 => k.For(0, random.Next(1, 4), 1, [number], (i, carried) => [(carried[0] * 0.5) + (weightsOf(i) * 0.125)])[0],
                11 => k.If(Sum(Sum(Integer() & 1, 1)) > 7, [number], () => [number + 1])[0],
                12 => Max(number, Number()),
                _ => Min(number, 0.75),
            });
            var integer = Integer();
            _integers.Add(random.Next(12) switch
            {
                0 => integer + Integer(),
                1 => integer * Integer(),
                2 => integer ^ Integer(),
                3 => integer << 3,
                4 => integer >> 2,
                5 => integer / 7,
                6 => integer % 5,
                7 => Select(Condition(), integer, Integer()),
                8 => Sum(integer, 1).AsColumn().BroadcastTo(rows, columns),
                9 => ReduceMax(integer, 0).AsRow() - integer,
                10 => (k.RandomBits(k.Constant(DType.Int64, 42L), integer.ToInt64() & 1023) >> 8).To(DType.Int32),
                _ => k.Lookup([1, 2, -3, 4], integer & 3).To(DType.Int32),
            });
            _conditions.Add(random.Next(4) switch
            {
                0 => Condition() & Condition(),
                1 => Condition() | !Condition(),
                2 => Integer() >= Integer(),
                _ => Integer().NotEqualTo(4),
            });

            Tile weightsOf(Tile i) => Select(Condition(), Number(), i.To(DType.Float32).BroadcastTo(rows, columns));
        }

        /// <summary>A[m, length] · B[length, n], with B in either order, in a loop over the depth.</summary>
        private Tile Product(KernelBuilder k, Pointer a, Pointer b, Tile row, Tile column, Tile m, Tile n, Tile length)
        {
            var isTransposed = random.Next(2) == 0;
            var isScaled = random.Next(4) == 0;
            return k.For(k.Constant(DType.Int32, 0L), length, k.Constant(DType.Int32, depth), [k.Zeros(DType.Float32, rows, columns)], (start, carried) =>
            {
                var inner = start + k.Range(depth);
                var left = k.Load(a + ((row.AsColumn() * length) + inner.AsRow()), (row < m).AsColumn() & (inner < length).AsRow());
                if (isScaled) left = (left.ToFloat32() * 0.5).To(dtype);
                var right = isTransposed
                    ? k.Load(b + ((column.AsColumn() * length) + inner.AsRow()), (column < n).AsColumn() & (inner < length).AsRow()).Transposed()
                    : k.Load(b + ((inner.AsColumn() * n) + column.AsRow()), (inner < length).AsColumn() & (column < n).AsRow());
                return [Dot(left, right, carried[0])];
            }, stages)[0] * 0.125;
        }
    }
}
