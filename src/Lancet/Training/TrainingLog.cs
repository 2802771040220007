using System.Text;
using System.Text.Json;
using Lancet.Formats;

namespace Lancet.Training;

/// <summary>What one step of training gave; a row of metrics.jsonl.</summary>
/// <param name="Step">From 1.</param>
/// <param name="Epoch">Passes over the data so far.</param>
/// <param name="Loss">Mean over the step's label tokens.</param>
/// <param name="GradientNorm">Before clipping.</param>
/// <param name="LearningRate">Rate of the step.</param>
/// <param name="Tokens">Tokens since the start of the run.</param>
/// <param name="TokensPerSecond">Of this step.</param>
/// <param name="PeakMemoryBytes">So far.</param>
/// <param name="ElapsedSeconds">Since the start of the run.</param>
public sealed record StepMetrics(int Step, double Epoch, double Loss, double GradientNorm, double LearningRate, long Tokens, double TokensPerSecond, long PeakMemoryBytes, double ElapsedSeconds);

/// <summary>A loss on held-out rows; a row of metrics.jsonl.</summary>
/// <param name="Step">Steps done.</param>
/// <param name="EvalLoss">Mean over label tokens.</param>
public sealed record EvalMetrics(int Step, double EvalLoss);

/// <summary>metrics.jsonl: a row a step, flushed as it is written.</summary>
public sealed class TrainingLog : IDisposable
{
    private readonly StreamWriter _writer;

    /// <summary>Opens the log.</summary>
    /// <param name="path">File.</param>
    /// <param name="keepThroughStep">Rows of later steps are dropped, as when a run is resumed from this step.</param>
    public TrainingLog(string path, int keepThroughStep)
    {
        string[] kept = keepThroughStep > 0 && File.Exists(path) ? [.. File.ReadLines(path).Where(line => Number(line, "step") <= keepThroughStep)] : [];
        LastEvaluatedStep = (int)kept.Where(line => double.IsFinite(Number(line, "eval_loss"))).Select(line => Number(line, "step")).DefaultIfEmpty(-1).Max();
        ElapsedBefore = kept.Select(line => Number(line, "elapsed_seconds")).Where(double.IsFinite).LastOrDefault();
        try
        {
            AtomicFile.WriteText(path, string.Concat(kept.Select(line => line + "\n")));
            _writer = new StreamWriter(new FileStream(path, FileMode.Append, FileAccess.Write, FileShare.Read), new UTF8Encoding(false)) { AutoFlush = true, NewLine = "\n" };
        }
        catch (Exception error) when (OutputException.IsFrom(error))
        {
            throw new OutputException($"{path}: cannot be written: {error.Message}", error);
        }
    }

    /// <summary>Seconds that the kept rows took, so that a resumed run's clock goes on.</summary>
    public double ElapsedBefore { get; }

    /// <summary>Step of the last evaluation among the kept rows, or −1.</summary>
    public int LastEvaluatedStep { get; }

    /// <summary>Appends a step.</summary>
    public void Write(StepMetrics row) => Write(json =>
    {
        json.WriteNumber("step", row.Step);
        json.WriteNumber("epoch", row.Epoch);
        json.WriteNumber("loss", row.Loss);
        json.WriteNumber("grad_norm", row.GradientNorm);
        json.WriteNumber("learning_rate", row.LearningRate);
        json.WriteNumber("tokens", row.Tokens);
        json.WriteNumber("tokens_per_second", Math.Round(row.TokensPerSecond, 1));
        json.WriteNumber("peak_memory_bytes", row.PeakMemoryBytes);
        json.WriteNumber("elapsed_seconds", Math.Round(row.ElapsedSeconds, 3));
    });

    /// <summary>Appends an evaluation.</summary>
    public void Write(EvalMetrics row) => Write(json =>
    {
        json.WriteNumber("step", row.Step);
        json.WriteNumber("eval_loss", row.EvalLoss);
    });

    /// <inheritdoc/>
    public void Dispose() => _writer.Dispose();

    private static double Number(string line, string key)
    {
        try
        {
            using var document = JsonDocument.Parse(line);
            return document.RootElement.TryGetProperty(key, out var value) ? value.GetDouble() : double.PositiveInfinity;
        }
        catch (Exception error) when (error is JsonException or InvalidOperationException)
        {
            // The last row of a killed run may be cut off; it will be written again.
            return double.PositiveInfinity;
        }
    }

    private void Write(Action<Utf8JsonWriter> fill)
    {
        using var buffer = new MemoryStream();
        using (var json = new Utf8JsonWriter(buffer))
        {
            json.WriteStartObject();
            fill(json);
            json.WriteEndObject();
        }
        try
        {
            _writer.WriteLine(Encoding.UTF8.GetString(buffer.ToArray()));
        }
        catch (Exception error) when (OutputException.IsFrom(error))
        {
            throw new OutputException($"metrics.jsonl cannot be written: {error.Message}", error);
        }
    }
}
