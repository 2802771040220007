using Lancet.Adapters;
using Lancet.Kernels;
using Lancet.Layers;
using Lancet.Tile;

namespace Lancet.Models;

public sealed partial class LanguageModel
{
    /// <summary>Starts every adapter of an NF4 weight from what the quantisation has lost.</summary>
    /// <exception cref="LancetException">Nothing is quantised, or the weights before it are not there.</exception>
    private void InitializeLoftQ(long seed)
    {
        LoraLinear[] projections = [.. Decoder.Projections.Where(projection => projection.A is not null && projection.Weight.Quantized is not null)];
        if (projections.Length == 0) throw new LancetException("LoftQ starts adapters from what NF4 loses of the weights; use --method qlora, or another --init-lora-weights.");
        if (_checkpoint is null || _checkpoint.Entries.Keys.Any(WeightLoader.IsQuantState)) throw new LancetException($"{Folder}: LoftQ needs the weights as they were before they were quantised; this checkpoint does not hold them.");
        using var loader = new WeightLoader(Device, _checkpoint, DType, _owned) { Config = Config };
        var bytes = projections.Max(projection => projection.Weight.Shape.Count) * sizeof(float);
        using var first = Device.Allocate(bytes, "LoftQ");
        using var second = Device.Allocate(bytes, "LoftQ");
        for (var i = 0; i < projections.Length; i++)
        {
            var projection = projections[i];
            var (residual, quantized) = (first.View(DType.Float32, projection.Weight.Shape), second.View(DType.Float32, projection.Weight.Shape));
            loader.CopyTo(projection.Weight, residual);
            Nf4Kernel.Dequantize(Device, projection.Weight.Quantized!, quantized);
            ElementwiseKernel.AddRows(Device, projection.OutFeatures, projection.InFeatures, quantized, residual, -1);
            var (a, b) = LoftQ.Factor(Device, residual, (int)projection.A!.Shape[0], projection.Scale, seed + i);
            SetTrained(projection.A, a);
            SetTrained(projection.B!, b);
        }
    }
}
