using Lancet.Devices;
using Lancet.Tile;
using Lancet.Tile.Ptx;

namespace Lancet.Bench.Gpu;

/// <summary>A matrix product without its data.</summary>
internal readonly record struct ProductShape(int M, int N, int K, bool IsATransposed, bool IsBTransposed, DType A, DType B, DType C, float Beta, bool IsQuantized)
{
    /// <summary>The shape of a product; a result without memory, as gradients have while a step is planned, is fp32.</summary>
    public static ProductShape Of(in MatMul product) => new(
        product.M, product.N, product.K, product.A.IsTransposed, product.B.IsTransposed, product.A.Tensor.DType, product.B.Quantized is null ? product.B.Tensor.DType : product.A.Tensor.DType,
        product.C.Exists ? product.C.DType : DType.Float32, product.Beta, product.B.Quantized is not null);

    /// <summary>Multiplications and additions.</summary>
    public double Operations => 2.0 * M * N * K;

    /// <summary>Whether the tile-language GEMM multiplies it as it is.</summary>
    public bool IsPlain => !IsQuantized && A == DType.BFloat16 && B == DType.BFloat16;
}

/// <summary>Remembers which kernels were launched, and how, and which products were computed.</summary>
internal sealed class SpyDevice(Device inner) : ForwardingDevice(inner)
{
    private readonly Dictionary<KernelVariant, (Grid Grid, KernelArgument[] Arguments)> _launches = [];

    /// <summary>Each kernel as it is compiled, with the grid and arguments of its first launch.</summary>
    public IReadOnlyDictionary<KernelVariant, (Grid Grid, KernelArgument[] Arguments)> Launches => _launches;

    /// <summary>How often each product was computed.</summary>
    public Dictionary<ProductShape, int> Products { get; } = [];

    public override void MatMul(in MatMul product)
    {
        var shape = ProductShape.Of(product);
        Products[shape] = Products.GetValueOrDefault(shape) + 1;
        base.MatMul(product);
    }

    public override void Launch(Kernel kernel, Grid grid, ReadOnlySpan<KernelArgument> arguments)
    {
        var variant = new KernelVariant(kernel, PtxCompiler.Divisible(arguments));
        if (!_launches.ContainsKey(variant)) _launches[variant] = (grid, arguments.ToArray());
        base.Launch(kernel, grid, arguments);
    }
}
