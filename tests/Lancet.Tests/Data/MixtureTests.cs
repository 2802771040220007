using CsCheck;
using Lancet.Data;

namespace Lancet.Tests.Data;

/// <summary>Sources mixed by weight.</summary>
public sealed class MixtureTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("lancet-mixture").FullName;

    public void Dispose() => Directory.Delete(_folder, true);

    [Fact]
    public void Sources_are_named_with_commas_and_weights()
    {
        Assert.Equal([new("a.jsonl", null)], DataSources.Parse("a.jsonl").Items);
        Assert.Equal([new("a.jsonl", 2), new("b.parquet", 0.5), new("c", null)], DataSources.Parse("a.jsonl=2, b.parquet=0.5,c").Items);
        Assert.True(DataSources.Parse("a=2,b").IsWeighted);
        Assert.False(DataSources.Parse("a,b").IsWeighted);
        // What exists is a path, whatever its name.
        var odd = Rows("a=1,b=2.jsonl", 0, 1);
        Assert.Equal([new(odd, null)], DataSources.Parse(odd).Items);
    }

    [Theory]
    [InlineData("a=0", "a: its weight is 0; expected a number above 0")]
    [InlineData("a=1,b=-2", "b: its weight is -2")]
    [InlineData("a=NaN", "a: its weight is NaN")]
    [InlineData("a=Infinity", "a: its weight is Infinity")]
    [InlineData("a=two", "a: its weight is two")]
    [InlineData("a=", "a: its weight is missing")]
    [InlineData("=2", "there is no file before =2")]
    [InlineData("a,,b", "a file is missing")]
    public void Weights_that_are_none_are_refused(string text, string message) => Assert.Contains(message, Assert.Throws<LancetException>(() => DataSources.Parse(text)).Message);

    [Fact]
    public void Shares_are_exact_in_every_epoch_and_even_in_every_stretch() =>
        Gen.Select(Gen.Int[1, 40], Gen.Double[0.1, 10]).Array[1, 5].Sample(sources =>
        {
            int[] sizes = [.. sources.Select(source => source.Item1)];
            double[] weights = [.. sources.Select(source => source.Item2)];
            var sum = sizes.Sum();
            var shares = MixtureOrder.Shares(weights, sum);
            Assert.Equal(sum, shares.Sum());
            for (var i = 0; i < sizes.Length; i++) Assert.InRange(shares[i] - (weights[i] / weights.Sum() * sum), -1, 1);
            if (shares.Contains(0)) return;
            var order = new MixtureOrder([.. sources.Select(source => new MixturePart("x", source.Item1, source.Item2))], sizes, true, 7);
            var units = new int[sum];
            var drawn = sizes.Select(_ => new List<int>()).ToArray();
            for (var epoch = 0; epoch < 4; epoch++)
            {
                order.Fill(epoch, units);
                var counts = new int[sizes.Length];
                for (var at = 0; at < sum; at++)
                {
                    var first = 0;
                    var part = 0;
                    while (units[at] >= first + sizes[part]) first += sizes[part++];
                    drawn[part].Add(units[at] - first);
                    counts[part]++;
                    for (var i = 0; i < sizes.Length; i++) Assert.InRange(counts[i] - ((at + 1.0) * shares[i] / sum), -sizes.Length, sizes.Length);
                }
                Assert.Equal(shares, counts);
            }
            // Each pass through a source has every unit once before any comes again.
            for (var i = 0; i < sizes.Length; i++)
                foreach (var pass in drawn[i].Chunk(sizes[i]).Where(pass => pass.Length == sizes[i])) Assert.Equal(Enumerable.Range(0, sizes[i]), pass.Order());
        }, iter: 20);

    [Theory]
    [InlineData(0)]
    [InlineData(8)]
    public void A_mixture_is_split_before_it_is_mixed_and_any_batch_can_be_asked_for_again(int binTokens)
    {
        var (a, b) = (Rows("a.jsonl", 100, 30), Rows("b.jsonl", 500, 10));
        var mixture = SftDataset.Load($"{a}=1,{b}=3", new RowRenderer(null, null));
        Assert.Equal([new(a, 30, 1), new(b, 10, 3)], mixture.Mixture);
        var (training, held) = mixture.Split(0.2);
        Assert.Equal([.. Held(100, 30), .. Held(500, 10)], held.Rows.Select(row => row.InputIds[0]));
        Assert.Equal(held.Rows.Select(row => row.InputIds[0]), DataSources.Parse($"{a}=1,{b}=3").ReadHeldOut(0.2).Select(item => item.Row.GetProperty("input_ids")[0].GetInt32()));
        Assert.Empty(held.Mixture);
        var seen = new List<int>();
        var (sampler, again) = (new BatchSampler(training, 4, binTokens, true, 3), new BatchSampler(training, 4, binTokens, true, 3));
        var (batch, other) = (new PackedBatch(sampler.MaxTokens, sampler.MaxSequences), new PackedBatch(sampler.MaxTokens, sampler.MaxSequences));
        var expected = new List<int[]>();
        for (var index = 0L; index < sampler.UnitCount; index++)
        {
            sampler.Fill(index, batch);
            expected.Add(batch.TokenIds[..batch.TokenCount]);
            for (var i = 0; i < batch.SequenceCount; i++) seen.Add(batch.TokenIds[batch.CuSeqlens[i]]);
        }
        // Rows are of one length, so bins share as rows do: one in four is of a.
        Assert.Equal(0.25, seen.Count(id => id < 500) / (double)seen.Count, 0.01);
        Assert.DoesNotContain(seen, held.Rows.Select(row => row.InputIds[0]).Contains);
        Assert.Equal(32, seen.Distinct().Count());
        for (var index = sampler.UnitCount - 1L; index >= 0; index -= 3)
        {
            again.Fill(index, other);
            Assert.Equal(expected[(int)index], other.TokenIds[..other.TokenCount]);
        }

        static IEnumerable<int> Held(int first, int rows) => Enumerable.Range(0, rows).Where(i => SftDataset.IsHeldOut(i, 0.2)).Select(i => first + i);
    }

    [Fact]
    public void Sources_without_weights_follow_one_another_and_tiny_weights_are_refused()
    {
        var (a, b) = (Rows("a.jsonl", 100, 3), Rows("b.jsonl", 500, 2));
        var plain = SftDataset.Load($"{a},{b}", new RowRenderer(null, null));
        Assert.Equal([100, 101, 102, 500, 501], plain.Rows.Select(row => row.InputIds[0]));
        Assert.Empty(plain.Mixture);
        Assert.Equal([$"{a}: 3 rows: tokens (input_ids)", $"{b}: 2 rows: tokens (input_ids)"], plain.Notes);
        var tiny = SftDataset.Load($"{a}=1,{b}=0.001", new RowRenderer(null, null));
        Assert.Contains($"{b}: a weight of 0.001 leaves it none of the 5 rows", Assert.Throws<LancetException>(() => new BatchSampler(tiny, 1, 0, true, 1)).Message);
        var sampler = new BatchSampler(SftDataset.Load($"{a}=2,{b}", new RowRenderer(null, null)), 5, 0, false, 1);
        var batch = new PackedBatch(sampler.MaxTokens, sampler.MaxSequences);
        // In file order each source goes on where it stopped, and begins again at its end.
        Assert.Equal([[100, 500, 101, 501, 102], [100, 500, 101, 501, 102]], Enumerable.Range(0, 2).Select(index => { sampler.Fill(index, batch); return Enumerable.Range(0, 5).Select(i => batch.TokenIds[batch.CuSeqlens[i]]).ToArray(); }));
    }

    private string Rows(string name, int first, int count)
    {
        var path = Path.Combine(_folder, name);
        File.WriteAllLines(path, Enumerable.Range(first, count).Select(id => $"{{\"input_ids\":[{id},1,2,3]}}"));
        return path;
    }
}
