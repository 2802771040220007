using System.Globalization;
using System.Runtime.InteropServices;
using Lancet.Devices;
using Lancet.Devices.Cuda;
using Lancet.Kernels;
using Lancet.Quantization;
using Lancet.Tensors;
using Lancet.Tile;
using static Lancet.Bench.Gpu.Cases.Llama8B;

namespace Lancet.Bench.Gpu;

/// <summary>Matrix products: the tile-language GEMM beside cuBLASLt, at a large square and at the products of a LoRA step of Llama-3.1-8B.</summary>
internal sealed class ProductBenchmark(CudaDevice device, Arguments arguments, Report report)
{
    private const int SmallRank = 64;

    private static readonly (string Name, ProductShape Shape)[] s_squares =
    [
        ("square, forward", Square(false, true)), ("square, dX", Square(false, false)), ("square, dW", Square(true, false)),
    ];

    /// <summary>What a LoRA and a QLoRA step of Llama-3.1-8B multiply, as the engine calls it.</summary>
    public static IEnumerable<(string Name, ProductShape Shape)> Products
    {
        get
        {
            var seen = new HashSet<ProductShape>();
            foreach (var isQuantized in (bool[])[false, true])
            {
                using var spy = DryStep.Run("llama-3.1-8b", 1, isQuantized, Tokens, SequenceLength);
                foreach (var (shape, count) in spy.Products)
                {
                    if (!seen.Add(shape)) continue;
                    var what = shape.IsQuantized ? "NF4 weight" : Math.Min(shape.M, Math.Min(shape.N, shape.K)) <= SmallRank ? "adapter" : shape.N == Vocabulary || shape.K == Vocabulary ? "head" : "weight";
                    yield return ($"{what}{(shape.Beta != 0 ? ", added" : "")}, {count} a {(what == "head" ? "step" : "layer")}", shape);
                }
            }
        }
    }

    /// <summary>All products.</summary>
    /// <param name="guard">Runs a row.</param>
    public void Run(Action<string, string, Action> guard)
    {
        var products = s_squares.Concat(Products).Where(product => arguments.Selects("gemm " + product.Name)).ToList();
        if (products.Count == 0) return;
        report.Begin("Matrix products", $"M × N × K; N and T say which operand is stored transposed. Library: {device.MatMulLibrary}. Through Device.MatMul as the engine calls it (rounding, splitting and dequantising included); the tile-language GEMM only where the operands are plain. Check: 8 × 16 elements against fp64.",
            "product", "M × N × K", "dtypes", "library µs", "spread", "library TFLOP/s", "tile GEMM µs", "tile GEMM TFLOP/s", "check");
        foreach (var (name, shape) in products) guard(name, $"{shape.M} × {shape.N} × {shape.K}", () => Run(name, shape));
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
        foreach (var product in s_squares.Concat(Products).Select(item => item.Shape).Where(shape => shape.IsPlain))
        {
            // Addresses that nobody follows.
            var (a, b, c) = (new Tensor(256, product.A, new Shape(1)), new Tensor(512, product.B, new Shape(1)), new Tensor(768, product.C, new Shape(1)));
            var multiply = Multiply(product, new(a, product.IsATransposed), new(b, product.IsBTransposed), c);
            GemmKernel.Multiply(spy, multiply, GemmKernel.BlocksFor(multiply, 227 << 10));
        }
        return spy.Launches.Keys;
    }

    private static ProductShape Square(bool isATransposed, bool isBTransposed) => new(8192, 8192, 8192, isATransposed, isBTransposed, DType.BFloat16, DType.BFloat16, DType.BFloat16, 0, false);

    private static MatMul Multiply(ProductShape product, MatMulOperand a, MatMulOperand b, Tensor c) => new() { M = product.M, N = product.N, K = product.K, A = a, B = b, C = c, Alpha = 1, Beta = product.Beta };

    private static string Rate(ProductShape product, Timing timing) => (product.Operations / timing.Median / 1e9).ToString("F1", CultureInfo.InvariantCulture);

    private void Run(string name, ProductShape product)
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
            name, $"{m} × {n} × {k} {(product.IsATransposed ? "T" : "N")}{(product.IsBTransposed ? "T" : "N")}", $"{product.A} · {(product.IsQuantized ? "NF4" : product.B)} → {product.C}",
            Cell.Of(library.Median * 1e3), library.Spread, new(Rate(product, library), product.Operations / library.Median / 1e9), time, rate, check);
    }

    private string Check(BenchLab lab, ProductShape product, Tensor a, Tensor b, Tensor c, Action multiply)
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
        var stride = (int)matrix.Shape[1];
        var block = (int)Math.Clamp((64 << 20) / (stride * matrix.DType.SizeInBytes()), 1, matrix.Shape[0]);
        var bytes = new byte[(long)block * stride * matrix.DType.SizeInBytes()];
        for (var start = 0L; start < matrix.Shape[0]; start += block)
        {
            var part = matrix.Rows(start, Math.Min(block, matrix.Shape[0] - start));
            lab.Device.CopyToHost(part, bytes.AsSpan(0, (int)part.Bytes));
            for (var row = 0; row < part.Shape[0]; row++)
            {
                for (var i = 0; i < indices.Length; i++)
                {
                    var at = ((row * stride) + indices[i]) * matrix.DType.SizeInBytes();
                    result[i][start + row] = matrix.DType == DType.BFloat16 ? (double)(float)MemoryMarshal.Read<BFloat16>(bytes.AsSpan(at)) : MemoryMarshal.Read<float>(bytes.AsSpan(at));
                }
            }
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
}
