using System.Text.Json.Nodes;
using Lancet.Adapters;
using Lancet.Devices;
using Lancet.Devices.Cpu;
using Lancet.Formats;
using Lancet.Models;
using Lancet.Models.Families;
using Lancet.Tests.Devices;
using Lancet.Tests.Training;
using Lancet.Tile;
using Lancet.Training;

namespace Lancet.Tests.Models;

/// <summary>What every family's file says beyond the numbers that the golden tests compare: configs, files, adapters by name, and models without weights.</summary>
public sealed class FamilyTests : IDisposable
{
    private const string Common = "\"hidden_size\": 64, \"intermediate_size\": 96, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"vocab_size\": 320";
    private readonly string _folder = Directory.CreateTempSubdirectory("lancet-test-").FullName;

    public static TheoryData<string> Fixtures => ["phi3-longrope", "granite", "smollm3", "olmo2", "gemma3", "cohere-qk-norm", "cohere2"];

    /// <summary>With those whose adapters PEFT does not put on all projections.</summary>
    public static TheoryData<string> AllFixtures => [.. Fixtures.Select(row => row.Data), "mixtral", "qwen3-moe"];

    public void Dispose() => Directory.Delete(_folder, true);

    [Theory]
    [MemberData(nameof(AllFixtures))]
    public void A_merged_model_has_the_checkpoints_tensors_and_the_adapters_losses(string name)
    {
        var fixture = new Fixture(name);
        using (var model = LanguageModel.Load(fixture.Model))
        {
            model.LoadAdapter(fixture.Adapter);
            ModelWriter.Save(_folder, model, DType.Float32);
        }
        using (SafetensorsFile before = SafetensorsFile.Open(Path.Combine(fixture.Model, "model.safetensors")), after = SafetensorsFile.Open(Path.Combine(_folder, "model.safetensors")))
            Assert.Equal(Describe(before), Describe(after));
        AssertLosses(_folder, fixture, "loss");
    }

    [Theory]
    [MemberData(nameof(Fixtures))]
    public void A_saved_adapter_has_pefts_names(string name)
    {
        var fixture = new Fixture(name);
        using var model = LanguageModel.Load(fixture.Model);
        model.AddLora(new LoraOptions { Rank = 8 });
        model.SaveAdapter(_folder);
        // The fixture's adapter is PEFT's, on all projections.
        using SafetensorsFile expected = SafetensorsFile.Open(Path.Combine(fixture.Adapter, "adapter_model.safetensors")), actual = SafetensorsFile.Open(Path.Combine(_folder, "adapter_model.safetensors"));
        Assert.Equal(expected.Entries.Keys.Order(), actual.Entries.Keys.Order());
        string[] Targets(string folder) => [.. JsonNode.Parse(File.ReadAllText(Path.Combine(folder, "adapter_config.json")))!["target_modules"]!.AsArray().Select(item => item!.GetValue<string>()).Order()];
        Assert.Equal(Targets(fixture.Adapter), Targets(_folder));
        Assert.Contains(name.StartsWith("phi3", StringComparison.Ordinal) ? "known are qkv_proj, o_proj, gate_up_proj, down_proj and all-linear" : "known are q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj and all-linear",
            Assert.Throws<LancetException>(() => LanguageModel.Describe(new DecoderModel(model.Config), new LoraOptions { TargetModules = ["c_attn"] })).Message);
    }

    [Theory]
    [MemberData(nameof(AllFixtures))]
    public void QLoRA_on_drawn_weights_and_training_from_scratch_learn(string name)
    {
        var fixture = new Fixture(name);
        foreach (var (options, isLikeGpu) in ((LoadOptions, bool)[])[(new() { IsDrawn = true, QuantizesToNf4 = true }, false), (new() { IsDrawn = true, QuantizesToNf4 = true }, true), (new() { IsFromScratch = true }, false)])
        {
            Device device = isLikeGpu ? new GpuPlanDevice() : new CpuDevice();
            using var model = LanguageModel.Load(fixture.Model, options with { Device = device, OwnsDevice = true });
            if (options.IsDrawn) model.AddLora(new LoraOptions { Rank = 8 });
            using var engine = new TrainingEngine(model, new EngineOptions { MaxTokens = fixture.MaxBatchTokens, MaxSequenceLength = fixture.MaxBatchTokens });
            var losses = new List<double>();
            for (var step = 1; step <= 4; step++)
            {
                var batch = fixture.Batch([1]);
                engine.BeginStep(step, batch.LabelTokenCount);
                engine.Accumulate(batch);
                losses.Add(engine.EndStep(1e-2).Loss);
            }
            Assert.InRange(losses[0], 5, 7);
            Assert.True(losses[^1] < losses[0], string.Join(", ", losses));
        }
    }

    [Theory]
    [InlineData("model.language_model.", false)]
    [InlineData("language_model.model.", true)]
    public void The_language_model_of_a_gemma3_that_sees_is_read_and_saved_alone(string prefix, bool isOldConfig)
    {
        var fixture = new Fixture("gemma3");
        var seeing = Directory.CreateDirectory(Path.Combine(_folder, "seeing")).FullName;
        using (var source = SafetensorsFile.Open(Path.Combine(fixture.Model, "model.safetensors")))
        {
            SafetensorsWriter.WriteModel(seeing,
            [
                .. source.Entries.Values.Select(entry => new SafetensorsOutput(prefix + entry.Name["model.".Length..], DType.Float32, entry.Dimensions, stream => stream.Write(entry.Span))),
                new SafetensorsOutput("vision_tower.weight", DType.Float32, [1], stream => stream.Write(new byte[4])),
            ]);
        }
        var text = JsonNode.Parse(File.ReadAllText(Path.Combine(fixture.Model, "config.json")))!.AsObject();
        if (isOldConfig)
        {
            foreach (var key in (string[])["rope_parameters", "layer_types", "_sliding_window_pattern", "tie_word_embeddings"]) text.Remove(key);
            text["sliding_window_pattern"] = 3;
            (text["rope_theta"], text["rope_local_base_freq"]) = (1e6, 1e4);
            text["rope_scaling"] = new JsonObject { ["rope_type"] = "linear", ["factor"] = 8.0 };
        }
        File.WriteAllText(Path.Combine(seeing, "config.json"), new JsonObject { ["model_type"] = "gemma3", ["text_config"] = text, ["eos_token_id"] = new JsonArray(1, 106) }.ToJsonString());
        AssertLosses(seeing, fixture, "base_loss");

        var alone = Path.Combine(_folder, "alone");
        using (var model = LanguageModel.Load(seeing))
        {
            Assert.Contains(106, model.Config.EosTokenIds);
            model.AddLora(new LoraOptions());
            model.SaveAdapter(Path.Combine(_folder, "adapter"));
            ModelWriter.Save(alone, model, DType.Float32);
        }
        using (var adapter = SafetensorsFile.Open(Path.Combine(_folder, "adapter", "adapter_model.safetensors")))
            Assert.Contains("base_model.model.model.language_model.layers.2.mlp.down_proj.lora_A.weight", adapter.Entries.Keys);
        // Adapters of older versions of transformers have the older names.
        var (older, newer) = (Directory.CreateDirectory(Path.Combine(_folder, "older")).FullName, Path.Combine(_folder, "adapter"));
        File.Copy(Path.Combine(newer, "adapter_config.json"), Path.Combine(older, "adapter_config.json"));
        using (var source = SafetensorsFile.Open(Path.Combine(newer, "adapter_model.safetensors")))
        {
            SafetensorsWriter.Write(Path.Combine(older, "adapter_model.safetensors"),
                [.. source.Entries.Values.Select(entry => new SafetensorsOutput(entry.Name.Replace("model.language_model.", "language_model.model.", StringComparison.Ordinal), DType.Float32, entry.Dimensions, stream => stream.Write(entry.Span)))]);
        }
        using (LanguageModel first = LanguageModel.Load(seeing), second = LanguageModel.Load(seeing))
        {
            first.LoadAdapter(newer);
            second.LoadAdapter(older);
            Assert.Equal(first.Trained!.Weights.Select(weight => weight.Name), second.Trained!.Weights.Select(weight => weight.Name));
            foreach (var (a, b) in first.Trained.Weights.Zip(second.Trained.Weights)) Assert.Equal(first.Read(a), second.Read(b));
        }
        Assert.Equal("gemma3_text", ModelConfig.Load(alone).ModelType);
        Assert.Contains(106, ModelConfig.Load(alone).EosTokenIds);
        AssertLosses(alone, fixture, "base_loss");
    }

    [Fact]
    public void Keys_that_a_file_leaves_out_have_the_values_of_transformers()
    {
        ModelConfig Config(string more) => ModelConfig.Parse($$"""{ {{Common}}, {{more}} }""", "config.json");
        var gemma = ModelConfig.Parse("""{"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "hidden_size": 2560, "num_hidden_layers": 34, "sliding_window": 1024, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}}}""", "config.json");
        Assert.Equal((8, 4, 256, 262208, true), (gemma.QueryHeads, gemma.KeyValueHeads, gemma.HeadDimension, gemma.VocabularySize, gemma.TiesWordEmbeddings));
        Assert.Equal([1024, 1024, 1024, 1024, 1024, 0, 1024], gemma.Windows.Take(7));
        Assert.Equal((1e4, 1.0, 1e6, 8.0), (gemma.RotaryOf(0)!.Theta, gemma.RotaryOf(0)!.Factor, gemma.RotaryOf(5)!.Theta, gemma.RotaryOf(5)!.Factor));
        var command = Config("\"model_type\": \"cohere2\", \"num_hidden_layers\": 8");
        Assert.Equal([4096, 4096, 4096, 0, 4096, 4096, 4096, 0], command.Windows);
        Assert.Equal([true, true, true, false], Enumerable.Range(0, 4).Select(layer => command.RotaryOf(layer) is not null));
        Assert.Equal((0.0625, true, 1e-5), (command.LogitScale, command.TiesWordEmbeddings, command.NormEpsilon));
        var smol = Config("\"model_type\": \"smollm3\", \"num_hidden_layers\": 4");
        Assert.Equal([true, true, true, false], Enumerable.Range(0, 4).Select(layer => smol.RotaryOf(layer) is not null));
        Assert.Equal((2e6, true), (smol.Rotary.Theta, smol.TiesWordEmbeddings));
        Assert.Equal((1e-5, false), (Config("\"model_type\": \"olmo2\"").NormEpsilon, Config("\"model_type\": \"olmo2\"").TiesWordEmbeddings));
        Assert.Equal("longrope", Config("\"model_type\": \"phi3\", \"rope_scaling\": {\"type\": \"su\", \"short_factor\": [1,1,1,1,1,1,1,1], \"long_factor\": [2,2,2,2,2,2,2,2]}").Rotary.Type);
    }

    [Theory]
    [InlineData("\"model_type\": \"deepseek_v3\"", "architecture deepseek_v3 is not supported; supported are llama, ")]
    [InlineData("\"model_type\": \"phi3\", \"hidden_act\": \"relu2\"", "hidden_act is relu2; silu, gelu and gelu_pytorch_tanh are supported")]
    [InlineData("\"model_type\": \"gemma3_text\", \"use_bidirectional_attention\": true", "use_bidirectional_attention is true")]
    [InlineData("\"model_type\": \"gemma3\"", "text_config is missing")]
    [InlineData("\"model_type\": \"granite\", \"logits_scaling\": 0", "logits_scaling is 0; a positive number is expected")]
    [InlineData("\"model_type\": \"smollm3\", \"no_rope_layers\": [1]", "no_rope_layers has 1 entries for 2 layers")]
    [InlineData("\"model_type\": \"cohere2\", \"layer_types\": [\"full_attention\", \"chunked_attention\"]", "layer_types names chunked_attention; sliding_attention and full_attention are supported")]
    [InlineData("\"model_type\": \"qwen3\", \"quantization_config\": {\"quant_method\": \"fp8\"}", "the weights are quantised by fp8. Read are fp32, bf16 and fp16, bitsandbytes' NF4, and GGUF")]
    [InlineData("\"model_type\": \"llama\", \"quantization_config\": {\"quant_method\": \"gptq\", \"bits\": 4}", "quantised by gptq.")]
    [InlineData("\"model_type\": \"llama\", \"quantization_config\": {\"quant_method\": \"bitsandbytes\", \"load_in_8bit\": true}", "quantised by bitsandbytes (int8).")]
    [InlineData("\"model_type\": \"llama\", \"quantization_config\": {\"quant_method\": \"bitsandbytes\", \"load_in_4bit\": true, \"bnb_4bit_quant_type\": \"fp4\"}", "quantised by bitsandbytes (fp4).")]
    [InlineData("\"model_type\": \"phi3\", \"rope_scaling\": {\"type\": \"longrope\", \"short_factor\": [1], \"long_factor\": [2]}", "short_factor must hold 8 numbers")]
    public void What_is_not_supported_is_one_clear_error(string keys, string message)
    {
        var error = Assert.Throws<LancetException>(() => ModelConfig.Parse($$"""{ {{Common}}, {{keys}} }""", "config.json"));
        Assert.StartsWith("config.json", error.Message, StringComparison.Ordinal);
        Assert.Contains(message, error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void The_table_of_models_names_every_family_and_fixture()
    {
        var text = Documentation();
        var readme = File.ReadAllText(Path.Combine(TestFiles.Root(), "README.md"));
        foreach (var family in ModelFamily.Names)
        {
            Assert.Contains($"`{family}`", text, StringComparison.Ordinal);
            Assert.Contains($"`{family}`", readme, StringComparison.Ordinal);
        }
        foreach (var fixture in Directory.GetDirectories(TestFiles.Golden(""))) Assert.Contains($"`{Path.GetFileName(fixture)}`", text, StringComparison.Ordinal);
    }

    [Fact]
    public void The_table_of_models_is_what_the_code_says()
    {
        // A family is checked by the fixtures whose config.json names it.
        var fixtures = Directory.GetDirectories(TestFiles.Golden("")).Select(Path.GetFileName).Order(StringComparer.Ordinal)
            .ToLookup(name => ModelConfig.Load(Path.Combine(TestFiles.Golden(name!), "model")).ModelType, name => $"`{name}`");
        var table = string.Concat(SupportedModel.Table(("checked by", model => string.Join(" ", fixtures[model.ModelType]))).Select(line => line + '\n'));
        const string Begin = "do not edit -->\n", End = "<!-- end -->";
        var text = Documentation();
        var (from, to) = (text.IndexOf(Begin, StringComparison.Ordinal) + Begin.Length, text.IndexOf(End, StringComparison.Ordinal));
        if (Environment.GetEnvironmentVariable("LANCET_UPDATE_DOCS") == "1") File.WriteAllText(DocumentationFile, text[..from] + table + text[to..]);
        else Assert.True(table == text[from..to], $"docs/models.md is not what the code says; run this test with LANCET_UPDATE_DOCS=1. Expected:\n{table}");
        foreach (var model in SupportedModel.All) Assert.NotNull(model.GgufName);
    }

    private static string DocumentationFile => Path.Combine(TestFiles.Root(), "docs", "models.md");

    private static string Documentation() => File.ReadAllText(DocumentationFile);

    private static void AssertLosses(string folder, Fixture fixture, string key)
    {
        using var model = LanguageModel.Load(folder);
        using var engine = new EvaluationEngine(model, fixture.MaxBatchTokens, fixture.MaxBatchTokens);
        fixture.AssertLosses((batch, losses) => engine.Evaluate(batch, losses), key);
    }

    private static IEnumerable<string> Describe(SafetensorsFile file) => file.Entries.Values.Select(entry => $"{entry.Name} [{string.Join(", ", entry.Dimensions)}]").Order(StringComparer.Ordinal);
}
