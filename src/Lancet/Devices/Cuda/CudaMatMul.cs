using Lancet.Kernels;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Devices.Cuda;

/// <summary>
/// Matrix products of a GPU: brings the operands into a form that cuBLASLt multiplies, see <see cref="MatMulRoute"/>, in a workspace that is
/// reused from product to product. Everything is queued on one stream, so the workspace needs no guard.
/// </summary>
/// <param name="device">Where the kernels run; a GPU but for tests.</param>
/// <param name="library">What multiplies, or null for the tile-language kernel.</param>
/// <param name="sharedBytes">Shared memory that a block may have.</param>
/// <param name="capture">The GPU, which may be recording; null for devices that do not.</param>
internal sealed class CudaMatMul(Device device, IMatMulLibrary? library, int sharedBytes, CudaDevice? capture = null) : IDisposable
{
    private readonly List<DeviceBuffer> _retired = [];
    private DeviceBuffer? _workspace;

    /// <summary>What multiplies.</summary>
    public string Library => library?.Name ?? "tile-language GEMM (cuBLASLt was not found)";

    /// <summary>Makes the workspace at least so large.</summary>
    public void Reserve(long bytes)
    {
        if (_workspace is { } former && former.Bytes >= bytes) return;
        if (capture is { IsCapturing: true }) throw new InvalidOperationException($"A product needs {bytes:N0} bytes of workspace while a graph is recorded, {_workspace?.Bytes ?? 0:N0} were reserved.");
        if (capture is { HasCaptured: true } && _workspace is not null)
        {
            // A recording may hold its address.
            _retired.Add(_workspace);
        }
        else
        {
            _workspace?.Dispose();
        }
        _workspace = null;
        _workspace = device.Allocate(bytes, "matrix products");
    }

    /// <summary>Queues a product.</summary>
    public void Multiply(in MatMul product)
    {
        var route = MatMulRoute.Of(product, library is not null);
        if (route.Path == MatMulPath.Nothing) return;
        Reserve(route.WorkspaceBytes);
        var offset = MatMulRoute.LibraryBytes;
        var a = Take(ref offset, route.BytesA);
        var b = Take(ref offset, route.BytesB);
        var bias = Take(ref offset, route.BytesBias);
        var pieces = Take(ref offset, route.BytesPieces);
        switch (route.Path)
        {
            case MatMulPath.Library:
                var plain = product with { A = Prepared(product.A, product.M, product.K, route.TypeA, a), B = Prepared(product.B, product.K, product.N, route.TypeB, b), Bias = Bias(product, bias) };
                if (library!.TryMultiply(plain, Workspace)) break;
                Tile(WithAddend(plain with { Bias = product.Bias }));
                break;
            case MatMulPath.SplitBoth:
                MultiplyBoth(WithAddend(product), a, b, bias);
                break;
            case MatMulPath.SplitOne:
                MultiplyOne(WithAddend(product), route, a, b, pieces);
                break;
            default:
                Tile(WithAddend(product) with { A = Prepared(product.A, product.M, product.K, route.TypeA, a), B = Prepared(product.B, product.K, product.N, route.TypeB, b) });
                break;
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        library?.Dispose();
        _workspace?.Dispose();
        foreach (var buffer in _retired) buffer.Dispose();
    }

    private (nint Address, long Bytes) Workspace => (_workspace!.Address, MatMulRoute.LibraryBytes);

    // Depth 3K: pieces follow each other along K, which runs along stored columns of A and stored rows of B unless they are transposed.
    private void MultiplyBoth(in MatMul product, nint a, nint b, nint bias)
    {
        var (m, n, depth) = (product.M, product.N, product.K);
        var left = Split(SplitPattern.Left, product.A, m, depth, a, !product.A.IsTransposed);
        var right = Split(SplitPattern.Right, product.B, depth, n, b, product.B.IsTransposed);
        var split = product with { K = 3 * depth, A = left, B = right, Bias = Bias(product, bias) };
        if (!library!.TryMultiply(split, Workspace)) Tile(split with { Bias = product.Bias });
    }

    // Three times as many rows or columns: pieces follow each other along M or N.
    private void MultiplyOne(in MatMul product, in MatMulRoute route, nint a, nint b, nint pieces)
    {
        var (m, n, depth) = (product.M, product.N, product.K);
        var isLeft = product.A.Quantized is null && product.A.Tensor.DType == DType.Float32;
        var target = new Tensor(pieces, DType.Float32, new Shape(3L * m * n));
        var inner = isLeft
            ? product with { M = 3 * m, A = Split(SplitPattern.Exact, product.A, m, depth, a, product.A.IsTransposed), B = Prepared(product.B, depth, n, route.TypeB, b) }
            : product with { N = 3 * n, A = Prepared(product.A, m, depth, route.TypeA, a), B = Split(SplitPattern.Exact, product.B, depth, n, b, !product.B.IsTransposed) };
        inner = inner with { C = target, LeadingDimensionC = 0, Beta = 0, Bias = default };
        if (!library!.TryMultiply(inner, Workspace)) Tile(inner);
        SplitKernel.Sum(device, target, !isLeft, m, n, product.C, product.LeadingDimensionC == 0 ? n : product.LeadingDimensionC, product.Beta, product.Bias);
    }

    /// <summary>The product with the addend where it adds to.</summary>
    private MatMul WithAddend(in MatMul product)
    {
        if (!product.Addend.Exists) return product;
        device.Copy(product.Addend, product.C);
        return product with { Addend = default };
    }

    private void Tile(in MatMul product) => GemmKernel.Multiply(device, product, GemmKernel.BlocksFor(product, sharedBytes));

    /// <summary>An operand as it is, written out from NF4, or rounded.</summary>
    private MatMulOperand Prepared(in MatMulOperand operand, int rows, int columns, DType type, nint target)
    {
        var (storedRows, storedColumns) = operand.IsTransposed ? (columns, rows) : (rows, columns);
        if (operand.Quantized is { } nf4)
        {
            var dense = new Tensor(target, type, new Shape(storedRows, storedColumns));
            Nf4Kernel.Dequantize(device, nf4, dense);
            return new(dense, operand.IsTransposed);
        }
        return operand.Tensor.DType == type ? operand : Split(SplitPattern.Rounded, operand, rows, columns, target, false, type);
    }

    private MatMulOperand Split(SplitPattern pattern, in MatMulOperand operand, int rows, int columns, nint target, bool isSideBySide, DType type = DType.BFloat16)
    {
        var (storedRows, storedColumns) = operand.IsTransposed ? (columns, rows) : (rows, columns);
        var pieces = new Tensor(target, type, new Shape((long)SplitKernel.PieceCount(pattern) * storedRows * storedColumns));
        SplitKernel.Split(device, pattern, operand.Tensor, storedRows, storedColumns, operand.LeadingDimension == 0 ? storedColumns : operand.LeadingDimension, pieces, isSideBySide);
        return new(pieces, operand.IsTransposed, isSideBySide ? (long)SplitKernel.PieceCount(pattern) * storedColumns : storedColumns);
    }

    /// <summary>The bias in C's dtype, as cuBLASLt wants it. Biases come from checkpoints in 16 bits, so nothing is lost unless they are trained.</summary>
    private Tensor Bias(in MatMul product, nint target)
    {
        if (!product.Bias.Exists || product.C.DType == product.Bias.DType) return product.Bias;
        var converted = new Tensor(target, product.C.DType, new Shape(product.N));
        ElementwiseKernel.Convert(device, product.Bias, converted);
        return converted;
    }

    private nint Take(ref long offset, long bytes)
    {
        var address = (nint)(_workspace!.Address + offset);
        offset += bytes;
        return address;
    }
}
