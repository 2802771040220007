using Lancet.Kernels;
using Lancet.Models;
using Lancet.Planning;
using Lancet.Tensors;

namespace Lancet.Layers;

/// <summary>
/// Norm of whole rows, or of every head of a row. The reciprocal deviations (and means) are kept; the normed output is not, because making it
/// again costs one pass over memory.
/// </summary>
/// <param name="weight">Scales: [columns], or [heads, columns] where every head has its own.</param>
/// <param name="epsilon">Added to the mean square.</param>
/// <param name="kind">What is computed.</param>
/// <param name="heads">Normed pieces side by side in a row; 1 for whole rows.</param>
public sealed class Norm(Weight weight, double epsilon, NormKind kind, int heads = 1)
{
    private readonly int _width = (int)weight.Shape[weight.Shape.Rank - 1] * heads;
    private readonly NormKernel _kernel = new((int)weight.Shape[weight.Shape.Rank - 1], heads, epsilon, kind, weight.Shape.Rank > 1);

    // For norms of whole rows.
    private readonly LoraNormKernel? _adapters = heads == 1 && weight.Shape.Rank == 1 ? new((int)weight.Shape[0], kind) : null;

    /// <summary>Scales.</summary>
    public Weight Weight => weight;

    /// <summary>Adds to the gradients of A of projections that read the norm.</summary>
    /// <param name="c">The step.</param>
    /// <param name="x">The norm's input.</param>
    /// <param name="statistics">Kept by <see cref="Forward"/>.</param>
    /// <param name="group">The projections.</param>
    /// <param name="dy">Gradient of their outputs, with v behind it.</param>
    /// <returns>Whether it could.</returns>
    internal bool AddAdapterGradients(StepContext c, ColumnSlice x, Tensor statistics, ProjectionGroup group, ColumnSlice dy)
    {
        if (_adapters is null || group.AlikeAdapters is not var (a, count, rank) || !_adapters.Suits(count, rank, a.DType)) return false;
        var partial = c.Allocate(MemoryPurpose.Workspace, c.Accumulator, _adapters.PartialShape(c.TokenCount, count, rank));
        _adapters.AddGradients(c.Device, c.TokenCount, x, weight.Dense, statistics, dy.At(group.OutFeatures), count, rank, partial, group.GradientsOfA(c));
        c.Free(partial);
        return true;
    }

    /// <summary>y = norm(x). Returns the kept statistics, which belong to the caller.</summary>
    public Tensor Forward(StepContext c, ColumnSlice x, ColumnSlice y)
    {
        var statistics = c.SavedStatistics(_kernel.StatisticsCount(c.TokenCount));
        _kernel.Forward(c.Device, c.TokenCount, x, weight.Dense, y, statistics);
        return statistics;
    }

    /// <summary>y = norm of the rows of x that have labels, see <see cref="StepContext.LabelRows"/>. Returns the kept statistics, which belong to the caller.</summary>
    internal Tensor ForwardLabelled(StepContext c, Tensor x, Tensor y)
    {
        var statistics = c.SavedStatistics(_kernel.StatisticsCount(c.TokenCount));
        _kernel.Forward(c.Device, c.HeadRows, x, weight.Dense, y, statistics, c.LabelRows);
        return statistics;
    }

    /// <summary>dx ← gradient of the input of <see cref="ForwardLabelled"/>, zeros where there is no label; dw += gradient of the scale if it is trained.</summary>
    internal void BackwardLabelled(StepContext c, Tensor dy, Tensor x, Tensor statistics, Tensor dx)
    {
        WeightGradient(c, c.HeadRows, dy, x, statistics, c.LabelRows);
        _kernel.Backward(c.Device, c.TokenCount, dy, x, weight.Dense, statistics, dx, false, c.LabelSlots);
    }

    /// <summary>y = residual + s·norm(x). Returns the kept statistics, which belong to the caller.</summary>
    public Tensor ForwardAdded(StepContext c, Tensor x, Tensor residual, double factor, Tensor y)
    {
        var statistics = c.SavedStatistics(_kernel.StatisticsCount(c.TokenCount));
        _kernel.ForwardAdded(c.Device, c.TokenCount, x, weight.Dense, residual, factor, y, statistics);
        return statistics;
    }

    /// <summary>y = norm(x) again, the same bits as in the forward pass, into a new workspace buffer.</summary>
    public Tensor Recompute(StepContext c, Tensor x, Tensor statistics)
    {
        var y = c.Activations(MemoryPurpose.Workspace, _width);
        _kernel.Forward(c.Device, c.TokenCount, x, weight.Dense, y, statistics);
        return y;
    }

    /// <summary>dx (+)= gradient of the input; dw += gradient of the scale if it is trained.</summary>
    /// <param name="c">The step.</param>
    /// <param name="dy">Gradient of the output.</param>
    /// <param name="x">The forward pass's input.</param>
    /// <param name="statistics">Kept by <see cref="Forward"/>.</param>
    /// <param name="dx">Like x; may be dy itself when not added to.</param>
    /// <param name="isAdded">Whether dx is added to.</param>
    public void Backward(StepContext c, ColumnSlice dy, ColumnSlice x, Tensor statistics, ColumnSlice dx, bool isAdded)
    {
        WeightGradient(c, c.TokenCount, dy, x, statistics, default);
        _kernel.Backward(c.Device, c.TokenCount, dy, x, weight.Dense, statistics, dx, isAdded);
    }

    private void WeightGradient(StepContext c, int rows, ColumnSlice dy, ColumnSlice x, Tensor statistics, Tensor chosen)
    {
        if (!weight.IsTrained) return;
        var partial = c.Allocate(MemoryPurpose.Workspace, c.Accumulator, _kernel.PartialShape(rows));
        _kernel.BackwardWeight(c.Device, rows, dy, x, statistics, partial, weight.Gradient, chosen);
        c.Free(partial);
    }
}
