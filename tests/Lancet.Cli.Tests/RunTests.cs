using System.Text.Json.Nodes;

namespace Lancet.Cli.Tests;

/// <summary>What a run reports and leaves beyond its weights: held-out rows, sample answers, exports over former ones, text that is shown.</summary>
public class RunTests
{
    private static readonly string s_bundled = Path.Combine(Workspace.Checkout, "models", "lancet-dotnet-base");
    private static readonly string s_rows = Path.Combine(Workspace.Checkout, "samples", "dotnet-api-qa", "held-out.jsonl");

    [Fact]
    public void The_report_shows_curves_configuration_memory_and_answers_before_and_after()
    {
        using var work = new Workspace();
        string[] options = ["train", "--model", s_bundled, "--data", s_rows, "--eval-split", "0.1", "--max-steps", "2", "--batch-size", "4", "--gradient-accumulation", "1", "--max-seq-length", "128", "--output", work.Output];
        var run = LancetCommand.Run([.. options, "--sample-answers", "2"]);
        Assert.True(run.ExitCode == 0, run.Error);
        Assert.Contains("180 rows", run.Error);
        var report = File.ReadAllText(work.At("out", "report.html"));
        foreach (var title in (string[])["Loss", "Learning rate", "Gradient norm", "Tokens per second"]) Assert.Contains($"aria-label=\"{title} by step\"", report);
        foreach (var text in (string[])["Held-out loss", "max-seq-length: 128", "saved activations", "planned peak", "measured peak"]) Assert.Contains(text, report);
        // Every tenth row is held out; of those the first and the one in the middle are asked.
        var rows = File.ReadLines(s_rows).ToList();
        foreach (var row in (int[])[9, 109])
        {
            var question = JsonNode.Parse(rows[row])!["messages"]![0]!["content"]!.GetValue<string>();
            Assert.Contains($"<td>{System.Net.WebUtility.HtmlEncode(question)}</td><td>", report);
        }
        Assert.Contains("  before: ", run.Error);
        Assert.DoesNotContain("<h2>Answers</h2>", Report([.. options, "--sample-answers", "0"]));

        string Report(string[] arguments)
        {
            Assert.Equal(0, LancetCommand.Run(arguments).ExitCode);
            return File.ReadAllText(work.At("out", "report.html"));
        }
    }

    [Fact]
    public void Held_out_rows_are_evaluated_and_not_trained()
    {
        using var work = new Workspace();
        var run = LancetCommand.Run(work.Train("--eval-split", "0.25", "--eval-steps", "1"));
        Assert.True(run.ExitCode == 0, run.Error);
        Assert.Contains("12 rows", run.Error);
        Assert.Equal([0, 1, 2], File.ReadLines(work.At("out", "metrics.jsonl")).Select(line => JsonNode.Parse(line)!).Where(row => row["eval_loss"] is not null).Select(row => row["step"]!.GetValue<int>()));
        Assert.Equal(2, LancetCommand.Run(work.Train("--eval-split", "0.25", "--eval-data", work.Data)).ExitCode);
    }

    [Fact]
    public void Resuming_a_finished_run_adds_nothing()
    {
        using var work = new Workspace();
        Assert.Equal(0, LancetCommand.Run(work.Train("--eval-data", work.Data, "--save-steps", "1")).ExitCode);
        var before = Workspace.Snapshot(work.Output);
        Assert.Equal(0, LancetCommand.Run(work.Train("--eval-data", work.Data, "--save-steps", "1", "--resume", "true")).ExitCode);
        foreach (var name in (string[])["metrics.jsonl", "adapter_model.safetensors"]) Assert.Equal(before[name], File.ReadAllBytes(work.At("out", name)));
    }

    [Fact]
    public void An_export_over_a_former_one_leaves_no_file_of_it()
    {
        using var work = new Workspace();
        string[] Export(string size, params string[] more) => ["export", "--model", work.Model, "--output", work.At("merged"), "--dtype", "float32", "--max-shard-size", size, .. more];
        string Loss()
        {
            var result = LancetCommand.Run("eval", "--model", work.At("merged"), "--data", work.Data, "--json");
            Assert.True(result.ExitCode == 0, result.Error);
            return result.Output;
        }
        Assert.Equal(0, LancetCommand.Run(Export("200KB")).ExitCode);
        var plain = Loss();
        Assert.Equal(0, LancetCommand.Run(Export("5GB", "--adapter", work.Adapter)).ExitCode);
        var adapted = Loss();
        Assert.NotEqual(plain, adapted);
        Assert.Equal(["model.safetensors"], Weights());
        Assert.Equal(0, LancetCommand.Run(Export("300KB")).ExitCode);
        Assert.Equal(plain, Loss());
        Assert.DoesNotContain("model.safetensors", Weights());

        List<string?> Weights() => [.. Directory.EnumerateFiles(work.At("merged"), "*.safetensors*").Select(Path.GetFileName)];
    }

    [Fact]
    public void The_preview_shows_characters_of_several_tokens_whole()
    {
        using var work = new Workspace();
        var rows = work.Rows("{\"prompt\": \"Übermut 日本 😀\", \"completion\": \"naïve ✓ 漢字\"}");
        var result = LancetCommand.Run("data", "preview", "--model", s_bundled, "--data", rows);
        Assert.Equal(0, result.ExitCode);
        Assert.Contains("Übermut 日本 😀", result.Output);
        Assert.Contains("⟦naïve ✓ 漢字<|im_end|>", result.Output);
    }
}
