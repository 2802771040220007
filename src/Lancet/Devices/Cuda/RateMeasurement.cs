using System.Diagnostics;
using System.Runtime.InteropServices;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Devices.Cuda;

/// <summary>Measures how fast a GPU is, in a fraction of a second: what plans are predicted with, see <see cref="DeviceRates"/>.</summary>
internal static class RateMeasurement
{
    private const int Rows = 8192;
    private const int Columns = 4096;
    private const int Runs = 7;
    private const long BufferBytes = 256 << 20;
    private const long LinkBytes = 64 << 20;
    private const int RandomBytes = 4 << 20;

    // An idle GPU's link sleeps, and takes a while to be as fast as it is in a step.
    private const double LinkWarmUpSeconds = 0.15;

    // A card that has just begun to multiply is up to a tenth faster than it is in a step, since its clock falls when its power reaches the limit; one that does nothing else is slower, since a step's other kernels need less
    // power. So products are timed among copies, in about the shares of time that both have in a step (docs/benchmarks.md).
    private const int MixedProducts = 6;
    private const int MixedCopies = 5;
    private const int MixedRuns = 60;
    private const double MixedWarmUpSeconds = 0.3;

    // A step's kernels run at this share of a copy (docs/benchmarks.md).
    private const double KernelShare = 0.92;

    // Copies run beside a step's kernels: at 47 to 48 GB/s on an H200 whose link takes 55 by itself, by a trace of both directions (docs/benchmarks.md).
    private const double LinkShare = 0.87;

    /// <summary>The rates, or null if there is no memory for measuring.</summary>
    public static DeviceRates? Measure(CudaDevice device, RateCache cache, string driver)
    {
        using var buffer = device.TryAllocate(BufferBytes);
        if (buffer is null) return null;
        DeviceBuffer host;
        try
        {
            host = device.AllocateHost(LinkBytes, "measuring the link");
        }
        catch (LancetException)
        {
            return null;
        }
        using var owned = host;
        Fill(device, buffer);
        Tensor Matrix(long offset, int rows) => buffer.View(DType.BFloat16, new Shape(rows, Columns), offset);
        var (a, b, c) = (Matrix(0, Rows), Matrix(BufferBytes / 4, Columns), Matrix(BufferBytes / 2, Rows));
        var product = new MatMul { M = Rows, N = Columns, K = Columns, A = new(a), B = new(b, true), C = c, Alpha = 1 };
        var (first, second) = (buffer.View(DType.UInt8, new Shape(BufferBytes / 2)), buffer.View(DType.UInt8, new Shape(BufferBytes / 2), BufferBytes / 2));
        void Products()
        {
            for (var i = 0; i < MixedProducts; i++) device.MatMul(product);
        }
        // Over the product's result; its operands stay.
        void Copies()
        {
            for (var i = 0; i < MixedCopies; i++) device.Copy(first, second);
        }
        WarmUp(device, MixedWarmUpSeconds, () =>
        {
            Products();
            Copies();
        });
        var matMul = MixedProducts * 2.0 * Rows * Columns * Columns / device.Time(Products, Copies, MixedRuns) * 1e3;
        var copy = BufferBytes / Seconds(device, () => device.Copy(first, second));
        var (there, here) = (host.View(DType.UInt8, new Shape(LinkBytes)), buffer.View(DType.UInt8, new Shape(LinkBytes)));
        void CopyOut()
        {
            device.CopyOut(here, there, 0);
            device.AwaitCopy(0);
        }
        void CopyIn()
        {
            device.CopyIn(there, here, 0);
            device.AwaitCopy(0);
        }
        WarmUp(device, LinkWarmUpSeconds, () =>
        {
            CopyOut();
            CopyIn();
        });
        var slower = Math.Max(Seconds(device, CopyOut), Seconds(device, CopyIn));
        return cache.Add(device.Info.Name, driver, matMul, copy * KernelShare, LinkBytes / slower * LinkShare);
    }

    /// <summary>Numbers between half and two of either sign: zeros would be multiplied faster than what a step multiplies.</summary>
    private static void Fill(CudaDevice device, DeviceBuffer buffer)
    {
        var random = new DeterministicRandom(1);
        var values = new ushort[RandomBytes / sizeof(ushort)];
        for (var i = 0; i < values.Length; i++) values[i] = (ushort)(0x3f00 | (random.NextInt32(1 << 16) & 0x80ff));
        var start = buffer.View(DType.UInt8, new Shape(RandomBytes));
        device.CopyFromHost(MemoryMarshal.AsBytes(values.AsSpan()), start);
        for (long offset = RandomBytes; offset < BufferBytes; offset += RandomBytes) device.Copy(start, buffer.View(DType.UInt8, new Shape(RandomBytes), offset));
    }

    private static void WarmUp(CudaDevice device, double seconds, Action work)
    {
        for (var clock = Stopwatch.StartNew(); clock.Elapsed.TotalSeconds < seconds; device.Synchronize()) work();
    }

    private static double Seconds(CudaDevice device, Action work)
    {
        // Choosing an algorithm, and the clocks.
        for (var run = 0; run < Runs; run++) work();
        var times = new double[Runs];
        for (var run = 0; run < Runs; run++) times[run] = device.Time(work);
        Array.Sort(times);
        return times[Runs / 2] / 1e3;
    }
}
