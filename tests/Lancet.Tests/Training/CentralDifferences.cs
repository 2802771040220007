using Lancet.Data;
using Lancet.Models;
using Lancet.Training;

namespace Lancet.Tests.Training;

/// <summary>Gradients of an fp64 model's trained weights, on a fixture's first two rows, and central differences of the loss to compare them with.</summary>
internal sealed class CentralDifferences : IDisposable
{
    private readonly LanguageModel _model;
    private readonly TrainingEngine _engine;

    public CentralDifferences(LanguageModel model, Fixture fixture)
    {
        (_model, Batch) = (model, fixture.Batch([0, 1]));
        _engine = new TrainingEngine(model, fixture.Options with { MaxGradientNorm = 0 });
        Loss();
        Gradients = model.Trained!.Weights.ToDictionary(weight => weight, weight => weight.Gradient.HostSpan<double>().ToArray());
    }

    public PackedBatch Batch { get; }

    public IReadOnlyDictionary<Weight, double[]> Gradients { get; }

    /// <summary>The loss with the weights as they are. The step's number keys dropout's masks, so every evaluation drops the same elements.</summary>
    public double Loss()
    {
        _engine.BeginStep(1, Batch.LabelTokenCount);
        _engine.Accumulate(Batch);
        return _engine.EndStep(0).Loss;
    }

    /// <summary>Asserts one element of a weight's gradient.</summary>
    public void Check(Weight weight, int at, double step = 1e-4) => Check(weight, at, step, change =>
    {
        var values = _model.Trained!.Master(weight).HostSpan<double>();
        var value = values[at];
        values[at] = value + change;
        var loss = Loss();
        values[at] = value;
        return loss;
    });

    /// <summary>The same with what else a change of the element brings with it: <paramref name="lossAt"/> gives the loss after a change, which it takes back.</summary>
    public void Check(Weight weight, int at, double step, Func<double, double> lossAt)
    {
        var (difference, gradient) = ((lossAt(step) - lossAt(-step)) / (2 * step), Gradients[weight][at]);
        var scale = 1 + Math.Min(Math.Abs(difference), Math.Abs(gradient));
        Assert.True(Math.Abs(difference - gradient) < 1e-7 * scale, $"{weight}[{at}]: {difference} and {gradient}");
    }

    public void Dispose() => _engine.Dispose();
}
