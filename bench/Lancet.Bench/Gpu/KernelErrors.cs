using System.Runtime.InteropServices;
using Lancet.Devices;
using Lancet.Devices.Cpu;
using Lancet.Devices.Cuda;
using Lancet.Kernels;
using Lancet.Layers;
using Lancet.Models;
using Lancet.Planning;
using Lancet.Quantization;
using Lancet.Tensors;
using Lancet.Tile;
using Lancet.Training;

namespace Lancet.Bench.Gpu;

/// <summary>
/// DESIGN 4's rule: each kernel's error against float64 may be at most that of the usual PyTorch implementation in the same dtype. This
/// half runs Lancet's kernels and writes inputs and results; bench/peers/kernel_errors.py computes PyTorch's results, the fp64 ones, and
/// both errors.
/// </summary>
internal static class KernelErrors
{
    private const DType Narrow = DType.BFloat16;
    private const int Rows = 512;

    private static readonly (string Name, string Kind, Action<ErrorCase> Run)[] s_cases =
    [
        ("RMSNorm", "rms_norm", c => Norm(c, 4096, false)),
        ("RMSNorm 1 + w", "rms_norm", c => Norm(c, 2304, true)),
        ("rotary", "rotary", Rotary),
        ("SwiGLU", "gated", c => Gated(c, GatedActivation.Silu)),
        ("GeGLU tanh", "gated", c => Gated(c, GatedActivation.GeluTanh)),
        ("GeGLU erf", "gated", c => Gated(c, GatedActivation.Gelu)),
        ("cross-entropy, bf16 logits", "cross_entropy", c => CrossEntropy(c, Narrow, 0)),
        ("cross-entropy, fp32 logits", "cross_entropy", c => CrossEntropy(c, DType.Float32, 0)),
        ("cross-entropy, bf16 logits, soft cap", "cross_entropy", c => CrossEntropy(c, Narrow, 30)),
        ("cross-entropy, bf16 logits, 128256 columns", "cross_entropy", c => CrossEntropy(c, Narrow, 0, 24, 128256)),
        ("cross-entropy, fp32 logits, 128256 columns", "cross_entropy", c => CrossEntropy(c, DType.Float32, 0, 24, 128256)),
        ("attention d 128", "attention", c => Attention(c, new(8, 2, 128, 1 / Math.Sqrt(128), 0), 0)),
        ("attention d 64", "attention", c => Attention(c, new(6, 2, 64, 1 / Math.Sqrt(64), 0), 0)),
        ("attention d 128, window", "attention", c => Attention(c, new(8, 2, 128, 1 / Math.Sqrt(128), 0), 100)),
        ("attention d 256, soft cap", "attention", c => Attention(c, new(4, 2, 256, 1.0 / 16, 50), 0)),
        ("embedding, scaled", "embedding", Embedding),
        ("dropout", "dropout", Dropout),
        ("add_to", "add_to", AddTo),
        ("bias gradient", "column_sum", ColumnSum),
        ("NF4 dequantise", "nf4", Nf4),
        ("AdamW fp32", "adamw", AdamW),
        ("gradient norm", "norm", GradientNorm),
        ("product, Device.MatMul", "product", c => Product(c, false)),
        ("product, tile language", "product", c => Product(c, true)),
        ("LoRA linear", "lora", c => Linear(c)),
        ("LoRA linear, bordered", "lora", c => Linear(c, isBordered: true)),
        ("LoRA linear, dropout", "lora", c => Linear(c, dropout: 0.1)),
        ("LoRA linear, bordered, dropout", "lora", c => Linear(c, isBordered: true, dropout: 0.1)),
        ("DoRA linear", "dora", c => Linear(c, usesDora: true)),
        ("DoRA linear, bordered", "dora", c => Linear(c, usesDora: true, isBordered: true)),
        ("DoRA linear, bordered, product kept", "dora", c => Linear(c, usesDora: true, isBordered: true, keepsProduct: true)),
        ("LoRA v and dB", "lora_backward", LoraBackward),
    ];

    /// <summary>Runs the kernels and writes the files.</summary>
    public static int Run(Arguments arguments)
    {
        var folder = arguments.Text("--folder") ?? Path.Combine(Path.GetTempPath(), "lancet-kernel-errors");
        if (arguments.Text("--device") != "cpu" && !CudaPlatform.Current.IsReady)
        {
            Console.Error.WriteLine($"no GPU: {CudaPlatform.Current.Message}");
            return 3;
        }
        Directory.CreateDirectory(folder);
        foreach (var old in Directory.EnumerateFiles(folder, "*.safetensors")) File.Delete(old);
        using Device device = arguments.Text("--device") == "cpu" ? new CpuDevice() : new CudaDevice();
        var result = 0;
        foreach (var (name, kind, run) in s_cases.Where(item => arguments.Selects(item.Name)))
        {
            try
            {
                using var test = new ErrorCase(device, folder, name, kind);
                run(test);
                test.Save();
            }
            catch (Exception error) when (error is LancetException or TileException or NotImplementedException or InvalidOperationException or ArgumentException)
            {
                Console.WriteLine($"{name}: failed: {error.Message}");
                result = 1;
                if (error is CudaException { Code: >= 700 and < 800 }) break;
            }
        }
        Console.WriteLine($"{device.Name}: inputs and results in {folder}; next: python3 bench/peers/kernel_errors.py {folder}");
        return result;
    }

    private static void Norm(ErrorCase c, int columns, bool isPlusOne)
    {
        var kernel = new NormKernel(columns, 1, 1e-5, isPlusOne ? NormKind.RootMeanSquarePlusOne : NormKind.RootMeanSquare);
        Tensor x = c.In("x", c.Lab.Rows(Narrow, Rows, columns, 2)), w = c.In("w", c.Lab.Whole(DType.Float32, new Shape(columns), 0.5, isPlusOne ? 0 : 1)), dy = c.In("dy", c.Lab.Rows(Narrow, Rows, columns));
        Tensor y = c.Lab.Output(Narrow, x.Shape), rstd = c.Lab.Output(DType.Float32, new Shape(Rows)), dx = c.Lab.Output(Narrow, x.Shape), partial = c.Lab.Output(DType.Float32, kernel.PartialShape(Rows));
        var dw = c.Lab.Empty(DType.Float32, new Shape(columns));
        kernel.Forward(c.Device, Rows, x, w, y, rstd);
        kernel.BackwardWeight(c.Device, Rows, dy, x, rstd, partial, dw);
        kernel.Backward(c.Device, Rows, dy, x, w, rstd, dx, false);
        c.Parameter("epsilon", 1e-5);
        c.Parameter("plus_one", isPlusOne ? 1 : 0);
        c.Out("y", y);
        c.Out("dx", dx);
        c.Out("dw", dw);
    }

    private static void Rotary(ErrorCase c)
    {
        const int heads = 10, dimension = 128, half = dimension / 2;
        var angles = new double[Rows * half];
        for (var i = 0; i < angles.Length; i++) angles[i] = i / half * Math.Pow(500000, -(i % half) / (double)half);
        Tensor cos = c.In("cos", c.Lab.Of(DType.Float32, Array.ConvertAll(angles, Math.Cos)).Reshape(new Shape(Rows, half))), sin = c.In("sin", c.Lab.Of(DType.Float32, Array.ConvertAll(angles, Math.Sin)).Reshape(new Shape(Rows, half)));
        Tensor x = c.In("x", c.Lab.Rows(Narrow, Rows, heads * dimension, 2)), dy = c.In("dy", c.Lab.Rows(Narrow, Rows, heads * dimension)), positions = c.Lab.Of(c.Lab.Positions(Rows, Rows));
        var kernel = new RotaryKernel(heads, dimension, dimension);
        kernel.Apply(c.Device, Rows, x, positions, cos, sin, false);
        kernel.Apply(c.Device, Rows, dy, positions, cos, sin, true);
        c.Parameter("heads", heads);
        c.Out("y", x);
        c.Out("dx", dy);
    }

    private static void Gated(ErrorCase c, GatedActivation activation)
    {
        const int width = 3072;
        var kernel = new GatedActivationKernel(activation, width);
        Tensor x = c.In("x", c.Lab.Rows(Narrow, Rows, 2 * width, 4)), dy = c.In("dy", c.Lab.Rows(Narrow, Rows, width)), y = c.Lab.Output(Narrow, dy.Shape);
        kernel.Forward(c.Device, Rows, x, y);
        kernel.Backward(c.Device, Rows, x, dy);
        c.Parameter("activation", (int)activation);
        c.Out("y", y);
        c.Out("dx", x);
        c.Out("y_again", dy);
    }

    private static void CrossEntropy(ErrorCase c, DType dtype, double softCap, int rows = 128, int vocabulary = 32000)
    {
        var x = c.In("x", c.Lab.Rows(dtype, rows, vocabulary, 8));
        Tensor labels = c.In("labels", c.Lab.Of(c.Lab.RowIntegers(rows, vocabulary))), losses = c.Lab.Output(DType.Float32, new Shape(rows)), scale = c.Lab.Of(DType.Float32, 1.0 / rows);
        new CrossEntropyKernel(vocabulary, 1, softCap).ForwardBackward(c.Device, x, labels, losses, scale);
        c.Parameter("soft_cap", softCap);
        c.Out("losses", losses);
        c.Out("dx", x);
    }

    private static void Attention(ErrorCase c, AttentionShape shape, int window)
    {
        int[] offsets = [0, 512, 800, 816, 1024], lengths = [.. offsets.Skip(1).Zip(offsets, (end, start) => end - start)];
        var tokens = lengths.Sum();
        int queryColumns = shape.QueryHeads * shape.HeadDimension, keyColumns = shape.KeyValueHeads * shape.HeadDimension;
        var intervals = AttentionIntervals.Of(offsets, window, values => c.Lab.Of(values));
        Tensor x = c.In("qkv", c.Lab.Rows(Narrow, tokens, queryColumns + (2 * keyColumns), 2)), dy = c.In("dy", c.Lab.Rows(Narrow, tokens, queryColumns));
        Tensor o = c.Lab.Output(Narrow, dy.Shape), log = c.Lab.Output(DType.Float32, new Shape(shape.QueryHeads, tokens)), dx = c.Lab.Output(Narrow, x.Shape);
        ColumnSlice q = ColumnSlice.Of(x, 0), k = ColumnSlice.Of(x, queryColumns), v = ColumnSlice.Of(x, queryColumns + keyColumns);
        var kernel = new AttentionKernel(shape);
        kernel.Forward(c.Device, q, k, v, intervals, o, log);
        kernel.Backward(c.Device, q, k, v, intervals, o, log, dy, kernel.Workspace(c.Device, Narrow, tokens, c.Lab.Output), ColumnSlice.Of(dx, 0), ColumnSlice.Of(dx, queryColumns), ColumnSlice.Of(dx, queryColumns + keyColumns));
        c.In("offsets", c.Lab.Of(offsets));
        foreach (var (key, value) in ((string, double)[])[("heads", shape.QueryHeads), ("key_heads", shape.KeyValueHeads), ("dimension", shape.HeadDimension), ("scale", shape.Scale), ("soft_cap", shape.SoftCap), ("window", window)])
            c.Parameter(key, value);
        c.Out("o", o);
        c.Out("dqkv", dx);
    }

    private static void Embedding(ErrorCase c)
    {
        const int vocabulary = 100, columns = 2304;
        double scale = (float)(BFloat16)(float)Math.Sqrt(columns);
        int[] ids = c.Lab.RowIntegers(Rows, vocabulary), order = new int[Rows], ends = new int[Rows];
        EmbeddingKernel.SortTokens(ids, new long[Rows], order, ends);
        Tensor table = c.In("table", c.Lab.Whole(Narrow, new Shape(vocabulary, columns))), dy = c.In("dy", c.Lab.Rows(Narrow, Rows, columns)), tokens = c.In("ids", c.Lab.Of(ids));
        Tensor y = c.Lab.Output(Narrow, dy.Shape), gradient = c.Lab.Empty(DType.Float32, table.Shape);
        EmbeddingKernel.Forward(c.Device, tokens, table, y, scale);
        EmbeddingKernel.Backward(c.Device, tokens, c.Lab.Of(order), c.Lab.Of(ends), dy, gradient, scale);
        c.Parameter("scale", scale);
        c.Out("y", y);
        c.Out("dtable", gradient);
    }

    private static void Dropout(ErrorCase c)
    {
        Tensor x = c.In("x", c.Lab.Rows(Narrow, Rows, 4096)), y = c.Lab.Output(Narrow, x.Shape);
        new DropoutKernel(0.1).Apply(c.Device, x, y, new(c.Lab.Of(DType.Int64, 77), 3, 0));
        c.Parameter("probability", 0.1);
        c.Out("y", y);
    }

    private static void AddTo(ErrorCase c)
    {
        Tensor x = c.In("x", c.Lab.Rows(Narrow, Rows, 4096)), y = c.In("y", c.Lab.Rows(Narrow, Rows, 4096));
        ElementwiseKernel.AddTo(c.Device, x, y);
        c.Out("y", y);
    }

    private static void ColumnSum(ErrorCase c)
    {
        Tensor x = c.In("x", c.Lab.Rows(Narrow, Rows, 4096)), partial = c.Lab.Output(DType.Float32, ColumnSumKernel.PartialShape(Rows, 4096)), gradient = c.Lab.Empty(DType.Float32, new Shape(4096));
        ColumnSumKernel.Add(c.Device, Rows, x, partial, gradient);
        c.Out("sum", gradient);
    }

    private static void Nf4(ErrorCase c)
    {
        const int columns = 4096;
        Tensor weight = c.Lab.Rows(Narrow, Rows, columns, 0.05), back = c.Lab.Output(Narrow, weight.Shape);
        var (codes, scales, nested) = Nf4Kernel.Sizes(weight.Count);
        var table = c.Lab.Empty(DType.Float32, new Shape(256));
        c.Device.CopyFromHost(MemoryMarshal.AsBytes<float>(DynamicCode.Signed), table);
        var nf4 = new Nf4Weight(Rows, columns, c.Lab.Output(DType.UInt8, new Shape(codes)), c.Lab.Output(DType.UInt8, new Shape(scales)), c.Lab.Output(DType.Float32, new Shape(nested)), table, c.Lab.Output(DType.Float32, new Shape(1)));
        Nf4Kernel.Quantize(c.Device, weight, nf4, c.Lab.Empty(DType.Float32, new Shape(scales)));
        Nf4Kernel.Dequantize(c.Device, nf4, back);
        c.In("codes", nf4.Codes);
        c.In("scales", nf4.AbsMaxCodes);
        c.In("nested", nf4.NestedAbsMax);
        c.In("table", table);
        c.In("offset", nf4.NestedOffset);
        c.Out("values", back);
    }

    private static void AdamW(ErrorCase c)
    {
        const int count = 1 << 20, step = 10;
        const double rate = 1e-3;
        var shape = new Shape(count);
        Tensor p = c.In("p", c.Lab.Whole(DType.Float32, shape)), g = c.In("g", c.Lab.Whole(DType.Float32, shape)), m = c.In("m", c.Lab.Whole(DType.Float32, shape)), v = c.In("v", c.Lab.Whole(DType.Float32, shape, 0.5, 0.5));
        var kernel = new AdamWKernel(new(0.9, 0.999, 1e-8, 0.01));
        var factors = new double[AdamWKernel.StepFactorCount];
        kernel.StepFactors(rate, step, factors);
        kernel.Update(c.Device, p, g, m, v, c.Lab.Of(DType.Float32, factors), c.Lab.Of(DType.Float32, 1), count);
        c.Parameter("rate", rate);
        c.Parameter("step", step);
        c.Out("p", p);
        c.Out("m", m);
        c.Out("v", v);
    }

    private static void GradientNorm(ErrorCase c)
    {
        var g = c.In("g", c.Lab.Whole(DType.Float32, new Shape(1 << 22)));
        Tensor norm = c.Lab.Output(DType.Float32, new Shape(1)), clip = c.Lab.Output(DType.Float32, new Shape(1));
        GradientNormKernel.Compute(c.Device, g, 1, c.Lab.Output(DType.Float32, new Shape(GradientNormKernel.MaxShares)), norm, clip);
        c.Out("norm", norm);
        c.Out("clip", clip);
    }

    private static void Product(ErrorCase c, bool isTile)
    {
        const int m = 512, n = 1024, k = 4096;
        Tensor a = c.In("a", c.Lab.Rows(Narrow, m, k)), b = c.In("b", c.Lab.Rows(Narrow, n, k)), y = c.Lab.Output(Narrow, new Shape(m, n));
        var product = new MatMul { M = m, N = n, K = k, A = new(a), B = new(b, true), C = y, Alpha = 1 };
        if (isTile) GemmKernel.Multiply(c.Device, product, GemmBlocks.Medium);
        else c.Device.MatMul(product);
        c.Out("y", y);
    }

    private static void LoraBackward(ErrorCase c)
    {
        LoraOutputs outputs = new(4096, 4096, 4096, 16);
        var partial = LoraBackwardKernel.PartialShapes(Rows, outputs, c.Device.PlanTarget);
        Tensor dy = c.In("dy", c.Lab.Rows(Narrow, Rows, outputs.Outputs)), b = c.In("b", c.Lab.Whole(Narrow, new Shape(outputs.Outputs, outputs.Rank), 0.03)), u = c.In("u", c.Lab.Rows(Narrow, Rows, outputs.Rank));
        Tensor v = c.Lab.Output(Narrow, u.Shape), db = c.Lab.Empty(DType.Float32, b.Shape);
        LoraBackwardKernel.Run(c.Device, Rows, outputs, dy, b, u, v, 1, (c.Lab.Output(DType.Float32, partial.V), c.Lab.Output(DType.Float32, partial.B)), db);
        c.Out("v", v);
        c.Out("db", db);
    }

    // The layer itself, forward and backward, with a memory plan of its own.
    private static void Linear(ErrorCase c, bool usesDora = false, bool isBordered = false, bool keepsProduct = false, double dropout = 0)
    {
        const int inputs = 2048, outputs = 3072, rank = 16;
        Tensor x = c.In("x", c.Lab.Rows(Narrow, Rows, inputs)), dy = c.In("dy", c.Lab.Rows(Narrow, Rows, outputs)), y = c.Lab.Output(Narrow, dy.Shape), dx = c.Lab.Output(Narrow, x.Shape);
        Weight weight = new("w", new Shape(outputs, inputs), WeightRole.Projection) { Dense = c.In("w", c.Lab.Whole(Narrow, new Shape(outputs, inputs), 0.03)) };
        Weight Trained(string name, Shape shape, WeightRole role = WeightRole.Adapter) => new(name, shape, role) { IsTrained = true };
        Weight a = Trained("a", new Shape(rank, inputs)), b = Trained("b", new Shape(outputs, rank)), m = Trained("m", new Shape(outputs), WeightRole.Magnitude);
        var layer = new LoraLinear("layer", weight, null);
        layer.Attach(a, b, 2, dropout, 1, usesDora ? m : null);
        var group = new ProjectionGroup(false, layer) { KeepsProduct = keepsProduct };
        if (isBordered) group.ChooseBorder(c.Device.PlanTarget, Narrow, false);
        if (group.IsBordered) group.Store(c.Device, c.Lab.Empty(Narrow, new Shape(group.StoredElements)), default);
        using var arena = new ParameterArena(c.Device, [.. group.Adapters], Narrow, group.IsBordered ? [group.Copies()] : null);
        arena.AllocateGradients(c.Device);
        c.Device.Clear(arena.Gradients);
        foreach (var adapter in (Weight[])[a, b]) ElementwiseKernel.Convert(c.Device, c.In(adapter.Name, c.Lab.Whole(Narrow, adapter.Shape, 0.03)), arena.Master(adapter));
        if (usesDora)
        {
            c.Device.Copy(c.In("m", c.Lab.Whole(DType.Float32, m.Shape, 0.1, 0.8)), arena.Master(m));
            layer.SquaredNorms = c.Lab.Output(DType.Float32, m.Shape);
            layer.WriteSquaredNorms(c.Device, default);
        }
        arena.RefreshCopy(c.Device);
        Tensor WithRoom(Tensor tensor)
        {
            var wide = c.Lab.Output(Narrow, new Shape(Rows, tensor.Shape[1] + group.Room));
            ElementwiseKernel.ConvertRows(c.Device, Rows, (int)tensor.Shape[1], tensor, wide);
            return wide;
        }
        var seed = c.Lab.Of(DType.Int64, 77);
        var kept = c.Lab.Whole(Narrow, x.Shape, 0, 1);
        if (dropout > 0) layer.Drop(new StepContext(c.Device, new StepMemory(), Narrow) { DropoutSeed = seed }, kept, kept);
        c.In("kept", kept);
        c.Parameter("probability", dropout);
        var (wideX, wideDy) = (WithRoom(x), WithRoom(dy));
        var memory = new StepMemory();
        memory.BeginPlanning();
        using (var planning = new PlanningDevice(c.Device.PlanTarget))
        {
            Step(new StepContext(planning, memory, Narrow) { IsTraining = true, TokenCount = Rows, DropoutSeed = seed });
            memory.EndPlanning();
            c.Device.ReserveMatMulWorkspace(planning.MatMulWorkspaceBytes);
        }
        memory.Bind(c.Lab.Empty(DType.UInt8, new Shape(memory.RequiredBytes)).Address);
        memory.BeginStep();
        Step(new StepContext(c.Device, memory, Narrow) { IsTraining = true, TokenCount = Rows, DropoutSeed = seed });
        c.Parameter("scale", 2);
        c.Out("y", y);
        c.Out("dx", dx);
        foreach (var adapter in layer.Adapter) c.Out("d" + adapter.Name, adapter.Gradient);

        void Step(StepContext context)
        {
            group.Forward(context, wideX, y, default, out var u);
            var v = group.BackwardInput(context, wideX, wideDy, u, dx);
            group.BackwardWeights(context, wideX, wideDy, u, v);
        }
    }
}
