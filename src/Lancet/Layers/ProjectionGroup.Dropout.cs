using Lancet.Kernels;
using Lancet.Planning;
using Lancet.Tensors;
using Lancet.Tile;
using Lancet.Training;

namespace Lancet.Layers;

/// <content>
/// Dropout of the adapters' inputs in the border, dᵢ = dropoutᵢ(x), see <see cref="LoraDropoutKernel"/>.
/// <code>
/// forward    uᵢ = dᵢ·Aᵢᵀ      y = [x | u]·[W | sB]ᵀ
/// backward   dx = dy·W + Σᵢ dropoutᵢ'(vᵢ·Aᵢ)      dAᵢ += vᵢᵀ·dᵢ
/// </code>
/// </content>
public sealed partial class ProjectionGroup
{
    // The adapters as the kernels take them, and the first of them; null without dropout in the border.
    private (LoraInputs Inputs, LoraLinear First)? _dropped;

    /// <summary>Whether the backward pass makes the input again only when the input's gradient has been used.</summary>
    internal bool IsInputLate { get; init; }

    /// <summary>Whether <see cref="BackwardInput"/> needs the forward pass's input, for the gradients of A in the same pass.</summary>
    internal bool DropsEarly => _dropped is not null && !IsInputLate;

    /// <summary>The adapters as <see cref="LoraDropoutKernel"/> takes them, which asks for one rank and probability, and for gradients of A that are adjacent in the arena; or null.</summary>
    private (LoraInputs Inputs, LoraLinear First)? CommonInputs(DType dtype)
    {
        var adapted = Adapted.ToArray();
        var (first, rank) = (adapted[0], adapted[0].A!.Shape[0]);
        if (!first.HasDropout || rank % RankAlignment != 0) return null;
        if (!Array.TrueForAll(adapted, projection => projection.DropoutProbability == first.DropoutProbability && projection.A!.Shape[0] == rank && projection.A.Shape.Count % ParameterArena.SlotAlignment == 0)) return null;
        int SiteOf(int i) => i < adapted.Length ? adapted[i].DropoutSite - first.DropoutSite : 0;
        var inputs = new LoraInputs(InFeatures, adapted.Length, (int)rank, first.DropoutProbability, SiteOf(1), SiteOf(2));
        return LoraDropoutKernel.Suits(inputs, dtype) ? (inputs, first) : null;
    }

    private void ForwardDropped(StepContext c, (LoraInputs Inputs, LoraLinear First) dropped, ColumnSlice x, ColumnSlice u)
    {
        var partial = c.Allocate(MemoryPurpose.Workspace, c.Accumulator, LoraDropoutKernel.ForwardPartialShape(c.TokenCount, dropped.Inputs));
        LoraDropoutKernel.Forward(c.Device, c.TokenCount, dropped.Inputs, dropped.First.Masks(c), x, _a, u, partial);
        c.Free(partial);
    }

    /// <summary>The adapters' part of dx if that exists, and the gradients of A if they are wanted; v lies behind dy.</summary>
    private void BackwardDropped(StepContext c, (LoraInputs Inputs, LoraLinear First) dropped, ColumnSlice x, ColumnSlice dy, Tensor dx, bool hasGradients)
    {
        var (inputs, first) = dropped;
        var gradient = new Tensor(first.A!.Gradient.Address, c.Accumulator, new Shape(inputs.Columns, InFeatures));
        var partial = hasGradients ? c.Allocate(MemoryPurpose.Workspace, c.Accumulator, LoraDropoutKernel.BackwardPartialShape(c.TokenCount, inputs)) : default;
        LoraDropoutKernel.Backward(c.Device, c.TokenCount, inputs, first.Masks(c), x, _a, dy.At(OutFeatures), dx, partial, gradient);
        c.Free(partial);
    }
}
