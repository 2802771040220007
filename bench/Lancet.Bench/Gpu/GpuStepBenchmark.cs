using System.Diagnostics;
using System.Globalization;
using Lancet.Adapters;
using Lancet.Data;
using Lancet.Devices;
using Lancet.Devices.Cuda;
using Lancet.Kernels;
using Lancet.Layers;
using Lancet.Models;
using Lancet.Planning;
using Lancet.Tile;
using Lancet.Training;

namespace Lancet.Bench.Gpu;

/// <summary>
/// Optimiser steps of a model of true shapes whose weights are drawn on the device: LoRA r = 16 on all seven projections (or full training),
/// AdamW, clipping, every token a label. The peer is bench/peers/hf_step.py.
/// </summary>
internal sealed class GpuStepBenchmark
{
    private const double LearningRate = 1e-4;
    private const double Seconds = 6;
    private const int Warmup = 3;
    private const int MostSteps = 200;
    private const int ProfiledSteps = 2;
    private const double LongGapMilliseconds = 0.02;
    private const int TracedSteps = 10;
    private const int Stretches = 24;
    private const long LargeCopyBytes = 1 << 24;
    private readonly CudaDevice _device;
    private readonly Arguments _arguments;
    private readonly Report _report;
    private readonly string _name;
    private readonly string _method;
    private readonly int _batch;
    private readonly bool _isRagged;
    private readonly int _labelPercent, _dropoutPercent;
    private readonly ModelConfig _config;
    private int _length;
    private int _streamed;
    private EngineOptions _options;

    public GpuStepBenchmark(CudaDevice device, Arguments arguments, Report report)
    {
        (_device, _arguments, _report) = (device, arguments, report);
        _name = arguments.Text("--model") ?? "llama-3.1-8b";
        _method = arguments.Text("--method") ?? "lora";
        if (_method is not ("lora" or "qlora" or "full")) throw new LancetException($"--method {_method}: lora, qlora or full.");
        (_batch, _length, _isRagged) = (arguments.Number("--batch", arguments.Has("--max-context") ? 1 : 4), arguments.Number("--length", 2048), arguments.Has("--ragged"));
        (_labelPercent, _dropoutPercent) = (arguments.Number("--labels", 100), arguments.Number("--dropout", 0));
        _config = ModelShapes.Config(_name, arguments.Number("--layers", 0));
        _options = new EngineOptions
        {
            MaxTokens = _batch * _length,
            MaxSequenceLength = _length,
            AdamW = new AdamWConstants(0.9, 0.999, 1e-8, 0.01),
            HasEightBitState = arguments.Has("--adamw-8bit"),
            MemoryBudget = arguments.Bytes("--memory-budget"),
            HostMemoryBudget = arguments.Bytes("--host-memory-budget"),
            StreamedLayers = arguments.Has("--streamed-layers") ? arguments.Number("--streamed-layers", 0) : null,
            Policy = arguments.Text("--policy") is null or "auto" ? null : ActivationPolicies.Parse(arguments.Text("--policy")!),
        };
    }

    private LoraOptions Adapter => new() { Rank = _arguments.Number("--rank", 16), Alpha = 32, Dropout = _dropoutPercent / 100.0, UsesDora = _arguments.Has("--dora") };

    private string Title => $"{_name}{(_arguments.Number("--layers", 0) is > 0 and var layers ? $", {layers} layers" : "")}, {_method}, {_batch} × {_length}{(_isRagged ? " ragged" : "")}{(_labelPercent < 100 ? $", {_labelPercent} % labels" : "")}{(Adapter.UsesDora ? ", DoRA" : "")}{(_dropoutPercent > 0 ? $", {_dropoutPercent} % dropout" : "")}";

    /// <summary>Runs the steps, and again with a profile if one is asked for.</summary>
    public void Run()
    {
        var folder = Directory.CreateTempSubdirectory("lancet-bench-").FullName;
        try
        {
            File.WriteAllText(Path.Combine(folder, "config.json"), ModelShapes.Json(_name, _arguments.Number("--layers", 0)));
            var (milliseconds, ceiling) = Measure(folder);
            if (_arguments.Has("--profile")) Profile(folder, ceiling);
            if (_arguments.Has("--profile") || _arguments.Has("--trace")) LaunchGaps(folder, milliseconds);
        }
        finally
        {
            Directory.Delete(folder, true);
        }
    }

    /// <summary>Operations that a step's model needs, whatever is computed again: products with everything kept, and causal attention forward and backward.</summary>
    public static double ModelOperations(ModelConfig config, DecoderModel decoder, EngineOptions options, PackedBatch batch)
    {
        var plan = StepPlan.Create(decoder, DType.BFloat16, 0, options with { Policy = ActivationPolicy.Keep, MemoryBudget = 0, MaxTokens = batch.TokenCount }, PlanTarget.Cuda);
        return plan.MatMulOperations + ((1 + ProfilingCudaDevice.BackwardOverForward) * AttentionOperations(config, batch));
    }

    // Of all layers' forward passes.
    private static double AttentionOperations(ModelConfig config, PackedBatch batch)
    {
        var operations = 0.0;
        foreach (var window in config.Windows)
        {
            for (var i = 0; i < batch.SequenceCount; i++)
            {
                double n = batch.CuSeqlens[i + 1] - batch.CuSeqlens[i];
                var pairs = window > 0 && window < n ? (n * window) - (window * (double)window / 2) : n * n / 2;
                operations += 4.0 * config.HeadDimension * config.QueryHeads * pairs;
            }
        }
        return operations;
    }

    private (double Milliseconds, double Ceiling) Measure(string folder)
    {
        var free = _device.AvailableBytes;
        Plan(folder);
        var clock = Stopwatch.StartNew();
        using var model = Load(folder, _device);
        _device.Synchronize();
        var loadSeconds = clock.Elapsed.TotalSeconds;
        List<double> times = [];
        var least = long.MaxValue;
        var (warmup, most) = _arguments.Number("--steps", 0) is > 0 and var asked ? (Math.Min(1, asked - 1), asked) : (Warmup, Warmup + MostSteps);
        double first = 0, loss = 0, operations, executed, predicted;
        MemoryPlan plan;
        long counted;
        var batch = Batch();
        clock.Restart();
        using (var engine = new TrainingEngine(model, _options))
        {
            var setup = clock.Elapsed.TotalSeconds;
            var spent = 0.0;
            for (var step = 1; step <= most && (step <= warmup + 5 || spent < Seconds); step++)
            {
                clock.Restart();
                loss = Step(engine, batch, step);
                if (step == 1) first = setup + clock.Elapsed.TotalSeconds;
                least = Math.Min(least, _device.AvailableBytes);
                if (step <= warmup) continue;
                times.Add(clock.Elapsed.TotalMilliseconds);
                spent += clock.Elapsed.TotalSeconds;
            }
            (plan, counted, executed, predicted) = (engine.Plan, engine.PeakMemoryBytes, engine.MatMulOperations, engine.PredictedSeconds);
            operations = ModelOperations(_config, model.Decoder, _options, batch);
        }
        model.Dispose();
        var timing = Timing.Of(times);
        var ceiling = new ProductBenchmark(_device, _arguments, _report).Ceiling();
        var rate = operations / timing.Median / 1e9;
        var measured = free - least;
        _report.Begin($"Step: {Title}", "Random weights of true shapes drawn on the device; host clock around the whole step, graphs replayed. GB are 10⁹ bytes. Model TFLOP/s count no recomputation; the ceiling is an 8192³ bf16 product on this device, and the floor the time of the model's operations at it.",
            "what", "value");
        _report.Row("tokens/s", Cell.Of(batch.TokenCount / timing.Median * 1e3, "F0"));
        _report.Row("ms a step", Cell.Of(timing.Median, "F3"));
        _report.Row("ms predicted for forward and backward pass", Cell.Of(predicted * 1e3, "F3"));
        _report.Row("spread", $"{timing.Spread} over {times.Count} steps");
        if (warmup == 0) _report.Row("warm-up", "none: the step is the first, in which kernels are assembled and products' algorithms chosen");
        _report.Row("tokens a step", batch.TokenCount);
        if (_options.MemoryBudget > 0) _report.Row("memory budget GB, without the driver", Cell.Of(_options.MemoryBudget / 1e9, "F3"));
        _report.Row("peak GB, free memory before less least free memory", Cell.Of(measured / 1e9, "F3"));
        _report.Row("peak GB, counted by the device", Cell.Of(counted / 1e9, "F3"));
        _report.Row("peak GB, planned", Cell.Of(plan.PeakBytes / 1e9, "F3"));
        _report.Row("driver GB besides, planned", Cell.Of(plan.DriverBytes / 1e9, "F3"));
        _report.Row("measured over planned", Cell.Percent(((double)measured / (plan.PeakBytes + plan.DriverBytes)) - 1));
        _report.Row("counted over planned", Cell.Percent(((double)counted / plan.PeakBytes) - 1));
        _report.Row("activation policy", plan.ActivationPolicy);
        _report.Row("host GB", Cell.Of(plan.HostBytes / 1e9, "F3"));
        _report.Row("GFLOP a token of the model", Cell.Of(operations / batch.TokenCount / 1e9, "F2"));
        _report.Row("model TFLOP/s", Cell.Of(rate));
        _report.Row("GFLOP a token of the products that ran, recomputation included", Cell.Of(executed / batch.TokenCount / 1e9, "F2"));
        _report.Row("matmul ceiling TFLOP/s", Cell.Of(ceiling));
        _report.Row("floor tokens/s", Cell.Of(ceiling * 1e12 * batch.TokenCount / operations, "F0"));
        _report.Row("share of the floor", Cell.Percent(rate / ceiling));
        _report.Row("seconds to load", Cell.Of(loadSeconds, "F2"));
        _report.Row("seconds to the first step's end (compiling included)", Cell.Of(first, "F2"));
        _report.Row("last loss", Cell.Of(loss, "F4"));
        foreach (var entry in plan.Entries) _report.Row($"planned MB: {entry.Purpose}", Cell.Of(entry.Bytes / 1e6));
        return (timing.Median, ceiling);
    }

    // As lancet plan --max-context and lancet train do before they load a model.
    private void Plan(string folder)
    {
        if (_method == "full") return;
        var decoder = new DecoderModel(ModelConfig.Load(folder));
        LanguageModel.Describe(decoder, Adapter);
        var weightBytes = decoder.DescribeStorage(_device.PlanTarget, DType.BFloat16, _method == "qlora") + decoder.FrozenBytes(DType.BFloat16, _method == "qlora");
        if (_arguments.Has("--max-context")) (_length, _, _options) = ContextSearch.Longest(decoder, DType.BFloat16, weightBytes, _batch, _options, _device.PlanTarget.With(_device.MeasureRates()));
        _streamed = StepPlan.LayersToStream(decoder, DType.BFloat16, weightBytes, _options, _device);
    }

    private void Profile(string folder, double ceiling)
    {
        var copy = new KernelBenchmark(_device, _arguments, _report).CopyRate(out _);
        var batch = Batch();
        using var profiling = new ProfilingCudaDevice(_device, _config.VocabularySize, AttentionOperations(_config, batch) / _config.Windows.Count, ceiling, copy);
        using var model = Load(folder, profiling);
        using var engine = new TrainingEngine(model, _options);
        for (var step = 1; step <= Warmup; step++) Step(engine, batch, step);
        profiling.Reset();
        for (var step = 1; step <= ProfiledSteps; step++)
        {
            Step(engine, batch, Warmup + step);
            profiling.Collect();
        }
        profiling.Print(_report, $"Profile: {Title}", ProfiledSteps);
    }

    private void LaunchGaps(string folder, double milliseconds)
    {
        BusyTrace trace;
        try
        {
            trace = new();
        }
        catch (Exception error) when (error is LancetException or EntryPointNotFoundException)
        {
            _report.Line("");
            _report.Line($"Launch gaps were not measured: {error.Message}");
            return;
        }
        using (trace)
        {
            using var model = Load(folder, _device);
            using var engine = new TrainingEngine(model, _options);
            var batch = Batch();
            for (var step = 1; step <= Warmup; step++) Step(engine, batch, step);
            _device.Synchronize();
            _ = trace.Collect(out _);
            var clock = Stopwatch.StartNew();
            for (var step = 1; step <= TracedSteps; step++) Step(engine, batch, Warmup + step);
            _device.Synchronize();
            var traced = clock.Elapsed.TotalMilliseconds / TracedSteps;
            var spans = trace.Collect(out var copies);
            var busy = BusyTrace.BusyMilliseconds(spans) / TracedSteps;
            _report.Begin($"Launch gaps: {Title}",
                $"Busy is the time in which at least one kernel, clear or copy within the device ran, as CUPTI's trace of {TracedSteps} steps with graphs says; the step is the one timed above, without a trace. What is left is gaps: between kernels, between steps, and waiting for copies from host memory.",
                "what", "value");
            _report.Row("ms a step", Cell.Of(milliseconds, "F3"));
            _report.Row("ms busy", Cell.Of(busy, "F3"));
            _report.Row("gaps", Cell.Percent(1 - (busy / milliseconds)));
            var longGaps = BusyTrace.Gaps(spans).Where(gap => gap > LongGapMilliseconds).ToList();
            _report.Row($"ms of gaps above {LongGapMilliseconds * 1e3:F0} µs, between steps above all", Cell.Of(longGaps.Sum() / TracedSteps, "F3"));
            _report.Row("such gaps a step", Cell.Of((double)longGaps.Count / TracedSteps));
            _report.Row("kernels, clears and copies a step", Cell.Of((double)spans.Count / TracedSteps, "F0"));
            _report.Row("ms a step while traced", Cell.Of(traced, "F3"));
            if (Array.Exists(copies, copy => copy.Bytes > LargeCopyBytes)) PrintLink(spans, copies);
        }
    }

    /// <summary>Where in a step kernels run, and how fast the link's copies are meanwhile.</summary>
    private void PrintLink(List<(ulong Start, ulong End)> spans, BusyTrace.LinkCopy[] copies)
    {
        var origin = spans[0].Start;
        var milliseconds = (spans.Max(span => span.End) - origin) / 1e6 / TracedSteps;
        var (busy, moving, bytes) = (new double[Stretches], new double[2, Stretches], new double[2, Stretches]);
        void Spread(ulong start, ulong end, Action<int, double> add)
        {
            var (from, to) = ((start - (double)origin) / 1e6 / milliseconds * Stretches, (end - (double)origin) / 1e6 / milliseconds * Stretches);
            for (var stretch = (int)from; stretch < to; stretch++) add(stretch % Stretches, Math.Min(to, stretch + 1) - Math.Max(from, stretch));
        }
        foreach (var (start, end) in BusyTrace.Merge(spans)) Spread(start, end, (stretch, share) => busy[stretch] += share);
        foreach (var copy in copies.Where(copy => copy.Start >= origin))
        {
            var (way, duration) = (copy.IsOut ? 1 : 0, (copy.End - copy.Start) / 1e6 / milliseconds * Stretches);
            Spread(copy.Start, copy.End, (stretch, share) =>
            {
                moving[way, stretch] += share;
                bytes[way, stretch] += copy.Bytes * share / duration;
            });
        }
        _report.Begin($"The link: {Title}", $"A step in {Stretches} stretches of {milliseconds / Stretches:F1} ms, mean of {TracedSteps}: shares of the time in which something ran on the device, and in which something was copied in and out, at so many GB/s then.",
            "stretch", "busy", "in", "GB/s", "out", "GB/s");
        for (var stretch = 0; stretch < Stretches; stretch++)
        {
            Cell Rate(int way) => moving[way, stretch] > 0 ? Cell.Of(bytes[way, stretch] / (moving[way, stretch] * milliseconds / Stretches) / 1e6) : "–";
            _report.Row($"{stretch + 1}", Cell.Percent(busy[stretch] / TracedSteps), Cell.Percent(moving[0, stretch] / TracedSteps), Rate(0), Cell.Percent(moving[1, stretch] / TracedSteps), Rate(1));
        }
    }

    private static double Step(TrainingEngine engine, PackedBatch batch, int step)
    {
        engine.BeginStep(step, batch.LabelTokenCount);
        engine.Accumulate(batch);
        var result = engine.EndStep(LearningRate);
        return double.IsFinite(result.Loss) && double.IsFinite(result.GradientNorm)
            ? result.Loss
            : throw new InvalidOperationException(string.Create(CultureInfo.InvariantCulture, $"step {step}: loss {result.Loss}, gradient norm {result.GradientNorm}; not timed"));
    }

    private LanguageModel Load(string folder, Device device)
    {
        var model = LanguageModel.Load(folder, new LoadOptions { Device = device, DType = DType.BFloat16, IsDrawn = true, IsFullyTrained = _method == "full", QuantizesToNf4 = _method == "qlora", StreamedLayers = _streamed });
        try
        {
            if (_method != "full") model.AddLora(Adapter);
            return model;
        }
        catch
        {
            model.Dispose();
            throw;
        }
    }

    // Ragged rows as chat data has them: lognormal lengths of median 180, no longer than the row, packed until the batch is full.
    private PackedBatch Batch()
    {
        var random = new DeterministicRandom(5);
        var batch = new PackedBatch(_options.MaxTokens, _options.MaxTokens);
        while (batch.TokenCount < _options.MaxTokens)
        {
            var length = _isRagged ? (int)Math.Clamp(180 * Math.Exp(random.NextNormal()), 2, _length) : _length;
            length = Math.Min(length, _options.MaxTokens - batch.TokenCount);
            int[] ids = [.. Enumerable.Range(0, length).Select(_ => random.NextInt32(_config.VocabularySize))];
            batch.Add(ids, [.. ids.Select((id, i) => i >= length - (length * _labelPercent / 100) ? id : PackedBatch.IgnoredLabel)]);
        }
        return batch;
    }
}
