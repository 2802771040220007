using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Models;

/// <summary>Memory of weights of one shape that lie one behind the other, as a GPU's grouped products read experts.</summary>
/// <param name="count">Weights.</param>
public sealed class WeightStack(int count)
{
    private Tensor _memory;

    /// <summary>The memory of one of the weights; all get theirs with the first.</summary>
    /// <param name="dtype">Dtype of all.</param>
    /// <param name="shape">Shape of each.</param>
    /// <param name="index">Which.</param>
    /// <param name="allocate">Allocates a number of elements.</param>
    internal Tensor Take(DType dtype, Shape shape, int index, Func<Shape, Tensor> allocate)
    {
        if (!_memory.Exists) _memory = allocate(new Shape(count, shape.Count));
        return dtype == _memory.DType ? _memory.Rows(index, 1).Reshape(shape) : throw new InvalidOperationException($"A stack of {_memory.DType} cannot hold {dtype}.");
    }
}
