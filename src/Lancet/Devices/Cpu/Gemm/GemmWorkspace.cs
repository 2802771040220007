using System.Runtime.InteropServices;

namespace Lancet.Devices.Cpu;

/// <summary>Packing buffers of <see cref="CpuGemm"/>: grown on demand, then kept. Not for concurrent products.</summary>
public sealed unsafe class GemmWorkspace : IDisposable
{
    private void* _memory;
    private nuint _bytes;

    /// <summary>Frees memory that was not disposed of.</summary>
    ~GemmWorkspace() => Free();

    /// <summary>Size at present, bytes.</summary>
    public long Bytes => (long)_bytes;

    /// <inheritdoc/>
    public void Dispose()
    {
        Free();
        GC.SuppressFinalize(this);
    }

    internal byte* Ensure(long bytes)
    {
        if ((long)_bytes < bytes)
        {
            Free();
            _memory = NativeMemory.AlignedAlloc((nuint)bytes, 64);
            _bytes = (nuint)bytes;
        }
        return (byte*)_memory;
    }

    private void Free()
    {
        if (_memory is null) return;
        NativeMemory.AlignedFree(_memory);
        _memory = null;
        _bytes = 0;
    }
}
