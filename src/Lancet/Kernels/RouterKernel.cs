using Lancet.Devices;
using Lancet.Tensors;
using Lancet.Tile;
using static Lancet.Tile.TileMath;

namespace Lancet.Kernels;

/// <summary>
/// Top-k routing of tokens to experts (Shazeer et al. 2017; Jiang et al., "Mixtral of Experts", 2024), in fp32.
/// <code>
/// forward     p = softmax(z)     i₁ … i_k = experts of the k largest p, ties to the lower index     sⱼ = p[iⱼ]
///             wⱼ = sⱼ, or sⱼ / Σ s if normalised
/// backward    c = Σⱼ wⱼ·dwⱼ
///             normalised       dz[iⱼ] = wⱼ·(dwⱼ − c), 0 elsewhere      (w is the softmax of the chosen z alone)
///             otherwise        dz[i]  = p[i]·(dw[i] − c), dw 0 where not chosen
/// </code>
/// p is written over z and kept, with indices and weights; which experts are chosen has no gradient.
/// </summary>
/// <param name="experts">Experts, E.</param>
/// <param name="chosen">Experts of a token, k.</param>
/// <param name="isNormalized">Whether a token's weights are made to sum to 1.</param>
public sealed class RouterKernel(int experts, int chosen, bool isNormalized)
{
    private const int Elements = 1024;
    private static readonly KernelSet<(int Experts, int Chosen, bool IsNormalized, DType DType)> ForwardKernels = new(TraceForward);
    private static readonly KernelSet<(int Experts, int Chosen, bool IsNormalized, DType DType, DType Gradient)> BackwardKernels = new(TraceBackward);

    /// <summary>Chooses experts.</summary>
    /// <param name="device">Device.</param>
    /// <param name="logits">z [T, E] in the accumulator's type, overwritten by p.</param>
    /// <param name="indices">int32 [T, k] that is written, largest weight first.</param>
    /// <param name="weights">w [T, k] in the accumulator's type that is written.</param>
    public void Forward(Device device, Tensor logits, Tensor indices, Tensor weights)
    {
        var tokens = (int)logits.Shape[0];
        device.Launch(ForwardKernels[(experts, chosen, isNormalized, logits.DType)], new Grid(Blocks.Of(tokens, Height(experts))), [logits, indices, weights, tokens]);
    }

    /// <summary>Gradient of the logits.</summary>
    /// <param name="device">Device.</param>
    /// <param name="probabilities">p [T, E].</param>
    /// <param name="indices">int32 [T, k].</param>
    /// <param name="weights">w [T, k].</param>
    /// <param name="weightGradients">dw [T, k].</param>
    /// <param name="gradient">dz [T, E] that is written.</param>
    public void Backward(Device device, Tensor probabilities, Tensor indices, Tensor weights, Tensor weightGradients, Tensor gradient)
    {
        var tokens = (int)probabilities.Shape[0];
        device.Launch(
            BackwardKernels[(experts, chosen, isNormalized, probabilities.DType, gradient.DType)], new Grid(Blocks.Of(tokens, Height(experts))),
            [probabilities, indices, weights, weightGradients, gradient, tokens]);
    }

    // Tokens of a program.
    private static int Height(int experts) => Math.Max(1, Elements / Blocks.PowerOfTwo(experts));

    private static Kernel TraceForward((int Experts, int Chosen, bool IsNormalized, DType DType) choice) => Kernel.Trace("router_forward", k =>
    {
        var logits = k.Pointer(choice.DType, "logits");
        var indices = k.Pointer(DType.Int32, "indices");
        var weights = k.Pointer(choice.DType, "weights");
        var tokens = k.Scalar(DType.Int32, "tokens");
        var width = Blocks.PowerOfTwo(choice.Experts);
        var row = k.ProgramId(0) * Height(choice.Experts) + k.Range(Height(choice.Experts));
        var column = k.Range(width).AsRow();
        var inside = (row < tokens).AsColumn() & (column < choice.Experts);
        var place = logits + ((row.ToInt64() * choice.Experts).AsColumn() + column.ToInt64());
        var z = k.Load(place, inside, double.NegativeInfinity);
        // A row that does not exist has no finite maximum.
        var largest = Select(row < tokens, ReduceMax(z, 1), 0);
        var power = Exp(z - largest.AsColumn());
        var p = power / Sum(power, 1).AsColumn();
        k.Store(place, p, inside);

        var left = Select(inside, p, -1);
        var tops = new Tile.Tile[choice.Chosen];
        for (var j = 0; j < choice.Chosen; j++)
        {
            tops[j] = ReduceMax(left, 1);
            var at = Select(left.EqualTo(tops[j].AsColumn()), column.BroadcastTo(Height(choice.Experts), width), choice.Experts);
            // NaN equals nothing; its index must stay within the experts nevertheless.
            var index = Min(ReduceMin(at, 1), choice.Experts - 1);
            k.Store(indices + (row * choice.Chosen + j), index, row < tokens);
            left = Select(column.EqualTo(index.AsColumn()), -1, left);
        }
        var total = tops[0];
        for (var j = 1; j < choice.Chosen; j++) total += tops[j];
        for (var j = 0; j < choice.Chosen; j++) k.Store(weights + (row * choice.Chosen + j), choice.IsNormalized ? tops[j] / total : tops[j], row < tokens);
    });

    private static Kernel TraceBackward((int Experts, int Chosen, bool IsNormalized, DType DType, DType Gradient) choice) => Kernel.Trace("router_backward", k =>
    {
        var probabilities = k.Pointer(choice.DType, "probabilities");
        var indices = k.Pointer(DType.Int32, "indices");
        var weights = k.Pointer(choice.DType, "weights");
        var weightGradients = k.Pointer(choice.DType, "weight_gradients");
        var gradient = k.Pointer(choice.Gradient, "gradient");
        var tokens = k.Scalar(DType.Int32, "tokens");
        var (height, width) = (Height(choice.Experts), Blocks.PowerOfTwo(choice.Experts));
        var row = k.ProgramId(0) * height + k.Range(height);
        var column = k.Range(width).AsRow();
        var inside = (row < tokens).AsColumn() & (column < choice.Experts);
        Tile.Tile At(Pointer values, int j) => k.Load(values + (row * choice.Chosen + j), row < tokens);
        var (w, dw) = (new Tile.Tile[choice.Chosen], new Tile.Tile[choice.Chosen]);
        var sum = k.Zeros(choice.DType, height);
        for (var j = 0; j < choice.Chosen; j++)
        {
            (w[j], dw[j]) = (At(weights, j), At(weightGradients, j));
            sum += w[j] * dw[j];
        }
        var dz = k.Zeros(choice.DType, height, width);
        for (var j = 0; j < choice.Chosen; j++)
        {
            var value = choice.IsNormalized ? w[j] * (dw[j] - sum) : dw[j];
            dz += Select(column.EqualTo(At(indices, j).AsColumn()), value.AsColumn().BroadcastTo(height, width), 0);
        }
        var offset = (row.ToInt64() * choice.Experts).AsColumn() + column.ToInt64();
        if (!choice.IsNormalized) dz = k.Load(probabilities + offset, inside) * (dz - sum.AsColumn());
        k.Store(gradient + offset, dz.To(choice.Gradient), inside);
    });
}
