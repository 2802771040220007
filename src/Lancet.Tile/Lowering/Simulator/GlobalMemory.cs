using System.Runtime.InteropServices;

namespace Lancet.Tile.Lowering.Simulator;

/// <summary>A range of host memory that the kernel may touch, with a lazily created shadow.</summary>
internal sealed class GlobalBuffer(long start, long bytes, string name, bool isTable)
{
    private const int PageBytes = 4096;
    private readonly ShadowByte[]?[] _pages = new ShadowByte[(bytes + PageBytes - 1) / PageBytes][];

    public long Start => start;

    public long End => start + bytes;

    public string Name => name;

    public bool IsTable => isTable;

    public ref ShadowByte Shadow(long address)
    {
        var offset = address - start;
        return ref (_pages[offset / PageBytes] ??= new ShadowByte[PageBytes])[offset % PageBytes];
    }
}

/// <summary>The buffers of a launch: what its pointer arguments may reach, and the constant tables.</summary>
internal sealed unsafe class GlobalMemory : IDisposable
{
    private readonly List<GlobalBuffer> _buffers = [];
    private readonly List<nint> _tables = [];
    private GlobalBuffer? _last;

    public GlobalMemory(Threads.ThreadProgram program, ReadOnlySpan<KernelArgument> arguments)
    {
        var ranges = new List<(long Start, long End, string Name)>();
        for (var i = 0; i < arguments.Length; i++)
            if (arguments[i].IsPointer && arguments[i].Count > 0)
                ranges.Add((arguments[i].Bits, arguments[i].Bits + arguments[i].Count * arguments[i].Element.SizeInBytes(), program.Parameters[i].Name));
        ranges.Sort();
        foreach (var range in ranges)
        {
            // Arguments that share memory share a shadow.
            if (_buffers.Count > 0 && range.Start < _buffers[^1].End)
                _buffers[^1] = new GlobalBuffer(_buffers[^1].Start, Math.Max(_buffers[^1].End, range.End) - _buffers[^1].Start, $"{_buffers[^1].Name}/{range.Name}", false);
            else
                _buffers.Add(new GlobalBuffer(range.Start, range.End - range.Start, range.Name, false));
        }
        for (var i = 0; i < program.Tables.Count; i++)
        {
            var table = program.Tables[i];
            var copy = (nint)NativeMemory.AlignedAlloc((nuint)(table.Length * 4), 16);
            table.CopyTo(new Span<float>((void*)copy, table.Length));
            _tables.Add(copy);
            _buffers.Add(new GlobalBuffer(copy, table.Length * 4, $"table {i}", true));
        }
    }

    public IReadOnlyList<GlobalBuffer> Buffers => _buffers;

    /// <summary>Number of the newest epoch of any program, see <see cref="Access"/>.</summary>
    public int Epoch { get; set; }

    public long TableAddress(int table) => _tables[table];

    /// <summary>The buffer that holds all of the bytes, or null.</summary>
    public GlobalBuffer? Find(long address, int bytes)
    {
        if (_last is { } last && address >= last.Start && address + bytes <= last.End) return last;
        foreach (var buffer in _buffers)
            if (address >= buffer.Start && address + bytes <= buffer.End) return _last = buffer;
        return null;
    }

    public void Dispose()
    {
        foreach (var table in _tables) NativeMemory.AlignedFree((void*)table);
    }
}
