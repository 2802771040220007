using Lancet.Layers;

namespace Lancet.Planning;

/// <summary>What a step with a mix of policies takes.</summary>
/// <param name="Seconds">Predicted time.</param>
/// <param name="PeakBytes">Most bytes that live at the same time.</param>
/// <param name="HostBytes">Host memory.</param>
/// <param name="StallSeconds">The part of the time in which computation waits for copies.</param>
internal readonly record struct StepPrediction(double Seconds, long PeakBytes, long HostBytes, double StallSeconds);

/// <summary>Plays the pieces of uniform runs in the order of a step whose layers keep different things, as <see cref="Models.DecoderModel.ForwardBackward"/> runs them.</summary>
/// <param name="layers">Layers of the model.</param>
internal sealed class PolicyMix(int layers)
{
    private readonly double[] _ends = new double[DecoderLayer.CopyChannels * layers];
    private double _compute;
    private double _copy;
    private double _stall;
    private long _alive;
    private long _peak;
    private long _host;

    /// <summary>Predicts a step.</summary>
    /// <param name="traces">For each layer the trace of a step in which all layers keep what it keeps.</param>
    /// <param name="lag">See <see cref="Models.DecoderModel.ForwardBackward"/>.</param>
    public StepPrediction Predict(ReadOnlySpan<StepTrace> traces, int lag)
    {
        Array.Clear(_ends);
        (_compute, _copy, _stall, _alive, _peak, _host) = (0, 0, 0, 0, 0, 0);
        Play(traces[0][StepPhase.Start]);
        var released = 0;
        for (var half = 0; half < 2 * layers; half++)
        {
            var layer = half / 2;
            Play(traces[layer][half % 2 == 0 ? StepPhase.ForwardAttention : StepPhase.ForwardMlp, layer]);
            if ((2 * released) + 2 + lag > half + 1) continue;
            Play(traces[released][StepPhase.Release, released]);
            released++;
        }
        Play(traces[0][StepPhase.Head]);
        for (; released < layers; released++) Play(traces[released][StepPhase.Release, released]);
        for (var layer = layers - 1; layer >= 0; layer--)
        {
            Play(traces[layer][StepPhase.BackwardMlp, layer]);
            if (layer > 0) Play(traces[layer - 1][StepPhase.Fetch, layer - 1]);
            Play(traces[layer][StepPhase.BackwardAttention, layer]);
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
                case TraceKind.Copy:
                    _ends[item.Channel] = _copy = Math.Max(_copy, _compute) + item.Seconds;
                    break;
                default:
                    _stall += Math.Max(0, _ends[item.Channel] - _compute);
                    _compute = Math.Max(_compute, _ends[item.Channel]);
                    break;
            }
        }
    }
}
