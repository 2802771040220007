using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Planning;

/// <summary>What a buffer of a step is for; the memory breakdown is by purpose.</summary>
public enum MemoryPurpose
{
    /// <summary>Kept from the forward to the backward pass.</summary>
    SavedActivations,

    /// <summary>Lives inside a forward or backward computation.</summary>
    Workspace,

    /// <summary>Logits of one chunk of tokens.</summary>
    Logits,

    /// <summary>Keys and values of generated sequences.</summary>
    KeyValueCache,
}

/// <summary>
/// The memory of a step. A step asks for the same buffers in the same order every time, so it is run once without computing
/// (<see cref="BeginPlanning"/>), which tells the lifetime of every buffer; <see cref="EndPlanning"/> gives each an offset such that buffers
/// alive together do not overlap. Real steps then get those offsets back, in order, and allocate nothing.
/// </summary>
/// <remarks>
/// Offsets are assigned largest buffer first, each at the lowest offset that is free during its lifetime (greedy by size, as in Pisarchyk
/// and Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020).
/// </remarks>
public sealed class StepMemory
{
    private const long Alignment = 256;
    private const int StretchesOfTime = 256;
    private readonly List<Slot> _slots = [];
    private readonly List<(long Offset, long Bytes)> _hostSlots = [];
    private readonly Dictionary<nint, int> _open = [];
    private int _time;
    private int _next;
    private bool _isPlanning;
    private nint _base;
    private int _nextHost;
    private long _alive;
    private nint _hostBase;

    /// <summary>Bytes that the planned buffers need together.</summary>
    public long RequiredBytes { get; private set; }

    /// <summary>Bytes of host memory that the step needs besides.</summary>
    public long HostBytes { get; private set; }

    /// <summary>Most bytes that live at the same time in the dry run: what <see cref="RequiredBytes"/> could be at best.</summary>
    internal long MostAliveBytes { get; private set; }

    /// <summary>Number of buffers of a step.</summary>
    public int BufferCount => _slots.Count;

    /// <summary>Is told of every buffer of a dry run; null for nobody.</summary>
    internal StepTrace? Trace { get; init; }

    /// <summary>Starts the dry run.</summary>
    public void BeginPlanning()
    {
        _slots.Clear();
        _hostSlots.Clear();
        _open.Clear();
        (_time, _next, _nextHost, HostBytes, _alive, MostAliveBytes, _isPlanning) = (0, 0, 0, 0, 0, 0, true);
    }

    /// <summary>Ends the dry run and assigns offsets.</summary>
    public void EndPlanning()
    {
        foreach (var index in _open.Values) _slots[index] = _slots[index] with { End = int.MaxValue };
        _open.Clear();
        _isPlanning = false;
        AssignOffsets();
    }

    /// <summary>Places the planned buffers in real memory of at least <see cref="RequiredBytes"/>.</summary>
    public void Bind(nint address) => _base = address;

    /// <summary>Places what the step keeps in host memory in at least <see cref="HostBytes"/> of it.</summary>
    public void BindHost(nint address) => _hostBase = address;

    /// <summary>Starts a real step.</summary>
    public void BeginStep() => (_next, _nextHost) = (0, 0);

    /// <summary>The step's next buffer. Its contents are undefined.</summary>
    /// <exception cref="InvalidOperationException">The step asks for more than the dry run did.</exception>
    public Tensor Allocate(MemoryPurpose purpose, DType dtype, Shape shape)
    {
        var bytes = Math.Max(1, shape.Count) * dtype.SizeInBytes();
        if (_isPlanning)
        {
            var fake = (nint)((_slots.Count + 1L) << 40);
            var whole = (bytes + Alignment - 1) / Alignment * Alignment;
            _open[fake] = _slots.Count;
            _slots.Add(new Slot(purpose, whole, _time++, 0, 0));
            MostAliveBytes = Math.Max(MostAliveBytes, _alive += whole);
            Trace?.Allocate(whole);
            return new Tensor(fake, dtype, shape);
        }
        if (_base == 0) throw new InvalidOperationException("The step memory is not bound to real memory.");
        if (_next >= _slots.Count || bytes > _slots[_next].Bytes) throw new InvalidOperationException($"Buffer {_next} of the step needs {bytes} bytes, more than was planned.");
        return new Tensor((nint)(_base + _slots[_next++].Offset), dtype, shape);
    }

    /// <summary>Host memory for the step's next activations that wait there for the backward pass: all of it is in use at the turn, so none is reused.</summary>
    /// <exception cref="InvalidOperationException">The step asks for more than the dry run did.</exception>
    public Tensor AllocateHost(DType dtype, Shape shape)
    {
        var bytes = shape.Count * dtype.SizeInBytes();
        if (_isPlanning)
        {
            var whole = (bytes + Alignment - 1) / Alignment * Alignment;
            _hostSlots.Add((HostBytes, bytes));
            HostBytes += whole;
            Trace?.AllocateHost(whole);
            return new Tensor((nint)(-Alignment * _hostSlots.Count), dtype, shape);
        }
        if (_hostBase == 0) throw new InvalidOperationException("The step memory is not bound to host memory.");
        if (_nextHost >= _hostSlots.Count || bytes > _hostSlots[_nextHost].Bytes) throw new InvalidOperationException($"Host buffer {_nextHost} of the step needs {bytes} bytes, more than was planned.");
        return new Tensor((nint)(_hostBase + _hostSlots[_nextHost++].Offset), dtype, shape);
    }

    /// <summary>Ends a buffer's life; another may take its place from here on.</summary>
    public void Free(Tensor tensor)
    {
        if (!_isPlanning || !tensor.Exists) return;
        if (!_open.Remove(tensor.Address, out var index)) throw new InvalidOperationException("A buffer is freed twice, or is a part of one.");
        _slots[index] = _slots[index] with { End = _time++ };
        _alive -= _slots[index].Bytes;
        Trace?.Free(_slots[index].Bytes);
    }

    /// <summary>Bytes by purpose at the moment when most memory is in use; the gaps between buffers count as workspace.</summary>
    public IReadOnlyDictionary<MemoryPurpose, long> Breakdown()
    {
        // Buffers are in the order in which they begin, so the fullest moment is found by ending those that end before each.
        var ends = new PriorityQueue<long, int>();
        var (alive, best, moment) = (0L, -1L, 0);
        foreach (var slot in _slots)
        {
            while (ends.TryPeek(out var bytes, out var end) && end <= slot.Start)
            {
                alive -= bytes;
                ends.Dequeue();
            }
            alive += slot.Bytes;
            ends.Enqueue(slot.Bytes, slot.End);
            if (alive > best) (best, moment) = (alive, slot.Start);
        }
        var result = _slots.Where(slot => slot.Start <= moment && moment < slot.End).GroupBy(slot => slot.Purpose).ToDictionary(group => group.Key, group => group.Sum(slot => slot.Bytes));
        if (best >= 0) result[MemoryPurpose.Workspace] = result.GetValueOrDefault(MemoryPurpose.Workspace) + RequiredBytes - best;
        return result;
    }

    private void AssignOffsets()
    {
        // By offset: all of them, and for each stretch of time those that live in it, because most live in one.
        var placed = new List<Slot>(_slots.Count);
        var length = Math.Max(1, _time / StretchesOfTime);
        var stretches = new List<Slot>[(_time / length) + 1];
        for (var i = 0; i < stretches.Length; i++) stretches[i] = [];
        RequiredBytes = 0;
        foreach (var index in Enumerable.Range(0, _slots.Count).OrderByDescending(i => _slots[i].Bytes).ThenBy(i => i))
        {
            var slot = _slots[index];
            var (first, last) = (slot.Start / length, Math.Min(slot.End / length, stretches.Length - 1));
            long offset = 0;
            foreach (var other in first == last ? stretches[first] : placed)
            {
                if (other.Start >= slot.End || slot.Start >= other.End) continue;
                if (offset + slot.Bytes <= other.Offset) break;
                offset = Math.Max(offset, other.Offset + other.Bytes);
            }
            _slots[index] = slot = slot with { Offset = offset };
            RequiredBytes = Math.Max(RequiredBytes, offset + slot.Bytes);
            Insert(placed, slot);
            for (var stretch = first; stretch <= last; stretch++) Insert(stretches[stretch], slot);
        }
    }

    private static void Insert(List<Slot> byOffset, Slot slot) => byOffset.Insert(byOffset.FindLastIndex(other => other.Offset <= slot.Offset) + 1, slot);

    private readonly record struct Slot(MemoryPurpose Purpose, long Bytes, int Start, int End, long Offset);
}
