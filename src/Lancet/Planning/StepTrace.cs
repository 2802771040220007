using Lancet.Devices;

namespace Lancet.Planning;

/// <summary>The pieces of a training step that are the same whatever the other layers keep, in the order in which one layer runs them.</summary>
internal enum StepPhase
{
    /// <summary>Before the first layer.</summary>
    Start,

    /// <summary>First half of a layer's forward pass.</summary>
    ForwardAttention,

    /// <summary>Second half of a layer's forward pass.</summary>
    ForwardMlp,

    /// <summary>Until its copies to host memory have left.</summary>
    Release,

    /// <summary>Head and loss.</summary>
    Head,

    /// <summary>A layer's copies from host memory for its MLP.</summary>
    Fetch,

    /// <summary>Backward pass of a layer's MLP.</summary>
    BackwardMlp,

    /// <summary>Backward pass of a layer's attention.</summary>
    BackwardAttention,

    /// <summary>After the last of them.</summary>
    End,
}

/// <summary>
/// What a dry run of a step asked for, cut at the borders of layers: memory, and predicted times of what runs one after the other on the compute stream and of
/// the copies beside it. Because a piece depends on its own layer's policy alone, a mix of policies is predicted by playing pieces of uniform runs (<see cref="PolicyMix"/>).
/// </summary>
/// <param name="rates">How fast the device is.</param>
/// <param name="maxSequenceLength">Tokens of a sequence, for attention; as if all were as long as they may be.</param>
internal sealed class StepTrace(DeviceRates rates, int maxSequenceLength) : IDeviceTrace, IStepTrace
{
    private readonly Dictionary<(StepPhase, int), TracePiece> _pieces = [];
    private TracePiece _current = new();

    /// <summary>A piece; an empty one if it was not run.</summary>
    public TracePiece this[StepPhase phase, int layer = 0] => _pieces.TryGetValue((phase, layer), out var piece) ? piece : TracePiece.Empty;

    /// <inheritdoc/>
    public void Begin(StepPhase phase, int layer = 0) => _pieces[(phase, layer)] = _current = new();

    /// <inheritdoc/>
    public void Kernel(double bytes) => _current.Compute(rates.Seconds(bytes));

    /// <inheritdoc/>
    public void MatMul(in MatMul product) => _current.Compute(rates.Seconds(product));

    /// <inheritdoc/>
    public void Attention(int tokens, int width, int window, bool isBackward) => _current.Compute(rates.AttentionSeconds(tokens, Math.Min(tokens, maxSequenceLength), width, window, isBackward));

    /// <inheritdoc/>
    public void GroupedOperations(double operations) => _current.Compute(rates.GroupedSeconds(operations));

    /// <inheritdoc/>
    public void CopyOut(long bytes, int channel) => _current.Events.Add(new(TraceKind.CopyOut, bytes / rates.HostBytes, channel));

    /// <inheritdoc/>
    public void CopyIn(long bytes, int channel) => _current.Events.Add(new(TraceKind.CopyIn, bytes / rates.HostBytes, channel));

    /// <inheritdoc/>
    public void Await(int channel) => _current.Events.Add(new(TraceKind.Await, 0, channel));

    /// <summary>A buffer begins to live.</summary>
    public void Allocate(long bytes) => _current.Peak = Math.Max(_current.Peak, _current.Net += bytes);

    /// <summary>A buffer ends.</summary>
    public void Free(long bytes) => _current.Net -= bytes;

    /// <summary>Host memory is taken.</summary>
    public void AllocateHost(long bytes) => _current.HostBytes += bytes;
}

/// <summary>What happens on the streams.</summary>
internal enum TraceKind
{
    /// <summary>The compute stream is busy.</summary>
    Compute,

    /// <summary>The stream of copies to the host is busy from now on, or from when it has done what it has to do already.</summary>
    CopyOut,

    /// <summary>The stream of copies from the host, likewise.</summary>
    CopyIn,

    /// <summary>The compute stream waits for a copy.</summary>
    Await,
}

/// <summary>Something that happens on the streams.</summary>
/// <param name="Kind">What.</param>
/// <param name="Seconds">How long.</param>
/// <param name="Channel">Which copy.</param>
internal readonly record struct TraceEvent(TraceKind Kind, double Seconds, int Channel);

/// <summary>A piece of a step.</summary>
internal sealed class TracePiece
{
    /// <summary>Nothing.</summary>
    public static TracePiece Empty { get; } = new();

    /// <summary>What happens, in order.</summary>
    public List<TraceEvent> Events { get; } = [];

    /// <summary>Bytes that live after the piece beyond those before it.</summary>
    public long Net { get; set; }

    /// <summary>Most bytes that lived during the piece beyond those before it.</summary>
    public long Peak { get; set; }

    /// <summary>Host memory taken.</summary>
    public long HostBytes { get; set; }

    /// <summary>The compute stream is busy for so long.</summary>
    public void Compute(double seconds)
    {
        if (Events.Count > 0 && Events[^1] is { Kind: TraceKind.Compute } last) Events[^1] = last with { Seconds = last.Seconds + seconds };
        else Events.Add(new(TraceKind.Compute, seconds, 0));
    }
}
