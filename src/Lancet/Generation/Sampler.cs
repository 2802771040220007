namespace Lancet.Generation;

/// <summary>How tokens are chosen; Hugging Face's names and order of application.</summary>
public sealed record GenerationOptions
{
    /// <summary>Most new tokens.</summary>
    public int MaxNewTokens { get; init; } = 256;

    /// <summary>Divides the logits; 0 takes the most likely token.</summary>
    public double Temperature { get; init; }

    /// <summary>Only the k most likely tokens; 0 for all.</summary>
    public int TopK { get; init; }

    /// <summary>Only the most likely tokens that hold this probability together.</summary>
    public double TopP { get; init; } = 1;

    /// <summary>Only tokens at least this likely compared with the most likely one.</summary>
    public double MinP { get; init; }

    /// <summary>Above 1: logits of tokens that occurred are divided by it if positive, multiplied if negative (Keskar et al. 2019).</summary>
    public double RepetitionPenalty { get; init; } = 1;

    /// <summary>Seed; each sequence of a batch draws the numbers that it would draw alone.</summary>
    public long Seed { get; init; } = 3407;

    /// <summary>Ids that end a sequence, beside the model's own.</summary>
    public IReadOnlyList<int> StopTokenIds { get; init; } = [];
}

/// <summary>Chooses the next token of one sequence.</summary>
/// <param name="options">How.</param>
public sealed class Sampler(GenerationOptions options)
{
    private readonly DeterministicRandom _random = new(options.Seed);
    private readonly HashSet<int> _seen = [];

    /// <summary>Notes tokens that occurred.</summary>
    public void See(ReadOnlySpan<int> ids)
    {
        foreach (var id in ids) _seen.Add(id);
    }

    /// <summary>The next token.</summary>
    /// <param name="logits">[vocabulary]; overwritten.</param>
    public int Next(Span<float> logits)
    {
        if (options.RepetitionPenalty != 1)
            foreach (var id in _seen) logits[id] = (float)(logits[id] > 0 ? logits[id] / options.RepetitionPenalty : logits[id] * options.RepetitionPenalty);
        var next = options.Temperature <= 0 ? ArgMax(logits) : Draw(logits);
        _seen.Add(next);
        return next;
    }

    private static int ArgMax(ReadOnlySpan<float> logits)
    {
        var best = 0;
        for (var i = 1; i < logits.Length; i++)
            if (logits[i] > logits[best]) best = i;
        return best;
    }

    private int Draw(ReadOnlySpan<float> logits)
    {
        var candidates = new (float Logit, int Id)[logits.Length];
        for (var i = 0; i < candidates.Length; i++) candidates[i] = (logits[i], i);
        // Most likely first; of equals the lower id.
        Array.Sort(candidates, (a, b) => b.Logit != a.Logit ? b.Logit.CompareTo(a.Logit) : a.Id.CompareTo(b.Id));
        var count = options.TopK > 0 ? Math.Min(options.TopK, candidates.Length) : candidates.Length;
        var weights = new double[count];
        var total = 0.0;
        for (var i = 0; i < count; i++) total += weights[i] = Math.Exp((candidates[i].Logit - candidates[0].Logit) / options.Temperature);
        if (options.TopP < 1)
        {
            var (kept, sum) = (0, 0.0);
            while (kept < count && sum < options.TopP * total) sum += weights[kept++];
            count = Math.Max(1, kept);
        }
        while (options.MinP > 0 && count > 1 && weights[count - 1] < options.MinP) count--;
        total = 0;
        for (var i = 0; i < count; i++) total += weights[i];
        var target = _random.NextDouble() * total;
        for (var i = 0; i < count; i++)
        {
            target -= weights[i];
            if (target < 0) return candidates[i].Id;
        }
        return candidates[count - 1].Id;
    }
}
