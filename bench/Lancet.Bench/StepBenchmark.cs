using System.Diagnostics;
using System.Globalization;
using Lancet.Adapters;
using Lancet.Data;
using Lancet.Devices.Cpu;
using Lancet.Kernels;
using Lancet.Layers;
using Lancet.Models;
using Lancet.Tile;
using Lancet.Training;

namespace Lancet.Bench;

/// <summary>
/// A LoRA step (r = 16 on all seven projections, AdamW, clipping) of a model shaped like SmolLM2-135M, T = 1024, every token a label. The
/// peer is bench/peers/smollm_step.py.
/// </summary>
internal static class StepBenchmark
{
    private const int Tokens = 1024;
    private const int Warmup = 2;
    private const int Steps = 7;

    private const string Config = """
        {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
         "num_key_value_heads": 3, "head_dim": 64, "hidden_act": "silu", "max_position_embeddings": 8192, "rms_norm_eps": 1e-05, "rope_theta": 100000, "tie_word_embeddings": true}
        """;

    public static void Run(string[] arguments)
    {
        string Option(string name, string fallback) => Array.IndexOf(arguments, name) is >= 0 and var i && i + 1 < arguments.Length ? arguments[i + 1] : fallback;
        var weights = Option("--weights", "fp32");
        var isNarrow = weights != "fp32";
        var policy = Option("--policy", "keep") switch { "recompute-mlp" => ActivationPolicy.RecomputeMlp, "keep-input" => ActivationPolicy.KeepInput, _ => ActivationPolicy.Keep };
        var folder = Path.Combine(Path.GetTempPath(), $"lancet-bench-smollm-{(isNarrow ? "bf16" : "fp32")}");
        MakeModel(folder, isNarrow ? DType.BFloat16 : DType.Float32);
        if (arguments.Contains("--make"))
        {
            // Made beforehand, so that the making does not count as peak memory of a measured process.
            MakeModel(Path.Combine(Path.GetTempPath(), "lancet-bench-smollm-bf16"), DType.BFloat16);
            return;
        }

        using var device = arguments.Contains("--profile") ? (Devices.Device)new ProfilingDevice() : new CpuDevice();
        using var model = LanguageModel.Load(folder, new LoadOptions { Device = device, QuantizesToNf4 = weights == "nf4" });
        model.AddLora(new LoraOptions { Rank = 16, Alpha = 32 });
        using var engine = new TrainingEngine(model, new EngineOptions { MaxTokens = Tokens, MaxSequenceLength = Tokens, AdamW = new AdamWConstants(0.9, 0.999, 1e-8, 0.01), Policy = policy });
        var batch = new PackedBatch(Tokens, 1);
        var random = new DeterministicRandom(5);
        int[] ids = [.. Enumerable.Range(0, Tokens).Select(_ => random.NextInt32(49152))];
        batch.Add(ids, ids);
        var times = new List<double>();
        for (var step = 1; step <= Warmup + Steps; step++)
        {
            if (step == Warmup + 1) (device as ProfilingDevice)?.Reset();
            var clock = Stopwatch.StartNew();
            engine.BeginStep(step, batch.LabelTokenCount);
            engine.Accumulate(batch);
            var result = engine.EndStep(1e-4);
            if (step > Warmup) times.Add(clock.Elapsed.TotalSeconds);
            Console.Error.WriteLine(string.Create(CultureInfo.InvariantCulture, $"step {step}: {clock.Elapsed.TotalSeconds:F3} s, loss {result.Loss:F4}"));
        }
        times.Sort();
        var median = times[times.Count / 2];
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture,
            $"lancet {device.Name} weights {weights} policy {policy}: {median:F3} s a step (spread {times[0]:F3} to {times[^1]:F3}), {Tokens / median:F0} tokens/s, " +
            $"{engine.MatMulOperations / median / 1e9:F0} GFLOP/s of products; planned peak {engine.Plan.PeakBytes / 1048576.0:F0} MiB, counted peak {engine.PeakMemoryBytes / 1048576.0:F0} MiB, process peak {ProcessPeak() / 1048576.0:F0} MiB"));
        (device as ProfilingDevice)?.Print(Steps);
    }

    private static void MakeModel(string folder, DType dtype)
    {
        if (File.Exists(Path.Combine(folder, "model.safetensors"))) return;
        Directory.CreateDirectory(folder);
        File.WriteAllText(Path.Combine(folder, "config.json"), Config);
        using (var model = LanguageModel.Load(folder, new LoadOptions { IsFromScratch = true })) ModelWriter.Save(folder, model, dtype);
        GC.Collect();
    }

    /// <summary>Largest resident set of this process so far.</summary>
    private static long ProcessPeak()
    {
        using var process = Process.GetCurrentProcess();
        return process.PeakWorkingSet64;
    }
}
