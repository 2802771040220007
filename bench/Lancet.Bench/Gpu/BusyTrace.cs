using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Lancet.Devices.Cuda.Interop;

namespace Lancet.Bench.Gpu;

/// <summary>
/// When the GPU and its link to the host were busy, by the GPU's clock: kernels, clears and copies as CUPTI, NVIDIA's tracing library, records them one by one, those of replayed graphs included.
/// Tracing makes the gaps between them longer, not the work itself. One trace at a time.
/// </summary>
internal sealed unsafe class BusyTrace : IDisposable
{
    private const int Copies = 1;
    private const int Clears = 2;
    private const int Kernels = 10;
    private const uint FlushForced = 1;
    private const int BufferBytes = 8 << 20;

    // Records of the three kinds begin alike: the kind, of copies also which way and the size, and the first and the last nanosecond, at these bytes.
    private const int Way = 4;
    private const int Bytes = 8;
    private const int Start = 16;
    private const int End = 24;

    // Ways.
    private const int ToDevice = 1;
    private const int ToHost = 2;
    private const int WithinDevice = 8;

    private static readonly int[] s_kinds = [Copies, Clears, Kernels];
    private static readonly List<(ulong Start, ulong End)> s_spans = [];
    private static readonly List<LinkCopy> s_copies = [];
    private static delegate* unmanaged<byte*, nuint, byte**, int> s_next;
    private readonly delegate* unmanaged<int, int> _disable;
    private readonly delegate* unmanaged<uint, int> _flush;

    /// <summary>Starts to record. Graphs must be recorded after that.</summary>
    /// <exception cref="LancetException">CUPTI is not there or refuses.</exception>
    public BusyTrace()
    {
        var (library, _) = NativeLibraries.Load(["libcupti.so.13", "libcupti.so.12", "libcupti.so"]);
        if (library == 0) throw new LancetException("libcupti was not found; it comes with the CUDA toolkit and with PyTorch's packages.");
        var enable = (delegate* unmanaged<int, int>)NativeLibrary.GetExport(library, "cuptiActivityEnable");
        var register = (delegate* unmanaged<delegate* unmanaged<byte**, nuint*, nuint*, void>, delegate* unmanaged<nint, uint, byte*, nuint, nuint, void>, int>)NativeLibrary.GetExport(library, "cuptiActivityRegisterCallbacks");
        _disable = (delegate* unmanaged<int, int>)NativeLibrary.GetExport(library, "cuptiActivityDisable");
        _flush = (delegate* unmanaged<uint, int>)NativeLibrary.GetExport(library, "cuptiActivityFlushAll");
        s_next = (delegate* unmanaged<byte*, nuint, byte**, int>)NativeLibrary.GetExport(library, "cuptiActivityGetNextRecord");
        Check(register(&Provide, &Take), "cuptiActivityRegisterCallbacks");
        foreach (var kind in s_kinds) Check(enable(kind), "cuptiActivityEnable");
    }

    /// <summary>Hands out what was recorded since the last call: what ran on the device, sorted, and copies over the link; the device must have been waited for.</summary>
    public List<(ulong Start, ulong End)> Collect(out LinkCopy[] copies)
    {
        Check(_flush(FlushForced), "cuptiActivityFlushAll");
        lock (s_spans)
        {
            List<(ulong Start, ulong End)> result = [.. s_spans.Order()];
            copies = [.. s_copies];
            s_spans.Clear();
            s_copies.Clear();
            return result;
        }
    }

    /// <summary>Milliseconds in which at least one of the spans was under way.</summary>
    /// <param name="spans">Sorted by their start, in nanoseconds.</param>
    public static double BusyMilliseconds(List<(ulong Start, ulong End)> spans) => spans.Count == 0 ? 0 : ((spans.Max(span => span.End) - spans[0].Start) / 1e6) - Gaps(spans).Sum();

    /// <summary>Milliseconds between spans, one number for each time that none was under way.</summary>
    /// <param name="spans">Sorted by their start, in nanoseconds.</param>
    public static IEnumerable<double> Gaps(IEnumerable<(ulong Start, ulong End)> spans)
    {
        ulong until = 0;
        foreach (var (start, end) in Merge(spans))
        {
            if (until > 0) yield return (start - until) / 1e6;
            until = end;
        }
    }

    /// <summary>The times in which at least one of the spans was under way, with gaps between them.</summary>
    /// <param name="spans">Sorted by their start, in nanoseconds.</param>
    public static IEnumerable<(ulong Start, ulong End)> Merge(IEnumerable<(ulong Start, ulong End)> spans)
    {
        (ulong Start, ulong End)? merged = null;
        foreach (var (start, end) in spans)
        {
            if (merged is { } before && start <= before.End)
            {
                merged = (before.Start, Math.Max(before.End, end));
                continue;
            }
            if (merged is { } whole) yield return whole;
            merged = (start, end);
        }
        if (merged is { } last) yield return last;
    }

    public void Dispose()
    {
        foreach (var kind in s_kinds) _ = _disable(kind);
        _ = Collect(out _);
    }

    [UnmanagedCallersOnly]
    private static void Provide(byte** buffer, nuint* bytes, nuint* mostRecords)
    {
        *buffer = (byte*)NativeMemory.AlignedAlloc(BufferBytes, 8);
        *bytes = BufferBytes;
        *mostRecords = 0;
    }

    [UnmanagedCallersOnly]
    private static void Take(nint context, uint stream, byte* buffer, nuint bytes, nuint filled)
    {
        byte* record = null;
        lock (s_spans)
        {
            while (s_next(buffer, filled, &record) == 0)
            {
                var (start, end) = (Unsafe.ReadUnaligned<ulong>(record + Start), Unsafe.ReadUnaligned<ulong>(record + End));
                var way = Unsafe.ReadUnaligned<int>(record) == Copies ? record[Way] : WithinDevice;
                if (way == WithinDevice) s_spans.Add((start, end));
                else if (way is ToDevice or ToHost) s_copies.Add(new(way == ToHost, Unsafe.ReadUnaligned<long>(record + Bytes), start, end));
            }
        }
        NativeMemory.AlignedFree(buffer);
    }

    /// <summary>A copy over the link.</summary>
    /// <param name="IsOut">Whether it goes to the host.</param>
    /// <param name="Bytes">Size.</param>
    /// <param name="Start">First nanosecond.</param>
    /// <param name="End">Last nanosecond.</param>
    public readonly record struct LinkCopy(bool IsOut, long Bytes, ulong Start, ulong End);

    private static void Check(int result, string call)
    {
        if (result != 0) throw new LancetException($"{call} failed with {result}.");
    }
}
