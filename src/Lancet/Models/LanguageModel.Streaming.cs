using Lancet.Devices;
using Lancet.Planning;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Models;

// Layers whose frozen matrices wait in host memory, see StreamedWeights.
public sealed partial class LanguageModel
{
    private readonly SortedDictionary<int, Waiting> _waiting = [];
    private readonly List<DeviceBuffer> _slots = [];

    /// <summary>Host memory with a layer's frozen matrices.</summary>
    /// <param name="Memory">The blocks in their order.</param>
    /// <param name="Refresh">See <see cref="StreamedWeights.Entry"/>; null where the arena came later, or without borders.</param>
    private sealed record Waiting(DeviceBuffer Memory, Action<Device, Tensor>? Refresh);

    /// <summary>Moves the frozen matrices of layers to page-locked host memory, from where passes have them copied shortly before they read them; the device keeps slots for them.</summary>
    /// <param name="layers">Layers, ascending.</param>
    /// <exception cref="LancetException">The host memory is not there.</exception>
    internal void StreamLayers(IReadOnlyList<int> layers)
    {
        foreach (var layer in layers) MoveToHost(layer);
        StartStreaming();
    }

    /// <summary>The projection of each layer to be streamed that is loaded last: once it is there, the layer can move.</summary>
    /// <exception cref="LancetException">The model has fewer layers.</exception>
    private Dictionary<Weight, int> LastWeightsOfStreamed(LoadOptions options)
    {
        if (options.StreamedLayers > Decoder.Layers.Count) throw new LancetException($"--streamed-layers {options.StreamedLayers}: the model has {Decoder.Layers.Count} layers.");
        if (options.StreamedLayers == 0 || !Device.PlanTarget.IsCuda || options.IsFullyTrained) return [];
        var order = Decoder.Weights.Select((weight, index) => (weight, index)).ToDictionary(item => item.weight, item => item.index);
        return StreamSchedule.Spread(Decoder.Layers.Count, options.StreamedLayers).ToDictionary(layer => Decoder.Layers[layer].Projections.Select(projection => projection.Weight).MaxBy(weight => order[weight])!);
    }

    /// <summary>Allocates the slots, if any layer waits in host memory.</summary>
    private void StartStreaming()
    {
        if (_waiting.Count == 0) return;
        var slotBytes = StreamedWeights.SlotBytes(Decoder, _waiting.Keys);
        while (_slots.Count < StreamSchedule.Slots) _slots.Add(Device.Allocate(slotBytes, "slots of streamed weights"));
        Decoder.Stream = new StreamedWeights(
            Decoder, new StreamSchedule(Decoder.Layers.Count, [.. _waiting.Keys]), [.. _waiting.Select(item => EntryOf(item.Key, item.Value))],
            [.. _slots.Select(slot => slot.View(DType.UInt8, new Shape(slotBytes)))]);
    }

    /// <summary>Gives the slots back; the layers' matrices are in host memory alone until <see cref="StartStreaming"/>.</summary>
    private void StopStreaming()
    {
        Decoder.Stream = null;
        foreach (var slot in _slots) slot.Dispose();
        _slots.Clear();
    }

    private StreamedWeights.Entry EntryOf(int layer, Waiting waiting)
    {
        WeightBlock[] blocks = [.. Decoder.Layers[layer].FrozenBlocks()];
        return new(waiting.Memory.View(DType.UInt8, new Shape(waiting.Memory.Bytes)), blocks, waiting.Refresh ?? RefreshOf(blocks[0]));
    }

    /// <summary>
    /// What writes copies of adapters into a layer's borders, wherever the layer is; null without borders. Bordered groups, whose copies are one table, are a layer's first blocks and as
    /// far from each other as in their buffer.
    /// </summary>
    private Action<Device, Tensor>? RefreshOf(WeightBlock first) =>
        Trained?.TakeCopies(first.Address, first.Bytes) is { } copies ? (device, slot) => copies.Refresh(device, Trained.Parameters, slot.Address - first.Address) : null;

    /// <summary>Moves a layer's frozen matrices to host memory and frees what they leave.</summary>
    private void MoveToHost(int layer)
    {
        WeightBlock[] blocks = [.. Decoder.Layers[layer].FrozenBlocks()];
        var memory = Device.AllocateHost(blocks.Sum(block => block.AlignedBytes), "frozen weights");
        _waiting[layer] = new(memory, RefreshOf(blocks[0]));
        long offset = 0;
        foreach (var block in blocks)
        {
            var shape = new Shape(block.Bytes);
            Device.CopyOut(new Tensor(block.Address, DType.UInt8, shape), memory.View(DType.UInt8, shape, offset), 0);
            Device.AwaitCopy(0);
            block.Move((nint)(memory.Address + offset - block.Address));
            offset += block.AlignedBytes;
        }
        Device.Synchronize();
        Free([.. _owned.Where(buffer => Array.Exists(blocks, block => block.Address >= buffer.Address && block.Address - buffer.Address < buffer.Bytes))]);
    }

    /// <summary>Moves a layer's frozen matrices back, each block to a buffer of its own, as they are loaded.</summary>
    private void MoveToDevice(int layer)
    {
        foreach (var block in Decoder.Layers[layer].FrozenBlocks().ToArray())
        {
            var shape = new Shape(block.Bytes);
            _owned.Add(Device.Allocate(block.Bytes, "weights"));
            Device.CopyIn(new Tensor(block.Address, DType.UInt8, shape), _owned[^1].View(DType.UInt8, shape), 0);
            Device.AwaitCopy(0);
            block.Move(_owned[^1].Address - block.Address);
        }
        Device.Synchronize();
        _waiting.Remove(layer, out var waiting);
        waiting!.Memory.Dispose();
    }
}
