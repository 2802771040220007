using System.Runtime.CompilerServices;
using Lancet.Devices;
using Lancet.Kernels;
using Lancet.Models;
using Lancet.Planning;
using Lancet.Tensors;
using Lancet.Tile;
using Lancet.Training;

namespace Lancet.Layers;

/// <summary>
/// Projections of one input whose outputs lie side by side: query, key and value; gate and up; output and down alone, and what a checkpoint has fused. Either each computes for
/// itself (<see cref="LoraLinear"/>), or all are one product, with the adapters in the border of the stacked weights:
/// <code>
/// stored    [ W  sB ]    W = [W₁; W₂; …] [out, in], A = [A₁; A₂; …] [r, in], sB [out, r] with block i at Wᵢ's rows and Aᵢ's columns, 0 elsewhere
///           [ A  –  ]
/// forward   u = x·Aᵀ      y = [x | u]·[W | sB]ᵀ      u is written behind x, whose rows have room for it
/// backward  v = dy·sB     dx = [dy | v]·[W; A]       v is written behind dy, likewise
///           dBᵢ += s·dyᵢᵀ·uᵢ        dA += vᵀ·x
/// </code>
/// So an adapter costs products with r columns only: no pass over y or dx is added, and each is rounded once. v and dB are made in one pass over dy where <see cref="LoraBackwardKernel"/> suits. Copies of A and sB are made
/// again from the masters after every step. NF4 weights are written out in this form for each product, the copies beside them. DoRA's magnitudes and dropout (the other parts of this class) take passes of their own.
/// </summary>
public sealed partial class ProjectionGroup
{
    // What a row of u or v is rounded up to: 16 bytes, which fast loads ask for.
    private const int RankAlignment = 8;
    private const int BorderAlignment = 16;

    // So that a group that lies behind another starts as aligned as a buffer.
    private const int MemoryAlignment = 256;
    private static readonly bool s_mayBorder = Environment.GetEnvironmentVariable("LANCET_ADAPTER_BORDERS") != "0";
    private readonly LoraLinear[] _projections;
    private readonly int[] _firstOutput;
    private readonly int[] _firstRank;
    private readonly bool _keepsInput;
    private int _rank;
    private bool _isQuantized;
    private LoraOutputs? _outputs;
    private (int Count, int Rank)? _alike;
    private Tensor _stored;
    private Tensor _a;
    private Tensor _scaledB;
    private Tensor _bias;
    private Tensor _held;

    /// <summary>Describes a group.</summary>
    /// <param name="keepsInput">Whether the input, and with it u behind it, is there in the backward pass.</param>
    /// <param name="projections">One to three projections of the same input, in the order of their outputs.</param>
    internal ProjectionGroup(bool keepsInput, params LoraLinear[] projections)
    {
        (_keepsInput, _projections, _firstOutput, _firstRank) = (keepsInput, projections, new int[projections.Length], new int[projections.Length]);
        for (var i = 0; i < projections.Length; OutFeatures += projections[i++].OutFeatures) _firstOutput[i] = OutFeatures;
    }

    /// <summary>The projections, in the order of their outputs.</summary>
    public IReadOnlyList<LoraLinear> Projections => _projections;

    /// <summary>Whether any projection has an adapter.</summary>
    public bool HasAdapters => Array.Exists(_projections, projection => projection.A is not null);

    /// <summary>Whether elements of any adapter's input are dropped.</summary>
    public bool HasDropout => Array.Exists(_projections, projection => projection.HasDropout);

    /// <summary>Columns of the input.</summary>
    public int InFeatures => _projections[0].InFeatures;

    /// <summary>Columns of all outputs.</summary>
    public int OutFeatures { get; }

    /// <summary>Whether the group is one product with its adapters in the border.</summary>
    public bool IsBordered { get; private set; }

    /// <summary>
    /// A of all projections as products read it, how many there are, and their rank, where whoever makes the input can make u and add to <see cref="GradientsOfA"/> by itself: with adapters of one rank in the border, without dropout and
    /// magnitudes. Null elsewhere.
    /// </summary>
    internal (Tensor A, int Count, int Rank)? AlikeAdapters => IsBordered && _alike is { } alike ? (_a, alike.Count, alike.Rank) : null;

    /// <summary>The gradients of all A as one matrix [r·projections, in], of <see cref="AlikeAdapters"/>.</summary>
    internal Tensor GradientsOfA(StepContext c) => new(_projections[0].A!.Gradient.Address, c.Accumulator, new Shape(_rank, InFeatures));

    /// <summary>Columns that rows of the input, and of the outputs' gradient, need behind their own.</summary>
    public int Room => IsBordered ? (int)Aligned(_rank, BorderAlignment) : 0;

    /// <summary>The adapters' matrices: all A, then all B; then magnitudes.</summary>
    public IEnumerable<Weight> Adapters => Adapted.Select(projection => projection.A!).Concat(Adapted.Select(projection => projection.B!)).Concat(Adapted.Select(projection => projection.Magnitude).OfType<Weight>());

    /// <summary>Weights and biases of the checkpoint that the bordered form replaces.</summary>
    internal IEnumerable<Weight> BaseWeights => _projections.Select(projection => projection.Weight).Concat(_projections.Select(projection => projection.Bias).OfType<Weight>());

    /// <summary>Whether the base weights themselves are in the bordered form now, and not only copies of A and s·B.</summary>
    internal bool HoldsWeights => _stored.Exists;

    private IEnumerable<LoraLinear> Adapted => _projections.Where(projection => projection.A is not null);

    private int Stride => InFeatures + Room;

    // Then A's of a group are adjacent in the arena, and one product serves them all.
    private bool HasAdjacentA => _projections.All(projection => projection.A is { } a && a.Shape[0] % RankAlignment == 0 && a.Shape.Count % ParameterArena.SlotAlignment == 0);

    /// <summary>Decides whether the group is bordered: on GPUs, where passes over memory are what an adapter costs, with dense frozen weights, with magnitudes of all projections or none, and with dropout that <see cref="LoraDropoutKernel"/> takes or none.</summary>
    /// <returns>Bytes that the border adds.</returns>
    internal long ChooseBorder(PlanTarget target, DType dtype, bool isQuantized)
    {
        var (biases, magnitudes) = (_projections.Count(projection => projection.Bias is not null), _projections.Count(projection => projection.Magnitude is not null));
        // A quantised weight of an odd number of elements stays dense, see WeightLoader.
        _isQuantized = isQuantized;
        var dropped = HasDropout ? CommonInputs(dtype) : null;
        IsBordered = s_mayBorder && target.IsCuda && (!isQuantized || InFeatures % Quantization.Nf4Weight.BlockSize == 0) && HasAdapters && (!HasDropout || (magnitudes == 0 && dropped is not null)) && (biases == 0 || biases == _projections.Length) && (magnitudes == 0 || magnitudes == _projections.Length)
            && BaseWeights.All(weight => !weight.IsTrained) && _projections.All(projection => projection.Weight.Quantized is not null == isQuantized || !projection.Weight.Dense.Exists);
        if (!IsBordered) return 0;
        _rank = 0;
        for (var i = 0; i < _projections.Length; i++)
        {
            _firstRank[i] = _rank;
            if (_projections[i].A is { } a) _rank += (int)Aligned(a.Shape[0], RankAlignment);
        }
        (_outputs, _dropped, _alike) = (CommonOutputs(dtype), dropped, CommonAdapters());
        foreach (var weight in Adapters) weight.IsInBorder = true;
        return (StoredElements - (isQuantized ? 0 : (long)OutFeatures * InFeatures)) * dtype.SizeInBytes();
    }

    /// <summary>How many adapters there are, and their rank, if that is one, their gradients of A are adjacent, and nothing else is between them and their input; or null.</summary>
    private (int Count, int Rank)? CommonAdapters()
    {
        if (IsDecomposed || HasDropout || !HasAdjacentA) return null;
        var rank = _projections[0].A!.Shape[0];
        return rank * _projections.Length == _rank && Array.TrueForAll(_projections, projection => projection.A!.Shape[0] == rank) ? (_projections.Length, (int)rank) : null;
    }

    /// <summary>The outputs as <see cref="LoraBackwardKernel"/> takes them, which asks for adapters of one rank and factor, so that the gradients of all B are adjacent in the arena; or null.</summary>
    private LoraOutputs? CommonOutputs(DType dtype)
    {
        if (!_projections.All(projection => projection.A is { } a && a.Shape[0] == _projections[0].A!.Shape[0] && projection.Scale == _projections[0].Scale && projection.B!.Shape.Count % ParameterArena.SlotAlignment == 0)) return null;
        var outputs = new LoraOutputs(OutFeatures, _projections.Length > 1 ? _firstOutput[1] : OutFeatures, _projections.Length > 2 ? _firstOutput[2] : OutFeatures, (int)_projections[0].A!.Shape[0]);
        return LoraBackwardKernel.Suits(outputs, dtype) ? outputs : null;
    }

    /// <summary>Elements that are kept: of the bordered weights, or of A and sB alone beside NF4 weights.</summary>
    internal long StoredElements => Aligned(_isQuantized ? (long)_rank * (InFeatures + OutFeatures) : (long)(OutFeatures + _rank) * Stride, MemoryAlignment);

    /// <summary>Gives the bordered form a shape without memory behind it, for planning.</summary>
    internal void DescribeStorage(DType dtype)
    {
        if (!IsBordered || _a.Exists) return;
        Place(new Tensor(DecoderModel.DescribedAddress, dtype, new Shape(StoredElements)));
        if (_projections[0].Bias is not null) _bias = new Tensor(DecoderModel.DescribedAddress, dtype.Accumulator(), new Shape(OutFeatures));
    }

    /// <summary>Moves the weights into the bordered form; the memory that they had can be freed.</summary>
    /// <param name="device">Device.</param>
    /// <param name="stored"><see cref="StoredElements"/> zeros of the activations' dtype.</param>
    /// <param name="bias">Elements for all biases, or absent without any.</param>
    internal void Store(Device device, Tensor stored, Tensor bias)
    {
        Place(stored);
        _bias = bias;
        for (var i = 0; i < _projections.Length; i++)
        {
            var (projection, weight) = (_projections[i], _projections[i].Weight);
            if (!_isQuantized)
            {
                var rows = _stored.Rows(_firstOutput[i], projection.OutFeatures);
                ElementwiseKernel.ConvertRows(device, projection.OutFeatures, InFeatures, weight.Dense, rows);
                weight.Dense = new Tensor(rows.Address, rows.DType, new Shape(rows.Count - Room));
                weight.RowStride = Stride;
            }
            if (projection.Bias is not null)
            {
                var part = _bias.Rows(_firstOutput[i], projection.OutFeatures);
                device.Copy(projection.Bias.Dense, part);
                projection.Bias.Dense = part;
            }
        }
    }

    /// <summary>Memory of the frozen weights: the bordered form's, or each projection's own.</summary>
    internal IEnumerable<WeightBlock> FrozenBlocks() => HoldsWeights
        ? [new(_stored.Address, StoredElements * _stored.DType.SizeInBytes(), MoveStored)]
        : _projections.Where(projection => !projection.Weight.IsTrained).SelectMany(projection => projection.Weight.Blocks());

    private void MoveStored(nint delta)
    {
        (_stored, _a, _scaledB) = (_stored.MovedBy(delta), _a.MovedBy(delta), _scaledB.MovedBy(delta));
        foreach (var projection in _projections) projection.Weight.Dense = projection.Weight.Dense.MovedBy(delta);
    }

    /// <summary>Where the copies of A and s·B lie, which <see cref="ParameterArena.RefreshCopy"/> makes again.</summary>
    internal IEnumerable<ScatteredCopy> Copies()
    {
        for (var i = 0; i < _projections.Length; i++)
        {
            var projection = _projections[i];
            if (projection.A is null) continue;
            yield return new(projection.A, _a.Rows(_firstRank[i], projection.A.Shape[0]), 1);
            yield return new(projection.B!, ColumnSlice.Of(_scaledB.Rows(_firstOutput[i], projection.OutFeatures), _firstRank[i]), projection.Scale);
        }
    }

    /// <summary>y = addend + x·Wᵀ + b + LoRA for all projections.</summary>
    /// <param name="c">The step.</param>
    /// <param name="x">[T, in], with <see cref="Room"/> behind each row.</param>
    /// <param name="y">[T, out].</param>
    /// <param name="addend">[T, out], dense like y then (a residual connection), or absent.</param>
    /// <param name="u">Inputs of the adapters' second halves, kept for the backward pass.</param>
    /// <param name="hasU">Whether u lies behind x already, see <see cref="AlikeAdapters"/>.</param>
    internal void Forward(StepContext c, ColumnSlice x, ColumnSlice y, Tensor addend, out AdapterInputs u, bool hasU = false)
    {
        u = default;
        if (!IsBordered)
        {
            if (addend.Exists) c.Device.Copy(addend, y.Tensor);
            for (var i = 0; i < _projections.Length; i++) _projections[i].Forward(c, x.Tensor, y.At(_firstOutput[i]), addend.Exists ? 1 : 0, out u[i]);
            return;
        }
        if (_keepsInput || !c.IsTraining)
        {
            if (!hasU) WriteAdapterInputs(c, x, x.At(InFeatures));
        }
        else if (hasU)
        {
            u[0] = c.Saved(_rank);
            ElementwiseKernel.ConvertRows(c.Device, c.TokenCount, _rank, x.At(InFeatures), u[0]);
        }
        else
        {
            RecomputeAdapterInputs(c, x, out u);
            ElementwiseKernel.ConvertRows(c.Device, c.TokenCount, _rank, u[0], x.At(InFeatures));
        }
        var weights = Weights(c);
        if (IsDecomposed) ForwardDecomposed(c, x, y, addend, weights, ref u);
        else Multiply(c, x, weights, y, addend, _bias);
        Release(c, weights);
    }

    /// <summary>y = addend + [x | u]·[W | sB]ᵀ + b.</summary>
    private void Multiply(StepContext c, ColumnSlice x, Tensor weights, ColumnSlice y, Tensor addend, Tensor bias) => c.Device.MatMul(new MatMul
    {
        M = c.TokenCount,
        N = OutFeatures,
        K = InFeatures + _rank,
        A = new(x.Tensor, false, x.RowStride),
        B = new(weights, true, Stride),
        C = y.Tensor,
        LeadingDimensionC = y.RowStride,
        Alpha = 1,
        Beta = addend.Exists ? 1 : 0,
        Addend = addend,
        Bias = bias,
    });

    /// <summary>u alone, as in the forward pass.</summary>
    internal void RecomputeAdapterInputs(StepContext c, ColumnSlice x, out AdapterInputs u)
    {
        u = default;
        if (!IsBordered)
        {
            for (var i = 0; i < _projections.Length; i++)
                if (_projections[i].A is not null) _projections[i].RecomputeAdapterInput(c, x.Tensor, out u[i]);
            return;
        }
        if (_keepsInput)
        {
            WriteAdapterInputs(c, x, x.At(InFeatures));
            return;
        }
        u[0] = c.Saved(_rank);
        WriteAdapterInputs(c, x, u[0]);
    }

    /// <summary>
    /// Gradient of the input, and v for <see cref="BackwardWeights"/>: returned, or behind dy. Adds to the gradients of B, and of magnitudes, already where that takes no pass of its own.
    /// </summary>
    /// <param name="c">The step.</param>
    /// <param name="x">The forward pass's input where it is kept, or the group <see cref="DropsEarly"/>; not read elsewhere.</param>
    /// <param name="dy">[T, out], with <see cref="Room"/> behind each row.</param>
    /// <param name="u">From <see cref="Forward"/>.</param>
    /// <param name="dx">[T, in] that is written; absent if nobody needs it.</param>
    /// <param name="z">The forward pass's output where the group <see cref="LeavesProduct"/>; dy is then overwritten.</param>
    internal AdapterInputs BackwardInput(StepContext c, ColumnSlice x, ColumnSlice dy, AdapterInputs u, Tensor dx, ColumnSlice z = default)
    {
        AdapterInputs v = default;
        if (!IsBordered)
        {
            for (var i = 0; i < _projections.Length; i++) v[i] = _projections[i].BackwardInput(c, dy.At(_firstOutput[i]), dx, i == 0 ? 0 : 1);
            return v;
        }
        Tensor weights = default;
        if (IsDecomposed)
        {
            if (!LeavesProduct) weights = Weights(c);
            v = ScaleGradient(c, weights, ref dy, u, z);
        }
        if (_outputs is { } outputs) BackwardOutputs(c, outputs, dy, InputsOf(x, u));
        else c.Device.MatMul(new MatMul
        {
            M = c.TokenCount,
            N = _rank,
            K = OutFeatures,
            A = new(dy.Tensor, false, dy.RowStride),
            B = new(_scaledB, false, _scaledB.Shape[1]),
            C = dy.At(OutFeatures).Tensor,
            LeadingDimensionC = dy.RowStride,
            Alpha = 1,
        });
        if (_dropped is { } dropped) BackwardDropped(c, dropped, x, dy, dx, DropsEarly);
        if (dx.Exists)
        {
            if (!weights.Exists) weights = Weights(c);
            c.Device.MatMul(new MatMul
            {
                M = c.TokenCount,
                N = InFeatures,
                K = OutFeatures + (_dropped is null ? _rank : 0),
                A = new(dy.Tensor, false, dy.RowStride),
                B = new(weights, false, Stride),
                C = dx,
                LeadingDimensionC = dx.Shape.RowCount,
                Alpha = 1,
                Beta = _dropped is null ? 0 : 1,
            });
        }
        if (weights.Exists) Release(c, weights);
        return v;
    }

    /// <summary>Gradients of whatever is trained here; frees u and v.</summary>
    /// <param name="c">The step.</param>
    /// <param name="x">The forward pass's input [T, in], with <see cref="BackwardRoom"/> behind each row; absent where the gradients of A were made with it, see <see cref="AlikeAdapters"/>.</param>
    /// <param name="dy">[T, out], as <see cref="BackwardInput"/> left it.</param>
    /// <param name="u">From <see cref="Forward"/>.</param>
    /// <param name="v">From <see cref="BackwardInput"/>.</param>
    internal void BackwardWeights(StepContext c, ColumnSlice x, ColumnSlice dy, AdapterInputs u, AdapterInputs v)
    {
        if (!IsBordered)
        {
            for (var i = 0; i < _projections.Length; i++) _projections[i].BackwardWeights(c, x.Tensor, dy.At(_firstOutput[i]), u[i], v[i]);
            return;
        }
        var inputs = InputsOf(x, u);
        if (IsDecomposed)
        {
            BackwardMagnitudes(c, x, dy, inputs, v[1]);
            if (v[0].Exists) dy = v[0];
        }
        var all = dy.At(OutFeatures);
        for (var i = 0; i < _projections.Length; i++)
        {
            var projection = _projections[i];
            if (projection.A is null) continue;
            var rank = (int)projection.A.Shape[0];
            if (_outputs is null) c.Device.MatMul(new MatMul
            {
                M = projection.OutFeatures,
                N = rank,
                K = c.TokenCount,
                A = new(dy.At(_firstOutput[i]).Tensor, true, dy.RowStride),
                B = new(inputs.At(_firstRank[i]).Tensor, false, inputs.RowStride),
                C = projection.B!.Gradient,
                Alpha = projection.Scale,
                Beta = 1,
            });
            if (_dropped is not null || !x.Tensor.Exists || (i > 0 && HasAdjacentA)) continue;
            c.Device.MatMul(new MatMul
            {
                M = HasAdjacentA ? _rank : rank,
                N = InFeatures,
                K = c.TokenCount,
                A = new(all.At(_firstRank[i]).Tensor, true, all.RowStride),
                B = new(x.Tensor, false, x.RowStride),
                C = projection.A.Gradient,
                Alpha = 1,
                Beta = 1,
            });
        }
        if (_dropped is { } dropped && !DropsEarly) BackwardDropped(c, dropped, x, dy, default, true);
        u.Free(c);
        v.Free(c);
    }

    /// <summary>v behind dy, and the gradients of all B.</summary>
    private void BackwardOutputs(StepContext c, LoraOutputs outputs, ColumnSlice dy, ColumnSlice u)
    {
        var shapes = LoraBackwardKernel.PartialShapes(c.TokenCount, outputs, c.Device.PlanTarget);
        var partial = (V: c.Allocate(MemoryPurpose.Workspace, c.Accumulator, shapes.V), B: c.Allocate(MemoryPurpose.Workspace, c.Accumulator, shapes.B));
        var gradient = new Tensor(_projections[0].B!.Gradient.Address, c.Accumulator, new Shape(OutFeatures, outputs.Rank));
        LoraBackwardKernel.Run(c.Device, c.TokenCount, outputs, dy, _scaledB, u, dy.At(OutFeatures), _projections[0].Scale, partial, gradient);
        c.Free(partial.V, partial.B);
    }

    private ColumnSlice InputsOf(ColumnSlice x, AdapterInputs u) => _keepsInput ? x.At(InFeatures) : u[0];

    private void WriteAdapterInputs(StepContext c, ColumnSlice x, ColumnSlice u)
    {
        if (c.IsTraining && _dropped is { } dropped)
        {
            ForwardDropped(c, dropped, x, u);
            return;
        }
        c.Device.MatMul(new MatMul
        {
            M = c.TokenCount,
            N = _rank,
            K = InFeatures,
            A = new(x.Tensor, false, x.RowStride),
            B = new(_a, true, _a.Shape[1]),
            C = u.Tensor,
            LeadingDimensionC = u.RowStride,
            Alpha = 1,
        });
    }

    /// <summary>Views of what is kept; A's and sB's rows are as long as the memory's, so that a view of theirs can be cut by rows.</summary>
    private void Place(Tensor memory)
    {
        if (_isQuantized)
        {
            _a = new Tensor(memory.Address, memory.DType, new Shape(_rank, InFeatures));
            _scaledB = new Tensor(ColumnSlice.Of(memory, (long)_rank * InFeatures).Tensor.Address, memory.DType, new Shape(OutFeatures, _rank));
            return;
        }
        _stored = new Tensor(memory.Address, memory.DType, new Shape(OutFeatures + _rank, Stride));
        _a = _stored.Rows(OutFeatures, _rank);
        _scaledB = new Tensor(ColumnSlice.Of(_stored, InFeatures).Tensor.Address, _stored.DType, new Shape(OutFeatures, Stride));
    }

    /// <summary>Writes NF4 weights out for all products until <see cref="LetGo"/>, for groups that multiply more than once.</summary>
    internal void Hold(StepContext c)
    {
        if (IsBordered && _isQuantized) _held = WriteOut(c);
    }

    /// <summary>See <see cref="Hold"/>.</summary>
    internal void LetGo(StepContext c)
    {
        c.Free(_held);
        _held = default;
    }

    /// <summary>The bordered weights: as they are kept, or written out from NF4 into workspace.</summary>
    private Tensor Weights(StepContext c) => !_isQuantized ? _stored : _held.Exists ? _held : WriteOut(c);

    private Tensor WriteOut(StepContext c)
    {
        var weights = c.Allocate(MemoryPurpose.Workspace, _a.DType, new Shape(OutFeatures + _rank, Stride));
        for (var i = 0; i < _projections.Length; i++) Nf4Kernel.DequantizeRows(c.Device, _projections[i].Weight.Quantized!, weights.Rows(_firstOutput[i], _projections[i].OutFeatures));
        ElementwiseKernel.ConvertRows(c.Device, OutFeatures, _rank, _scaledB, ColumnSlice.Of(weights, InFeatures));
        ElementwiseKernel.ConvertRows(c.Device, _rank, InFeatures, _a, weights.Rows(OutFeatures, _rank));
        return weights;
    }

    private void Release(StepContext c, Tensor weights)
    {
        if (_isQuantized && !_held.Exists) c.Free(weights);
    }

    private static long Aligned(long count, int to) => (count + to - 1) / to * to;
}

/// <summary>
/// u or v of a group: one tensor a projection, or one for all of them; absent ones where there is no adapter or the values are elsewhere. With magnitudes in the border the second tensor
/// beside u is z where the group keeps its product, or the factors where it leaves it, and instead of v there are dz and the factors.
/// </summary>
[InlineArray(3)]
internal struct AdapterInputs
{
    private Tensor _first;

    /// <summary>Ends the lives of all.</summary>
    public readonly void Free(StepContext c) => c.Free(this[0], this[1], this[2]);
}
