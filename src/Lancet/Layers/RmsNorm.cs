using Lancet.Kernels;
using Lancet.Models;
using Lancet.Planning;
using Lancet.Tensors;

namespace Lancet.Layers;

/// <summary>
/// Root-mean-square norm of whole rows, or of every head of a row. The reciprocal deviations are kept; the normed output is not, because
/// making it again costs one pass over memory.
/// </summary>
/// <param name="weight">[columns].</param>
/// <param name="epsilon">Added to the mean square.</param>
/// <param name="isWeightPlusOne">Whether the scale is 1 + w (Gemma).</param>
/// <param name="heads">Normed pieces side by side in a row; 1 for whole rows.</param>
public sealed class RmsNorm(Weight weight, double epsilon, bool isWeightPlusOne, int heads = 1)
{
    private readonly RmsNormKernel _kernel = new((int)weight.Shape[0], heads, epsilon, isWeightPlusOne);

    /// <summary>Scale [columns].</summary>
    public Weight Weight => weight;

    /// <summary>y = norm(x). Returns the kept reciprocal deviations, which belong to the caller.</summary>
    public Tensor Forward(StepContext c, ColumnSlice x, ColumnSlice y)
    {
        var rstd = c.SavedStatistics((long)c.TokenCount * heads);
        _kernel.Forward(c.Device, c.TokenCount, x, weight.Dense, y, rstd);
        return rstd;
    }

    /// <summary>y = norm(x) again, the same bits as in the forward pass, into a new workspace buffer.</summary>
    public Tensor Recompute(StepContext c, Tensor x, Tensor rstd)
    {
        var y = c.Activations(MemoryPurpose.Workspace, weight.Shape[0] * heads);
        _kernel.Forward(c.Device, c.TokenCount, x, weight.Dense, y, rstd);
        return y;
    }

    /// <summary>dx (+)= gradient of the input; dw += gradient of the scale if it is trained.</summary>
    /// <param name="c">The step.</param>
    /// <param name="dy">Gradient of the output.</param>
    /// <param name="x">The forward pass's input.</param>
    /// <param name="rstd">Kept by <see cref="Forward"/>.</param>
    /// <param name="dx">Like x; may be dy itself when not added to.</param>
    /// <param name="isAdded">Whether dx is added to.</param>
    public void Backward(StepContext c, ColumnSlice dy, ColumnSlice x, Tensor rstd, ColumnSlice dx, bool isAdded)
    {
        if (weight.IsTrained)
        {
            var partial = c.Allocate(MemoryPurpose.Workspace, c.Accumulator, _kernel.PartialShape(c.TokenCount));
            _kernel.BackwardWeight(c.Device, c.TokenCount, dy, x, rstd, partial, weight.Gradient);
            c.Free(partial);
        }
        _kernel.Backward(c.Device, c.TokenCount, dy, x, weight.Dense, rstd, dx, isAdded);
    }
}
