using System.Text;
using System.Text.Json.Nodes;
using Lancet.Tests.Hub;

namespace Lancet.Cli.Tests;

/// <summary>lancet push as a user sees it, and what was pushed used by its name.</summary>
public sealed class HubCommandTests : IDisposable
{
    private readonly HubUploadServer _server = new();
    private readonly Workspace _work = new();

    private (string, string)[] Environment => [("HF_ENDPOINT", _server.Hub.Address.ToString()), ("HF_HOME", _work.At("hub")), ("HF_HUB_CACHE", _work.At("hub")), ("HF_TOKEN", HubUploadServer.Token), ("HF_HUB_OFFLINE", "")];

    public void Dispose()
    {
        _server.Dispose();
        _work.Dispose();
    }

    [Fact]
    public void What_a_run_left_goes_to_the_hub_and_is_used_from_there()
    {
        var run = LancetCommand.Run(_work.Train("--save-steps", "1"));
        Assert.True(run.ExitCode == 0, run.Error);
        // A flag leaves the arguments behind it alone.
        var push = LancetCommand.RunWith(Environment, "push", "--private", _work.Output, "org/name", "--message", "First run", "--json");
        Assert.True(push.ExitCode == 0, push.Error);
        Assert.True(_server.Repositories["org/name"].IsPrivate);
        Assert.Equal("First run", Assert.Single(_server.Messages));
        string[] sent = ["README.md", "adapter_config.json", "adapter_model.safetensors", "metrics.jsonl"];
        foreach (var name in sent) Assert.Equal(File.ReadAllBytes(Path.Combine(_work.Output, name)), _server.Files()[name].Bytes);
        Assert.DoesNotContain(_server.Files().Keys, name => name.StartsWith("checkpoints", StringComparison.Ordinal) || name is "config.resolved.yaml" or "report.html");
        Assert.Contains("not checkpoints/: checkpoints with the optimiser's state", push.Error);
        Assert.Contains("which means nothing elsewhere", push.Error);
        Assert.DoesNotContain(HubUploadServer.Token, push.Error + push.Output);
        var result = JsonNode.Parse(push.Output)!;
        Assert.True((bool)result["created"]!);
        Assert.Equal($"{_server.Hub.Address}org/name/commit/{_server.Repositories["org/name"].Branches["main"].Commit}", (string)result["url"]!);
        Assert.All(result["files"]!.AsArray(), file => Assert.Equal("sent", (string)file!["outcome"]!));
        Assert.Contains("unchanged", LancetCommand.RunWith(Environment, "push", _work.Output, "org/name").Error);
        Assert.Single(_server.Messages);
        string[] options = ["eval", "--model", _work.Model, "--data", _work.Data, "--json", "--adapter"];
        var used = LancetCommand.RunWith(Environment, [.. options, "org/name"]);
        Assert.True(used.ExitCode == 0, used.Error);
        Assert.Equal(LancetCommand.Run([.. options, _work.Output]).Output, used.Output);
    }

    [Fact]
    public void An_adapter_without_a_card_gets_one_and_a_dry_run_touches_nothing()
    {
        var card = Path.Combine(_work.Adapter, "README.md");
        var config = Path.Combine(_work.Adapter, "adapter_config.json");
        var json = JsonNode.Parse(File.ReadAllText(config))!;
        json["base_model_name_or_path"] = "someone/base";
        File.WriteAllText(config, json.ToJsonString());
        var dry = LancetCommand.RunWith([.. Environment, ("HF_TOKEN", "")], "push", _work.Adapter, "org/name", "--dry-run");
        Assert.True(dry.ExitCode == 0, dry.Error);
        Assert.Contains("adapter_model.safetensors", dry.Output);
        Assert.Contains("README.md: would be written", dry.Error);
        Assert.False(File.Exists(card));
        Assert.Empty(_server.Requests);
        Assert.Equal(0, LancetCommand.RunWith(Environment, "push", _work.Adapter, "org/name@second").ExitCode);
        Assert.Contains("base_model: someone/base\n", File.ReadAllText(card));
        Assert.Equal(File.ReadAllBytes(card), _server.Files("second")["README.md"].Bytes);
        Assert.Contains("has no README.md, so the hub shows no model card", LancetCommand.RunWith(Environment, "push", _work.Model, "org/name", "--dry-run").Error);
    }

    [Fact]
    public void Training_and_export_push_what_they_wrote()
    {
        var run = LancetCommand.RunWith(Environment, _work.Train("--push", "org/name@run", "--push-private", "true", "--json", "true"));
        Assert.True(run.ExitCode == 0, run.Error);
        Assert.Equal(_work.Output, (string)JsonNode.Parse(run.Output)!["output"]!);
        Assert.True(_server.Repositories["org/name"].IsPrivate);
        Assert.Equal(File.ReadAllBytes(_work.At("out", "adapter_model.safetensors")), _server.Files("run")["adapter_model.safetensors"].Bytes);
        var export = LancetCommand.RunWith(Environment, "export", "--model", _work.Model, "--adapter", _work.Output, "--output", _work.At("merged"), "--verify", "false", "--push", "org/name");
        Assert.True(export.ExitCode == 0, export.Error);
        Assert.Equal(File.ReadAllBytes(_work.At("merged", "model.safetensors")), _server.Files()["model.safetensors"].Bytes);
        // What cannot be uploaded is not trained first.
        var refused = LancetCommand.RunWith([.. Environment, ("HF_TOKEN", "")], _work.Train("--output", _work.At("other"), "--push", "org/name"));
        Assert.Equal(2, refused.ExitCode);
        Assert.Contains("uploading needs a token", refused.Error);
        Assert.False(Directory.Exists(_work.At("other")));
        // What cannot be uploaded in the end is there all the same.
        _server.Refuse = request => request.Path.Contains("/commit/", StringComparison.Ordinal) ? HubAnswer.Text(403) : null;
        var failed = LancetCommand.RunWith(Environment, _work.Train("--output", _work.At("other"), "--push", "org/name@other"));
        Assert.Equal(1, failed.ExitCode);
        Assert.Contains("lancet push " + _work.At("other") + " org/name@other tries again", failed.Error);
        Assert.True(File.Exists(_work.At("other", "adapter_model.safetensors")));
    }

    [Fact]
    public void What_cannot_be_is_told_with_the_right_exit_code()
    {
        Refused(2, "uploading needs a token with the right to write. Set HF_TOKEN", ("HF_TOKEN", ""), "push", _work.Model, "org/name");
        Refused(2, "HF_HUB_OFFLINE is set", ("HF_HUB_OFFLINE", "1"), "push", _work.Model, "org/name");
        Refused(2, "does not accept the token (401", ("HF_TOKEN", "hf_wrong"), "push", _work.Model, "org/name");
        Refused(2, "the name of a repository on the hub is expected", null, "push", _work.Model, "name");
        Refused(2, "names a branch already", null, "push", _work.Model, "org/name@a", "--revision", "b");
        Refused(2, "absent: there is no such folder", null, "push", _work.At("absent"), "org/name");
        Refused(2, "REPOSITORY is needed", null, "push", _work.Model);
        Assert.Empty(_server.Repositories);

        void Refused(int code, string message, (string, string)? variable, params string[] arguments)
        {
            var run = LancetCommand.RunWith(variable is { } one ? [.. Environment, one] : Environment, arguments);
            Assert.Equal(code, run.ExitCode);
            Assert.Contains(message, run.Error);
            Assert.Single(run.Error.Split('\n'), line => line.StartsWith("lancet: ", StringComparison.Ordinal));
        }
    }

    [Fact]
    public void Weights_are_only_fetched_where_they_are_needed_and_can_be_read()
    {
        using var server = new HubServer();
        var model = Path.Combine(Workspace.Checkout, "models", "lancet-dotnet-base");
        foreach (var name in (string[])["config.json", "tokenizer.json", "tokenizer_config.json"]) server.Files[name] = (File.ReadAllBytes(Path.Combine(model, name)), false);
        server.Files["model.safetensors"] = ([1], true);
        (string, string)[] environment = [.. Environment, ("HF_ENDPOINT", server.Address.ToString())];
        foreach (string[] command in (string[][])[["data", "preview", "--data", _work.Data], ["data", "stats", "--data", _work.Data], ["data", "validate", "--data", _work.Data], ["plan", "--device", "cuda"]])
        {
            var run = LancetCommand.RunWith(environment, [.. command, "--model", "org/name"]);
            Assert.True(run.ExitCode == 0, run.Error);
        }
        server.Commit = new('d', 40);
        server.Files["config.json"] = (Encoding.UTF8.GetBytes(Encoding.UTF8.GetString(server.Files["config.json"].Bytes).Replace("\"llama\"", "\"deepseek_v3\"", StringComparison.Ordinal)), false);
        var refused = LancetCommand.RunWith(environment, _work.Train("--model", "org/name"));
        Assert.Equal(2, refused.ExitCode);
        Assert.Contains("architecture deepseek_v3 is not supported", refused.Error);
        Assert.DoesNotContain(server.Requests, request => request.Path.EndsWith("model.safetensors", StringComparison.Ordinal));
    }

    [Fact]
    public void A_configuration_beside_an_adapter_says_nothing_about_it()
    {
        var run = LancetCommand.Run(_work.Train());
        Assert.True(run.ExitCode == 0, run.Error);
        using var server = new HubServer();
        foreach (var name in (string[])["adapter_config.json", "adapter_model.safetensors"]) server.Files[name] = (File.ReadAllBytes(Path.Combine(_work.Output, name)), false);
        server.Files["config.json"] = ("{}"u8.ToArray(), false);
        string[] options = ["eval", "--model", _work.Model, "--data", _work.Data, "--json", "--adapter"];
        var used = LancetCommand.RunWith([.. Environment, ("HF_ENDPOINT", server.Address.ToString())], [.. options, "org/name"]);
        Assert.True(used.ExitCode == 0, used.Error);
        Assert.Equal(LancetCommand.Run([.. options, _work.Output]).Output, used.Output);
    }

    [Fact]
    public void Data_of_the_hub_is_asked_for_once()
    {
        using var server = new HubServer { Repository = "datasets/org/rows" };
        server.Files["train.jsonl"] = (Encoding.UTF8.GetBytes(string.Concat(Enumerable.Range(0, 8).Select(i => $"{{\"messages\":[{{\"role\":\"user\",\"content\":\"question {i}\"}},{{\"role\":\"assistant\",\"content\":\"answer\"}}]}}\n"))), false);
        var run = LancetCommand.RunWith([.. Environment, ("HF_ENDPOINT", server.Address.ToString())], _work.Train("--model", Path.Combine(Workspace.Checkout, "models", "lancet-dotnet-base"), "--data", "org/rows", "--max-seq-length", "64", "--sample-answers", "1"));
        Assert.True(run.ExitCode == 0, run.Error);
        Assert.Contains("question 0", File.ReadAllText(Path.Combine(_work.Output, "report.html")));
        Assert.Equal(2, server.Requests.Count);
    }
}
