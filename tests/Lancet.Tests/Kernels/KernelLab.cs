using Lancet.Devices;
using Lancet.Devices.Cpu;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Tests.Kernels;

/// <summary>Tensors for kernel tests: made from host numbers, read back as fp64, freed together.</summary>
internal sealed class KernelLab : IDisposable
{
    private readonly List<DeviceBuffer> _buffers = [];
    private readonly DeterministicRandom _random;

    public KernelLab(long seed = 1, Device? device = null) => (_random, Device) = (new DeterministicRandom(seed), device ?? new CpuDevice());

    public Device Device { get; }

    public Tensor New(DType dtype, Shape shape)
    {
        var buffer = Device.Allocate(Math.Max(1, shape.Count) * dtype.SizeInBytes(), "test");
        _buffers.Add(buffer);
        return buffer.View(dtype, shape);
    }

    public Tensor Of(DType dtype, Shape shape, IReadOnlyList<double> values)
    {
        var tensor = New(dtype, shape);
        for (var i = 0; i < values.Count; i++) Set(tensor, i, values[i]);
        return tensor;
    }

    public Tensor Of(params int[] values)
    {
        var tensor = New(DType.Int32, new Shape(values.Length));
        values.CopyTo(tensor.HostSpan<int>());
        return tensor;
    }

    /// <summary>Uniform numbers in [−scale, scale].</summary>
    public double[] Random(long count, double scale = 1)
    {
        var values = new double[count];
        for (var i = 0; i < values.Length; i++) values[i] = ((_random.NextDouble() * 2) - 1) * scale;
        return values;
    }

    public Tensor Random(DType dtype, Shape shape, double scale = 1) => Of(dtype, shape, Random(shape.Count, scale));

    public static void Set(Tensor tensor, int i, double value)
    {
        switch (tensor.DType)
        {
            case DType.Float64: tensor.HostSpan<double>()[i] = value; break;
            case DType.Float32: tensor.HostSpan<float>()[i] = (float)value; break;
            case DType.BFloat16: tensor.HostSpan<BFloat16>()[i] = (BFloat16)(float)value; break;
            case DType.Float16: tensor.HostSpan<Half>()[i] = (Half)value; break;
            case DType.Int32: tensor.HostSpan<int>()[i] = (int)value; break;
            default: throw new NotSupportedException();
        }
    }

    public static double Get(Tensor tensor, int i) => tensor.DType switch
    {
        DType.Float64 => tensor.HostSpan<double>()[i],
        DType.Float32 => tensor.HostSpan<float>()[i],
        DType.BFloat16 => (float)tensor.HostSpan<BFloat16>()[i],
        DType.Float16 => (double)tensor.HostSpan<Half>()[i],
        DType.UInt8 => tensor.HostSpan<byte>()[i],
        DType.Int32 => tensor.HostSpan<int>()[i],
        _ => throw new NotSupportedException(),
    };

    public static double[] Values(Tensor tensor)
    {
        var result = new double[tensor.Count];
        for (var i = 0; i < result.Length; i++) result[i] = Get(tensor, i);
        return result;
    }

    public static void AssertClose(IReadOnlyList<double> expected, IReadOnlyList<double> actual, double tolerance)
    {
        Assert.Equal(expected.Count, actual.Count);
        for (var i = 0; i < expected.Count; i++)
            Assert.True(Math.Abs(expected[i] - actual[i]) <= tolerance * (1 + Math.Abs(expected[i])), $"element {i}: expected {expected[i]}, got {actual[i]}");
    }

    /// <summary>
    /// Checks an analytic gradient of a scalar function against central differences in fp64. The gradient's error is the difference's own:
    /// h² for the truncation and ε/h for the rounding, both about 1e-9 at h = 1e-5 for functions of order 1.
    /// </summary>
    public static void CheckGradient(Tensor input, IReadOnlyList<double> gradient, Func<double> function, double step = 1e-5)
    {
        for (var i = 0; i < input.Count; i++)
        {
            var former = Get(input, i);
            Set(input, i, former + step);
            var high = function();
            Set(input, i, former - step);
            var low = function();
            Set(input, i, former);
            var difference = (high - low) / (2 * step);
            Assert.True(Math.Abs(difference - gradient[i]) <= 2e-7 * (1 + Math.Abs(difference)), $"element {i}: central difference {difference}, gradient {gradient[i]}");
        }
    }

    /// <summary>Σ weights · tensor: a scalar function whose gradient with respect to the tensor is the weights.</summary>
    public static double Weighted(Tensor tensor, Tensor weights)
    {
        var sum = 0.0;
        for (var i = 0; i < tensor.Count; i++) sum += Get(tensor, i) * Get(weights, i);
        return sum;
    }

    /// <summary>Columns of a matrix, row by row.</summary>
    public static double[] Columns(Tensor matrix, int first, int count)
    {
        var (values, stride) = (Values(matrix), (int)matrix.Shape.RowCount);
        return [.. Enumerable.Range(0, values.Length / stride).SelectMany(row => values.AsSpan((row * stride) + first, count).ToArray())];
    }

    /// <summary>What differs by one rounding to bf16 at most, of half a unit in the last place, and fp32 sums.</summary>
    public static void AssertRounded(IReadOnlyList<double> expected, IReadOnlyList<double> actual)
    {
        Assert.Equal(expected.Count, actual.Count);
        for (var i = 0; i < expected.Count; i++) Assert.True(Math.Abs(actual[i] - expected[i]) <= (Math.Abs(expected[i]) / 256) + 1e-5, $"element {i}: {actual[i]} instead of {expected[i]}");
    }

    public void Dispose()
    {
        foreach (var buffer in _buffers) buffer.Dispose();
        Device.Dispose();
    }
}
