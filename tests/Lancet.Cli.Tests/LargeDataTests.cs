using System.Text.Json;

namespace Lancet.Cli.Tests;

/// <summary>Data that does not fit into memory, and data of several files.</summary>
public sealed class LargeDataTests
{
    [Fact]
    public void A_mixture_of_a_config_file_is_that_of_the_command_line_and_resumes()
    {
        using var workspace = new Workspace();
        var (a, b) = (workspace.At("a.jsonl"), workspace.At("b.jsonl"));
        File.WriteAllLines(a, Enumerable.Range(1, 9).Select(i => $"{{\"input_ids\":[{i},2,3,4]}}"));
        File.WriteAllLines(b, Enumerable.Range(20, 4).Select(i => $"{{\"input_ids\":[{i},5,6]}}"));
        File.WriteAllText(workspace.At("run.yaml"), $"data:\n  {a}: 2\n  {b}: 1\n");
        var line = LancetCommand.Run(workspace.Train("--data", $"{a}=2,{b}=1", "--max-steps", "4", "--lr-scheduler", "constant"));
        Assert.True(line.ExitCode == 0, line.Error);
        var expected = File.ReadAllBytes(workspace.At("out", "adapter_model.safetensors"));
        Directory.Delete(workspace.Output, true);
        string[] config = ["train", "--config", workspace.At("run.yaml"), "--model", workspace.Model, "--output", workspace.Output, "--max-steps", "4", "--lr-scheduler", "constant", "--save-steps", "2"];
        Assert.Equal(0, LancetCommand.Run(config).ExitCode);
        Assert.Equal(expected, File.ReadAllBytes(workspace.At("out", "adapter_model.safetensors")));
        Directory.Delete(workspace.At("out", "checkpoints", "step-4"), true);
        var resumed = LancetCommand.Run([.. config, "--resume"]);
        Assert.True(resumed.ExitCode == 0, resumed.Error);
        Assert.Equal(expected, File.ReadAllBytes(workspace.At("out", "adapter_model.safetensors")));
        // Other weights are another run.
        Directory.Delete(workspace.At("out", "checkpoints", "step-4"), true);
        Assert.Equal(2, LancetCommand.Run([.. config, "--resume", "--data", $"{a}=1,{b}=1"]).ExitCode);
        Assert.Equal(2, LancetCommand.Run(workspace.Train("--data", $"{a}=0,{b}=1")).ExitCode);
        Assert.Contains("held-out rows are not weighted", LancetCommand.Run(workspace.Train("--eval-data", $"{a}=2")).Error);
    }

    // 30,000 rows of 300 tokens are 70 MB of tokens and labels, and 35 MB of JSON in one array; the runtime refuses to give this process more than 40 MB in all.
    [Fact]
    public void Files_larger_than_memory_are_trained_on_with_the_same_bits()
    {
        using var workspace = new Workspace();
        var path = workspace.At("large.json");
        using (var writer = new StreamWriter(path))
        {
            for (var row = 0; row < 30_000; row++) writer.Write($"{(row == 0 ? '[' : ',')}\n{{\"input_ids\":[{string.Join(',', Enumerable.Range(0, 300).Select(i => ((row * 7) + (i * i)) % 200))}]}}");
            writer.Write("]");
        }
        var arguments = workspace.Train("--data", path, "--max-seq-length", "300", "--batch-size", "1", "--gradient-accumulation", "2", "--max-steps", "2");
        var small = LancetCommand.RunWithMemory(40, arguments);
        Assert.True(small.ExitCode == 0, small.Error);
        var losses = Losses();
        Directory.Delete(workspace.Output, true);
        var large = LancetCommand.Run(arguments);
        Assert.True(large.ExitCode == 0, large.Error);
        Assert.Equal(Losses(), losses);
        Assert.Equal(2, losses.Count);

        List<double> Losses() => [.. File.ReadLines(workspace.At("out", "metrics.jsonl")).Select(line => JsonDocument.Parse(line).RootElement).Where(row => row.TryGetProperty("loss", out _)).Select(row => row.GetProperty("loss").GetDouble())];
    }
}
