using Lancet.Kernels;
using Lancet.Planning;
using Lancet.Tensors;

namespace Lancet.Layers;

/// <content>
/// Weight-decomposed adapters (Liu et al., "DoRA", 2024) in the border, see <see cref="DoraKernel"/>.
/// <code>
/// forward    z = [x | u]·[W | sB]ᵀ      y = g ⊙ z + b
/// backward   dz = g ⊙ dy, and v, dx and dB from it as without magnitudes      dm += Σ dy ⊙ z / n
/// </code>
/// z is rounded once, or not at all: whoever reads y multiplies by g itself (<see cref="LeavesProduct"/>), z is kept beside y (<see cref="KeepsProduct"/>), or it is made again.
/// </content>
public sealed partial class ProjectionGroup
{
    /// <summary>Whether z is kept for the backward pass, for as long as it does not go to host memory; if not it is made again with the same bits.</summary>
    internal bool KeepsProduct { get; init; }

    /// <summary>Whether the reader of y could multiply by g.</summary>
    internal bool IsScaledByReader { get; init; }

    /// <summary>Whether the output is z, and its reader has to multiply by <see cref="FactorsOf"/>.</summary>
    internal bool LeavesProduct => IsDecomposed && IsScaledByReader && !_bias.Exists;

    /// <summary>Columns that rows of the input need behind their own in <see cref="BackwardWeights"/>.</summary>
    internal int BackwardRoom => IsDecomposed && KeepsProduct ? Room : 0;

    private bool IsDecomposed => IsBordered && _projections[0].Magnitude is not null;

    /// <summary>g [out] where the group <see cref="LeavesProduct"/>, kept for the backward pass; absent elsewhere.</summary>
    internal Tensor FactorsOf(in AdapterInputs u) => LeavesProduct ? u[1] : default;

    private void ForwardDecomposed(StepContext c, ColumnSlice x, ColumnSlice y, Tensor addend, Tensor weights, ref AdapterInputs u)
    {
        if (LeavesProduct)
        {
            Multiply(c, x, weights, y, default, default);
            u[1] = Factors(c, weights, c.SavedStatistics(2L * OutFeatures));
            return;
        }
        ColumnSlice z = KeepsProduct ? u[1] = c.Saved(OutFeatures) : y;
        Multiply(c, x, weights, z, default, default);
        var factors = Factors(c, weights);
        DoraKernel.Scale(c.Device, c.TokenCount, factors, z, y, _bias, addend);
        c.Free(factors);
        if (c.IsTraining) return;
        u.Free(c);
        u = default;
    }

    /// <summary>dy ← dz. Returns dz where it is not in place, and the factors if <see cref="BackwardMagnitudes"/> needs them.</summary>
    private AdapterInputs ScaleGradient(StepContext c, Tensor weights, ref ColumnSlice dy, AdapterInputs u, ColumnSlice z)
    {
        AdapterInputs result = default;
        if (LeavesProduct)
        {
            AddMagnitudeGradients(c, dy, z, u[1], dy);
            return result;
        }
        var factors = Factors(c, weights);
        ColumnSlice dz = result[0] = c.Activations(MemoryPurpose.Workspace, OutFeatures + Room);
        if (u[1].Exists)
        {
            AddMagnitudeGradients(c, dy, u[1], factors, dz);
            c.Free(factors);
        }
        else
        {
            DoraKernel.Scale(c.Device, c.TokenCount, factors, dy, dz);
            result[1] = factors;
        }
        dy = dz;
        return result;
    }

    /// <summary>Gradients of the magnitudes if they are not there yet.</summary>
    private void BackwardMagnitudes(StepContext c, ColumnSlice x, ColumnSlice dy, ColumnSlice u, Tensor factors)
    {
        if (!factors.Exists) return;
        var weights = Weights(c);
        Tensor z;
        if (KeepsProduct)
        {
            z = c.Activations(MemoryPurpose.Workspace, OutFeatures);
            if (!_keepsInput) ElementwiseKernel.ConvertRows(c.Device, c.TokenCount, _rank, u, x.At(InFeatures));
            Multiply(c, x, weights, z, default, default);
        }
        else z = DoraOperands(weights).Product(c, x, u);
        AddMagnitudeGradients(c, dy, z, factors, default);
        c.Free(z);
        Release(c, weights);
    }

    /// <summary>dm from dy and z; and dz if it is wanted.</summary>
    private void AddMagnitudeGradients(StepContext c, ColumnSlice dy, ColumnSlice z, Tensor factors, ColumnSlice dz)
    {
        for (var i = 0; i < _projections.Length; i++)
        {
            var first = _firstOutput[i];
            _projections[i].AddMagnitudeGradient(c, dy.At(first), z.At(first), ColumnSlice.Of(factors, first), dz.Tensor.Exists ? dz.At(first) : default);
        }
    }

    // The blocks of D that belong to other projections' A meet the zeros of sB.
    private DoraOperands DoraOperands(Tensor weights) => new(OutFeatures, InFeatures, _rank, new(weights, false, Stride), _a, _scaledB, 1);

    private Tensor Factors(StepContext c, Tensor weights) => Factors(c, weights, c.Allocate(MemoryPurpose.Workspace, c.Accumulator, new Shape(2, OutFeatures)));

    /// <summary>g and 1 / n of all outputs [2, out].</summary>
    private Tensor Factors(StepContext c, Tensor weights, Tensor memory)
    {
        var factors = memory.Reshape(new Shape(2, OutFeatures));
        var d = DoraOperands(weights).CrossTerms(c);
        for (var i = 0; i < _projections.Length; i++)
        {
            var (projection, first, count) = (_projections[i], _firstOutput[i], _projections[i].OutFeatures);
            DoraKernel.Factors(c.Device, _scaledB.Rows(first, count), d.Rows(first, count), projection.SquaredNorms, projection.Magnitude!.Dense, 1, ColumnSlice.Of(factors, first));
        }
        c.Free(d);
        return factors;
    }
}
