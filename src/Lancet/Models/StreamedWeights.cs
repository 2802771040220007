using Lancet.Devices;
using Lancet.Layers;
using Lancet.Planning;
using Lancet.Tensors;

namespace Lancet.Models;

/// <summary>
/// Frozen weights of some layers that wait in page-locked host memory. A pass has them copied to a slot on the device shortly before it reads them (<see cref="StreamSchedule"/>), and
/// between its entering a layer and leaving it the layer's weights are views of that slot; at any other time they are views of the host memory, which a GPU's kernels can read, too.
/// </summary>
internal sealed class StreamedWeights
{
    private readonly IReadOnlyList<Entry> _entries;
    private readonly Tensor[] _slots;
    private readonly int _firstChannel;
    private int _entered = -1;

    /// <summary>Takes layers whose weights are in host memory.</summary>
    /// <param name="decoder">Their model.</param>
    /// <param name="schedule">Which layers, and when they are copied.</param>
    /// <param name="entries">For each streamed layer where its weights are.</param>
    /// <param name="slots"><see cref="StreamSchedule.Slots"/> pieces of device memory of <see cref="SlotBytes"/>.</param>
    public StreamedWeights(DecoderModel decoder, StreamSchedule schedule, IReadOnlyList<Entry> entries, Tensor[] slots) =>
        (Schedule, _entries, _slots, _firstChannel) = (schedule, entries, slots, DecoderLayer.CopyChannels * decoder.Layers.Count);

    /// <summary>Which layers, and when they are copied.</summary>
    public StreamSchedule Schedule { get; }

    /// <summary>Bytes of a slot for layers.</summary>
    public static long SlotBytes(DecoderModel decoder, IEnumerable<int> layers) => layers.Max(layer => decoder.Layers[layer].FrozenBytes);

    /// <summary>Before the first layer's forward pass.</summary>
    public void Begin(StepContext c)
    {
        // A pass that failed has not left its layer.
        Leave();
        Schedule.Begin(new Copies(this, c.Device));
    }

    /// <summary>Before either pass of a layer.</summary>
    public void Enter(StepContext c, int layer)
    {
        Schedule.Enter(new Copies(this, c.Device), layer);
        if (Schedule.IndexOf(layer) is not (>= 0 and var index)) return;
        _entered = index;
        Move(Shift(index));
        _entries[index].Refresh?.Invoke(c.Device, _slots[StreamSchedule.SlotOf(index)]);
    }

    /// <summary>After a layer's forward pass.</summary>
    public void LeaveForward(StepContext c, int layer)
    {
        Leave();
        Schedule.LeaveForward(new Copies(this, c.Device), layer);
    }

    /// <summary>In a layer's backward pass, once the copies of activations for the layer before it were started.</summary>
    public void Fetched(StepContext c) => Schedule.Fetched(new Copies(this, c.Device));

    /// <summary>After a layer's backward pass.</summary>
    public void LeaveBackward(StepContext c, int layer)
    {
        Leave();
        Schedule.LeaveBackward(new Copies(this, c.Device), layer);
    }

    private void Leave()
    {
        if (_entered < 0) return;
        Move(-Shift(_entered));
        _entered = -1;
    }

    private nint Shift(int index) => _slots[StreamSchedule.SlotOf(index)].Address - _entries[index].Host.Address;

    private void Move(nint delta)
    {
        foreach (var block in _entries[_entered].Blocks) block.Move(delta);
    }

    /// <summary>A layer's weights.</summary>
    /// <param name="Host">The host memory that its blocks fill in their order.</param>
    /// <param name="Blocks">Blocks.</param>
    /// <param name="Refresh">Writes the copies of adapters, which the update leaves alone, into the border of weights that have come to a slot; null without borders.</param>
    internal sealed record Entry(Tensor Host, IReadOnlyList<WeightBlock> Blocks, Action<Device, Tensor>? Refresh);

    private readonly struct Copies(StreamedWeights weights, Device device) : IWeightCopies
    {
        public void Start(int index, int start, int count)
        {
            var (host, slot) = (weights._entries[index].Host, weights._slots[StreamSchedule.SlotOf(index)]);
            var (first, end) = (host.Bytes * start / StreamSchedule.Parts, host.Bytes * (start + count) / StreamSchedule.Parts);
            device.CopyIn(host.Rows(first, end - first), slot.Rows(first, end - first), Channel(index));
        }

        public void Await(int index) => device.AwaitCopy(Channel(index));

        private int Channel(int index) => weights._firstChannel + StreamSchedule.SlotOf(index);
    }
}
