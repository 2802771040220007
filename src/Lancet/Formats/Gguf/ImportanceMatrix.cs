namespace Lancet.Formats.Gguf;

/// <summary>How much each input column of the projections matters: the mean square of what it is multiplied with, over training data.</summary>
public sealed class ImportanceMatrix
{
    private readonly Dictionary<string, float[]> _columns = [];

    /// <summary>Projections whose columns are known, by the name of their weight.</summary>
    public IReadOnlyDictionary<string, float[]> Columns => _columns;

    /// <summary>Adds the columns of a weight.</summary>
    public void Add(string weight, float[] columns) => _columns[weight] = columns;

    /// <summary>The columns of a weight; null where nothing is known of it.</summary>
    /// <exception cref="LancetException">It was gathered from another model.</exception>
    public float[]? Find(string weight, int columns) => !_columns.TryGetValue(weight, out var values) ? null
        : values.Length == columns ? values
        : throw new LancetException($"The importance of {weight} has {values.Length} columns, the weight {columns}; it was gathered from another model.");
}
