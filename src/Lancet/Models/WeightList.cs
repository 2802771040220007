using Lancet.Layers;
using Lancet.Tensors;

namespace Lancet.Models;

/// <summary>Collects a model's weights while its layers are described.</summary>
internal sealed class WeightList
{
    private readonly List<Weight> _weights = [];

    public IReadOnlyList<Weight> All => _weights;

    public Weight Add(Weight weight)
    {
        _weights.Add(weight);
        return weight;
    }

    public LoraLinear Linear(string name, int outFeatures, int inFeatures, bool hasBias)
    {
        var weight = Add(new Weight(name + ".weight", new Shape(outFeatures, inFeatures), WeightRole.Projection));
        return new LoraLinear(name, weight, hasBias ? Add(new Weight(name + ".bias", new Shape(outFeatures), WeightRole.Bias)) : null);
    }

    public RmsNorm Norm(string name, int columns, ModelConfig config, int heads = 1) =>
        new(Add(new Weight(name + ".weight", new Shape(columns), WeightRole.Norm)), config.NormEpsilon, config.IsNormPlusOne, heads);
}
