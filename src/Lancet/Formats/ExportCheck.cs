using System.Globalization;
using Lancet.Generation;
using Lancet.Models;
using Lancet.Tokenization;

namespace Lancet.Formats;

/// <summary>How an exported model differs from the one it was made of.</summary>
/// <param name="Tokens">Tokens that were compared.</param>
/// <param name="LargestDifference">Largest difference of a logit.</param>
/// <param name="RelativeDifference">Root mean square of the differences, as a share of the logits' deviation.</param>
/// <param name="Divergence">Mean Kullback-Leibler divergence of the next token's distributions, in nats.</param>
/// <param name="Perplexity">Of the exported model on the prompts.</param>
/// <param name="ReferencePerplexity">Of the model, with its adapter on its base, on the prompts.</param>
/// <param name="SameTopTokens">Share of places where both find the same token the most likely.</param>
public sealed record ExportReport(int Tokens, double LargestDifference, double RelativeDifference, double Divergence, double Perplexity, double ReferencePerplexity, double SameTopTokens)
{
    /// <inheritdoc/>
    public override string ToString() => string.Create(CultureInfo.InvariantCulture,
        $"largest logit difference {LargestDifference:G3} ({RelativeDifference:P2} of the deviation), divergence {Divergence:G3} nats, perplexity {Perplexity:F3} against {ReferencePerplexity:F3}, same most likely token at {SameTopTokens:P1} of {Tokens} tokens");
}

/// <summary>
/// Compares an exported model with the one it was made of, by running both. What the model answers is taken before the export is loaded, so that only one of them is in memory.
/// </summary>
public sealed class ExportCheck
{
    private readonly int[][] _prompts;
    private readonly float[][] _reference;
    private readonly string[] _texts;

    /// <summary>Runs the model.</summary>
    /// <param name="model">Model, with its adapter on its base.</param>
    /// <param name="texts">Texts that it was not trained on; special tokens are read as such.</param>
    /// <param name="maxTokens">Tokens that are compared at most; a text is cut to a quarter of that.</param>
    /// <param name="tokenizer">The tokenizer that the export gets, if it is not the model's own, see <see cref="Tokenizer.For"/>.</param>
    public ExportCheck(LanguageModel model, IReadOnlyList<string> texts, int maxTokens = 256, Tokenizer? tokenizer = null)
    {
        tokenizer ??= model.Tokenizer;
        var perText = Math.Max(2, Math.Min(maxTokens / 4, model.Config.MaxPositions));
        var prompts = new List<int[]>();
        _texts = [.. texts];
        foreach (var text in texts)
        {
            var ids = tokenizer.Encode(text, false);
            if (ids.Length > perText) ids = ids[..perText];
            if (ids.Length >= 2 && prompts.Sum(prompt => prompt.Length) + ids.Length <= maxTokens) prompts.Add(ids);
        }
        if (prompts.Count == 0) throw new LancetException("There is no text of two tokens or more to compare the export on.");
        _prompts = [.. prompts];
        TokenIds = [.. texts.Select(text => tokenizer.Encode(text, false))];
        _reference = Run(model);
    }

    private int[][] TokenIds { get; }

    /// <summary>Runs an exported model and compares.</summary>
    /// <param name="path">Model folder or GGUF file.</param>
    /// <param name="options">How it is held.</param>
    /// <exception cref="LancetException">The export cannot be read, or its tokenizer gives other ids.</exception>
    public ExportReport Compare(string path, LoadOptions? options = null)
    {
        using var model = LanguageModel.Load(path, options);
        for (var i = 0; i < _texts.Length; i++)
            if (!model.Tokenizer.Encode(_texts[i], false).AsSpan().SequenceEqual(TokenIds[i])) throw new LancetException($"{path}: the export reads other tokens than the model in \"{_texts[i]}\".");
        return Compare(Run(model));
    }

    private float[][] Run(LanguageModel model)
    {
        using var engine = new LogitEngine(model, _prompts.Max(prompt => prompt.Length));
        return [.. _prompts.Select(prompt => engine.Logits(prompt))];
    }

    private ExportReport Compare(float[][] actual)
    {
        double largest = 0, squares = 0, deviation = 0, divergence = 0, loss = 0, referenceLoss = 0;
        int tokens = 0, same = 0, predicted = 0;
        long values = 0;
        for (var p = 0; p < _prompts.Length; p++)
        {
            var vocabulary = _reference[p].Length / _prompts[p].Length;
            for (var t = 0; t < _prompts[p].Length; t++)
            {
                ReadOnlySpan<float> x = _reference[p].AsSpan(t * vocabulary, vocabulary), y = actual[p].AsSpan(t * vocabulary, vocabulary);
                double logX = LogSumExp(x), logY = LogSumExp(y), sum = 0;
                for (var i = 0; i < vocabulary; i++)
                {
                    double difference = Math.Abs(x[i] - (double)y[i]);
                    largest = Math.Max(largest, double.IsNaN(difference) ? double.PositiveInfinity : difference);
                    squares += difference * difference;
                    sum += x[i];
                    divergence += Math.Exp(x[i] - logX) * (x[i] - logX - (y[i] - logY));
                }
                var mean = sum / vocabulary;
                foreach (var logit in x) deviation += (logit - mean) * (logit - mean);
                (values, tokens, same) = (values + vocabulary, tokens + 1, same + (Best(x) == Best(y) ? 1 : 0));
                if (t + 1 == _prompts[p].Length) continue;
                (loss, referenceLoss, predicted) = (loss + logY - y[_prompts[p][t + 1]], referenceLoss + logX - x[_prompts[p][t + 1]], predicted + 1);
            }
        }
        return new(tokens, largest, Math.Sqrt(squares / Math.Max(deviation, double.Epsilon)), divergence / tokens, Math.Exp(loss / predicted), Math.Exp(referenceLoss / predicted), (double)same / tokens);
    }

    private static double LogSumExp(ReadOnlySpan<float> logits)
    {
        double most = double.NegativeInfinity, sum = 0;
        foreach (var logit in logits) most = Math.Max(most, logit);
        foreach (var logit in logits) sum += Math.Exp(logit - most);
        return most + Math.Log(sum);
    }

    private static int Best(ReadOnlySpan<float> logits)
    {
        var best = 0;
        for (var i = 1; i < logits.Length; i++)
            if (logits[i] > logits[best]) best = i;
        return best;
    }
}
