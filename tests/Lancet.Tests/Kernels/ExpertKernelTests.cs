using Lancet.Devices;
using Lancet.Kernels;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Tests.Kernels;

/// <summary>Routing, sorting, moving and multiplying the rows of experts, against plain loops.</summary>
public class ExpertKernelTests
{
    /// <summary>Where the tests run; another device in derived classes.</summary>
    private protected virtual KernelLab NewLab(long seed = 1) => new(seed);

    [Theory]
    [InlineData(5, 4, 2, true)]
    [InlineData(7, 6, 3, false)]
    [InlineData(33, 128, 8, true)]
    [InlineData(3, 5, 5, false)]
    [InlineData(2, 1, 1, true)]
    public void A_router_chooses_the_largest_and_its_gradient_is_that_of_the_weights(int tokens, int experts, int chosen, bool isNormalized)
    {
        using var lab = NewLab();
        var logits = lab.Random(DType.Float64, new Shape(tokens, experts), 3);
        var kernel = new RouterKernel(experts, chosen, isNormalized);
        Tensor p = lab.New(DType.Float64, logits.Shape), indices = lab.New(DType.Int32, new Shape(tokens, chosen)), weights = lab.New(DType.Float64, indices.Shape);
        void Route()
        {
            lab.Device.Copy(logits, p);
            kernel.Forward(lab.Device, p, indices, weights);
        }
        Route();
        var z = KernelLab.Values(logits);
        for (var t = 0; t < tokens; t++)
        {
            var row = z.AsSpan(t * experts, experts).ToArray();
            var sum = row.Sum(Math.Exp);
            double[] softmax = [.. row.Select(value => Math.Exp(value) / sum)];
            int[] expected = [.. Enumerable.Range(0, experts).OrderByDescending(e => softmax[e]).Take(chosen)];
            Assert.Equal(expected, indices.HostSpan<int>().Slice(t * chosen, chosen).ToArray());
            KernelLab.AssertClose(softmax, KernelLab.Values(p.Rows(t, 1)), 1e-13);
            var total = isNormalized ? expected.Sum(e => softmax[e]) : 1;
            KernelLab.AssertClose([.. expected.Select(e => softmax[e] / total)], KernelLab.Values(weights.Rows(t, 1)), 1e-13);
        }
        Tensor dw = lab.Random(DType.Float64, weights.Shape), dz = lab.New(DType.Float64, logits.Shape);
        kernel.Backward(lab.Device, p, indices, weights, dw, dz);
        KernelLab.CheckGradient(logits, KernelLab.Values(dz), () =>
        {
            Route();
            return KernelLab.Weighted(weights, dw);
        });
    }

    [Fact]
    public void Equal_probabilities_go_to_the_lower_index_and_what_is_not_a_number_to_some_expert()
    {
        using var lab = NewLab();
        var logits = lab.Of(DType.Float32, new Shape(2, 3), [1, 1, 1, double.NaN, 0, 0]);
        Tensor indices = lab.New(DType.Int32, new Shape(2, 2)), weights = lab.New(DType.Float32, indices.Shape);
        new RouterKernel(3, 2, true).Forward(lab.Device, logits, indices, weights);
        Assert.Equal([0, 1], indices.HostSpan<int>()[..2].ToArray());
        Assert.Equal([0.5f, 0.5f], weights.HostSpan<float>()[..2].ToArray());
        foreach (var index in indices.HostSpan<int>()[2..]) Assert.InRange(index, 0, 2);
    }

    /// <summary>Awkward counts, experts without rows at either end, all rows with one expert, several chunks.</summary>
    public static TheoryData<int, int, string> Distributions => new()
    {
        { 1, 1, "even" }, { 33, 4, "even" }, { 70, 6, "one" }, { 1500, 7, "even" }, { 2100, 128, "few" }, { 1025, 3, "last" }, { 50, 300, "even" },
    };

    private static int[] Indices(KernelLab lab, int assignments, int experts, string distribution) => [.. lab.Random(assignments, 0.5).Select(value => distribution switch
    {
        "one" => Math.Min(2, experts - 1),
        "last" => experts - 1,
        "few" => Math.Min(3 + (int)((value + 0.5) * 5), experts - 1),
        _ => Math.Min((int)((value + 0.5) * experts), experts - 1),
    })];

    [Theory]
    [MemberData(nameof(Distributions))]
    public void Rows_are_sorted_by_expert_in_order_of_tokens_and_cut_into_blocks(int assignments, int experts, string distribution)
    {
        using var lab = NewLab();
        var index = Indices(lab, assignments, experts, distribution);
        var rows = Sort(lab, index, experts, 64, out var place, out var order);
        int[] expected = [.. Enumerable.Range(0, assignments).OrderBy(a => index[a])];
        Assert.Equal(expected, order.HostSpan<int>().ToArray());
        for (var row = 0; row < assignments; row++) Assert.Equal(row, place.HostSpan<int>()[expected[row]]);
        Assert.Equal(Enumerable.Range(0, experts + 1).Select(e => index.Count(i => i < e)), rows.Starts.HostSpan<int>().ToArray());
        var blocks = new List<(int, int)>();
        for (var e = 0; e < experts; e++)
            for (var first = rows.Starts.HostSpan<int>()[e]; first < rows.Starts.HostSpan<int>()[e + 1]; first += 64) blocks.Add((e, first));
        var table = rows.Blocks.HostSpan<int>();
        for (var block = 0; block < rows.Blocks.Shape[0]; block++)
        {
            Assert.Equal(block < blocks.Count ? blocks[block].Item1 : -1, table[2 * block]);
            if (block < blocks.Count) Assert.Equal(blocks[block].Item2, table[(2 * block) + 1]);
        }
        Assert.True(blocks.Count <= rows.Blocks.Shape[0]);
    }

    private static ExpertRows Sort(KernelLab lab, int[] index, int experts, int blockRows, out Tensor place, out Tensor order)
    {
        var sort = new ExpertSortKernel(experts);
        place = lab.New(DType.Int32, new Shape(index.Length));
        order = lab.New(DType.Int32, new Shape(index.Length));
        var rows = new ExpertRows(index.Length, lab.New(DType.Int32, new Shape(experts + 1)), lab.New(DType.Int32, new Shape(ExpertRows.MostBlocks(index.Length, experts, blockRows), 2)), blockRows);
        sort.Sort(lab.Device, lab.Of(index), lab.New(DType.Int32, sort.WorkspaceShape(index.Length)), rows.Starts, place, order);
        sort.WriteBlocks(lab.Device, rows);
        return rows;
    }

    [Theory]
    [InlineData(5, 2, 9)]
    [InlineData(3, 8, 1100)]
    [InlineData(1, 1, 1)]
    public void Gathering_and_summing_rows_are_transposes_of_each_other(int tokens, int chosen, int columns)
    {
        using var lab = NewLab();
        const int experts = 5;
        var rows = tokens * chosen;
        Sort(lab, Indices(lab, rows, experts, "even"), experts, 64, out var place, out var order);
        place = place.Reshape(new Shape(tokens, chosen));
        Tensor x = lab.Random(DType.Float64, new Shape(tokens, columns + 3)), y = lab.New(DType.Float64, new Shape(rows, columns));
        var kernel = new ExpertRowsKernel(chosen, columns);
        kernel.Gather(lab.Device, x, order, y);
        for (var r = 0; r < rows; r++)
            Assert.Equal(KernelLab.Values(x.Rows(order.HostSpan<int>()[r] / chosen, 1))[..columns], KernelLab.Values(y.Rows(r, 1)));

        Tensor z = lab.Random(DType.Float64, y.Shape), b = lab.Random(DType.Float64, new Shape(tokens, columns)), sum = lab.New(DType.Float64, b.Shape), plain = lab.New(DType.Float64, b.Shape);
        kernel.Sum(lab.Device, z, place, b, sum);
        kernel.Sum(lab.Device, z, place, default, plain);
        var expected = KernelLab.Values(b);
        for (var t = 0; t < tokens; t++)
            for (var j = 0; j < chosen; j++)
                for (var i = 0; i < columns; i++) expected[(t * columns) + i] += KernelLab.Get(z, (place.HostSpan<int>()[(t * chosen) + j] * columns) + i);
        KernelLab.AssertClose(expected, KernelLab.Values(sum), 1e-14);
        KernelLab.AssertClose([.. expected.Zip(KernelLab.Values(b), (with, without) => with - without)], KernelLab.Values(plain), 1e-14);
    }

    [Theory]
    [InlineData(GatedActivation.Silu, 41)]
    [InlineData(GatedActivation.GeluTanh, 3)]
    [InlineData(GatedActivation.Silu, 1100)]
    public void The_routed_activation_and_its_gradients_in_fp64(GatedActivation activation, int width)
    {
        const int tokens = 3, chosen = 2, rows = tokens * chosen;
        using var lab = NewLab();
        Sort(lab, Indices(lab, rows, 4, "even"), 4, 64, out _, out var order);
        Tensor gateUp = lab.Random(DType.Float64, new Shape(rows, 2 * width), 3), weights = lab.Random(DType.Float64, new Shape(tokens, chosen)), h = lab.New(DType.Float64, new Shape(rows, width));
        var kernel = new RoutedActivationKernel(activation, width);
        void Forward() => kernel.Forward(lab.Device, gateUp, weights, order, h);
        Forward();
        // The plain activation, times the weight.
        var plain = lab.New(DType.Float64, h.Shape);
        new GatedActivationKernel(activation, width).Forward(lab.Device, rows, gateUp, plain);
        double[] expected = [.. KernelLab.Values(plain).Select((value, i) => value * KernelLab.Get(weights, order.HostSpan<int>()[i / width]))];
        KernelLab.AssertClose(expected, KernelLab.Values(h), 1e-14);

        Tensor dh = lab.Random(DType.Float64, h.Shape), gradient = lab.Of(DType.Float64, gateUp.Shape, KernelLab.Values(gateUp)), overwritten = lab.Of(DType.Float64, dh.Shape, KernelLab.Values(dh));
        var dWeights = lab.New(DType.Float64, weights.Shape);
        kernel.Backward(lab.Device, gradient, weights, order, overwritten, dWeights);
        KernelLab.AssertClose(expected, KernelLab.Values(overwritten), 1e-14);
        double Loss()
        {
            Forward();
            return KernelLab.Weighted(h, dh);
        }
        KernelLab.CheckGradient(weights, KernelLab.Values(dWeights), Loss);
        if (width < 100) KernelLab.CheckGradient(gateUp, KernelLab.Values(gradient), Loss);
    }

    [Theory]
    [InlineData(40, 3, 123, 57, DType.Float64, false, "even")]
    [InlineData(40, 3, 123, 57, DType.Float32, true, "even")]
    [InlineData(90, 5, 8, 40, DType.Float32, true, "one")]
    [InlineData(66, 4, 64, 64, DType.BFloat16, true, "even")]
    [InlineData(66, 6, 70, 9, DType.BFloat16, false, "few")]
    [InlineData(300, 2, 48, 130, DType.Float16, true, "last")]
    [InlineData(3, 20, 5, 5, DType.Float32, false, "even")]
    public void Products_of_experts_are_those_of_their_own_matrices(int count, int experts, int n, int k, DType dtype, bool isTransposed, string distribution)
    {
        using var lab = NewLab();
        // Products in fp64 are the processor's.
        if (dtype == DType.Float64 && lab.Device is not Lancet.Devices.Cpu.CpuDevice) return;
        var index = Indices(lab, count, experts, distribution);
        var rows = Sort(lab, index, experts, GroupedGemmKernel.BlockRows(dtype, count, experts), out _, out _);
        Array.Sort(index);
        // Rows of A and C have room behind them.
        Tensor a = lab.Random(dtype, new Shape(count, k + 8)), b = lab.Random(dtype, new Shape(experts, n * k)), c = lab.Random(dtype, new Shape(count, n + 16)), before = lab.Of(dtype, c.Shape, KernelLab.Values(c));
        var product = new GroupedMatMul { Rows = rows, N = n, K = k, A = a, B = new Stack(b, isTransposed), C = c, Alpha = 0.5f, Beta = 1 };
        GroupedGemmKernel.Multiply(lab.Device, product);
        Compare();
        lab.Device.Copy(before, c);
        if (lab.Device is Lancet.Devices.Cpu.CpuDevice)
        {
            lab.Device.MatMul(product);
            Compare();
        }

        void Compare()
        {
            for (var r = 0; r < count; r++)
            {
                for (var j = 0; j < n + 16; j++)
                {
                    var expected = KernelLab.Get(before, (r * (n + 16)) + j);
                    if (j < n)
                        for (var i = 0; i < k; i++) expected += 0.5 * KernelLab.Get(a, (r * (k + 8)) + i) * KernelLab.Get(b, (index[r] * n * k) + (isTransposed ? (j * k) + i : (i * n) + j));
                    Assert.Equal(expected, KernelLab.Get(c, (r * (n + 16)) + j), Tolerance(dtype, k));
                }
            }
        }
    }

    [Theory]
    [InlineData(40, 3, 23, 57, DType.Float64, "even")]
    [InlineData(90, 5, 8, 40, DType.Float32, "one")]
    [InlineData(130, 4, 64, 64, DType.BFloat16, "even")]
    [InlineData(66, 6, 70, 9, DType.Float16, "few")]
    public void Gradients_of_experts_sum_over_their_own_rows(int count, int experts, int m, int n, DType dtype, string distribution)
    {
        using var lab = NewLab();
        // Products in fp64 are the processor's.
        if (dtype == DType.Float64 && lab.Device is not Lancet.Devices.Cpu.CpuDevice) return;
        var index = Indices(lab, count, experts, distribution);
        var rows = Sort(lab, index, experts, 64, out _, out _);
        Array.Sort(index);
        Tensor a = lab.Random(dtype, new Shape(count, m + 8)), b = lab.Random(dtype, new Shape(count, n)), c = lab.Random(dtype.Accumulator(), new Shape(experts, m * n)), before = lab.Of(c.DType, c.Shape, KernelLab.Values(c));
        var product = new GroupedGradient { Rows = rows, M = m, N = n, A = a, B = b, C = new Stack(c, false), Alpha = 0.5f };
        GroupedGemmKernel.Accumulate(lab.Device, product);
        Compare();
        lab.Device.Copy(before, c);
        if (lab.Device is Lancet.Devices.Cpu.CpuDevice)
        {
            lab.Device.MatMul(product);
            Compare();
        }

        void Compare()
        {
            for (var e = 0; e < experts; e++)
            {
                for (var i = 0; i < m * n; i++)
                {
                    var expected = KernelLab.Get(before, (e * m * n) + i);
                    for (var r = 0; r < count; r++)
                        if (index[r] == e) expected += 0.5 * KernelLab.Get(a, (r * (m + 8)) + (i / n)) * KernelLab.Get(b, (r * n) + (i % n));
                    Assert.Equal(expected, KernelLab.Get(c, (e * m * n) + i), Tolerance(c.DType, count));
                }
            }
        }
    }

    // Sums of k products of numbers up to 1: a rounding of each, and one of the result where it is narrow.
    private static double Tolerance(DType dtype, int k) => k * (dtype == DType.Float64 ? 1e-15 : 6e-8) + (dtype == DType.BFloat16 ? Math.Sqrt(k) * 8e-3 : dtype == DType.Float16 ? Math.Sqrt(k) * 1e-3 : 0);

    private sealed class Stack(Tensor all, bool isTransposed) : IExpertMatrices
    {
        public int Count => (int)all.Shape[0];

        public MatMulOperand this[int expert] => new(all.Rows(expert, 1), isTransposed);
    }
}
