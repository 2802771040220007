using Lancet.Devices;
using Lancet.Kernels;
using Lancet.Models;
using Lancet.Planning;
using Lancet.Tensors;

namespace Lancet.Layers;

/// <summary>
/// A projection with an optional LoRA adapter (Hu et al. 2021).
/// <code>
/// forward    y = x·Wᵀ + b + s·(d·Aᵀ)·Bᵀ            d = dropout(x); u = d·Aᵀ [T, r] is kept, d is not
/// backward   v  = s·dy·B                            [T, r]
///            dx = dy·W + dropout'(v·A)
///            dB += s·dyᵀ·u      dA += vᵀ·d          d is made again from x
///            dW += dyᵀ·x        db += Σ_rows dy     only if W, b are trained
/// </code>
/// A and B are fp32 masters that are read in the activations' dtype, as PyTorch's autocast does; u and v are kept in it, sums are fp32. s
/// scales v once, so that dA = vᵀ·d needs no factor.
/// </summary>
public sealed partial class LoraLinear
{
    private DropoutKernel? _dropout;

    /// <summary>Creates the projection.</summary>
    /// <param name="name">Name of the module in the checkpoint.</param>
    /// <param name="weight">[out, in].</param>
    /// <param name="bias">[out], or null.</param>
    public LoraLinear(string name, Weight weight, Weight? bias)
    {
        (Name, Weight, Bias) = (name, weight, bias);
        (OutFeatures, InFeatures) = ((int)weight.Shape[0], (int)weight.Shape[1]);
    }

    /// <summary>Name of the module in the checkpoint, such as <c>model.layers.0.self_attn.q_proj</c>.</summary>
    public string Name { get; }

    /// <summary>Last part of the name, such as <c>q_proj</c>.</summary>
    public string ModuleName => Name[(Name.LastIndexOf('.') + 1)..];

    /// <summary>Whether the outputs choose a token's experts.</summary>
    public bool IsRouter => Weight.Role == WeightRole.Router;

    /// <summary>Base weight [out, in].</summary>
    public Weight Weight { get; }

    /// <summary>Bias [out], or null.</summary>
    public Weight? Bias { get; }

    /// <summary>Columns of the output.</summary>
    public int OutFeatures { get; }

    /// <summary>Columns of the input.</summary>
    public int InFeatures { get; }

    /// <summary>LoRA's A [r, in], or null without an adapter.</summary>
    public Weight? A { get; private set; }

    /// <summary>LoRA's B [out, r], or null without an adapter.</summary>
    public Weight? B { get; private set; }

    /// <summary>LoRA's s = alpha / r (or alpha / √r).</summary>
    public float Scale { get; private set; }

    /// <summary>DoRA's magnitudes [out], or null.</summary>
    public Weight? Magnitude { get; private set; }

    /// <summary>The adapter's matrices, and its magnitudes if it has any; empty without an adapter.</summary>
    public IEnumerable<Weight> Adapter => Magnitude is not null ? [A!, B!, Magnitude] : A is not null ? [A, B!] : [];

    /// <summary>Whether elements of the adapter's input are dropped.</summary>
    public bool HasDropout => _dropout is not null;

    /// <summary>Probability that an element of the adapter's input is dropped.</summary>
    internal double DropoutProbability => _dropout?.Probability ?? 0;

    /// <summary>Number that tells this projection's masks from all others'.</summary>
    internal int DropoutSite { get; private set; }

    private bool HasAdapter => A is not null;

    private int Rank => (int)A!.Shape[0];

    /// <summary>Attaches a LoRA adapter.</summary>
    /// <param name="a">[r, in].</param>
    /// <param name="b">[out, r].</param>
    /// <param name="scale">s.</param>
    /// <param name="dropout">Probability that an input element of the adapter is dropped.</param>
    /// <param name="dropoutSite">Number that tells this projection's masks from all others'.</param>
    /// <param name="magnitude">DoRA's magnitudes [out], or null.</param>
    public void Attach(Weight a, Weight b, float scale, double dropout, int dropoutSite, Weight? magnitude = null)
    {
        (A, B, Scale, DropoutSite, Magnitude) = (a, b, scale, dropoutSite, magnitude);
        _dropout = dropout > 0 ? new DropoutKernel(dropout) : null;
    }

    /// <summary>y = beta·y + x·Wᵀ + b + LoRA.</summary>
    /// <param name="c">The step.</param>
    /// <param name="x">[T, in].</param>
    /// <param name="y">[T, out] block that is written.</param>
    /// <param name="beta">0 to overwrite y, 1 to add to it (a residual connection).</param>
    /// <param name="u">x·Aᵀ, kept for the backward pass; absent without an adapter.</param>
    public void Forward(StepContext c, Tensor x, ColumnSlice y, float beta, out Tensor u)
    {
        u = default;
        c.InputObserver?.Invoke(this, x);
        if (Magnitude is not null)
        {
            ForwardDora(c, x, y, beta, out u);
            return;
        }
        if (HasAdapter)
        {
            // The adapter's part first: its product has little to compute, so writing y costs it less than reading and writing.
            RecomputeAdapterInput(c, x, out u);
            c.Device.MatMul(new MatMul
            {
                M = c.TokenCount,
                N = OutFeatures,
                K = Rank,
                A = new(u),
                B = new(B!.Dense, true),
                C = y.Tensor,
                LeadingDimensionC = y.RowStride,
                Alpha = Scale,
                Beta = beta,
            });
            if (!c.IsTraining) c.Free(u);
        }
        c.Device.MatMul(new MatMul
        {
            M = c.TokenCount,
            N = OutFeatures,
            K = InFeatures,
            A = new(x),
            B = Weight.Operand(true),
            C = y.Tensor,
            LeadingDimensionC = y.RowStride,
            Alpha = 1,
            Beta = HasAdapter ? 1 : beta,
            Bias = Bias?.Dense ?? default,
        });
    }

    /// <summary>u = dropout(x)·Aᵀ alone, as in the forward pass.</summary>
    public void RecomputeAdapterInput(StepContext c, Tensor x, out Tensor u)
    {
        u = c.Saved(Rank);
        var d = DropInput(c, x);
        c.Device.MatMul(new MatMul { M = c.TokenCount, N = Rank, K = InFeatures, A = new(d), B = new(A!.Dense, true), C = u, Alpha = 1 });
        if (d.Address != x.Address) c.Free(d);
    }

    /// <summary>Gradient of the input, and v = s·dy·B, which <see cref="BackwardWeights"/> needs and frees.</summary>
    /// <param name="c">The step.</param>
    /// <param name="dy">[T, out] block.</param>
    /// <param name="dx">[T, in] that is written; absent if nobody needs it.</param>
    /// <param name="beta">0 to overwrite dx, 1 to add to it.</param>
    public Tensor BackwardInput(StepContext c, ColumnSlice dy, Tensor dx, float beta)
    {
        Tensor v = default;
        if (Magnitude is not null) return BackwardInputDora(c, dy, dx, beta);
        if (HasAdapter)
        {
            v = c.Activations(MemoryPurpose.Workspace, Rank);
            c.Device.MatMul(new MatMul { M = c.TokenCount, N = Rank, K = OutFeatures, A = new(dy.Tensor, false, dy.RowStride), B = new(B!.Dense), C = v, Alpha = Scale });
        }
        if (!dx.Exists) return v;
        var isAdapterFirst = HasAdapter && _dropout is null;
        if (isAdapterFirst) c.Device.MatMul(new MatMul { M = c.TokenCount, N = InFeatures, K = Rank, A = new(v), B = new(A!.Dense), C = dx, Alpha = 1, Beta = beta });
        c.Device.MatMul(new MatMul
        {
            M = c.TokenCount,
            N = InFeatures,
            K = OutFeatures,
            A = new(dy.Tensor, false, dy.RowStride),
            B = Weight.Operand(false),
            C = dx,
            Alpha = 1,
            Beta = isAdapterFirst ? 1 : beta,
        });
        if (HasAdapter && _dropout is not null)
        {
            var added = c.Activations(MemoryPurpose.Workspace, InFeatures);
            c.Device.MatMul(new MatMul { M = c.TokenCount, N = InFeatures, K = Rank, A = new(v), B = new(A!.Dense), C = added, Alpha = 1 });
            DropAndAdd(c, added, dx);
            c.Free(added);
        }
        return v;
    }

    /// <summary>Gradients of whatever is trained here; frees u and v.</summary>
    /// <param name="c">The step.</param>
    /// <param name="x">The forward pass's input [T, in].</param>
    /// <param name="dy">[T, out] block.</param>
    /// <param name="u">From <see cref="Forward"/>.</param>
    /// <param name="v">From <see cref="BackwardInput"/>.</param>
    public void BackwardWeights(StepContext c, Tensor x, ColumnSlice dy, Tensor u, Tensor v)
    {
        var dyTransposed = new MatMulOperand(dy.Tensor, true, dy.RowStride);
        if (Weight.IsTrained)
            c.Device.MatMul(new MatMul { M = OutFeatures, N = InFeatures, K = c.TokenCount, A = dyTransposed, B = new(x), C = Weight.Gradient, Alpha = 1, Beta = 1 });
        if (Bias is { IsTrained: true })
        {
            var partial = c.Allocate(MemoryPurpose.Workspace, c.Accumulator, ColumnSumKernel.PartialShape(c.TokenCount, OutFeatures));
            ColumnSumKernel.Add(c.Device, c.TokenCount, dy, partial, Bias.Gradient);
            c.Free(partial);
        }
        if (!HasAdapter) return;
        Tensor dz = default;
        if (Magnitude is not null)
        {
            BackwardMagnitude(c, x, dy, u, out dz);
            dyTransposed = new(dz, true);
        }
        if (B!.IsTrained)
            c.Device.MatMul(new MatMul { M = OutFeatures, N = Rank, K = c.TokenCount, A = dyTransposed, B = new(u), C = B.Gradient, Alpha = Scale, Beta = 1 });
        if (A!.IsTrained)
        {
            var d = DropInput(c, x);
            c.Device.MatMul(new MatMul { M = Rank, N = InFeatures, K = c.TokenCount, A = new(v, true), B = new(d), C = A.Gradient, Alpha = 1, Beta = 1 });
            if (d.Address != x.Address) c.Free(d);
        }
        c.Free(u, v, dz);
    }

    /// <summary>y = dropout(x) as in this step; y may be x.</summary>
    internal void Drop(StepContext c, Tensor x, Tensor y) => _dropout!.Apply(c.Device, x, y, Masks(c));

    /// <summary>y += dropout(x) as in this step.</summary>
    internal void DropAndAdd(StepContext c, Tensor x, Tensor y) => _dropout!.AddTo(c.Device, x, y, Masks(c));

    /// <summary>Masks of the adapter's input in this step.</summary>
    internal DropoutMasks Masks(StepContext c) => new(c.DropoutSeed, DropoutSite, c.FirstToken);

    private Tensor DropInput(StepContext c, Tensor x)
    {
        if (_dropout is null || !c.IsTraining) return x;
        var d = c.Activations(MemoryPurpose.Workspace, InFeatures);
        Drop(c, x, d);
        return d;
    }
}
