using Lancet.Devices;
using Lancet.Kernels;
using Lancet.Planning;
using Lancet.Tensors;

namespace Lancet.Layers;

/// <content>
/// Weight-decomposed adapters (Liu et al., "DoRA", 2024) in the border, see <see cref="DoraKernel"/>.
/// <code>
/// forward    z = [x | u]·[W | sB]ᵀ      y = g ⊙ z + b
/// backward   dz = g ⊙ dy, and v, dx and dB from it as without magnitudes
///            dm += Σ dy ⊙ y / m where y is there and has no bias, dz in place of dy in the same pass
///            dm += Σ dy ⊙ z / n elsewhere; z is made again, or kept where the outputs are added to the stream and do not go to host memory
/// </code>
/// </content>
public sealed partial class ProjectionGroup
{
    /// <summary>Whether the outputs are added to the residual stream as they are; <see cref="ResidualProjection"/> knows.</summary>
    internal bool AddsToStream { get; set; }

    /// <summary>Whether the backward pass reads the outputs. From those with biases a product that is small beside them could not be taken exactly.</summary>
    internal bool ReadsOutputs => IsDecomposed && !_bias.Exists;

    /// <summary>Columns that rows of the input need behind their own in <see cref="BackwardWeights"/>.</summary>
    internal int BackwardRoom => IsDecomposed && AddsToStream ? Room : 0;

    private bool IsDecomposed => IsBordered && _projections[0].Magnitude is not null;

    private void ForwardDecomposed(StepContext c, ColumnSlice x, ColumnSlice y, Tensor addend, Tensor weights, ref AdapterInputs u)
    {
        ColumnSlice z = addend.Exists ? u[1] = c.Saved(OutFeatures) : y;
        Multiply(c, x, weights, z, default, default);
        var factors = Factors(c, weights);
        DoraKernel.Scale(c.Device, c.TokenCount, factors, z, y, _bias, addend);
        c.Free(factors);
        if (!c.IsTraining) u.Free(c);
    }

    /// <summary>dy ← dz. Returns dz, and the factors if <see cref="BackwardMagnitudes"/> needs them.</summary>
    private AdapterInputs ScaleGradient(StepContext c, Tensor weights, ref ColumnSlice dy, AdapterInputs u, ColumnSlice y)
    {
        AdapterInputs result = default;
        var factors = Factors(c, weights);
        if (y.Tensor.Exists && ReadsOutputs)
        {
            AddMagnitudeGradients(c, dy, y, factors, 2, dy);
            c.Free(factors);
            return result;
        }
        ColumnSlice dz = result[0] = c.Activations(MemoryPurpose.Workspace, OutFeatures + Room);
        if (u[1].Exists)
        {
            AddMagnitudeGradients(c, dy, u[1], factors, 1, dz);
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
        var z = c.Activations(MemoryPurpose.Workspace, OutFeatures);
        if (AddsToStream)
        {
            // The same bits as if it had been kept.
            if (!_keepsInput) ElementwiseKernel.ConvertRows(c.Device, c.TokenCount, _rank, u, x.At(InFeatures));
            Multiply(c, x, weights, z, default, default);
        }
        else
        {
            c.Device.MatMul(new MatMul { M = c.TokenCount, N = OutFeatures, K = _rank, A = new(u.Tensor, false, u.RowStride), B = new(_scaledB, true, _scaledB.Shape[1]), C = z, Alpha = 1 });
            c.Device.MatMul(new MatMul { M = c.TokenCount, N = OutFeatures, K = InFeatures, A = new(x.Tensor, false, x.RowStride), B = new(weights, true, Stride), C = z, Alpha = 1, Beta = 1 });
        }
        AddMagnitudeGradients(c, dy, z, factors, 1, default);
        c.Free(z);
        Release(c, weights);
    }

    /// <summary>dm from dy and z, or from dy and y, with the row of the factors that belongs to it; and dz if it is wanted.</summary>
    private void AddMagnitudeGradients(StepContext c, ColumnSlice dy, ColumnSlice z, Tensor factors, int row, ColumnSlice dz)
    {
        for (var i = 0; i < _projections.Length; i++)
        {
            var (projection, first) = (_projections[i], _firstOutput[i]);
            var (factor, scale) = (ColumnSlice.Of(factors, (row * (long)OutFeatures) + first).Tensor, ColumnSlice.Of(factors, first).Tensor);
            var partial = c.Allocate(MemoryPurpose.Workspace, c.Accumulator, ColumnSumKernel.PartialShape(c.TokenCount, projection.OutFeatures));
            DoraKernel.MagnitudeGradient(c.Device, c.TokenCount, dy.At(first), z.At(first), factor, partial, projection.Magnitude!.Gradient, scale, dz.Tensor.Exists ? dz.At(first) : default);
            c.Free(partial);
        }
    }

    /// <summary>g, 1 / n and 1 / m of all outputs in a new workspace buffer. The blocks of D that belong to other projections' A meet the zeros of sB.</summary>
    private Tensor Factors(StepContext c, Tensor weights)
    {
        var factors = c.Allocate(MemoryPurpose.Workspace, c.Accumulator, new Shape(3, OutFeatures));
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
