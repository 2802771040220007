namespace Lancet.Data;

/// <summary>
/// A micro-batch: sequences laid end to end without padding. The arrays are reused from batch to batch; only the first
/// <see cref="TokenCount"/> entries (one more for <see cref="CuSeqlens"/>'s sequences) are meaningful.
/// </summary>
public sealed class PackedBatch
{
    /// <summary>Creates buffers for a number of tokens and sequences.</summary>
    public PackedBatch(int maxTokens, int maxSequences)
    {
        TokenIds = new int[maxTokens];
        Positions = new int[maxTokens];
        Labels = new int[maxTokens];
        CuSeqlens = new int[maxSequences + 1];
    }

    /// <summary>Token ids.</summary>
    public int[] TokenIds { get; }

    /// <summary>Position of each token in its sequence, from 0.</summary>
    public int[] Positions { get; }

    /// <summary>Id that each token should predict (already shifted), or −100 for none, as at the end of every sequence.</summary>
    public int[] Labels { get; }

    /// <summary>Offset of each sequence, and the token count after the last.</summary>
    public int[] CuSeqlens { get; }

    /// <summary>Number of sequences.</summary>
    public int SequenceCount { get; private set; }

    /// <summary>Number of tokens.</summary>
    public int TokenCount { get; private set; }

    /// <summary>Number of labels other than −100.</summary>
    public int LabelTokenCount { get; private set; }

    /// <summary>Label of tokens that take no part in the loss.</summary>
    public const int IgnoredLabel = -100;

    /// <summary>Empties the batch.</summary>
    public void Clear() => SequenceCount = TokenCount = LabelTokenCount = 0;

    /// <summary>Appends a sequence.</summary>
    /// <param name="ids">Token ids.</param>
    /// <param name="labels">Unshifted labels as in Hugging Face: the id at each place, or −100. Empty: none.</param>
    /// <exception cref="ArgumentException">The batch is full.</exception>
    public void Add(ReadOnlySpan<int> ids, ReadOnlySpan<int> labels)
    {
        if (TokenCount + ids.Length > TokenIds.Length || SequenceCount + 2 > CuSeqlens.Length) throw new ArgumentException("The packed batch is full.");
        for (var i = 0; i < ids.Length; i++)
        {
            var at = TokenCount + i;
            TokenIds[at] = ids[i];
            Positions[at] = i;
            Labels[at] = i + 1 < ids.Length && labels.Length > 0 ? labels[i + 1] : IgnoredLabel;
            if (Labels[at] != IgnoredLabel) LabelTokenCount++;
        }
        TokenCount += ids.Length;
        CuSeqlens[++SequenceCount] = TokenCount;
    }
}
