using System.Diagnostics;
using System.Globalization;
using Lancet.Training;
using Spectre.Console;

namespace Lancet.Cli;

/// <summary>Shows a run: one live line with a small loss curve on a terminal, plain lines otherwise. Everything goes to stderr.</summary>
internal sealed class ProgressDisplay : ITrainingObserver, IDisposable
{
    private const int CurveWidth = 24;
    private const string Levels = "▁▂▃▄▅▆▇█";
    private readonly IAnsiConsole _console;
    private readonly bool _isLive;
    private readonly IReadOnlyList<string> _notes;
    private readonly Action<SftRun> _onStart;
    private readonly Func<string> _onFirstStep;
    private readonly List<double> _losses = [];
    private readonly Stopwatch _clock = new();
    private SftRun? _run;
    private double _lastPlainLine;

    private ProgressDisplay(IAnsiConsole console, bool isLive, IReadOnlyList<string> notes, Action<SftRun> onStart, Func<string> onFirstStep) =>
        (_console, _isLive, _notes, _onStart, _onFirstStep) = (console, isLive, notes, onStart, onFirstStep);

    /// <summary>Creates the display.</summary>
    /// <param name="notes">What was found in the data, shown when the run starts.</param>
    /// <param name="onStart">Called when a run is about to start.</param>
    /// <param name="onFirstStep">Called after the first step; says how long it took until then.</param>
    public static ProgressDisplay Create(IReadOnlyList<string> notes, Action<SftRun> onStart, Func<string> onFirstStep)
    {
        var console = AnsiConsole.Create(new AnsiConsoleSettings { Out = new AnsiConsoleOutput(Console.Error) });
        return new(console, !Console.IsErrorRedirected && console.Profile.Capabilities.Ansi, notes, onStart, onFirstStep);
    }

    public void OnStart(SftRun run)
    {
        _run = run;
        _onStart(run);
        foreach (var note in _notes) Line(note);
        _clock.Start();
        Line(string.Create(CultureInfo.InvariantCulture,
            $"{run.Rows} rows, {run.TotalSteps} steps, {run.TrainableParameters:N0} of {run.Parameters:N0} parameters trained, planned peak {run.Plan.PeakBytes / 1048576.0:N0} MiB ({run.Plan.ActivationPolicy})"));
        if (run.FirstStep > 0) Line($"resumed after step {run.FirstStep}");
    }

    public void OnStep(StepMetrics metrics)
    {
        _losses.Add(metrics.Loss);
        if (_losses.Count == 1) Line(_onFirstStep());
        var done = metrics.Step - _run!.FirstStep;
        var elapsed = _clock.Elapsed.TotalSeconds;
        var left = TimeSpan.FromSeconds(elapsed / done * (_run.TotalSteps - metrics.Step));
        var text = string.Create(CultureInfo.InvariantCulture,
            $"step {metrics.Step}/{_run.TotalSteps}  loss {metrics.Loss:F4}  {metrics.TokensPerSecond:N0} tokens/s  {metrics.PeakMemoryBytes / 1048576.0:N0} MiB  {Clock(left)} left");
        if (_isLive)
        {
            // A line that wraps could not be overwritten.
            var line = $"{text}  {Curve()}";
            var width = Math.Max(20, _console.Profile.Width - 1);
            Console.Error.Write($"\r\u001b[2K{(line.Length <= width ? line : text.Length <= width ? text : text[..width])}");
            if (metrics.Step == _run.TotalSteps) Console.Error.WriteLine();
        }
        else if (metrics.Step == _run.TotalSteps || done == 1 || elapsed - _lastPlainLine >= 5)
        {
            _lastPlainLine = elapsed;
            Line(text);
        }
    }

    public void OnEvaluation(EvalMetrics metrics) => Line(string.Create(CultureInfo.InvariantCulture, $"held-out loss after step {metrics.Step}: {metrics.EvalLoss:F4}"));

    public void OnCheckpoint(int step) => Line($"checkpoint step-{step} saved");

    /// <summary>What the run came to.</summary>
    public void Finish(SftResult result, string output, IReadOnlyList<SampleAnswer> samples)
    {
        foreach (var sample in samples)
        {
            Line("");
            if (_isLive)
            {
                _console.MarkupLineInterpolated($"[bold]{Short(sample.Question)}[/]");
                _console.MarkupLineInterpolated($"  before: [grey]{Short(sample.Before)}[/]");
                _console.MarkupLineInterpolated($"  after:  [green]{Short(sample.After)}[/]");
                continue;
            }
            Line(Short(sample.Question));
            Line($"  before: {Short(sample.Before)}");
            Line($"  after:  {Short(sample.After)}");
        }
        if (result.Steps.Count > 0) Line($"loss {Curve()} {result.Steps[0].Loss.ToString("F3", CultureInfo.InvariantCulture)} → {result.Steps[^1].Loss.ToString("F3", CultureInfo.InvariantCulture)}");
        if (result.Evaluations.Count > 1 && result.Evaluations[0].Step == 0)
            Line(string.Create(CultureInfo.InvariantCulture, $"held-out loss: {result.Evaluations[0].EvalLoss:F4} before, {result.Evaluations[^1].EvalLoss:F4} after"));
        Line($"{(result.IsInterrupted ? "interrupted; continue with --resume" : "done")}: {Path.GetFullPath(output)} (report.html shows the run)");
    }

    public void Dispose()
    {
        if (_isLive && _losses.Count > 0 && _run is not null && _losses.Count < _run.TotalSteps - _run.FirstStep) Console.Error.WriteLine();
    }

    private static string Clock(TimeSpan time) => time.TotalHours < 1
        ? time.ToString(@"mm\:ss", CultureInfo.InvariantCulture)
        : string.Create(CultureInfo.InvariantCulture, $"{(long)time.TotalHours}:{time.Minutes:00}:{time.Seconds:00}");

    private static string Short(string text)
    {
        var line = text.ReplaceLineEndings(" ");
        return line.Length == 0 ? "(nothing)" : line.Length <= 160 ? line : line[..160] + "…";
    }

    private void Line(string text) => Console.Error.WriteLine(_isLive ? "\r\u001b[2K" + text : text);

    private string Curve()
    {
        var points = new List<double>();
        for (var i = 0; i < Math.Min(CurveWidth, _losses.Count); i++)
        {
            var (start, end) = (_losses.Count * i / Math.Min(CurveWidth, _losses.Count), _losses.Count * (i + 1) / Math.Min(CurveWidth, _losses.Count));
            points.Add(_losses[start..end].Average());
        }
        var (low, high) = (points.Min(), points.Max());
        return string.Concat(points.Select(point => Levels[high > low ? (int)Math.Round((point - low) / (high - low) * (Levels.Length - 1)) : 0]));
    }
}
