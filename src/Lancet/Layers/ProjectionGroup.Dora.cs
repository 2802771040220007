using Lancet.Devices;
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
        var z = c.Allocate(MemoryPurpose.Workspace, KeepsProduct ? c.DType : c.Accumulator, new Shape(c.TokenCount, OutFeatures));
        if (KeepsProduct)
        {
            if (!_keepsInput) ElementwiseKernel.ConvertRows(c.Device, c.TokenCount, _rank, u, x.At(InFeatures));
            Multiply(c, x, weights, z, default, default);
        }
        else
        {
            c.Device.MatMul(new MatMul { M = c.TokenCount, N = OutFeatures, K = _rank, A = new(u.Tensor, false, u.RowStride), B = new(_scaledB, true, _scaledB.Shape[1]), C = z, Alpha = 1 });
            c.Device.MatMul(new MatMul { M = c.TokenCount, N = OutFeatures, K = InFeatures, A = new(x.Tensor, false, x.RowStride), B = new(weights, true, Stride), C = z, Alpha = 1, Beta = 1 });
        }
        AddMagnitudeGradients(c, dy, z, factors, default);
        c.Free(z);
        Release(c, weights);
    }

    /// <summary>dm from dy and z; and dz if it is wanted.</summary>
    private void AddMagnitudeGradients(StepContext c, ColumnSlice dy, ColumnSlice z, Tensor factors, ColumnSlice dz)
    {
        for (var i = 0; i < _projections.Length; i++)
        {
            var (projection, first) = (_projections[i], _firstOutput[i]);
            var (scale, inverse) = (ColumnSlice.Of(factors, first).Tensor, ColumnSlice.Of(factors, (long)OutFeatures + first).Tensor);
            var partial = c.Allocate(MemoryPurpose.Workspace, c.Accumulator, ColumnSumKernel.PartialShape(c.TokenCount, projection.OutFeatures));
            DoraKernel.MagnitudeGradient(c.Device, c.TokenCount, dy.At(first), z.At(first), inverse, partial, projection.Magnitude!.Gradient, scale, dz.Tensor.Exists ? dz.At(first) : default);
            c.Free(partial);
        }
    }

    private Tensor Factors(StepContext c, Tensor weights) => Factors(c, weights, c.Allocate(MemoryPurpose.Workspace, c.Accumulator, new Shape(2, OutFeatures)));

    /// <summary>g and 1 / n of all outputs [2, out]. The blocks of D that belong to other projections' A meet the zeros of sB.</summary>
    private Tensor Factors(StepContext c, Tensor weights, Tensor memory)
    {
        var factors = memory.Reshape(new Shape(2, OutFeatures));
        var d = c.Allocate(MemoryPurpose.Workspace, c.Accumulator, new Shape(OutFeatures, _rank));
        var square = c.Allocate(MemoryPurpose.Workspace, c.Accumulator, new Shape(_rank, _rank));
        var transposed = new MatMulOperand(_a, true, _a.Shape[1]);
        c.Device.MatMul(new MatMul { M = _rank, N = _rank, K = InFeatures, A = new(_a, false, _a.Shape[1]), B = transposed, C = square, Alpha = 1 });
        c.Device.MatMul(new MatMul { M = OutFeatures, N = _rank, K = InFeatures, A = new(weights, false, Stride), B = transposed, C = d, Alpha = 2 });
        c.Device.MatMul(new MatMul { M = OutFeatures, N = _rank, K = _rank, A = new(_scaledB, false, _scaledB.Shape[1]), B = new(square), C = d, Alpha = 1, Beta = 1 });
        for (var i = 0; i < _projections.Length; i++)
        {
            var (projection, first, count) = (_projections[i], _firstOutput[i], _projections[i].OutFeatures);
            DoraKernel.Factors(c.Device, _scaledB.Rows(first, count), d.Rows(first, count), projection.SquaredNorms, projection.Magnitude!.Dense, 1, ColumnSlice.Of(factors, first));
        }
        c.Free(d, square);
        return factors;
    }
}
