using System.Text.Json.Nodes;

namespace Lancet.Cli.Tests;

/// <summary>lancet export as a user sees it: files, the comparison with the model, and exit codes.</summary>
public class ExportTests
{
    private static readonly string s_bundled = Path.Combine(Workspace.Checkout, "models", "lancet-dotnet-base");
    private static readonly string s_rows = Path.Combine(Workspace.Checkout, "samples", "dotnet-api-qa", "held-out.jsonl");

    [Fact]
    public void Several_types_are_written_and_verified_and_answer()
    {
        using var work = new Workspace();
        var run = LancetCommand.Run("export", "--model", s_bundled, "--format", "gguf", "--type", "q8_0,q4_k_m", "--output", work.Output, "--data", s_rows, "--json");
        Assert.True(run.ExitCode == 0, run.Error);
        var exports = JsonNode.Parse(run.Output)!["exports"]!.AsArray();
        Assert.Equal(["q8_0", "q4_k_m"], exports.Select(export => (string)export!["type"]!));
        Assert.All(exports, export => Assert.True((bool)export!["verified"]! && (int)export["tokens"]! > 100 && (double)export["divergence"]! > 0));
        Assert.True(File.Exists(work.At("out", "Modelfile")));
        var file = work.At("out", "lancet-dotnet-base-q8_0.gguf");
        var answer = LancetCommand.Run("generate", "--model", file, "--raw", "--prompt", "System.Math.Abs", "--max-new-tokens", "12");
        Assert.Contains("Returns the absolute value", answer.Output, StringComparison.Ordinal);
        // A run that starts from the file leaves what a run from a folder leaves.
        Assert.Equal(0, LancetCommand.Run("train", "--model", file, "--data", s_rows, "--max-seq-length", "64", "--batch-size", "1", "--gradient-accumulation", "1", "--output", work.At("run"), "--max-steps", "1", "--sample-answers", "0").ExitCode);
        Assert.True(File.Exists(work.At("run", "tokenizer.json")));
        Assert.Equal(0, LancetCommand.Run("plan", "--model", file).ExitCode);
        Assert.Equal(0, LancetCommand.Run("export", "--model", file, "--adapter", work.At("run"), "--output", work.At("merged")).ExitCode);
    }

    [Fact]
    public void An_export_that_diverges_is_refused_with_both_numbers()
    {
        using var work = new Workspace();
        var run = LancetCommand.Run("export", "--model", s_bundled, "--format", "gguf", "--type", "q4_0", "--output", work.At("model.gguf"), "--max-divergence", "0.0001", "--json");
        Assert.Equal(1, run.ExitCode);
        Assert.Contains("the export does not answer as the model does", run.Error, StringComparison.Ordinal);
        Assert.Contains("0.0001 are expected at most", run.Error, StringComparison.Ordinal);
        Assert.False((bool)JsonNode.Parse(run.Output)!["exports"]![0]!["verified"]!);
    }

    [Theory]
    [InlineData("--type q9_z", "--type is q9_z; expected f32, f16")]
    [InlineData("--type q8_0,f16 --output one.gguf", "give a folder")]
    [InlineData("--format gguf-adapter --type f16", "There is no adapter to write")]
    [InlineData("--format gguf-adapter --type q4_k_m --adapter ADAPTER", "adapters are written as f32, f16, bf16 or q8_0")]
    [InlineData("--format onnx", "expected safetensors, nf4, gguf, gguf-adapter")]
    public void A_bad_choice_says_what_is_possible(string options, string expected)
    {
        using var work = new Workspace();
        string[] given = options.Replace("one.gguf", work.At("one.gguf"), StringComparison.Ordinal).Replace("ADAPTER", work.Adapter, StringComparison.Ordinal).Split(' ');
        string[] all = ["export", "--model", work.Model, .. given.Contains("--format") ? [] : (string[])["--format", "gguf"], .. given.Contains("--output") ? [] : (string[])["--output", work.Output], .. given];
        var run = LancetCommand.Run(all);
        Assert.Equal(2, run.ExitCode);
        Assert.Contains(expected, run.Error, StringComparison.Ordinal);
    }

    [Fact]
    public void An_adapter_is_written_alone()
    {
        using var work = new Workspace();
        var run = LancetCommand.Run("export", "--model", work.Model, "--adapter", work.Adapter, "--format", "gguf-adapter", "--type", "f16", "--output", work.At("adapter.gguf"));
        Assert.True(run.ExitCode == 0, run.Error);
        Assert.Equal("GGUF"u8.ToArray(), File.ReadAllBytes(work.At("adapter.gguf"))[..4]);
    }

    [Theory]
    [InlineData("nf4")]
    [InlineData("safetensors")]
    public void A_folder_is_verified_and_read_again(string format)
    {
        using var work = new Workspace();
        var run = LancetCommand.Run("export", "--model", s_bundled, "--format", format, "--output", work.Output, "--json");
        Assert.True(run.ExitCode == 0, run.Error);
        var export = JsonNode.Parse(run.Output)!["exports"]![0]!;
        Assert.True((bool)export["verified"]!);
        Assert.Equal(format == "nf4", (double)export["divergence"]! > 0.01);
        Assert.Equal(format == "nf4" ? "nf4" : null, (string?)JsonNode.Parse(File.ReadAllText(work.At("out", "config.json")))!["quantization_config"]?["bnb_4bit_quant_type"]);
        Assert.Contains("Returns the absolute value", LancetCommand.Run("generate", "--model", work.Output, "--raw", "--prompt", "System.Math.Abs", "--max-new-tokens", "12").Output, StringComparison.Ordinal);
        Assert.Contains("base_model: ", File.ReadAllText(work.At("out", "README.md")), StringComparison.Ordinal);
    }

    [Fact]
    public void Something_else_than_a_gguf_file_is_named()
    {
        using var work = new Workspace();
        File.WriteAllText(work.At("model.gguf"), "this is not a model, but it is long enough to be looked at");
        var run = LancetCommand.Run("generate", "--model", work.At("model.gguf"), "--prompt", "x");
        Assert.Equal(2, run.ExitCode);
        Assert.Contains("does not begin with \"GGUF\"", run.Error, StringComparison.Ordinal);
    }
}
