using CsCheck;
using Lancet.Devices;
using Lancet.Kernels;
using Lancet.Tensors;
using Lancet.Tests.Devices;
using Lancet.Tile;
using Lancet.Tile.Ptx;

namespace Lancet.Tests.Kernels;

/// <summary>The tile-language product on the CPU executor against plain sums in fp64.</summary>
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

    /// <summary>On Hopper: operands in shared memory as rows of either extent, aligned for asynchronous copies or not.</summary>
    [Theory]
    [InlineData(false, true, 0)]
    [InlineData(true, false, 8)]
    [InlineData(false, false, 1)]
    [InlineData(true, true, 0)]
    public void Warp_groups_multiply_every_transposition(bool ta, bool tb, int padding)
    {
        using var lab = new KernelLab(1, new SimulatorDevice(PtxTarget.Sm90));
        foreach (var blocks in (GemmBlocks[])[GemmBlocks.Small, new(128, 64, 64, 3, 8)])
        {
            var product = Product(lab, 136, 72, 200, ta, tb, padding, true, DType.BFloat16, DType.BFloat16, DType.BFloat16, true);
            var expected = Expected(product);
            GemmKernel.Multiply(lab.Device, product, blocks);
            var actual = Block(product);
            for (var i = 0; i < expected.Length; i++) Assert.True(Math.Abs(expected[i] - actual[i]) <= (4e-3 * Math.Abs(expected[i])) + 2e-5, $"element {i}: expected {expected[i]}, got {actual[i]}");
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
