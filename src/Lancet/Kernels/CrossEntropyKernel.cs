using Lancet.Devices;
using Lancet.Tensors;
using Lancet.Tile;
using static Lancet.Tile.TileMath;

namespace Lancet.Kernels;

/// <summary>
/// Cross-entropy of one chunk of rows of logits, and its gradient written over them.
/// <code>
/// z = s·x     z ← c·tanh(z/c) if there is a soft cap c
/// loss = log Σⱼ exp(zⱼ) − z[label]                     0 where the label is −100
/// dx = g·(softmax(z) − onehot(label))·s·(1 − (z/c)²)   0 where the label is −100
/// </code>
/// A row's logits are read in blocks, so that the vocabulary may have any size; maxima and sums are kept online in fp32 (Milakov and Gimelshein 2018).
/// </summary>
/// <param name="vocabulary">Columns.</param>
/// <param name="scale">s.</param>
/// <param name="softCap">c, or 0 for none.</param>
public sealed class CrossEntropyKernel(int vocabulary, double scale, double softCap)
{
    private const int LargeVocabulary = 32768;
    private const double Lowest = -1e30;
    private const double Log2E = 1.4426950408889634;
    private static readonly KernelSet<Choice> Kernels = new(Trace);

    /// <summary>Losses only.</summary>
    /// <param name="device">Device.</param>
    /// <param name="logits">[rows, vocabulary], kept.</param>
    /// <param name="labels">int32 [rows].</param>
    /// <param name="losses">[rows] in the accumulator's type.</param>
    public void Forward(Device device, Tensor logits, Tensor labels, Tensor losses) => device.Launch(
        Kernels[new(vocabulary, scale, softCap, logits.DType, false)], new Grid((int)labels.Count), [logits, labels, losses, losses]);

    /// <summary>Losses, and the gradient in place of the logits.</summary>
    /// <param name="device">Device.</param>
    /// <param name="logits">[rows, vocabulary], overwritten by their gradient.</param>
    /// <param name="labels">int32 [rows].</param>
    /// <param name="losses">[rows] in the accumulator's type, not scaled.</param>
    /// <param name="gradientScale">g: one number in the accumulator's type, 1 / label tokens of the step.</param>
    public void ForwardBackward(Device device, Tensor logits, Tensor labels, Tensor losses, Tensor gradientScale) => device.Launch(
        Kernels[new(vocabulary, scale, softCap, logits.DType, true)], new Grid((int)labels.Count), [logits, labels, losses, gradientScale]);

    private static Kernel Trace(Choice choice) => Kernel.Trace(choice.HasGradient ? "cross_entropy_forward_backward" : "cross_entropy_forward", k =>
    {
        var accumulator = choice.DType.Accumulator();
        var logits = k.Pointer(choice.DType, "logits");
        var labels = k.Pointer(DType.Int32, "labels");
        var losses = k.Pointer(accumulator, "losses");
        var gradientScale = k.Pointer(accumulator, "gradient_scale");
        // Large vocabularies: one program of 1024 threads a multiprocessor, so that the rows in flight fit the L2 cache, where the second pass
        // finds them. A step reads a block of rows × width elements, one below the other, which a thread reduces over the rows by itself.
        var isLarge = choice.Vocabulary > LargeVocabulary;
        k.Warps = isLarge ? 32 : 8;
        var width = Math.Min(isLarge ? 16384 / choice.DType.SizeInBytes() : 2048, Blocks.PowerOfTwo(choice.Vocabulary));
        var rows = isLarge ? Math.Max(1, 16384 / width) : 1;
        var row = k.ProgramId(0);
        var label = k.Load(labels + row);
        var start = logits + row.ToInt64() * choice.Vocabulary;
        var (zero, end, step) = (k.Constant(DType.Int32, 0), k.Constant(DType.Int32, choice.Vocabulary), k.Constant(DType.Int32, rows * width));
        var column = (k.Range(rows) * width).AsColumn() + k.Range(width).AsRow();

        Tile.Tile Read(Tile.Tile first, double other)
        {
            var value = k.Load(start + (first + column), first + column < choice.Vocabulary, other).ToFloat32();
            if (choice.Scale != 1) value *= choice.Scale;
            return choice.SoftCap == 0 ? value : choice.SoftCap * Tanh(value / choice.SoftCap);
        }

        k.If(label < 0, () =>
        {
            k.Store(losses + row, k.Zeros(accumulator));
            if (choice.HasGradient) k.For(zero, end, step, [], (first, _) =>
            {
                k.Store(start + (first + column), k.Zeros(choice.DType, rows, width), first + column < choice.Vocabulary);
                return [];
            });
        });
        k.If(label >= 0, () =>
        {
            // Each of the width lanes keeps its own maximum and sum Σ exp(z − m); they meet once, after the loop. Maxima start from a number so low
            // that its power vanishes when the lanes meet. Missing columns are −∞, whose power is 0; a soft cap would turn that into −c, so they are masked after it.
            var running = k.For(zero, end, step, [k.Full(accumulator, Lowest, width), k.Zeros(accumulator, width)], (first, carried) =>
            {
                var value = Read(first, double.NegativeInfinity);
                if (choice.SoftCap != 0) value = Select(first + column < choice.Vocabulary, value, double.NegativeInfinity);
                var maximum = Max(carried[0], ReduceMax(value, 0));
                return [maximum, carried[1] * Power(carried[0] - maximum) + Sum(Power(value - maximum.AsRow()), 0)];
            });
            var largest = ReduceMax(running[0]);
            var logSum = largest + Log(Sum(running[1] * Power(running[0] - largest)));
            var target = k.Load(start + label).ToFloat32();
            if (choice.Scale != 1) target *= choice.Scale;
            if (choice.SoftCap != 0) target = choice.SoftCap * Tanh(target / choice.SoftCap);
            k.Store(losses + row, logSum - target);
            if (!choice.HasGradient) return;
            var factor = k.Load(gradientScale);
            if (choice.Scale != 1) factor *= choice.Scale;
            Tile.Tile Slope(Tile.Tile z) => choice.SoftCap == 0 ? factor : (1 - z * z * (1 / (choice.SoftCap * choice.SoftCap))) * factor;
            // From the end, because the blocks that were read last are the likeliest to be cached.
            var last = (choice.Vocabulary - 1) / (rows * width) * (rows * width);
            k.For(zero, end, step, [], (distance, _) =>
            {
                var first = last - distance;
                var value = Read(first, 0);
                k.Store(start + (first + column), (Power(value - logSum) * Slope(value)).To(choice.DType), first + column < choice.Vocabulary);
                return [];
            });
            // The label's column once more, instead of asking every column whether it is the label's.
            k.Store(start + label, ((Power(target - logSum) - 1) * Slope(target)).To(choice.DType));
        });
    });

    // e^d for d ≤ 0 as 2^(d·log₂e): rounding the product changes the result by |d|·e^d·2⁻²⁴ at most, which is less than a rounding of the sum.
    private static Tile.Tile Power(Tile.Tile d) => Exp2(d * Log2E);

    private readonly record struct Choice(int Vocabulary, double Scale, double SoftCap, DType DType, bool HasGradient);
}
