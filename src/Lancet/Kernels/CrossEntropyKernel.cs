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
/// The gradient needs the logits a second time: on a GPU as many of a large vocabulary's blocks as fit stay in the program's scratch memory until then. There
/// each thread keeps one maximum and sum, so that sums are added in another order than in <see cref="Forward"/> and on the processor.
/// </summary>
/// <param name="vocabulary">Columns.</param>
/// <param name="scale">s.</param>
/// <param name="softCap">c, or 0 for none.</param>
public sealed class CrossEntropyKernel(int vocabulary, double scale, double softCap)
{
    private const int LargeVocabulary = 32768;
    private const int LargeBlock = 16384;
    // Of shared memory, beside the blocks.
    private const int ReductionBytes = 1024;
    private const double Lowest = -1e30;
    // The smallest power of a bounded score, e^(−2c), is a normal fp32 number, and so is what it gives the sum.
    private const double LargestBound = 40;
    private const double Log2E = 1.4426950408889634;
    private static readonly KernelSet<Choice> Kernels = new(Trace);

    /// <summary>Losses only.</summary>
    /// <param name="device">Device.</param>
    /// <param name="logits">[rows, vocabulary], kept.</param>
    /// <param name="labels">int32 [rows].</param>
    /// <param name="losses">[rows] in the accumulator's type.</param>
    public void Forward(Device device, Tensor logits, Tensor labels, Tensor losses) => device.Launch(
        Kernels[new(vocabulary, scale, softCap, logits.DType, false, 0)], new Grid((int)labels.Count), [logits, labels, losses, losses]);

    /// <summary>Losses, and the gradient in place of the logits.</summary>
    /// <param name="device">Device.</param>
    /// <param name="logits">[rows, vocabulary], overwritten by their gradient.</param>
    /// <param name="labels">int32 [rows].</param>
    /// <param name="losses">[rows] in the accumulator's type, not scaled.</param>
    /// <param name="gradientScale">g: one number in the accumulator's type, 1 / label tokens of the step.</param>
    public void ForwardBackward(Device device, Tensor logits, Tensor labels, Tensor losses, Tensor gradientScale)
    {
        var target = device.PlanTarget;
        var keptBlocks = target.IsCuda && vocabulary > LargeVocabulary
            ? Math.Min((target.SharedMemoryPerProgram - ReductionBytes) / (LargeBlock * logits.DType.SizeInBytes()), (vocabulary - 1) / LargeBlock)
            : 0;
        device.Launch(Kernels[new(vocabulary, scale, softCap, logits.DType, true, keptBlocks)], new Grid((int)labels.Count), [logits, labels, losses, gradientScale]);
    }

    private static Kernel Trace(Choice choice) => Kernel.Trace(choice.HasGradient ? "cross_entropy_forward_backward" : "cross_entropy_forward", k =>
    {
        var accumulator = choice.DType.Accumulator();
        var logits = k.Pointer(choice.DType, "logits");
        var labels = k.Pointer(DType.Int32, "labels");
        var losses = k.Pointer(accumulator, "losses");
        var gradientScale = k.Pointer(accumulator, "gradient_scale");
        // A block of height × width elements, one row of lanes below the other, which a thread reduces over the height by itself. Large vocabularies: one
        // program of 1024 threads a multiprocessor, each of whose rows of lanes is 16 bytes a thread.
        var (isLarge, size) = (choice.Vocabulary > LargeVocabulary, choice.DType.SizeInBytes());
        k.Warps = isLarge ? 32 : 8;
        var (height, width) = isLarge ? (size, LargeBlock / size) : (1, Math.Min(2048, Blocks.PowerOfTwo(choice.Vocabulary)));
        var block = height * width;
        // All blocks but the last are whole. The first ones are kept in scratch memory, the last one in registers, and those between are read twice.
        var (kept, last) = (choice.KeptBlocks * block, (choice.Vocabulary - 1) / block * block);
        // With blocks in scratch memory a lane is a thread, which also reduces the 16 bytes by itself.
        var isNarrow = kept > 0;
        var piece = isNarrow ? 16 / size : 1;
        var lanes = width / piece;
        var column = (k.Range(height) * width).AsColumn() + (k.Range(lanes) * piece).AsRow();
        if (isNarrow) column = column.AsColumn() + k.Range(piece).AsRow().AsRow();
        Tile.Tile Reduced(Func<Tile.Tile, int, Tile.Tile> reduce, Tile.Tile value) => isNarrow ? reduce(reduce(value, 0), 1) : reduce(value, 0);
        Tile.Tile Spread(Tile.Tile ofLanes) => isNarrow ? ofLanes.AsRow().AsColumn() : ofLanes.AsRow();
        var inLast = last + column < choice.Vocabulary;
        var start = logits + k.ProgramId(0).ToInt64() * choice.Vocabulary;
        var scratch = isNarrow ? k.Scratch(choice.DType, kept) : null;

        // Capped scores are kept as z/c. Maxima and logarithms of sums are in units of log₂, so that e^(z − m) is one multiply-add and one power of two.
        var unit = choice.SoftCap == 0 ? 1 : choice.SoftCap;
        var scoreUnit = unit * Log2E;
        Tile.Tile Score(Tile.Tile logit)
        {
            var value = logit.ToFloat32();
            var factor = choice.Scale / unit;
            if (factor != 1) value *= factor;
            return choice.SoftCap == 0 ? value : size == 2 ? TanhAbsolute(value) : Tanh(value);
        }

        // Rounding the exponent d changes the result by |d|·2^d·2⁻²⁴ at most, which is less than a rounding of the sum.
        Tile.Tile Power(Tile.Tile score, Tile.Tile logarithm) => Exp2(score * scoreUnit - logarithm);

        // Each lane keeps its own maximum and sum Σ exp(z − m); they meet once, at the row's end. Maxima start from a number so low that its power vanishes
        // when the lanes meet. Where a soft cap bounds scores of 16-bit logits, the bound takes the maximum's place.
        var isBounded = size == 2 && choice.SoftCap is > 0 and <= LargestBound;
        var bound = k.Full(accumulator, scoreUnit);
        Tile.Tile[] nothing = isBounded ? [k.Zeros(accumulator, lanes)] : [k.Full(accumulator, Lowest, lanes), k.Zeros(accumulator, lanes)];
        Tile.Tile[] Add(Tile.Tile[] running, Tile.Tile value)
        {
            if (isBounded) return [running[0] + Reduced((x, axis) => Sum(x, axis), Power(value, bound))];
            var maximum = Max(running[0], Reduced((x, axis) => ReduceMax(x, axis), value) * scoreUnit);
            return [maximum, running[1] * Exp2(running[0] - maximum) + Reduced((x, axis) => Sum(x, axis), Power(value, Spread(maximum)))];
        }

        void Keep(int first) => k.Copy(start + (first + column), scratch! + (first + column));

        // The first block is on its way while the label is read; the others only if there is a label.
        if (isNarrow) Keep(0);
        var row = k.ProgramId(0);
        var label = k.Load(labels + row);
        k.If(label >= 0, () =>
        {
            for (var first = block; first < kept; first += block) Keep(first);
            var target = Score(k.Load(start + label));
            var factor = choice.HasGradient ? k.Load(gradientScale) : null;
            if (factor is not null && choice.Scale != 1) factor *= choice.Scale;
            // Missing columns are −∞, whose power is 0; a soft cap would turn that into −c, so they are masked after it.
            var logit = k.Load(start + (last + column), inLast, double.NegativeInfinity);
            var running = nothing;
            for (var first = 0; first < kept; first += block)
            {
                k.AwaitCopies((kept - first) / block - 1);
                running = Add(running, Score(k.Load(scratch! + (first + column))));
            }
            running = k.For(kept, last, block, running, (first, carried) => Add(carried, Score(k.Load(start + (first + column)))));
            var score = Score(logit);
            if (choice.SoftCap != 0) score = Select(inLast, score, double.NegativeInfinity);
            running = Add(running, score);
            var largest = isBounded ? bound : ReduceMax(running[0]);
            var logOfPowers = Log2(isBounded ? Sum(running[0]) : Sum(running[1] * Exp2(running[0] - largest)));
            var logSum = largest + logOfPowers;
            k.Store(losses + row, (largest - target * scoreUnit + logOfPowers) * (1 / Log2E));
            if (factor is null) return;
            Tile.Tile Gradient(Tile.Tile z, Tile.Tile difference) => (difference * (choice.SoftCap == 0 ? factor : (1 - z * z) * factor)).To(choice.DType);
            k.Store(start + (last + column), Gradient(score, Power(score, logSum)), inLast);
            // Blocks that are read again from the end, because those that were read last are the likeliest to be cached.
            k.For(0, last - kept, block, [], (distance, _) =>
            {
                var place = start + (last - block - distance + column);
                var value = Score(k.Load(place));
                k.Store(place, Gradient(value, Power(value, logSum)));
                return [];
            });
            if (scratch is not null) k.For(0, kept, block, [], (first, _) =>
            {
                var value = Score(k.Load(scratch + (first + column)));
                k.Store(start + (first + column), Gradient(value, Power(value, logSum)));
                return [];
            });
            // The label's column once more, instead of asking every column whether it is the label's.
            k.Store(start + label, Gradient(target, Power(target, logSum) - 1));
        });
        k.If(label < 0, () =>
        {
            k.Store(losses + row, k.Zeros(accumulator));
            if (!choice.HasGradient) return;
            if (isNarrow) k.AwaitCopies();
            k.For(0, last, block, [], (first, _) =>
            {
                k.Store(start + (first + column), k.Zeros(choice.DType, column.Dimensions));
                return [];
            });
            k.Store(start + (last + column), k.Zeros(choice.DType, column.Dimensions), inLast);
        });
    });

    private readonly record struct Choice(int Vocabulary, double Scale, double SoftCap, DType DType, bool HasGradient, int KeptBlocks);
}
