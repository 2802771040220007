using Lancet.Devices;
using Lancet.Kernels;
using Lancet.Models;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Training;

/// <summary>
/// All trained parameters in one flat buffer of fp32 (fp64 beside fp64 activations), with gradients of the same layout, so that clipping and the optimiser are one launch
/// each. Parameters with weight decay come first. Every parameter starts at a multiple of <see cref="SlotAlignment"/> elements; the gaps
/// hold zeros and stay zero.
/// </summary>
public sealed class ParameterArena : IDisposable
{
    /// <summary>Elements to which each parameter's start is aligned: the block size of the 8-bit optimiser state.</summary>
    public const int SlotAlignment = 256;

    private readonly Dictionary<Weight, long> _offsets = [];
    private readonly List<ScatteredCopies> _copies;
    private readonly List<ScatteredCopies> _taken = [];
    private readonly DeviceBuffer _parameters;
    private DeviceBuffer? _gradients;
    private readonly DeviceBuffer? _computeCopy;

    /// <summary>Lays out the given weights and assigns their <see cref="Weight.Dense"/>.</summary>
    /// <param name="device">Where the memory comes from.</param>
    /// <param name="weights">Weights to train, in a stable order.</param>
    /// <param name="compute">Dtype that the computation reads base weights in; for other than fp32 a copy is kept beside the masters, as PyTorch's autocast makes one at each use.</param>
    /// <param name="copies">Copies of weights in other places, one list a buffer.</param>
    internal ParameterArena(Device device, IReadOnlyList<Weight> weights, DType compute, IEnumerable<IEnumerable<ScatteredCopy>>? copies = null)
    {
        Weights = [.. weights.OrderByDescending(weight => weight.Decays)];
        long offset = 0;
        foreach (var weight in Weights)
        {
            if (weight.Decays) DecayBoundary = Align(offset + weight.Shape.Count);
            _offsets[weight] = offset;
            ParameterCount += weight.Shape.Count;
            offset = Align(offset + weight.Shape.Count);
        }
        Count = offset;
        var master = compute.Accumulator();
        _parameters = device.Allocate(offset * master.SizeInBytes(), "trained parameters");
        Parameters = _parameters.View(master, new Shape(offset));
        if (NeedsCopy(Weights, compute))
        {
            _computeCopy = device.Allocate(offset * compute.SizeInBytes(), "trained parameters in the compute dtype");
            ComputeCopy = _computeCopy.View(compute, new Shape(offset));
        }
        _copies = [.. (copies ?? []).Select(each => new ScatteredCopies(device, each, weight => _offsets[weight]))];
        foreach (var weight in Weights)
        {
            weight.Dense = UsesCopy(weight) ? Slice(ComputeCopy, weight) : Slice(Parameters, weight);
        }
    }

    /// <summary>The weights, in the order of the arena.</summary>
    public IReadOnlyList<Weight> Weights { get; }

    /// <summary>Trained parameters, gaps not counted.</summary>
    public long ParameterCount { get; }

    /// <summary>Elements of the arena, gaps included.</summary>
    public long Count { get; }

    /// <summary>Weight decay applies to elements before this one.</summary>
    public long DecayBoundary { get; }

    /// <summary>fp32 masters [<see cref="Count"/>].</summary>
    public Tensor Parameters { get; }

    /// <summary>Gradients [<see cref="Count"/>], absent until <see cref="AllocateGradients"/>.</summary>
    public Tensor Gradients { get; private set; }

    /// <summary>Copy in the compute dtype, or absent.</summary>
    public Tensor ComputeCopy { get; }

    /// <summary>Allocates the gradients and assigns every weight's <see cref="Weight.Gradient"/>.</summary>
    public void AllocateGradients(Device device)
    {
        if (_gradients is not null) return;
        _gradients = device.Allocate(Parameters.Bytes, "gradients");
        Gradients = _gradients.View(Parameters.DType, Parameters.Shape);
        foreach (var weight in Weights) weight.Gradient = Slice(Gradients, weight);
    }

    /// <summary>Elements that an arena of the given weights has, gaps included.</summary>
    public static long CountOf(IEnumerable<Weight> weights) => weights.Sum(weight => Align(weight.Shape.Count));

    /// <summary>Whether an arena keeps a copy in the compute dtype.</summary>
    public static bool NeedsCopy(IEnumerable<Weight> weights, DType compute) => compute != compute.Accumulator() && weights.Any(UsesComputeDType);

    /// <summary>Elements, gaps included, of the weights at the start of the arena that all meet a condition.</summary>
    internal long LeadingElements(Func<Weight, bool> condition) => CountOf(Weights.TakeWhile(condition));

    /// <summary>A weight's fp32 master.</summary>
    public Tensor Master(Weight weight) => Slice(Parameters, weight);

    /// <summary>Brings the copies in the compute dtype up to date with the masters.</summary>
    public void RefreshCopy(Device device)
    {
        foreach (var copies in _copies) copies.Refresh(device, Parameters);
        if (ComputeCopy.Exists) ElementwiseKernel.Convert(device, Parameters, ComputeCopy);
    }

    /// <summary>Leaves the copies in a piece of memory to the caller, who makes them again when they are read; null if there are none.</summary>
    internal ScatteredCopies? TakeCopies(nint address, long bytes)
    {
        var taken = _copies.Find(copies => copies.AreIn(address, bytes));
        if (taken is null) return null;
        _copies.Remove(taken);
        _taken.Add(taken);
        return taken;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _parameters.Dispose();
        _gradients?.Dispose();
        _computeCopy?.Dispose();
        foreach (var copies in _copies.Concat(_taken)) copies.Dispose();
    }

    // Norms, biases and magnitudes are read in the masters' dtype whatever the activations are.
    private static bool UsesComputeDType(Weight weight) => !weight.IsInBorder && !weight.IsWide;

    private bool UsesCopy(Weight weight) => ComputeCopy.Exists && UsesComputeDType(weight);

    private static long Align(long count) => (count + SlotAlignment - 1) / SlotAlignment * SlotAlignment;

    private Tensor Slice(Tensor flat, Weight weight) => flat.Rows(_offsets[weight], weight.Shape.Count).Reshape(weight.Shape);
}
