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

    /// <summary>Columns that rows of the output's gradient need behind their own.</summary>
    internal virtual int Room => 0;

    /// <summary>Checks what adapters have to have in common.</summary>
    /// <exception cref="LancetException">They do not.</exception>
    internal virtual void CheckAdapters()
    {
    }

    /// <summary>x₃ [T, hidden] as a new saved buffer.</summary>
    /// <param name="c">The step.</param>
    /// <param name="x">What is normed: x₂, or the layer's input in a parallel block.</param>
    /// <param name="stream">x₂, which the result is added to.</param>
    /// <param name="state">What the backward pass reads.</param>
    internal abstract Tensor Forward(StepContext c, Tensor x, Tensor stream, out FeedForwardState state);

    /// <summary>Ends the lives of what <see cref="Recompute"/> can make again.</summary>
    internal abstract void Drop(StepContext c, ref FeedForwardState state);

    /// <summary>The forward pass's state once more, with the same bits; what <see cref="Drop"/> has left stays.</summary>
    internal abstract void Recompute(StepContext c, Tensor x, ref FeedForwardState state);

    /// <summary>d += gradient of x₂, adding to the gradients of what is trained; frees the state. Rows of d have <see cref="Room"/> behind them.</summary>
    /// <param name="c">The step.</param>
    /// <param name="x">What was normed.</param>
    /// <param name="state">From the forward pass.</param>
    /// <param name="d">Gradient of x₃.</param>
    /// <param name="needsInput">Whether the gradient of x is wanted.</param>
    /// <param name="whenDownIsDone">Called when the down projection's part is done and its buffers are free again.</param>
    /// <returns>In a parallel block the gradient of the normed input, to be freed by the caller, instead of adding x's gradient to d. Absent elsewhere.</returns>
    internal abstract Tensor Backward(StepContext c, Tensor x, in FeedForwardState state, Tensor d, bool needsInput, Action<StepContext> whenDownIsDone);
}

/// <summary>What the second half of a layer keeps: one of the two.</summary>
internal struct FeedForwardState
{
    public GatedMlp.State Dense;
    public MixtureOfExperts.State Routed;

    /// <summary>Applies a map to all.</summary>
    public void Map<T>(T map)
        where T : struct, ITensorMap
    {
        Dense.Map(map);
        Routed.Map(map);
    }
}
