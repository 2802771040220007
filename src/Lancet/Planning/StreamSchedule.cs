namespace Lancet.Planning;

/// <summary>Where a step's schedule of weights goes: to copies, or to a forecast of them.</summary>
internal interface IWeightCopies
{
    /// <summary>Starts to copy some of the weights of a streamed layer to its slot.</summary>
    /// <param name="index">Which of the streamed layers.</param>
    /// <param name="start">First part of <see cref="StreamSchedule.Parts"/>.</param>
    /// <param name="count">Number of parts.</param>
    void Start(int index, int start, int count);

    /// <summary>What follows reads them.</summary>
    /// <param name="index">Which of the streamed layers.</param>
    void Await(int index);
}

/// <summary>
/// When frozen weights that wait in host memory are copied to the device. Streamed layers take turns with a few slots: as soon as a layer has done with its weights, those of the layer
/// that is next in its slot begin to come. Between the forward and the backward pass the last ones stay.
/// </summary>
internal sealed class StreamSchedule
{
    /// <summary>Slots on the device: one layer's weights are read while another's come.</summary>
    public const int Slots = 2;

    /// <summary>Parts in which a layer's weights come for the backward pass, so that activations do not wait behind all of them: the link takes one copy after the other.</summary>
    public const int Parts = 4;

    // On the link of a data centre's GPU a layer's weights take as long as the forward pass of almost two layers and some thousands of tokens.
    private const double Spacing = 2;

    private readonly int[] _indices;

    // The layer whose weights are coming in parts, and the parts that were started.
    private int _coming = -1;
    private int _started;

    /// <summary>Describes a schedule.</summary>
    /// <param name="layers">Layers of the model.</param>
    /// <param name="streamed">Those whose weights are streamed, ascending. Memory is saved by more than <see cref="Slots"/>.</param>
    public StreamSchedule(int layers, IReadOnlyList<int> streamed)
    {
        Layers = streamed;
        _indices = new int[layers];
        Array.Fill(_indices, -1);
        for (var index = 0; index < streamed.Count; index++) _indices[streamed[index]] = index;
    }

    /// <summary>Streamed layers, ascending.</summary>
    public IReadOnlyList<int> Layers { get; }

    /// <summary>
    /// A number of a model's layers: every other one up to the last, or more of them. The last one's weights are there when the backward pass begins; and the first layers are those
    /// whose activations are more likely in host memory, so that the link is free for weights while the others' backward passes run.
    /// </summary>
    public static int[] Spread(int layers, int count) => [.. Enumerable.Range(0, count).Select(i => layers - 1 - (int)((count - 1 - i) * Math.Min(Spacing, (double)layers / count)))];

    /// <summary>The slot of a streamed layer.</summary>
    public static int SlotOf(int index) => index % Slots;

    /// <summary>Which of the streamed layers a layer is, or −1.</summary>
    public int IndexOf(int layer) => _indices[layer];

    /// <summary>Before the first layer's forward pass.</summary>
    public void Begin<T>(T copies)
        where T : IWeightCopies
    {
        _coming = -1;
        for (var index = 0; index < Math.Min(Slots, Layers.Count); index++) copies.Start(index, 0, Parts);
    }

    /// <summary>Before either pass of a layer.</summary>
    public void Enter<T>(T copies, int layer)
        where T : IWeightCopies
    {
        if (_indices[layer] is not (>= 0 and var index)) return;
        if (index == _coming) Continue(copies, Parts);
        copies.Await(index);
    }

    /// <summary>After a layer's forward pass.</summary>
    public void LeaveForward<T>(T copies, int layer)
        where T : IWeightCopies
    {
        if (_indices[layer] is >= 0 and var index && index + Slots < Layers.Count) copies.Start(index + Slots, 0, Parts);
    }

    /// <summary>In a layer's backward pass, once the copies of activations for the layer before it were started.</summary>
    public void Fetched<T>(T copies)
        where T : IWeightCopies => Continue(copies, 1);

    /// <summary>After a layer's backward pass.</summary>
    public void LeaveBackward<T>(T copies, int layer)
        where T : IWeightCopies
    {
        if (_indices[layer] is >= Slots and var index)
        {
            Continue(copies, Parts);
            (_coming, _started) = (index - Slots, 0);
            // Where neighbours are streamed there is no time to lose.
            if (layer - Layers[_coming] <= Slots) Continue(copies, Parts);
        }
        Continue(copies, 1);
    }

    private void Continue<T>(T copies, int most)
        where T : IWeightCopies
    {
        if (_coming < 0) return;
        var count = Math.Min(most, Parts - _started);
        if (count > 0) copies.Start(_coming, _started, count);
        _started += count;
    }
}
