using System.Runtime.InteropServices;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Devices.Cuda.SelfTest;

/// <summary>
/// The same inputs on any device and in any dtype: numbers are drawn from a seed and rounded to bf16, which every dtype here holds exactly.
/// What is to be written starts as NaN.
/// </summary>
internal sealed class SelfTestLab(Device device, long seed) : IDisposable
{
    private readonly List<DeviceBuffer> _buffers = [];
    private readonly DeterministicRandom _random = new(seed);

    public Device Device => device;

    /// <summary>What the case computed, by name.</summary>
    public List<(string Name, double[] Values)> Results { get; } = [];

    /// <summary>Uniform numbers in [−scale, scale].</summary>
    public Tensor Random(DType dtype, Shape shape, double scale = 1)
    {
        var values = new double[shape.Count];
        for (var i = 0; i < values.Length; i++) values[i] = (float)(BFloat16)(float)(((_random.NextDouble() * 2) - 1) * scale);
        return Of(dtype, shape, values);
    }

    public Tensor Zeros(DType dtype, Shape shape)
    {
        var buffer = device.Allocate(Math.Max(1, shape.Count) * dtype.SizeInBytes(), "the self-test");
        _buffers.Add(buffer);
        return buffer.View(dtype, shape);
    }

    /// <summary>Memory that a kernel is to fill: every byte 0xFF, which is NaN in all floating-point types.</summary>
    public Tensor Output(DType dtype, Shape shape)
    {
        var tensor = Zeros(dtype, shape);
        var bytes = new byte[tensor.Bytes];
        Array.Fill(bytes, (byte)0xff);
        device.CopyFromHost(bytes, tensor);
        return tensor;
    }

    public Tensor Of(DType dtype, Shape shape, double[] values)
    {
        var tensor = Zeros(dtype, shape);
        switch (dtype)
        {
            case DType.Float64: Send(values, tensor); break;
            case DType.Float32: Send(Array.ConvertAll(values, value => (float)value), tensor); break;
            case DType.BFloat16: Send(Array.ConvertAll(values, value => (BFloat16)(float)value), tensor); break;
            case DType.Float16: Send(Array.ConvertAll(values, value => (Half)value), tensor); break;
            case DType.Int64: Send(Array.ConvertAll(values, value => (long)value), tensor); break;
            case DType.UInt8: Send(Array.ConvertAll(values, value => (byte)value), tensor); break;
            default: throw new NotSupportedException(dtype.ToString());
        }
        return tensor;
    }

    public Tensor Of(params int[] values)
    {
        var tensor = Zeros(DType.Int32, new Shape(values.Length));
        Send(values, tensor);
        return tensor;
    }

    public int[] Integers(int count, int bound)
    {
        var values = new int[count];
        for (var i = 0; i < count; i++) values[i] = _random.NextInt32(bound);
        return values;
    }

    /// <summary>Keeps a tensor's values as a result.</summary>
    public void Result(string name, Tensor tensor) => Results.Add((name, Read(tensor)));

    /// <summary>Keeps a block of a wider tensor as a result.</summary>
    public void Result(string name, ColumnSlice slice, int rows, int columns)
    {
        var all = Read(slice.Tensor);
        var values = new double[(long)rows * columns];
        for (var i = 0; i < values.Length; i++) values[i] = all[(i / columns * slice.RowStride) + (i % columns)];
        Results.Add((name, values));
    }

    public double[] Read(Tensor tensor) => TensorReader.Read(device, tensor);

    public void Dispose()
    {
        foreach (var buffer in _buffers) buffer.Dispose();
    }

    private void Send<T>(T[] values, Tensor tensor)
        where T : unmanaged => device.CopyFromHost(MemoryMarshal.AsBytes<T>(values), tensor);
}
