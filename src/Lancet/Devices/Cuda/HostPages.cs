using System.Globalization;
using System.Runtime.InteropServices;

namespace Lancet.Devices.Cuda;

/// <summary>
/// Large pieces of host memory whose pages are there when they are handed out: huge pages where Linux has them, made by all processors at once. The driver locks 16 GB of those in 0.8 s, making
/// included, and takes 8.7 s for pages of its own (docs/benchmarks.md).
/// </summary>
internal static unsafe partial class HostPages
{
    /// <summary>Smaller pieces take the driver no time that is worth saving.</summary>
    public const long LeastBytes = 64 << 20;

    private const int HugePageBytes = 2 << 20;
    private const int StretchBytes = 32 << 20;
    private const int AdviseHugePages = 14;

    // Taking pages that are not there ends the process, so some of what Linux calls available is left alone.
    private const double MostOfAvailable = 0.875;

    /// <summary>Zeros, or 0 where the driver had better take memory of its own: for small pieces, when memory is short, and on other systems than Linux, where nothing of this was measured.</summary>
    /// <param name="bytes">Size.</param>
    public static nint TryTake(long bytes)
    {
        if (!OperatingSystem.IsLinux() || bytes < LeastBytes || bytes > AvailableBytes("/") * MostOfAvailable) return 0;
        var whole = (bytes + HugePageBytes - 1) / HugePageBytes * HugePageBytes;
        nint address;
        try
        {
            address = (nint)NativeMemory.AlignedAlloc((nuint)whole, HugePageBytes);
        }
        catch (OutOfMemoryException)
        {
            return 0;
        }
        // Where it is refused, small pages are made.
        _ = Advise(address, (nuint)whole, AdviseHugePages);
        Parallel.For(0, (whole + StretchBytes - 1) / StretchBytes, stretch =>
        {
            var start = stretch * StretchBytes;
            NativeMemory.Clear((void*)(address + start), (nuint)Math.Min(StretchBytes, whole - start));
        });
        return address;
    }

    /// <summary>Frees a piece.</summary>
    public static void GiveBack(nint address) => NativeMemory.AlignedFree((void*)address);

    /// <summary>Bytes that a process can take, by what Linux says of the machine and of the control groups that the process is in; 0 where it says nothing.</summary>
    /// <param name="root">Where proc and sys are.</param>
    internal static long AvailableBytes(string root)
    {
        try
        {
            var available = Number(File.ReadLines(Path.Combine(root, "proc/meminfo")), "MemAvailable:") * 1024 ?? 0;
            foreach (var line in File.ReadLines(Path.Combine(root, "proc/self/cgroup")))
            {
                // Hierarchy, controllers, path: version 2 names no controllers.
                var fields = line.Split(':', 3);
                if (fields.Length < 3 || (fields[1].Length > 0 && !fields[1].Split(',').Contains("memory"))) continue;
                var (mount, most, used) = fields[1].Length > 0 ? ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes") : ("sys/fs/cgroup", "memory.max", "memory.current");
                for (var path = fields[2].Trim('/'); ; path = Path.GetDirectoryName(path) ?? "")
                {
                    available = Math.Min(available, LeftIn(Path.Combine(root, mount, path), most, used));
                    if (path.Length == 0) break;
                }
            }
            return available;
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            return 0;
        }
    }

    /// <summary>What a control group has left: its limit less what it uses, without files that were read a while ago.</summary>
    private static long LeftIn(string folder, string most, string used)
    {
        if (!File.Exists(Path.Combine(folder, most)) || Parse(File.ReadAllText(Path.Combine(folder, most))) is not { } limit) return long.MaxValue;
        return Math.Max(0, limit - (Parse(File.ReadAllText(Path.Combine(folder, used))) ?? limit) + (Number(File.ReadLines(Path.Combine(folder, "memory.stat")), "inactive_file") ?? 0));
    }

    private static long? Number(IEnumerable<string> lines, string name) => lines.FirstOrDefault(line => line.StartsWith(name, StringComparison.Ordinal)) is { } line ? Parse(line[name.Length..].Trim().Split(' ')[0]) : null;

    private static long? Parse(string text) => long.TryParse(text.AsSpan().Trim(), NumberStyles.None, CultureInfo.InvariantCulture, out var value) ? value : null;

    [LibraryImport("libc", EntryPoint = "madvise")] private static partial int Advise(nint address, nuint bytes, int advice);
}
