using Lancet.Kernels;
using Lancet.Planning;
using Lancet.Tensors;

namespace Lancet.Layers;

/// <summary>
/// The last projection of half a layer, which adds its result to the residual stream: y = x + s·post(W·h).
/// <code>
/// kept         LoRA's u; W·h where a norm follows it (Gemma 2), with the norm's statistics
/// backward     dW·h = s·post'(d), d itself without a norm and a factor
/// </code>
/// </summary>
/// <param name="projection">W.</param>
/// <param name="norm">Norm of the result, or null.</param>
/// <param name="scale">s: Granite's residual multiplier, 1 elsewhere.</param>
public sealed class ResidualProjection(ProjectionGroup projection, Norm? norm, double scale)
{
    private readonly int _columns = projection.OutFeatures;

    /// <summary>The projection.</summary>
    public ProjectionGroup Projection => projection;

    /// <summary>Norm of the result, or null.</summary>
    public Norm? Norm => norm;

    private bool IsPlain => norm is null && scale == 1;

    /// <summary>What the backward pass reads.</summary>
    internal struct State
    {
        public Tensor BeforeNorm, Statistics;
        public AdapterInputs U;

        /// <summary>Ends the lives of all.</summary>
        public readonly void Free(StepContext c)
        {
            c.Free(BeforeNorm, Statistics);
            U.Free(c);
        }

        /// <summary>Ends the life of what lies under the magnitudes, which the backward pass can make again in less time than host memory takes.</summary>
        public void DropProduct(StepContext c)
        {
            c.Free(U[1]);
            U[1] = default;
        }

        /// <summary>Applies a map to all.</summary>
        public void Map<T>(T map)
            where T : struct, ITensorMap
        {
            map.Apply(ref BeforeNorm);
            map.Apply(ref Statistics);
            map.Apply(ref U);
        }
    }

    /// <summary>y [T, columns].</summary>
    /// <param name="c">The step.</param>
    /// <param name="h">[T, in], with the projection's room behind each row.</param>
    /// <param name="x">Residual stream [T, columns].</param>
    /// <param name="result">y, which is written.</param>
    /// <param name="state">What the backward pass reads.</param>
    /// <param name="hasU">Whether u lies behind h already.</param>
    internal void Forward(StepContext c, Tensor h, Tensor x, Tensor result, out State state, bool hasU = false)
    {
        state = default;
        if (IsPlain)
        {
            projection.Forward(c, h, result, x, out state.U, hasU);
            return;
        }
        if (norm is null)
        {
            c.Device.Copy(x, result);
            var branch = c.Activations(MemoryPurpose.Workspace, _columns);
            projection.Forward(c, h, branch, default, out state.U, hasU);
            ElementwiseKernel.AddRows(c.Device, c.TokenCount, _columns, branch, result, (float)scale);
            c.Free(branch);
            return;
        }
        state.BeforeNorm = c.Saved(_columns);
        projection.Forward(c, h, state.BeforeNorm, default, out state.U, hasU);
        state.Statistics = norm.ForwardAdded(c, state.BeforeNorm, x, scale, result);
        if (c.IsTraining) return;
        c.Free(state.BeforeNorm, state.Statistics);
        state = default;
    }

    /// <summary>The forward pass's state once more, with the same bits.</summary>
    internal void Recompute(StepContext c, Tensor h, out State state, bool hasU = false)
    {
        state = default;
        if (norm is null) projection.RecomputeAdapterInputs(c, h, out state.U);
        else
        {
            state.BeforeNorm = c.Saved(_columns);
            projection.Forward(c, h, state.BeforeNorm, default, out state.U, hasU);
            var post = c.Activations(MemoryPurpose.Workspace, _columns);
            state.Statistics = norm.Forward(c, state.BeforeNorm, post);
            c.Free(post);
        }
    }

    /// <summary>dh ← gradient of h. Returns what <see cref="BackwardWeights"/> needs.</summary>
    /// <param name="c">The step.</param>
    /// <param name="h">The forward pass's input where the projection keeps it; not read elsewhere.</param>
    /// <param name="d">Gradient of y, and of x; with the projection's room behind each row.</param>
    /// <param name="state">From the forward pass.</param>
    /// <param name="dh">[T, in] that is written.</param>
    internal (Tensor Dy, AdapterInputs V) BackwardInput(StepContext c, Tensor h, Tensor d, in State state, Tensor dh)
    {
        var dy = d;
        if (!IsPlain)
        {
            dy = c.Activations(MemoryPurpose.Workspace, _columns + projection.Room);
            if (scale != 1) ElementwiseKernel.ConvertRows(c.Device, c.TokenCount, _columns, d, dy, (float)scale);
            norm?.Backward(c, scale != 1 ? dy : d, state.BeforeNorm, state.Statistics, dy, false);
            c.Free(state.BeforeNorm, state.Statistics);
        }
        return (dy, projection.BackwardInput(c, h, dy, state.U, dh));
    }

    /// <summary>Gradients of whatever is trained here, that of A where h is given; frees u, v and dy.</summary>
    internal void BackwardWeights(StepContext c, Tensor h, Tensor d, in State state, (Tensor Dy, AdapterInputs V) gradients)
    {
        projection.BackwardWeights(c, h, gradients.Dy, state.U, gradients.V);
        if (gradients.Dy.Address != d.Address) c.Free(gradients.Dy);
    }
}
