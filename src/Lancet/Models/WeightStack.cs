using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Models;

/// <summary>Memory of weights of one shape that lie one behind the other, as a GPU's grouped products read experts: of their elements, or of each part of their NF4 form.</summary>
/// <param name="count">Weights.</param>
public sealed class WeightStack(int count)
{
    private readonly Dictionary<string, Tensor> _parts = [];

    /// <summary>One weight's memory; all get theirs with the first.</summary>
    /// <param name="part">What it is for.</param>
    /// <param name="dtype">Dtype of all.</param>
    /// <param name="shape">Shape of each.</param>
    /// <param name="index">Which weight.</param>
    /// <param name="allocate">Allocates a number of elements.</param>
    internal Tensor Take(string part, DType dtype, Shape shape, int index, Func<DType, Shape, Tensor> allocate)
    {
        if (!_parts.TryGetValue(part, out var memory)) _parts[part] = memory = allocate(dtype, new Shape(count, shape.Count));
        return dtype == memory.DType ? memory.Rows(index, 1).Reshape(shape) : throw new InvalidOperationException($"A stack of {memory.DType} cannot hold {dtype}.");
    }
}
