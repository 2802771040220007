using System.Runtime.InteropServices;
using System.Text.Json.Nodes;
using Lancet.Adapters;
using Lancet.Formats;
using Lancet.Models;
using Lancet.Tests.Models;
using Lancet.Tests.Training;
using Lancet.Tile;

namespace Lancet.Tests.Adapters;

/// <summary>Adapters of experts as PEFT writes them since transformers 5: for all experts of a layer at once.</summary>
public sealed class FusedExpertTests : IDisposable
{
    private const string Prefix = "base_model.model.model.layers.";
    private const int Rank = 3;
    private readonly string _folder = Directory.CreateTempSubdirectory("lancet-test-").FullName;

    public void Dispose() => Directory.Delete(_folder, true);

    /// <summary>The same adapter in both forms: gate and up put together have ranks of their own each, as PEFT puts them together when it reads the older form.</summary>
    [Theory]
    [InlineData("mixtral", "w1,w3,w2,gate,q_proj", false)]
    [InlineData("mixtral", "w2", false)]
    [InlineData("qwen3-moe", "gate_proj,up_proj,down_proj,gate", false)]
    [InlineData("qwen3-moe", "gate_proj,up_proj,down_proj", true)]
    [InlineData("qwen3-moe", "gate_proj,up_proj,v_proj", false)]
    public void They_give_the_losses_of_the_experts_own(string name, string targets, bool isDownInside)
    {
        var fixture = new Fixture(name);
        float[] expected;
        int count;
        using (var model = LanguageModel.Load(fixture.Model))
        {
            MixtureTests.AddDrawnLora(model, new LoraOptions { Rank = Rank, Alpha = 5, TargetModules = targets.Split(',') });
            model.SaveAdapter(_folder);
            expected = MixtureTests.Losses(model, fixture);
            count = model.Config.Experts!.Count;
        }
        Fuse(count, isDownInside);
        using var again = LanguageModel.Load(fixture.Model);
        again.LoadAdapter(_folder);
        var losses = MixtureTests.Losses(again, fixture);
        foreach (var (a, b) in expected.Zip(losses)) Assert.Equal(a, b, 1e-5f);
        // What is saved again is in the older form, which PEFT reads too.
        again.SaveAdapter(_folder);
        using var third = LanguageModel.Load(fixture.Model);
        third.LoadAdapter(_folder);
        Assert.Equal(losses, MixtureTests.Losses(third, fixture));
    }

    [Fact]
    public void What_does_not_add_up_is_one_clear_error()
    {
        var fixture = new Fixture("mixtral");
        using (var model = LanguageModel.Load(fixture.Model))
        {
            model.AddLora(new LoraOptions { Rank = Rank, TargetModules = ["w2"] });
            model.SaveAdapter(_folder);
        }
        Fuse(4);
        string Message()
        {
            using var model = LanguageModel.Load(fixture.Model);
            return Assert.Throws<LancetException>(() => model.LoadAdapter(_folder)).Message;
        }
        Edit(config => config["target_parameters"] = null);
        Assert.Contains("target_parameters does not say whether", Message());
        Edit(config => config["target_parameters"] = new JsonArray("mlp.experts.gate_up_proj"));
        Assert.Contains("of 4 experts [ranks, 64] and [96, ranks] are expected", Message());
    }

    /// <summary>Rewrites an adapter of single experts.</summary>
    private void Fuse(int count, bool isDownInside = false)
    {
        var path = Path.Combine(_folder, "adapter_model.safetensors");
        var tensors = new Dictionary<string, (float[] Values, long[] Shape)>();
        using (var file = SafetensorsFile.Open(path))
        {
            foreach (var (key, entry) in file.Entries)
            {
                var values = new float[entry.Count];
                entry.CopyTo(values);
                tensors[key] = (values, [.. entry.Dimensions]);
            }
        }
        var parameters = new HashSet<string>();
        var fused = tensors.Where(item => !item.Key.Contains(".experts.", StringComparison.Ordinal)).ToDictionary(item => item.Key.Replace(".block_sparse_moe.", ".mlp.", StringComparison.Ordinal), item => item.Value);
        foreach (var layer in Enumerable.Range(0, 3))
        {
            var block = tensors.Keys.First(key => key.StartsWith($"{Prefix}{layer}.", StringComparison.Ordinal) && key.Contains(".experts.0.", StringComparison.Ordinal)).Split(".experts.")[0];
            var down = new[] { "w2", "down_proj" }.Where(part => tensors.ContainsKey($"{block}.experts.0.{part}.lora_A.weight")).ToArray();
            var others = new[] { "w1", "w3", "gate_proj", "up_proj" }.Where(part => tensors.ContainsKey($"{block}.experts.0.{part}.lora_A.weight")).ToArray();
            var module = $"{Prefix}{layer}.mlp.experts";
            if (down.Length > 0) Add(isDownInside ? module + ".base_layer" : module, "down_proj", down);
            if (others.Length > 0) Add(down.Length > 0 && !isDownInside ? module + ".base_layer" : module, "gate_up_proj", others);

            void Add(string name, string parameter, string[] parts)
            {
                parameters.Add("mlp.experts." + parameter);
                var (inputs, outputs, ranks) = ((int)tensors[$"{block}.experts.0.{parts[0]}.lora_A.weight"].Shape[1], (int)tensors[$"{block}.experts.0.{parts[0]}.lora_B.weight"].Shape[0], Rank * parts.Length);
                var (a, b) = (new float[count * ranks * inputs], new float[outputs * parts.Length * ranks * count]);
                for (var expert = 0; expert < count; expert++)
                {
                    for (var part = 0; part < parts.Length; part++)
                    {
                        tensors[$"{block}.experts.{expert}.{parts[part]}.lora_A.weight"].Values.CopyTo(a, ((expert * ranks) + (part * Rank)) * inputs);
                        var own = tensors[$"{block}.experts.{expert}.{parts[part]}.lora_B.weight"].Values;
                        for (var row = 0; row < outputs; row++)
                            for (var rank = 0; rank < Rank; rank++) b[((((part * outputs) + row) * ranks) + (part * Rank) + rank) * count + expert] = own[(row * Rank) + rank];
                    }
                }
                fused[name + ".lora_A.weight"] = (a, [count * ranks, inputs]);
                fused[name + ".lora_B.weight"] = (b, [outputs * parts.Length, ranks * count]);
            }
        }
        SafetensorsWriter.Write(path, [.. fused.Select(item => new SafetensorsOutput(item.Key, DType.Float32, item.Value.Shape, stream => stream.Write(MemoryMarshal.AsBytes<float>(item.Value.Values))))]);
        Edit(config =>
        {
            config["target_modules"] = new JsonArray("q_proj", "v_proj");
            config["target_parameters"] = new JsonArray([.. parameters.Select(parameter => (JsonNode)parameter)]);
            // Twice the ranks need twice the alpha.
            if (parameters.Contains("mlp.experts.gate_up_proj")) config["alpha_pattern"] = new JsonObject { [".*\\.gate_up_proj"] = 10 };
        });
    }

    private void Edit(Action<JsonObject> change)
    {
        var path = Path.Combine(_folder, "adapter_config.json");
        var config = JsonNode.Parse(File.ReadAllText(path))!.AsObject();
        change(config);
        File.WriteAllText(path, config.ToJsonString());
    }
}
