using CsCheck;
using Lancet.Data;
using Lancet.Training;

namespace Lancet.Tests.Data;

/// <summary>Which rows form which micro-batch, and how the learning rate goes.</summary>
public class BatchSamplerTests
{
    private static SftDataset Rows(IEnumerable<int> lengths) => new([.. lengths.Select((length, row) => new TokenizedRow([.. Enumerable.Repeat(row, length)], [.. Enumerable.Repeat(row, length)]))]);

    [Fact]
    public void Bins_are_full_to_the_brim_and_hold_every_row_once() =>
        Gen.Int[1, 50].Array[1, 60].Sample(lengths =>
        {
            var bins = BatchSampler.Pack(Rows(lengths), 50);
            Assert.Equal(Enumerable.Range(0, lengths.Length), bins.SelectMany(bin => bin).Order());
            int[] fill = [.. bins.Select(bin => bin.Sum(row => lengths[row]))];
            Assert.All(fill, tokens => Assert.InRange(tokens, 1, 50));
            // Best-fit decreasing needs at most 11/9 of the best number of bins, and one more (Johnson 1974).
            Assert.True(bins.Count <= (11.0 / 9 * Math.Max(Math.Ceiling(lengths.Sum() / 50.0), lengths.Count(length => length > 25))) + 1);
            // No two bins could be one.
            Assert.True(fill.Length < 2 || fill.Order().Take(2).Sum() > 50);
        });

    [Fact]
    public void Each_row_goes_into_the_fullest_bin_that_has_room() => Assert.Equal([[0, 4], [1, 3], [2]], BatchSampler.Pack(Rows([7, 6, 5, 4, 3]), 10));

    [Theory]
    [InlineData(false, 0)]
    [InlineData(true, 0)]
    [InlineData(true, 40)]
    public void An_epoch_holds_every_row_once_in_an_order_of_its_own(bool shuffles, int binTokens)
    {
        int[] lengths = [.. Enumerable.Range(0, 24).Select(i => 3 + (i * 7 % 20))];
        var dataset = Rows(lengths);
        var sampler = new BatchSampler(dataset, 3, binTokens, shuffles, 11);
        var batch = new PackedBatch(sampler.MaxTokens, sampler.MaxSequences);
        List<int> Epoch(int epoch)
        {
            var rows = new List<int>();
            for (long index = epoch * sampler.UnitCount / 3; index < (epoch + 1) * sampler.UnitCount / 3; index++)
            {
                sampler.Fill(index, batch);
                Assert.InRange(batch.TokenCount, 1, sampler.MaxTokens);
                for (var i = 0; i < batch.SequenceCount; i++) rows.Add(batch.TokenIds[batch.CuSeqlens[i]]);
            }
            return rows;
        }
        if (sampler.UnitCount % 3 != 0) return;
        var (first, second) = (Epoch(0), Epoch(1));
        Assert.Equal(Enumerable.Range(0, 24), first.Order());
        Assert.Equal(Enumerable.Range(0, 24), second.Order());
        if (shuffles) Assert.NotEqual(first, second);
        else Assert.Equal(Enumerable.Range(0, 24), first);
        // Any micro-batch can be asked for again, as after a resumption.
        Assert.Equal(first, Epoch(0));
    }

    [Fact]
    public void Rows_wrap_at_the_end_of_the_file()
    {
        var sampler = new BatchSampler(Rows([2, 2, 2]), 2, 0, false, 0);
        var batch = new PackedBatch(sampler.MaxTokens, sampler.MaxSequences);
        sampler.Fill(1, batch);
        Assert.Equal([2, 2, 0, 0], batch.TokenIds[..batch.TokenCount]);
        Assert.Equal([0, 1, 0, 1], batch.Positions[..batch.TokenCount]);
        Assert.Equal([2, -100, 0, -100], batch.Labels[..batch.TokenCount]);
        Assert.Equal([0, 2, 4], batch.CuSeqlens[..3]);
        Assert.Equal(2, batch.LabelTokenCount);
    }

    // The last row of an epoch may be the longest, and the first of the next the same one.
    [Fact]
    public void A_batch_across_epochs_has_room_for_the_longest_row_twice() =>
        Gen.Select(Gen.Int[1, 20].Array[1, 9], Gen.Int[1, 12], Gen.Int[0, 1]).Sample((lengths, batchSize, packs) =>
        {
            var sampler = new BatchSampler(Rows(lengths), batchSize, 20 * packs, true, 5);
            var batch = new PackedBatch(sampler.MaxTokens, sampler.MaxSequences);
            var most = 0;
            for (var index = 0L; index < 400; index++)
            {
                sampler.Fill(index, batch);
                most = Math.Max(most, batch.TokenCount);
            }
            // With one or two units every worst case comes up soon, so the bound is no guess either.
            if (sampler.UnitCount <= 2) Assert.Equal(sampler.MaxTokens, most);
        });

    // Taken when the order was fixed: another order would no longer continue runs that were interrupted before.
    [Theory]
    [InlineData(false, 0, 15057055564366694381UL)]
    [InlineData(true, 0, 17948017084430315827UL)]
    [InlineData(true, 40, 13462686991653726871UL)]
    public void Batches_are_those_of_ever(bool shuffles, int binTokens, ulong expected)
    {
        var sampler = new BatchSampler(Rows(Enumerable.Range(0, 24).Select(i => 3 + (i * 7 % 20))), 3, binTokens, shuffles, 11);
        var batch = new PackedBatch(sampler.MaxTokens, sampler.MaxSequences);
        var hash = 14695981039346656037UL;
        for (var index = 0L; index < 50; index++)
        {
            sampler.Fill(index, batch);
            foreach (var value in (int[])[batch.TokenCount, .. batch.TokenIds[..batch.TokenCount], .. batch.Labels[..batch.TokenCount]]) hash = unchecked((hash ^ (uint)value) * 1099511628211UL);
        }
        Assert.Equal(expected, hash);
    }

    [Fact]
    public void A_held_out_share_is_spread_over_the_file()
    {
        var (training, evaluation) = Rows(Enumerable.Repeat(1, 10)).Split(0.3);
        Assert.Equal([3, 6, 9], evaluation.Rows.Select(row => row.InputIds[0]));
        Assert.Equal([0, 1, 2, 4, 5, 7, 8], training.Rows.Select(row => row.InputIds[0]));
        Assert.Throws<LancetException>(() => Rows([1, 1]).Split(0.1));
    }

    // transformers.get_scheduler(kind, AdamW(lr=1), num_warmup_steps=2, num_training_steps=6): the rates of steps 1 to 6.
    [Theory]
    [InlineData("linear", new[] { 0, 0.5, 1, 0.75, 0.5, 0.25 })]
    [InlineData("cosine", new[] { 0, 0.5, 1, 0.8535533905932737, 0.5, 0.14644660940672627 })]
    [InlineData("constant", new[] { 1.0, 1, 1, 1, 1, 1 })]
    [InlineData("constant_with_warmup", new[] { 0, 0.5, 1, 1, 1, 1 })]
    public void Schedules_are_those_of_hugging_face(string kind, double[] expected)
    {
        var schedule = new LearningRateSchedule(kind, 1, 2, 6);
        for (var step = 0; step < 6; step++) Assert.Equal(expected[step], schedule.Rate(step), 1e-15);
    }
}
