using System.Runtime.InteropServices;
using Lancet.Kernels;
using Lancet.Quantization;
using Lancet.Tensors;
using Lancet.Tile;
using static Lancet.Bench.Gpu.Cases.Llama8B;

namespace Lancet.Bench.Gpu.Cases;

/// <summary>Cross-entropy, optimiser, gradient norm and NF4.</summary>
internal static class TrainingCases
{
    private const int OptimizerColumns = 256;

    public static IEnumerable<KernelCase> All => CrossEntropy().Concat(Optimizer()).Concat(Quantization());

    // In chunks as the engine's head cuts them, in its dtype of logits, and in chunks that fill the device, for the vocabularies of Llama 3, Qwen, Gemma 3 and Gemma 2.
    private static IEnumerable<KernelCase> CrossEntropy()
    {
        const int qwenVocabulary = 151936, gemma2Vocabulary = 256000, gemma3Vocabulary = 262144;
        var engine = HeadChunk("llama-3.1-8b");
        var gemma = HeadChunk("gemma-2-2b");
        var engines = new (int Rows, int Columns, DType DType, double SoftCap)[] { (engine.Rows, Vocabulary, engine.DType, 0), (gemma.Rows, gemma2Vocabulary, gemma.DType, 30) };
        var others = from columns in (int[])[Vocabulary, qwenVocabulary, gemma3Vocabulary] from dtype in (DType[])[DType.BFloat16, DType.Float32] select (1024, columns, dtype, 0.0);
        foreach (var (chunk, columns, dtype, softCap) in engines.Union(others))
        {
            var isEngines = engines.Contains((chunk, columns, dtype, softCap));
            yield return new($"cross-entropy forward+backward{(isEngines ? ", the engine's chunk" : "")}{(softCap > 0 ? $", soft cap {softCap}" : "")}", $"{chunk} × {columns}", dtype, chunk, (lab, type, rows) =>
            {
                Tensor logits = lab.Rows(type, rows, columns, 4), labels = lab.Of(lab.RowIntegers(rows, columns)), losses = lab.Output(type.Accumulator(), new Shape(rows));
                var scale = lab.Of(type.Accumulator(), 0.125);
                var kernel = new CrossEntropyKernel(columns, 1, softCap);
                return new(() => kernel.ForwardBackward(lab.Device, logits, labels, losses, scale), [logits], new("losses", losses), new("gradient", logits));
            })
            { Bytes = (2.0 * chunk * columns * dtype.SizeInBytes()) + (8.0 * chunk), ComparedRows = 16 };
        }
    }

    /// <summary>Rows and dtype of a chunk of logits, as a dry run of the engine shows them.</summary>
    private static (int Rows, DType DType) HeadChunk(string model)
    {
        var spy = DryStep.Run(model, 1, false, Tokens, SequenceLength);
        var launch = spy.Launches.First(item => item.Key.Kernel.Name.StartsWith("cross_entropy", StringComparison.Ordinal)).Value;
        return ((int)launch.Arguments[1].Count, launch.Arguments[0].Element);
    }

    private static IEnumerable<KernelCase> Optimizer()
    {
        const int rowCount = AdapterParameters / OptimizerColumns;
        var constants = new AdamWConstants(0.9, 0.999, 1e-8, 0.01);
        yield return new("AdamW, fp32 state", $"{AdapterParameters}", DType.Float32, rowCount, (lab, dtype, rows) =>
        {
            Tensor p = lab.Rows(dtype, rows, OptimizerColumns), g = lab.Rows(dtype, rows, OptimizerColumns), m = lab.Rows(dtype, rows, OptimizerColumns), v = lab.Rows(dtype, rows, OptimizerColumns, 0.5, 0.5);
            Tensor factors = lab.Of(dtype, 1e-3, 2e-3, 1.5), clip = lab.Of(dtype, 0.5);
            var kernel = new AdamWKernel(constants);
            return new(() => kernel.Update(lab.Device, Flat(p), Flat(g), Flat(m), Flat(v), factors, clip, p.Count), [p, m, v], new("p", p), new("m", m), new("v", v));
        })
        { Bytes = 28.0 * AdapterParameters, ComparedRows = 64 };
        yield return new("AdamW, 8-bit state", $"{AdapterParameters}", DType.Float32, rowCount, (lab, dtype, rows) =>
        {
            Tensor p = lab.Rows(dtype, rows, OptimizerColumns), g = lab.Rows(dtype, rows, OptimizerColumns);
            Tensor m = lab.Rows(DType.UInt8, rows, OptimizerColumns, distribution: RandomDistribution.Bytes), v = lab.Rows(DType.UInt8, rows, OptimizerColumns, distribution: RandomDistribution.Bytes);
            Tensor ms = lab.Rows(dtype, rows, 1, 0.25, 0.5), vs = lab.Rows(dtype, rows, 1, 0.25, 0.5), factors = lab.Of(dtype, 1e-3, 2e-3, 1.5), clip = lab.Of(dtype, 0.5);
            var kernel = new AdamWKernel(constants);
            return new(
                () => kernel.UpdateEightBit(lab.Device, Flat(p), Flat(g), Flat(m), Flat(v), Flat(ms), Flat(vs), factors, clip, p.Count), [p, m, v, ms, vs], new("p", p), new("m scales", ms), new("v scales", vs));
        })
        { Bytes = (16.0 * AdapterParameters) + (16.0 * rowCount), ComparedRows = 64, HasDouble = false };
        yield return new("gradient norm", $"{AdapterParameters}", DType.Float32, rowCount, (lab, dtype, rows) =>
        {
            Tensor g = lab.Rows(dtype, rows, OptimizerColumns), partial = lab.Output(dtype, new Shape(GradientNormKernel.MaxShares)), norm = lab.Output(dtype, new Shape(1)), clip = lab.Output(dtype, new Shape(1));
            return new(() => GradientNormKernel.Compute(lab.Device, Flat(g), 1, partial, norm, clip), [], new("norm", norm, false), new("clip", clip, false));
        })
        { Bytes = 4.0 * AdapterParameters, Comparison = Comparison.FewRows, ComparedRows = 16384 };
    }

    private static IEnumerable<KernelCase> Quantization()
    {
        const double count = (double)Intermediate * Hidden;
        foreach (var isBack in (bool[])[true, false])
        {
            yield return new(isBack ? "NF4 dequantise" : "NF4 quantise", $"{Intermediate} × {Hidden}", DType.BFloat16, Intermediate, (lab, dtype, rows) =>
            {
                Tensor weight = lab.Rows(dtype, rows, Hidden), back = isBack ? lab.Output(dtype, weight.Shape) : default, absMax = lab.Empty(DType.Float32, new Shape(Nf4Kernel.Sizes(weight.Count).Scales));
                var nf4 = Empty(lab, rows);
                if (!isBack) return new(() => Nf4Kernel.Quantize(lab.Device, weight, nf4, absMax), [], new("codes", nf4.Codes, false), new("scales", nf4.AbsMaxCodes, false), new("offset", nf4.NestedOffset, false));
                Nf4Kernel.Quantize(lab.Device, weight, nf4, absMax);
                return new(() => Nf4Kernel.Dequantize(lab.Device, nf4, back), [], new KernelResult("values", back));
            })
            { Bytes = (2.5 * count) + (count / Nf4Weight.BlockSize) + (4 * count / Nf4Weight.BlockSize / Nf4Weight.NestedBlockSize), Comparison = Comparison.FewRows, HasDouble = false };
        }
    }

    private static Nf4Weight Empty(BenchLab lab, int rows)
    {
        var (codes, scales, nested) = Nf4Kernel.Sizes((long)rows * Hidden);
        var table = lab.Empty(DType.Float32, new Shape(256));
        lab.Device.CopyFromHost(MemoryMarshal.AsBytes<float>(DynamicCode.Signed), table);
        return new(rows, Hidden, lab.Output(DType.UInt8, new Shape(codes)), lab.Output(DType.UInt8, new Shape(scales)), lab.Output(DType.Float32, new Shape(nested)), table, lab.Output(DType.Float32, new Shape(1)));
    }

    private static Tensor Flat(Tensor tensor) => tensor.Reshape(new Shape(tensor.Count));
}
