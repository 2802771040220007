using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;
using Lancet.Devices;
using Lancet.Devices.Cpu;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Bench;

/// <summary>Lancet's matrix products beside OpenBLAS (libopenblas.so.0) on the same threads, taking turns in one run.</summary>
internal static unsafe class GemmBenchmark
{
    private const int Rounds = 9;
    private const double LeastSeconds = 0.15;
    private static readonly (string What, int M, int N, int K, bool TransposesA, bool TransposesB)[] s_shapes =
    [
        ("square", 1024, 1024, 1024, false, false),
        ("forward, gate/up of SmolLM2", 1024, 1536, 576, false, true),
        ("forward, down of SmolLM2", 1024, 576, 1536, false, true),
        ("dX, gate/up of SmolLM2", 1024, 576, 1536, false, false),
        ("dW, gate/up of SmolLM2", 1536, 576, 1024, true, false),
        ("forward, head chunk", 320, 49152, 576, false, true),
        ("dX, head chunk", 320, 576, 49152, false, false),
        ("forward, 1B model", 2048, 2048, 2048, false, true),
    ];

    [DllImport("libopenblas.so.0", EntryPoint = "cblas_sgemm")]
    private static extern void OpenBlasMultiply(int order, int transA, int transB, int m, int n, int k, float alpha, float* a, int lda, float* b, int ldb, float beta, float* c, int ldc);

    [DllImport("libopenblas.so.0", EntryPoint = "openblas_set_num_threads")]
    private static extern void SetOpenBlasThreads(int threads);

    public static void Run()
    {
        using var device = new CpuDevice();
        var hasPeer = NativeLibrary.TryLoad("libopenblas.so.0", out _);
        if (hasPeer) SetOpenBlasThreads(device.ThreadCount);
        else Console.WriteLine("libopenblas.so.0 is not installed (Debian: libopenblas0-pthread); Lancet alone.");
        Console.WriteLine($"{device.Name}; GFLOP/s, medians of {Rounds} rounds");
        Console.WriteLine($"{"",-30}{"M x N x K",18}{"OpenBLAS",10}{"fp32",8}{"ratio",7}{"bf16 W",8}{"ratio",7}");
        foreach (var (what, m, n, k, transposesA, transposesB) in s_shapes)
        {
            using var memory = device.Allocate(((long)m * k + (long)k * n * 2 + (long)m * n) * sizeof(float), "benchmark");
            Fill(memory.View(DType.Float32, new Shape(memory.Bytes / 4)));
            var a = memory.View(DType.Float32, new Shape((long)m * k));
            var b = memory.View(DType.Float32, new Shape((long)k * n), (long)m * k * 4);
            var narrow = memory.View(DType.BFloat16, new Shape((long)k * n), ((long)m * k + (long)k * n) * 4);
            Kernels.ElementwiseKernel.Convert(device, b, narrow);
            var c = memory.View(DType.Float32, new Shape((long)m * n), ((long)m * k + (long)k * n * 2) * 4);
            Action[] actions =
            [
                () =>
                {
                    if (hasPeer) OpenBlasMultiply(101, transposesA ? 112 : 111, transposesB ? 112 : 111, m, n, k, 1, (float*)a.Address, transposesA ? m : k, (float*)b.Address, transposesB ? k : n, 0, (float*)c.Address, n);
                },
                () => device.MatMul(new MatMul { M = m, N = n, K = k, A = new(a, transposesA), B = new(b, transposesB), C = c, Alpha = 1 }),
                () => device.MatMul(new MatMul { M = m, N = n, K = k, A = new(a, transposesA), B = new(narrow, transposesB), C = c, Alpha = 1 }),
            ];
            var times = actions.Select(_ => new List<double>()).ToArray();
            for (var round = 0; round < Rounds; round++)
                for (var i = 0; i < actions.Length; i++) times[i].Add(Time(actions[i]));
            var rates = times.Select(list => 2.0 * m * n * k / list.Order().ElementAt(Rounds / 2) / 1e9).ToArray();
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture,
                $"{what,-30}{$"{m} x {n} x {k}",18}{(hasPeer ? rates[0] : 0),10:F0}{rates[1],8:F0}{(hasPeer ? rates[1] / rates[0] : 0),7:F2}{rates[2],8:F0}{(hasPeer ? rates[2] / rates[0] : 0),7:F2}"));
        }
    }

    /// <summary>Seconds a call, over enough calls to outlast the clock's grain.</summary>
    private static double Time(Action action)
    {
        var clock = Stopwatch.StartNew();
        var calls = 0;
        do
        {
            action();
            calls++;
        }
        while (clock.Elapsed.TotalSeconds < LeastSeconds);
        return clock.Elapsed.TotalSeconds / calls;
    }

    private static void Fill(Tensor tensor)
    {
        var random = new Random(1);
        foreach (ref var value in tensor.HostSpan<float>()) value = random.NextSingle() - 0.5f;
    }
}
