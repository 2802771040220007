using System.Text.Json.Nodes;
using Lancet.ChatTemplates;
using Lancet.Models;
using Lancet.Tokenization;

namespace Lancet.Cli.Tests;

/// <summary>What the commands print and leave, as a user sees it.</summary>
public class CommandTests
{
    private static readonly string s_bundled = Path.Combine(Workspace.Checkout, "models", "lancet-dotnet-base");
    private static readonly string s_rows = Path.Combine(Workspace.Checkout, "samples", "dotnet-api-qa", "held-out.jsonl");

    [Fact]
    public void A_training_run_leaves_what_the_contract_says()
    {
        using var work = new Workspace();
        var result = LancetCommand.Run([.. work.Train("--eval-data", work.Data, "--save-steps", "2"), "--json"]);
        Assert.Equal(0, result.ExitCode);
        var summary = JsonNode.Parse(result.Output)!;
        Assert.Equal(2, summary["steps"]!.GetValue<int>());
        foreach (var part in (string[])["process", "tokenizer", "data", "device", "weights", "adapter", "plan", "kernels", "first step"]) Assert.True(summary["startup_seconds"]!.AsObject().ContainsKey(part), part);
        Assert.Contains("first step after ", result.Error);
        foreach (var file in (string[])["adapter_model.safetensors", "adapter_config.json", "metrics.jsonl", "config.resolved.yaml", "report.html", "README.md", "checkpoints/step-2/adapter_model.safetensors"])
            Assert.True(File.Exists(work.At("out", file)), file);
        var rows = File.ReadLines(work.At("out", "metrics.jsonl")).Select(line => JsonNode.Parse(line)!.AsObject()).ToList();
        var steps = rows.Where(row => row.ContainsKey("loss")).ToList();
        Assert.Equal([1, 2], steps.Select(row => row["step"]!.GetValue<int>()));
        foreach (var key in (string[])["step", "epoch", "loss", "grad_norm", "learning_rate", "tokens", "tokens_per_second", "peak_memory_bytes", "elapsed_seconds"]) Assert.All(steps, row => Assert.True(row.ContainsKey(key), key));
        Assert.Equal([0, 2], rows.Where(row => row.ContainsKey("eval_loss")).Select(row => row["step"]!.GetValue<int>()));
        Assert.DoesNotContain("http", File.ReadAllText(work.At("out", "report.html")).Replace("http://www.w3.org/2000/svg", "", StringComparison.Ordinal));
    }

    [Fact]
    public void The_resolved_config_repeats_the_run_in_yaml_and_json()
    {
        using var work = new Workspace();
        Assert.Equal(0, LancetCommand.Run(work.Train("--learning-rate", "3e-3", "--lora-rank", "4")).ExitCode);
        var yaml = work.At("run.yaml");
        File.Copy(work.At("out", "config.resolved.yaml"), yaml);
        var first = File.ReadAllBytes(work.At("out", "adapter_model.safetensors"));
        Assert.Equal(0, LancetCommand.Run("train", "--config", yaml, "--output", work.At("again")).ExitCode);
        Assert.Equal(first, File.ReadAllBytes(work.At("again", "adapter_model.safetensors")));

        // The same as JSON, with Python's underscores; the command line wins over the file.
        var json = new JsonObject { ["model"] = work.Model, ["data"] = work.Data, ["max_steps"] = 2, ["learning_rate"] = 3e-3, ["lora_rank"] = 8 };
        File.WriteAllText(work.At("run.json"), json.ToJsonString());
        string[] options = ["train", "--config", work.At("run.json"), "--lora-rank", "4", "--output", work.At("third")];
        var dry = LancetCommand.Run([.. options, "--dry-run"]);
        Assert.Contains("lora-rank: 4", dry.Output);
        Assert.Contains("max-steps: 2", dry.Output);
        Assert.False(Directory.Exists(work.At("third")));
        Assert.Equal(0, LancetCommand.Run(options).ExitCode);
        Assert.Equal(first, File.ReadAllBytes(work.At("third", "adapter_model.safetensors")));
    }

    [Theory]
    [InlineData("lora")]
    [InlineData("qlora")]
    [InlineData("full")]
    public void The_plan_is_what_the_run_uses(string method)
    {
        using var work = new Workspace();
        string[] shape = ["--model", work.Model, "--method", method, "--batch-size", "2", "--max-seq-length", "24"];
        var longest = work.Rows([.. Enumerable.Range(0, 8).Select(i => $"{{\"input_ids\": [{string.Join(", ", Enumerable.Range(i, 24))}]}}")]);
        var plan = JsonNode.Parse(LancetCommand.Run(["plan", .. shape, "--json"]).Output)!;
        var run = LancetCommand.Run(["train", .. shape, "--data", longest, "--max-steps", "1", "--output", work.Output, "--json"]);
        Assert.True(run.ExitCode == 0, run.Error);
        var used = JsonNode.Parse(run.Output)!;
        var planned = plan["peak_bytes"]!.GetValue<long>();
        Assert.Equal(used["planned_peak_bytes"]!.GetValue<long>(), planned, planned * 0.02);
        Assert.Equal(used["peak_memory_bytes"]!.GetValue<long>(), planned, planned * 0.02);
        Assert.Equal(planned, plan["breakdown"]!.AsObject().Sum(item => item.Value!.GetValue<long>()));
    }

    [Theory]
    [InlineData("cuda", 170_000_000, "--lora-rank", "8")]
    [InlineData("cuda", 170_000_000, "--batch-size", "3")]
    [InlineData("cpu", 50_000_000, "--method", "full")]
    public void The_longest_context_fits_and_a_longer_one_does_not(string device, long budget, string option, string value)
    {
        using var work = new Workspace();
        string[] shape = ["plan", "--model", work.Model, "--device", device, "--host-memory-budget", "64MB", option, value];
        var search = LancetCommand.Run([.. shape, "--max-context", "--memory-budget", $"{budget}", "--json"]);
        Assert.True(search.ExitCode == 0, search.Error);
        var plan = JsonNode.Parse(search.Output)!;
        var length = plan["max_context"]!.GetValue<int>();
        Assert.True(length > 0 && length % 128 == 0, $"{length}");
        static long Bytes(JsonNode plan, params ReadOnlySpan<string> names)
        {
            var sum = 0L;
            foreach (var name in names) sum += plan[name]!.GetValue<long>();
            return sum;
        }
        var driver = Bytes(plan, "driver_bytes", "further_graph_bytes");
        Assert.InRange(Bytes(plan, "peak_bytes") + driver, 1, budget);
        CommandResult At(int tokens) => LancetCommand.Run([.. shape, .. option == "--batch-size" ? (string[])[] : ["--batch-size", "1"], "--max-seq-length", $"{tokens}", "--memory-budget", $"{budget - driver}", "--json"]);
        var same = JsonNode.Parse(At(length).Output)!.AsObject();
        Assert.True(plan.AsObject().Remove("max_context"));
        Assert.True(JsonNode.DeepEquals(plan, same), same.ToJsonString());
        var longer = At(length + 128);
        // Longer ones have no plan, or one of more operations, whose recordings take more.
        if (longer.ExitCode == 0) Assert.True(Bytes(JsonNode.Parse(longer.Output)!, "peak_bytes", "driver_bytes", "further_graph_bytes") > budget, longer.Output);
        else Assert.Contains("the budget is", longer.Error);
        Assert.Contains($"longest sequences {length,22:N0} tokens\n", LancetCommand.Run([.. shape, "--max-context", "--memory-budget", $"{budget}"]).Output);
    }

    [Fact]
    public void A_plan_lists_its_choices_fastest_first_and_predicts_the_step()
    {
        using var work = new Workspace();
        string[] plan = ["plan", "--model", work.Model, "--device", "cuda", "--gradient-accumulation", "3"];
        var json = JsonNode.Parse(LancetCommand.Run([.. plan, "--json"]).Output)!;
        Assert.Equal(3 * json["predicted_seconds"]!.GetValue<double>(), json["predicted_step_seconds"]!.GetValue<double>(), 1e-12);
        var choices = json["choices"]!.AsArray();
        Assert.Equal("keep", choices[0]!["activation_policy"]!.GetValue<string>());
        var seconds = choices.Select(choice => choice!["predicted_seconds"]!.GetValue<double>()).ToArray();
        Assert.True(seconds.Length > 3 && seconds[0] > 0);
        Assert.Equal(seconds.Order(), seconds);
        var text = LancetCommand.Run(plan).Output;
        Assert.Contains("predicted step: ", text);
        var places = choices.Select(choice => text.IndexOf($"\n{choice!["activation_policy"]} in all ", StringComparison.Ordinal)).ToArray();
        Assert.DoesNotContain(-1, places);
        Assert.Equal(places.Order(), places);
    }

    [Fact]
    public void Merging_an_adapter_keeps_the_losses()
    {
        using var work = new Workspace();
        var adapted = Loss("eval", "--model", work.Model, "--adapter", work.Adapter, "--data", work.Data, "--json");
        var exported = LancetCommand.Run("export", "--model", work.Model, "--adapter", work.Adapter, "--output", work.At("merged"), "--dtype", "float32", "--max-shard-size", "200KB");
        Assert.True(exported.ExitCode == 0, exported.Error);
        Assert.True(File.Exists(work.At("merged", "model.safetensors.index.json")));
        Assert.Equal(adapted, Loss("eval", "--model", work.At("merged"), "--data", work.Data, "--json"), 2e-6);
    }

    [Fact]
    public void A_bundled_model_answers_the_same_twice_and_in_chat()
    {
        string[] options = ["generate", "--model", s_bundled, "--prompt", "What is System.Math.Abs?", "--max-new-tokens", "12"];
        var first = LancetCommand.Run(options);
        Assert.True(first.ExitCode == 0, first.Error);
        Assert.NotEqual("", first.Output.Trim());
        Assert.Equal(first.Output, LancetCommand.Run(options).Output);
        string[] sampled = [.. options, "--temperature", "0.9", "--top-p", "0.95", "--seed", "5"];
        Assert.Equal(LancetCommand.Run(sampled).Output, LancetCommand.Run(sampled).Output);
        var chat = LancetCommand.RunWithInput("What is System.Math.Abs?\n/exit\n", "chat", "--model", s_bundled, "--max-new-tokens", "12");
        Assert.Equal(0, chat.ExitCode);
        Assert.Contains(first.Output.Trim(), chat.Output);
    }

    [Fact]
    public void Data_preview_marks_what_is_trained()
    {
        var result = LancetCommand.Run("data", "preview", "--model", s_bundled, "--data", s_rows, "--rows", "1");
        Assert.Equal(0, result.ExitCode);
        var answer = JsonNode.Parse(File.ReadLines(s_rows).First())!["messages"]![1]!["content"]!.GetValue<string>();
        Assert.Contains($"⟦{answer}<|im_end|>", result.Output);
    }

    [Fact]
    public void A_run_says_what_it_found_and_maps_columns()
    {
        using var work = new Workspace();
        var mixed = work.Rows("{\"input_ids\": [1, 2, 3]}", "{\"ids\": [1, 2, 3], \"input_ids\": [4, 5, 6]}");
        var run = LancetCommand.Run(work.Train("--data", mixed));
        Assert.True(run.ExitCode == 0, run.Error);
        Assert.Contains($"{mixed}: 2 rows: tokens (input_ids)", run.Error);
        var preview = LancetCommand.Run("data", "preview", "--model", s_bundled, "--data", work.Rows("{\"question\": \"q\", \"answer\": \"a\", \"text\": \"t\"}"), "--columns", "prompt=question,completion=answer");
        Assert.Contains("prompts with completions", preview.Error);
        Assert.Contains("⟦a<|im_end|>", preview.Output);
    }

    [Fact]
    public void Help_shows_examples_and_doctor_reports_as_json()
    {
        foreach (var command in (string[])["train", "eval", "generate", "chat", "export", "plan", "doctor", "quickstart", "data preview"])
        {
            var help = LancetCommand.Run([.. command.Split(' '), "--help"]);
            Assert.Equal(0, help.ExitCode);
            Assert.Contains($"lancet {command} --", help.Output);
        }
        var doctor = JsonNode.Parse(LancetCommand.Run("doctor", "--json").Output)!;
        Assert.NotNull(doctor["matrix product"]);
        Assert.Contains(doctor["cuda"]!["status"]!.GetValue<string>(), (string[])["ready", "no_driver", "no_device", "driver_too_old", "device_too_old"]);
        Assert.NotEqual("", doctor["cuda"]!["message"]!.GetValue<string>());
        Assert.Equal(doctor["cuda"]!["available"]!.GetValue<bool>() ? "cuda" : "cpu", doctor["default device"]!.GetValue<string>());
    }

    [Fact]
    public void Without_a_gpu_a_run_on_one_is_planned_but_not_started()
    {
        using var work = new Workspace();
        var available = JsonNode.Parse(LancetCommand.Run("doctor", "--json").Output)!["cuda"]!["available"]!.GetValue<bool>();
        if (available) Assert.Skip("This machine has a GPU.");
        long Workspace(string method) => JsonNode.Parse(LancetCommand.Run("plan", "--model", work.Model, "--method", method, "--device", "cuda", "--json").Output)!["breakdown"]!["matrix product workspace"]!.GetValue<long>();
        // cuBLASLt's own 32 MiB; operands are in the compute dtype but for NF4 weights, which need room to be written out.
        foreach (var method in (string[])["lora", "full"]) Assert.Equal(32 << 20, Workspace(method));
        Assert.InRange(Workspace("qlora"), (32 << 20) + 1, 64 << 20);
        var run = LancetCommand.Run(work.Train("--device", "cuda"));
        Assert.Equal(2, run.ExitCode);
        Assert.Contains("lancet: --device cuda: no NVIDIA driver", run.Error);
        Assert.Equal(2, LancetCommand.Run("doctor", "--self-test").ExitCode);
        // The record of a run says what auto came to mean.
        var dry = LancetCommand.Run(work.Train("--dry-run", "true", "--device", "auto"));
        Assert.Contains("device: cpu", dry.Output);
        Assert.Contains("dtype: float32", dry.Output);
    }

    [Fact]
    public void A_plan_writes_the_ptx_of_its_kernels_without_a_gpu()
    {
        using var work = new Workspace();
        var plan = LancetCommand.Run("plan", "--model", work.Model, "--device", "cuda", "--dump-ptx", work.At("ptx"), "--json");
        Assert.True(plan.ExitCode == 0, plan.Error);
        var listed = JsonNode.Parse(plan.Output)!["ptx_files"]!.AsArray().Select(file => file!.GetValue<string>()).ToArray();
        Assert.Equal(Directory.GetFiles(work.At("ptx")).Order(StringComparer.Ordinal), listed);
        // Some kernel of every part of a step; one that is compiled for different arguments or dtypes has a file for each.
        foreach (var kernel in (string[])["rms_norm_forward", "rotary", "attention_forward", "cross_entropy_forward_backward"]) Assert.Contains(listed, file => Path.GetFileName(file).StartsWith(kernel, StringComparison.Ordinal));
        foreach (var file in listed)
        {
            var text = File.ReadAllText(file);
            Assert.StartsWith(".version ", text, StringComparison.Ordinal);
            var name = Path.GetFileName(file).Split('-')[0];
            Assert.Contains($".visible .entry {name}(", text, StringComparison.Ordinal);
            Assert.Matches(@"\n    // \w+\.cs:[0-9]+\n", text);
        }
        Assert.Contains($"{listed.Length} kernels as PTX", plan.Error, StringComparison.Ordinal);
    }

    /// <summary>Kernels of large vocabularies fill the shared memory of the GPU that is planned for.</summary>
    [Fact]
    public void The_ptx_of_a_large_vocabulary_needs_no_gpu_either()
    {
        using var work = new Workspace();
        var model = Path.Combine(work.At("large"), "config.json");
        Directory.CreateDirectory(work.At("large"));
        File.WriteAllText(model, """
            {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
             "head_dim": 32, "vocab_size": 128256, "max_position_embeddings": 512, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": false}
            """);
        var plan = LancetCommand.Run("plan", "--model", work.At("large"), "--device", "cuda", "--max-seq-length", "256", "--dump-ptx", work.At("ptx"));
        Assert.True(plan.ExitCode == 0, plan.Error);
        Assert.Contains(Directory.GetFiles(work.At("ptx")), file => Path.GetFileName(file).StartsWith("cross_entropy_forward_backward", StringComparison.Ordinal));
    }

    [Fact]
    public void Ptx_is_refused_where_none_would_be_compiled()
    {
        using var work = new Workspace();
        foreach (var arguments in (string[][])[work.Train("--device", "cpu"), ["plan", "--model", work.Model, "--device", "cpu"], ["eval", "--model", work.Model, "--data", work.Data, "--device", "cpu"], ["doctor"]])
        {
            var run = LancetCommand.Run([.. arguments, "--dump-ptx", work.At("ptx")]);
            Assert.Equal(2, run.ExitCode);
            Assert.Contains("lancet plan --device cuda --dump-ptx FOLDER needs no GPU", run.Error, StringComparison.Ordinal);
        }
        Assert.False(Directory.Exists(work.At("ptx")));
        File.WriteAllText(work.At("file"), "");
        var blocked = LancetCommand.Run("plan", "--model", work.Model, "--device", "cuda", "--dump-ptx", work.At("file", "ptx"));
        Assert.Equal(1, blocked.ExitCode);
        Assert.Contains("the folder for PTX cannot be created", blocked.Error, StringComparison.Ordinal);
        foreach (var command in (string[])["train", "eval", "generate", "chat", "plan", "doctor"]) Assert.Contains("--dump-ptx", LancetCommand.Run(command, "--help").Output, StringComparison.Ordinal);
    }

    [Fact]
    public void A_small_model_is_trained_from_scratch_on_text_and_lowers_its_loss()
    {
        using var work = new Workspace();
        // A tiny Llama with the bundled tokenizer, without weights.
        Directory.CreateDirectory(work.At("fresh"));
        foreach (var file in (string[])["tokenizer.json", "tokenizer_config.json"]) File.Copy(Path.Combine(s_bundled, file), work.At("fresh", file));
        var config = JsonNode.Parse(File.ReadAllText(Path.Combine(s_bundled, "config.json")))!.AsObject();
        (config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"], config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]) = (32, 64, 1, 2, 1, 16);
        File.WriteAllText(work.At("fresh", "config.json"), config.ToJsonString());
        var rows = work.Rows([.. Enumerable.Range(0, 8).Select(i => $"{{\"text\": \"The method number {i % 2} returns the value of the field.\"}}")]);
        var run = LancetCommand.Run(
            "train", "--model", work.At("fresh"), "--from-scratch", "--method", "full", "--data", rows, "--eval-data", rows, "--output", work.Output, "--max-steps", "80", "--learning-rate", "1e-2", "--json");
        Assert.True(run.ExitCode == 0, run.Error);
        var losses = File.ReadLines(work.At("out", "metrics.jsonl")).Select(line => JsonNode.Parse(line)!["eval_loss"]?.GetValue<double>()).OfType<double>().ToList();
        Assert.Equal(2, losses.Count);
        Assert.Equal(Math.Log(config["vocab_size"]!.GetValue<int>()), losses[0], 0.3);
        Assert.True(losses[1] < 1, $"{losses[0]} → {losses[1]}");
        var answer = LancetCommand.Run("generate", "--model", work.Output, "--raw", "--prompt", "The method number 1", "--max-new-tokens", "8");
        Assert.Contains("returns the value", answer.Output);
    }

    /// <summary>One step of LoRA with a named template.</summary>
    private static void TrainWith(Workspace work, string template)
    {
        var rows = work.Rows("{\"prompt\": \"What is it?\", \"completion\": \"A number.\"}", "{\"prompt\": \"And this?\", \"completion\": \"A text.\"}");
        var run = LancetCommand.Run("train", "--model", s_bundled, "--method", "lora", "--data", rows, "--output", work.Output, "--max-steps", "1", "--chat-template", template);
        Assert.True(run.ExitCode == 0, run.Error);
    }

    [Fact]
    public void A_chosen_chat_template_goes_along_with_the_adapter()
    {
        using var work = new Workspace();
        TrainWith(work, "zephyr");
        Assert.Equal(ChatTemplate.Named("zephyr").Source, File.ReadAllText(work.At("out", "chat_template.jinja")));
        File.WriteAllText(work.At("out", "chat_template.jinja"), "{{ raise_exception('the adapter was asked') }}");
        string[] ask = ["generate", "--model", s_bundled, "--adapter", work.Output, "--prompt", "What is it?", "--max-new-tokens", "1"];
        Assert.Contains("the adapter was asked", LancetCommand.Run(ask).Error, StringComparison.Ordinal);
        Assert.Equal(0, LancetCommand.Run([.. ask, "--chat-template", "zephyr"]).ExitCode);
        Assert.Equal(0, LancetCommand.Run("export", "--model", s_bundled, "--adapter", work.Output, "--output", work.At("merged")).ExitCode);
        Assert.True(File.Exists(work.At("merged", "chat_template.jinja")));
    }

    [Fact]
    public void Doctor_lists_the_families_of_models()
    {
        var lines = LancetCommand.Run("doctor", "--models").Output.Split('\n', StringSplitOptions.RemoveEmptyEntries);
        Assert.Equal(SupportedModel.All.Select(model => $"| `{model.ModelType}` "), lines.Skip(2).Select(line => line[..line.IndexOf("| ", 2, StringComparison.Ordinal)]));
        Assert.Contains(lines, line => line.Contains("| `qkv_proj` `o_proj` `gate_up_proj` `down_proj` | `phi3` |", StringComparison.Ordinal));
    }

    [Fact]
    public void What_is_trained_with_another_template_ends_as_it_ends_turns_in_every_export()
    {
        using var work = new Workspace();
        TrainWith(work, "phi");
        string[] from = ["--model", s_bundled, "--adapter", work.Output];
        foreach (var options in (string[][])[["--output", work.At("merged")], ["--output", work.At("gguf", "model.gguf"), "--format", "gguf", "--type", "f16"]])
        {
            var export = LancetCommand.Run(["export", .. from, .. options]);
            Assert.True(export.ExitCode == 0, export.Error);
            Assert.Contains("largest logit difference", export.Error, StringComparison.Ordinal);
        }
        var end = Tokenizer.Load(s_bundled).EosTokenId;
        foreach (var folder in (string[])[work.Output, work.At("merged"), work.At("gguf", "model.gguf")])
        {
            var tokenizer = Tokenizer.Load(folder);
            Assert.Equal((end, "<|end|>"), (tokenizer.EosTokenId, tokenizer.EosToken));
            Assert.NotEqual(tokenizer.EosTokenId, tokenizer.PadTokenId);
        }
        Assert.Equal(end, ModelConfig.Load(work.At("merged")).EosTokenIds[0]);
        Assert.Contains("PARAMETER stop \"<|end|>\"", File.ReadAllText(work.At("gguf", "Modelfile")), StringComparison.Ordinal);
    }

    private static double Loss(params string[] arguments)
    {
        var result = LancetCommand.Run(arguments);
        Assert.True(result.ExitCode == 0, result.Error);
        return JsonNode.Parse(result.Output)!["loss"]!.GetValue<double>();
    }
}
