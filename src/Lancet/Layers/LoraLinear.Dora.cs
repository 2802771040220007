using Lancet.Devices;
using Lancet.Kernels;
using Lancet.Planning;
using Lancet.Tensors;

namespace Lancet.Layers;

/// <content>
/// Weight-decomposed adapters (Liu et al., "DoRA", 2024), see <see cref="DoraKernel"/>; d is the dropped input.
/// <code>
/// forward    z = d·Wᵀ + s·u·Bᵀ      y = g ⊙ z + b + (x − d)·Wᵀ
/// backward   dz = g ⊙ dy      v = s·dz·B      dB += s·dzᵀ·u      dA += vᵀ·d      dm += Σ dy ⊙ z / n
///            dx = dy·W + dropout'((dz − dy)·W + v·A), without dropout dz·W + v·A
/// </code>
/// z is made again for dm: keeping it would cost as much memory as all outputs.
/// </content>
public sealed partial class LoraLinear
{
    /// <summary>‖W[o]‖² of every output in the accumulator's type, written once by <see cref="WriteSquaredNorms"/>.</summary>
    internal Tensor SquaredNorms { get; set; }

    /// <summary>Fills in <see cref="SquaredNorms"/>.</summary>
    /// <param name="device">Device.</param>
    /// <param name="dense">Memory for an NF4 weight in fp32 [out, in]; not used for others.</param>
    internal void WriteSquaredNorms(Device device, Tensor dense)
    {
        if (Weight.Quantized is { } nf4)
        {
            Nf4Kernel.Dequantize(device, nf4, dense);
            DoraKernel.SquaredNorms(device, dense, InFeatures, InFeatures, SquaredNorms);
        }
        else DoraKernel.SquaredNorms(device, Weight.Dense, InFeatures, Weight.RowStride > 0 ? Weight.RowStride : InFeatures, SquaredNorms);
    }

    private void ForwardDora(StepContext c, Tensor x, ColumnSlice y, float beta, out Tensor u)
    {
        var d = DropInput(c, x);
        u = c.Saved(Rank);
        c.Device.MatMul(new MatMul { M = c.TokenCount, N = Rank, K = InFeatures, A = new(d), B = new(A!.Dense, true), C = u, Alpha = 1 });
        var z = DoraOperands.Product(c, d, u);
        var factors = Factors(c);
        DoraKernel.Scale(c.Device, c.TokenCount, factors, z, y, Bias?.Dense ?? default, beta != 0 ? y.Tensor : default);
        c.Free(z, factors);
        if (d.Address != x.Address)
        {
            // d ← x − d
            ElementwiseKernel.ConvertRows(c.Device, c.TokenCount, InFeatures, d, d, -1);
            ElementwiseKernel.AddTo(c.Device, x, d);
            c.Device.MatMul(new MatMul { M = c.TokenCount, N = OutFeatures, K = InFeatures, A = new(d), B = Weight.Operand(true), C = y.Tensor, LeadingDimensionC = y.RowStride, Alpha = 1, Beta = 1 });
            c.Free(d);
        }
        if (!c.IsTraining) c.Free(u);
    }

    private Tensor BackwardInputDora(StepContext c, ColumnSlice dy, Tensor dx, float beta)
    {
        var factors = Factors(c);
        var dz = c.Activations(MemoryPurpose.Workspace, OutFeatures);
        DoraKernel.Scale(c.Device, c.TokenCount, factors, dy, dz);
        var v = c.Activations(MemoryPurpose.Workspace, Rank);
        c.Device.MatMul(new MatMul { M = c.TokenCount, N = Rank, K = OutFeatures, A = new(dz), B = new(B!.Dense), C = v, Alpha = Scale });
        if (dx.Exists)
        {
            var target = dx;
            if (_dropout is not null)
            {
                c.Device.MatMul(new MatMul { M = c.TokenCount, N = InFeatures, K = OutFeatures, A = new(dy.Tensor, false, dy.RowStride), B = Weight.Operand(false), C = dx, Alpha = 1, Beta = beta });
                DoraKernel.Scale(c.Device, c.TokenCount, factors, dy, dz, subtractsOne: true);
                target = c.Activations(MemoryPurpose.Workspace, InFeatures);
            }
            c.Device.MatMul(new MatMul { M = c.TokenCount, N = InFeatures, K = Rank, A = new(v), B = new(A!.Dense), C = target, Alpha = 1, Beta = _dropout is null ? beta : 0 });
            c.Device.MatMul(new MatMul { M = c.TokenCount, N = InFeatures, K = OutFeatures, A = new(dz), B = Weight.Operand(false), C = target, Alpha = 1, Beta = 1 });
            if (_dropout is not null)
            {
                DropAndAdd(c, target, dx);
                c.Free(target);
            }
        }
        c.Free(dz, factors);
        return v;
    }

    /// <summary>dm, and dz for the gradients of A and B.</summary>
    private void BackwardMagnitude(StepContext c, Tensor x, ColumnSlice dy, Tensor u, out Tensor dz)
    {
        var factors = Factors(c);
        var d = DropInput(c, x);
        var z = DoraOperands.Product(c, d, u);
        if (d.Address != x.Address) c.Free(d);
        dz = c.Activations(MemoryPurpose.Workspace, OutFeatures);
        AddMagnitudeGradient(c, dy, z, factors, dz);
        c.Free(z, factors);
    }

    /// <summary>dm += Σ dy ⊙ z / n, and dz = g ⊙ dy in the same pass if it is wanted.</summary>
    /// <param name="c">The step.</param>
    /// <param name="dy">[T, out] block.</param>
    /// <param name="z">[T, out] block.</param>
    /// <param name="factors">g and 1 / n [2, out], columns of a wider matrix.</param>
    /// <param name="dz">[T, out] block that is written, or absent.</param>
    internal void AddMagnitudeGradient(StepContext c, ColumnSlice dy, ColumnSlice z, ColumnSlice factors, ColumnSlice dz)
    {
        var partial = c.Allocate(MemoryPurpose.Workspace, c.Accumulator, ColumnSumKernel.PartialShape(c.TokenCount, OutFeatures));
        DoraKernel.MagnitudeGradient(c.Device, c.TokenCount, dy, z, factors.At(factors.RowStride).Tensor, partial, Magnitude!.Gradient, factors.Tensor, dz);
        c.Free(partial);
    }

    private DoraOperands DoraOperands => new(OutFeatures, InFeatures, Rank, Weight.Operand(false), A!.Dense, B!.Dense, Scale);

    /// <summary>g and 1 / n in a new workspace buffer.</summary>
    private Tensor Factors(StepContext c)
    {
        var factors = c.Allocate(MemoryPurpose.Workspace, c.Accumulator, new Shape(2, OutFeatures));
        var d = DoraOperands.CrossTerms(c);
        DoraKernel.Factors(c.Device, B!.Dense, d, SquaredNorms, Magnitude!.Dense, Scale, factors);
        c.Free(d);
        return factors;
    }
}
