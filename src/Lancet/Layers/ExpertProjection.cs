using Lancet.Devices;
using Lancet.Kernels;
using Lancet.Models;
using Lancet.Planning;
using Lancet.Tensors;

namespace Lancet.Layers;

/// <summary>
/// One projection of every expert, over rows that are sorted by expert, with optional LoRA adapters; e is the expert of a row.
/// <code>
/// forward    y[r] = x[r]·W[e]ᵀ + s·u[r]·B[e]ᵀ            u[r] = dropout(x[r])·A[e]ᵀ is kept, the dropped input is not
/// backward   v[r] = s·dy[r]·B[e]
///            dx[r] = dy[r]·W[e] + dropout'(v[r]·A[e])
///            dB[e] += s·Σ dy[r]ᵀ·u[r]      dA[e] += Σ v[r]ᵀ·d[r]      dW[e] += Σ dy[r]ᵀ·x[r] if trained
/// </code>
/// Dtypes as in <see cref="LoraLinear"/>. On a GPU NF4 weights of all experts are written out for each product.
/// </summary>
public sealed class ExpertProjection
{
    private readonly LoraLinear[] _experts;
    private readonly Matrices _weights;
    private readonly Matrices _a;
    private readonly Matrices _b;

    /// <summary>Describes a projection.</summary>
    /// <param name="experts">The projection of each expert, of equal shapes, without biases.</param>
    internal ExpertProjection(LoraLinear[] experts)
    {
        _experts = experts;
        _weights = new(experts, expert => expert.Weight);
        _a = new(experts, expert => expert.A!);
        _b = new(experts, expert => expert.B!);
        var stack = new WeightStack(experts.Length);
        for (var i = 0; i < experts.Length; i++) experts[i].Weight.Stack = (stack, i);
    }

    /// <summary>The projection of each expert.</summary>
    public IReadOnlyList<LoraLinear> Experts => _experts;

    /// <summary>Columns of the input.</summary>
    public int InFeatures => _experts[0].InFeatures;

    /// <summary>Columns of the output.</summary>
    public int OutFeatures => _experts[0].OutFeatures;

    /// <summary>Whether the experts have adapters.</summary>
    public bool HasAdapters => _experts[0].A is not null;

    /// <summary>Whether gradients of weights need the input.</summary>
    internal bool IsTrained => HasAdapters || _experts[0].Weight.IsTrained;

    /// <summary>The adapters' matrices: all A, then all B, so that each lie at equal distances.</summary>
    internal IEnumerable<Weight> Adapters => HasAdapters ? _experts.Select(expert => expert.A!).Concat(_experts.Select(expert => expert.B!)) : [];

    private int Rank => (int)_experts[0].A!.Shape[0];

    private float Scale => _experts[0].Scale;

    /// <summary>Memory of the experts' frozen weights.</summary>
    internal IEnumerable<WeightBlock> FrozenBlocks() => _experts[0].Weight.IsTrained ? [] : WeightBlock.OfStack(_experts.Select(expert => expert.Weight));

    /// <summary>Checks that all experts or none have adapters, of one rank and scale.</summary>
    /// <exception cref="LancetException">They do not.</exception>
    internal void CheckAdapters()
    {
        var first = _experts[0];
        foreach (var other in _experts)
        {
            if (other.Magnitude is not null) throw new LancetException($"{other.Name}: DoRA's magnitudes of experts are not supported; leave the experts out of --target-modules, or use LoRA.");
            if ((other.A is null) != (first.A is null)) throw new LancetException($"{(first.A is null ? other : first).Name} has an adapter and {(first.A is null ? first : other).Name} has none; experts of a layer are adapted together or not at all.");
            if (other.A is not null && (other.A.Shape != first.A!.Shape || other.Scale != first.Scale))
                throw new LancetException($"{other.Name} has an adapter of rank {other.A.Shape[0]} and factor {other.Scale}, {first.Name} one of rank {first.A.Shape[0]} and factor {first.Scale}; adapters of a layer's experts must be alike.");
        }
    }

    /// <summary>y ← the rows' outputs.</summary>
    /// <param name="c">The step.</param>
    /// <param name="rows">Whose rows are whose.</param>
    /// <param name="x">[rows, in].</param>
    /// <param name="y">[rows, out] block that is written.</param>
    /// <param name="u">Kept for the backward pass; absent without adapters.</param>
    internal void Forward(StepContext c, ExpertRows rows, Tensor x, ColumnSlice y, out Tensor u)
    {
        u = default;
        if (HasAdapters)
        {
            RecomputeAdapterInput(c, rows, x, out u);
            c.Device.MatMul(new GroupedMatMul { Rows = rows, N = OutFeatures, K = Rank, A = u, B = _b.Transposed, C = y, Alpha = Scale });
            if (!c.IsTraining) c.Free(u);
        }
        var weights = Weights(c, true, out var workspace);
        c.Device.MatMul(new GroupedMatMul { Rows = rows, N = OutFeatures, K = InFeatures, A = x, B = weights, C = y, Alpha = 1, Beta = HasAdapters ? 1 : 0 });
        c.Free(workspace);
    }

    /// <summary>u alone, as in the forward pass; absent without adapters.</summary>
    internal void RecomputeAdapterInput(StepContext c, ExpertRows rows, Tensor x, out Tensor u)
    {
        u = default;
        if (!HasAdapters) return;
        u = c.Saved(rows.Count, Rank);
        var d = DropInput(c, x);
        c.Device.MatMul(new GroupedMatMul { Rows = rows, N = Rank, K = InFeatures, A = d, B = _a.Transposed, C = u, Alpha = 1 });
        if (d.Address != x.Address) c.Free(d);
    }

    /// <summary>Gradient of the input. Returns v, which <see cref="BackwardWeights"/> needs and frees.</summary>
    /// <param name="c">The step.</param>
    /// <param name="rows">Whose rows are whose.</param>
    /// <param name="dy">[rows, out] block.</param>
    /// <param name="dx">[rows, in] that is written.</param>
    /// <param name="beta">0 to overwrite dx, 1 to add to it.</param>
    internal Tensor BackwardInput(StepContext c, ExpertRows rows, ColumnSlice dy, Tensor dx, float beta)
    {
        Tensor v = default;
        if (HasAdapters)
        {
            v = c.Allocate(MemoryPurpose.Workspace, c.DType, new Shape(rows.Count, Rank));
            c.Device.MatMul(new GroupedMatMul { Rows = rows, N = Rank, K = OutFeatures, A = dy, B = _b, C = v, Alpha = Scale });
        }
        var weights = Weights(c, false, out var workspace);
        c.Device.MatMul(new GroupedMatMul { Rows = rows, N = InFeatures, K = OutFeatures, A = dy, B = weights, C = dx, Alpha = 1, Beta = beta });
        c.Free(workspace);
        if (!HasAdapters) return v;
        if (!_experts[0].HasDropout)
        {
            c.Device.MatMul(new GroupedMatMul { Rows = rows, N = InFeatures, K = Rank, A = v, B = _a, C = dx, Alpha = 1, Beta = 1 });
            return v;
        }
        var added = c.Allocate(MemoryPurpose.Workspace, c.DType, new Shape(rows.Count, InFeatures));
        c.Device.MatMul(new GroupedMatMul { Rows = rows, N = InFeatures, K = Rank, A = v, B = _a, C = added, Alpha = 1 });
        _experts[0].DropAndAdd(c, added, dx);
        c.Free(added);
        return v;
    }

    /// <summary>Gradients of whatever is trained here; frees u and v.</summary>
    /// <param name="c">The step.</param>
    /// <param name="rows">Whose rows are whose.</param>
    /// <param name="x">The forward pass's input [rows, in]; not read if nothing is trained.</param>
    /// <param name="dy">[rows, out] block.</param>
    /// <param name="u">From <see cref="Forward"/>.</param>
    /// <param name="v">From <see cref="BackwardInput"/>.</param>
    internal void BackwardWeights(StepContext c, ExpertRows rows, Tensor x, ColumnSlice dy, Tensor u, Tensor v)
    {
        if (_experts[0].Weight.IsTrained)
            c.Device.MatMul(new GroupedGradient { Rows = rows, M = OutFeatures, N = InFeatures, A = dy, B = x, C = _weights.Gradients, Alpha = 1 });
        if (HasAdapters)
        {
            c.Device.MatMul(new GroupedGradient { Rows = rows, M = OutFeatures, N = Rank, A = dy, B = u, C = _b.Gradients, Alpha = Scale });
            var d = DropInput(c, x);
            c.Device.MatMul(new GroupedGradient { Rows = rows, M = Rank, N = InFeatures, A = v, B = d, C = _a.Gradients, Alpha = 1 });
            if (d.Address != x.Address) c.Free(d);
        }
        c.Free(u, v);
    }

    // Not where a checkpoint has left some experts dense, or scaled each by a table of its own.
    private bool IsStack => Array.TrueForAll(_experts, expert => expert.Weight.Quantized is { } nf4 && nf4.NestedCodeTable.Address == _experts[0].Weight.Quantized?.NestedCodeTable.Address);

    private Tensor DropInput(StepContext c, Tensor x)
    {
        if (!_experts[0].HasDropout || !c.IsTraining) return x;
        var d = c.Allocate(MemoryPurpose.Workspace, c.DType, x.Shape);
        // A row's mask goes with its place, which is the same whenever the step is.
        _experts[0].Drop(c, x, d);
        return d;
    }

    /// <summary>The experts' weights as they are, or on a GPU written out from NF4.</summary>
    private IExpertMatrices Weights(StepContext c, bool isTransposed, out Tensor workspace)
    {
        workspace = default;
        if (!c.Device.PlanTarget.IsCuda || Array.TrueForAll(_experts, expert => expert.Weight.Quantized is null)) return isTransposed ? _weights.Transposed : _weights;
        workspace = c.Allocate(MemoryPurpose.Workspace, c.DType, new Shape(_experts.Length, OutFeatures, InFeatures));
        if (IsStack)
        {
            Nf4Kernel.DequantizeStack(c.Device, _experts[0].Weight.Quantized!, workspace);
            return new Stacked(workspace, isTransposed);
        }
        for (var i = 0; i < _experts.Length; i++)
        {
            var (weight, target) = (_experts[i].Weight, workspace.Rows(i, 1));
            if (weight.Quantized is { } nf4) Nf4Kernel.Dequantize(c.Device, nf4, target);
            else ElementwiseKernel.Convert(c.Device, weight.Dense, target);
        }
        return new Stacked(workspace, isTransposed);
    }

    /// <summary>A matrix of each expert where it lies now; weights get their memory after they are described.</summary>
    private sealed class Matrices(LoraLinear[] experts, Func<LoraLinear, Weight> select) : IExpertMatrices
    {
        public IExpertMatrices Transposed { get; } = new View(experts, expert => select(expert).Operand(true));

        public IExpertMatrices Gradients { get; } = new View(experts, expert => new(select(expert).Gradient));

        public int Count => experts.Length;

        public MatMulOperand this[int expert] => select(experts[expert]).Operand(false);
    }

    private sealed class View(LoraLinear[] experts, Func<LoraLinear, MatMulOperand> select) : IExpertMatrices
    {
        public int Count => experts.Length;

        public MatMulOperand this[int expert] => select(experts[expert]);
    }

    private sealed class Stacked(Tensor all, bool isTransposed) : IExpertMatrices
    {
        public int Count => (int)all.Shape[0];

        public MatMulOperand this[int expert] => new(all.Rows(expert, 1), isTransposed);
    }
}
