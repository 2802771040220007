using System.Diagnostics;
using System.Globalization;

namespace Lancet.Cli.Commands;

/// <summary>lancet quickstart: QLoRA of the bundled model on the bundled questions, offline.</summary>
internal static class QuickstartCommand
{
    public static int Run(Settings settings)
    {
        var clock = Stopwatch.StartNew();
        var output = settings.Required("output");
        var model = settings.Text("model") ?? Bundled("models", "lancet-dotnet-base");
        var data = settings.Text("data") ?? Bundled("samples", "dotnet-api-qa", "train.jsonl");
        var held = settings.Text("eval-data") ?? Bundled("samples", "dotnet-api-qa", "held-out.jsonl");
        var train = new Settings(Options.Train, new Dictionary<string, string?>
        {
            ["model"] = model,
            ["data"] = data,
            ["eval-data"] = held,
            ["output"] = output,
            ["overwrite-output"] = "true",
            ["device"] = settings.Text("device"),
            ["method"] = "qlora",
            ["lora-rank"] = "16",
            ["lora-alpha"] = "32",
            ["max-seq-length"] = "256",
            ["batch-size"] = "16",
            ["gradient-accumulation"] = "1",
            ["learning-rate"] = "4e-3",
            ["lr-scheduler"] = "cosine",
            ["warmup-steps"] = "5",
            ["eval-steps"] = "125",
            ["sample-answers"] = "4",
            ["max-steps"] = settings.Count("max-steps") > 0 ? settings.Text("max-steps") : "250",
        });
        Console.Error.WriteLine($"QLoRA of {Path.GetFileName(model)} on {Path.GetFileName(Path.GetDirectoryName(data)!)}");
        var result = TrainCommand.Train(train, new StartupClock());
        if (result.IsInterrupted) return 130;
        var merged = Path.Combine(output, "merged");
        ExportCommand.Run(new Settings(Options.Export, new Dictionary<string, string?> { ["model"] = model, ["adapter"] = output, ["output"] = merged }));
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"held-out loss {result.Evaluations[0].EvalLoss:F4} before, {result.Evaluations[^1].EvalLoss:F4} after"));
        Console.WriteLine($"adapter  {Path.GetFullPath(output)}");
        Console.WriteLine($"merged   {Path.GetFullPath(merged)}");
        Console.WriteLine($"report   {Path.GetFullPath(Path.Combine(output, "report.html"))}");
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"time     {clock.Elapsed.TotalSeconds:F0} s"));
        Console.WriteLine($"Try: lancet generate --model {merged} --prompt \"What does System.Math.Abs do?\"");
        return 0;
    }

    /// <summary>A file of the repository or of the installed tool: beside the program, or above the current folder.</summary>
    private static string Bundled(params string[] parts)
    {
        foreach (var start in (string[])[AppContext.BaseDirectory, Environment.CurrentDirectory])
        {
            for (var folder = new DirectoryInfo(start); folder is not null; folder = folder.Parent)
            {
                var path = Path.Combine([folder.FullName, .. parts]);
                if (File.Exists(path) || File.Exists(Path.Combine(path, "config.json"))) return path;
            }
        }
        throw new LancetException($"{Path.Combine(parts)} was not found beside the program or above the current folder; run the quickstart inside the repository, or give --model and --data.");
    }
}
