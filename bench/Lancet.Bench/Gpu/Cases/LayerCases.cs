using Lancet.Kernels;
using Lancet.Tensors;
using Lancet.Tile;
using static Lancet.Bench.Gpu.Cases.Llama8B;

namespace Lancet.Bench.Gpu.Cases;

/// <summary>Norms, rotary embedding, gated activations, embedding, dropout and plain passes over memory.</summary>
internal static class LayerCases
{
    private const DType Narrow = DType.BFloat16;
    private const int Rank = 16;

    public static IEnumerable<KernelCase> All => Norms().Concat(Rotary()).Concat(Gated()).Concat(Adapters()).Concat(DroppedAdapters()).Concat(Plain());

    private static IEnumerable<KernelCase> Norms()
    {
        const double pass = 2.0 * Tokens * Hidden;
        const double small = (4.0 * Tokens) + (4.0 * Hidden);
        var shape = $"{Tokens} × {Hidden}";
        var kernel = new NormKernel(Hidden, 1, 1e-5, NormKind.RootMeanSquare);
        yield return new("RMSNorm forward", shape, Narrow, Tokens, (lab, dtype, rows) =>
        {
            Tensor x = lab.Rows(dtype, rows, Hidden), w = lab.Whole(dtype.Accumulator(), new Shape(Hidden), 0.5, 1), y = lab.Output(dtype, x.Shape), rstd = lab.Output(dtype.Accumulator(), new Shape(rows));
            return new(() => kernel.Forward(lab.Device, rows, x, w, y, rstd), [], new("y", y), new("rstd", rstd));
        })
        { Bytes = (2 * pass) + small };
        foreach (var isAdded in (bool[])[true, false])
        {
            yield return new(isAdded ? "RMSNorm backward, added to dx" : "RMSNorm backward over dy", shape, Narrow, Tokens, (lab, dtype, rows) =>
            {
                Tensor x = lab.Rows(dtype, rows, Hidden), w = lab.Whole(dtype.Accumulator(), new Shape(Hidden), 0.5, 1), dy = lab.Rows(dtype, rows, Hidden);
                Tensor rstd = lab.Rows(dtype.Accumulator(), rows, 1, 0.5, 1.5), dx = isAdded ? lab.Rows(dtype, rows, Hidden) : dy;
                return new(() => kernel.Backward(lab.Device, rows, dy, x, w, rstd, dx, isAdded), [dx], new KernelResult("dx", dx));
            })
            { Bytes = ((isAdded ? 4 : 3) * pass) + small };
        }
        foreach (var (name, count) in ((string, int)[])[("q, k, v", 3), ("gate, up", 2)])
        {
            yield return new($"RMSNorm again, for dA of {name}", $"{shape}, rank {Rank}", Narrow, Tokens, (lab, dtype, rows) =>
            {
                var (adapters, accumulator) = (new LoraNormKernel(Hidden, NormKind.RootMeanSquare), dtype.Accumulator());
                Tensor x = lab.Rows(dtype, rows, Hidden), w = lab.Whole(accumulator, new Shape(Hidden), 0.5, 1), rstd = lab.Rows(accumulator, rows, 1, 0.5, 1.5), v = lab.Rows(dtype, rows, count * Rank);
                Tensor gradient = lab.Whole(accumulator, new Shape(count * Rank, Hidden)), partial = lab.Output(accumulator, adapters.PartialShape(rows, count, Rank));
                return new(() => adapters.AddGradients(lab.Device, rows, x, w, rstd, v, count, Rank, partial, gradient), [gradient], new KernelResult("dA", gradient, false));
            })
            { Bytes = pass + small, Comparison = Comparison.FewRows, ComparedRows = 1024 };
        }
        yield return new("RMSNorm weight gradient", shape, Narrow, Tokens, (lab, dtype, rows) =>
        {
            Tensor x = lab.Rows(dtype, rows, Hidden), dy = lab.Rows(dtype, rows, Hidden), rstd = lab.Rows(dtype.Accumulator(), rows, 1, 0.5, 1.5);
            Tensor partial = lab.Output(dtype.Accumulator(), kernel.PartialShape(rows)), gradient = lab.Whole(dtype.Accumulator(), new Shape(Hidden));
            return new(() => kernel.BackwardWeight(lab.Device, rows, dy, x, rstd, partial, gradient), [gradient], new KernelResult("dw", gradient, false));
        })
        { Bytes = (2 * pass) + small + (4.0 * Hidden), Comparison = Comparison.FewRows, ComparedRows = 1024 };
    }

    private static IEnumerable<KernelCase> Rotary()
    {
        const int heads = QueryHeads + KeyValueHeads;
        const int half = HeadDimension / 2;
        foreach (var isBackward in (bool[])[false, true])
        {
            yield return new(isBackward ? "rotary backward" : "rotary forward", $"{Tokens} × {heads} heads of {HeadDimension} in rows of {Projected}", Narrow, Tokens, (lab, dtype, rows) =>
            {
                var x = lab.Rows(dtype, rows, Projected);
                var angles = new double[SequenceLength * half];
                for (var i = 0; i < angles.Length; i++) angles[i] = i / half * Math.Pow(500000, -(i % half) / (double)half);
                Tensor cos = lab.Of(DType.Float32, Array.ConvertAll(angles, Math.Cos)).Reshape(new Shape(SequenceLength, half));
                Tensor sin = lab.Of(DType.Float32, Array.ConvertAll(angles, Math.Sin)).Reshape(new Shape(SequenceLength, half));
                var positions = lab.Of(lab.Positions(rows, SequenceLength));
                var kernel = new RotaryKernel(heads, HeadDimension, HeadDimension);
                return new(() => kernel.Apply(lab.Device, rows, x, positions, cos, sin, isBackward), [x], new KernelResult("x", x));
            })
            { Bytes = (2 * 2.0 * Tokens * heads * HeadDimension) + (2 * 4.0 * SequenceLength * half) + (4.0 * Tokens) };
        }
    }

    private static IEnumerable<KernelCase> Gated()
    {
        foreach (var (activation, name) in ((GatedActivation, string)[])[(GatedActivation.Silu, "SwiGLU"), (GatedActivation.GeluTanh, "GeGLU (tanh)"), (GatedActivation.Gelu, "GeGLU (erf)")])
        {
            var kernel = new GatedActivationKernel(activation, Intermediate);
            const double pass = 2.0 * Tokens * Intermediate;
            yield return new($"{name} forward", $"{Tokens} × {Intermediate}", Narrow, Tokens, (lab, dtype, rows) =>
            {
                Tensor gateUp = lab.Rows(dtype, rows, 2 * Intermediate, 4), h = lab.Output(dtype, new Shape(rows, Intermediate));
                return new(() => kernel.Forward(lab.Device, rows, gateUp, h), [], new KernelResult("h", h));
            })
            { Bytes = 3 * pass };
            yield return new($"{name} backward", $"{Tokens} × {Intermediate}", Narrow, Tokens, (lab, dtype, rows) =>
            {
                Tensor gateUp = lab.Rows(dtype, rows, 2 * Intermediate, 4), dh = lab.Rows(dtype, rows, Intermediate);
                return new(() => kernel.Backward(lab.Device, rows, gateUp, dh), [gateUp, dh], new("de, dg", gateUp), new("h", dh));
            })
            { Bytes = 6 * pass };
            var adapted = new LoraActivationKernel(activation, Intermediate);
            yield return new($"{name} forward with u", $"{Tokens} × {Intermediate}, rank {Rank}", Narrow, Tokens, (lab, dtype, rows) =>
            {
                Tensor gateUp = lab.Rows(dtype, rows, 2 * Intermediate, 4), h = lab.Output(dtype, new Shape(rows, Intermediate)), a = lab.Whole(dtype, new Shape(Rank, Intermediate));
                Tensor u = lab.Output(dtype, new Shape(rows, Rank)), partial = lab.Output(dtype.Accumulator(), adapted.ForwardPartialShape(rows, Rank));
                void Run()
                {
                    adapted.Forward(lab.Device, rows, gateUp, h, a, Rank, partial);
                    adapted.AddUp(lab.Device, rows, Rank, partial, u);
                }
                return new(Run, [], new("h", h), new("u", u));
            })
            { Bytes = 3 * pass, Comparison = Comparison.FewRows };
            yield return new($"{name} backward with dA", $"{Tokens} × {Intermediate}, rank {Rank}", Narrow, Tokens, (lab, dtype, rows) =>
            {
                Tensor gateUp = lab.Rows(dtype, rows, 2 * Intermediate, 4), dh = lab.Rows(dtype, rows, Intermediate), v = lab.Rows(dtype, rows, Rank);
                Tensor gradient = lab.Whole(dtype.Accumulator(), new Shape(Rank, Intermediate)), partial = lab.Output(dtype.Accumulator(), adapted.BackwardPartialShape(rows, Rank));
                return new(() => adapted.Backward(lab.Device, rows, gateUp, dh, v, Rank, partial, gradient), [gateUp, gradient], new("de, dg", gateUp), new("dA", gradient, false));
            })
            { Bytes = 5 * pass, Comparison = Comparison.FewRows, ComparedRows = 1024 };
        }
    }

    private static IEnumerable<KernelCase> Adapters()
    {
        foreach (var (name, outputs) in ((string, LoraOutputs)[])[("gate, up", new(2 * Intermediate, Intermediate, 2 * Intermediate, Rank)), ("q, k, v", new(Projected, Hidden, Hidden + 1024, Rank)), ("down", new(Hidden, Hidden, Hidden, Rank))])
        {
            yield return new($"LoRA backward (v, dB), {name}", $"{Tokens} × {outputs.Outputs}, rank {Rank}", Narrow, Tokens, (lab, dtype, rows) =>
            {
                var room = Rank * outputs.Count;
                Tensor dy = lab.Rows(dtype, rows, outputs.Outputs + room), b = lab.Whole(dtype, new Shape(outputs.Outputs, room)), u = lab.Rows(dtype, rows, room), gradient = lab.Whole(dtype.Accumulator(), new Shape(outputs.Outputs, Rank));
                var shapes = LoraBackwardKernel.PartialShapes(rows, outputs, lab.Device.PlanTarget);
                var partial = (lab.Output(dtype.Accumulator(), shapes.V), lab.Output(dtype.Accumulator(), shapes.B));
                return new(() => LoraBackwardKernel.Run(lab.Device, rows, outputs, dy, b, u, ColumnSlice.Of(dy, outputs.Outputs), 1, partial, gradient), [gradient], new("v", dy), new("dB", gradient, false));
            })
            { Bytes = 2.0 * Tokens * outputs.Outputs, Comparison = Comparison.FewRows, ComparedRows = 1024 };
        }
    }

    private static IEnumerable<KernelCase> DroppedAdapters()
    {
        foreach (var (name, inputs) in ((string, LoraInputs)[])[("q, k, v", new(Hidden, 3, Rank, 0.1, 1, 2)), ("gate, up", new(Hidden, 2, Rank, 0.1, 1)), ("output", new(Hidden, 1, Rank, 0.1)), ("down", new(Intermediate, 1, Rank, 0.1))])
        {
            var (shape, bytes) = ($"{Tokens} × {inputs.Inputs}, rank {Rank}", 2.0 * Tokens * inputs.Inputs);
            yield return new($"LoRA with dropout forward (u), {name}", shape, Narrow, Tokens, (lab, dtype, rows) =>
            {
                Tensor x = lab.Rows(dtype, rows, inputs.Inputs + inputs.Columns), a = lab.Whole(dtype, new Shape(inputs.Columns, inputs.Inputs)), u = lab.Output(dtype, new Shape(rows, inputs.Columns)), partial = lab.Output(dtype.Accumulator(), LoraDropoutKernel.ForwardPartialShape(rows, inputs));
                var masks = new DropoutMasks(lab.Of(DType.Int64, 77), 3, 0);
                return new(() => LoraDropoutKernel.Forward(lab.Device, rows, inputs, masks, x, a, u, partial), [], new KernelResult("u", u));
            })
            { Bytes = bytes, Comparison = Comparison.FewRows };
            foreach (var (part, hasInput, hasGradient) in ((string, bool, bool)[])[("dx, dA", true, true), ("dx", true, false), ("dA", false, true)])
            {
                yield return new($"LoRA with dropout backward ({part}), {name}", shape, Narrow, Tokens, (lab, dtype, rows) =>
                {
                    Tensor x = lab.Rows(dtype, rows, inputs.Inputs), a = lab.Whole(dtype, new Shape(inputs.Columns, inputs.Inputs)), v = lab.Rows(dtype, rows, inputs.Columns), dx = lab.Output(dtype, x.Shape);
                    Tensor gradient = lab.Whole(dtype.Accumulator(), a.Shape), partial = hasGradient ? lab.Output(dtype.Accumulator(), LoraDropoutKernel.BackwardPartialShape(rows, inputs)) : default;
                    var masks = new DropoutMasks(lab.Of(DType.Int64, 77), 3, 0);
                    var results = new List<KernelResult>();
                    if (hasInput) results.Add(new("dx", dx));
                    if (hasGradient) results.Add(new("dA", gradient, false));
                    return new(() => LoraDropoutKernel.Backward(lab.Device, rows, inputs, masks, x, a, v, hasInput ? dx : default, partial, gradient), [gradient], [.. results]);
                })
                { Bytes = (hasInput ? bytes : 0) + (hasGradient ? bytes : 0), Comparison = Comparison.FewRows, ComparedRows = 1024 };
            }
        }
    }

    private static IEnumerable<KernelCase> Plain()
    {
        const double count = (double)Tokens * Hidden;
        var shape = $"{Tokens} × {Hidden}";
        yield return new("embedding forward", $"{shape} of {Vocabulary}", Narrow, Tokens, (lab, dtype, rows) =>
        {
            var vocabulary = VocabularyFor(rows);
            Tensor table = lab.Whole(dtype, new Shape(vocabulary, Hidden)), ids = lab.Of(lab.RowIntegers(rows, vocabulary)), y = lab.Output(dtype, new Shape(rows, Hidden));
            return new(() => EmbeddingKernel.Forward(lab.Device, ids, table, y, 1), [], new KernelResult("y", y));
        })
        { Bytes = (4 * count) + (4.0 * Tokens), Comparison = Comparison.FewRows };
        yield return new("embedding backward", $"{shape} of {Vocabulary}", Narrow, Tokens, (lab, dtype, rows) =>
        {
            var vocabulary = VocabularyFor(rows);
            int[] ids = lab.RowIntegers(rows, vocabulary), order = new int[rows], ends = new int[rows];
            EmbeddingKernel.SortTokens(ids, new long[rows], order, ends);
            Tensor dy = lab.Rows(dtype, rows, Hidden), gradient = lab.Whole(dtype.Accumulator(), new Shape(vocabulary, Hidden)), tokens = lab.Of(ids), sorted = lab.Of(order), segments = lab.Of(ends);
            return new(() => EmbeddingKernel.Backward(lab.Device, tokens, sorted, segments, dy, gradient, 1), [], new KernelResult("dE", gradient, false));
        })
        { Bytes = (2 * count) + (2 * 4 * count) + (12.0 * Tokens), Comparison = Comparison.FewRows };
        yield return new("dropout", shape, Narrow, Tokens, (lab, dtype, rows) =>
        {
            Tensor x = lab.Rows(dtype, rows, Hidden), y = lab.Output(dtype, x.Shape), seed = lab.Of(DType.Int64, 77);
            var kernel = new DropoutKernel(0.1);
            return new(() => kernel.Apply(lab.Device, x, y, new(seed, 3, 0)), [], new KernelResult("y", y));
        })
        { Bytes = 4 * count, Comparison = Comparison.FewRows };
        yield return new("dropout, added", shape, Narrow, Tokens, (lab, dtype, rows) =>
        {
            Tensor x = lab.Rows(dtype, rows, Hidden), y = lab.Rows(dtype, rows, Hidden), seed = lab.Of(DType.Int64, 77);
            var kernel = new DropoutKernel(0.1);
            return new(() => kernel.AddTo(lab.Device, x, y, new(seed, 3, 0)), [y], new KernelResult("y", y));
        })
        { Bytes = 6 * count, Comparison = Comparison.FewRows };
        yield return new("add_to", shape, Narrow, Tokens, (lab, dtype, rows) =>
        {
            Tensor x = lab.Rows(dtype, rows, Hidden), y = lab.Rows(dtype, rows, Hidden);
            return new(() => ElementwiseKernel.AddTo(lab.Device, x, y), [y], new KernelResult("y", y));
        })
        { Bytes = 6 * count };
        foreach (var (from, to) in ((DType, DType)[])[(DType.Float32, Narrow), (Narrow, DType.Float32)])
        {
            yield return new($"convert {from} to {to}", shape, to, Tokens, (lab, _, rows) =>
            {
                Tensor x = lab.Rows(from, rows, Hidden), y = lab.Output(to, x.Shape);
                return new(() => ElementwiseKernel.Convert(lab.Device, x, y), [], new KernelResult("y", y));
            })
            { Bytes = 6 * count, HasDouble = false };
        }
        yield return new("bias gradient (column sum)", $"{Tokens} × {Projected}", Narrow, Tokens, (lab, dtype, rows) =>
        {
            Tensor x = lab.Rows(dtype, rows, Projected), partial = lab.Output(dtype.Accumulator(), ColumnSumKernel.PartialShape(rows, Projected)), gradient = lab.Whole(dtype.Accumulator(), new Shape(Projected));
            return new(() => ColumnSumKernel.Add(lab.Device, rows, x, partial, gradient), [gradient], new KernelResult("db", gradient, false));
        })
        { Bytes = 2.0 * Tokens * Projected, Comparison = Comparison.FewRows, ComparedRows = 1024 };
    }

    // Few rows are compared in fp64 on the processor, which has no need of a table of four gigabytes.
    private static int VocabularyFor(int rows) => rows == Tokens ? Vocabulary : 512;
}
