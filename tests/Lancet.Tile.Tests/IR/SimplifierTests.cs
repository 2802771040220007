using CsCheck;
using Lancet.Tile.IR;
using Lancet.Tile.IR.Passes;
using static Lancet.Tile.TileMath;

namespace Lancet.Tile.Tests.IR;

public class SimplifierTests
{
    [Fact]
    public void Random_kernels_keep_every_bit() =>
        Gen.Int[0, int.MaxValue].Sample(
            seed =>
            {
                var kernel = RandomKernel.Build(seed);
                var (floats, ints) = RandomKernel.Run(kernel);
                var (simpleFloats, simpleInts) = RandomKernel.Run(Simplifier.Run(kernel));
                Assert.Equal(floats, simpleFloats);
                Assert.Equal(ints, simpleInts);
            },
            iter: 300);

    [Fact]
    public void Running_twice_changes_nothing_more() =>
        Gen.Int[0, int.MaxValue].Sample(
            seed =>
            {
                var once = Simplifier.Run(RandomKernel.Build(seed));
                Assert.Equal(Count(once.Body), Count(Simplifier.Run(once).Body));
            },
            iter: 100);

    [Fact]
    public void Constants_fold_through_broadcasts_and_casts()
    {
        var kernel = Simplify(k =>
        {
            var y = k.Pointer(DType.Float32);
            var five = k.Full(DType.Int32, 2, 8) + k.Full(DType.Int32, 3, 8);
            k.Store(y + k.Range(8), (five * 4 - 6).To(DType.Int64).To(DType.Float32));
        });
        var constant = Assert.Single(Operations(kernel), o => o.Opcode == Opcode.Constant);
        Assert.Equal(14, constant.Number);
        Assert.Equal(6, kernel.Body.Operations.Count);
    }

    [Fact]
    public void Floating_point_arithmetic_is_left_alone()
    {
        var kernel = Simplify(k =>
        {
            var y = k.Pointer(DType.Float32);
            var x = k.Load(y + k.Range(8));
            k.Store(y + k.Range(8), (x + 0) * 1 + (k.Constant(DType.Float32, 1.0) + k.Constant(DType.Float32, 2.0)));
        });
        Assert.Equal(3, Operations(kernel).Count(o => o.Opcode == Opcode.Add));
        Assert.Single(Operations(kernel), o => o.Opcode == Opcode.Multiply);
    }

    [Fact]
    public void Division_by_zero_is_left_to_the_run_time()
    {
        var kernel = Simplify(k => k.Store(k.Pointer(DType.Int32), k.Constant(DType.Int32, 7L) / k.Constant(DType.Int32, 0L)));
        Assert.Single(Operations(kernel), o => o.Opcode == Opcode.Divide);
    }

    [Fact]
    public void Equal_operations_merge_where_one_dominates_the_other_and_loads_never_do()
    {
        var kernel = Simplify(k =>
        {
            var (x, n) = (k.Pointer(DType.Int32), k.Scalar(DType.Int32));
            var range = k.Range(8);
            var a = k.Load(x + range) + n * range;
            k.If(n > 2, () => k.Store(x + range, a * a + k.Load(x + k.Range(8)) + range * n));
            k.If(n > 3, () => k.Store(x + range, a * a));
        });
        Assert.Equal(2, Operations(kernel).Count(o => o.Opcode == Opcode.Load));
        // n · range once; a · a in each of the branches, as neither dominates the other.
        Assert.Equal(3, Operations(kernel).Count(o => o.Opcode == Opcode.Multiply));
        Assert.Single(Operations(kernel), o => o.Opcode == Opcode.Range);
    }

    [Fact]
    public void Invariant_arithmetic_leaves_the_loop_but_loads_and_lookups_stay()
    {
        var kernel = Simplify(k =>
        {
            var (x, n) = (k.Pointer(DType.Float32), k.Scalar(DType.Int32));
            var range = k.Range(8);
            k.For(k.Constant(DType.Int32, 0L), n, k.Constant(DType.Int32, 1L), [], (i, _) =>
            {
                var value = Exp2((range * n).To(DType.Float32)) * k.Load(x + range) + k.Lookup([1, 2, 3, 4], range & 3);
                k.If(i > 1, () => k.Store(x + (range + i), value * Tanh((range + n).To(DType.Float32))));
                return [];
            });
        });
        var loop = Assert.Single(kernel.Body.Operations, o => o.Opcode == Opcode.For);
        var inside = loop.Body!.Operations.Select(o => o.Opcode).ToArray();
        Assert.Contains(Opcode.Load, inside);
        Assert.Contains(Opcode.Lookup, inside);
        Assert.DoesNotContain(Opcode.Exp2, inside);
        Assert.Contains(kernel.Body.Operations, o => o.Opcode == Opcode.Exp2);
        // A branch is not left: it may not be taken.
        var branch = Assert.Single(loop.Body.Operations, o => o.Opcode == Opcode.If);
        Assert.Contains(branch.Body!.Operations, o => o.Opcode == Opcode.Tanh);
    }

    [Fact]
    public void Loops_and_branches_that_constants_decide_dissolve()
    {
        var kernel = Simplify(k =>
        {
            var x = k.Pointer(DType.Int32);
            var zero = k.Constant(DType.Int32, 0L);
            var never = k.For(5, 5, 1, [zero], (i, c) => [c[0] + k.Load(x)]);
            var once = k.For(7, 10, 5, [never[0]], (i, c) => [c[0] + i]);
            var taken = k.If(k.Constant(DType.Int32, 1L) > 0, once, () => [once[0] * 2]);
            k.Store(x, taken[0]);
        });
        Assert.Equal([Opcode.Constant, Opcode.Store], kernel.Body.Operations.Select(o => o.Opcode));
        Assert.Equal(14, kernel.Body.Operations[0].Integer);
    }

    [Fact]
    public void What_nothing_uses_goes_even_if_it_feeds_itself()
    {
        var kernel = Simplify(k =>
        {
            var (x, n) = (k.Pointer(DType.Float32), k.Scalar(DType.Int32));
            var range = k.Range(8);
            var value = k.Load(x + range);
            var carried = k.For(k.Constant(DType.Int32, 0L), n, k.Constant(DType.Int32, 1L), [value, k.Zeros(DType.Float32, 8), value], (i, c) => [c[0] + 1, Exp2(c[1]), c[2]]);
            k.For(k.Constant(DType.Int32, 0L), n, k.Constant(DType.Int32, 1L), [value], (i, c) => [c[0] * k.Load(x + range)]);
            k.Store(x + range, carried[0] + carried[2]);
        });
        var loop = Assert.Single(kernel.Body.Operations, o => o.Opcode == Opcode.For);
        Assert.Equal(4, loop.Operands.Length);
        Assert.DoesNotContain(Operations(kernel), o => o.Opcode == Opcode.Exp2);
        Assert.Single(Operations(kernel), o => o.Opcode == Opcode.Load);
    }

    [Fact]
    public void The_given_kernel_is_left_as_it_was()
    {
        var kernel = RandomKernel.Build(3);
        var before = Operations(kernel).Select(o => (o.Opcode, string.Join(',', o.Operands.Select(v => v.Id)))).ToArray();
        Simplifier.Run(kernel);
        Assert.Equal(before, Operations(kernel).Select(o => (o.Opcode, string.Join(',', o.Operands.Select(v => v.Id)))));
        Assert.All(Operations(kernel), o => Assert.All(o.Results, result => Assert.Same(o, result.Definition)));
    }

    private static Kernel Simplify(Action<KernelBuilder> body) => Simplifier.Run(Kernel.Trace("simplified", body));

    private static int Count(Region region) => region.Operations.Sum(o => 1 + (o.Body is null ? 0 : Count(o.Body)));

    private static IEnumerable<Operation> Operations(Kernel kernel) => Flatten(kernel.Body);

    private static IEnumerable<Operation> Flatten(Region region) => region.Operations.SelectMany(o => o.Body is null ? [o] : Flatten(o.Body).Prepend(o));
}
