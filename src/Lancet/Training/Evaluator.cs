using Lancet.Data;

namespace Lancet.Training;

/// <summary>Loss of one example.</summary>
/// <param name="Loss">Mean over its label tokens.</param>
/// <param name="Tokens">Label tokens.</param>
public readonly record struct ExampleLoss(double Loss, int Tokens);

/// <summary>Loss of a dataset.</summary>
/// <param name="Loss">Mean over all label tokens.</param>
/// <param name="Tokens">Label tokens.</param>
/// <param name="Examples">Each example, in order.</param>
public sealed record EvaluationResult(double Loss, long Tokens, IReadOnlyList<ExampleLoss> Examples)
{
    /// <summary>e to the power of the loss.</summary>
    public double Perplexity => Math.Exp(Loss);
}

/// <summary>Evaluates datasets through the forward pass that training uses.</summary>
public static class Evaluator
{
    /// <summary>Evaluates every row, as many to a batch as fit.</summary>
    public static EvaluationResult Evaluate(IEvaluationEngine engine, SftDataset dataset, int maxTokens)
    {
        var examples = new List<ExampleLoss>();
        var batch = new PackedBatch(maxTokens, Math.Min(maxTokens, dataset.Rows.Count));
        var losses = new float[maxTokens];
        var (sum, count) = (0.0, 0L);
        for (var row = 0; row < dataset.Rows.Count; row++)
        {
            // Empty rows could be more than there are tokens.
            if (batch.TokenCount + dataset.LengthOf(row) > maxTokens || batch.SequenceCount + 1 == batch.CuSeqlens.Length) Flush();
            dataset.AddTo(batch, row);
        }
        Flush();
        return new(count == 0 ? 0 : sum / count, count, examples);

        void Flush()
        {
            if (batch.TokenCount == 0) return;
            engine.Evaluate(batch, losses);
            for (var sequence = 0; sequence < batch.SequenceCount; sequence++)
            {
                var (rowSum, rowCount) = (0.0, 0);
                for (var t = batch.CuSeqlens[sequence]; t < batch.CuSeqlens[sequence + 1]; t++)
                {
                    if (batch.Labels[t] == PackedBatch.IgnoredLabel) continue;
                    rowSum += losses[t];
                    rowCount++;
                }
                examples.Add(new(rowCount == 0 ? 0 : rowSum / rowCount, rowCount));
                (sum, count) = (sum + rowSum, count + rowCount);
            }
            batch.Clear();
        }
    }
}
