using Lancet.Devices;
using Lancet.Layers;
using Lancet.Models;

namespace Lancet.Planning;

/// <summary>What a step with a mix of policies takes.</summary>
/// <param name="Seconds">Predicted time.</param>
/// <param name="PeakBytes">Most bytes that live at the same time.</param>
/// <param name="HostBytes">Host memory.</param>
/// <param name="StallSeconds">The part of the time in which computation waits for copies.</param>
internal readonly record struct StepPrediction(double Seconds, long PeakBytes, long HostBytes, double StallSeconds);

/// <summary>Copies of frozen weights in a step.</summary>
/// <param name="Schedule">When they are made.</param>
/// <param name="Seconds">What each streamed layer's takes.</param>
/// <param name="HostBytes">Host memory that the weights take.</param>
/// <param name="SavedBytes">Memory that is free on the device without the weights and with the slots.</param>
internal sealed record StreamForecast(StreamSchedule Schedule, double[] Seconds, long HostBytes, long SavedBytes)
{
    /// <summary>Predicts copies.</summary>
    /// <param name="decoder">Model.</param>
    /// <param name="layers">Streamed layers.</param>
    /// <param name="rates">How fast the device is.</param>
    public static StreamForecast Of(DecoderModel decoder, IReadOnlyList<int> layers, DeviceRates rates)
    {
        long[] bytes = [.. layers.Select(layer => decoder.Layers[layer].FrozenBytes)];
        return new(new StreamSchedule(decoder.Layers.Count, layers), Array.ConvertAll(bytes, each => each / rates.HostBytes), bytes.Sum(), layers.Sum(layer => decoder.Layers[layer].FrozenBlocks().Sum(block => block.Bytes)) - (StreamSchedule.Slots * bytes.Max()));
    }
}

/// <summary>Plays the pieces of uniform runs in the order of a step whose layers keep different things, as <see cref="Models.DecoderModel.ForwardBackward"/> runs them.</summary>
/// <param name="layers">Layers of the model.</param>
internal sealed class PolicyMix(int layers)
{
    private readonly double[] _ends = new double[(DecoderLayer.CopyChannels * layers) + StreamSchedule.Slots];
    private double _compute;

    // The link takes copies of one direction one after the other, and both directions at the same time.
    private double _copyOut;
    private double _copyIn;
    private double _stall;
    private long _alive;
    private long _peak;
    private long _host;

    /// <summary>Predicts a step.</summary>
    /// <param name="traces">For each layer the trace of a step in which all layers keep what it keeps.</param>
    /// <param name="timing">When copies are awaited and started; what the traces were made with in <see cref="CopyTiming.FetchesEarly"/>.</param>
    /// <param name="stream">Frozen weights that wait in host memory, or null.</param>
    public StepPrediction Predict(ReadOnlySpan<StepTrace> traces, CopyTiming timing, StreamForecast? stream = null)
    {
        Array.Clear(_ends);
        (_compute, _copyOut, _copyIn, _stall, _alive, _peak, _host) = (0, 0, 0, 0, 0, 0, 0);
        var (schedule, weights) = (stream?.Schedule, new WeightCopies(this, stream));
        schedule?.Begin(weights);
        Play(traces[0][StepPhase.Start]);
        var released = 0;
        for (var half = 0; half < 2 * layers; half++)
        {
            var layer = half / 2;
            if (half % 2 == 0) schedule?.Enter(weights, layer);
            Play(traces[layer][half % 2 == 0 ? StepPhase.ForwardAttention : StepPhase.ForwardMlp, layer]);
            if (half % 2 == 1) schedule?.LeaveForward(weights, layer);
            if ((2 * released) + 2 + timing.Lag > half + 1) continue;
            Play(traces[released][StepPhase.Release, released]);
            released++;
        }
        Play(traces[0][StepPhase.Head]);
        for (; released < layers; released++) Play(traces[released][StepPhase.Release, released]);
        for (var layer = layers - 2; layer >= Math.Max(0, layers - 1 - timing.Lead); layer--) Play(traces[layer][StepPhase.Fetch, layer]);
        for (var layer = layers - 1; layer >= 0; layer--)
        {
            schedule?.Enter(weights, layer);
            Play(traces[layer][StepPhase.BackwardMlp, layer]);
            if (layer > timing.Lead) Play(traces[layer - 1 - timing.Lead][StepPhase.Fetch, layer - 1 - timing.Lead]);
            schedule?.Fetched(weights);
            Play(traces[layer][StepPhase.BackwardAttention, layer]);
            schedule?.LeaveBackward(weights, layer);
        }
        Play(traces[0][StepPhase.End]);
        return new(_compute, _peak, _host, _stall);
    }

    private void Play(TracePiece piece)
    {
        _peak = Math.Max(_peak, _alive + piece.Peak);
        _alive += piece.Net;
        _host += piece.HostBytes;
        foreach (var item in piece.Events)
        {
            switch (item.Kind)
            {
                case TraceKind.Compute:
                    _compute += item.Seconds;
                    break;
                case TraceKind.CopyOut:
                    _ends[item.Channel] = _copyOut = Math.Max(_copyOut, _compute) + item.Seconds;
                    break;
                case TraceKind.CopyIn:
                    CopyIn(item.Seconds, item.Channel);
                    break;
                default:
                    Await(item.Channel);
                    break;
            }
        }
    }

    private void CopyIn(double seconds, int channel) => _ends[channel] = _copyIn = Math.Max(_copyIn, _compute) + seconds;

    private void Await(int channel)
    {
        _stall += Math.Max(0, _ends[channel] - _compute);
        _compute = Math.Max(_compute, _ends[channel]);
    }

    private readonly struct WeightCopies(PolicyMix mix, StreamForecast? stream) : IWeightCopies
    {
        public void Start(int index, int start, int count) => mix.CopyIn(stream!.Seconds[index] * count / StreamSchedule.Parts, Channel(index));

        public void Await(int index) => mix.Await(Channel(index));

        private int Channel(int index) => mix._ends.Length - StreamSchedule.Slots + StreamSchedule.SlotOf(index);
    }
}
