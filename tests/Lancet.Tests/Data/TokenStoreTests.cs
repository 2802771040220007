using Lancet.Data;

namespace Lancet.Tests.Data;

/// <summary>Rows in a file are the rows in memory.</summary>
public sealed class TokenStoreTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("lancet-store").FullName;

    public void Dispose() => Directory.Delete(_folder, true);

    [Theory]
    [InlineData(0, true)]
    [InlineData(4000, true)]
    [InlineData(1 << 20, false)]
    public void Rows_come_back_as_they_were_added(long memoryLimit, bool isInFile)
    {
        var random = new Random(3);
        var rows = Enumerable.Range(0, 300).Select(_ => Row(random.Next(2, 400), random)).ToList();
        rows[7] = new([], []);
        var store = new TokenStore(memoryLimit);
        foreach (var row in rows) store.Add(row);
        store.Complete();
        Assert.Equal(isInFile, store.IsInFile);
        Assert.Equal(rows.Select(row => row.InputIds), store.Select(row => row.InputIds));
        Assert.Equal(rows.Select(row => row.Labels), store.Select(row => row.Labels));
        Assert.Equal(rows.Select(row => row.InputIds.Length), Enumerable.Range(0, rows.Count).Select(store.LengthOf));
    }

    [Theory]
    [InlineData(0)]
    [InlineData(64)]
    public void Batches_splits_and_fingerprints_are_the_same_from_memory_and_from_a_file(int binTokens)
    {
        var path = Path.Combine(_folder, "rows.jsonl");
        var random = new Random(4);
        File.WriteAllLines(path, Enumerable.Range(0, 200).Select(_ => $"{{\"input_ids\":[{string.Join(',', Row(random.Next(2, 60), random).InputIds)}]}}"));
        var renderer = new RowRenderer(null, null);
        var (memory, file) = (SftDataset.Load(path, renderer), SftDataset.Load(path, renderer, 1000));
        Assert.False(((TokenStore)memory.Rows).IsInFile);
        Assert.True(((TokenStore)file.Rows).IsInFile);
        Assert.Equal(memory.Fingerprint(), file.Fingerprint());
        Same(memory, file);
        var ((memoryTraining, memoryHeld), (fileTraining, fileHeld)) = (memory.Split(0.1), file.Split(0.1));
        Assert.Equal(memoryHeld.Fingerprint(), fileHeld.Fingerprint());
        Same(memoryTraining, fileTraining);

        void Same(SftDataset expected, SftDataset actual)
        {
            var (a, b) = (new BatchSampler(expected, 3, binTokens, true, 9), new BatchSampler(actual, 3, binTokens, true, 9));
            Assert.Equal((a.UnitCount, a.MaxTokens, a.MaxSequences, a.FillRate(binTokens)), (b.UnitCount, b.MaxTokens, b.MaxSequences, b.FillRate(binTokens)));
            var (left, right) = (new PackedBatch(a.MaxTokens, a.MaxSequences), new PackedBatch(b.MaxTokens, b.MaxSequences));
            for (var index = 0L; index < a.UnitCount; index++)
            {
                a.Fill(index, left);
                b.Fill(index, right);
                Assert.Equal(left.TokenIds[..left.TokenCount], right.TokenIds[..right.TokenCount]);
                Assert.Equal(left.Labels[..left.TokenCount], right.Labels[..right.TokenCount]);
                Assert.Equal(left.CuSeqlens[..(left.SequenceCount + 1)], right.CuSeqlens[..(right.SequenceCount + 1)]);
            }
        }
    }

    [Fact]
    public void The_file_has_no_name_that_could_outlive_the_process()
    {
        var store = new TokenStore(0);
        store.Add(new([1, 2], [1, 2]));
        store.Complete();
        Assert.True(store.IsInFile);
        foreach (var folder in (string[])["/var/tmp", Path.GetTempPath()])
            if (!OperatingSystem.IsWindows() && Directory.Exists(folder)) Assert.Empty(Directory.EnumerateFiles(folder, $"lancet-{Environment.ProcessId}-*.tokens"));
    }

    private static TokenizedRow Row(int length, Random random) => new([.. Enumerable.Range(0, length).Select(_ => random.Next(1000))], [.. Enumerable.Range(0, length).Select(_ => random.Next(-100, 900))]);
}
