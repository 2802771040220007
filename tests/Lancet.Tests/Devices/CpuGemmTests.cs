using CsCheck;
using Lancet.Devices.Cpu;
using Lancet.Tile;
using Lancet.Tile.Cpu;

namespace Lancet.Tests.Devices;

public unsafe class CpuGemmTests
{
    private static float[] RandomMatrix(int count, int seed)
    {
        var random = new DeterministicRandom(seed);
        var values = new float[count];
        for (var i = 0; i < count; i++) values[i] = (float)random.NextDouble() - 0.5f;
        return values;
    }

    private static float[] Multiply(int threads, int m, int n, int k, float[] a, bool isATransposed, float[] b, bool isBTransposed, float alpha = 1, float beta = 0, float[]? bias = null, float[]? former = null)
    {
        using var pool = new WorkerPool(threads);
        using var workspace = new GemmWorkspace();
        var c = former is null ? new float[m * n] : (float[])former.Clone();
        if (former is null && beta == 0) Array.Fill(c, float.NaN);
        fixed (float* pa = a, pb = b, pc = c, pBias = bias)
        {
            CpuGemm.Multiply(
                pool, m, n, k, GemmOperand.Dense(pa, DType.Float32, isATransposed ? m : k, isATransposed),
                GemmOperand.Dense(pb, DType.Float32, isBTransposed ? k : n, isBTransposed), pc, DType.Float32, n, alpha, beta, pBias, workspace);
        }
        return c;
    }

    [Fact]
    public void Any_shape_and_transposition_equals_the_plain_product() =>
        Gen.Select(Gen.Int[1, 130], Gen.Int[1, 130], Gen.Int[0, 600], Gen.Bool, Gen.Bool, Gen.Int[0, 1]).Sample(
            (m, n, k, ta, tb, beta) =>
            {
                float[] a = RandomMatrix(m * k, 1), b = RandomMatrix(k * n, 2), bias = RandomMatrix(n, 3), former = RandomMatrix(m * n, 4);
                var c = Multiply(2, m, n, k, a, ta, b, tb, 0.5f, beta, bias, former);
                for (var i = 0; i < m; i++)
                {
                    for (var j = 0; j < n; j++)
                    {
                        double sum = 0, magnitude = 0;
                        for (var x = 0; x < k; x++)
                        {
                            var term = (double)a[ta ? (x * m) + i : (i * k) + x] * b[tb ? (j * k) + x : (x * n) + j];
                            sum += term;
                            magnitude += Math.Abs(term);
                        }
                        var expected = (0.5 * sum) + (beta * former[(i * n) + j]) + bias[j];
                        // The classical bound of a sum of k products in fp32, with a few roundings at the end.
                        var bound = ((Math.Min(k, 256) + 8) * magnitude + 4) * 6e-8;
                        if (!(Math.Abs(c[(i * n) + j] - expected) <= bound)) return false;
                    }
                }
                return true;
            },
            iter: 60);

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void A_row_has_the_same_bits_alone_and_among_others(bool isBTransposed)
    {
        const int m = 101, n = 77, k = 700;
        float[] a = RandomMatrix(m * k, 1), b = RandomMatrix(n * k, 2);
        var all = Multiply(3, m, n, k, a, false, b, isBTransposed);
        for (var row = 0; row < m; row += 20)
            Assert.Equal(all[(row * n)..((row + 1) * n)], Multiply(1, 1, n, k, a[(row * k)..((row + 1) * k)], false, b, isBTransposed));
    }

    [Fact]
    public void The_number_of_threads_does_not_change_a_bit()
    {
        float[] a = RandomMatrix(300 * 400, 1), b = RandomMatrix(400 * 513, 2);
        Assert.Equal(Multiply(1, 300, 513, 400, a, true, b, false), Multiply(4, 300, 513, 400, a, true, b, false));
    }

    [Theory]
    [InlineData(false, true)]
    [InlineData(true, false)]
    public void A_long_sum_is_cut_into_parts_that_change_no_bit_of_a_row(bool isATransposed, bool isBTransposed)
    {
        const int m = 30, n = 1100, k = 4096 + 700;
        float[] a = RandomMatrix(m * k, 1), b = RandomMatrix(n * k, 2);
        var all = Multiply(2, m, n, k, a, isATransposed, b, isBTransposed);
        var row = new float[k];
        for (var i = 0; i < k; i++) row[i] = a[isATransposed ? (i * m) + 17 : (17 * k) + i];
        Assert.Equal(all[(17 * n)..(18 * n)], Multiply(1, 1, n, k, row, false, b, isBTransposed));
        for (var column = 0; column < n; column += 99)
        {
            // In blocks of 256 as documented, so that only the order of the sum matters, not where it was cut.
            float sum = 0;
            for (var start = 0; start < k; start += CpuGemm.DepthBlock)
            {
                float part = 0;
                for (var x = start; x < Math.Min(k, start + CpuGemm.DepthBlock); x++) part = MathF.FusedMultiplyAdd(row[x], b[isBTransposed ? (column * k) + x : (x * n) + column], part);
                sum += part;
            }
            Assert.Equal(sum, all[(17 * n) + column]);
        }
    }
}
