using CsCheck;
using static Lancet.Tile.TileMath;

namespace Lancet.Tile.Tests.Cpu;

/// <summary>z[…, 2j] = a[…, j], z[…, 2j + 1] = b[…, j]: bits as they were, whatever form the operands have.</summary>
public class InterleaveTests
{
    private const int Samples = 60;

    public static TheoryData<DType> Types => [.. Elements.Memory.Append(DType.Bool)];

    [Theory]
    [MemberData(nameof(Types))]
    public void Elements_in_turn(DType type) => Gen.Select(Gen.Int[0, int.MaxValue], Gen.Int[1, 3]).Sample(
        (seed, rank) =>
        {
            var lab = new TileLab(seed);
            var shape = lab.Shape(rank);
            Operand a = lab.Operand(type, shape), b = lab.Random.Next(8) == 0 ? a : lab.Operand(type, shape);
            var output = lab.Buffer(type == DType.Bool ? DType.Int32 : type, new long[2 * a.Values.Length]);
            lab.Launch((k, p) => TileLab.Store(k, p[output], Interleave(a.Make(k, p), b.Make(k, p))), debug: lab.Random.Next(2) == 0);
            for (var i = 0; i < 2 * a.Values.Length; i++)
                Elements.AssertSame(type, (i % 2 == 0 ? a : b).Values[i / 2], lab.Read(output, i), () => $"element {i} of two {type}[{string.Join(", ", shape)}], seed {seed}");
        },
        iter: Samples,
        threads: 1);

    [Fact]
    public void Nested_and_computed_with() => Gen.Int[0, int.MaxValue].Sample(
        seed =>
        {
            // Four tiles in turn, as fields of a packed word are, with arithmetic before and after.
            var lab = new TileLab(seed);
            int[] shape = [.. lab.Shape(2)];
            var parts = Enumerable.Range(0, 4).Select(_ => lab.Operand(DType.Int32, shape)).ToArray();
            var output = lab.Buffer(DType.Int32, new long[4 * parts[0].Values.Length]);
            lab.Launch((k, p) =>
            {
                var tiles = parts.Select((part, i) => part.Make(k, p) + i).ToArray();
                TileLab.Store(k, p[output], Interleave(Interleave(tiles[0], tiles[2]), Interleave(tiles[1], tiles[3])) * 3);
            });
            for (var i = 0; i < 4 * parts[0].Values.Length; i++)
                Elements.AssertSame(DType.Int32, Elements.Wrap(DType.Int32, 3 * (new System.Numerics.BigInteger(parts[i % 4].Values[i / 4]) + (i % 4))), lab.Read(output, i), () => $"element {i}, seed {seed}");
        },
        iter: Samples,
        threads: 1);

    [Fact]
    public void Tiles_that_do_not_match_and_scalars_are_refused()
    {
        foreach (var body in (Action<KernelBuilder>[])[
            k => Interleave(k.Range(8), k.Range(4)),
            k => Interleave(k.Range(8), k.Range(8).ToInt64()),
            k => Interleave(k.Constant(DType.Int32, 1L), k.Constant(DType.Int32, 2L))])
        {
            var error = Assert.Throws<TileException>(() => Kernel.Trace("mismatch", k => body(k)));
            Assert.Contains("interleaving", error.Message, StringComparison.Ordinal);
        }
    }
}
