namespace Lancet.Tile.Cpu;

/// <summary>A piece of scratch memory, shared by the values that are views of it.</summary>
internal sealed class Slot(int offset, int size)
{
    public int Offset { get; } = offset;

    public int Size { get; } = size;

    /// <summary>Values that still need it.</summary>
    public int Users { get; set; }

    /// <summary>Whether it is a loop's carried tile, which outlives its values.</summary>
    public bool IsPinned { get; set; }
}

/// <summary>Gives out scratch memory at compile time: first fit over a list of free intervals.</summary>
internal sealed class ScratchLayout
{
    private const int Alignment = 64;
    private readonly SortedList<int, int> _free = [];
    private int _end;

    /// <summary>Bytes that a program needs.</summary>
    public int Size { get; private set; }

    public Slot Allocate(int bytes)
    {
        bytes = (Math.Max(bytes, 1) + Alignment - 1) / Alignment * Alignment;
        foreach (var (offset, size) in _free)
        {
            if (size < bytes) continue;
            _free.Remove(offset);
            if (size > bytes) _free.Add(offset + bytes, size - bytes);
            return new Slot(offset, bytes);
        }
        var slot = new Slot(_end, bytes);
        _end = checked(_end + bytes);
        Size = Math.Max(Size, _end);
        return slot;
    }

    public void Free(Slot slot)
    {
        var (offset, size) = (slot.Offset, slot.Size);
        if (_free.TryGetValue(offset + size, out var after))
        {
            _free.Remove(offset + size);
            size += after;
        }
        for (var i = _free.Count - 1; i >= 0; i--)
        {
            if (_free.Keys[i] + _free.Values[i] != offset) continue;
            (offset, size) = (_free.Keys[i], _free.Values[i] + size);
            _free.RemoveAt(i);
            break;
        }
        _free.Add(offset, size);
    }
}
