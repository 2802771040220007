using System.Numerics;
using CsCheck;
using Lancet.Tile.IR;
using static Lancet.Tile.TileMath;

namespace Lancet.Tile.Tests.Cpu;

/// <summary>Sums and extrema along every axis of tiles of 1 to 3 axes, and matrix products.</summary>
public class ReductionTests
{
    public static TheoryData<Opcode, DType> Reductions
    {
        get
        {
            var cases = new TheoryData<Opcode, DType>();
            foreach (var opcode in (Opcode[])[Opcode.ReduceSum, Opcode.ReduceMax, Opcode.ReduceMin])
                foreach (var type in Elements.Computed) cases.Add(opcode, type);
            return cases;
        }
    }

    [Theory]
    [MemberData(nameof(Reductions))]
    public void Along_any_axis(Opcode opcode, DType type) => Gen.Select(Gen.Int[0, int.MaxValue], Gen.Int[1, 3]).Sample(
        (seed, rank) =>
        {
            var lab = new TileLab(seed);
            var shape = lab.Shape(rank);
            var axis = lab.Random.Next(rank);
            var (inner, n) = (shape[(axis + 1)..].Aggregate(1, (product, extent) => product * extent), shape[axis]);
            var operand = lab.Operand(type, shape);
            var count = operand.Values.Length / n;
            var output = lab.Buffer(type, new long[count]);
            lab.Launch((k, p) => TileLab.Store(k, p[output], k.Reduce(opcode, operand.Make(k, p), axis)));
            for (var i = 0; i < count; i++)
            {
                var elements = Enumerable.Range(0, n).Select(j => operand.Values[(((i / inner * n) + j) * inner) + (i % inner)]).ToArray();
                var actual = lab.Read(output, i);
                string Where() => $"element {i} of [{string.Join(", ", shape)}] along {axis}, seed {seed}";
                if (opcode == Opcode.ReduceSum && type.IsFloat()) AssertSum(type, elements, actual, Where);
                else Elements.AssertSame(type, elements.Aggregate((a, b) => Combine(opcode, type, a, b)), actual, Where);
            }
        },
        iter: 40,
        threads: 1);

    [Theory]
    [InlineData(DType.Float32)]
    [InlineData(DType.Float64)]
    [InlineData(DType.BFloat16)]
    [InlineData(DType.Float16)]
    public void Product_is_one_chain_of_fused_multiply_adds(DType type) => Gen.Int[0, int.MaxValue].Sample(
        seed =>
        {
            var lab = new TileLab(seed);
            var (m, n, k) = (1 << lab.Random.Next(6), 1 << lab.Random.Next(7), 1 << lab.Random.Next(6));
            var accumulates = lab.Random.Next(2) == 0;
            var sum = type.Accumulator();
            var (a, b, c) = (lab.Operand(type, [m, k]), lab.Operand(type, [k, n]), lab.Operand(sum, [m, n]));
            var output = lab.Buffer(sum, new long[m * n]);
            lab.Launch((builder, p) => TileLab.Store(builder, p[output], Dot(a.Make(builder, p), b.Make(builder, p), accumulates ? c.Make(builder, p) : null)));
            for (var row = 0; row < m; row++)
            {
                for (var column = 0; column < n; column++)
                {
                    var expected = accumulates ? Elements.ToDouble(sum, c.Values[(row * n) + column]) : 0;
                    for (var i = 0; i < k; i++)
                    {
                        double x = Elements.ToDouble(type, a.Values[(row * k) + i]), y = Elements.ToDouble(type, b.Values[(i * n) + column]);
                        expected = sum == DType.Float64 ? Math.FusedMultiplyAdd(x, y, expected) : MathF.FusedMultiplyAdd((float)x, (float)y, (float)expected);
                    }
                    Elements.AssertSame(sum, Elements.FromDouble(sum, expected), lab.Read(output, (row * n) + column), () => $"({row}, {column}) of {type} [{m}, {k}]·[{k}, {n}], seed {seed}");
                }
            }
        },
        iter: 60,
        threads: 1);

    [Fact]
    public void Product_of_a_tile_with_itself_and_its_transpose() => Gen.Select(Gen.Int[0, int.MaxValue], Gen.Int[0, 5]).Sample(
        (seed, bits) =>
        {
            var lab = new TileLab(seed);
            var n = 1 << bits;
            var values = Enumerable.Range(0, n * n).Select(_ => Elements.FromDouble(DType.Float32, lab.Random.Next(-3, 4))).ToArray();
            var (x, output) = (lab.Buffer(DType.Float32, values), lab.Buffer(DType.Float32, new long[2 * n * n]));
            lab.Launch((k, p) =>
            {
                var index = TileLab.Index(k, n, n);
                var tile = k.Load(p[x] + index);
                k.Store(p[output] + index, Dot(tile, tile.Transposed(), tile));
                // The same tile thrice, and its last use.
                k.Store(p[output] + (index + n * n), Dot(tile, tile, tile));
            });
            double X(int row, int column) => Elements.ToDouble(DType.Float32, values[(row * n) + column]);
            for (var row = 0; row < n; row++)
            {
                for (var column = 0; column < n; column++)
                {
                    var (transposed, plain) = (X(row, column), X(row, column));
                    for (var i = 0; i < n; i++) (transposed, plain) = (transposed + (X(row, i) * X(column, i)), plain + (X(row, i) * X(i, column)));
                    Assert.Equal(transposed, Elements.ToDouble(DType.Float32, lab.Read(output, (row * n) + column)));
                    Assert.Equal(plain, Elements.ToDouble(DType.Float32, lab.Read(output, (n * n) + (row * n) + column)));
                }
            }
        },
        iter: 30,
        threads: 1);

    private static long Combine(Opcode opcode, DType type, long a, long b)
    {
        if (opcode == Opcode.ReduceSum) return Elements.Wrap(type, (BigInteger)a + b);
        if (!type.IsFloat()) return opcode == Opcode.ReduceMax ? Math.Max(a, b) : Math.Min(a, b);
        double x = Elements.ToDouble(type, a), y = Elements.ToDouble(type, b);
        return Elements.FromDouble(type, opcode == Opcode.ReduceMax ? Math.Max(x, y) : Math.Min(x, y));
    }

    /// <summary>Any order of n − 1 additions stays within (n − 1)·u·Σ|x| of the exact sum, to first order, u the unit roundoff (Higham, "Accuracy and Stability", 4.2).</summary>
    private static void AssertSum(DType type, long[] elements, long actual, Func<string> where)
    {
        var values = elements.Select(bits => Elements.ToDouble(type, bits)).ToArray();
        var magnitude = values.Where(double.IsFinite).Sum(Math.Abs);
        var largest = type == DType.Float32 ? float.MaxValue : double.MaxValue;
        // Where partial sums may overflow, the order decides; that it is fixed is tested elsewhere.
        if (magnitude > largest) return;
        if (!values.All(double.IsFinite))
        {
            Elements.AssertSame(type, Elements.FromDouble(type, values.Where(value => !double.IsFinite(value)).Sum()), actual, where);
            return;
        }
        var bound = values.Length * Math.ScaleB(1, type == DType.Float32 ? -24 : -53) * magnitude;
        var error = Math.Abs(Elements.ToDouble(type, actual) - values.Sum());
        // The reference sum of fp64 has the same error again.
        if (type == DType.Float64) bound *= 2;
        if (!(error <= bound)) Assert.Fail($"error {error} above {bound}: {where()}");
    }
}
