using Lancet.Devices;
using Lancet.Kernels;
using Lancet.Models;
using Lancet.Planning;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Layers;

/// <summary>
/// Final norm and output head with cross-entropy, for one chunk of tokens at a time, so that the logits of a batch never exist together.
/// <code>
/// forward and backward of a chunk    z = n·Wᵀ    loss of s·z, dz over z    dW += dzᵀ·n    dn = dz·W over n
/// </code>
/// The gradient of the head's input is ready when the loss is; nothing of the head is kept. Rows without a label have neither loss nor gradient: they are left out, as far as the
/// number of rows is rounded. Logits and their gradient are in the compute
/// dtype, as under PyTorch's autocast; losses and the sums inside the softmax are fp32.
/// </summary>
public sealed class LanguageModelHead
{
    private const long ChunkBytes = 64 << 20;
    private const long CudaChunkBytes = 256 << 20;
    private const int EnoughRows = 1024;
    private const int NarrowHidden = 3072;

    // What such rows may take of a GPU's memory, one part of so many.
    private const int MemoryShare = 20;
    private readonly ModelConfig _config;
    private readonly CrossEntropyKernel _crossEntropy;

    internal LanguageModelHead(ModelConfig config, Weight embedding, WeightList weights)
    {
        _config = config;
        Norm = weights.Norm(config.WeightPrefix + "norm", config);
        Weight = config.TiesWordEmbeddings ? embedding : weights.Add(new Weight("lm_head.weight", new Shape(config.VocabularySize, config.HiddenSize), WeightRole.Head));
        _crossEntropy = new CrossEntropyKernel(config.VocabularySize, config.LogitScale, config.LogitSoftCap);
    }

    /// <summary>Norm of the last layer's output.</summary>
    public Norm Norm { get; }

    /// <summary>Head [vocabulary, hidden]; the embedding itself where they are tied.</summary>
    public Weight Weight { get; private set; }

    /// <summary>Makes the head a weight of its own, for now with the embedding's memory.</summary>
    internal Weight Untie() => Weight = new Weight("lm_head.weight", Weight.Shape, WeightRole.Head) { Dense = Weight.Dense, RowStride = Weight.RowStride };

    /// <summary>Losses of the head's rows, and the gradient of the stream in a new buffer.</summary>
    /// <param name="c">The step; its labels and loss scale are read.</param>
    /// <param name="x">Output of the last layer.</param>
    /// <param name="losses">In the accumulator's type; as many are written as the head has rows, see <see cref="StepContext.HeadRows"/>.</param>
    /// <param name="room">Columns behind each row of the gradient.</param>
    internal Tensor ForwardBackward(StepContext c, Tensor x, Tensor losses, int room)
    {
        var d = c.Activations(MemoryPurpose.Workspace, _config.HiddenSize + room);
        var normed = c.Activations(MemoryPurpose.Workspace, _config.HiddenSize);
        var total = c.HeadRows;
        var isChosen = total < c.TokenCount;
        var rstd = isChosen ? Norm.ForwardLabelled(c, x, normed) : Norm.Forward(c, x, normed);
        var buffer = AllocateChunk(c, total, out var size);
        for (var start = 0; start < total; start += size)
        {
            var count = Math.Min(size, total - start);
            var (rows, logits) = (normed.Rows(start, count), buffer.Rows(0, count));
            Logits(c, rows, logits);
            _crossEntropy.ForwardBackward(c.Device, logits, c.Labels.Rows(start, count), losses.Rows(start, count), c.LossScale);
            if (Weight.IsTrained)
                c.Device.MatMul(new MatMul { M = _config.VocabularySize, N = _config.HiddenSize, K = count, A = new(logits, true), B = new(rows, false, normed.Shape[1]), C = Weight.Gradient, Alpha = 1, Beta = 1 });
            c.Device.MatMul(new MatMul { M = count, N = _config.HiddenSize, K = _config.VocabularySize, A = new(logits), B = Weight.Operand(false), C = rows, LeadingDimensionC = normed.Shape[1], Alpha = 1 });
        }
        c.Free(buffer);
        if (isChosen) Norm.BackwardLabelled(c, normed, x, rstd, d);
        else Norm.Backward(c, normed, x, rstd, d, false);
        c.Free(rstd, normed);
        return d;
    }

    /// <summary>Losses of the head's rows, see <see cref="StepContext.HeadRows"/>.</summary>
    internal void Forward(StepContext c, Tensor x, Tensor losses)
    {
        var normed = c.Activations(MemoryPurpose.Workspace, _config.HiddenSize);
        var total = c.HeadRows;
        c.Free(total < c.TokenCount ? Norm.ForwardLabelled(c, x, normed) : Norm.Forward(c, x, normed));
        var buffer = AllocateChunk(c, total, out var size);
        for (var start = 0; start < total; start += size)
        {
            var count = Math.Min(size, total - start);
            var logits = buffer.Rows(0, count);
            Logits(c, normed.Rows(start, count), logits);
            _crossEntropy.Forward(c.Device, logits, c.Labels.Rows(start, count), losses.Rows(start, count));
        }
        c.Free(buffer, normed);
    }

    /// <summary>Normed output of chosen rows and their logits, before any soft cap.</summary>
    /// <param name="c">The step.</param>
    /// <param name="x">Output of the last layer [T, hidden].</param>
    /// <param name="firstRow">First row whose logits are wanted.</param>
    /// <param name="logits">[rows, vocabulary] that is written.</param>
    internal void Forward(StepContext c, Tensor x, int firstRow, Tensor logits)
    {
        var normed = c.Activations(MemoryPurpose.Workspace, _config.HiddenSize);
        c.Free(Norm.Forward(c, x, normed));
        Logits(c, normed.Rows(firstRow, logits.Shape[0]), logits, (float)_config.LogitScale);
        c.Free(normed);
    }

    private void Logits(StepContext c, Tensor rows, Tensor logits, float scale = 1) => c.Device.MatMul(new MatMul
    {
        M = (int)logits.Shape[0],
        N = _config.VocabularySize,
        K = _config.HiddenSize,
        A = new(rows, false, rows.Shape[1]),
        B = Weight.Operand(true),
        C = logits,
        Alpha = scale,
    });

    /// <summary>A buffer for as many rows as the memory allows, and the rows of a chunk when all rows are cut into equal parts that fit.</summary>
    private Tensor AllocateChunk(StepContext c, int rows, out int size)
    {
        var most = (int)Math.Clamp(MostRows(c), 1, c.TokenCount);
        var chunks = (rows + most - 1) / most;
        size = (rows + chunks - 1) / chunks;
        return c.Allocate(MemoryPurpose.Logits, c.DType, new Shape(most, _config.VocabularySize));
    }

    private long MostRows(StepContext c)
    {
        var bytes = (long)_config.VocabularySize * c.DType.SizeInBytes();
        var target = c.Device.PlanTarget;
        if (!target.IsCuda) return ChunkBytes / bytes;
        // A GPU reads the head's weights once a chunk, so chunks are large there. The gradient of a chunk's input has rows / 128 × hidden / 256 tiles besides: where a large vocabulary
        // leaves few rows, those are fewer than a large GPU has multiprocessors, and a narrow model needs more rows than a wide one. What is free or planned has no say, because the bits
        // of the products may depend on their rows.
        var rows = CudaChunkBytes / bytes;
        var least = _config.HiddenSize < NarrowHidden ? 2 * EnoughRows : EnoughRows;
        return rows < EnoughRows && c.DType.SizeInBytes() == 2 && least * bytes <= target.MemoryBytes / MemoryShare ? least : rows;
    }
}
