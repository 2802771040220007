using System.Text.Json;
using Lancet.Data;
using Lancet.Kernels;
using Lancet.Training;

namespace Lancet.Tests.Training;

/// <summary>A folder of tests/golden: model, adapter, rows, and what Hugging Face computed from them in fp64.</summary>
internal sealed class Fixture
{
    private readonly JsonElement _expected;
    private readonly List<(int[] Ids, int[] Labels)> _rows = [];

    public Fixture(string name)
    {
        Folder = TestFiles.Golden(name);
        var root = JsonDocument.Parse(File.ReadAllText(Path.Combine(Folder, "expected.json"))).RootElement;
        _expected = root.GetProperty("expected_float64");
        LossError = root.GetProperty("huggingface_float32_error").GetProperty("loss").GetDouble();
        TrainLossError = root.GetProperty("huggingface_float32_error").GetProperty("train_loss").GetDouble();
        foreach (var line in File.ReadLines(Path.Combine(Folder, "data.jsonl")))
        {
            var row = JsonDocument.Parse(line).RootElement;
            _rows.Add((Integers(row, "input_ids"), Integers(row, "labels")));
        }
    }

    public string Folder { get; }

    public string Model => Path.Combine(Folder, "model");

    public string Adapter => Path.Combine(Folder, "adapter");

    public double LossError { get; }

    public double TrainLossError { get; }

    public double[] TrainLoss => Losses("train_loss");

    public double[] GradientNorm => Losses("grad_norm");

    public int MaxBatchTokens => 4 * _rows.Max(row => row.Ids.Length);

    /// <summary>What the fixtures were trained with, but for the learning rate.</summary>
    public EngineOptions Options => new() { MaxTokens = MaxBatchTokens, MaxSequenceLength = 512, AdamW = new AdamWConstants(0.9, 0.999, 1e-8, 0.01) };

    /// <summary>Plain AdamW, with sequences no longer than a batch.</summary>
    public EngineOptions PlainOptions => new() { MaxTokens = MaxBatchTokens, MaxSequenceLength = MaxBatchTokens };

    public double[] Losses(string key) => [.. _expected.GetProperty(key).EnumerateArray().Select(value => value.GetDouble())];

    /// <summary>Asserts the losses of all rows.</summary>
    public void AssertLosses(Action<PackedBatch, float[]> evaluate, string key)
    {
        var expected = Losses(key);
        for (var row = 0; row < expected.Length; row++)
        {
            var batch = Batch([row]);
            var losses = new float[batch.TokenCount];
            evaluate(batch, losses);
            Assert.Equal(expected[row], losses.Sum(loss => (double)loss) / batch.LabelTokenCount, Math.Max(4 * LossError, 4e-6));
        }
    }

    /// <summary>A step on two rows of its own, or another number of them.</summary>
    public StepResult Step(TrainingEngine engine, int step, int rows = 2)
    {
        var batch = Batch([.. Enumerable.Range(2 * step, rows)]);
        engine.BeginStep(step + 1, batch.LabelTokenCount);
        engine.Accumulate(batch);
        return engine.EndStep(0.001);
    }

    public PackedBatch Batch(int[] rows)
    {
        var batch = new PackedBatch(MaxBatchTokens, rows.Length);
        foreach (var row in rows) batch.Add(_rows[row % _rows.Count].Ids, _rows[row % _rows.Count].Labels);
        return batch;
    }

    private static int[] Integers(JsonElement row, string key) => [.. row.GetProperty(key).EnumerateArray().Select(value => value.GetInt32())];
}
