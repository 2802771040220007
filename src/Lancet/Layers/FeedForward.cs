using Lancet.Models;
using Lancet.Tensors;

namespace Lancet.Layers;

/// <summary>The second half of a decoder layer: one gated MLP, or a choice of them for each token. x₃ = x₂ + f(norm(x₂)), or of the norm of the layer's input in a parallel block.</summary>
public abstract class FeedForward
{
    /// <summary>Projections that all tokens go through, by input.</summary>
    public abstract IEnumerable<ProjectionGroup> Groups { get; }

    /// <summary>All projections, in the order of the computation.</summary>
    public virtual IEnumerable<LoraLinear> Projections => Groups.SelectMany(group => group.Projections);

    /// <summary>All adapters' matrices.</summary>
    public virtual IEnumerable<Weight> Adapters => Groups.SelectMany(group => group.Adapters);

    /// <summary>Memory of experts' frozen matrices.</summary>
    internal virtual IEnumerable<WeightBlock> ExpertBlocks() => [];

    /// <summary>Columns that rows of the output's gradient need behind their own.</summary>
    internal virtual int Room => 0;

    /// <summary>Checks what adapters have to have in common.</summary>
    /// <exception cref="LancetException">They do not.</exception>
    internal virtual void CheckAdapters()
    {
    }

    /// <summary>x₃ [T, hidden] as a new saved buffer. What the backward pass reads belongs to this object from then on.</summary>
    /// <param name="c">The step.</param>
    /// <param name="x">What is normed: x₂, or the layer's input in a parallel block.</param>
    /// <param name="stream">x₂, which the result is added to.</param>
    /// <param name="share">Share of the chunks whose state is kept; what is not is made again by <see cref="Backward"/>.</param>
    /// <param name="channel">Channel of copies of what is kept to host memory; negative if it stays.</param>
    internal abstract Tensor Forward(StepContext c, Tensor x, Tensor stream, double share, int channel);

    /// <summary>Ends the life on the device of what goes to host memory, once its copies were awaited.</summary>
    internal abstract void Release(StepContext c);

    /// <summary>Starts to copy it back.</summary>
    internal abstract void Fetch(StepContext c, int channel);

    /// <summary>d += gradient of x₂, adding to the gradients of what is trained; frees what was kept, makes again with the same bits what was not. Rows of d have <see cref="Room"/> behind them.</summary>
    /// <param name="c">The step.</param>
    /// <param name="x">What was normed.</param>
    /// <param name="d">Gradient of x₃.</param>
    /// <param name="needsInput">Whether the gradient of x is wanted.</param>
    /// <param name="whenDownIsDone">Called when the down projection's part is done and its buffers are free again; half-way where there are chunks.</param>
    /// <returns>In a parallel block the gradient of the normed input, to be freed by the caller, instead of adding x's gradient to d. Absent elsewhere.</returns>
    internal abstract Tensor Backward(StepContext c, Tensor x, Tensor d, bool needsInput, Action<StepContext> whenDownIsDone);
}
