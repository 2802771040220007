using System.Globalization;
using Lancet.Devices;
using Lancet.Devices.Cuda;
using Lancet.Kernels;
using Lancet.Quantization;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Bench.Gpu;

/// <summary>Matrix products: the tile-language GEMM beside cuBLASLt, at a large square and at the products of a LoRA step of Llama-3.1-8B.</summary>
internal sealed class ProductBenchmark(CudaDevice device, Arguments arguments, Report report)
{
    private const int Tokens = 8192;

    // What the products of a step look like: dtypes as the engine has them, whether the weight is NF4, and β.
    private static readonly Product[] s_products =
    [
        new("square, NN", 8192, 8192, 8192, false, false), new("square, NT", 8192, 8192, 8192, false, true), new("square, TN", 8192, 8192, 8192, true, false),
        new("q, o forward", Tokens, 4096, 4096, false, true), new("k, v forward", Tokens, 1024, 4096, false, true), new("gate, up forward", Tokens, 14336, 4096, false, true),
        new("down forward", Tokens, 4096, 14336, false, true), new("gate, up dX", Tokens, 4096, 14336, false, false), new("down dX", Tokens, 14336, 4096, false, false),
        new("gate, up dW (full training)", 14336, 4096, Tokens, true, false, C: DType.Float32),
        new("head chunk, fp32 logits", 128, 128256, 4096, false, true, C: DType.Float32), new("head chunk of 1024, bf16 logits", 1024, 128256, 4096, false, true),
        new("gate, up forward, NF4 weight", Tokens, 14336, 4096, false, true, IsQuantized: true), new("down dX, NF4 weight", Tokens, 14336, 4096, false, false, IsQuantized: true),
        new("LoRA x·Aᵀ, fp32 A", Tokens, 16, 4096, false, true, B: DType.Float32, C: DType.Float32), new("LoRA x·Aᵀ, down", Tokens, 16, 14336, false, true, B: DType.Float32, C: DType.Float32),
        new("LoRA u·Bᵀ added to y, fp32", Tokens, 14336, 16, false, true, A: DType.Float32, B: DType.Float32, Beta: 1),
        new("LoRA dy·B, fp32 B", Tokens, 16, 14336, false, false, B: DType.Float32, C: DType.Float32),
        new("LoRA dB = dyᵀ·u", 14336, 16, Tokens, true, false, B: DType.Float32, C: DType.Float32, Beta: 1),
        new("LoRA dA = vᵀ·x", 16, 4096, Tokens, true, false, A: DType.Float32, C: DType.Float32, Beta: 1),
    ];

    /// <summary>All products.</summary>
    /// <param name="guard">Runs a row.</param>
    public void Run(Action<string, string, Action> guard)
    {
        var products = s_products.Where(product => arguments.Selects("gemm " + product.Name)).ToList();
        if (products.Count == 0) return;
        report.Begin("Matrix products", $"M × N × K; N and T say which operand is stored transposed. Library: {device.MatMulLibrary}. Through Device.MatMul as the engine calls it (rounding, splitting and dequantising included); the tile-language GEMM only where the operands are plain. Check: 8 × 16 elements against fp64.",
            "product", "M × N × K", "dtypes", "library µs", "spread", "library TFLOP/s", "tile GEMM µs", "tile GEMM TFLOP/s", "check");
        foreach (var product in products) guard(product.Name, $"{product.M} × {product.N} × {product.K}", () => Run(product));
    }

    /// <summary>TFLOP/s of a large bf16 product, the most that a step of products can reach.</summary>
    public double Ceiling()
    {
        const int size = 8192;
        using var lab = new BenchLab(device, 1);
        Tensor a = lab.Whole(DType.BFloat16, new Shape(size, size)), b = lab.Whole(DType.BFloat16, new Shape(size, size)), c = lab.Output(DType.BFloat16, new Shape(size, size));
        var timing = KernelTimer.Measure(device, _ => device.MatMul(new MatMul { M = size, N = size, K = size, A = new(a), B = new(b, true), C = c, Alpha = 1 }), 1, budget: 60);
        return 2.0 * size * size * size / timing.Median / 1e9;
    }

    /// <summary>The tile-language kernels of the products, as they are compiled.</summary>
    public static IEnumerable<KernelVariant> Variants()
    {
        using var planning = new PlanningDevice(PlanTarget.Cuda);
        var spy = new SpyDevice(planning);
        foreach (var product in s_products.Where(product => product.IsPlain))
        {
            // Addresses that nobody follows.
            var (a, b, c) = (new Tensor(256, product.A, new Shape(1)), new Tensor(512, product.B, new Shape(1)), new Tensor(768, product.C, new Shape(1)));
            var multiply = Multiply(product, new(a, product.IsATransposed), new(b, product.IsBTransposed), c);
            GemmKernel.Multiply(spy, multiply, GemmKernel.BlocksFor(multiply, 227 << 10));
        }
        return spy.Launches.Keys;
    }

    private static MatMul Multiply(Product product, MatMulOperand a, MatMulOperand b, Tensor c) => new() { M = product.M, N = product.N, K = product.K, A = a, B = b, C = c, Alpha = 1, Beta = product.Beta };

    private static string Rate(Product product, Timing timing) => (product.Operations / timing.Median / 1e9).ToString("F1", CultureInfo.InvariantCulture);

    private void Run(Product product)
    {
        using var lab = new BenchLab(device, 1);
        var (m, n, k) = (product.M, product.N, product.K);
        var a = lab.Whole(product.A, product.IsATransposed ? new Shape(k, m) : new Shape(m, k));
        var b = lab.Whole(product.B, product.IsBTransposed ? new Shape(n, k) : new Shape(k, n));
        var c = lab.Whole(product.C, new Shape(m, n));
        Nf4Weight? quantized = null;
        if (product.IsQuantized)
        {
            quantized = Quantize(lab, b);
            Nf4Kernel.Dequantize(device, quantized, b);
        }
        var multiply = Multiply(product, new(a, product.IsATransposed), quantized is null ? new(b, product.IsBTransposed) : new(quantized.Codes, product.IsBTransposed, 0, quantized), c);
        var check = Check(lab, product, a, b, c, () => device.MatMul(multiply));
        var library = KernelTimer.Measure(device, _ => device.MatMul(multiply), 1);
        Cell time = "", rate = "";
        if (product.IsPlain)
        {
            var blocks = GemmKernel.BlocksFor(multiply, device.Info.MaxSharedMemoryPerBlock);
            check += "; tile " + Check(lab, product, a, b, c, () => GemmKernel.Multiply(device, multiply, blocks));
            var tile = KernelTimer.Measure(device, _ => GemmKernel.Multiply(device, multiply, blocks), 1);
            (time, rate) = (Cell.Of(tile.Median * 1e3), new(Rate(product, tile), product.Operations / tile.Median / 1e9));
        }
        report.Row(
            product.Name, $"{m} × {n} × {k} {(product.IsATransposed ? "T" : "N")}{(product.IsBTransposed ? "T" : "N")}", $"{product.A} · {(product.IsQuantized ? "NF4" : product.B)} → {product.C}",
            Cell.Of(library.Median * 1e3), library.Spread, new(Rate(product, library), product.Operations / library.Median / 1e9), time, rate, check);
    }

    private string Check(BenchLab lab, Product product, Tensor a, Tensor b, Tensor c, Action multiply)
    {
        const int checkedRows = 8;
        const int checkedColumns = 16;
        var (m, n, k) = (product.M, product.N, product.K);
        int[] rows = [.. Enumerable.Range(0, checkedRows).Select(i => (int)((i * 2654435761L) % m))], columns = [.. Enumerable.Range(0, checkedColumns).Select(i => (int)((i * 40503L * 65537) % n))];
        var before = rows.Select(row => lab.Read(c.Rows(row, 1))).ToArray();
        multiply();
        var after = rows.Select(row => lab.Read(c.Rows(row, 1))).ToArray();
        var left = Vectors(lab, a, rows, product.IsATransposed);
        var right = Vectors(lab, b, columns, !product.IsBTransposed);
        double[] exact = new double[checkedRows * checkedColumns], rounded = new double[exact.Length], found = new double[exact.Length];
        for (var i = 0; i < exact.Length; i++)
        {
            var (row, column) = (i / checkedColumns, i % checkedColumns);
            for (var x = 0; x < k; x++) exact[i] += left[row][x] * right[column][x];
            exact[i] += product.Beta * before[row][columns[column]];
            rounded[i] = product.C == DType.BFloat16 ? (float)(BFloat16)(float)exact[i] : (float)exact[i];
            found[i] = after[row][columns[column]];
        }
        // Sums of K products in fp32, and one rounding to C's dtype.
        var (error, rounding) = (KernelCheck.Error(exact, found), KernelCheck.Error(exact, rounded));
        var isGood = error <= (2 * rounding) + 2e-5;
        if (!isGood) report.HasFailed = true;
        return string.Create(CultureInfo.InvariantCulture, $"{(isGood ? "ok" : "WRONG")} {error:E1} ({rounding:E1})");
    }

    /// <summary>Rows, or columns, of a matrix.</summary>
    private static double[][] Vectors(BenchLab lab, Tensor matrix, int[] indices, bool areColumns)
    {
        if (!areColumns) return [.. indices.Select(index => lab.Read(matrix.Rows(index, 1)))];
        var result = indices.Select(_ => new double[matrix.Shape[0]]).ToArray();
        const int block = 256;
        for (var start = 0L; start < matrix.Shape[0]; start += block)
        {
            var count = Math.Min(block, matrix.Shape[0] - start);
            var values = lab.Read(matrix.Rows(start, count));
            for (var row = 0; row < count; row++)
                for (var i = 0; i < indices.Length; i++) result[i][start + row] = values[(row * matrix.Shape[1]) + indices[i]];
        }
        return result;
    }

    private Nf4Weight Quantize(BenchLab lab, Tensor weight)
    {
        var (codes, scales, nested) = Nf4Kernel.Sizes(weight.Count);
        var nf4 = new Nf4Weight(
            (int)weight.Shape[0], (int)weight.Shape[1], lab.Output(DType.UInt8, new Shape(codes)), lab.Output(DType.UInt8, new Shape(scales)), lab.Output(DType.Float32, new Shape(nested)),
            lab.Of(DType.Float32, Array.ConvertAll(DynamicCode.Signed, value => (double)value)), lab.Output(DType.Float32, new Shape(1)));
        Nf4Kernel.Quantize(device, weight, nf4, lab.Empty(DType.Float32, new Shape(scales)));
        return nf4;
    }

    private sealed record Product(
        string Name, int M, int N, int K, bool IsATransposed, bool IsBTransposed, DType A = DType.BFloat16, DType B = DType.BFloat16, DType C = DType.BFloat16, float Beta = 0, bool IsQuantized = false)
    {
        public double Operations => 2.0 * M * N * K;

        /// <summary>Whether the tile-language GEMM multiplies it as it is.</summary>
        public bool IsPlain => !IsQuantized && A == DType.BFloat16 && B == DType.BFloat16;
    }
}
