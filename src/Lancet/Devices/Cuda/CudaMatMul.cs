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
        var prepared = product with { A = Prepared(product.A, product.M, product.K, route.TypeA, a), B = Prepared(product.B, product.K, product.N, route.TypeB, b) };
        if (route.Path == MatMulPath.Library && library!.TryMultiply(prepared with { Bias = Bias(product, bias) }, Workspace)) return;
        if (product.Addend.Exists) device.Copy(product.Addend, product.C);
        GemmKernel.Multiply(device, prepared, GemmKernel.BlocksFor(prepared, sharedBytes));
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        library?.Dispose();
        _workspace?.Dispose();
        foreach (var buffer in _retired) buffer.Dispose();
    }

    private (nint Address, long Bytes) Workspace => (_workspace!.Address, MatMulRoute.LibraryBytes);

    /// <summary>An operand as it is, or written out from NF4.</summary>
    private MatMulOperand Prepared(in MatMulOperand operand, int rows, int columns, DType type, nint target)
    {
        if (operand.Quantized is not { } nf4) return operand;
        var dense = new Tensor(target, type, operand.IsTransposed ? new Shape(columns, rows) : new Shape(rows, columns));
        Nf4Kernel.Dequantize(device, nf4, dense);
        return new(dense, operand.IsTransposed);
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
