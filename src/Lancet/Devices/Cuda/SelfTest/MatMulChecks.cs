using System.Globalization;
using Lancet.Devices.Cpu;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Devices.Cuda.SelfTest;

/// <summary>
/// Products in every combination of dtypes, transpositions, strides, bias and β against fp64 on the processor. The error may be twice that of
/// the processor's own product in the same dtypes, or of rounding what may be rounded.
/// </summary>
/// <param name="device">GPU.</param>
/// <param name="cpu">Processor.</param>
/// <param name="check">Runs a check and reports it.</param>
/// <param name="compare">Error of values against a reference.</param>
internal sealed class MatMulChecks(CudaDevice device, CpuDevice cpu, Action<string, Func<string>> check, Func<double[], double[], double> compare)
{
    // Sums of fp32 products in another order.
    private const double SumGrain = 1e-6;

    internal static readonly (int M, int N, int K)[] Shapes = [(64, 96, 128), (67, 45, 130), (1, 320, 256), (200, 16, 512), (16, 264, 72), (130, 40, 16)];

    internal static readonly (DType A, DType B, DType C, bool IsQuantized)[] AllKinds =
    [
        (DType.Float32, DType.Float32, DType.Float32, false),
        (DType.BFloat16, DType.BFloat16, DType.BFloat16, false),
        (DType.BFloat16, DType.BFloat16, DType.Float32, false),
        (DType.Float16, DType.Float16, DType.Float16, false),
        (DType.BFloat16, DType.Float32, DType.Float32, false),
        (DType.Float32, DType.BFloat16, DType.Float32, false),
        (DType.Float32, DType.Float32, DType.BFloat16, false),
        (DType.Float16, DType.Float32, DType.Float32, false),
        (DType.Float32, DType.Float32, DType.Float16, false),
        (DType.BFloat16, DType.BFloat16, DType.BFloat16, true),
        (DType.Float32, DType.Float32, DType.Float32, true),
    ];

    public void Run()
    {
        Kinds(device, "product");
        using var plain = new CudaDevice(device.Info.Ordinal, usesCublasLt: false, device.PtxFolder);
        Kinds(plain, "product without cuBLASLt");
        check("product: same bits twice", SameBits);
        check("product: bf16 8192 x 8192 x 8192", Rate);
    }

    private void Kinds(CudaDevice target, string name)
    {
        foreach (var kind in AllKinds)
        {
            check($"{name} {kind.A} x {(kind.IsQuantized ? "NF4" : kind.B)} -> {kind.C}", () =>
            {
                var (worst, worstCpu) = (0.0, 0.0);
                foreach (var shape in Shapes)
                {
                    foreach (var (ta, tb) in ((bool, bool)[])[(false, false), (false, true), (true, false), (true, true)])
                    {
                        foreach (var isPlain in (bool[])[true, false])
                        {
                            if (kind.IsQuantized && ta) continue;
                            var reference = Product(cpu, kind, shape, ta, tb, isPlain, isDouble: true);
                            var error = compare(reference, Product(target, kind, shape, ta, tb, isPlain, false));
                            var cpuError = compare(reference, Product(cpu, kind, shape, ta, tb, isPlain, false));
                            if (!(error <= (2 * cpuError) + SumGrain))
                                throw new InvalidOperationException(Text($"{shape.M} x {shape.N} x {shape.K} {(ta ? "T" : "N")}{(tb ? "T" : "N")}{(isPlain ? "" : " with strides, bias, beta")}: error {error:E2}, on the processor {cpuError:E2}"));
                            (worst, worstCpu) = (Math.Max(worst, error), Math.Max(worstCpu, cpuError));
                        }
                    }
                }
                return Text($"error {worst:E2}, on the processor {worstCpu:E2}");
            });
        }
    }

    /// <summary>C of one product, from inputs that are the same on every device and in fp64.</summary>
    internal static double[] Product(Device target, (DType A, DType B, DType C, bool IsQuantized) kind, (int M, int N, int K) shape, bool ta, bool tb, bool isPlain, bool isDouble)
    {
        using var lab = new SelfTestLab(target, 3);
        var (m, n, k) = shape;
        var padding = isPlain || kind.IsQuantized ? 0 : 8;
        long lda = (ta ? m : k) + padding, ldb = (tb ? k : n) + padding, ldc = n + (isPlain ? 0 : 8);
        DType Of(DType dtype) => isDouble ? DType.Float64 : dtype;
        // Full fp32 numbers where a product has to keep them: a 16-bit number times 1 + 2⁻¹².
        Tensor Operand(DType dtype, long count)
        {
            var tensor = lab.Random(Of(dtype), new Shape(count));
            if (dtype != DType.Float32) return tensor;
            return lab.Of(Of(dtype), tensor.Shape, Array.ConvertAll(lab.Read(tensor), value => (double)(float)(value * (1 + (1.0 / 4096)))));
        }
        var a = Operand(kind.A, (ta ? k : m) * lda);
        var b = new MatMulOperand(default);
        if (kind.IsQuantized)
        {
            var (rows, columns) = tb ? (n, k) : (k, n);
            var weight = lab.Random(Of(kind.B), new Shape(rows, columns));
            if (isDouble)
            {
                // The reference multiplies what the quantised weight stands for.
                using var cpu = new CpuDevice();
                using var inner = new SelfTestLab(cpu, 1);
                var nf4 = KernelCases.Quantize(inner, inner.Of(DType.Float32, weight.Shape, lab.Read(weight)), rows, columns);
                var dense = inner.Output(kind.B, weight.Shape);
                Kernels.Nf4Kernel.Dequantize(cpu, nf4, dense);
                b = new(lab.Of(DType.Float64, weight.Shape, inner.Read(dense)), tb);
            }
            else
            {
                var nf4 = KernelCases.Quantize(lab, weight, rows, columns);
                b = new(nf4.Codes, tb, 0, nf4);
            }
        }
        else
        {
            b = new(Operand(kind.B, (tb ? n : k) * ldb), tb, ldb);
        }
        var c = isPlain ? lab.Output(Of(kind.C), new Shape(m * ldc)) : lab.Random(Of(kind.C), new Shape(m * ldc));
        target.MatMul(new MatMul
        {
            M = m,
            N = n,
            K = k,
            A = new(a, ta, lda),
            B = b,
            C = c,
            LeadingDimensionC = ldc,
            Alpha = isPlain ? 1 : 0.5f,
            Beta = isPlain ? 0 : 1,
            Bias = isPlain ? default : lab.Random(Of(kind.C).Accumulator(), new Shape(n)),
        });
        lab.Result("c", new ColumnSlice(c, ldc), m, n);
        return lab.Results[0].Values;
    }

    private string SameBits()
    {
        foreach (var kind in AllKinds)
            if (!Product(device, kind, (200, 264, 512), false, true, true, false).AsSpan().SequenceEqual(Product(device, kind, (200, 264, 512), false, true, true, false)))
                throw new InvalidOperationException($"{kind.A} x {kind.B} -> {kind.C} differs");
        return "";
    }

    private string Rate()
    {
        const int size = 8192;
        using var lab = new SelfTestLab(device, 1);
        // A block of random numbers, repeated: zeros would run faster than real data.
        var block = lab.Random(DType.BFloat16, new Shape(1 << 20));
        Tensor[] tensors = [.. Enumerable.Range(0, 3).Select(_ => lab.Zeros(DType.BFloat16, new Shape(size, size)))];
        foreach (var tensor in tensors)
        {
            var flat = tensor.Reshape(new Shape(tensor.Count));
            for (long start = 0; start < flat.Count; start += block.Count) device.Copy(block, flat.Rows(start, block.Count));
        }
        var product = new MatMul { M = size, N = size, K = size, A = new(tensors[0]), B = new(tensors[1], true), C = tensors[2], Alpha = 1 };
        double Milliseconds(Action action)
        {
            action();
            var times = Enumerable.Range(0, 5).Select(_ => device.Time(action)).Order().ToList();
            return times[times.Count / 2];
        }
        var library = Milliseconds(() => device.MatMul(product));
        var text = Text($"{device.MatMulLibrary}: {2.0 * size * size * size / library / 1e9:F0} TFLOP/s");
        var blocks = Kernels.GemmKernel.BlocksFor(product, device.Info.MaxSharedMemoryPerBlock);
        var own = Milliseconds(() => Kernels.GemmKernel.Multiply(device, product, blocks));
        return text + Text($"; tile-language {blocks.Rows} x {blocks.Columns} x {blocks.Depth}: {2.0 * size * size * size / own / 1e9:F0} TFLOP/s");
    }

    private static string Text(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);
}
