using CsCheck;
using static Lancet.Tile.TileMath;

namespace Lancet.Tile.Tests.Cpu;

/// <summary>Pointers, masked loads and stores, atomics, tables.</summary>
public class MemoryTests
{
    private const int Samples = 40;

    public static TheoryData<DType> Memory => [.. Elements.Memory];

    [Theory]
    [MemberData(nameof(Memory))]
    public void Masked_load_with_other_and_masked_store(DType type) => Gen.Select(Gen.Int[0, int.MaxValue], Gen.Int[0, 3]).Sample(
        (seed, rank) =>
        {
            var lab = new TileLab(seed);
            var shape = lab.Shape(rank);
            var count = Count(shape);
            Operand? loadMask = lab.Random.Next(4) == 0 ? null : lab.Operand(DType.Bool, shape), storeMask = lab.Random.Next(4) == 0 ? null : lab.Operand(DType.Bool, shape);
            long[] source = lab.Values(type, count + 5), before = lab.Values(type, count + 7);
            var other = lab.Random.Next(3) == 0 ? 0 : lab.Random.Next(type is DType.UInt8 or DType.UInt32 ? 0 : -100, 100);
            var (from, to) = (lab.Buffer(type, source), lab.Buffer(type, before));
            // The elements are taken 5 further on, by a constant, and put 7 further on, by a scalar argument.
            void Body(KernelBuilder k, List<Pointer> p)
            {
                var shift = k.Scalar(DType.Int64);
                var index = TileLab.Index(k, shape);
                var value = k.Load(p[from] + 5 + index, loadMask?.Make(k, p), other);
                k.Store(p[to] + shift + index, value, storeMask?.Make(k, p));
            }
            lab.Launch(Body, scalars: [7L], debug: lab.Random.Next(2) == 0);
            for (var i = 0; i < count + 7; i++)
            {
                var isStored = i >= 7 && (storeMask is null || storeMask.Values[i - 7] != 0);
                var isLoaded = i >= 7 && (loadMask is null || loadMask.Values[i - 7] != 0);
                var expected = !isStored ? before[i] : isLoaded ? source[i - 2] : type.IsFloat() ? Elements.FromDouble(type, other) : other;
                Elements.AssertSame(type, expected, lab.Read(to, i), () => $"element {i - 7} of [{string.Join(", ", shape)}], seed {seed}");
            }
        },
        iter: Samples,
        threads: 1);

    [Theory]
    [InlineData(DType.Int32)]
    [InlineData(DType.Int64)]
    public void Gather_and_scatter_through_offsets_of_any_form(DType offsetType) => Gen.Select(Gen.Int[0, int.MaxValue], Gen.Int[0, 3]).Sample(
        (seed, rank) =>
        {
            var lab = new TileLab(seed);
            var type = Elements.Memory[lab.Random.Next(Elements.Memory.Length)];
            var shape = lab.Shape(rank);
            var count = Count(shape);
            var (source, permutation) = (lab.Values(type, count), Enumerable.Range(0, count).Select(i => (long)i).ToArray());
            lab.Random.Shuffle(permutation);
            var gathers = lab.Random.Next(2) == 0;
            var (from, places, to) = (lab.Buffer(type, source), lab.Buffer(offsetType, permutation), lab.Buffer(type, new long[count]));
            lab.Launch((k, p) =>
            {
                var index = TileLab.Index(k, shape);
                var place = k.Load(p[places] + index);
                // Moved there in two steps, back by one of them and on by the other.
                var read = gathers ? p[from] + place * 2 + -place : p[from] + index;
                var write = gathers ? p[to] + index : p[to] + (place + 3) + -3;
                k.Store(write, k.Load(read));
            });
            for (var i = 0; i < count; i++)
            {
                var (at, expected) = gathers ? (i, source[permutation[i]]) : ((int)permutation[i], source[i]);
                Elements.AssertSame(type, expected, lab.Read(to, at), () => $"element {i} of {type}[{string.Join(", ", shape)}], seed {seed}");
            }
        },
        iter: Samples,
        threads: 1);

    [Fact]
    public void Transposed_and_repeated_address_tiles() => Gen.Int[0, int.MaxValue].Sample(
        seed =>
        {
            var lab = new TileLab(seed);
            var shape = lab.Shape(2);
            var (rows, columns) = (shape[0], shape[1]);
            var source = lab.Values(DType.Float32, rows * columns);
            var (from, to, sums) = (lab.Buffer(DType.Float32, source), lab.Buffer(DType.Float32, new long[source.Length]), lab.Buffer(DType.Float32, new long[rows * columns]));
            lab.Launch((k, p) =>
            {
                // Strided reads along both axes, a row pointer repeated over rows.
                k.Store(p[to] + TileLab.Index(k, columns, rows), k.Load(p[from] + (k.Range(columns).AsColumn() + k.Range(rows).AsRow() * columns)));
                k.Store(p[sums] + TileLab.Index(k, rows, columns), k.Load((p[from] + k.Range(columns).AsRow()) + k.Zeros(DType.Int32, rows, 1)));
            });
            for (var row = 0; row < rows; row++)
            {
                for (var column = 0; column < columns; column++)
                {
                    Elements.AssertSame(DType.Float32, source[(row * columns) + column], lab.Read(to, (column * rows) + row), () => $"transposed ({row}, {column}), seed {seed}");
                    Elements.AssertSame(DType.Float32, source[column], lab.Read(sums, (row * columns) + column), () => $"repeated ({row}, {column}), seed {seed}");
                }
            }
        },
        iter: Samples,
        threads: 1);

    [Theory]
    [InlineData(DType.Int32)]
    [InlineData(DType.Int64)]
    public void Atomic_addition(DType type) => Gen.Select(Gen.Int[0, int.MaxValue], Gen.Int[0, 3], Gen.Bool).Sample(
        (seed, rank, isShared) =>
        {
            var lab = new TileLab(seed);
            var shape = lab.Shape(rank);
            var count = Count(shape);
            var (value, mask) = (lab.Operand(type, shape), lab.Random.Next(4) == 0 ? null : lab.Operand(DType.Bool, shape));
            var before = lab.Values(type, count);
            var (target, former) = (lab.Buffer(type, before), lab.Buffer(type, lab.Values(type, count)));
            lab.Launch((k, p) =>
            {
                var index = TileLab.Index(k, shape);
                // Either an element each, or all to the first.
                var old = k.AtomicAdd(p[target] + (isShared ? index * 0 : index), value.Make(k, p), mask?.Make(k, p));
                k.Store(p[former] + index, old);
            });
            var sums = (long[])before.Clone();
            for (var i = 0; i < count; i++)
            {
                var at = isShared ? 0 : i;
                var isActive = mask is null || mask.Values[i] != 0;
                Elements.AssertSame(type, isActive ? sums[at] : 0, lab.Read(former, i), () => $"former value {i} of [{string.Join(", ", shape)}], seed {seed}");
                if (isActive) sums[at] = Elements.Wrap(type, (System.Numerics.BigInteger)sums[at] + value.Values[i]);
            }
            for (var i = 0; i < count; i++) Elements.AssertSame(type, sums[i], lab.Read(target, i), () => $"sum {i} of [{string.Join(", ", shape)}], seed {seed}");
        },
        iter: Samples,
        threads: 1);

    [Fact]
    public void Atomic_additions_of_many_programs_all_count()
    {
        var lab = new TileLab(1);
        var target = lab.Buffer(DType.Int64, [0]);
        using var pool = new Lancet.Tile.Cpu.WorkerPool(4);
        var kernel = Kernel.Trace("count", k => k.AtomicAdd(k.Pointer(DType.Int64) + k.Zeros(DType.Int32, 8), k.ProgramId(0).ToInt64()));
        lab.Launch(kernel, new Grid(1000), pool: pool);
        Assert.Equal(8 * 999L * 1000 / 2, lab.Read(target, 0));
    }

    [Fact]
    public void Lookup_of_every_table_size() => Gen.Select(Gen.Int[0, int.MaxValue], Gen.Int[0, 8], Gen.Int[0, 3]).Sample(
        (seed, bits, rank) =>
        {
            var lab = new TileLab(seed);
            var shape = lab.Shape(rank);
            var table = Enumerable.Range(0, 1 << bits).Select(_ => lab.Random.NextSingle()).ToArray();
            var index = lab.Operand(DType.Int32, shape);
            var output = lab.Buffer(DType.Float32, new long[Count(shape)]);
            lab.Launch((k, p) => TileLab.Store(k, p[output], k.Lookup(table, index.Make(k, p) & (table.Length - 1))));
            for (var i = 0; i < index.Values.Length; i++) Assert.Equal(table[index.Values[i] & (table.Length - 1)], (float)Elements.ToDouble(DType.Float32, lab.Read(output, i)));
        },
        iter: Samples,
        threads: 1);

    [Fact]
    public void A_closed_form_that_passes_the_end_of_int32_is_reported_and_not_continued()
    {
        foreach (var use in (Func<KernelBuilder, Pointer, Tile, Tile>[])[(k, p, x) => x < 5, (k, p, x) => k.Load(p + x).EqualTo(1), (k, p, x) => x.ToInt64() < 5])
        {
            var lab = new TileLab(1);
            var output = lab.Buffer(DType.Int32, new long[8]);
            var error = Assert.Throws<TileException>(() => lab.Launch((k, p) => TileLab.Store(k, p[output], use(k, p[output], k.Range(8) + (int.MaxValue - 6)))));
            Assert.Contains("passes 2^31", error.Message, StringComparison.Ordinal);
            Assert.Contains("ToInt64", error.Message, StringComparison.Ordinal);
        }
    }

    private static int Count(int[] shape) => shape.Aggregate(1, (product, extent) => product * extent);
}
