using System.Text.RegularExpressions;
using Lancet.Layers;
using Lancet.Models;

namespace Lancet.Formats;

// Since transformers 5 the matrices of all experts of a layer are one parameter, gate above up in another, and PEFT's adapters of parameters are for all experts at once.
// An adapter of r ranks for E experts is A [E·r, in], expert after expert, and B [out, r·E], whose columns are rank after rank. Two on the same module are
// nested: that of the inner one, gate and up as a rule, has base_layer in its name.
public sealed partial class PeftAdapter
{
    private const string GateUp = "gate_up_proj";
    private const string Down = "down_proj";
    private readonly Dictionary<(string Module, string Part), Func<float[]>> _views = [];

    /// <summary>Gives each expert its part of such adapters. A that gate and up have shared are two from then on.</summary>
    private void SplitExperts(ModelConfig config, ExpertConfig experts, Dictionary<string, LoraLinear> projections)
    {
        var parameters = _config.Texts("target_parameters") ?? [];
        bool Targets(string parameter) => parameters.Any(name => name == parameter || name.EndsWith("." + parameter, StringComparison.Ordinal));
        // Transformers 5 has one name for all families' blocks.
        foreach (var layer in Enumerable.Range(0, config.LayerCount).Where(layer => experts.Layers[layer]))
        {
            var (theirs, ours) = ($"{config.WeightPrefix}layers.{layer}.mlp", $"{config.WeightPrefix}layers.{layer}.{experts.Block}");
            foreach (var part in (string[])["lora_A", "lora_B"])
                if (theirs != ours && _tensors.Remove((theirs + ".gate", part), out var router)) _tensors[(ours + ".gate", part)] = router;
            var (outer, inner) = (theirs + ".experts", theirs + ".experts.base_layer");
            if (!_tensors.ContainsKey((outer, "lora_A"))) continue;
            var isNested = _tensors.ContainsKey((inner, "lora_A"));
            if (!isNested && Targets(GateUp) == Targets(Down)) throw _config.Error($"target_parameters does not say whether {_file.Path} holds an adapter of {GateUp} or of {Down} as {outer}.");
            var isGateUpInside = isNested && Entry(inner, "lora_B").Dimensions[0] == 2L * experts.IntermediateSize;
            if (isNested || Targets(GateUp)) Split(isGateUpInside ? inner : outer, GateUp, [experts.Gate, experts.Up]);
            if (isNested || Targets(Down)) Split(isNested && !isGateUpInside ? inner : outer, Down, [experts.Down]);

            void Split(string module, string parameter, string[] names)
            {
                SplitExpert(module, $"{ours}.experts", names, experts.Count, projections);
                SetAlpha($"{outer}.{parameter}", $"{ours}.experts.0.{names[0]}", $"experts\\.[0-9]+\\.({string.Join('|', names.Select(Regex.Escape))})");
            }
        }
    }

    /// <summary>Patterns that are meant for the parameter count for the experts' projections.</summary>
    private void SetAlpha(string parameter, string projection, string pattern)
    {
        var (wanted, found) = (Options.AlphaOf(parameter), Options.AlphaOf(projection));
        if (wanted == found) return;
        if (Options.AlphaPattern.Any(item => item.Key == pattern)) throw _config.Error($"alpha_pattern gives {parameter} another alpha ({wanted}) than that of other layers' experts ({found}).");
        Options = Options with { AlphaPattern = [new(pattern, wanted), .. Options.AlphaPattern] };
    }

    private void SplitExpert(string module, string target, string[] names, int count, Dictionary<string, LoraLinear> projections)
    {
        var (a, b) = (Entry(module, "lora_A"), Entry(module, "lora_B"));
        var projection = projections[$"{target}.0.{names[0]}"];
        var (rows, features) = (projection.OutFeatures, projection.InFeatures);
        if (a.Dimensions.Count != 2 || b.Dimensions.Count != 2 || a.Dimensions[0] % count != 0 || a.Dimensions[0] < count || b.Dimensions[1] != a.Dimensions[0] || a.Dimensions[1] != features || b.Dimensions[0] != rows * names.Length)
            throw new LancetException($"{_file.Path}: {module} has matrices [{string.Join(", ", a.Dimensions)}] and [{string.Join(", ", b.Dimensions)}]; of {count} experts [ranks, {features}] and [{rows * names.Length}, ranks] are expected, as PEFT has written them since 0.19.");
        var rank = (int)(a.Dimensions[0] / count);
        var bytes = a.Bytes / count;
        var all = new Lazy<float[]>(() => Values(b));
        for (var expert = 0; expert < count; expert++)
        {
            for (var part = 0; part < names.Length; part++)
            {
                var (name, first, column) = ($"{target}.{expert}.{names[part]}", part * rows, expert);
                _tensors[(name, "lora_A")] = new(a.Name, a.Format, [rank, features], a.Address + (nint)(expert * bytes), bytes);
                _tensors[(name, "lora_B")] = b with { Dimensions = [rows, rank] };
                _views[(name, "lora_B")] = () =>
                {
                    var values = new float[rows * rank];
                    for (var i = 0; i < values.Length; i++) values[i] = all.Value[((((first + (i / rank)) * rank) + (i % rank)) * count) + column];
                    return values;
                };
            }
        }
        _tensors.Remove((module, "lora_A"));
        _tensors.Remove((module, "lora_B"));
    }
}
