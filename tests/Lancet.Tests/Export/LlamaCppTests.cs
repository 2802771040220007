using System.Text.Json.Nodes;
using Lancet.ChatTemplates;
using Lancet.Formats.Gguf;
using Lancet.Generation;
using Lancet.Models;
using Lancet.Tokenization;

namespace Lancet.Tests.Export;

/// <summary>Exported models in llama.cpp: it has to give the logits that Lancet gives, which the golden tests compare with Hugging Face's.</summary>
public sealed class LlamaCppTests(LlamaCpp llama) : IClassFixture<LlamaCpp>, IDisposable
{
    // llama.cpp reads GELU from a table over fp16 numbers, which rounds what goes in and what comes out.
    private const double HalfPrecision = 1.0 / (1 << 8);

    // Products with fp16 weights round what they are multiplied with to fp16 in every layer.
    private const double HalfProducts = 1.0 / (1 << 6);

    // Sums of fp32 in another order, layer upon layer; a mistake in a tensor or a key shows in the first or second digit.
    private const double SinglePrecision = 1.0 / (1 << 15);

    private static readonly Lazy<int[][]> s_recalled = new(() =>
    {
        using var model = LanguageModel.Load(Path.Combine(TestFiles.Root(), "models", "lancet-dotnet-base"));
        return Recalled(model);
    });

    private readonly string _folder = Directory.CreateTempSubdirectory("lancet-test-").FullName;

    public void Dispose() => Directory.Delete(_folder, true);

    [Theory]
    [MemberData(nameof(ExportModels.Families), MemberType = typeof(ExportModels))]
    public void A_family_gives_the_same_logits(string name, string changes)
    {
        llama.Require();
        var folder = ExportModels.Copy(_folder, name, changes);
        using var model = LanguageModel.Load(folder);
        var path = Path.Combine(_folder, "model.gguf");
        GgufExporter.Write(path, model, new GgufExportOptions { Mix = GgufMix.Find("f32") });
        var random = new DeterministicRandom(5);
        int[][] prompts = [.. new[] { 1, 7, 31 }.Select(length => Enumerable.Range(0, length).Select(_ => random.NextInt32(256)).ToArray())];
        var actual = llama.Logits(path, prompts);
        using var engine = new LogitEngine(model, prompts.Max(prompt => prompt.Length));
        for (var i = 0; i < prompts.Length; i++) ExportModels.AssertClose(engine.Logits(prompts[i]), actual[i], name.StartsWith("gemma", StringComparison.Ordinal) ? HalfPrecision : SinglePrecision);
        AssertParsed(path, model);
    }

    [Fact]
    public void The_bundled_model_reads_and_answers_the_same()
    {
        llama.Require();
        var folder = Path.Combine(TestFiles.Root(), "models", "lancet-dotnet-base");
        using var model = LanguageModel.Load(folder);
        string[] questions = ["What does List.Add do?", "Explain System.Math.Abs, e.g. for -3.5 or int.MinValue.", "Und auf Deutsch: größer?\n\n\tTabs  and 日本語 ✓"];
        string[] texts = [.. questions.Select(question => model.ChatTemplate.Render([new("user", question)], new ChatTemplateOptions { AddsGenerationPrompt = true }))];
        int[][] prompts = [.. texts.Select(text => model.Tokenizer.Encode(text, false))];
        using var engine = new LogitEngine(model, prompts.Max(prompt => prompt.Length));
        foreach (var (type, tolerance) in new[] { ("f32", SinglePrecision), ("f16", HalfProducts) })
        {
            var path = Path.Combine(_folder, type + ".gguf");
            GgufExporter.Write(path, model, new GgufExportOptions { Mix = GgufMix.Find(type) });
            AssertParsed(path, model);
            Assert.Equal(prompts, llama.Tokenize(path, texts));
            var actual = llama.Logits(path, prompts);
            for (var i = 0; i < prompts.Length; i++) ExportModels.AssertClose(engine.Logits(prompts[i]), actual[i], tolerance);
        }
    }

    /// <summary>Rows of 64, 96 and 40 elements are no blocks of 256, some not even of 32: they get the types that llama.cpp falls back to, in experts' tensors too.</summary>
    [Theory]
    [InlineData("llama")]
    [InlineData("phi3")]
    [InlineData("qwen3-moe")]
    [InlineData("mixtral")]
    public void Narrow_models_fall_back_to_types_that_fit(string name)
    {
        llama.Require();
        using var model = LanguageModel.Load(ExportModels.Copy(_folder, name, name == "mixtral" ? """{"sliding_window": null}""" : "{}"));
        var path = Path.Combine(_folder, "model.gguf");
        GgufExporter.Write(path, model, new GgufExportOptions { Mix = GgufMix.Find("q4_k_m") });
        AssertParsed(path, model);
        int[] prompt = [.. Enumerable.Range(0, 15).Select(i => (i * 41) % 256)];
        using var quantized = LanguageModel.Load(path);
        using var engine = new LogitEngine(quantized, prompt.Length);
        // llama.cpp rounds what it multiplies with quantised weights to 8 bits, in each layer.
        ExportModels.AssertClose(engine.Logits(prompt), llama.Logits(path, [prompt])[0], 0.15);
    }

    /// <summary>Fixtures whose adapters are PEFT's.</summary>
    public static TheoryData<string> Adapters => ["llama", "gemma2", "gemma3", "qwen2", "qwen3", "phi3", "granite", "olmo2", "cohere"];

    [Theory]
    [MemberData(nameof(Adapters))]
    public void An_adapter_gives_the_same_logits(string name)
    {
        llama.Require();
        using var model = LanguageModel.Load(ExportModels.Copy(_folder, name, "{}"));
        var (path, adapter) = (Path.Combine(_folder, "model.gguf"), Path.Combine(_folder, "adapter.gguf"));
        GgufExporter.Write(path, model, new GgufExportOptions { Mix = GgufMix.Find("f32") });
        int[] prompt = [.. Enumerable.Range(0, 15).Select(i => (i * 41) % 256)];
        float[] without, with;
        using (var engine = new LogitEngine(model, prompt.Length)) without = engine.Logits(prompt);
        model.LoadAdapter(new Lancet.Tests.Training.Fixture(name).Adapter);
        GgufAdapterWriter.Write(adapter, model, GgufMix.Find("f32"));
        using (var engine = new LogitEngine(model, prompt.Length)) with = engine.Logits(prompt);
        Assert.True(without.Zip(with, (x, y) => Math.Abs(x - y)).Max() > 0.02, "the adapter does nothing");
        ExportModels.AssertClose(with, llama.Logits(path, [prompt], adapter)[0], name.StartsWith("gemma", StringComparison.Ordinal) ? HalfPrecision : SinglePrecision);
    }

    /// <summary>Adapters of experts, which are stacked as their matrices are, and of the router beside them.</summary>
    [Theory]
    [InlineData("mixtral", "w2", "f32", SinglePrecision)]
    [InlineData("mixtral", "w2", "f16", HalfProducts)]
    [InlineData("qwen3-moe", "up_proj", "f32", SinglePrecision)]
    [InlineData("qwen3-moe", "up_proj", "f16", HalfProducts)]
    public void An_adapter_of_experts_gives_the_same_logits(string name, string other, string type, double tolerance)
    {
        llama.Require();
        using var model = LanguageModel.Load(ExportModels.Copy(_folder, name, name == "mixtral" ? """{"sliding_window": null}""" : "{}"));
        var (path, adapter, merged) = (Path.Combine(_folder, "model.gguf"), Path.Combine(_folder, "adapter.gguf"), Path.Combine(_folder, "merged.gguf"));
        GgufExporter.Write(path, model, new GgufExportOptions { Mix = GgufMix.Find("f32") });
        int[] prompt = [.. Enumerable.Range(0, 15).Select(i => (i * 41) % 256)];
        float[] without, with;
        using (var engine = new LogitEngine(model, prompt.Length)) without = engine.Logits(prompt);
        Lancet.Tests.Models.MixtureTests.AddDrawnLora(model, new() { Rank = 6, Alpha = 5, TargetModules = [.. model.Decoder.ModuleNames, "gate"], RankPattern = [new(other, 3)], AlphaPattern = [new(other, 9)] });
        GgufAdapterWriter.Write(adapter, model, GgufMix.Find(type));
        GgufExporter.Write(merged, model, new GgufExportOptions { Mix = GgufMix.Find("f32") });
        using (var engine = new LogitEngine(model, prompt.Length)) with = engine.Logits(prompt);
        Assert.True(without.Zip(with, (x, y) => Math.Abs(x - y)).Max() > 0.02, "the adapter does nothing");
        var actual = llama.Logits(path, [prompt], adapter)[0];
        ExportModels.AssertClose(with, actual, tolerance);
        ExportModels.AssertClose(llama.Logits(merged, [prompt])[0], actual, tolerance);
    }

    public static TheoryData<string> QuantizedMixes => [.. GgufMix.Names.Where(name => name.StartsWith('q'))];

    /// <summary>A file that Lancet quantised against one that llama.cpp quantised, both read by llama.cpp: the same types, and a perplexity at most 1 % above.</summary>
    [Theory]
    [MemberData(nameof(QuantizedMixes))]
    public void A_mix_has_the_types_and_the_perplexity_of_llama_cpps(string mix)
    {
        llama.Require();
        using var model = LanguageModel.Load(Path.Combine(TestFiles.Root(), "models", "lancet-dotnet-base"));
        var (full, ours, theirs) = (Path.Combine(_folder, "full.gguf"), Path.Combine(_folder, "ours.gguf"), Path.Combine(_folder, "theirs.gguf"));
        GgufExporter.Write(full, model, new GgufExportOptions { Mix = GgufMix.Find("f32") });
        GgufExporter.Write(ours, model, new GgufExportOptions { Mix = GgufMix.Find(mix) });
        GgmlLibrary.QuantizeModel(full, theirs, GgufMix.Find(mix).FileType);
        using (GgufFile mine = GgufFile.Open(ours), other = GgufFile.Open(theirs))
            Assert.Equal(other.Header.Tensors.Values.Select(tensor => $"{tensor.Name} {tensor.Type}").Order(), mine.Header.Tensors.Values.Select(tensor => $"{tensor.Name} {tensor.Type}").Order());
        AssertParsed(ours, model);
        var prompts = s_recalled.Value;
        var (own, reference) = (llama.Perplexity(ours, prompts), llama.Perplexity(theirs, prompts));
        TestContext.Current.SendDiagnosticMessage($"{mix}: {own} {reference} {own / reference}");
        Assert.True(own < 1.01 * reference, $"{own} against {reference}");
    }

    /// <summary>Documentation that the bundled model knows by heart, as it tells it.</summary>
    private static int[][] Recalled(LanguageModel model)
    {
        int[][] names = [.. File.ReadLines(Path.Combine(TestFiles.Root(), "samples", "dotnet-api-qa", "train.jsonl"))
            .Select(line => (string)JsonNode.Parse(line)!["messages"]![0]!["content"]!).Where(question => question.StartsWith("What does System.", StringComparison.Ordinal)).Take(24)
            .Select(question => model.Tokenizer.Encode(question["What does ".Length..].Replace(" do?", "", StringComparison.Ordinal), false))];
        using var generator = new TextGenerator(model, names.Length, 64);
        return [.. names.Zip(generator.Generate(names, new GenerationOptions { MaxNewTokens = 32 }), (name, text) => (int[])[.. name, .. text])];
    }

    private void AssertParsed(string path, LanguageModel model)
    {
        var parsed = llama.Ask(new() { ["model"] = path });
        Assert.Equal(model.Config.LayerCount, parsed["metadata"]![(string)parsed["metadata"]!["general.architecture"]! + ".block_count"]!.GetValue<int>());
        using var file = GgufFile.Open(path);
        Assert.Equal(file.Header.Tensors.Values.Select(tensor => (tensor.Name, (int)tensor.Type, string.Join(',', tensor.Dimensions.Reverse()))),
            parsed["tensors"]!.AsArray().Select(tensor => ((string)tensor!["name"]!, (int)tensor["type"]!, string.Join(',', tensor["shape"]!.AsArray().Select(extent => (long)extent!)))));
        Assert.True(file.Header.Tensors.Values.Sum(tensor => tensor.Count) >= model.Config.ParameterCount);
    }

    [Theory]
    [MemberData(nameof(Lancet.Tests.Text.TokenizerTests.Kinds), MemberType = typeof(Lancet.Tests.Text.TokenizerTests))]
    public void A_tokenizer_gives_the_same_ids(string kind)
    {
        llama.Require();
        var folder = ExportModels.WithTokenizer(_folder, kind);
        var tokenizer = Tokenizer.Load(folder);
        var path = Path.Combine(_folder, "model.gguf");
        using var model = LanguageModel.Load(folder);
        if (kind == "gpt2-prefix")
        {
            // llama.cpp has no byte-level tokenizer that puts a space in front.
            Assert.Contains("no pre-tokeniser that splits text like this one", Assert.Throws<LancetException>(() => GgufExporter.Write(path, model, new GgufExportOptions())).Message);
            return;
        }
        GgufExporter.Write(path, model, new GgufExportOptions { Mix = GgufMix.Find("f16") });
        // llama.cpp does not normalise (é in two characters), and puts a space in front of every stretch where "mistral" wants one at the very start.
        string[] texts = [.. Lancet.Tests.Text.TokenizerTests.Texts(kind).Where(text => kind switch { "qwen2" => !text.Contains('\u0301'), "mistral" => !text.Contains('<') && !" ▁".Contains(text.FirstOrDefault('a')), _ => true })];
        AssertSameIds(tokenizer, path, texts);
        if (kind != "mistral") return;
        GgufExporter.Write(path, model, new GgufExportOptions { Mix = GgufMix.Find("f16"), ChatTemplate = ChatTemplate.Parse("<s>{{ messages[0].content }}") });
        AssertSameIds(tokenizer, path, [.. Lancet.Tests.Text.TokenizerTests.Texts(kind).Select(text => "<s>" + text)]);
    }

    private void AssertSameIds(Tokenizer tokenizer, string path, string[] texts)
    {
        var actual = llama.Tokenize(path, texts);
        var different = texts.Where((text, i) => !tokenizer.Encode(text, false).SequenceEqual(actual[i])).ToList();
        Assert.True(different.Count == 0, $"{different.Count} of {texts.Length}: {string.Join("\n", different.Select(text => JsonValue.Create(text)!.ToJsonString() + " " + string.Join(' ', tokenizer.Encode(text, false)) + " | " + string.Join(' ', actual[Array.IndexOf(texts, text)])))}");
    }
}
