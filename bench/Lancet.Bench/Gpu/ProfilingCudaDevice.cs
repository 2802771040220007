using System.Globalization;
using Lancet.Devices;
using Lancet.Devices.Cuda;
using Lancet.Devices.Cuda.Interop;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Bench.Gpu;

/// <summary>A GPU whose kernels, products, copies and clears are timed one by one between two events. There are no graphs then.</summary>
/// <param name="device">GPU.</param>
/// <param name="vocabulary">Tells the head's products from the others.</param>
/// <param name="attentionOperations">Operations of one layer's attention forward; the mean where layers differ.</param>
/// <param name="ceiling">TFLOP/s of a large product.</param>
/// <param name="copy">GB/s of a copy, reads and writes counted.</param>
internal sealed class ProfilingCudaDevice(CudaDevice device, int vocabulary, double attentionOperations, double ceiling, double copy) : ForwardingDevice(device)
{
    /// <summary>Attention's products backward over those forward, five over two.</summary>
    public const double BackwardOverForward = 2.5;

    // What the two kernels that share the work make of the seven products that they need; counted as five together.
    private const double ShareOfKeyGradients = 4 / 7.0;

    private readonly List<(EventHandle Start, EventHandle End)> _events = [];
    private readonly List<(string Name, double Bytes, double Operations)> _queued = [];
    private readonly Dictionary<string, Entry> _entries = [];

    public override void Launch(Kernel kernel, Grid grid, ReadOnlySpan<KernelArgument> arguments)
    {
        var operations = kernel.Name switch
        {
            "attention_forward" => attentionOperations,
            "attention_backward" => BackwardOverForward * attentionOperations,
            "attention_backward_kv" => ShareOfKeyGradients * BackwardOverForward * attentionOperations,
            "attention_backward_q" => (1 - ShareOfKeyGradients) * BackwardOverForward * attentionOperations,
            _ => 0,
        };
        Begin(kernel.Name, KernelArgument.TouchedBytes(arguments), operations);
        base.Launch(kernel, grid, arguments);
        End();
    }

    public override void MatMul(in MatMul product)
    {
        var right = product.B.Quantized is null ? product.B.Tensor.DType.ToString() : "NF4";
        var bytes = Bytes(product.A.Tensor.DType, product.M, product.K) + (product.B.Quantized?.Bytes ?? Bytes(product.B.Tensor.DType, product.K, product.N)) + (Bytes(product.C.DType, product.M, product.N) * (product.Beta == 0 ? 1 : 2));
        Begin(
            $"product {product.M} × {product.N} × {product.K} {(product.A.IsTransposed ? "T" : "N")}{(product.B.IsTransposed ? "T" : "N")} {product.A.Tensor.DType} · {right} → {product.C.DType}", bytes,
            2.0 * product.M * product.N * product.K);
        base.MatMul(product);
        End();
    }

    public override void MatMul(in GroupedMatMul product)
    {
        Begin($"product of experts {product.Rows.Count} × {product.N} × {product.K} {product.A.Tensor.DType}", 0, 2.0 * product.Rows.Count * product.N * product.K);
        base.MatMul(product);
        End();
    }

    public override void MatMul(in GroupedGradient product)
    {
        Begin($"gradient of experts {product.M} × {product.N} × {product.Rows.Count} {product.A.Tensor.DType}", 0, 2.0 * product.Rows.Count * product.M * product.N);
        base.MatMul(product);
        End();
    }

    public override void Copy(Tensor source, Tensor destination)
    {
        Begin("copy", 2.0 * source.Bytes, 0);
        base.Copy(source, destination);
        End();
    }

    public override void Clear(Tensor destination)
    {
        Begin("clear", destination.Bytes, 0);
        base.Clear(destination);
        End();
    }

    /// <summary>Forgets what was measured so far.</summary>
    public void Reset()
    {
        Synchronize();
        _queued.Clear();
        _entries.Clear();
    }

    /// <summary>Adds up what has run since the last call.</summary>
    public void Collect()
    {
        Synchronize();
        for (var i = 0; i < _queued.Count; i++)
        {
            CudaCheck.Driver(Driver.cuEventElapsedTime(out var milliseconds, _events[i].Start.Value, _events[i].End.Value));
            var (name, bytes, operations) = _queued[i];
            _entries[name] = _entries.GetValueOrDefault(name) + new Entry(milliseconds, 1, bytes, operations, Math.Max(operations / ceiling / 1e9, bytes / copy / 1e6));
        }
        _queued.Clear();
    }

    /// <summary>The table, longest first, and sums.</summary>
    /// <param name="report">Receives it.</param>
    /// <param name="title">What ran.</param>
    /// <param name="steps">Steps that were measured.</param>
    public void Print(Report report, string title, int steps)
    {
        var total = _entries.Values.Aggregate((a, b) => a + b);
        void Row(string name, Entry entry) => report.Row(
            name, Cell.Of((double)entry.Calls / steps, "F0"), Cell.Of(entry.Milliseconds / steps, "F3"), Cell.Percent(entry.Milliseconds / total.Milliseconds), Cell.Of(entry.Milliseconds / entry.Calls * 1e3),
            entry.Bytes > 0 ? Cell.Of(entry.Bytes / entry.Milliseconds / 1e6, "F0") : "", entry.Operations > 0 ? Cell.Of(entry.Operations / entry.Milliseconds / 1e9) : "", Cell.Percent(entry.LimitMilliseconds / entry.Milliseconds));
        report.Begin(title, string.Create(CultureInfo.InvariantCulture,
            $"Times between two CUDA events around each launch, {steps} steps without graphs. Where the host is slower than the device, as with small models, the time of a launch is in it. GB/s counts once what each launch says that it touches, TFLOP/s of attention what is needed whatever is computed again. Limit: operations at {ceiling:F0} TFLOP/s, a product of 8192³ here, or bytes at {copy:F0} GB/s, a copy, whichever takes longer."),
            "kernel", "calls", "ms a step", "share", "µs a call", "GB/s", "TFLOP/s", "of limit");
        foreach (var (name, entry) in _entries.OrderByDescending(item => item.Value.Milliseconds)) Row(name, entry);
        var groups = _entries.GroupBy(item => Group(item.Key)).Select(group => (Name: group.Key, Entry: group.Select(item => item.Value).Aggregate((a, b) => a + b)));
        foreach (var (name, entry) in groups.OrderByDescending(group => group.Entry.Milliseconds)) Row($"together: {name}", entry);
        Row("together: everything", total);
    }

    protected override void Dispose(bool disposing)
    {
        foreach (var (start, end) in _events)
        {
            start.Dispose();
            end.Dispose();
        }
        _events.Clear();
    }

    private string Group(string name)
    {
        if (!name.Contains(" × ", StringComparison.Ordinal)) return name == "attention_forward" ? "attention forward" : name.StartsWith("attention", StringComparison.Ordinal) ? "attention backward" : "other kernels";
        int[] extents = [.. name.Split(' ').Where(word => int.TryParse(word, CultureInfo.InvariantCulture, out _)).Select(word => int.Parse(word, CultureInfo.InvariantCulture))];
        return extents.Contains(vocabulary) ? "products of the head" : extents.Min() <= 64 ? "products of adapters" : "products of base weights";
    }

    private static double Bytes(DType dtype, int rows, int columns) => (double)rows * columns * dtype.SizeInBytes();

    private void Begin(string name, double bytes, double operations)
    {
        if (_queued.Count == _events.Count) _events.Add((EventHandle.Create(true), EventHandle.Create(true)));
        _queued.Add((name, bytes, operations));
        CudaCheck.Driver(Driver.cuEventRecord(_events[_queued.Count - 1].Start.Value, device.TakeComputeStream()));
    }

    private void End() => CudaCheck.Driver(Driver.cuEventRecord(_events[_queued.Count - 1].End.Value, device.TakeComputeStream()));

    private readonly record struct Entry(double Milliseconds, int Calls, double Bytes, double Operations, double LimitMilliseconds)
    {
        public static Entry operator +(Entry a, Entry b) => new(a.Milliseconds + b.Milliseconds, a.Calls + b.Calls, a.Bytes + b.Bytes, a.Operations + b.Operations, a.LimitMilliseconds + b.LimitMilliseconds);
    }
}
