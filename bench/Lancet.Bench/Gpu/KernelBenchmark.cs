using System.Globalization;
using Lancet.Bench.Gpu.Cases;
using Lancet.Devices;
using Lancet.Devices.Cpu;
using Lancet.Devices.Cuda;
using Lancet.Kernels;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Bench.Gpu;

/// <summary>The project's kernels at the sizes of Llama-3.1-8B, as shares of what the device can do.</summary>
internal sealed class KernelBenchmark(CudaDevice device, Arguments arguments, Report report)
{
    private const long CopyBytes = 2L << 30;
    private const long LeastRotatedBytes = 256L << 20;
    private const int MostSets = 8;
    private readonly CpuDevice _cpu = new();

    /// <summary>Kernels that are limited by memory.</summary>
    public void RunKernels()
    {
        var cases = LayerCases.All.Concat(TrainingCases.All).Where(test => arguments.Selects(test.Name)).ToList();
        if (cases.Count == 0) return;
        var copy = CopyRate(out var spread);
        report.Begin("Kernels", string.Create(CultureInfo.InvariantCulture,
            $"Each input read once and each output written once, over the median time between CUDA events (spread: 10th to 90th percentile); buffers rotate beyond the L2 cache. Device-to-device copy, reads and writes counted: {copy:F0} GB/s ({spread}). Check: ‖x − fp64‖/‖fp64‖, in brackets that of the processor in the same dtype."),
            "kernel", "shape", "dtype", "µs", "spread", "GB/s", "of copy", "registers", "spill bytes", "shared bytes", "threads", "check");
        foreach (var test in cases)
        {
            Guard(test.Name, test.Shape, () =>
            {
                var (timing, verdict, infos) = Run(test, test.Bytes);
                var rate = test.Bytes / timing.Median / 1e6;
                report.Row(
                    test.Name, test.Shape, test.DType.ToString(), Cell.Of(timing.Median * 1e3), timing.Spread, Cell.Of(rate, "F0"), Cell.Percent(rate / copy), infos.Max(info => info.Registers),
                    infos.Max(info => info.SpillBytes), infos.Max(info => info.SharedBytes), infos.Max(info => info.Threads), verdict.Text);
            });
        }
    }

    /// <summary>Attention.</summary>
    public void RunAttention()
    {
        var cases = AttentionCases.All.Where(test => arguments.Selects(test.Name + " " + test.Shape)).ToList();
        if (cases.Count == 0) return;
        report.Begin(
            "Attention", "Causal, packed sequences. Operations: 4·d·heads·Σ n²/2 forward, 2.5 times that backward (whatever is computed again). Registers and spills of each kernel by name; a performance note says that the assembler serialised products.",
            "kernel", "shape", "dtype", "µs", "spread", "TFLOP/s", "registers", "spill bytes", "shared bytes", "threads", "check");
        foreach (var test in cases)
        {
            Guard(test.Name, test.Shape, () =>
            {
                var (timing, verdict, infos) = Run(test, LeastRotatedBytes);
                report.Row(
                    test.Name, test.Shape, test.DType.ToString(), Cell.Of(timing.Median * 1e3), timing.Spread, Cell.Of(test.Operations / timing.Median / 1e9), Each(infos, info => info.Registers),
                    Each(infos, info => info.SpillBytes), infos.Max(info => info.SharedBytes), infos.Max(info => info.Threads), verdict.Text + (infos.Any(info => info.HasPerformanceNote) ? ", performance note" : ""));
            });
        }
    }

    private static string Each(IReadOnlyList<CudaKernelInfo> infos, Func<CudaKernelInfo, int> number) => string.Join(" ", infos.Select(number));

    /// <summary>What a launch costs beside the kernel.</summary>
    public void RunLaunches()
    {
        if (!arguments.Selects("launch overhead")) return;
        const int launches = 1000;
        report.Begin("Launch overhead", "A kernel of one block that adds 1024 numbers, over and over.", "way", "µs a launch", "spread");
        Guard("launch overhead", "", () =>
        {
            using var lab = new BenchLab(device, 1);
            Tensor x = lab.Whole(DType.Float32, new Shape(1024)), y = lab.Whole(DType.Float32, new Shape(1024));
            void Many()
            {
                for (var i = 0; i < launches; i++) ElementwiseKernel.AddTo(device, x, y);
            }
            Many();
            device.Synchronize();
            var host = new List<double>();
            for (var i = 0; i < 15; i++)
            {
                var start = System.Diagnostics.Stopwatch.GetTimestamp();
                Many();
                device.Synchronize();
                host.Add(System.Diagnostics.Stopwatch.GetElapsedTime(start).TotalMilliseconds / launches);
            }
            var queued = Timing.Of(host);
            report.Row("one by one, host clock", Cell.Of(queued.Median * 1e3, "F2"), queued.Spread);
            using var graph = device.Capture(Many);
            if (graph is null) return;
            graph.Replay();
            var replayed = Timing.Of([.. Enumerable.Range(0, 15).Select(_ => device.Time(graph.Replay) / launches)]);
            report.Row("in a graph, CUDA events", Cell.Of(replayed.Median * 1e3, "F2"), replayed.Spread);
        });
    }

    /// <summary>GB/s of a copy within the device, bytes read and bytes written.</summary>
    public double CopyRate(out string spread)
    {
        using DeviceBuffer from = device.Allocate(CopyBytes, "a benchmark"), to = device.Allocate(CopyBytes, "a benchmark");
        Tensor source = from.View(DType.Float32, new Shape(CopyBytes / 4)), target = to.View(DType.Float32, new Shape(CopyBytes / 4));
        RandomFillKernel.Fill(device, source, RandomDistribution.Uniform, 1);
        var timing = KernelTimer.Measure(device, _ => device.Copy(source, target), 1);
        spread = timing.Spread;
        return 2 * CopyBytes / timing.Median / 1e6;
    }

    /// <summary>Runs something; what it throws becomes a row.</summary>
    public void Guard(string name, string shape, Action run)
    {
        try
        {
            run();
        }
        catch (Exception error) when (error is LancetException or TileException or NotImplementedException or NotSupportedException or InvalidOperationException or ArgumentException)
        {
            report.HasFailed = true;
            report.Row(name, shape, "failed: " + error.Message.ReplaceLineEndings(" "));
            // After a failed kernel nothing on the device works any more.
            if (error is CudaException { Code: >= 700 and < 800 }) throw;
        }
    }

    private (Timing Timing, Verdict Verdict, List<CudaKernelInfo> Infos) Run(KernelCase test, double bytes)
    {
        var check = new KernelCheck(_cpu);
        var spy = new SpyDevice(device);
        var sets = (int)Math.Clamp(Math.Ceiling(LeastRotatedBytes / bytes), 2, MostSets);
        var labs = new List<BenchLab>();
        var copies = new List<(Tensor From, Tensor To)>();
        try
        {
            var prepared = new List<PreparedKernel>();
            for (var set = 0; set < sets; set++)
            {
                var lab = new BenchLab(set == 0 ? spy : device, set + 1);
                labs.Add(lab);
                prepared.Add(test.Prepare(lab, test.DType, test.Rows));
                foreach (var tensor in prepared[set].Overwritten)
                {
                    var pristine = lab.Empty(tensor.DType, tensor.Shape);
                    device.Copy(tensor, pristine);
                    copies.Add((pristine, tensor));
                }
            }
            // Kernels that only made the inputs are of no interest.
            var before = spy.Launches.Keys.ToHashSet();
            prepared[0].Launch();
            device.Synchronize();
            var infos = spy.Launches.Keys.Where(kernel => !before.Contains(kernel)).Select(device.InfoOf).ToList();
            var verdict = test.Comparison == Comparison.LastRows ? check.CompareLastRows(labs[0], prepared[0], test, 1) : check.CompareFewRows(device, test, 1);
            if (!verdict.IsGood) report.HasFailed = true;
            var timing = KernelTimer.Measure(device, set => prepared[set].Launch(), sets, copies.Count == 0 ? null : () =>
            {
                foreach (var (from, to) in copies) device.Copy(from, to);
            });
            return (timing, verdict, infos);
        }
        finally
        {
            foreach (var lab in labs) lab.Dispose();
        }
    }
}
