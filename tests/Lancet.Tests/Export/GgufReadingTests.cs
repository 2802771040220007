using Lancet.ChatTemplates;
using Lancet.Data;
using Lancet.Formats;
using Lancet.Formats.Gguf;
using Lancet.Generation;
using Lancet.Models;
using Lancet.Tokenization;
using Lancet.Training;

namespace Lancet.Tests.Export;

/// <summary>GGUF files as models: what was written is what is read, by the logits, the ids and the configuration.</summary>
public sealed class GgufReadingTests : IDisposable
{
    private static readonly string s_bundled = Path.Combine(TestFiles.Root(), "models", "lancet-dotnet-base");
    private readonly string _folder = Directory.CreateTempSubdirectory("lancet-test-").FullName;

    private string FilePath => Path.Combine(_folder, "model.gguf");

    public void Dispose() => Directory.Delete(_folder, true);

    [Theory]
    [MemberData(nameof(ExportModels.Families), MemberType = typeof(ExportModels))]
    public void A_family_comes_back(string name, string changes)
    {
        int[] prompt = [.. Enumerable.Range(0, 31).Select(i => (i * 37) % 256)];
        float[] expected;
        using (var model = LanguageModel.Load(ExportModels.Copy(_folder, name, changes)))
        {
            GgufExporter.Write(FilePath, model, new GgufExportOptions { Mix = GgufMix.Find("f32") });
            expected = Logits(model, prompt);
        }
        using (var back = LanguageModel.Load(FilePath))
        {
            // The keys hold fp32 numbers, and rotary divisors are divided once more.
            ExportModels.AssertClose(expected, Logits(back, prompt), 1.0 / (1 << 15));
            GgufExporter.Write(Path.Combine(_folder, "again.gguf"), back, new GgufExportOptions { Mix = GgufMix.Find("f32") });
        }
        using var again = LanguageModel.Load(Path.Combine(_folder, "again.gguf"));
        ExportModels.AssertClose(expected, Logits(again, prompt), 1.0 / (1 << 15));
    }

    /// <summary>Adapters of every kind: plain, DoRA, and with an embedding or head of their own.</summary>
    [Theory]
    [InlineData("qwen3")]
    [InlineData("qwen2-dora")]
    [InlineData("llama-saved-tied")]
    [InlineData("mixtral")]
    public void A_merged_adapter_gives_the_logits_of_adapter_on_base(string name)
    {
        int[] prompt = [.. Enumerable.Range(0, 15).Select(i => (i * 37) % 256)];
        var merged = Path.Combine(_folder, "merged");
        float[] expected;
        using (var model = LanguageModel.Load(ExportModels.Copy(_folder, name, "{}")))
        {
            model.LoadAdapter(new Lancet.Tests.Training.Fixture(name).Adapter);
            GgufExporter.Write(FilePath, model, new GgufExportOptions { Mix = GgufMix.Find("f32") });
            Nf4ModelWriter.Save(merged, model);
            ModelWriter.Save(merged, model, Lancet.Tile.DType.Float32);
            expected = Logits(model, prompt);
        }
        foreach (var path in (string[])[FilePath, merged])
        {
            using var back = LanguageModel.Load(path);
            ExportModels.AssertClose(expected, Logits(back, prompt), 1e-4);
        }
    }

    [Theory]
    [MemberData(nameof(Lancet.Tests.Text.TokenizerTests.Kinds), MemberType = typeof(Lancet.Tests.Text.TokenizerTests))]
    public void A_tokenizer_comes_back(string kind)
    {
        // Not written at all: see LlamaCppTests.
        if (kind == "gpt2-prefix") return;
        var folder = ExportModels.WithTokenizer(_folder, kind);
        using (var model = LanguageModel.Load(folder)) GgufExporter.Write(FilePath, model, new GgufExportOptions());
        Tokenizer expected = Tokenizer.Load(folder), actual = Tokenizer.Load(FilePath);
        foreach (var text in Lancet.Tests.Text.TokenizerTests.Texts(kind).Where(text => kind switch { "qwen2" => !text.Contains('\u0301'), "mistral" => !text.Contains('<') && !" ▁".Contains(text.FirstOrDefault('a')), _ => true }))
        {
            Assert.Equal(expected.Encode(text), actual.Encode(text));
            Assert.Equal(expected.Decode(expected.Encode(text)), actual.Decode(expected.Encode(text)));
        }
    }

    [Theory]
    [InlineData("f32", 0)]
    [InlineData("bf16", 0)]
    [InlineData("f16", 2e-3)]
    [InlineData("q8_0", 0.05)]
    [InlineData("q6_k", 0.1)]
    [InlineData("q4_k_m", 0.3)]
    public void The_bundled_model_comes_back_in_each_type(string type, double tolerance)
    {
        using var model = LanguageModel.Load(s_bundled);
        GgufExporter.Write(FilePath, model, new GgufExportOptions { Mix = GgufMix.Find(type) });
        using var back = LanguageModel.Load(FilePath);
        var prompt = model.Tokenizer.Encode("System.Math.Abs(Double): Returns the absolute value of a double-precision number.");
        Assert.Equal(prompt, back.Tokenizer.Encode("System.Math.Abs(Double): Returns the absolute value of a double-precision number."));
        Assert.Equal(model.ChatTemplate.Source, back.ChatTemplate.Source);
        // The end of text has become what ends a turn; generation still ends with either.
        Assert.Equal("<|im_end|>", back.Tokenizer.EosToken);
        Assert.Equal(ChatGeneration.StopTokens(model.Tokenizer, model.ChatTemplate).Order(), ChatGeneration.StopTokens(back.Tokenizer, back.ChatTemplate).Union(back.Config.EosTokenIds).Order());
        float[] expected = Logits(model, prompt), actual = Logits(back, prompt);
        var scale = Math.Sqrt(expected.Average(logit => (double)logit * logit));
        Assert.True(Math.Sqrt(expected.Zip(actual, (x, y) => Math.Pow(x - y, 2)).Average()) / scale <= tolerance);
    }

    [Fact]
    public void A_dequantised_file_is_trained_and_saved_as_a_folder()
    {
        using (var model = LanguageModel.Load(s_bundled)) GgufExporter.Write(FilePath, model, new GgufExportOptions { Mix = GgufMix.Find("q8_0") });
        var merged = Path.Combine(_folder, "merged");
        var prompt = Tokenizer.Load(s_bundled).Encode("What is System.Math.Abs?");
        float[] expected;
        using (var model = LanguageModel.Load(FilePath))
        {
            model.AddLora(new Lancet.Adapters.LoraOptions { Rank = 4 });
            using (var engine = new TrainingEngine(model, new EngineOptions { MaxTokens = 64, MaxSequenceLength = 64 }))
            {
                var batch = new PackedBatch(64, 1);
                batch.Add(prompt, prompt);
                double[] losses = [.. Enumerable.Range(0, 8).Select(_ =>
                {
                    engine.BeginStep(1, batch.LabelTokenCount);
                    engine.Accumulate(batch);
                    return engine.EndStep(1e-3).Loss;
                })];
                Assert.True(losses[^1] < 0.8 * losses[0], string.Join(' ', losses));
            }
            expected = Logits(model, prompt);
            ModelWriter.Save(merged, model, Lancet.Tile.DType.Float32);
            model.Tokenizer.SaveTo(merged);
        }
        using var back = LanguageModel.Load(merged);
        ExportModels.AssertClose(expected, Logits(back, prompt), 1e-4);
        Assert.Equal(prompt, back.Tokenizer.Encode("What is System.Math.Abs?"));
        Assert.Equal(ChatTemplate.ChatMl.Source.Length > 0, back.Tokenizer.ChatTemplate is not null);
    }

    [Fact]
    public void A_tensor_that_is_damaged_shows_when_the_export_is_checked()
    {
        ExportCheck check;
        using (var model = LanguageModel.Load(s_bundled))
        {
            GgufExporter.Write(FilePath, model, new GgufExportOptions { Mix = GgufMix.Find("q8_0") });
            check = new ExportCheck(model, ["System.Math.Abs(Double): Returns the absolute value of a double-precision number.", "System.String.Trim(): Removes all white-space characters."]);
        }
        var good = check.Compare(FilePath);
        Assert.InRange(good.Divergence, 0, ExportLimits.Of(GgufMix.Find("q8_0")));
        Assert.Equal(1, good.Perplexity / good.ReferencePerplexity, 0.1);
        GgufTensor tensor;
        using (var file = GgufFile.Open(FilePath)) tensor = file.Header.Tensors["blk.4.attn_v.weight"];
        using (var stream = new FileStream(FilePath, FileMode.Open, FileAccess.Write))
        {
            stream.Seek(tensor.Offset, SeekOrigin.Begin);
            // Every scale and every value of the tensor, in another order.
            stream.Write([.. Enumerable.Range(0, (int)tensor.Bytes).Select(i => (byte)(i % 34 == 1 ? 0x1C : (i * 7) % 64))]);
        }
        Assert.True(check.Compare(FilePath).Divergence > ExportLimits.Of(GgufMix.Find("q8_0")));
    }

    [Theory]
    [InlineData("general.architecture", "falcon", "architecture falcon is not supported")]
    [InlineData("llama.block_count", 0u, "llama.block_count is 0")]
    [InlineData("llama.embedding_length", 8u, "the keys imply")]
    [InlineData("tokenizer.ggml.model", "rwkv", "the tokenizer rwkv is not supported")]
    [InlineData("tokenizer.ggml.pre", "porridge", "the pre-tokeniser porridge is not supported")]
    [InlineData("tokenizer.ggml.eos_token_id", 99999u, "there are 4096 tokens")]
    public void A_key_that_cannot_be_says_which_and_where(string key, object value, string expected)
    {
        using (var model = LanguageModel.Load(s_bundled)) GgufExporter.Write(FilePath, model, new GgufExportOptions());
        var changed = Path.Combine(_folder, "changed.gguf");
        using (var file = GgufFile.Open(FilePath))
        {
            var metadata = new GgufMetadata(changed);
            foreach (var (name, old) in file.Header.Metadata.Items) metadata.Add(name, name == key ? value : old);
            GgufWriter.Write(changed, metadata, [.. file.Header.Tensors.Values.Select(tensor => new GgufOutput(tensor.Name, tensor.Type, tensor.Dimensions, stream => stream.Write(file.Slice(tensor, 0, (int)tensor.Bytes))))]);
        }
        var error = Assert.Throws<LancetException>(() =>
        {
            using var model = LanguageModel.Load(changed);
            _ = model.Tokenizer;
        });
        Assert.StartsWith(changed, error.Message, StringComparison.Ordinal);
        Assert.Contains(expected, error.Message, StringComparison.Ordinal);
    }

    private static float[] Logits(LanguageModel model, int[] prompt)
    {
        using var engine = new LogitEngine(model, prompt.Length);
        return engine.Logits(prompt);
    }
}
