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

    /// <summary>Projection to the logits of a router.</summary>
    public LoraLinear Router(string name, int experts, int inFeatures) => new(name, Add(new Weight(name + ".weight", new Shape(experts, inFeatures), WeightRole.Router)), null);

    public Norm Norm(string name, ModelConfig config) => Norm(name, new Shape(config.HiddenSize), config, 1);

    /// <summary>Norm of what half a layer reads, which some families leave out.</summary>
    public InputNorm InputNorm(string name, ModelConfig config) => new(config.HasPreNorms ? Norm(name, config) : null, config.HiddenSize);

    /// <summary>Norm of queries or keys.</summary>
    public Norm HeadNorm(string name, int heads, ModelConfig config) => config.QueryKeyNorm switch
    {
        QueryKeyNorm.Head => Norm(name, new Shape(config.HeadDimension), config, heads),
        QueryKeyNorm.HeadWithOwnScales => Norm(name, new Shape(heads, config.HeadDimension), config, heads),
        _ => Norm(name, new Shape(heads * config.HeadDimension), config, 1),
    };

    private Norm Norm(string name, Shape shape, ModelConfig config, int heads) => new(Add(new Weight(name + ".weight", shape, WeightRole.Norm)), config.NormEpsilon, config.Norm, heads);
}
