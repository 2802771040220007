using Lancet.Adapters;
using Lancet.Devices;
using Lancet.Layers;
using Lancet.Models;
using Lancet.Planning;
using Lancet.Tile;
using Lancet.Training;

namespace Lancet.Bench.Gpu;

/// <summary>A training step that computes nothing, to see what the engine launches.</summary>
internal static class DryStep
{
    /// <summary>Runs a step in bf16 that keeps everything.</summary>
    /// <param name="model">Name of a model's shapes.</param>
    /// <param name="layers">Layers.</param>
    /// <param name="isQuantized">Whether the base weights are NF4.</param>
    /// <param name="tokens">Tokens of the batch.</param>
    /// <param name="length">Longest sequence.</param>
    public static SpyDevice Run(string model, int layers, bool isQuantized, int tokens, int length)
    {
        var decoder = new DecoderModel(ModelShapes.Config(model, layers));
        LanguageModel.Describe(decoder, new LoraOptions());
        decoder.DescribeStorage(PlanTarget.Cuda, DType.BFloat16, isQuantized);
        var spy = new SpyDevice(new PlanningDevice(PlanTarget.Cuda));
        var memory = new StepMemory();
        memory.BeginPlanning();
        var inputs = new StepInputs(spy.Inner, decoder.Config, DType.BFloat16, tokens, length);
        var context = new StepContext(spy, memory, DType.BFloat16) { IsTraining = true };
        inputs.Bind(context, tokens);
        var policies = new ActivationPolicy[layers];
        Array.Fill(policies, ActivationPolicy.Keep);
        decoder.ForwardBackward(context, policies, inputs.Losses.Rows(0, tokens));
        return spy;
    }
}
