using Lancet.Kernels;
using Lancet.Planning;
using Lancet.Tensors;

namespace Lancet.Layers;

/// <summary>What the first projections of half a layer read: the norm of its input, or the input as it is where the family has no norm there (OLMo 2).</summary>
/// <param name="norm">Norm, or null.</param>
/// <param name="columns">Columns of the input.</param>
public sealed class InputNorm(Norm? norm, int columns)
{
    /// <summary>Norm, or null.</summary>
    public Norm? Norm => norm;

    /// <summary>Whether there is a norm whose scales are trained.</summary>
    public bool IsTrained => norm is { Weight.IsTrained: true };

    /// <summary>The normed input in a new workspace buffer with room behind each row.</summary>
    /// <param name="c">The step.</param>
    /// <param name="x">Input [T, columns].</param>
    /// <param name="room">Columns behind each row.</param>
    /// <param name="statistics">Kept for the backward pass; absent without a norm.</param>
    internal Tensor Forward(StepContext c, Tensor x, int room, out Tensor statistics)
    {
        var normed = c.Activations(MemoryPurpose.Workspace, columns + room);
        statistics = default;
        if (norm is not null) statistics = norm.Forward(c, x, normed);
        else ElementwiseKernel.ConvertRows(c.Device, c.TokenCount, columns, x, normed);
        return normed;
    }

    /// <summary>Adds to the gradients of A of projections that read the norm, without the normed input in memory.</summary>
    /// <param name="c">The step.</param>
    /// <param name="x">Input [T, columns].</param>
    /// <param name="statistics">From the forward pass.</param>
    /// <param name="group">The projections.</param>
    /// <param name="dy">Gradient of their outputs, with v behind it.</param>
    /// <returns>Whether it could.</returns>
    internal bool AddAdapterGradients(StepContext c, Tensor x, Tensor statistics, ProjectionGroup group, ColumnSlice dy) => norm is not null && norm.AddAdapterGradients(c, x, statistics, group, dy);

    /// <summary>The normed input again; to be given back by <see cref="Release"/>.</summary>
    internal Tensor Recompute(StepContext c, Tensor x, Tensor statistics) => norm is null ? x : norm.Recompute(c, x, statistics);

    /// <summary>Ends the life of what <see cref="Recompute"/> gave.</summary>
    internal static void Release(StepContext c, Tensor x, Tensor normed)
    {
        if (normed.Address != x.Address) c.Free(normed);
    }

    /// <summary>d += gradient of the input.</summary>
    /// <param name="c">The step.</param>
    /// <param name="dNormed">Gradient of the normed input [T, columns].</param>
    /// <param name="x">The forward pass's input.</param>
    /// <param name="statistics">From the forward pass.</param>
    /// <param name="d">Gradient of the stream.</param>
    internal void Backward(StepContext c, Tensor dNormed, Tensor x, Tensor statistics, ColumnSlice d)
    {
        if (norm is not null) norm.Backward(c, dNormed, x, statistics, d, true);
        else ElementwiseKernel.AddRows(c.Device, c.TokenCount, columns, dNormed, d);
    }
}
