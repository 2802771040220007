using Lancet.Devices.Cuda.Interop;

namespace Lancet.Devices.Cuda;

/// <summary>
/// Page-locked memory through which all bytes pass between host and device. It is a ring of segments: copies to the device fill a segment
/// one after the other, and a segment is used again when the event recorded after its last copy has happened. So a copy's source may be
/// reused on return, and small copies cost neither a wait nor an allocation.
/// </summary>
internal sealed unsafe class PinnedRing : IDisposable
{
    private const int SegmentBytes = 8 << 20;
    private const int SegmentCount = 4;
    private const int Alignment = 256;
    private const int ParallelBytes = 1 << 20;

    private readonly PinnedHandle _memory = PinnedHandle.Allocate((long)SegmentBytes * SegmentCount);
    private readonly EventHandle[] _done = [.. Enumerable.Range(0, SegmentCount).Select(_ => EventHandle.Create())];
    private readonly bool[] _isPending = new bool[SegmentCount];
    private int _segment;
    private int _used;

    /// <summary>Queues a copy to the device on a stream, always the same one.</summary>
    public void Send(ReadOnlySpan<byte> source, nint target, nint stream)
    {
        while (source.Length > 0)
        {
            if (SegmentBytes - _used < Math.Min(source.Length, SegmentBytes)) Next(stream);
            var count = Math.Min(source.Length, SegmentBytes - _used);
            var staging = Segment(_segment) + _used;
            CopyBytes(source[..count], new Span<byte>((void*)staging, count));
            CudaCheck.Driver(Driver.cuMemcpyHtoDAsync(target, staging, (nuint)count, stream));
            _used = Math.Min(SegmentBytes, (_used + count + Alignment - 1) / Alignment * Alignment);
            source = source[count..];
            target += count;
        }
    }

    /// <summary>Copies from the device after everything queued on a stream, and waits for it.</summary>
    public void Receive(nint source, Span<byte> target, nint stream)
    {
        var sent = 0;
        var received = 0;
        Span<int> sizes = stackalloc int[SegmentCount];
        Span<int> segments = stackalloc int[SegmentCount];
        int first = 0, count = 0;
        while (received < target.Length)
        {
            // Half of the ring is in flight while the other half is copied out.
            while (sent < target.Length && count < SegmentCount / 2)
            {
                Next(stream);
                var size = Math.Min(SegmentBytes, target.Length - sent);
                CudaCheck.Driver(Driver.cuMemcpyDtoHAsync(Segment(_segment), source + sent, (nuint)size, stream));
                CudaCheck.Driver(Driver.cuEventRecord(_done[_segment].Value, stream));
                (_isPending[_segment], _used) = (true, SegmentBytes);
                var at = (first + count++) % SegmentCount;
                (sizes[at], segments[at]) = (size, _segment);
                sent += size;
            }
            var segment = segments[first];
            CudaCheck.Driver(Driver.cuEventSynchronize(_done[segment].Value));
            CopyBytes(new ReadOnlySpan<byte>((void*)Segment(segment), sizes[first]), target.Slice(received, sizes[first]));
            received += sizes[first];
            first = (first + 1) % SegmentCount;
            count--;
        }
    }

    public void Dispose()
    {
        foreach (var done in _done) done.Dispose();
        _memory.Dispose();
    }

    private nint Segment(int index) => _memory.Value + (nint)((long)index * SegmentBytes);

    /// <summary>Leaves the current segment and waits until the next one is free.</summary>
    private void Next(nint stream)
    {
        if (_used > 0)
        {
            CudaCheck.Driver(Driver.cuEventRecord(_done[_segment].Value, stream));
            _isPending[_segment] = true;
        }
        _segment = (_segment + 1) % SegmentCount;
        _used = 0;
        if (!_isPending[_segment]) return;
        CudaCheck.Driver(Driver.cuEventSynchronize(_done[_segment].Value));
        _isPending[_segment] = false;
    }

    // One thread copies (and pages in a mapped file) more slowly than PCIe takes it.
    private static void CopyBytes(ReadOnlySpan<byte> source, Span<byte> target)
    {
        var pieces = Math.Min(Environment.ProcessorCount, source.Length / ParallelBytes);
        if (pieces < 2)
        {
            source.CopyTo(target);
            return;
        }
        fixed (byte* pinned = source, pinnedTarget = target)
        {
            var (from, to, length, each) = ((nint)pinned, (nint)pinnedTarget, source.Length, (source.Length + pieces - 1) / pieces);
            Parallel.For(0, pieces, piece =>
            {
                var start = piece * each;
                var count = Math.Min(each, length - start);
                if (count > 0) Buffer.MemoryCopy((void*)(from + start), (void*)(to + start), count, count);
            });
        }
    }
}
