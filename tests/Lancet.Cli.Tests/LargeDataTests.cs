using System.Text.Json;

namespace Lancet.Cli.Tests;

/// <summary>Data that does not fit into memory.</summary>
public sealed class LargeDataTests
{
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
