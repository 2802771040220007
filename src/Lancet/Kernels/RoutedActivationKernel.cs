using Lancet.Devices;
using Lancet.Tensors;
using Lancet.Tile;
using static Lancet.Tile.TileMath;

namespace Lancet.Kernels;

/// <summary>
/// The gated activation of experts, with the router's weight of each row in it: since Σⱼ wⱼ·(Wd·hⱼ) = Σⱼ Wd·(wⱼ·hⱼ), the experts' outputs need not be kept for the weights' gradient.
/// <code>
/// forward    h = w·f(e)·g                                        [e | g] gate and up side by side; w = weights[order[r]]
/// backward   dw[order[r]] = Σ_columns dh·f(e)·g                  in order of blocks of columns
///            de = w·dh·g·f'(e)     dg = w·dh·f(e)                and h again, which the down projection's gradients need
/// </code>
/// f as in <see cref="GatedActivationKernel"/>. Kept: e and g. The backward pass overwrites all three: dh ← h, e ← de, g ← dg.
/// </summary>
/// <param name="activation">f.</param>
/// <param name="width">Columns of h, half of those of [e | g].</param>
public sealed class RoutedActivationKernel(GatedActivation activation, int width)
{
    private const int Block = 1024;
    private static readonly KernelSet<Choice> ForwardKernels = new(TraceForward);
    private static readonly KernelSet<Choice> BackwardKernels = new(TraceBackward);

    /// <summary>h = w·f(e)·g.</summary>
    /// <param name="device">Device.</param>
    /// <param name="gateUp">[rows, 2·width].</param>
    /// <param name="weights">[T, k] in the accumulator's type.</param>
    /// <param name="order">int32 [rows]: the entry of <paramref name="weights"/> of each row.</param>
    /// <param name="h">[rows, width] that is written.</param>
    public void Forward(Device device, Tensor gateUp, Tensor weights, Tensor order, Tensor h) => device.Launch(
        ForwardKernels[new(activation, width, h.DType)], new Grid((int)order.Count, Blocks.Of(width, Block)), [gateUp, weights, order, h]);

    /// <summary>Gradients in place.</summary>
    /// <param name="device">Device.</param>
    /// <param name="gateUp">[rows, 2·width]: [e | g] before, [de | dg] after.</param>
    /// <param name="weights">As in <see cref="Forward"/>.</param>
    /// <param name="order">As in <see cref="Forward"/>.</param>
    /// <param name="dh">[rows, width]: gradient of h before, h after.</param>
    /// <param name="weightGradients">[T, k] that is written.</param>
    public void Backward(Device device, Tensor gateUp, Tensor weights, Tensor order, Tensor dh, Tensor weightGradients) => device.Launch(
        BackwardKernels[new(activation, width, dh.DType)], new Grid((int)order.Count), [gateUp, weights, order, dh, weightGradients]);

    private static Kernel TraceForward(Choice choice) => Kernel.Trace("routed_activation_forward", k =>
    {
        var gateUp = k.Pointer(choice.DType, "gate_up");
        var weights = k.Pointer(choice.DType.Accumulator(), "weights");
        var order = k.Pointer(DType.Int32, "order");
        var h = k.Pointer(choice.DType, "h");
        var row = k.ProgramId(0);
        var column = k.ProgramId(1) * Block + k.Range(Block);
        var inside = column < choice.Width;
        var gate = gateUp + (row.ToInt64() * (2L * choice.Width) + column.ToInt64());
        var f = GatedActivationKernel.Activate(choice.Activation, k.Load(gate, inside).ToFloat32(), out _);
        var w = k.Load(weights + k.Load(order + row));
        k.Store(h + (row.ToInt64() * choice.Width + column.ToInt64()), (w * (f * k.Load(gate + choice.Width, inside).ToFloat32())).To(choice.DType), inside);
    });

    private static Kernel TraceBackward(Choice choice) => Kernel.Trace("routed_activation_backward", k =>
    {
        var accumulator = choice.DType.Accumulator();
        var gateUp = k.Pointer(choice.DType, "gate_up");
        var weights = k.Pointer(accumulator, "weights");
        var order = k.Pointer(DType.Int32, "order");
        var hidden = k.Pointer(choice.DType, "h");
        var weightGradients = k.Pointer(accumulator, "weight_gradients");
        var row = k.ProgramId(0);
        var block = Math.Min(Block, Blocks.PowerOfTwo(choice.Width));
        var assignment = k.Load(order + row);
        var w = k.Load(weights + assignment);
        var sums = k.For(0, choice.Width, block, [k.Zeros(accumulator, block)], (first, carried) =>
        {
            var column = first + k.Range(block);
            var inside = column < choice.Width;
            var gate = gateUp + (row.ToInt64() * (2L * choice.Width) + column.ToInt64());
            var target = hidden + (row.ToInt64() * choice.Width + column.ToInt64());
            var e = k.Load(gate, inside).ToFloat32();
            var g = k.Load(gate + choice.Width, inside).ToFloat32();
            var dh = k.Load(target, inside).ToFloat32();
            var f = GatedActivationKernel.Activate(choice.Activation, e, out var derivative);
            var product = f * g;
            var scaled = w * dh;
            k.Store(target, (w * product).To(choice.DType), inside);
            k.Store(gate, (scaled * g * derivative).To(choice.DType), inside);
            k.Store(gate + choice.Width, (scaled * f).To(choice.DType), inside);
            return [carried[0] + dh * product];
        })[0];
        k.Store(weightGradients + assignment, Sum(sums));
    });

    private readonly record struct Choice(GatedActivation Activation, int Width, DType DType);
}
