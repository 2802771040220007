using Lancet.Kernels;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Tests.Kernels;

/// <summary>
/// DESIGN's rule for the backward passes and the pointwise kernels: against fp64, the error is at most that of PyTorch's usual operations in
/// the same dtype, each of which rounds its result.
/// </summary>
public class RoundingRuleTests
{
    [Theory]
    [InlineData(DType.Float32, false)]
    [InlineData(DType.BFloat16, false)]
    [InlineData(DType.Float32, true)]
    [InlineData(DType.BFloat16, true)]
    public void Rotary(DType dtype, bool isInterleaved)
    {
        const int rows = 7, heads = 3, dimension = 24, half = dimension / 2;
        using var lab = new KernelLab(2);
        int[] positions = [.. Enumerable.Range(0, rows)];
        var angles = lab.Random(rows * half, 4);
        Tensor cos = lab.Of(DType.Float32, new Shape(rows, half), [.. angles.Select(Math.Cos)]), sin = lab.Of(DType.Float32, new Shape(rows, half), [.. angles.Select(Math.Sin)]);
        var x = lab.Random(dtype, new Shape(rows, heads * dimension), 2);
        double[] input = KernelLab.Values(x), exact = new double[input.Length], plain = new double[input.Length];
        for (var i = 0; i < input.Length; i++)
        {
            int row = i / (heads * dimension), at = i % dimension, lane = isInterleaved ? at / 2 : at % half, distance = isInterleaved ? 1 : half;
            var isFirst = isInterleaved ? at % 2 == 0 : at < half;
            double c = KernelLab.Get(cos, (row * half) + lane), s = KernelLab.Get(sin, (row * half) + lane), other = isFirst ? -input[i + distance] : input[i - distance];
            exact[i] = (input[i] * c) + (other * s);
            plain[i] = R(dtype, R(dtype, input[i] * R(dtype, c)) + R(dtype, other * R(dtype, s)));
        }
        new RotaryKernel(heads, dimension, dimension, isInterleaved).Apply(lab.Device, rows, x, lab.Of(positions), cos, sin, false);
        Rounding.AssertNoWorse(exact, plain, KernelLab.Values(x));
    }

    [Theory]
    [InlineData(DType.Float32, GatedActivation.Silu)]
    [InlineData(DType.BFloat16, GatedActivation.Silu)]
    [InlineData(DType.BFloat16, GatedActivation.GeluTanh)]
    [InlineData(DType.BFloat16, GatedActivation.Gelu)]
    public void Gated_activations_forward_and_backward(DType dtype, GatedActivation activation)
    {
        const int rows = 5, width = 123;
        using var lab = new KernelLab(3);
        var gateUp = lab.Random(dtype, new Shape(rows, 2 * width), 3);
        var dh = lab.Random(dtype, new Shape(rows, width));
        double[] input = KernelLab.Values(gateUp), gradient = KernelLab.Values(dh);
        double[] exact = new double[rows * width], plain = new double[rows * width], exactGradient = new double[2 * rows * width], plainGradient = new double[2 * rows * width];
        // f and f' in fp64 from the fp64 kernel, whose values and gradient other tests check.
        var (f, derivative) = Activation(lab, activation, [.. Enumerable.Range(0, rows * width).Select(i => input[(i / width * 2 * width) + (i % width)])]);
        for (var i = 0; i < rows * width; i++)
        {
            int e = (i / width * 2 * width) + (i % width), g = e + width;
            exact[i] = f[i] * input[g];
            plain[i] = R(dtype, R(dtype, f[i]) * input[g]);
            exactGradient[e] = gradient[i] * input[g] * derivative[i];
            plainGradient[e] = R(dtype, R(dtype, gradient[i] * input[g]) * derivative[i]);
            exactGradient[g] = gradient[i] * f[i];
            plainGradient[g] = R(dtype, gradient[i] * R(dtype, f[i]));
        }
        var h = lab.New(dtype, dh.Shape);
        var kernel = new GatedActivationKernel(activation, width);
        kernel.Forward(lab.Device, rows, gateUp, h);
        Rounding.AssertNoWorse(exact, plain, KernelLab.Values(h));
        kernel.Backward(lab.Device, rows, gateUp, dh);
        Rounding.AssertNoWorse(exactGradient, plainGradient, KernelLab.Values(gateUp));
    }

    [Theory]
    [InlineData(DType.Float32, NormKind.RootMeanSquare)]
    [InlineData(DType.BFloat16, NormKind.RootMeanSquare)]
    [InlineData(DType.Float32, NormKind.Layer)]
    [InlineData(DType.BFloat16, NormKind.Layer)]
    public void Norm_backward(DType dtype, NormKind kind)
    {
        const int rows = 33, columns = 123;
        const double epsilon = 1e-5;
        using var lab = new KernelLab(4);
        Tensor x = lab.Random(dtype, new Shape(rows, columns), 3), dy = lab.Random(dtype, new Shape(rows, columns)), w = lab.Random(DType.Float32, new Shape(columns));
        for (var i = 0; i < columns; i++) KernelLab.Set(w, i, (float)(BFloat16)(float)KernelLab.Get(w, i));
        var kernel = new NormKernel(columns, 1, epsilon, kind);
        Tensor y = lab.New(dtype, x.Shape), statistics = lab.New(DType.Float32, new Shape(kernel.StatisticsCount(rows))), dx = lab.New(dtype, x.Shape), dw = lab.New(DType.Float32, new Shape(columns));
        kernel.Forward(lab.Device, rows, x, w, y, statistics);
        kernel.BackwardWeight(lab.Device, rows, dy, x, statistics, lab.New(DType.Float32, kernel.PartialShape(rows)), dw);
        kernel.Backward(lab.Device, rows, dy, x, w, statistics, dx, false);

        double[] xs = KernelLab.Values(x), dys = KernelLab.Values(dy), ws = KernelLab.Values(w), exact = new double[xs.Length], plain = new double[xs.Length];
        double[] exactWeight = new double[columns], plainWeight = new double[columns];
        for (var row = 0; row < rows; row++)
        {
            var range = Enumerable.Range(row * columns, columns).ToArray();
            var isLayer = kind == NormKind.Layer;
            var center = isLayer ? range.Average(i => xs[i]) : 0;
            var r = 1 / Math.Sqrt(range.Average(i => Math.Pow(xs[i] - center, 2)) + epsilon);
            var mean = range.Average(i => dys[i] * ws[i % columns] * (xs[i] - center) * r);
            var shift = isLayer ? range.Average(i => dys[i] * ws[i % columns]) : 0;
            // Sums in fp32, as plain operations make them.
            float total = 0, square = 0, product = 0, sum = 0;
            foreach (var i in range) total += (float)xs[i];
            var single = isLayer ? total / columns : 0;
            foreach (var i in range) square += ((float)xs[i] - single) * ((float)xs[i] - single);
            var deviation = 1 / MathF.Sqrt((square / columns) + (float)epsilon);
            foreach (var i in range)
            {
                product += (float)R(dtype, dys[i] * ws[i % columns]) * (((float)xs[i] - single) * deviation);
                sum += (float)R(dtype, dys[i] * ws[i % columns]);
            }
            var (plainMean, plainShift) = (product / columns, isLayer ? sum / columns : 0);
            foreach (var i in range)
            {
                exact[i] = r * ((dys[i] * ws[i % columns]) - shift - ((xs[i] - center) * r * mean));
                plain[i] = R(dtype, deviation * ((float)R(dtype, dys[i] * ws[i % columns]) - plainShift - (((float)xs[i] - single) * deviation * plainMean)));
                exactWeight[i % columns] += dys[i] * (xs[i] - center) * r;
                plainWeight[i % columns] = (float)(plainWeight[i % columns] + R(dtype, dys[i] * R(dtype, ((float)xs[i] - single) * deviation)));
            }
        }
        Rounding.AssertNoWorse(exact, plain, KernelLab.Values(dx));
        Rounding.AssertNoWorse(exactWeight, [.. plainWeight.Select(value => R(dtype, value))], KernelLab.Values(dw));
    }

    [Theory]
    [InlineData(DType.BFloat16)]
    [InlineData(DType.Float32)]
    public void Embedding_backward(DType dtype)
    {
        const int columns = 50;
        int[] ids = [.. Enumerable.Range(0, 200).Select(i => i * i % 7)];
        using var lab = new KernelLab(5);
        var dy = lab.Random(dtype, new Shape(ids.Length, columns));
        var gradient = lab.New(DType.Float32, new Shape(7, columns));
        int[] order = new int[ids.Length], ends = new int[ids.Length];
        EmbeddingKernel.SortTokens(ids, new long[ids.Length], order, ends);
        EmbeddingKernel.Backward(lab.Device, lab.Of(ids), lab.Of(order), lab.Of(ends), dy, gradient, 1);
        double[] dys = KernelLab.Values(dy), exact = new double[7 * columns], plain = new double[7 * columns];
        for (var i = 0; i < dys.Length; i++)
        {
            var at = (ids[i / columns] * columns) + (i % columns);
            exact[at] += dys[i];
            plain[at] = R(dtype, plain[at] + dys[i]);
        }
        Rounding.AssertNoWorse(exact, plain, KernelLab.Values(gradient));
    }

    [Theory]
    [InlineData(5003, 1, 0)]
    [InlineData(5003, 0.5, 4)]
    [InlineData(40003, 1, 0)]
    [InlineData(40003, 0.5, 4)]
    public void Cross_entropy(int vocabulary, double scale, double softCap)
    {
        const int rows = 5;
        using var lab = new KernelLab(6);
        var logits = lab.Random(DType.Float32, new Shape(rows, vocabulary), 6);
        double[] x = KernelLab.Values(logits), exact = new double[x.Length], plain = new double[x.Length], exactLoss = new double[rows], plainLoss = new double[rows];
        int[] labels = [0, 4096, vocabulary - 1, 17, 2500];
        for (var row = 0; row < rows; row++)
        {
            exactLoss[row] = Row(row, exact, value => value);
            plainLoss[row] = Row(row, plain, value => (float)value);
        }
        var losses = lab.New(DType.Float32, new Shape(rows));
        new CrossEntropyKernel(vocabulary, scale, softCap).ForwardBackward(lab.Device, logits, lab.Of(labels), losses, lab.Of(DType.Float32, new Shape(1), [0.25]));
        Rounding.AssertNoWorse(exact, plain, KernelLab.Values(logits));
        Rounding.AssertNoWorse(exactLoss, plainLoss, KernelLab.Values(losses));

        double Row(int row, double[] gradient, Func<double, double> store)
        {
            double[] z = [.. x.Skip(row * vocabulary).Take(vocabulary).Select(v => store(v * scale)).Select(v => softCap == 0 ? v : store(softCap * store(Math.Tanh(store(v / softCap)))))];
            var maximum = z.Max();
            var sum = 0.0;
            foreach (var value in z) sum = store(sum + store(Math.Exp(store(value - maximum))));
            var log = store(Math.Log(sum));
            for (var i = 0; i < vocabulary; i++)
            {
                var d = store(store(store(Math.Exp(store(store(z[i] - maximum) - log))) - (i == labels[row] ? 1 : 0)) * 0.25);
                if (softCap != 0) d = store(d * store(1 - store(store(z[i] / softCap) * store(z[i] / softCap))));
                gradient[(row * vocabulary) + i] = store(d * scale);
            }
            return store(store(log + maximum) - z[labels[row]]);
        }
    }

    private static double R(DType dtype, double value) => Rounding.To(dtype, (float)value);

    private static (double[] F, double[] Derivative) Activation(KernelLab lab, GatedActivation activation, double[] e)
    {
        // With g = dh = 1 the fp64 kernel's backward pass leaves f' in place of e and f in place of g.
        var both = lab.Of(DType.Float64, new Shape(1, 2 * e.Length), [.. e, .. Enumerable.Repeat(1.0, e.Length)]);
        new GatedActivationKernel(activation, e.Length).Backward(lab.Device, 1, both, lab.Of(DType.Float64, new Shape(1, e.Length), [.. Enumerable.Repeat(1.0, e.Length)]));
        var values = KernelLab.Values(both);
        return (values[e.Length..], values[..e.Length]);
    }
}
