namespace Lancet.Cli.Tests;

/// <summary>A run that was killed or interrupted ends, once resumed, with the bits of a run that was not.</summary>
public class ResumeTests
{
    private static readonly string[] s_signals = ["KILL", "INT", "TERM"];

    [Theory]
    [InlineData("lora", "adamw", "false")]
    [InlineData("lora", "adamw_8bit", "true")]
    [InlineData("qlora", "adamw", "false")]
    [InlineData("full", "adamw", "true")]
    public void Killed_and_interrupted_runs_resume_bit_by_bit(string method, string optimizer, string packing)
    {
        using var work = new Workspace();
        string[] Options(string output) =>
        [
            "train", "--model", work.Model, "--data", work.Data, "--eval-data", work.Data, "--output", work.At(output), "--method", method, "--optimizer", optimizer, "--packing", packing,
            "--max-seq-length", "64", "--max-steps", "60", "--save-steps", "4", "--save-total-limit", "2", "--eval-steps", "10", "--lora-dropout", method == "full" ? "0" : "0.1", "--lr-scheduler", "cosine", "--warmup-steps", "3",
        ];
        Assert.Equal(0, LancetCommand.Run(Options("whole")).ExitCode);
        string[] resume = [];
        foreach (var (signal, place) in s_signals.Zip(["checkpoint step-8 saved", "checkpoint step-20 saved", "checkpoint step-40 saved"]))
        {
            var result = LancetCommand.RunAndSignal(signal, place, [.. Options("parts"), .. resume]);
            Assert.True(result.ExitCode == (signal == "KILL" ? 137 : 130), $"{signal}: exit code {result.ExitCode}: {result.Error}");
            resume = ["--resume"];
        }
        Assert.Equal(0, LancetCommand.Run([.. Options("parts"), "--resume"]).ExitCode);

        var weights = method == "full" ? "model.safetensors" : "adapter_model.safetensors";
        Assert.Equal(File.ReadAllBytes(work.At("whole", weights)), File.ReadAllBytes(work.At("parts", weights)));
        Assert.Equal(Metrics(work.At("whole")), Metrics(work.At("parts")));
        Assert.Equal(["step-56", "step-60"], Directory.EnumerateDirectories(work.At("parts", "checkpoints")).Select(Path.GetFileName).Order());
    }

    /// <summary>Rows of metrics.jsonl without what depends on the clock.</summary>
    private static List<string> Metrics(string output) => [.. File.ReadLines(Path.Combine(output, "metrics.jsonl")).Select(line =>
    {
        var row = System.Text.Json.Nodes.JsonNode.Parse(line)!.AsObject();
        foreach (var key in (string[])["tokens_per_second", "elapsed_seconds", "peak_memory_bytes"]) row.Remove(key);
        return row.ToJsonString();
    })];
}
