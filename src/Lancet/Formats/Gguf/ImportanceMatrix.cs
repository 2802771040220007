using Lancet.Generation;
using Lancet.Layers;
using Lancet.Models;
using Lancet.Tensors;

namespace Lancet.Formats.Gguf;

/// <summary>How much each input column of the projections matters: the mean square of what it is multiplied with, over training data.</summary>
public sealed class ImportanceMatrix
{
    private readonly Dictionary<string, float[]> _columns = [];

    /// <summary>Projections whose columns are known, by the name of their weight.</summary>
    public IReadOnlyDictionary<string, float[]> Columns => _columns;

    /// <summary>Runs texts through a model and takes the mean square of every projection's input columns.</summary>
    /// <param name="model">Model on a processor in fp32, with or without an adapter; experts are not looked at.</param>
    /// <param name="texts">Token ids of texts like those that the model is for.</param>
    /// <param name="maxTokens">Tokens of a text that are read at most.</param>
    /// <param name="cancellation">Ends the work early.</param>
    public static ImportanceMatrix Gather(LanguageModel model, IEnumerable<int[]> texts, int maxTokens = 512, CancellationToken cancellation = default)
    {
        var sums = new Dictionary<string, (double[] Squares, long Rows)>();
        using (var engine = new LogitEngine(model, maxTokens, Observe))
        {
            foreach (var ids in texts)
            {
                cancellation.ThrowIfCancellationRequested();
                if (ids.Length > 0) engine.Logits(ids.AsSpan(0, Math.Min(ids.Length, maxTokens)));
            }
        }
        if (sums.Count == 0) throw new LancetException("There are no texts to gather the importance matrix from.");
        var result = new ImportanceMatrix();
        foreach (var (name, (squares, rows)) in sums)
        {
            // No column is worth nothing: other texts may use it.
            var least = squares.Average() * 1e-4;
            result.Add(name, [.. squares.Select(square => (float)(Math.Max(square, least) / rows))]);
        }
        return result;

        void Observe(LoraLinear projection, Tensor x)
        {
            var columns = projection.InFeatures;
            var (squares, rows) = sums.TryGetValue(projection.Weight.Name, out var known) ? known : (new double[columns], 0);
            var values = x.HostSpan<float>();
            for (var start = 0; start < values.Length; start += columns)
                for (var column = 0; column < columns; column++) squares[column] += (double)values[start + column] * values[start + column];
            sums[projection.Weight.Name] = (squares, rows + (values.Length / columns));
        }
    }

    /// <summary>Adds the columns of a weight.</summary>
    public void Add(string weight, float[] columns) => _columns[weight] = columns;

    /// <summary>The columns of a weight; null where nothing is known of it.</summary>
    /// <exception cref="LancetException">It was gathered from another model.</exception>
    public float[]? Find(string weight, int columns) => !_columns.TryGetValue(weight, out var values) ? null
        : values.Length == columns ? values
        : throw new LancetException($"The importance of {weight} has {values.Length} columns, the weight {columns}; it was gathered from another model.");
}
