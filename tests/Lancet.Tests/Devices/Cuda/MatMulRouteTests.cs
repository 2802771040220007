using Lancet.Devices;
using Lancet.Devices.Cuda;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Tests.Devices.Cuda;

/// <summary>How products of the layers reach the tensor cores, and what workspace they are planned with.</summary>
public class MatMulRouteTests
{
    private const long Library = 32 << 20;

    [Theory]
    [InlineData(DType.Float32, DType.Float32, DType.Float32, false, MatMulPath.Library, 0)]
    [InlineData(DType.BFloat16, DType.BFloat16, DType.BFloat16, false, MatMulPath.Library, 0)]
    [InlineData(DType.BFloat16, DType.BFloat16, DType.Float32, false, MatMulPath.Library, 0)]
    // u = x·Aᵀ: three bf16 pieces of A [16 × 4096], three fp32 results [8192 × 16].
    [InlineData(DType.BFloat16, DType.Float32, DType.Float32, false, MatMulPath.SplitOne, (16 * 4096 * 6) + (8192 * 16 * 12))]
    // dlogits·W: dlogits rounded.
    [InlineData(DType.Float32, DType.BFloat16, DType.BFloat16, true, MatMulPath.Library, 8192L * 4096 * 2)]
    // y += u·Bᵀ.
    [InlineData(DType.Float32, DType.Float32, DType.BFloat16, false, MatMulPath.SplitBoth, ((8192L * 4096) + (16 * 4096)) * 6)]
    [InlineData(DType.Float16, DType.Float32, DType.Float32, false, MatMulPath.Tile, 0)]
    public void A_product_takes_the_way_its_dtypes_allow(DType a, DType b, DType c, bool mayRound, object path, long scratch)
    {
        var product = new MatMul
        {
            M = 8192,
            N = 16,
            K = 4096,
            A = new(new Tensor(256, a, new Shape(8192, 4096))),
            B = new(new Tensor(256, b, new Shape(16, 4096)), true),
            C = new Tensor(256, c, new Shape(8192, 16)),
            Alpha = 1,
            MayRoundOperands = mayRound,
        };
        var route = MatMulRoute.Of(product);
        Assert.Equal(path, route.Path);
        Assert.Equal(Library + scratch, route.WorkspaceBytes);
        Assert.Equal(route.WorkspaceBytes, PlanTarget.Cuda.MatMulWorkspaceBytes(product));
        Assert.Equal(MatMulPath.Tile, MatMulRoute.Of(product, hasLibrary: false).Path);
        Assert.Equal(MatMulPath.Tile, MatMulRoute.Of(product with { K = 0 }).Path);
        Assert.Equal(MatMulPath.Nothing, MatMulRoute.Of(product with { M = 0 }).Path);
    }

    [Fact]
    public void Fp64_is_refused_in_words() => Assert.Contains("--device cpu", Assert.Throws<LancetException>(() => MatMulRoute.Of(new MatMul
    {
        M = 1,
        N = 1,
        K = 1,
        A = new(new Tensor(256, DType.Float64, new Shape(1))),
        B = new(new Tensor(256, DType.Float64, new Shape(1))),
        C = new Tensor(256, DType.Float64, new Shape(1)),
    })).Message);
}
