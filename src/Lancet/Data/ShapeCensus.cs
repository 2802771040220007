using System.Globalization;

namespace Lancet.Data;

/// <summary>Which shapes the rows of a source have, to be said in words.</summary>
public sealed class ShapeCensus
{
    private const int Named = 5;
    private readonly SortedDictionary<RowShape, (int Count, List<string> Places)> _shapes = [];

    /// <summary>Rows of each shape that was found.</summary>
    public IReadOnlyDictionary<RowShape, int> Counts => _shapes.ToDictionary(item => item.Key, item => item.Value.Count);

    /// <summary>Counts a row.</summary>
    /// <param name="shape">Its shape.</param>
    /// <param name="place">Where it is, for the warning.</param>
    public void Add(RowShape shape, string place)
    {
        var (count, places) = _shapes.GetValueOrDefault(shape, (0, []));
        if (places.Count < Named) places.Add(place);
        _shapes[shape] = (count + 1, places);
    }

    /// <summary>What was found, and a warning where shapes mix, which names the rows of the rarer ones.</summary>
    /// <param name="source">The file, folder or pattern, as it was given.</param>
    public IEnumerable<string> Describe(string source)
    {
        var byCount = _shapes.OrderByDescending(item => item.Value.Count).ToList();
        yield return string.Create(CultureInfo.InvariantCulture, $"{source}: {byCount.Sum(item => item.Value.Count)} rows: {string.Join(", ", byCount.Select(item => byCount.Count == 1 ? RowShapes.Describe(item.Key) : $"{item.Value.Count} {RowShapes.Describe(item.Key)}"))}");
        if (byCount.Count > 1)
        {
            yield return $"warning: {source} mixes shapes of rows, and each is trained by its own rules. " + string.Join("; ", byCount.Skip(1).Select(item =>
                string.Create(CultureInfo.InvariantCulture, $"{RowShapes.Describe(item.Key)} at {string.Join(", ", item.Value.Places)}{(item.Value.Count > Named ? $" and {item.Value.Count - Named} more" : "")}"))) + ".";
        }
    }
}
