using Lancet.Formats;
using Lancet.Formats.Gguf;
using Lancet.Models;
using Lancet.Tests.Training;

namespace Lancet.Tests.Export;

/// <summary>Importance matrices: what is gathered, and what it is good for.</summary>
public sealed class ImportanceTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("lancet-test-").FullName;

    public void Dispose() => Directory.Delete(_folder, true);

    [Fact]
    public void The_first_layers_columns_are_the_mean_squares_of_the_normed_embeddings()
    {
        using var model = LanguageModel.Load(new Fixture("llama").Model);
        int[][] texts = [[3, 5, 7, 200], [11], [250, 4, 4]];
        var importance = ImportanceMatrix.Gather(model, texts);
        Assert.Equal(model.Decoder.Projections.Select(projection => projection.Weight.Name).Order(), importance.Columns.Keys.Order());
        float[] embedding = model.Read(model.Decoder.Embedding), scales = model.Read(model.Decoder.Weights.First(weight => weight.Name == "model.layers.0.input_layernorm.weight"));
        var hidden = model.Config.HiddenSize;
        var expected = new double[hidden];
        foreach (var id in texts.SelectMany(text => text))
        {
            var row = embedding.AsSpan(id * hidden, hidden).ToArray();
            var rstd = 1 / Math.Sqrt(row.Average(value => (double)value * value) + model.Config.NormEpsilon);
            for (var i = 0; i < hidden; i++) expected[i] += Math.Pow(row[i] * rstd * scales[i], 2) / 8;
        }
        foreach (var name in (string[])["q_proj", "k_proj", "v_proj"])
        {
            var actual = importance.Columns[$"model.layers.0.self_attn.{name}.weight"];
            for (var i = 0; i < hidden; i++) Assert.Equal(1, actual[i] / expected[i], 1e-4);
        }
    }

    [Theory]
    [InlineData("q4_0")]
    [InlineData("q3_k_s")]
    [InlineData("q2_k")]
    public void Files_made_with_one_diverge_less(string mix)
    {
        double Divergence(bool hasImportance)
        {
            using var model = LanguageModel.Load(Path.Combine(TestFiles.Root(), "models", "lancet-dotnet-base"));
            string[] lines = [.. Lines()];
            var path = Path.Combine(_folder, $"{hasImportance}.gguf");
            var importance = hasImportance ? ImportanceMatrix.Gather(model, lines.Skip(20).Take(60).Select(line => model.Tokenizer.Encode(line))) : null;
            GgufExporter.Write(path, model, new GgufExportOptions { Mix = GgufMix.Find(mix), Importance = importance });
            return new ExportCheck(model, [.. lines.Take(20)], 600).Compare(path).Divergence;
        }
        var (without, with) = (Divergence(false), Divergence(true));
        Assert.True(with < 0.95 * without, $"{with} with, {without} without");
    }

    [Fact]
    public void One_of_another_model_is_refused()
    {
        var importance = new ImportanceMatrix();
        importance.Add("w", new float[8]);
        Assert.Null(importance.Find("v", 4));
        Assert.Contains("it was gathered from another model", Assert.Throws<LancetException>(() => importance.Find("w", 4)).Message, StringComparison.Ordinal);
    }

    /// <summary>Documentation of the kind that the bundled model knows.</summary>
    private static IEnumerable<string> Lines() => File.ReadLines(Path.Combine(TestFiles.Root(), "samples", "dotnet-api-qa", "train.jsonl"))
        .Select(line => System.Text.Json.Nodes.JsonNode.Parse(line)!["messages"]!)
        .Where(turns => ((string)turns[0]!["content"]!).StartsWith("What does System.", StringComparison.Ordinal))
        .Select(turns => ((string)turns[0]!["content"]!)["What does ".Length..].Replace(" do?", "()", StringComparison.Ordinal) + ": " + (string)turns[1]!["content"]!);
}
