namespace Lancet.Devices;

/// <summary>How fast a device is, for predictions. The same run gives the same bits whatever these say.</summary>
/// <param name="MatMulOperations">Floating-point operations a second of large products in the activations' dtype.</param>
/// <param name="MemoryBytes">Bytes a second that kernels read and write.</param>
/// <param name="HostBytes">Bytes a second between device and page-locked host memory, either way.</param>
/// <param name="LaunchSeconds">What a kernel takes before and after its work.</param>
public sealed record DeviceRates(double MatMulOperations, double MemoryBytes, double HostBytes, double LaunchSeconds)
{
    // Attention's rate grows with the length of the sequences, n / (n + this) of its limit. Fitted to steps of 4 × 2,048, 1 × 32,768 and 57,000 to 127,000 tokens of docs/benchmarks.md, as are its shares of the products' rate.
    private const double AttentionHalfLength = 1200;
    private const double AttentionForwardShare = 0.86;
    private const double AttentionBackwardShare = 0.69;

    // Of the tile language's product of experts' rows, about.
    private const double GroupedShare = 0.6;

    /// <summary>One H100 as measured in docs/benchmarks.md, for plans without the GPU.</summary>
    public static DeviceRates H100 { get; } = new(680e12, 2800e9, 47e9, 2e-6);

    /// <summary>A processor, about.</summary>
    public static DeviceRates Cpu(int threads) => new(100e9 * threads, 20e9, 20e9, 1e-6);

    /// <summary>Seconds of a product: its operations or its bytes, whichever take longer.</summary>
    internal double Seconds(in MatMul product)
    {
        var size = product.A.Quantized is null ? Tile.DTypeExtensions.SizeInBytes(product.A.Tensor.DType) : Tile.DTypeExtensions.SizeInBytes(product.B.Tensor.DType);
        var bytes = size * (((double)product.M * product.K) + ((double)product.K * product.N) + ((double)product.M * product.N * (1 + product.Beta)));
        return LaunchSeconds + Math.Max(2.0 * product.M * product.N * product.K / MatMulOperations, bytes / MemoryBytes);
    }

    /// <summary>Seconds of a kernel that touches so many bytes.</summary>
    internal double Seconds(double bytes) => LaunchSeconds + (bytes / MemoryBytes);

    /// <summary>Seconds of operations of experts' products.</summary>
    internal double GroupedSeconds(double operations) => operations / (MatMulOperations * GroupedShare);

    /// <summary>Seconds of attention's operations, beyond the bytes of its kernels: 4 · width · visible pairs of tokens, and 2.5 times that backward.</summary>
    /// <param name="tokens">Tokens of the batch.</param>
    /// <param name="length">Tokens of a sequence.</param>
    /// <param name="width">Query heads times head dimension.</param>
    /// <param name="window">Sliding window, or 0.</param>
    /// <param name="isBackward">Which pass.</param>
    internal double AttentionSeconds(int tokens, int length, int width, int window, bool isBackward)
    {
        var keys = window > 0 && window < length ? window - ((double)window * window / (2.0 * length)) : length / 2.0;
        var operations = 4.0 * width * tokens * keys * (isBackward ? 2.5 : 1);
        return operations / (MatMulOperations * (isBackward ? AttentionBackwardShare : AttentionForwardShare) * length / (length + AttentionHalfLength));
    }
}
