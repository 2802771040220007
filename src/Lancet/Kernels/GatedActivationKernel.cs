using Lancet.Devices;
using Lancet.Tensors;
using Lancet.Tile;
using static Lancet.Tile.TileMath;

namespace Lancet.Kernels;

/// <summary>Activation of a gated MLP.</summary>
public enum GatedActivation
{
    /// <summary>x·σ(x): SwiGLU.</summary>
    Silu,

    /// <summary>½x(1 + tanh(√(2/π)(x + 0.044715x³))): GeGLU, tanh form.</summary>
    GeluTanh,

    /// <summary>½x(1 + erf(x/√2)): GeGLU, exact form.</summary>
    Gelu,
}

/// <summary>
/// h = f(e)·g for the gate e and the up projection g, side by side in one row [e | g] (Shazeer, "GLU Variants", 2020).
/// <code>
/// forward    h = f(e)·g
/// backward   de = dh·g·f'(e)     dg = dh·f(e)     and h again, which the down projection's adapter needs
///   silu       s = σ(e):  f = e·s       f' = s·(1 + e·(1 − s))
///   gelu_tanh  a = √(2/π)(e + 0.044715e³), t = ½(1 + tanh a):  f = e·t    f' = t + ½e(1 − tanh²a)·√(2/π)(1 + 0.134145e²)
///   gelu       f = ½e(1 + erf(e/√2))    f' = ½(1 + erf(e/√2)) + e·exp(−e²/2)/√(2π)
/// </code>
/// Kept: e and g. The backward pass overwrites all three: dh ← h, e ← de, g ← dg; with factors, which e and g lack then (<see cref="DoraKernel"/>), they stay, and de and dg are written elsewhere.
/// </summary>
/// <param name="activation">f.</param>
/// <param name="width">Intermediate size: columns of h, half of those of [e | g].</param>
public sealed class GatedActivationKernel(GatedActivation activation, int width)
{
    private const int Block = 1024;
    private static readonly KernelSet<Choice> Kernels = new(Trace);

    /// <summary>h = f(e)·g.</summary>
    /// <param name="device">Device.</param>
    /// <param name="rows">Tokens.</param>
    /// <param name="gateUp">[rows, 2·width].</param>
    /// <param name="h">[rows, width] that is written.</param>
    /// <param name="factors">What e and g are to be multiplied by: [2·width] in the accumulator's type, or absent.</param>
    public void Forward(Device device, int rows, ColumnSlice gateUp, ColumnSlice h, Tensor factors = default) => Launch(device, rows, gateUp, h, false, factors, default);

    /// <summary>Gradients, and h again.</summary>
    /// <param name="device">Device.</param>
    /// <param name="rows">Tokens.</param>
    /// <param name="gateUp">[e | g]: [rows, 2·width].</param>
    /// <param name="dh">[rows, width]: gradient of h before, h after.</param>
    /// <param name="factors">As in the forward pass; de and dg are gradients of the products.</param>
    /// <param name="gradient">[de | dg], which is written with factors, with the stride of <paramref name="gateUp"/>; without, that is overwritten.</param>
    public void Backward(Device device, int rows, ColumnSlice gateUp, ColumnSlice dh, Tensor factors = default, Tensor gradient = default) => Launch(device, rows, gateUp, dh, true, factors, gradient);

    private void Launch(Device device, int rows, ColumnSlice gateUp, ColumnSlice h, bool isBackward, Tensor factors, Tensor gradient)
    {
        var kernel = Kernels[new(activation, width, h.Tensor.DType, gateUp.RowStride, h.RowStride, isBackward, factors.Exists)];
        ReadOnlySpan<KernelArgument> arguments = [gateUp.Tensor, h.Tensor, factors, gradient];
        device.Launch(kernel, new Grid(rows, Blocks.Of(width, Block)), arguments[..(!factors.Exists ? 2 : isBackward ? 4 : 3)]);
    }

    private static Kernel Trace(Choice choice) => Kernel.Trace(choice.IsBackward ? "gated_activation_backward" : "gated_activation_forward", k =>
    {
        var gateUp = k.Pointer(choice.DType, "gate_up");
        var hidden = k.Pointer(choice.DType, "h");
        var row = k.ProgramId(0).ToInt64();
        var column = k.ProgramId(1) * Block + k.Range(Block);
        var inside = column < choice.Width;
        var gate = gateUp + (row * choice.GateUpStride + column);
        var up = gate + choice.Width;
        var target = hidden + (row * choice.Stride + column);
        var e = k.Load(gate, inside).ToFloat32();
        var g = k.Load(up, inside).ToFloat32();
        if (choice.HasFactors)
        {
            var factors = k.Pointer(choice.DType.Accumulator(), "factors");
            e *= k.Load(factors + column, inside);
            g *= k.Load(factors + (column + choice.Width), inside);
        }
        if (!choice.IsBackward)
        {
            k.Store(target, (Activate(choice.Activation, e, out _) * g).To(choice.DType), inside);
            return;
        }
        var dh = k.Load(target, inside).ToFloat32();
        var f = Activate(choice.Activation, e, out var derivative);
        k.Store(target, (f * g).To(choice.DType), inside);
        var gradient = choice.HasFactors ? k.Pointer(choice.DType, "gradient") + (row * choice.GateUpStride + column) : gate;
        k.Store(gradient, (dh * g * derivative).To(choice.DType), inside);
        k.Store(gradient + choice.Width, (dh * f).To(choice.DType), inside);
    });

    /// <summary>f(e), and f'(e).</summary>
    internal static Tile.Tile Activate(GatedActivation activation, Tile.Tile e, out Tile.Tile derivative)
    {
        switch (activation)
        {
            case GatedActivation.Silu:
                var s = Sigmoid(e);
                derivative = s * (1 + e * (1 - s));
                return e * s;
            case GatedActivation.GeluTanh:
                var root = Math.Sqrt(2 / Math.PI);
                var tanh = Tanh(root * (e + 0.044715 * (e * e * e)));
                var t = 0.5 * (1 + tanh);
                derivative = t + 0.5 * e * (1 - tanh * tanh) * (root * (1 + (3 * 0.044715) * (e * e)));
                return e * t;
            default:
                var cdf = 0.5 * (1 + Erf(e * Math.Sqrt(0.5)));
                derivative = cdf + e * Exp(-0.5 * (e * e)) * (1 / Math.Sqrt(2 * Math.PI));
                return e * cdf;
        }
    }

    private readonly record struct Choice(GatedActivation Activation, int Width, DType DType, long GateUpStride, long Stride, bool IsBackward, bool HasFactors);
}
