using Lancet.Data;
using Lancet.Generation;
using Lancet.Models;
using Lancet.Tests.Training;
using Lancet.Training;

namespace Lancet.Tests.Generation;

/// <summary>Generation with the key/value cache, and how tokens are chosen.</summary>
public class TextGeneratorTests
{
    // With phi3-longrope's prompt the keys are computed again on the way: its frequencies change after 36 tokens.
    public static TheoryData<string, int> Fixtures => new()
    {
        { "gemma2", 6 }, { "llama31-rope", 6 }, { "mistral-swa", 6 }, { "qwen3", 6 }, { "phi3-longrope", 28 }, { "granite", 6 }, { "smollm3", 6 }, { "olmo2", 6 }, { "gemma3", 6 },
        { "cohere-qk-norm", 6 }, { "cohere2", 6 }, { "mixtral", 6 }, { "qwen3-moe", 6 },
    };

    [Theory]
    [MemberData(nameof(Fixtures))]
    public void Greedy_tokens_are_those_of_the_whole_forward_pass(string name, int promptLength)
    {
        var fixture = new Fixture(name);
        using var model = LanguageModel.Load(fixture.Model);
        model.LoadAdapter(fixture.Adapter);
        int[] prompt = [.. Enumerable.Range(0, promptLength).Select(i => (i * i * 7) + 5 + (i % 3))];
        for (var i = 0; i < prompt.Length; i++) prompt[i] %= model.Config.VocabularySize;
        using var generator = new TextGenerator(model, 1, 64);
        var tokens = generator.Generate([prompt], new GenerationOptions { MaxNewTokens = 20 })[0];
        Assert.Equal(20, tokens.Length);
        // The token chosen at each place must have the least loss there among all tokens, by the forward pass that training uses.
        using var engine = new EvaluationEngine(model, 64, 64);
        var losses = new float[64];
        foreach (var length in (int[])[0, 7, 9, 19])
        {
            int[] context = [.. prompt, .. tokens[..length]];
            var (best, bestLoss) = (-1, float.MaxValue);
            var batch = new PackedBatch(64, 1);
            for (var candidate = 0; candidate < model.Config.VocabularySize; candidate++)
            {
                batch.Clear();
                int[] ids = [.. context, candidate];
                batch.Add(ids, ids);
                engine.Evaluate(batch, losses);
                if (losses[context.Length - 1] < bestLoss) (best, bestLoss) = (candidate, losses[context.Length - 1]);
            }
            Assert.Equal(best, tokens[length]);
        }
    }

    [Theory]
    [InlineData(0)]
    [InlineData(0.8)]
    public void A_batch_gives_the_tokens_of_single_runs(double temperature)
    {
        var fixture = new Fixture("gemma2");
        using var model = LanguageModel.Load(fixture.Model);
        int[][] prompts = [[3], [5, 9, 30, 2, 77, 8, 41, 6, 12, 99, 100, 7], [17, 18]];
        var options = new GenerationOptions { MaxNewTokens = 24, Temperature = temperature, TopK = 50, RepetitionPenalty = 1.1, Seed = 4 };
        using var together = new TextGenerator(model, 3, 48);
        var heard = prompts.Select(_ => new List<int>()).ToArray();
        var batch = together.Generate(prompts, options, (sequence, id) => heard[sequence].Add(id));
        for (var i = 0; i < prompts.Length; i++)
        {
            using var alone = new TextGenerator(model, 1, 48);
            Assert.Equal(alone.Generate([prompts[i]], options)[0], batch[i]);
            Assert.Equal(batch[i], heard[i]);
        }
    }

    [Fact]
    public void A_stop_token_ends_a_sequence_and_is_not_part_of_it()
    {
        var fixture = new Fixture("llama");
        using var model = LanguageModel.Load(fixture.Model);
        using var generator = new TextGenerator(model, 2, 32);
        var free = generator.Generate([[3, 4, 5]], new GenerationOptions { MaxNewTokens = 12 })[0];
        var stop = free[5];
        var first = Array.IndexOf(free, stop);
        var stopped = generator.Generate([[3, 4, 5]], new GenerationOptions { MaxNewTokens = 12, StopTokenIds = [stop] })[0];
        Assert.Equal(free[..first], stopped);
        // The room for tokens ends a sequence too, and a prompt that leaves none is refused.
        Assert.Equal(29, generator.Generate([[3, 4, 5]], new GenerationOptions { MaxNewTokens = 100, StopTokenIds = [] })[0].Length);
        Assert.Throws<LancetException>(() => generator.Generate([new int[32]], new GenerationOptions()));
        Assert.Throws<LancetException>(() => generator.Generate([[]], new GenerationOptions()));
    }

    [Fact]
    public void Ends_of_text_are_read_from_config_and_generation_config()
    {
        using var folder = new ModelFolder("llama", ("eos_token_id", 7));
        Assert.Equal([7], ModelConfig.Load(folder.Path).EosTokenIds);
        File.WriteAllText(Path.Combine(folder.Path, "generation_config.json"), """{"eos_token_id": [7, 8, 9]}""");
        Assert.Equal([7, 8, 9], ModelConfig.Load(folder.Path).EosTokenIds);
    }

    [Fact]
    public void Sampling_follows_the_probabilities_that_the_filters_leave()
    {
        // Probabilities 0.5, 0.25, 0.15, 0.07, 0.03.
        float[] logits = [.. ((double[])[0.5, 0.25, 0.15, 0.07, 0.03]).Select(p => (float)Math.Log(p))];
        AssertShares(new GenerationOptions { Temperature = 1 }, [0.5, 0.25, 0.15, 0.07, 0.03]);
        AssertShares(new GenerationOptions { Temperature = 1, TopK = 2 }, [2.0 / 3, 1.0 / 3, 0, 0, 0]);
        AssertShares(new GenerationOptions { Temperature = 1, TopP = 0.7 }, [2.0 / 3, 1.0 / 3, 0, 0, 0]);
        AssertShares(new GenerationOptions { Temperature = 1, TopP = 0.8 }, [0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9, 0, 0]);
        AssertShares(new GenerationOptions { Temperature = 1, MinP = 0.2 }, [0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9, 0, 0]);
        // At temperature ½ probabilities are squared.
        AssertShares(new GenerationOptions { Temperature = 0.5, TopK = 2 }, [0.8, 0.2, 0, 0, 0]);

        void AssertShares(GenerationOptions options, double[] expected)
        {
            const int draws = 4000;
            var counts = new int[5];
            var sampler = new Sampler(options);
            for (var i = 0; i < draws; i++) counts[sampler.Next((float[])logits.Clone())]++;
            for (var i = 0; i < 5; i++)
            {
                // Five standard deviations of a binomial count.
                var deviation = Math.Sqrt(draws * expected[i] * (1 - expected[i]));
                Assert.InRange(counts[i], (draws * expected[i]) - (5 * deviation), (draws * expected[i]) + (5 * deviation));
            }
        }
    }

    [Fact]
    public void The_repetition_penalty_divides_positive_and_multiplies_negative_logits_of_what_occurred()
    {
        var sampler = new Sampler(new GenerationOptions { RepetitionPenalty = 2 });
        sampler.See([0, 2]);
        float[] logits = [3, 1, -1, -1.5f];
        Assert.Equal(0, sampler.Next(logits));
        Assert.Equal([1.5f, 1, -2, -1.5f], logits);
        // 0 occurred; so has 1 from here on.
        Assert.Equal(1, new Sampler(new GenerationOptions { RepetitionPenalty = 4 }) is var other && See(other) ? other.Next(new float[] { 3, 1, -1, -1.5f }) : -1);

        static bool See(Sampler sampler)
        {
            sampler.See([0]);
            return true;
        }
    }
}
