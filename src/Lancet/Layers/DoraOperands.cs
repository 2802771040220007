using Lancet.Devices;
using Lancet.Planning;
using Lancet.Tensors;

namespace Lancet.Layers;

/// <summary>What the products of a weight-decomposed adapter multiply, see <see cref="Kernels.DoraKernel"/>: of one projection, or of a group with blocks of zeros in B.</summary>
/// <param name="Outputs">Rows of W.</param>
/// <param name="Inputs">Columns of W.</param>
/// <param name="Rank">Rows of A.</param>
/// <param name="Weight">W, as it is stored.</param>
/// <param name="A">A [rank, inputs].</param>
/// <param name="B">B [outputs, rank].</param>
/// <param name="Scale">s.</param>
internal readonly record struct DoraOperands(int Outputs, int Inputs, int Rank, MatMulOperand Weight, ColumnSlice A, ColumnSlice B, float Scale)
{
    /// <summary>z = x·Wᵀ + s·u·Bᵀ [T, outputs] in a new workspace buffer, in the accumulator's type: as a sum of two products it would be rounded twice.</summary>
    public Tensor Product(StepContext c, ColumnSlice x, ColumnSlice u)
    {
        var z = c.Allocate(MemoryPurpose.Workspace, c.Accumulator, new Shape(c.TokenCount, Outputs));
        c.Device.MatMul(new MatMul { M = c.TokenCount, N = Outputs, K = Rank, A = new(u.Tensor, false, u.RowStride), B = new(B.Tensor, true, B.RowStride), C = z, Alpha = Scale });
        c.Device.MatMul(new MatMul { M = c.TokenCount, N = Outputs, K = Inputs, A = new(x.Tensor, false, x.RowStride), B = Weight with { IsTransposed = true }, C = z, Alpha = 1, Beta = 1 });
        return z;
    }

    /// <summary>D = 2·W·Aᵀ + s·B·(A·Aᵀ) [outputs, rank] in a new workspace buffer.</summary>
    public Tensor CrossTerms(StepContext c)
    {
        var d = c.Allocate(MemoryPurpose.Workspace, c.Accumulator, new Shape(Outputs, Rank));
        var square = c.Allocate(MemoryPurpose.Workspace, c.Accumulator, new Shape(Rank, Rank));
        var transposed = new MatMulOperand(A.Tensor, true, A.RowStride);
        c.Device.MatMul(new MatMul { M = Rank, N = Rank, K = Inputs, A = new(A.Tensor, false, A.RowStride), B = transposed, C = square, Alpha = 1 });
        c.Device.MatMul(new MatMul { M = Outputs, N = Rank, K = Inputs, A = Weight, B = transposed, C = d, Alpha = 2 });
        c.Device.MatMul(new MatMul { M = Outputs, N = Rank, K = Rank, A = new(B.Tensor, false, B.RowStride), B = new(square), C = d, Alpha = Scale, Beta = 1 });
        c.Free(square);
        return d;
    }
}
