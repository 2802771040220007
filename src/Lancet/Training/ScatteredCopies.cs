using System.Runtime.InteropServices;
using Lancet.Devices;
using Lancet.Kernels;
using Lancet.Models;
using Lancet.Tensors;

namespace Lancet.Training;

/// <summary>A copy of a trained matrix in the compute dtype, somewhere inside a wider one.</summary>
/// <param name="Weight">[rows, columns].</param>
/// <param name="Target">Where its rows go.</param>
/// <param name="Factor">Factor of the copy.</param>
internal readonly record struct ScatteredCopy(Weight Weight, ColumnSlice Target, float Factor);

/// <summary>Copies of many parameters inside one buffer, made again from the masters in one launch: a table on the device tells each program what it copies.</summary>
internal sealed class ScatteredCopies : IDisposable
{
    private readonly DeviceBuffer _table;
    private readonly Tensor _places;
    private readonly Tensor _factors;
    private readonly Tensor _target;

    /// <summary>Writes the table.</summary>
    /// <param name="device">Device.</param>
    /// <param name="copies">All copies, of one dtype, inside one buffer.</param>
    /// <param name="offsetOf">First element of a weight in the arena.</param>
    public ScatteredCopies(Device device, IEnumerable<ScatteredCopy> copies, Func<Weight, long> offsetOf)
    {
        ScatteredCopy[] all = [.. copies];
        var dtype = all[0].Target.Tensor.DType;
        var size = Tile.DTypeExtensions.SizeInBytes(dtype);
        // Places are counted from the lowest address.
        var origin = all.Min(copy => copy.Target.Tensor.Address);
        long End(ScatteredCopy copy) => ((copy.Target.Tensor.Address - origin) / size) + ((copy.Weight.Shape[0] - 1) * copy.Target.RowStride) + copy.Weight.Shape[1];
        _target = new Tensor(origin, dtype, new Shape(all.Max(End)));
        var (places, factors) = (new List<long>(), new List<float>());
        foreach (var copy in all)
        {
            for (long first = 0; first < copy.Weight.Shape.Count; first += ScatterKernel.Elements)
            {
                places.AddRange([offsetOf(copy.Weight), (copy.Target.Tensor.Address - origin) / size, first, copy.Weight.Shape.Count, copy.Weight.Shape[1], copy.Target.RowStride]);
                factors.Add(copy.Factor);
            }
        }
        _table = device.Allocate((places.Count * sizeof(long)) + (factors.Count * sizeof(float)), "table of adapters' copies");
        _places = _table.View(Tile.DType.Int64, new Shape(factors.Count, ScatterKernel.Fields));
        _factors = _table.View(Tile.DType.Float32, new Shape(factors.Count), _places.Bytes);
        device.CopyFromHost(MemoryMarshal.AsBytes(CollectionsMarshal.AsSpan(places)), _places);
        device.CopyFromHost(MemoryMarshal.AsBytes(CollectionsMarshal.AsSpan(factors)), _factors);
    }

    /// <summary>Bytes of the table for matrices of the given sizes.</summary>
    public static long TableBytes(IEnumerable<long> counts) => counts.Sum(count => (long)Blocks.Of(count, ScatterKernel.Elements)) * ((ScatterKernel.Fields * sizeof(long)) + sizeof(float));

    /// <summary>Whether the copies are in a piece of memory.</summary>
    public bool AreIn(nint address, long bytes) => _target.Address >= address && _target.Address - address < bytes;

    /// <summary>Makes all copies again.</summary>
    /// <param name="device">Device.</param>
    /// <param name="masters">The arena.</param>
    /// <param name="delta">How many bytes the buffer is from where it was described.</param>
    public void Refresh(Device device, Tensor masters, nint delta = 0) => ScatterKernel.Copy(device, masters, _target.MovedBy(delta), _places, _factors);

    /// <inheritdoc/>
    public void Dispose() => _table.Dispose();
}
