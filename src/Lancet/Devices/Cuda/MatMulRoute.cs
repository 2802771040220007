using Lancet.Tile;

namespace Lancet.Devices.Cuda;

/// <summary>How a product reaches the tensor cores.</summary>
internal enum MatMulPath
{
    /// <summary>Nothing to do.</summary>
    Nothing,

    /// <summary>cuBLASLt multiplies the operands as they are, or after an NF4 weight was written out.</summary>
    Library,

    /// <summary>The tile-language kernel.</summary>
    Tile,
}

/// <summary>
/// What a product needs besides itself, decided from shapes and dtypes alone, so that the planner can tell the workspace without a GPU.
/// </summary>
/// <param name="Path">Way.</param>
/// <param name="TypeA">Dtype that A is multiplied in.</param>
/// <param name="TypeB">Dtype that B is multiplied in.</param>
/// <param name="BytesA">Workspace for A's other form.</param>
/// <param name="BytesB">Workspace for B's other form.</param>
/// <param name="BytesBias">Workspace for the bias in C's dtype.</param>
internal readonly record struct MatMulRoute(MatMulPath Path, DType TypeA, DType TypeB, long BytesA, long BytesB, long BytesBias)
{
    /// <summary>What cuBLASLt may use itself; NVIDIA's advice for Hopper.</summary>
    public const long LibraryBytes = 32 << 20;

    /// <summary>Everything together.</summary>
    public long WorkspaceBytes => LibraryBytes + BytesA + BytesB + BytesBias;

    /// <summary>Decides.</summary>
    /// <param name="product">The product.</param>
    /// <param name="hasLibrary">Whether cuBLASLt is there; plans assume so, which never needs less.</param>
    /// <exception cref="LancetException">No way: fp64.</exception>
    public static MatMulRoute Of(in MatMul product, bool hasLibrary = true)
    {
        if (product.M == 0 || product.N == 0) return new(MatMulPath.Nothing, default, default, 0, 0, 0);
        // While a step is planned, gradients of weights have no memory yet; beside 16-bit activations they are fp32.
        var (a, b, c) = (product.A.Tensor.DType, product.B.Tensor.DType, product.C.Exists ? product.C.DType : DType.Float32);
        // An NF4 weight is written out in the dtype of what it is multiplied with.
        if (product.A.Quantized is not null) a = b;
        if (product.B.Quantized is not null) b = a;
        if (a == DType.Float64 || b == DType.Float64 || c == DType.Float64) throw new LancetException("fp64 runs on the processor only; use --device cpu.");
        long countA = (long)product.M * product.K, countB = (long)product.K * product.N;
        var bytesA = product.A.Quantized is null ? 0 : Align(countA * a.SizeInBytes());
        var bytesB = product.B.Quantized is null ? 0 : Align(countB * b.SizeInBytes());
        var bytesBias = product.Bias.Exists && c != DType.Float32 ? Align((long)product.N * c.SizeInBytes()) : 0;
        var plain = new MatMulRoute(MatMulPath.Tile, a, b, bytesA, bytesB, 0);
        return product.K > 0 && hasLibrary && a == b && (c == DType.Float32 || c == a) ? plain with { Path = MatMulPath.Library, BytesBias = bytesBias } : plain;
    }

    private static long Align(long bytes) => (bytes + 255) / 256 * 256;
}
