using System.Diagnostics;
using System.Globalization;
using Lancet.Devices;
using Lancet.Devices.Cpu;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Bench;

/// <summary>The processor, with the time of each kernel and product counted by name.</summary>
internal sealed class ProfilingDevice : Device
{
    private readonly CpuDevice _inner = new();
    private readonly Dictionary<string, (double Seconds, int Calls, double Operations)> _times = [];

    public override string Name => _inner.Name + " profiled";

    public override PlanTarget PlanTarget => _inner.PlanTarget;

    public override long AllocatedBytes => _inner.AllocatedBytes;

    public override long PeakAllocatedBytes => _inner.PeakAllocatedBytes;

    public override long AvailableBytes => _inner.AvailableBytes;

    public override DeviceBuffer Allocate(long bytes, string purpose) => _inner.Allocate(bytes, purpose);

    public override void Launch(Kernel kernel, Grid grid, ReadOnlySpan<KernelArgument> arguments)
    {
        var start = Stopwatch.GetTimestamp();
        _inner.Launch(kernel, grid, arguments);
        Count(kernel.Name, start, 0);
    }

    public override void MatMul(in MatMul product)
    {
        var start = Stopwatch.GetTimestamp();
        _inner.MatMul(product);
        Count($"product {product.M} x {product.N} x {product.K} {(product.A.IsTransposed ? "T" : "N")}{(product.B.IsTransposed ? "T" : "N")}", start, 2.0 * product.M * product.N * product.K);
    }

    public override void MatMul(in GroupedMatMul product)
    {
        var start = Stopwatch.GetTimestamp();
        _inner.MatMul(product);
        Count($"product of experts {product.Rows.Count} x {product.N} x {product.K}", start, 2.0 * product.Rows.Count * product.N * product.K);
    }

    public override void MatMul(in GroupedGradient product)
    {
        var start = Stopwatch.GetTimestamp();
        _inner.MatMul(product);
        Count($"gradient of experts {product.M} x {product.N} x {product.Rows.Count}", start, 2.0 * product.Rows.Count * product.M * product.N);
    }

    public override void ReserveMatMulWorkspace(long bytes) => _inner.ReserveMatMulWorkspace(bytes);

    public override void CopyFromHost(ReadOnlySpan<byte> source, Tensor destination) => _inner.CopyFromHost(source, destination);

    public override void CopyToHost(Tensor source, Span<byte> destination) => _inner.CopyToHost(source, destination);

    public override void Copy(Tensor source, Tensor destination)
    {
        var start = Stopwatch.GetTimestamp();
        _inner.Copy(source, destination);
        Count("copy", start, 0);
    }

    public override void Clear(Tensor destination) => _inner.Clear(destination);

    public override void Synchronize() => _inner.Synchronize();

    public void Reset() => _times.Clear();

    /// <summary>Prints the times, longest first.</summary>
    public void Print(int steps)
    {
        var total = _times.Values.Sum(value => value.Seconds);
        foreach (var (name, (seconds, calls, operations)) in _times.OrderByDescending(item => item.Value.Seconds))
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{seconds / steps * 1e3,9:F1} ms {seconds / total,7:P1} {calls / steps,6} calls  {(operations > 0 ? $"{operations / seconds / 1e9,5:F0} GFLOP/s" : ""),14}  {name}"));
    }

    protected override void Dispose(bool disposing) => _inner.Dispose();

    private void Count(string name, long start, double operations)
    {
        var value = _times.GetValueOrDefault(name);
        _times[name] = (value.Seconds + Stopwatch.GetElapsedTime(start).TotalSeconds, value.Calls + 1, value.Operations + operations);
    }
}
