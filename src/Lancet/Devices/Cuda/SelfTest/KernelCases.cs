using Lancet.Kernels;
using Lancet.Quantization;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Devices.Cuda.SelfTest;

/// <summary>A kernel family at one shape.</summary>
/// <param name="Name">Family.</param>
/// <param name="Shape">For people.</param>
/// <param name="DTypes">Dtypes of the data.</param>
/// <param name="Run">Launches on the lab's device and keeps the results.</param>
/// <param name="HasDouble">Whether the kernels can be traced in fp64; otherwise the processor in the same dtype is the reference.</param>
internal sealed record KernelCase(string Name, string Shape, DType[] DTypes, Action<SelfTestLab, DType> Run, bool HasDouble = true);

/// <summary>Every kernel family, at shapes that fill blocks and at shapes that do not.</summary>
internal static partial class KernelCases
{
    private static readonly DType[] s_float = [DType.Float32, DType.BFloat16];
    private static readonly DType[] s_all = [DType.Float32, DType.BFloat16, DType.Float16];
    private static readonly DType[] s_single = [DType.Float32];

    public static IEnumerable<KernelCase> All => Pointwise().Concat(Norms()).Concat(Losses()).Concat(Attention()).Concat(Optimizers()).Concat(Quantization()).Concat(Products()).Concat(Experts());

    private static IEnumerable<KernelCase> Pointwise()
    {
        foreach (var count in (int[])[1, 1024, 5000])
        {
            yield return new("convert, add_to", $"{count}", s_all, (lab, dtype) =>
            {
                var x = lab.Random(dtype, new Shape(count));
                Tensor wide = lab.Output(dtype.Accumulator(), x.Shape), y = lab.Random(dtype, x.Shape), total = lab.Zeros(DType.Float64, new Shape(1));
                ElementwiseKernel.Convert(lab.Device, x, wide);
                ElementwiseKernel.AddTo(lab.Device, x, y);
                ElementwiseKernel.AddSum(lab.Device, wide, total);
                lab.Result("converted", wide);
                lab.Result("sum", y);
                lab.Result("total", total);
            });
        }
        foreach (var (rows, heads, dimension, rotary, isInterleaved) in ((int, int, int, int, bool)[])[(5, 7, 24, 24, false), (64, 40, 128, 128, false), (9, 3, 64, 16, false), (5, 7, 24, 24, true), (33, 40, 128, 128, true)])
        {
            yield return new(isInterleaved ? "rotary, interleaved" : "rotary", $"{rows} x {heads} x {dimension}/{rotary}", s_float, (lab, dtype) =>
            {
                var x = lab.Random(dtype, new Shape(rows, heads * dimension));
                var angles = new double[rows * rotary / 2];
                for (var i = 0; i < angles.Length; i++) angles[i] = i * 0.37;
                var cos = lab.Of(DType.Float32, new Shape(rows, rotary / 2), Array.ConvertAll(angles, Math.Cos));
                var sin = lab.Of(DType.Float32, new Shape(rows, rotary / 2), Array.ConvertAll(angles, Math.Sin));
                var positions = lab.Of(lab.Integers(rows, rows));
                new RotaryKernel(heads, dimension, rotary, isInterleaved).Apply(lab.Device, rows, x, positions, cos, sin, false);
                lab.Result("rotated", x);
            });
        }
        foreach (var activation in Enum.GetValues<GatedActivation>())
        {
            foreach (var (rows, width) in ((int, int)[])[(3, 41), (32, 1536)])
            {
                yield return new("gated activation", $"{activation} {rows} x {width}", s_float, (lab, dtype) =>
                {
                    var gateUp = lab.Random(dtype, new Shape(rows, 2 * width), 4);
                    Tensor h = lab.Output(dtype, new Shape(rows, width)), dh = lab.Random(dtype, h.Shape), other = lab.Random(dtype, h.Shape), apart = lab.Output(dtype, gateUp.Shape), factors = lab.Random(dtype.Accumulator(), new Shape(2 * width));
                    var kernel = new GatedActivationKernel(activation, width);
                    kernel.Forward(lab.Device, rows, gateUp, h);
                    kernel.Backward(lab.Device, rows, gateUp, other, factors, apart);
                    kernel.Backward(lab.Device, rows, gateUp, dh);
                    lab.Result("gradients apart", apart);
                    lab.Result("h", h);
                    lab.Result("gradients", gateUp);
                    lab.Result("h again", dh);
                });
            }
        }
        foreach (var (rows, outputs) in ((int, LoraOutputs)[])[(70, new(512, 512, 512, 16)), (200, new(1024, 512, 1024, 8)), (33, new(768, 256, 512, 32)), (66, new(960, 576, 768, 16)), (35, new(64, 64, 64, 8))])
        {
            yield return new("lora backward", $"{rows} x {outputs.Outputs}, {outputs.Count} of rank {outputs.Rank}", [DType.BFloat16, DType.Float16], (lab, dtype) =>
            {
                var room = outputs.Rank * outputs.Count;
                var (v, b) = LoraBackwardKernel.PartialShapes(rows, outputs, lab.Device.PlanTarget);
                Tensor dy = lab.Random(dtype, new Shape(rows, outputs.Outputs + room)), scaledB = lab.Random(dtype, new Shape(outputs.Outputs, room)), u = lab.Random(dtype, new Shape(rows, room)), gradient = lab.Random(dtype.Accumulator(), new Shape(outputs.Outputs, outputs.Rank));
                LoraBackwardKernel.Run(
                    lab.Device, rows, outputs, dy, scaledB, u, ColumnSlice.Of(dy, outputs.Outputs), 2, (lab.Output(dtype.Accumulator(), v), lab.Output(dtype.Accumulator(), b)), gradient);
                lab.Result("v", dy);
                lab.Result("dB", gradient);
            });
        }
        foreach (var (rows, width, rank, activation) in ((int, int, int, GatedActivation)[])[(70, 576, 16, GatedActivation.Silu), (200, 1088, 8, GatedActivation.GeluTanh), (33, 128, 32, GatedActivation.Gelu), (66, 64, 64, GatedActivation.Silu)])
        {
            yield return new("lora activation", $"{rows} x {width}, rank {rank}, {activation}", [DType.BFloat16, DType.Float16], (lab, dtype) =>
            {
                var (kernel, accumulator) = (new LoraActivationKernel(activation, width), dtype.Accumulator());
                Tensor gateUp = lab.Random(dtype, new Shape(rows, 2 * width), 4), a = lab.Random(dtype, new Shape(rank, width)), v = lab.Random(dtype, new Shape(rows, rank)), dh = lab.Random(dtype, new Shape(rows, width)), gradient = lab.Random(accumulator, a.Shape);
                Tensor h = lab.Output(dtype, new Shape(rows, width + rank)), sums = lab.Output(accumulator, kernel.ForwardPartialShape(rows, rank));
                kernel.Forward(lab.Device, rows, gateUp, h, a, rank, sums);
                kernel.AddUp(lab.Device, rows, rank, sums, ColumnSlice.Of(h, width));
                kernel.Backward(lab.Device, rows, gateUp, dh, v, rank, lab.Output(accumulator, kernel.BackwardPartialShape(rows, rank)), gradient);
                lab.Result("h and u", h);
                lab.Result("gradients", gateUp);
                lab.Result("dA", gradient);
            });
        }
        foreach (var (rows, columns, count, rank, kind) in ((int, int, int, int, NormKind)[])[(70, 576, 3, 16, NormKind.RootMeanSquare), (200, 1152, 2, 8, NormKind.RootMeanSquarePlusOne), (33, 128, 3, 32, NormKind.Layer), (66, 64, 1, 64, NormKind.RootMeanSquare)])
        {
            yield return new("lora norm", $"{rows} x {columns}, {count} of rank {rank}, {kind}", [DType.BFloat16, DType.Float16], (lab, dtype) =>
            {
                var (kernel, accumulator) = (new LoraNormKernel(columns, kind), dtype.Accumulator());
                Tensor x = lab.Random(dtype, new Shape(rows, columns)), weight = lab.Random(accumulator, new Shape(columns)), statistics = lab.Random(accumulator, new Shape(rows, 2)), v = lab.Random(dtype, new Shape(rows, count * rank)), gradient = lab.Random(accumulator, new Shape(count * rank, columns));
                kernel.AddGradients(lab.Device, rows, x, weight, statistics, v, count, rank, lab.Output(accumulator, kernel.PartialShape(rows, count, rank)), gradient);
                lab.Result("dA", gradient);
            });
        }
        foreach (var (rows, inputs) in ((int, LoraInputs)[])[(70, new(576, 1, 16, 0.25)), (200, new(128, 3, 8, 0.1, 1, 2)), (33, new(1088, 2, 32, 0.5, 2)), (66, new(64, 1, 64, 0.05))])
        {
            yield return new("lora dropout", $"{rows} x {inputs.Inputs}, {inputs.Count} of rank {inputs.Rank}", [DType.BFloat16, DType.Float16], (lab, dtype) =>
            {
                var accumulator = dtype.Accumulator();
                Tensor x = lab.Random(dtype, new Shape(rows, inputs.Inputs + inputs.Columns)), a = lab.Random(dtype, new Shape(inputs.Columns, inputs.Inputs)), v = lab.Random(dtype, new Shape(rows, inputs.Columns)), gradient = lab.Random(accumulator, a.Shape);
                Tensor dx = lab.Output(dtype, new Shape(rows, inputs.Inputs)), apart = lab.Output(dtype, dx.Shape), partial = lab.Output(accumulator, LoraDropoutKernel.BackwardPartialShape(rows, inputs));
                var masks = new DropoutMasks(lab.Of(DType.Int64, new Shape(1), [77]), 3, 100);
                LoraDropoutKernel.Forward(lab.Device, rows, inputs, masks, x, a, ColumnSlice.Of(x, inputs.Inputs), lab.Output(accumulator, LoraDropoutKernel.ForwardPartialShape(rows, inputs)));
                LoraDropoutKernel.Backward(lab.Device, rows, inputs, masks, x, a, v, dx, partial, gradient);
                LoraDropoutKernel.Backward(lab.Device, rows, inputs, masks, x, a, v, default, partial, gradient);
                LoraDropoutKernel.Backward(lab.Device, rows, inputs, masks, default, a, v, apart, default, default);
                lab.Result("u", x);
                lab.Result("dx", dx);
                lab.Result("dx alone", apart);
                lab.Result("dA, twice", gradient);
            });
        }
        foreach (var (rows, outputs, inputs, rank) in ((int, int, int, int)[])[(6, 9, 40, 3), (77, 1500, 264, 16)])
        {
            yield return new("DoRA", $"{rows} x {outputs}, rank {rank}", s_float, (lab, dtype) =>
            {
                const int padding = 8;
                Tensor Vector() => lab.Random(dtype.Accumulator(), new Shape(outputs));
                Tensor weight = lab.Random(dtype, new Shape(outputs, inputs + padding)), b = lab.Random(dtype, new Shape(outputs, rank + padding)), d = lab.Random(dtype.Accumulator(), new Shape(outputs, rank));
                Tensor squares = lab.Output(dtype.Accumulator(), new Shape(outputs)), factors = lab.Output(dtype.Accumulator(), new Shape(2, outputs)), wide = lab.Random(dtype.Accumulator(), new Shape(rows, outputs));
                Tensor x = lab.Random(dtype, new Shape(rows, outputs + padding)), addend = lab.Random(dtype, new Shape(rows, outputs)), y = lab.Output(dtype, addend.Shape);
                Tensor dz = lab.Output(dtype, x.Shape), gradient = Vector(), other = Vector(), partial = lab.Output(dtype.Accumulator(), ColumnSumKernel.PartialShape(rows, outputs));
                DoraKernel.SquaredNorms(lab.Device, weight, inputs, inputs + padding, squares);
                DoraKernel.Factors(lab.Device, b, d, squares, Vector(), 0.125f, factors);
                DoraKernel.Scale(lab.Device, rows, factors, x, y, Vector(), addend);
                DoraKernel.MagnitudeGradient(lab.Device, rows, addend, x, factors.Rows(1, 1), partial, gradient, factors, dz);
                DoraKernel.MagnitudeGradient(lab.Device, rows, addend, wide, factors.Rows(1, 1), partial, other);
                DoraKernel.Scale(lab.Device, rows, factors, x, x, subtractsOne: true);
                lab.Result("squares", squares);
                lab.Result("factors", factors);
                lab.Result("y", y);
                lab.Result("dz", dz, rows, outputs);
                lab.Result("dm", gradient);
                lab.Result("dm without dz", other);
                lab.Result("x", x, rows, outputs);
                DoraKernel.Scale(lab.Device, rows, factors, wide, y);
                lab.Result("y from sums", y);
            });
        }
        foreach (var (rows, columns) in ((int, int)[])[(6, 9), (77, 1500)])
        {
            yield return new("embedding", $"{rows} x {columns}", s_float, (lab, dtype) =>
            {
                const int vocabulary = 23;
                int[] ids = lab.Integers(rows, vocabulary), order = new int[rows], ends = new int[rows];
                EmbeddingKernel.SortTokens(ids, new long[rows], order, ends);
                Tensor table = lab.Random(dtype, new Shape(vocabulary, columns)), y = lab.Output(dtype, new Shape(rows, columns));
                Tensor dy = lab.Random(dtype, y.Shape), gradient = lab.Zeros(dtype.Accumulator(), table.Shape), tokens = lab.Of(ids);
                EmbeddingKernel.Forward(lab.Device, tokens, table, y, 3);
                EmbeddingKernel.Backward(lab.Device, tokens, lab.Of(order), lab.Of(ends), dy, gradient, 3);
                lab.Result("y", y);
                lab.Result("gradient", gradient);
            });
            yield return new("column sum", $"{rows} x {columns}", s_float, (lab, dtype) =>
            {
                Tensor x = lab.Random(dtype, new Shape(rows, columns)), partial = lab.Output(dtype.Accumulator(), ColumnSumKernel.PartialShape(rows, columns));
                var gradient = lab.Random(dtype.Accumulator(), new Shape(columns));
                ColumnSumKernel.Add(lab.Device, rows, x, partial, gradient);
                lab.Result("gradient", gradient);
            });
            yield return new("dropout", $"{rows} x {columns}", s_float, (lab, dtype) =>
            {
                Tensor x = lab.Random(dtype, new Shape(rows, columns)), y = lab.Output(dtype, x.Shape), seed = lab.Of(DType.Int64, new Shape(1), [77]);
                var kernel = new DropoutKernel(0.25);
                kernel.Apply(lab.Device, x, y, new(seed, 3, 0));
                lab.Result("y", y);
                kernel.AddTo(lab.Device, y, x, new(seed, 4, 2));
                lab.Result("sum", x);
            });
        }
    }

    private static IEnumerable<KernelCase> Norms()
    {
        foreach (var (rows, heads, columns, kind, hasHeadScales, padding) in ((int, int, int, NormKind, bool, int)[])[
            (5, 1, 123, NormKind.RootMeanSquarePlusOne, false, 0), (3, 4, 16, NormKind.RootMeanSquare, false, 8), (70, 1, 576, NormKind.RootMeanSquare, false, 0), (6, 1, 2304, NormKind.RootMeanSquarePlusOne, false, 0), (33, 1, 4096, NormKind.RootMeanSquare, false, 0),
            (5, 1, 123, NormKind.Layer, false, 0), (33, 1, 4096, NormKind.Layer, false, 0), (9, 6, 12, NormKind.Layer, true, 8), (40, 32, 128, NormKind.Layer, true, 0)])
        {
            yield return new(kind == NormKind.Layer ? "layer norm" : "rms norm", $"{rows} x {heads} x {columns}", s_float, (lab, dtype) =>
            {
                var stride = (heads * columns) + padding;
                Tensor x = lab.Random(dtype, new Shape(rows, stride)), w = lab.Random(dtype.Accumulator(), new Shape(hasHeadScales ? heads * columns : columns)), y = lab.Output(dtype, x.Shape);
                var kernel = new NormKernel(columns, heads, 1e-5, kind, hasHeadScales);
                Tensor statistics = lab.Output(dtype.Accumulator(), new Shape(kernel.StatisticsCount(rows))), dy = lab.Random(dtype, x.Shape), dx = lab.Random(dtype, x.Shape);
                Tensor partial = lab.Output(dtype.Accumulator(), kernel.PartialShape(rows)), gradient = lab.Zeros(dtype.Accumulator(), w.Shape);
                kernel.Forward(lab.Device, rows, x, w, y, statistics);
                kernel.BackwardWeight(lab.Device, rows, dy, x, statistics, partial, gradient);
                kernel.Backward(lab.Device, rows, dy, x, w, statistics, dx, true);
                lab.Result("y", y, rows, heads * columns);
                lab.Result("statistics", statistics);
                lab.Result("dw", gradient);
                lab.Result("dx", dx, rows, heads * columns);
                kernel.Backward(lab.Device, rows, dy, x, w, statistics, dy, false);
                lab.Result("dx over dy", dy, rows, heads * columns);
                kernel.ForwardAdded(lab.Device, rows, x, w, dx, 0.5, y, statistics);
                lab.Result("added", y, rows, heads * columns);
                if (heads > 1) return;
                // Every third row, and the first once more.
                int[] chosen = [.. Enumerable.Range(0, rows).Where(row => row % 3 == 1), 0], slots = [.. Enumerable.Range(0, rows).Select(row => row % 3 == 1 ? row / 3 : -1)];
                kernel.Forward(lab.Device, chosen.Length, x, w, y, statistics, lab.Of(chosen));
                lab.Result("y of rows", y, chosen.Length, columns);
                kernel.BackwardWeight(lab.Device, chosen.Length, dy, x, statistics, partial, gradient, lab.Of(chosen));
                lab.Result("dw of rows", gradient);
                kernel.Backward(lab.Device, rows, y, x, w, statistics, dx, false, lab.Of(slots));
                lab.Result("dx of rows", dx, rows, columns);
            });
        }
    }

    private static IEnumerable<KernelCase> Losses()
    {
        foreach (var (rows, vocabulary, cap) in ((int, int, double)[])[(7, 100, 0), (5, 12345, 0), (9, 32000, 30), (5, 40009, 30), (3, 128256, 0), (3, 262144, 0)])
        {
            yield return new("cross-entropy", $"{rows} x {vocabulary}, cap {cap}", s_float, (lab, dtype) =>
            {
                var labels = lab.Integers(rows, vocabulary);
                labels[1] = -100;
                Tensor logits = lab.Random(dtype, new Shape(rows, vocabulary), 8), losses = lab.Output(dtype.Accumulator(), new Shape(rows)), again = lab.Output(dtype.Accumulator(), new Shape(rows));
                Tensor scale = lab.Of(dtype.Accumulator(), new Shape(1), [0.125]), tensor = lab.Of(labels);
                var kernel = new CrossEntropyKernel(vocabulary, 1, cap);
                kernel.Forward(lab.Device, logits, tensor, losses);
                kernel.ForwardBackward(lab.Device, logits, tensor, again, scale);
                lab.Result("losses", losses);
                lab.Result("losses again", again);
                lab.Result("gradient", logits);
            });
        }
    }

    private static IEnumerable<KernelCase> Optimizers()
    {
        foreach (var count in (int[])[256, 5120])
        {
            yield return new("adamw", $"{count}", s_single, (lab, dtype) =>
            {
                var shape = new Shape(count);
                Tensor p = lab.Random(dtype, shape), g = lab.Random(dtype, shape), m = lab.Random(dtype, shape), v = lab.Of(dtype, shape, Array.ConvertAll(lab.Integers(count, 64), i => i / 64.0));
                Tensor factors = lab.Of(dtype, new Shape(3), [1e-3, 2e-3, 1.5]), partial = lab.Output(dtype, new Shape(GradientNormKernel.MaxShares));
                Tensor norm = lab.Output(dtype, new Shape(1)), clip = lab.Output(dtype, new Shape(1));
                GradientNormKernel.Compute(lab.Device, g, 1, partial, norm, clip);
                new AdamWKernel(new(0.9, 0.999, 1e-8, 0.01)).Update(lab.Device, p, g, m, v, factors, clip, count / 2);
                lab.Result("norm", norm);
                lab.Result("clip", clip);
                lab.Result("parameters", p);
                lab.Result("m", m);
                lab.Result("v", v);
            });
            yield return new("adamw 8-bit", $"{count}", s_single, (lab, dtype) =>
            {
                var shape = new Shape(count);
                Tensor p = lab.Random(dtype, shape), g = lab.Random(dtype, shape), clip = lab.Of(dtype, new Shape(1), [0.5]), factors = lab.Of(dtype, new Shape(3), [1e-3, 2e-3, 1.5]);
                Tensor m = lab.Of(DType.UInt8, shape, Array.ConvertAll(lab.Integers(count, 256), i => (double)i)), v = lab.Of(DType.UInt8, shape, Array.ConvertAll(lab.Integers(count, 256), i => (double)i));
                Tensor ms = lab.Of(dtype, new Shape(count / 256), [.. Enumerable.Repeat(0.5, count / 256)]), vs = lab.Of(dtype, new Shape(count / 256), [.. Enumerable.Repeat(0.25, count / 256)]);
                new AdamWKernel(new(0.9, 0.999, 1e-8, 0.01)).UpdateEightBit(lab.Device, p, g, m, v, ms, vs, factors, clip, count / 2);
                lab.Result("parameters", p);
                lab.Result("m", m);
                lab.Result("v", v);
                lab.Result("scales", ms);
            }, HasDouble: false);
        }
    }

    private static IEnumerable<KernelCase> Quantization()
    {
        foreach (var (rows, columns) in ((int, int)[])[(3, 64), (96, 320), (64, 514)])
        {
            yield return new("nf4", $"{rows} x {columns}", s_all, (lab, dtype) =>
            {
                var weight = lab.Random(dtype, new Shape(rows, columns));
                var nf4 = Quantize(lab, weight, rows, columns);
                var again = lab.Output(dtype, weight.Shape);
                Nf4Kernel.Dequantize(lab.Device, nf4, again);
                lab.Result("codes", nf4.Codes);
                lab.Result("scale codes", nf4.AbsMaxCodes);
                lab.Result("offset", nf4.NestedOffset);
                lab.Result("values", again);
            }, HasDouble: false);
        }
    }

    /// <summary>An NF4 form of a weight.</summary>
    internal static Nf4Weight Quantize(SelfTestLab lab, Tensor weight, int rows, int columns)
    {
        var (codes, scales, nested) = Nf4Kernel.Sizes((long)rows * columns);
        var nf4 = new Nf4Weight(
            rows, columns, lab.Zeros(DType.UInt8, new Shape(codes)), lab.Zeros(DType.UInt8, new Shape(scales)), lab.Zeros(DType.Float32, new Shape(nested)),
            lab.Of(DType.Float32, new Shape(256), Array.ConvertAll(DynamicCode.Signed, value => (double)value)), lab.Zeros(DType.Float32, new Shape(1)));
        Nf4Kernel.Quantize(lab.Device, weight, nf4, lab.Zeros(DType.Float32, new Shape(scales)));
        return nf4;
    }

    private static IEnumerable<KernelCase> Products()
    {
        (string Name, GemmBlocks Blocks, DType[] DTypes)[] blocks =
        [
            ("large", GemmBlocks.Large, [DType.BFloat16]), ("medium", GemmBlocks.Medium, [DType.BFloat16, DType.Float16]), ("small", GemmBlocks.Small, [DType.BFloat16, DType.Float16]),
            ("float32", GemmBlocks.Float32, s_single), ("narrow", GemmBlocks.Narrow, s_single),
        ];
        foreach (var (name, block, dtypes) in blocks)
        {
            foreach (var (m, n, k) in ((int, int, int)[])[(256, 256, 256), (130, 70, 100)])
            {
                yield return new("gemm", $"{name} {m} x {n} x {k}", dtypes, (lab, dtype) =>
                {
                    foreach (var (ta, tb) in ((bool, bool)[])[(false, false), (false, true), (true, false), (true, true)])
                    {
                        Tensor a = lab.Random(dtype, new Shape(m * k)), b = lab.Random(dtype, new Shape(k * n)), c = lab.Random(dtype.Accumulator(), new Shape(m, n)), bias = lab.Random(dtype.Accumulator(), new Shape(n));
                        var product = new MatMul { M = m, N = n, K = k, A = new(a, ta), B = new(b, tb), C = c, Alpha = 0.5f, Beta = 1, Bias = bias };
                        // The large blocks leave no room in shared memory for C in fp32.
                        if (block == GemmBlocks.Large) product = product with { C = lab.Output(dtype, c.Shape), Beta = 0, Bias = default };
                        c = product.C;
                        GemmKernel.Multiply(lab.Device, product, block);
                        lab.Result($"{(ta ? "T" : "N")}{(tb ? "T" : "N")}", c);
                    }
                });
            }
        }
    }
}
