using System.Numerics;
using System.Runtime.InteropServices;
using System.Security.Cryptography;

namespace Lancet.Data;

/// <summary>Rows whose lengths have the same highest bit.</summary>
/// <param name="From">Shortest length, in tokens.</param>
/// <param name="To">Longest length, included.</param>
/// <param name="Rows">Rows with such lengths.</param>
public readonly record struct LengthBucket(int From, int To, long Rows);

/// <summary>What rows amount to in tokens. No row is kept: lengths are counted by value, and a row's content is a hash.</summary>
/// <param name="maxLength">Rows are cut to this many tokens.</param>
public sealed class DataStatistics(int maxLength)
{
    private readonly SortedDictionary<int, long> _lengths = [];
    private readonly HashSet<UInt128> _contents = [];

    /// <summary>Rows are cut to this many tokens.</summary>
    public int MaxLength { get; } = maxLength;

    /// <summary>All rows.</summary>
    public long Rows { get; private set; }

    /// <summary>Tokens of all rows before they are cut.</summary>
    public long Tokens { get; private set; }

    /// <summary>Tokens that are left after cutting.</summary>
    public long KeptTokens { get; private set; }

    /// <summary>Tokens that are trained, see <see cref="TokenizedRow.LabelTokenCount"/>, after cutting.</summary>
    public long TrainedTokens { get; private set; }

    /// <summary>Trained tokens as a share of <see cref="KeptTokens"/>; 0 where there are none.</summary>
    public double TrainedShare => KeptTokens == 0 ? 0 : (double)TrainedTokens / KeptTokens;

    /// <summary>Rows longer than <see cref="MaxLength"/>.</summary>
    public long TruncatedRows { get; private set; }

    /// <summary>Rows without any trained token after cutting, which training refuses.</summary>
    public long RowsWithoutTrainedTokens { get; private set; }

    /// <summary>Rows with the tokens and labels of an earlier row, before cutting.</summary>
    public long DuplicateRows { get; private set; }

    /// <summary>Shapes of the rows.</summary>
    public ShapeCensus Shapes { get; } = new();

    /// <summary>Rows by length before cutting, in powers of two from the shortest row's to the longest's, empty buckets between included.</summary>
    public IReadOnlyList<LengthBucket> Histogram
    {
        get
        {
            if (_lengths.Count == 0) return [];
            var counts = new SortedDictionary<int, long>();
            foreach (var (length, rows) in _lengths) counts[BitLength(length)] = counts.GetValueOrDefault(BitLength(length)) + rows;
            var (first, last) = (counts.Keys.First(), counts.Keys.Last());
            return [.. Enumerable.Range(first, last - first + 1).Select(bits => new LengthBucket((1 << bits) >> 1, (int)((1L << bits) - 1), counts.GetValueOrDefault(bits)))];
        }
    }

    /// <summary>Reads and counts data files, see <see cref="RowReader"/>.</summary>
    /// <param name="data">Files; weights do not count.</param>
    /// <param name="renderer">Turns rows into tokens.</param>
    /// <exception cref="LancetException">A row cannot be read, or there is none; the message names file and row.</exception>
    public static DataStatistics Of(DataSources data, RowRenderer renderer)
    {
        var statistics = new DataStatistics(renderer.MaxLength);
        foreach (var (row, place) in data.Read()) statistics.Add(renderer.RenderWhole(row, place, out var shape), shape, place);
        return statistics.Rows > 0 ? statistics : throw new LancetException($"{data}: no rows.");
    }

    /// <summary>Counts a row.</summary>
    /// <param name="row">Tokens and labels before cutting.</param>
    /// <param name="shape">Its shape.</param>
    /// <param name="place">Where it is.</param>
    public void Add(TokenizedRow row, RowShape shape, string place)
    {
        var length = row.InputIds.Length;
        var kept = row.Cut(MaxLength);
        var trained = kept.LabelTokenCount;
        Rows++;
        Tokens += length;
        KeptTokens += kept.InputIds.Length;
        TrainedTokens += trained;
        if (length > MaxLength) TruncatedRows++;
        if (trained == 0) RowsWithoutTrainedTokens++;
        if (!_contents.Add(HashOf(row))) DuplicateRows++;
        _lengths[length] = _lengths.GetValueOrDefault(length) + 1;
        Shapes.Add(shape, place);
    }

    /// <summary>The shortest length that at least this share of the rows does not exceed (nearest rank, so some row has it); 0 is the shortest row, 1 the longest.</summary>
    /// <param name="share">Between 0 and 1.</param>
    public int LengthQuantile(double share)
    {
        var rank = Math.Max(1, (long)Math.Ceiling(share * Rows));
        foreach (var (length, rows) in _lengths)
            if ((rank -= rows) <= 0) return length;
        return 0;
    }

    private static int BitLength(int length) => 32 - BitOperations.LeadingZeroCount((uint)length);

    // As many ids as labels, so one behind the other is unambiguous.
    private static UInt128 HashOf(TokenizedRow row)
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        hash.AppendData(MemoryMarshal.AsBytes(row.InputIds.AsSpan()));
        hash.AppendData(MemoryMarshal.AsBytes(row.Labels.AsSpan()));
        Span<byte> bytes = stackalloc byte[SHA256.HashSizeInBytes];
        hash.GetHashAndReset(bytes);
        return MemoryMarshal.Read<UInt128>(bytes);
    }
}
