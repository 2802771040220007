using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;
using Lancet.Kernels;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Devices.Cuda.SelfTest;

/// <summary>Copies, graphs and what they cost.</summary>
/// <param name="device">GPU.</param>
/// <param name="check">Runs a check and reports it.</param>
internal sealed class RuntimeChecks(CudaDevice device, Action<string, Func<string>> check)
{
    private const int LargeBytes = 256 << 20;

    public void Run()
    {
        foreach (var bytes in (int[])[1, 255, 4096, (8 << 20) + 3, 40_000_001]) check($"copy to the device and back, {bytes:N0} bytes", () => RoundTrip(bytes));
        check("sources of many small copies may be reused", SmallCopies);
        check("memory starts as zeros", Zeros);
        check("bandwidth of copies", Bandwidth);
        check("launch overhead", LaunchOverhead);
        check("graph: recorded and replayed work equals direct work", GraphEquality);
        check("graph: first, second and later runs of a key", GraphCacheEquality);
        check("kernels that come up while the one before ends read all of what it wrote", Overlap);
        check("a wrong argument is refused by name", WrongArgument);
    }

    private string RoundTrip(int bytes)
    {
        using var buffer = device.Allocate(bytes, "a copy");
        var tensor = buffer.View(DType.UInt8, new Shape(bytes));
        var sent = new byte[bytes];
        new Random(1).NextBytes(sent);
        device.CopyFromHost(sent, tensor);
        var received = new byte[bytes];
        device.CopyToHost(tensor, received);
        return Require(sent.AsSpan().SequenceEqual(received), "bytes differ");
    }

    private string SmallCopies()
    {
        const int count = 3000, size = 5000;
        using var buffer = device.Allocate((long)count * size, "copies");
        var tensor = buffer.View(DType.UInt8, new Shape(count, size));
        var source = new byte[size];
        for (var i = 0; i < count; i++)
        {
            Array.Fill(source, (byte)i);
            device.CopyFromHost(source, tensor.Rows(i, 1));
        }
        var all = new byte[count * size];
        device.CopyToHost(tensor, all);
        for (var i = 0; i < all.Length; i++)
            if (all[i] != (byte)(i / size)) throw new InvalidOperationException($"byte {i} is {all[i]}");
        return "";
    }

    private string Zeros()
    {
        for (var round = 0; round < 3; round++)
        {
            using var buffer = device.Allocate(10 << 20, "zeros");
            var tensor = buffer.View(DType.UInt8, new Shape(buffer.Bytes));
            var bytes = new byte[buffer.Bytes];
            device.CopyToHost(tensor, bytes);
            if (bytes.AsSpan().ContainsAnyExcept((byte)0)) throw new InvalidOperationException("a byte is not zero");
            Array.Fill(bytes, (byte)7);
            device.CopyFromHost(bytes, tensor);
        }
        return "";
    }

    private string Bandwidth()
    {
        using DeviceBuffer first = device.Allocate(LargeBytes, "copies"), second = device.Allocate(LargeBytes, "copies");
        Tensor a = first.View(DType.UInt8, new Shape(LargeBytes)), b = second.View(DType.UInt8, new Shape(LargeBytes));
        var host = new byte[LargeBytes];
        double Seconds(Action action)
        {
            action();
            device.Synchronize();
            var clock = Stopwatch.StartNew();
            action();
            device.Synchronize();
            return clock.Elapsed.TotalSeconds;
        }
        var up = Seconds(() => device.CopyFromHost(host, a));
        var down = Seconds(() => device.CopyToHost(a, host));
        device.Copy(a, b);
        var across = Median(() => device.Copy(a, b)) / 1e3;
        return Text($"host to device {LargeBytes / up / 1e9:F1} GB/s, device to host {LargeBytes / down / 1e9:F1} GB/s, on the device {2.0 * LargeBytes / across / 1e9:F0} GB/s read and written");
    }

    private string LaunchOverhead()
    {
        const int burst = 200, bursts = 20;
        using var buffer = device.Allocate(4096, "launches");
        Tensor x = buffer.View(DType.Float32, new Shape(256)), y = buffer.View(DType.Float32, new Shape(256), 2048);
        void Burst()
        {
            for (var i = 0; i < burst; i++) ElementwiseKernel.Convert(device, x, y);
        }
        Burst();
        device.Synchronize();
        var times = new List<double>();
        var allocated = GC.GetAllocatedBytesForCurrentThread();
        for (var i = 0; i < bursts; i++)
        {
            var start = Stopwatch.GetTimestamp();
            Burst();
            times.Add(Stopwatch.GetElapsedTime(start).TotalMicroseconds / burst);
            device.Synchronize();
        }
        allocated = GC.GetAllocatedBytesForCurrentThread() - allocated;
        times.Sort();
        var text = Text($"{times[bursts / 2]:F2} µs of the host a launch (least {times[0]:F2}), {(double)allocated / burst / bursts:F1} bytes allocated");
        using var graph = device.Capture(Burst);
        if (graph is null) return text;
        graph.Replay();
        device.Synchronize();
        var clock = Stopwatch.GetTimestamp();
        graph.Replay();
        var host = Stopwatch.GetElapsedTime(clock).TotalMicroseconds;
        device.Synchronize();
        return text + Text($"; in a graph of {graph.NodeCount} nodes {host / burst:F3} µs of the host and {Median(graph.Replay) * 1e3 / burst:F2} µs of the device");
    }

    private string GraphEquality()
    {
        using var work = new Work(device);
        var direct = new List<double[]>();
        for (var i = 0; i < 3; i++)
        {
            work.Start(i);
            work.Queue();
            direct.Add(work.Read());
        }
        using var graph = device.Capture(work.Queue) ?? throw new InvalidOperationException("graphs are turned off");
        for (var i = 0; i < 3; i++)
        {
            work.Start(i);
            graph.Replay();
            if (!direct[i].AsSpan().SequenceEqual(work.Read())) throw new InvalidOperationException($"replay {i} differs");
        }
        return $"{graph.NodeCount} nodes";
    }

    private string GraphCacheEquality()
    {
        using var work = new Work(device);
        using var graphs = new GraphCache(device, 2);
        for (var key = 0; key < 4; key++)
        {
            double[]? first = null;
            for (var run = 0; run < 4; run++)
            {
                work.Start(key);
                graphs.Run(key, work.Queue);
                var values = work.Read();
                first ??= values;
                if (!first.AsSpan().SequenceEqual(values)) throw new InvalidOperationException($"run {run} of key {key} differs");
            }
        }
        return Require(graphs.Count == 2, $"{graphs.Count} recordings are kept");
    }

    // Program 0 reads what the last program of the kernel before wrote.
    private string Overlap()
    {
        const int programs = 3000, width = 256, launches = 500;
        using var buffer = device.Allocate(2L * programs * width * sizeof(float), "a chain of kernels");
        Tensor Half(int index) => buffer.View(DType.Float32, new Shape(programs, width), (long)index * programs * width * sizeof(float));
        var kernel = Kernel.Trace("self_test_turn_over", k =>
        {
            var (x, y) = (k.Pointer(DType.Float32, "x"), k.Pointer(DType.Float32, "y"));
            var column = k.Range(width);
            k.Store(y + ((programs - 1 - k.ProgramId(0)) * width + column), k.Load(x + (k.ProgramId(0) * width + column)) + 1);
        });
        void Chain()
        {
            for (var i = 0; i < launches; i++) device.Launch(kernel, new Grid(programs), [Half(i % 2), Half((i + 1) % 2)]);
        }
        Chain();
        using (var graph = device.Capture(Chain)) graph?.Replay();
        var sums = new float[programs * width];
        device.CopyToHost(Half(launches % 2), MemoryMarshal.AsBytes(sums.AsSpan()));
        var expected = device.HasGraphs ? 2 * launches : launches;
        return Require(!sums.AsSpan().ContainsAnyExcept(expected), $"after {expected} kernels that add 1 a number is {sums.FirstOrDefault(sum => sum != expected)}");
    }

    private string WrongArgument()
    {
        using var buffer = device.Allocate(4096, "a launch");
        var kernel = Kernel.Trace("self_test", k => k.Store(k.Pointer(DType.Float32, "y") + 0, k.Zeros(DType.Float32)));
        try
        {
            device.Launch(kernel, new Grid(1), [buffer.View(DType.BFloat16, new Shape(1))]);
        }
        catch (TileException error)
        {
            return Require(error.Message.Contains("self_test", StringComparison.Ordinal), error.Message);
        }
        throw new InvalidOperationException("a bf16 pointer was taken for an fp32 one");
    }

    private double Median(Action action)
    {
        var times = Enumerable.Range(0, 9).Select(_ => device.Time(action)).Order().ToList();
        return times[times.Count / 2];
    }

    private static string Require(bool holds, string message) => holds ? "" : throw new InvalidOperationException(message);

    private static string Text(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);

    /// <summary>A little of everything that a step queues.</summary>
    private sealed class Work : IDisposable
    {
        private const int Size = 96;
        private readonly SelfTestLab _lab;
        private readonly Tensor _x, _w, _y, _wide, _sum;
        private readonly CudaDevice _device;

        public Work(CudaDevice device)
        {
            _device = device;
            _lab = new SelfTestLab(device, 5);
            (_x, _w) = (_lab.Zeros(DType.BFloat16, new Shape(Size, Size)), _lab.Random(DType.BFloat16, new Shape(Size, Size)));
            (_y, _wide, _sum) = (_lab.Zeros(DType.BFloat16, _x.Shape), _lab.Zeros(DType.Float32, _x.Shape), _lab.Zeros(DType.Float32, _x.Shape));
        }

        public void Start(int seed)
        {
            using var other = new SelfTestLab(_device, seed);
            _device.Copy(other.Random(DType.BFloat16, _x.Shape), _x);
        }

        public void Queue()
        {
            _device.Clear(_wide);
            _device.Clear(_sum);
            _device.MatMul(new MatMul { M = Size, N = Size, K = Size, A = new(_x), B = new(_w, true), C = _y, Alpha = 1 });
            ElementwiseKernel.AddTo(_device, _x, _y);
            ElementwiseKernel.AddTo(_device, _y, _wide);
            _device.MatMul(new MatMul { M = Size, N = Size, K = Size, A = new(_y), B = new(_wide), C = _sum, Alpha = 1, Beta = 1 });
            _device.Copy(_y, _x);
        }

        public double[] Read() => [.. _lab.Read(_sum), .. _lab.Read(_x)];

        public void Dispose() => _lab.Dispose();
    }
}
