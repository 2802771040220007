using Lancet.Devices.Cuda;

namespace Lancet.Tests.Devices.Cuda;

public sealed class HostPagesTests : IDisposable
{
    private const long Gigabyte = 1L << 30;
    private readonly string _root = Directory.CreateTempSubdirectory("lancet-pages-").FullName;

    [Fact]
    public unsafe void Large_pieces_are_zeros_to_be_written_to_and_small_ones_are_left_to_the_driver()
    {
        Assert.Equal(0, HostPages.TryTake(HostPages.LeastBytes - 1));
        var address = HostPages.TryTake(HostPages.LeastBytes + 5);
        Assert.SkipUnless(OperatingSystem.IsLinux() && HostPages.AvailableBytes("/") > 4 * HostPages.LeastBytes, "needs Linux with memory to spare");
        Assert.NotEqual(0, address);
        var bytes = new Span<byte>((void*)address, (int)HostPages.LeastBytes + 5);
        Assert.False(bytes.ContainsAnyExcept((byte)0));
        bytes.Fill(3);
        Assert.Equal(0, address % 4096);
        HostPages.GiveBack(address);
    }

    [Fact]
    public void More_than_the_machine_has_is_not_taken() => Assert.Equal(0, HostPages.TryTake(1L << 50));

    [Fact]
    public void What_is_available_is_the_least_that_machine_and_control_groups_have()
    {
        Assert.Equal(0, HostPages.AvailableBytes(_root));
        Write("proc/meminfo", "MemTotal:       33554432 kB\nMemFree:         1048576 kB\nMemAvailable:   20971520 kB\n");
        Write("proc/self/cgroup", "0::/\n");
        Assert.Equal(20 * Gigabyte, HostPages.AvailableBytes(_root));
        // Version 2: a group of a group, of which the outer one has less left.
        Write("proc/self/cgroup", "1:name=systemd:/\n0::/outer/inner\n");
        Assert.Equal(20 * Gigabyte, HostPages.AvailableBytes(_root));
        Group("sys/fs/cgroup/outer/inner", "memory.max", "max", "memory.current", "5");
        Group("sys/fs/cgroup/outer", "memory.max", $"{8 * Gigabyte}\n", "memory.current", $"{5 * Gigabyte}\n", $"anon 1\ninactive_file {Gigabyte}\nactive_file 7\n");
        Assert.Equal(4 * Gigabyte, HostPages.AvailableBytes(_root));
        // Of a container's own view of the groups only the root is there.
        Write("proc/self/cgroup", "0::/docker/abc\n");
        Group("sys/fs/cgroup", "memory.max", $"{3 * Gigabyte}", "memory.current", $"{2 * Gigabyte}", "anon 1\n");
        Assert.Equal(Gigabyte, HostPages.AvailableBytes(_root));
        // Version 1, without a limit and with one that is reached.
        Write("proc/self/cgroup", "9:cpu,memory:/job\n8:pids:/\n");
        Group("sys/fs/cgroup/memory/job", "memory.limit_in_bytes", "9223372036854771712", "memory.usage_in_bytes", "1");
        Assert.Equal(20 * Gigabyte, HostPages.AvailableBytes(_root));
        Group("sys/fs/cgroup/memory/job", "memory.limit_in_bytes", $"{Gigabyte}", "memory.usage_in_bytes", $"{2 * Gigabyte}");
        Assert.Equal(0, HostPages.AvailableBytes(_root));
    }

    public void Dispose() => Directory.Delete(_root, true);

    private void Group(string folder, string most, string limit, string used, string usage, string stat = "")
    {
        Write($"{folder}/{most}", limit);
        Write($"{folder}/{used}", usage);
        Write($"{folder}/memory.stat", stat);
    }

    private void Write(string file, string text)
    {
        Directory.CreateDirectory(Path.GetDirectoryName(Path.Combine(_root, file))!);
        File.WriteAllText(Path.Combine(_root, file), text);
    }
}
