using Lancet.Devices;
using Lancet.Models;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Generation;

/// <summary>Keys and values of sequences that are being generated, for every layer: [sequences · capacity, key/value heads · head dimension].</summary>
public sealed class KeyValueCache : IDisposable
{
    private readonly DeviceBuffer _buffer;
    private readonly Tensor[] _keys;
    private readonly Tensor[] _values;

    /// <summary>Allocates a cache.</summary>
    /// <param name="device">Device.</param>
    /// <param name="config">Model.</param>
    /// <param name="dtype">Dtype of the activations.</param>
    /// <param name="sequences">Sequences.</param>
    /// <param name="capacity">Most positions of a sequence.</param>
    public KeyValueCache(Device device, ModelConfig config, DType dtype, int sequences, int capacity)
    {
        Capacity = capacity;
        var shape = new Shape((long)sequences * capacity, config.KeyValueHeads * config.HeadDimension);
        var bytes = shape.Count * dtype.SizeInBytes();
        _buffer = device.Allocate(bytes * config.LayerCount * 2, "the key/value cache");
        _keys = [.. Enumerable.Range(0, config.LayerCount).Select(layer => _buffer.View(dtype, shape, 2L * layer * bytes))];
        _values = [.. Enumerable.Range(0, config.LayerCount).Select(layer => _buffer.View(dtype, shape, ((2L * layer) + 1) * bytes))];
    }

    /// <summary>Most positions of a sequence.</summary>
    public int Capacity { get; }

    /// <summary>Whether each row of the batch is the one new token of its sequence; if not, the batch is a prompt.</summary>
    public bool IsDecoding { get; set; }

    /// <summary>First cache row of each batch row's sequence: int32 [T].</summary>
    public Tensor RowSlots { get; set; }

    /// <summary>Keys of a layer.</summary>
    public Tensor Keys(int layer) => _keys[layer];

    /// <summary>Values of a layer.</summary>
    public Tensor Values(int layer) => _values[layer];

    /// <inheritdoc/>
    public void Dispose() => _buffer.Dispose();
}
