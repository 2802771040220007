using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;
using Lancet.Devices;
using Lancet.Devices.Cpu;
using Lancet.Kernels;
using Lancet.Quantization;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Bench;

/// <summary>
/// Lancet's matrix products beside OpenBLAS (libopenblas.so.0) on the same threads, taking turns in one run: every round times each of them
/// once, and a ratio is the median of the rounds' ratios, so that what else the machine does hits both. Prints a Markdown table. Results of both are first
/// compared with fp64.
/// </summary>
internal static unsafe class GemmBenchmark
{
    private const int Rounds = 11;
    private const double LeastSeconds = 0.12;
    private const double SettlingSeconds = 0.08;
    private const int CheckedElements = 400;
    private static readonly (string What, int M, int N, int K, bool TransposesA, bool TransposesB)[] s_shapes =
    [
        ("square", 1024, 1024, 1024, false, false),
        ("forward, query of SmolLM2", 1024, 576, 576, false, true),
        ("forward, gate or up of SmolLM2", 1024, 1536, 576, false, true),
        ("forward, down of SmolLM2", 1024, 576, 1536, false, true),
        ("dX, gate or up of SmolLM2", 1024, 576, 1536, false, false),
        ("dX, down of SmolLM2", 1024, 1536, 576, false, false),
        ("dW, gate or up of SmolLM2", 1536, 576, 1024, true, false),
        ("forward, head chunk", 320, 49152, 576, false, true),
        ("dX, head chunk", 320, 576, 49152, false, false),
        ("forward, 1B model", 2048, 2048, 2048, false, true),
        ("dX, 1B model", 2048, 2048, 2048, false, false),
        ("dW, 1B model", 2048, 2048, 2048, true, false),
    ];

    [DllImport("libopenblas.so.0", EntryPoint = "cblas_sgemm")]
    private static extern void OpenBlasMultiply(int order, int transA, int transB, int m, int n, int k, float alpha, float* a, int lda, float* b, int ldb, float beta, float* c, int ldc);

    [DllImport("libopenblas.so.0", EntryPoint = "openblas_set_num_threads")]
    private static extern void SetOpenBlasThreads(int threads);

    [DllImport("libopenblas.so.0", EntryPoint = "openblas_get_config")]
    private static extern nint OpenBlasConfiguration();

    [DllImport("libopenblas.so.0", EntryPoint = "openblas_get_corename")]
    private static extern nint OpenBlasCore();

    public static void Run(string? filter)
    {
        using var device = new CpuDevice();
        var hasPeer = NativeLibrary.TryLoad("libopenblas.so.0", out _);
        if (hasPeer)
        {
            SetOpenBlasThreads(device.ThreadCount);
            Console.WriteLine($"{device.Name}; {Marshal.PtrToStringUTF8(OpenBlasConfiguration())}, kernels for {Marshal.PtrToStringUTF8(OpenBlasCore())}, {device.ThreadCount} threads");
        }
        else
        {
            Console.WriteLine($"{device.Name}; libopenblas.so.0 is not installed (Debian: libopenblas0-pthread); Lancet alone");
        }
        Console.WriteLine($"GFLOP/s, medians of {Rounds} rounds; in brackets the ratio to OpenBLAS: median of the rounds' ratios, least to greatest");
        Console.WriteLine();
        Console.WriteLine("| product | M × N × K | OpenBLAS fp32 | Lancet fp32 | bf16 weight | NF4 weight |");
        Console.WriteLine("|---|---|---|---|---|---|");
        foreach (var shape in s_shapes.Where(s => filter is null || s.What.Contains(filter, StringComparison.Ordinal))) Measure(device, hasPeer, shape);
    }

    private static void Measure(CpuDevice device, bool hasPeer, (string What, int M, int N, int K, bool TransposesA, bool TransposesB) shape)
    {
        var (what, m, n, k, transposesA, transposesB) = shape;
        var (scales, nested) = ((long)k * n / Nf4Weight.BlockSize, ((long)k * n / Nf4Weight.BlockSize / Nf4Weight.NestedBlockSize) + 1);
        using var memory = device.Allocate(((long)m * k + (long)k * n + (long)m * n) * sizeof(float), "benchmark");
        using var weights = device.Allocate(((long)k * n * 3) + (scales * 8) + (nested * 4) + 8192, "benchmark weights");
        var a = memory.View(DType.Float32, new Shape((long)m * k));
        var b = memory.View(DType.Float32, new Shape((long)k * n), (long)m * k * 4);
        var c = memory.View(DType.Float32, new Shape((long)m * n), ((long)m * k + (long)k * n) * 4);
        Fill(a, 1);
        Fill(b, 2);
        var narrow = weights.View(DType.BFloat16, new Shape((long)k * n));
        ElementwiseKernel.Convert(device, b, narrow);
        var nf4 = Quantize(device, weights, (long)k * n * 2, b, transposesB ? n : k, transposesB ? k : n);

        MatMul Product(MatMulOperand operand) => new() { M = m, N = n, K = k, A = new(a, transposesA), B = operand, C = c, Alpha = 1 };
        // In dW both operands are activations: there is no narrow weight to read.
        var actions = new List<Action> { () => device.MatMul(Product(new(b, transposesB))) };
        if (!transposesA)
        {
            actions.Add(() => device.MatMul(Product(new(narrow, transposesB))));
            actions.Add(() => device.MatMul(Product(new(nf4.Codes, transposesB, 0, nf4))));
        }
        var peer = () => OpenBlasMultiply(101, transposesA ? 112 : 111, transposesB ? 112 : 111, m, n, k, 1, (float*)a.Address, transposesA ? m : k, (float*)b.Address, transposesB ? k : n, 0, (float*)c.Address, n);
        if (hasPeer) actions.Insert(0, peer);
        for (var i = 0; i < (hasPeer ? 2 : 1); i++) Check(actions[i], shape, a, b, c);

        var times = actions.Select(_ => new List<double>()).ToArray();
        for (var round = 0; round < Rounds; round++)
        {
            // Forwards and backwards in turn, so that nobody always comes after the same neighbour.
            for (var i = 0; i < actions.Count; i++)
            {
                var index = round % 2 == 0 ? i : actions.Count - 1 - i;
                times[index].Add(Time(actions[index]));
            }
        }
        string Rate(int i) => (2.0 * m * n * k / times[i].Order().ElementAt(Rounds / 2) / 1e9).ToString("F0", CultureInfo.InvariantCulture);
        string Cell(int i)
        {
            if (i >= actions.Count) return "–";
            if (!hasPeer) return Rate(i);
            var ratios = times[0].Zip(times[i], (theirs, ours) => theirs / ours).Order().ToArray();
            return string.Create(CultureInfo.InvariantCulture, $"{Rate(i)} ({ratios[Rounds / 2]:F2}; {ratios[0]:F2}–{ratios[^1]:F2})");
        }
        var first = hasPeer ? 1 : 0;
        Console.WriteLine($"| {what} | {m} × {n} × {k} | {(hasPeer ? Rate(0) : "–")} | {Cell(first)} | {Cell(first + 1)} | {Cell(first + 2)} |");
    }

    private static Nf4Weight Quantize(CpuDevice device, DeviceBuffer memory, long start, Tensor weight, int rows, int columns)
    {
        var (codes, scales, nested) = Nf4Kernel.Sizes(weight.Count);
        Tensor Take(DType dtype, long count)
        {
            var view = memory.View(dtype, new Shape(count), start);
            start += (view.Bytes + 255) / 256 * 256;
            return view;
        }
        var result = new Nf4Weight(rows, columns, Take(DType.UInt8, codes), Take(DType.UInt8, scales), Take(DType.Float32, nested), Take(DType.Float32, 256), Take(DType.Float32, 1));
        device.CopyFromHost(MemoryMarshal.AsBytes<float>(DynamicCode.Signed), result.NestedCodeTable);
        Nf4Kernel.Quantize(device, weight, result, Take(DType.Float32, scales));
        return result;
    }

    /// <summary>Compares elements spread over the result with fp64 sums; the bound is the classical one of a sum in fp32.</summary>
    private static void Check(Action action, (string What, int M, int N, int K, bool TransposesA, bool TransposesB) shape, Tensor a, Tensor b, Tensor c)
    {
        c.HostSpan<float>().Fill(float.NaN);
        action();
        ReadOnlySpan<float> x = a.HostSpan<float>(), y = b.HostSpan<float>(), z = c.HostSpan<float>();
        var random = new Random(3);
        for (var element = 0; element < CheckedElements; element++)
        {
            var (i, j) = (random.Next(shape.M), random.Next(shape.N));
            double sum = 0, magnitude = 0;
            for (var p = 0; p < shape.K; p++)
            {
                var term = (double)x[shape.TransposesA ? (p * shape.M) + i : (i * shape.K) + p] * y[shape.TransposesB ? (j * shape.K) + p : (p * shape.N) + j];
                sum += term;
                magnitude += Math.Abs(term);
            }
            var error = Math.Abs(z[(i * shape.N) + j] - sum);
            if (!(error <= Math.Sqrt(shape.K) * magnitude * 6e-8)) throw new InvalidOperationException($"{shape.What}: element ({i}, {j}) is off by {error}; the timings would be of wrong results.");
        }
    }

    /// <summary>
    /// Seconds a call, over enough calls to outlast the clock's grain. Untimed calls come first: the neighbour's threads go on spinning for a while
    /// after its last product (OpenBLAS's for 2^26 cycles) and would take the processor from whoever comes next.
    /// </summary>
    private static double Time(Action action)
    {
        var clock = Stopwatch.StartNew();
        do action();
        while (clock.Elapsed.TotalSeconds < SettlingSeconds);
        clock.Restart();
        var calls = 0;
        do
        {
            action();
            calls++;
        }
        while (clock.Elapsed.TotalSeconds < LeastSeconds);
        return clock.Elapsed.TotalSeconds / calls;
    }

    private static void Fill(Tensor tensor, int seed)
    {
        var random = new Random(seed);
        foreach (ref var value in tensor.HostSpan<float>()) value = random.NextSingle() - 0.5f;
    }
}
