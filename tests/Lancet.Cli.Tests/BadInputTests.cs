using System.Text.Json.Nodes;

namespace Lancet.Cli.Tests;

/// <summary>Bad input gets one clear message and exit code 2 (1 if the input was good), and nothing that was there before is lost.</summary>
public class BadInputTests
{
    [Theory]
    [InlineData("--model", "absent", "absent")]
    [InlineData("--data", "absent.jsonl", "absent.jsonl: data")]
    [InlineData("--eval-data", "absent.jsonl", "absent.jsonl: data")]
    [InlineData("--adapter", "absent", "absent")]
    [InlineData("--config", "absent.yaml", "absent.yaml: config file not found")]
    [InlineData("--chat-template", "absent.jinja", "absent.jinja: chat template not found")]
    public void A_missing_file_is_named(string option, string value, string expected)
    {
        using var work = new Workspace();
        AssertRefused(work, work.Train(option, work.At(value)), expected);
    }

    [Theory]
    [InlineData("--learning-rate", "fast")]
    [InlineData("--batch-size", "0")]
    [InlineData("--method", "dora")]
    [InlineData("--optimizer", "sgd")]
    [InlineData("--memory-budget", "much")]
    [InlineData("--max-seq-length", "1")]
    [InlineData("--lora-dropout", "1.5")]
    [InlineData("--device", "abacus")]
    public void A_bad_value_names_option_and_value(string option, string value)
    {
        using var work = new Workspace();
        AssertRefused(work, work.Train(option, value), $"{option} is {value}; expected");
    }

    [Theory]
    [InlineData("--max-context needs --memory-budget")]
    [InlineData("only one of them can be given", "--memory-budget", "1GB", "--max-seq-length", "256")]
    [InlineData("Not even sequences of 128 tokens fit", "--memory-budget", "1MB")]
    [InlineData("--max-context is 4096; expected true or false", "--max-context=4096")]
    public void A_search_for_the_longest_context_says_what_is_wrong(string expected, params string[] more)
    {
        using var work = new Workspace();
        AssertRefused(work, ["plan", "--model", work.Model, "--device", "cpu", "--max-context", .. more], expected);
    }

    [Fact]
    public void An_unknown_option_and_an_unknown_config_key_are_named()
    {
        using var work = new Workspace();
        var result = LancetCommand.Run(work.Train("--learning-rat", "1"));
        Assert.Equal(2, result.ExitCode);
        Assert.Contains("--learning-rat", result.Error);
        File.WriteAllText(work.At("run.yaml"), "learning_rat: 1\n");
        AssertRefused(work, work.Train("--config", work.At("run.yaml")), "unknown key learning-rat");
        File.WriteAllText(work.At("run.yaml"), "learning_rate: 1\nlearning-rate: 2\n");
        AssertRefused(work, work.Train("--config", work.At("run.yaml")), "learning-rate is given twice");
    }

    [Theory]
    [InlineData("--learning-rate", "fast", "--learning-rate is fast")]
    [InlineData("--lora-dropout", "2", "--lora-dropout is 2")]
    [InlineData("--from-scratch", "true", "--method full")]
    [InlineData("--eval-split", "1", "--eval-split is 1")]
    public void A_dry_run_refuses_what_the_run_would(string option, string value, string expected)
    {
        using var work = new Workspace();
        AssertRefused(work, work.Train(option, value, "--dry-run", "true"), expected);
    }

    [Theory]
    [InlineData("model/config.json", "{\"model_type\":", "config.json: not valid JSON")]
    [InlineData("model/config.json", "[]", "config.json: a JSON object is expected")]
    [InlineData("model/generation_config.json", "{\"eos_token_id\": \"x\"}", "generation_config.json: eos_token_id")]
    [InlineData("model/tokenizer.json", "{\"model\":", "tokenizer.json: not a valid tokenizer")]
    [InlineData("adapter/adapter_config.json", "[]", "adapter_config.json: a JSON object is expected")]
    [InlineData("adapter/adapter_config.json", "{\"peft_type\": \"LORA\", \"r\": 8, \"lora_alpha\": 16, \"alpha_pattern\": {\"q_proj\": \"x\"}}", "alpha_pattern of q_proj")]
    [InlineData("model/model.safetensors.index.json", "{\"weight_map\": {\"a\": \"../x.safetensors\"}}", "index.json: shard name")]
    [InlineData("model/model.safetensors.index.json", "{\"weight_map\": {\"a\": \"x.safetensors\"}}", "x.safetensors: not found")]
    public void A_damaged_json_file_is_named(string file, string content, string expected)
    {
        using var work = new Workspace();
        File.WriteAllText(work.At(file), content);
        AssertRefused(work, work.Train("--adapter", work.Adapter), expected);
    }

    [Theory]
    [InlineData("{\"eos_token", "not valid JSON")]
    [InlineData("[]", "a JSON object is expected")]
    public void A_damaged_tokenizer_config_is_named(string content, string expected)
    {
        using var work = new Workspace();
        File.Copy(Path.Combine(Workspace.Checkout, "models", "lancet-dotnet-base", "tokenizer.json"), work.At("model", "tokenizer.json"));
        File.WriteAllText(work.At("model", "tokenizer_config.json"), content);
        AssertRefused(work, work.Train(), "tokenizer_config.json: " + expected);
    }

    [Theory]
    [InlineData(4)]
    [InlineData(100)]
    [InlineData(20_000)]
    public void A_truncated_safetensors_file_is_refused(int bytes)
    {
        using var work = new Workspace();
        using (var file = File.OpenWrite(work.Weights)) file.SetLength(bytes);
        AssertRefused(work, work.Train(), "model.safetensors");
    }

    [Fact]
    public void Overlapping_tensors_are_refused()
    {
        using var work = new Workspace();
        Workspace.EditHeader(work.Weights, header =>
        {
            var (first, second) = TwoOfEqualShape(header);
            header[second]!["data_offsets"] = header[first]!["data_offsets"]!.DeepClone();
        });
        AssertRefused(work, work.Train(), "model.safetensors", "overlap");
    }

    [Theory]
    [InlineData(1L << 20, 16)]
    [InlineData(-64L, 0)]
    [InlineData(long.MaxValue - 8, 0)]
    public void Offsets_outside_of_the_file_are_refused(long shift, long extra)
    {
        using var work = new Workspace();
        Workspace.EditHeader(work.Weights, header =>
        {
            var offsets = header["model.norm.weight"]!["data_offsets"]!.AsArray();
            header["model.norm.weight"]!["data_offsets"] = new JsonArray(offsets[0]!.GetValue<long>() + shift, unchecked(offsets[1]!.GetValue<long>() + shift + extra));
        });
        AssertRefused(work, work.Train(), "model.safetensors", "model.norm.weight");
    }

    [Fact]
    public void A_header_longer_than_the_file_is_refused()
    {
        using var work = new Workspace();
        using (var file = File.OpenWrite(work.Weights)) file.Write(BitConverter.GetBytes(long.MaxValue));
        AssertRefused(work, work.Train(), "model.safetensors");
    }

    [Fact]
    public void A_wrong_shape_names_the_tensor_and_both_shapes()
    {
        using var work = new Workspace();
        work.EditConfig(config => config["intermediate_size"] = config["intermediate_size"]!.GetValue<int>() + 8);
        AssertRefused(work, work.Train(), "mlp.", "[");
    }

    [Fact]
    public void A_missing_tensor_is_named()
    {
        using var work = new Workspace();
        Workspace.EditHeader(work.Weights, header =>
        {
            var norm = header["model.norm.weight"]!.DeepClone();
            header.Remove("model.norm.weight");
            header["model.nrm.weight"] = norm;
        });
        AssertRefused(work, work.Train(), "model.norm.weight");
    }

    [Fact]
    public void An_unknown_architecture_is_named_with_the_known_ones()
    {
        using var work = new Workspace();
        work.EditConfig(config =>
        {
            config["model_type"] = "mamba";
            config["architectures"] = new JsonArray("MambaForCausalLM");
        });
        AssertRefused(work, work.Train(), "mamba", "llama");
    }

    [Theory]
    [InlineData("{\"question\": \"a\", \"answer\": \"b\"}", "question")]
    [InlineData("{\"text\": 5}", "text")]
    [InlineData("[1, 2]", "rows.jsonl:1")]
    [InlineData("{\"input_ids\": [1, 2, 3", "rows.jsonl:1")]
    [InlineData("{\"input_ids\": [1, 2, 999999]}", "999999")]
    [InlineData("{\"input_ids\": [1, 2, 3], \"labels\": [1, 2]}", "labels")]
    [InlineData("{\"input_ids\": [1, -2, 3]}", "-2")]
    public void An_unknown_or_damaged_row_is_named_by_file_and_line(string row, string expected)
    {
        using var work = new Workspace();
        AssertRefused(work, work.Train("--data", work.Rows(row)), "rows.jsonl:1", expected);
    }

    [Fact]
    public void A_preview_of_no_rows_says_so()
    {
        using var work = new Workspace();
        var result = LancetCommand.Run("data", "preview", "--model", work.Model, "--data", work.Rows());
        Assert.Equal(2, result.ExitCode);
        Assert.Contains("rows.jsonl: no rows.", result.Error);
    }

    [Theory]
    [InlineData("--columns", "question", "--columns: 'question'")]
    [InlineData("--chat-template-kwargs", "[1]", "--chat-template-kwargs is [1]; expected")]
    [InlineData("--enable-thinking", "perhaps", "--enable-thinking is perhaps; expected")]
    public void Bad_data_options_are_refused_by_a_dry_run(string option, string value, string expected)
    {
        using var work = new Workspace();
        AssertRefused(work, work.Train(option, value, "--dry-run", "true"), expected);
    }

    [Fact]
    public void A_row_without_a_trained_token_is_named()
    {
        using var work = new Workspace();
        AssertRefused(work, work.Train("--data", work.Rows("{\"input_ids\": [1, 2, 3]}", "{\"input_ids\": [1, 2, 3], \"labels\": [-100, -100, -100]}")), "rows.jsonl:2", "no token of this row is trained");
    }

    [Fact]
    public void Text_rows_without_a_tokenizer_and_empty_data_are_refused()
    {
        using var work = new Workspace();
        AssertRefused(work, work.Train("--data", work.Rows("{\"text\": \"hello\"}")), "tokenizer");
        AssertRefused(work, work.Train("--data", work.Rows()), "rows.jsonl");
    }

    [Theory]
    [InlineData("gemma")]
    [InlineData("llama31-rope")]
    public void An_adapter_for_another_model_is_refused(string other)
    {
        using var work = new Workspace();
        using var foreign = new Workspace(other);
        var message = AssertRefused(work, work.Train("--adapter", foreign.Adapter), "adapter");
        AssertRefused(work, ["eval", "--model", work.Model, "--adapter", foreign.Adapter, "--data", work.Data], message);
    }

    [Fact]
    public void A_budget_that_nothing_fits_is_refused_with_what_would_help()
    {
        using var work = new Workspace();
        Assert.Equal(0, LancetCommand.Run(work.Train()).ExitCode);
        AssertRefused(work, work.Train("--memory-budget", "100KB"), "MiB", "--memory-budget");
    }

    [Fact]
    public void A_full_disk_at_checkpoint_time_loses_nothing_from_before()
    {
        using var work = new Workspace();
        var options = work.Train("--max-steps", "100000", "--save-steps", "2", "--save-total-limit", "1");
        Assert.Equal(130, LancetCommand.RunAndSignal("INT", "checkpoint step-2 saved", options).ExitCode);
        var before = Workspace.Snapshot(work.At("out", "checkpoints"));
        Assert.Contains(before.Keys, name => name.StartsWith("step-", StringComparison.Ordinal));

        // The adapter has 225 KiB, the optimiser's state three times that: the first file of a checkpoint fails, then the second.
        foreach (var kilobytes in (int[])[100, 400])
        {
            var result = LancetCommand.RunWithFileLimit(kilobytes, [.. options, "--resume"]);
            Assert.Equal(1, result.ExitCode);
            Assert.Contains("cannot be written", Assert.Single(result.Error.Split('\n'), line => line.StartsWith("lancet: ", StringComparison.Ordinal)));
            Assert.DoesNotContain("   at ", result.Error);
            Assert.Equal(before, Workspace.Snapshot(work.At("out", "checkpoints")));
        }

        // With room again the run goes on from where it was.
        Assert.Equal(130, LancetCommand.RunAndSignal("INT", "checkpoint step-", [.. options, "--resume"]).ExitCode);
    }

    [Fact]
    public void A_new_run_does_not_drop_the_checkpoints_of_a_former_one()
    {
        using var work = new Workspace();
        Assert.Equal(0, LancetCommand.Run(work.Train("--save-steps", "1")).ExitCode);
        AssertRefused(work, work.Train("--save-steps", "1", "--learning-rate", "1e-3"), "step-2", "--resume", "--overwrite-output");
        Assert.Equal(0, LancetCommand.Run(work.Train("--save-steps", "2", "--overwrite-output", "true")).ExitCode);
        Assert.Equal(["step-2"], Directory.EnumerateDirectories(work.At("out", "checkpoints")).Select(Path.GetFileName));
    }

    [Theory]
    [InlineData("--learning-rate", "1e-3")]
    [InlineData("--lora-dropout", "0.1")]
    [InlineData("--seed", "7")]
    [InlineData("--warmup-steps", "1")]
    [InlineData("--method", "qlora")]
    [InlineData("--rope-scaling", "yarn:2")]
    public void Resuming_with_other_settings_is_refused(string option, string value)
    {
        using var work = new Workspace();
        Assert.Equal(0, LancetCommand.Run(work.Train("--save-steps", "1")).ExitCode);
        var result = LancetCommand.Run(work.Train("--resume", "true", option, value));
        Assert.Equal(2, result.ExitCode);
        Assert.Contains("other settings", result.Error);
    }

    [Fact]
    public void Resuming_with_other_rows_is_refused()
    {
        using var work = new Workspace();
        Assert.Equal(0, LancetCommand.Run(work.Train("--save-steps", "1")).ExitCode);
        File.WriteAllLines(work.Data, File.ReadAllLines(work.Data).Reverse());
        Assert.Equal(2, LancetCommand.Run(work.Train("--resume", "true")).ExitCode);
    }

    /// <summary>One line, exit code 2, every input and output from before unchanged; returns the line.</summary>
    private static string AssertRefused(Workspace work, string[] arguments, params string[] expected)
    {
        Directory.CreateDirectory(work.Output);
        File.WriteAllText(work.At("out", "adapter_model.safetensors"), "the work of a former run");
        var before = Workspace.Snapshot(work.Root);
        var result = LancetCommand.Run(arguments);
        Assert.True(result.ExitCode == 2, $"exit code {result.ExitCode}: {result.Error}");
        var line = Assert.Single(result.Error.Split('\n', StringSplitOptions.RemoveEmptyEntries), text => text.Length > 0);
        Assert.StartsWith("lancet: ", line);
        foreach (var text in expected) Assert.Contains(text, line);
        Assert.Equal("", result.Output);
        var after = Workspace.Snapshot(work.Root);
        foreach (var (name, bytes) in before) Assert.Equal(bytes, after[name]);
        return line;
    }

    private static (string First, string Second) TwoOfEqualShape(JsonObject header)
    {
        var names = header.Where(item => item.Key.EndsWith("layernorm.weight", StringComparison.Ordinal)).Select(item => item.Key).ToList();
        return (names[0], names[1]);
    }
}
