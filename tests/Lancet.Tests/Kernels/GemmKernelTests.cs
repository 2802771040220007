using CsCheck;
using Lancet.Devices;
using Lancet.Kernels;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Tests.Kernels;

/// <summary>The tile-language product, and the splitting of fp32 operands, on the CPU executor against plain sums in fp64.</summary>
public class GemmKernelTests
{
    private static readonly GemmBlocks s_tiny = new(16, 32, 16, 3, 4);

    [Fact]
    public void Any_shape_transposition_and_stride_equals_the_plain_product() =>
        Gen.Select(Gen.Int[1, 70], Gen.Int[1, 70], Gen.Int[0, 90], Gen.Bool, Gen.Bool, Gen.Int[0, 3], Gen.Bool).Sample(
            (m, n, k, ta, tb, padding, adds) =>
            {
                using var lab = new KernelLab(m + n + k);
                var product = Product(lab, m, n, k, ta, tb, padding, adds, DType.Float64, DType.Float64, DType.Float64, adds);
                var expected = Expected(product);
                GemmKernel.Multiply(lab.Device, product, s_tiny);
                KernelLab.AssertClose(expected, Block(product), 1e-12);
                return true;
            },
            iter: 40);

    [Theory]
    [InlineData(DType.Float32, DType.Float32, DType.Float32)]
    [InlineData(DType.BFloat16, DType.BFloat16, DType.Float32)]
    [InlineData(DType.BFloat16, DType.BFloat16, DType.BFloat16)]
    [InlineData(DType.Float16, DType.Float16, DType.Float16)]
    [InlineData(DType.BFloat16, DType.Float32, DType.Float32)]
    [InlineData(DType.Float32, DType.Float16, DType.Float16)]
    public void Every_mixture_of_dtypes_is_summed_in_fp32_and_rounded_once(DType a, DType b, DType c)
    {
        using var lab = new KernelLab();
        foreach (var blocks in (GemmBlocks[])[GemmBlocks.Small, GemmBlocks.Float32, GemmBlocks.Narrow])
        {
            var product = Product(lab, 67, 45, 130, false, true, 2, true, a, b, c, true);
            var expected = Expected(product);
            GemmKernel.Multiply(lab.Device, product, blocks);
            var actual = Block(product);
            for (var i = 0; i < expected.Length; i++)
            {
                var rounding = c switch { DType.BFloat16 => 4e-3, DType.Float16 => 5e-4, _ => 6e-8 };
                Assert.True(Math.Abs(expected[i] - actual[i]) <= (rounding * Math.Abs(expected[i])) + 2e-5, $"element {i}: expected {expected[i]}, got {actual[i]}");
            }
        }
    }

    [Theory]
    [InlineData(SplitPattern.Exact, true)]
    [InlineData(SplitPattern.Exact, false)]
    [InlineData(SplitPattern.Left, true)]
    [InlineData(SplitPattern.Right, false)]
    public void Pieces_add_up_and_lie_where_they_should(SplitPattern pattern, bool isSideBySide)
    {
        const int rows = 5, columns = 12, stride = 17;
        using var lab = new KernelLab();
        var source = lab.Random(DType.Float32, new Shape(rows, stride), 1e3);
        KernelLab.Set(source, 0, double.PositiveInfinity);
        KernelLab.Set(source, 1, 1e-30);
        var target = lab.New(DType.BFloat16, new Shape(3 * rows * columns));
        SplitKernel.Split(lab.Device, pattern, source, rows, columns, stride, target, isSideBySide);
        double Piece(int piece, int row, int column) => KernelLab.Get(target, isSideBySide ? (((row * 3) + piece) * columns) + column : (((piece * rows) + row) * columns) + column);
        for (var row = 0; row < rows; row++)
        {
            for (var column = 0; column < columns; column++)
            {
                var x = KernelLab.Get(source, (row * stride) + column);
                double high = (float)(BFloat16)(float)x;
                var middle = double.IsInfinity(x) ? 0 : (double)(float)(BFloat16)(float)(x - high);
                double[] expected = pattern switch
                {
                    SplitPattern.Left => [high, high, middle],
                    SplitPattern.Right => [high, middle, high],
                    _ => [high, middle, double.IsInfinity(x) ? 0 : x - high - middle],
                };
                for (var piece = 0; piece < 3; piece++) Assert.Equal(expected[piece], Piece(piece, row, column));
            }
        }
    }

    [Theory]
    [InlineData(true, true)]
    [InlineData(false, false)]
    public void Three_results_are_added_up_with_beta_and_bias(bool isSideBySide, bool hasBias)
    {
        const int rows = 6, columns = 10, stride = 13;
        using var lab = new KernelLab();
        var pieces = lab.Random(DType.Float32, new Shape(3 * rows * columns));
        var c = lab.Random(DType.Float32, new Shape(rows, stride));
        var bias = lab.Random(DType.Float32, new Shape(columns));
        double[] former = KernelLab.Values(c), values = KernelLab.Values(pieces);
        SplitKernel.Sum(lab.Device, pieces, isSideBySide, rows, columns, c, stride, 0.5f, hasBias ? bias : default);
        for (var row = 0; row < rows; row++)
        {
            for (var column = 0; column < stride; column++)
            {
                var expected = former[(row * stride) + column];
                if (column < columns)
                {
                    expected = (expected / 2) + (hasBias ? KernelLab.Get(bias, column) : 0);
                    for (var piece = 0; piece < 3; piece++) expected += values[isSideBySide ? (((row * 3) + piece) * columns) + column : (((piece * rows) + row) * columns) + column];
                }
                Assert.Equal(expected, KernelLab.Get(c, (row * stride) + column), 1e-6);
            }
        }
    }

    private static MatMul Product(KernelLab lab, int m, int n, int k, bool ta, bool tb, int padding, bool adds, DType a, DType b, DType c, bool hasBias)
    {
        long lda = (ta ? m : k) + padding, ldb = (tb ? k : n) + padding, ldc = n + padding;
        return new MatMul
        {
            M = m,
            N = n,
            K = k,
            A = new(lab.Random(a, new Shape(Math.Max(1, (ta ? k : m) * lda))), ta, lda),
            B = new(lab.Random(b, new Shape(Math.Max(1, (tb ? n : k) * ldb))), tb, ldb),
            C = lab.Random(c, new Shape(m * ldc)),
            LeadingDimensionC = ldc,
            Alpha = 0.5f,
            Beta = adds ? 1 : 0,
            Bias = hasBias ? lab.Random(c.Accumulator(), new Shape(n)) : default,
        };
    }

    private static double[] Expected(in MatMul p)
    {
        var result = new double[p.M * p.N];
        for (var i = 0; i < p.M; i++)
        {
            for (var j = 0; j < p.N; j++)
            {
                var sum = 0.0;
                for (var x = 0; x < p.K; x++)
                {
                    var left = KernelLab.Get(p.A.Tensor, (int)(p.A.IsTransposed ? (x * p.A.LeadingDimension) + i : (i * p.A.LeadingDimension) + x));
                    sum += left * KernelLab.Get(p.B.Tensor, (int)(p.B.IsTransposed ? (j * p.B.LeadingDimension) + x : (x * p.B.LeadingDimension) + j));
                }
                sum = (sum * p.Alpha) + (p.Beta == 0 ? 0 : KernelLab.Get(p.C, (int)((i * p.LeadingDimensionC) + j))) + (p.Bias.Exists ? KernelLab.Get(p.Bias, j) : 0);
                result[(i * p.N) + j] = sum;
            }
        }
        return result;
    }

    private static double[] Block(in MatMul p)
    {
        var result = new double[p.M * p.N];
        for (var i = 0; i < result.Length; i++) result[i] = KernelLab.Get(p.C, (int)((i / p.N * p.LeadingDimensionC) + (i % p.N)));
        return result;
    }
}
