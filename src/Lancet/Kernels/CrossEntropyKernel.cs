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
/// The gradient needs the logits a second time: on a GPU as many of a large vocabulary's blocks as fit stay in the program's scratch memory until then, or all of them where a cluster of programs can
/// share the row. There each thread keeps one maximum and sum, so that sums are added in another order than in <see cref="Forward"/> and on the processor.
/// </summary>
/// <param name="vocabulary">Columns.</param>
/// <param name="scale">s.</param>
/// <param name="softCap">c, or 0 for none.</param>
public sealed class CrossEntropyKernel(int vocabulary, double scale, double softCap)
{
    private const int LargeVocabulary = 32768;
    private const int LargeBlock = 16384;
    private const int LargestCluster = 8;
    // What a GPU takes of each program's shared memory.
    private const int ReservedBytes = 1024;
    // Of shared memory, beside the blocks: what a program's threads and a cluster's programs tell each other.
    private const int ReductionBytes = 2048;
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
        Kernels[new(vocabulary, scale, softCap, logits.DType, false, new(1, 1, 0))], new Grid((int)labels.Count), [logits, labels, losses, losses]);

    /// <summary>Losses, and the gradient in place of the logits.</summary>
    /// <param name="device">Device.</param>
    /// <param name="logits">[rows, vocabulary], overwritten by their gradient.</param>
    /// <param name="labels">int32 [rows].</param>
    /// <param name="losses">[rows] in the accumulator's type, not scaled.</param>
    /// <param name="gradientScale">g: one number in the accumulator's type, 1 / label tokens of the step.</param>
    public void ForwardBackward(Device device, Tensor logits, Tensor labels, Tensor losses, Tensor gradientScale)
    {
        var sharing = Share(device.PlanTarget, logits.DType);
        device.Launch(Kernels[new(vocabulary, scale, softCap, logits.DType, true, sharing)], new Grid((int)labels.Count * sharing.Cluster), [logits, labels, losses, gradientScale]);
    }

    /// <summary>
    /// A row is one program's, which has a multiprocessor to itself, as long as that keeps all blocks; a longer one is a cluster's where there are any. In fp32 two programs share a multiprocessor, so that one
    /// reads while the other waits or writes. In 16 bits, where arithmetic takes a larger part of the time, that is slower, and so are clusters that leave a good part of the memory empty or compute a soft cap twice.
    /// </summary>
    private RowSharing Share(PlanTarget target, DType dtype)
    {
        if (!target.IsCuda || vocabulary <= LargeVocabulary) return new(1, 1, 0);
        var size = dtype.SizeInBytes();
        int MostKept(int programs) => ((target.SharedMemoryPerProgram + ReservedBytes) / programs - ReservedBytes - ReductionBytes) / (LargeBlock / programs * size);
        var alone = new RowSharing(1, 1, Math.Min(MostKept(1), (vocabulary - 1) / LargeBlock));
        if (!target.HasClusters || softCap != 0 || vocabulary <= (alone.KeptBlocks + 1) * LargeBlock) return alone;
        var programs = size == 2 ? 1 : 2;
        var (block, room) = (LargeBlock / programs, (MostKept(programs) + 1) * (LargeBlock / programs));
        var cluster = 2;
        while (vocabulary / cluster > room && cluster < LargestCluster) cluster *= 2;
        var columns = vocabulary / cluster;
        var isEven = vocabulary % (cluster * 16 / size) == 0;
        return isEven && columns <= room && (size == 4 || columns >= 0.75 * room) ? new(cluster, programs, (columns - 1) / block) : alone;
    }

    private static Kernel Trace(Choice choice) => Kernel.Trace(choice.HasGradient ? "cross_entropy_forward_backward" : "cross_entropy_forward", k =>
    {
        var accumulator = choice.DType.Accumulator();
        var logits = k.Pointer(choice.DType, "logits");
        var labels = k.Pointer(DType.Int32, "labels");
        var losses = k.Pointer(accumulator, "losses");
        var gradientScale = k.Pointer(accumulator, "gradient_scale");
        // A block of height × width elements, one row of lanes below the other, which a thread reduces over the height by itself. Large vocabularies:
        // 1024 threads a multiprocessor, and a row of lanes is 16 bytes a thread.
        var (isLarge, size) = (choice.Vocabulary > LargeVocabulary, choice.DType.SizeInBytes());
        var (cluster, programs, keptBlocks) = choice.Sharing;
        (k.Warps, k.Cluster, k.ProgramsPerMultiprocessor) = (isLarge ? 32 / programs : 8, cluster, programs);
        var (height, width) = isLarge ? (size, LargeBlock / programs / size) : (1, Math.Min(2048, Blocks.PowerOfTwo(choice.Vocabulary)));
        var block = height * width;
        // All blocks but the last are whole. The first ones are kept in scratch memory, the last one in registers, and those between are read twice.
        var (kept, last) = (keptBlocks * block, (choice.Columns - 1) / block * block);
        // With blocks in scratch memory a lane is a thread, which also reduces the 16 bytes by itself.
        var isNarrow = kept > 0;
        var piece = isNarrow ? 16 / size : 1;
        var lanes = width / piece;
        var column = (k.Range(height) * width).AsColumn() + (k.Range(lanes) * piece).AsRow();
        if (isNarrow) column = column.AsColumn() + k.Range(piece).AsRow().AsRow();
        Tile.Tile Reduced(Func<Tile.Tile, int, Tile.Tile> reduce, Tile.Tile value) => isNarrow ? reduce(reduce(value, 0), 1) : reduce(value, 0);
        Tile.Tile Spread(Tile.Tile ofLanes) => isNarrow ? ofLanes.AsRow().AsColumn() : ofLanes.AsRow();
        var inLast = last + column < choice.Columns;
        var start = logits + k.ProgramId(0).ToInt64() * choice.Columns;
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
        var (row, member) = cluster == 1 ? (k.ProgramId(0), k.Constant(DType.Int32, 0)) : (k.ProgramId(0) / cluster, k.ProgramId(0) % cluster);
        var label = k.Load(labels + row);
        var factor = choice.HasGradient ? k.Load(gradientScale) : null;
        if (factor is not null && choice.Scale != 1) factor *= choice.Scale;
        // Where it is among the program's columns, and whether it is.
        var labelColumn = label - member * choice.Columns;
        var hasLabel = cluster == 1 ? null : (labelColumn >= 0) & (labelColumn < choice.Columns);

        // The last block, the label's score, the program's largest score and the sum of powers to it.
        Tile.Tile[] Read()
        {
            for (var first = block; first < kept; first += block) Keep(first);
            var target = Score(k.Load(start + labelColumn, hasLabel));
            // Missing columns are −∞, whose power is 0; a soft cap would turn that into −c, so they are masked after it.
            var logit = k.Load(start + (last + column), inLast, double.NegativeInfinity);
            var running = nothing;
            for (var first = 0; first < kept; first += block)
            {
                k.AwaitCopies((kept - first) / block - 1);
                running = Add(running, Score(k.Load(scratch! + (first + column))));
            }
            running = k.For(kept, last, block, running, (first, carried) => Add(carried, Score(k.Load(start + (first + column)))));
            running = Add(running, OfLast(logit));
            var largest = isBounded ? bound : ReduceMax(running[0]);
            return [logit, target, largest, isBounded ? Sum(running[0]) : Sum(running[1] * Exp2(running[0] - largest))];
        }

        Tile.Tile OfLast(Tile.Tile logit) => choice.SoftCap != 0 ? Select(inLast, Score(logit), double.NegativeInfinity) : Score(logit);

        void Write(Tile.Tile logit, Tile.Tile target, Tile.Tile largest, Tile.Tile sum)
        {
            var score = OfLast(logit);
            var logOfPowers = Log2(sum);
            var logSum = largest + logOfPowers;
            k.Store(losses + row, (largest - target * scoreUnit + logOfPowers) * (1 / Log2E), hasLabel);
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
            k.Store(start + labelColumn, Gradient(target, Power(target, logSum) - 1), hasLabel);
        }

        if (cluster == 1)
        {
            k.If(label >= 0, () =>
            {
                var read = Read();
                Write(read[0], read[1], read[2], read[3]);
            });
        }
        else
        {
            var zero = k.Zeros(accumulator);
            var read = k.If(label >= 0, [k.Zeros(choice.DType, column.Dimensions), zero, zero, zero], Read);
            var gathered = k.Gather([read[2], read[3]]);
            var largest = ReduceMax(gathered[0]);
            var sum = Sum(gathered[1] * Exp2(gathered[0] - largest));
            k.If(label >= 0, () => Write(read[0], read[1], largest, sum));
        }
        k.If(label < 0, () =>
        {
            k.Store(losses + row, k.Zeros(accumulator), cluster == 1 ? null : member.EqualTo(0));
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

    /// <summary>How a row lies on a GPU.</summary>
    /// <param name="Cluster">Programs that share it.</param>
    /// <param name="ProgramsPerMultiprocessor">Programs at a time.</param>
    /// <param name="KeptBlocks">Blocks that each keeps in scratch memory.</param>
    private readonly record struct RowSharing(int Cluster, int ProgramsPerMultiprocessor, int KeptBlocks);

    private readonly record struct Choice(int Vocabulary, double Scale, double SoftCap, DType DType, bool HasGradient, RowSharing Sharing)
    {
        /// <summary>Columns of a program.</summary>
        public int Columns => Vocabulary / Sharing.Cluster;
    }
}
