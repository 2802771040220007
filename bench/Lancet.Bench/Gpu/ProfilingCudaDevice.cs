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
internal sealed class ProfilingCudaDevice(CudaDevice device, int vocabulary) : ForwardingDevice(device)
{
    private readonly List<(EventHandle Start, EventHandle End)> _events = [];
    private readonly List<(string Name, double Bytes, double Operations)> _queued = [];
    private readonly Dictionary<string, Entry> _entries = [];

    public override void Launch(Kernel kernel, Grid grid, ReadOnlySpan<KernelArgument> arguments)
    {
        var bytes = 0.0;
        foreach (var argument in arguments)
            if (argument.IsPointer) bytes += (double)argument.Count * argument.Element.SizeInBytes();
        Begin(kernel.Name, bytes, 0);
        base.Launch(kernel, grid, arguments);
        End();
    }

    public override void MatMul(in MatMul product)
    {
        var right = product.B.Quantized is null ? product.B.Tensor.DType.ToString() : "NF4";
        Begin(
            $"product {product.M} × {product.N} × {product.K} {(product.A.IsTransposed ? "T" : "N")}{(product.B.IsTransposed ? "T" : "N")} {product.A.Tensor.DType} · {right} → {product.C.DType}", 0,
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
            var entry = _entries.GetValueOrDefault(name);
            _entries[name] = new(entry.Milliseconds + milliseconds, entry.Calls + 1, entry.Bytes + bytes, entry.Operations + operations);
        }
        _queued.Clear();
    }

    /// <summary>The table, longest first.</summary>
    /// <param name="report">Receives it.</param>
    /// <param name="title">What ran.</param>
    /// <param name="steps">Steps that were measured.</param>
    public void Print(Report report, string title, int steps)
    {
        var total = _entries.Values.Sum(entry => entry.Milliseconds);
        report.Begin(title, string.Create(CultureInfo.InvariantCulture,
            $"Times between two CUDA events around each launch, {steps} steps without graphs, {total / steps:F2} ms a step together. Where the host is slower than the device, as with small models, the time of a launch is in it. GB/s counts each argument's bytes once; TFLOP/s of attention needs the section Attention."),
            "kernel", "calls", "ms a step", "share", "µs a call", "GB/s", "TFLOP/s");
        foreach (var (name, entry) in _entries.OrderByDescending(item => item.Value.Milliseconds))
        {
            var isProduct = entry.Operations > 0;
            report.Row(
                name, Cell.Of((double)entry.Calls / steps, "F0"), Cell.Of(entry.Milliseconds / steps, "F3"), Cell.Percent(entry.Milliseconds / total), Cell.Of(entry.Milliseconds / entry.Calls * 1e3),
                isProduct ? "" : Cell.Of(entry.Bytes / entry.Milliseconds / 1e6, "F0"), isProduct ? Cell.Of(entry.Operations / entry.Milliseconds / 1e9) : "");
        }
        var groups = _entries.GroupBy(item => Group(item.Key, item.Value.Operations > 0)).Select(group => $"{group.Key} {group.Sum(item => item.Value.Milliseconds) / total:P1}");
        report.Line("");
        report.Line($"Together: {string.Join(", ", groups)}.");
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

    private string Group(string name, bool isProduct)
    {
        if (!isProduct) return name.StartsWith("attention", StringComparison.Ordinal) ? "attention" : "other kernels";
        int[] extents = [.. name.Split(' ').Where(word => int.TryParse(word, CultureInfo.InvariantCulture, out _)).Select(word => int.Parse(word, CultureInfo.InvariantCulture))];
        return extents.Contains(vocabulary) ? "products of the head" : extents.Min() <= 64 ? "products of adapters" : "products of base weights";
    }

    private void Begin(string name, double bytes, double operations)
    {
        if (_queued.Count == _events.Count) _events.Add((EventHandle.Create(true), EventHandle.Create(true)));
        _queued.Add((name, bytes, operations));
        CudaCheck.Driver(Driver.cuEventRecord(_events[_queued.Count - 1].Start.Value, device.ComputeStream));
    }

    private void End() => CudaCheck.Driver(Driver.cuEventRecord(_events[_queued.Count - 1].End.Value, device.ComputeStream));

    private readonly record struct Entry(double Milliseconds, int Calls, double Bytes, double Operations);
}
