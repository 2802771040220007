using System.Diagnostics;
using System.Text.Json.Nodes;

namespace Lancet.Tests.Export;

/// <summary>llama.cpp in a process of its own (tests/llama-cpp): what it makes of a file. Tests are skipped where it could not be installed.</summary>
public sealed class LlamaCpp : IDisposable
{
    private Process? _process;

    /// <summary>Where make-parity.sh says why llama.cpp is not there.</summary>
    private static string Folder => Path.Combine(TestFiles.Root(), "tests", "llama-cpp");

    /// <summary>The folder of llama.cpp's libraries.</summary>
    public static string Libraries => Path.Combine(Folder, "node_modules", "@node-llama-cpp", "linux-x64", "bins", "linux-x64");

    /// <summary>Starts llama.cpp; skips the test where it is not installed.</summary>
    public void Require()
    {
        if (_process is { HasExited: false }) return;
        if (!Directory.Exists(Libraries))
        {
            var reason = Path.Combine(TestFiles.Root(), "artifacts", "parity", "llama-cpp-unavailable.txt");
            Assert.Skip(File.Exists(reason) ? File.ReadAllText(reason).Trim() : $"{Libraries} is not there: run scripts/make-parity.sh (it needs node and npm's registry).");
        }
        _process?.Dispose();
        _process = Process.Start(new ProcessStartInfo("node", [Path.Combine(Folder, "run.mjs")]) { RedirectStandardInput = true, RedirectStandardOutput = true, RedirectStandardError = true, UseShellExecute = false });
    }

    /// <summary>The answer to a job, see run.mjs.</summary>
    public JsonObject Ask(JsonObject job)
    {
        _process!.StandardInput.WriteLine(job.ToJsonString());
        _process.StandardInput.Flush();
        var line = _process.StandardOutput.ReadLine();
        // A library that gives up takes its process along; what it said is on stderr.
        Assert.True(line is not null, line is null ? "llama.cpp ended: " + _process.StandardError.ReadToEnd() : "");
        var answer = JsonNode.Parse(line!)!.AsObject();
        Assert.False(answer.ContainsKey("error"), (string?)answer["error"]);
        return answer;
    }

    /// <summary>Token ids of texts.</summary>
    public int[][] Tokenize(string model, IEnumerable<string> texts) =>
        [.. Ask(new() { ["model"] = model, ["texts"] = new JsonArray([.. texts.Select(text => JsonValue.Create(text))]) })["ids"]!.AsArray().Select(Integers)];

    /// <summary>Logits behind every token of prompts: [prompt][token · vocabulary].</summary>
    public float[][] Logits(string model, IEnumerable<int[]> prompts, string? adapter = null) =>
        [.. Ask(Job(model, prompts, adapter))["logits"]!.AsArray().Select(prompt => prompt!.AsArray().SelectMany(row => row!.AsArray().Select(logit => logit!.GetValue<float>())).ToArray())];

    /// <summary>e to the power of the mean loss of all tokens but each prompt's first.</summary>
    public double Perplexity(string model, IEnumerable<int[]> prompts, string? adapter = null)
    {
        var job = Job(model, prompts, adapter);
        job["losses"] = true;
        return Math.Exp(Ask(job)["losses"]!.AsArray().SelectMany(prompt => prompt!.AsArray()).Average(loss => (double)loss!));
    }

    private static JsonObject Job(string model, IEnumerable<int[]> prompts, string? adapter)
    {
        var job = new JsonObject { ["model"] = model, ["prompts"] = new JsonArray([.. prompts.Select(prompt => new JsonArray([.. prompt.Select(id => JsonValue.Create(id))]))]) };
        if (adapter is not null) job["lora"] = adapter;
        return job;
    }

    public void Dispose()
    {
        if (_process is null) return;
        _process.StandardInput.Close();
        _process.WaitForExit();
        _process.Dispose();
    }

    private static int[] Integers(JsonNode? list) => [.. list!.AsArray().Select(item => item!.GetValue<int>())];
}
