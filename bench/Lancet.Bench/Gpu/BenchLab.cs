using System.Runtime.InteropServices;
using Lancet.Devices;
using Lancet.Devices.Cuda;
using Lancet.Devices.Cuda.Interop;
using Lancet.Devices.Cuda.SelfTest;
using Lancet.Kernels;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Bench.Gpu;

/// <summary>
/// Inputs of a kernel, drawn on the device from a seed. A lab that starts at a later row draws the same numbers for these rows as the lab of
/// the whole does, so that a slice of a large launch can be computed again on the processor.
/// </summary>
/// <param name="device">Where tensors live and kernels are launched.</param>
/// <param name="seed">Seed; equal seeds give equal inputs on all devices and in all dtypes.</param>
/// <param name="firstRow">Row of the whole that this lab's first row is.</param>
internal sealed class BenchLab(Device device, long seed, long firstRow = 0) : IDisposable
{
    private readonly List<DeviceBuffer> _buffers = [];
    private long _draws;

    public Device Device => device;

    /// <summary>Random rows.</summary>
    public Tensor Rows(DType dtype, long rows, long columns, double scale = 1, double offset = 0, RandomDistribution distribution = RandomDistribution.Uniform)
    {
        var tensor = Empty(dtype, new Shape(rows, columns));
        RandomFillKernel.Fill(device, tensor, distribution, NextSeed(), scale, offset, firstRow * columns);
        return tensor;
    }

    /// <summary>A random tensor that all rows share.</summary>
    public Tensor Whole(DType dtype, Shape shape, double scale = 1, double offset = 0, RandomDistribution distribution = RandomDistribution.Uniform)
    {
        var tensor = Empty(dtype, shape);
        RandomFillKernel.Fill(device, tensor, distribution, NextSeed(), scale, offset);
        return tensor;
    }

    /// <summary>An integer below a bound for each row.</summary>
    public int[] RowIntegers(int rows, int bound)
    {
        var random = new DeterministicRandom(NextSeed());
        for (var i = 0L; i < firstRow; i++) random.NextInt32(bound);
        var values = new int[rows];
        for (var i = 0; i < rows; i++) values[i] = random.NextInt32(bound);
        return values;
    }

    /// <summary>Row numbers modulo a length: positions in packed sequences.</summary>
    public int[] Positions(int rows, int length) => [.. Enumerable.Range(0, rows).Select(row => (int)((firstRow + row) % length))];

    /// <summary>Memory that a kernel is to fill: every byte 0xFF, which is NaN in all floating-point types.</summary>
    public Tensor Output(DType dtype, Shape shape)
    {
        var tensor = Empty(dtype, shape);
        Poison(tensor);
        return tensor;
    }

    public Tensor Empty(DType dtype, Shape shape)
    {
        var buffer = device.Allocate(Math.Max(1, shape.Count) * dtype.SizeInBytes(), "a benchmark");
        _buffers.Add(buffer);
        return buffer.View(dtype, shape);
    }

    public Tensor Of(params int[] values) => Send(DType.Int32, values);

    public Tensor Of(DType dtype, params double[] values) => dtype switch
    {
        DType.Float64 => Send(dtype, values),
        DType.Float32 => Send(dtype, Array.ConvertAll(values, value => (float)value)),
        DType.Int64 => Send(dtype, Array.ConvertAll(values, value => (long)value)),
        _ => throw new NotSupportedException(dtype.ToString()),
    };

    public double[] Read(Tensor tensor) => TensorReader.Read(device, tensor);

    public void Dispose()
    {
        foreach (var buffer in _buffers) buffer.Dispose();
    }

    private void Poison(Tensor tensor)
    {
        var target = device is ForwardingDevice forwarding ? forwarding.Inner : device;
        if (target is CudaDevice cuda)
        {
            cuda.MakeCurrent();
            CudaCheck.Driver(Driver.cuMemsetD8Async(tensor.Address, 0xff, (nuint)tensor.Bytes, cuda.TakeComputeStream()));
            return;
        }
        var bytes = new byte[tensor.Bytes];
        Array.Fill(bytes, (byte)0xff);
        device.CopyFromHost(bytes, tensor);
    }

    private long NextSeed() => (seed * 1000) + ++_draws;

    private Tensor Send<T>(DType dtype, T[] values)
        where T : unmanaged
    {
        var tensor = Empty(dtype, new Shape(values.Length));
        device.CopyFromHost(MemoryMarshal.AsBytes<T>(values), tensor);
        return tensor;
    }
}
