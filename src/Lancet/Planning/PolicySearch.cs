using Lancet.Layers;

namespace Lancet.Planning;

/// <summary>What each layer keeps, and what that is predicted to take.</summary>
/// <param name="Policies">By layer.</param>
/// <param name="Timing">When activations are copied.</param>
/// <param name="Stream">Weights that wait in host memory, or null.</param>
/// <param name="Prediction">Time, and memory of the step's buffers.</param>
internal sealed record PolicyChoice(ActivationPolicy[] Policies, CopyTiming Timing, StreamForecast? Stream, StepPrediction Prediction);

/// <summary>
/// Finds the mix of policies with the least predicted time that fits: from every policy that fits in all layers it moves layers to other policies, one kind at a time and then
/// two kinds at once, as long as that helps. A prediction takes microseconds (<see cref="PolicyMix"/>). The same rates give the same choice.
/// </summary>
internal sealed class PolicySearch
{
    // Copies take a little of the memory's bandwidth from what they run beside, and host memory is better left alone for nothing.
    private const double SecondsPerHostByte = 1e-13;
    private const int MostLag = 9;
    private const int MostLead = 2;

    /// <summary>
    /// Which layers take which: what goes to host memory first, because the last layers' backward pass comes at once; then what leaves something here, and last what leaves most.
    /// </summary>
    private static readonly ActivationPolicy[] s_order =
    [
        ActivationPolicy.OffloadAll, ActivationPolicy.OffloadHalfMlp, ActivationPolicy.OffloadAttention, ActivationPolicy.OffloadQkv, ActivationPolicy.Offload, ActivationPolicy.OffloadInput,
        ActivationPolicy.OffloadKeepHalfMlp, ActivationPolicy.OffloadKeepMlp,
        ActivationPolicy.KeepInput, ActivationPolicy.RecomputeMlp, ActivationPolicy.Keep,
    ];

    private readonly int _layers;
    private readonly ActivationPolicy[] _policies;
    private readonly StepTrace[] _traces;
    private readonly PolicyMix _mix;
    private readonly StepTrace[] _byLayer;
    private readonly CopyTiming[] _timings;
    private long _mostBytes;
    private long _mostHostBytes;
    private StreamForecast? _stream;

    /// <summary>Starts a search.</summary>
    /// <param name="layers">Layers of the model.</param>
    /// <param name="traces">Traces of steps in which all layers keep the same, for the policies to choose from.</param>
    /// <param name="fetchesEarly">See <see cref="CopyTiming.FetchesEarly"/>; as in the traces.</param>
    public PolicySearch(int layers, IReadOnlyDictionary<ActivationPolicy, StepTrace> traces, bool fetchesEarly)
    {
        _layers = layers;
        _policies = [.. s_order.Where(traces.ContainsKey)];
        _traces = [.. _policies.Select(policy => traces[policy])];
        (_mix, _byLayer) = (new PolicyMix(layers), new StepTrace[layers]);
        var (mostLag, mostLead) = Array.Exists(_policies, policy => SavedParts.Of(policy).UsesHost) ? (Math.Min(MostLag, 2 * (layers - 1)), Math.Min(MostLead, layers - 1)) : (0, 0);
        _timings = [.. Enumerable.Range(0, mostLead + 1).SelectMany(lead => Enumerable.Range(0, mostLag + 1).Select(lag => new CopyTiming(lag, fetchesEarly, lead)))];
    }

    /// <summary>What all layers with the same policy take, fastest policy first.</summary>
    /// <param name="stream">Weights that wait in host memory, or null.</param>
    public IEnumerable<(ActivationPolicy Policy, StepPrediction Prediction)> Uniform(StreamForecast? stream)
    {
        _stream = stream;
        return _policies.Select((policy, index) => (policy, Predict(Only(index), _timings[0]))).OrderBy(item => Score(item.Item2)).ThenByDescending(item => item.policy).ToArray();
    }

    /// <summary>The fastest choice within bounds, or null if none is known.</summary>
    /// <param name="mostBytes">Memory of the step's buffers.</param>
    /// <param name="mostHostBytes">Host memory of the step's activations.</param>
    /// <param name="stream">Weights that wait in host memory, or null.</param>
    /// <param name="known">Another search's choice, from which to go on as well, or null.</param>
    public PolicyChoice? Best(long mostBytes, long mostHostBytes, StreamForecast? stream, StepPlan? known)
    {
        (_mostBytes, _mostHostBytes, _stream) = (mostBytes, mostHostBytes, stream);
        (int[] Counts, CopyTiming Timing, double Score)? best = null;
        for (var policy = _policies.Length - 1; policy >= 0; policy--)
        {
            var counts = Only(policy);
            if (Fitting(counts, _timings[0]) is not { } score) continue;
            var found = Climb(counts, _timings[0], score);
            if (best is null || found.Score < best.Value.Score) best = found;
        }
        if (known is not null)
        {
            int[] counts = [.. _policies.Select(policy => known.Policies.Count(other => other == policy))];
            var timing = known.Timing with { FetchesEarly = _timings[0].FetchesEarly };
            if (Fitting(counts, timing) is { } score && Climb(counts, timing, score) is var found && (best is null || found.Score < best.Value.Score)) best = found;
        }
        best ??= BestOfTwo();
        if (best is not { } choice) return null;
        choice = ClimbInPairs(choice);
        return new([.. Enumerable.Range(0, _policies.Length).SelectMany(policy => Enumerable.Repeat(_policies[policy], choice.Counts[policy]))], choice.Timing, stream, Predict(choice.Counts, choice.Timing));
    }

    /// <summary>Where no policy fits everywhere, one by the device's memory and another by the host's, two together may.</summary>
    private (int[] Counts, CopyTiming Timing, double Score)? BestOfTwo()
    {
        (int[] Counts, CopyTiming Timing, double Score)? best = null;
        foreach (var (first, second) in Enumerable.Range(0, _policies.Length).SelectMany(first => Enumerable.Range(first + 1, _policies.Length - first - 1).Select(second => (first, second))))
        {
            var counts = Only(first);
            while (counts[first] > 1)
            {
                Move(counts, first, second, 1);
                if (Fitting(counts, _timings[0]) is { } score && (best is null || score < best.Value.Score)) best = ([.. counts], _timings[0], score);
            }
        }
        return best is { } start ? Climb(start.Counts, start.Timing, start.Score) : null;
    }

    /// <summary>The best single moves until there is none.</summary>
    private (int[] Counts, CopyTiming Timing, double Score) Climb(int[] counts, CopyTiming timing, double score)
    {
        while (true)
        {
            (int From, int To, int Count, CopyTiming Timing, double Score) best = (0, 0, 0, timing, score);
            foreach (var other in _timings)
            {
                if (other != timing && Fitting(counts, other) is { } with && with < best.Score) best = (0, 0, 0, other, with);
            }
            foreach (var (from, to) in Moves(counts))
            {
                for (var count = counts[from]; count > 0; count /= 2)
                {
                    Move(counts, from, to, count);
                    if (Fitting(counts, timing) is { } with && with < best.Score) best = (from, to, count, timing, with);
                    Move(counts, to, from, count);
                }
            }
            if (best.Score >= score) return (counts, timing, score);
            Move(counts, best.From, best.To, best.Count);
            (timing, score) = (best.Timing, best.Score);
        }
    }

    /// <summary>Moves of one layer each from two kinds to two others, or of one with another timing, each followed by single moves.</summary>
    private (int[] Counts, CopyTiming Timing, double Score) ClimbInPairs((int[] Counts, CopyTiming Timing, double Score) start)
    {
        var (counts, timing, score) = start;
        while (true)
        {
            (int[]? Counts, CopyTiming Timing, double Score) best = (null, timing, score);
            foreach (var first in Moves(counts).ToArray())
            {
                Move(counts, first.From, first.To, 1);
                foreach (var other in _timings)
                {
                    if (Fitting(counts, other) is { } with && with < best.Score) best = ([.. counts], other, with);
                }
                foreach (var second in Moves(counts).ToArray())
                {
                    Move(counts, second.From, second.To, 1);
                    if (Fitting(counts, timing) is { } with && with < best.Score) best = ([.. counts], timing, with);
                    Move(counts, second.To, second.From, 1);
                }
                Move(counts, first.To, first.From, 1);
            }
            if (best.Counts is null) return (counts, timing, score);
            (counts, timing, score) = Climb(best.Counts, best.Timing, best.Score);
        }
    }

    private IEnumerable<(int From, int To)> Moves(int[] counts)
    {
        for (var from = 0; from < counts.Length; from++)
            for (var to = 0; to < counts.Length; to++)
                if (from != to && counts[from] > 0) yield return (from, to);
    }

    private static void Move(int[] counts, int from, int to, int count)
    {
        counts[from] -= count;
        counts[to] += count;
    }

    private int[] Only(int policy)
    {
        var counts = new int[_policies.Length];
        counts[policy] = _layers;
        return counts;
    }

    private double? Fitting(int[] counts, CopyTiming timing) => Predict(counts, timing) is var prediction && prediction.PeakBytes <= _mostBytes && prediction.HostBytes <= _mostHostBytes ? Score(prediction) : null;

    private StepPrediction Predict(int[] counts, CopyTiming timing)
    {
        var layer = 0;
        for (var policy = 0; policy < counts.Length; policy++)
            for (var i = 0; i < counts[policy]; i++) _byLayer[layer++] = _traces[policy];
        return _mix.Predict(_byLayer, timing, _stream);
    }

    private static double Score(StepPrediction prediction) => prediction.Seconds + (prediction.HostBytes * SecondsPerHostByte);
}
