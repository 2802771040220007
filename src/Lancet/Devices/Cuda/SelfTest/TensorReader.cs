using System.Runtime.InteropServices;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Devices.Cuda.SelfTest;

/// <summary>Brings a device's numbers to the host as fp64, to be compared.</summary>
internal static class TensorReader
{
    /// <summary>All elements of a tensor.</summary>
    public static double[] Read(Device device, Tensor tensor) => tensor.DType switch
    {
        DType.Float64 => Receive<double>(device, tensor),
        DType.Float32 => Array.ConvertAll(Receive<float>(device, tensor), value => (double)value),
        DType.BFloat16 => Array.ConvertAll(Receive<BFloat16>(device, tensor), value => (double)(float)value),
        DType.Float16 => Array.ConvertAll(Receive<Half>(device, tensor), value => (double)value),
        DType.UInt8 => Array.ConvertAll(Receive<byte>(device, tensor), value => (double)value),
        DType.Int32 => Array.ConvertAll(Receive<int>(device, tensor), value => (double)value),
        _ => throw new NotSupportedException(tensor.DType.ToString()),
    };

    private static T[] Receive<T>(Device device, Tensor tensor)
        where T : unmanaged
    {
        var values = new T[tensor.Count];
        device.CopyToHost(tensor, MemoryMarshal.AsBytes(values.AsSpan()));
        return values;
    }
}
