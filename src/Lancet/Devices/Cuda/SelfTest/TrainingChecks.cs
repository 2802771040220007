using System.Globalization;
using Lancet.Adapters;
using Lancet.Data;
using Lancet.Devices.Cpu;
using Lancet.Models;
using Lancet.Tile;
using Lancet.Training;

namespace Lancet.Devices.Cuda.SelfTest;

/// <summary>A few optimiser steps of a tiny random model on the GPU and on the processor: losses agree, bits repeat, graphs change nothing.</summary>
/// <param name="device">GPU.</param>
/// <param name="check">Runs a check and reports it.</param>
internal sealed class TrainingChecks(CudaDevice device, Action<string, Func<string>> check)
{
    private const int Steps = 5;
    private const int Vocabulary = 320;

    private const string Config = """
        {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 320, "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
         "rope_theta": 10000.0, "tie_word_embeddings": false, "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2}
        """;

    public void Run()
    {
        var folder = Path.Combine(Path.GetTempPath(), $"lancet-self-test-{Guid.NewGuid():N}");
        try
        {
            foreach (var (method, dtype, tolerance) in ((string, DType, double)[])
                [("full", DType.Float32, 1e-4), ("lora", DType.Float32, 1e-4), ("qlora", DType.Float32, 1e-4), ("full", DType.BFloat16, 2e-2), ("lora", DType.BFloat16, 2e-2), ("qlora", DType.BFloat16, 2e-2)])
                check($"training: {method} in {dtype} as on the processor", () => Compare(folder, method, dtype, tolerance));
        }
        finally
        {
            if (Directory.Exists(folder)) Directory.Delete(folder, true);
        }
    }

    private static void Create(string folder)
    {
        if (Directory.Exists(folder)) return;
        Directory.CreateDirectory(folder);
        File.WriteAllText(Path.Combine(folder, "config.json"), Config);
        using var model = LanguageModel.Load(folder, new LoadOptions { IsFullyTrained = true, IsFromScratch = true });
        ModelWriter.Save(folder, model, DType.BFloat16);
    }

    private string Compare(string folder, string method, DType dtype, double tolerance)
    {
        Create(folder);
        using var cpu = new CpuDevice();
        var expected = Train(cpu, folder, method, dtype, out _);
        var allocated = device.AllocatedBytes;
        var actual = Train(device, folder, method, dtype, out var memory);
        var again = Train(device, folder, method, dtype, out _);
        if (device.AllocatedBytes > allocated) throw new InvalidOperationException($"{device.AllocatedBytes - allocated:N0} bytes of the device were not given back");
        if (!actual.SequenceEqual(again)) throw new InvalidOperationException($"two runs differ: losses {Join(actual)} and {Join(again)}");
        var worst = 0.0;
        for (var step = 0; step < Steps; step++)
        {
            var error = Math.Max(Math.Abs((actual[step].Loss / expected[step].Loss) - 1), Math.Abs((actual[step].GradientNorm / expected[step].GradientNorm) - 1));
            if (!(error <= tolerance)) throw new InvalidOperationException($"step {step + 1}: {actual[step]}, on the processor {expected[step]}");
            worst = Math.Max(worst, error);
        }
        return string.Create(CultureInfo.InvariantCulture, $"largest relative difference {worst:E2}; {memory}");
    }

    // The first step runs directly, the second is recorded, the others are replayed; micro-batches of two token counts.
    private static List<StepResult> Train(Device target, string folder, string method, DType dtype, out string memory)
    {
        using var model = LanguageModel.Load(folder, new LoadOptions { Device = target, DType = dtype, IsFullyTrained = method == "full", QuantizesToNf4 = method == "qlora" });
        if (method != "full") model.AddLora(new LoraOptions { Rank = 8, Alpha = 16, Dropout = 0.1, TargetModules = ["all-linear"] });
        using var engine = new TrainingEngine(model, new EngineOptions { MaxTokens = 120, MaxSequenceLength = 64 });
        var random = new DeterministicRandom(11);
        PackedBatch Batch(params int[] lengths)
        {
            var batch = new PackedBatch(120, 8);
            foreach (var length in lengths)
            {
                int[] ids = [.. Enumerable.Range(0, length).Select(_ => random.NextInt32(Vocabulary))];
                batch.Add(ids, ids);
            }
            return batch;
        }
        PackedBatch[] batches = [Batch(50, 7, 33), Batch(64, 56), Batch(60, 30)];
        var results = new List<StepResult>();
        for (var step = 1; step <= Steps; step++)
        {
            engine.BeginStep(step, batches.Sum(batch => (long)batch.LabelTokenCount));
            foreach (var batch in batches) engine.Accumulate(batch);
            results.Add(engine.EndStep(1e-3));
        }
        memory = string.Create(CultureInfo.InvariantCulture, $"planned {engine.Plan.PeakBytes / 1048576.0:F1} MiB, used {engine.PeakMemoryBytes / 1048576.0:F1} MiB since the start");
        return results;
    }

    private static string Join(IEnumerable<StepResult> results) => string.Join(' ', results.Select(result => result.Loss.ToString("R", CultureInfo.InvariantCulture)));
}
