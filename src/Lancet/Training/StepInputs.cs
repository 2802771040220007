using System.Runtime.InteropServices;
using Lancet.Data;
using Lancet.Devices;
using Lancet.Kernels;
using Lancet.Layers;
using Lancet.Models;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Training;

/// <summary>The device tensors that a batch fills in before each pass: ids, positions, labels, visibility, and the rotary tables.</summary>
internal sealed class StepInputs : IDisposable
{
    private const int IndexArrays = 5;
    private readonly Device _device;
    private readonly DeviceBuffer _buffer;
    private readonly int _maxTokens;
    private readonly int[] _windows;
    private readonly Tensor[] _arrays;
    private readonly int[] _order;
    private readonly int[] _ends;
    private readonly int[][] _intervals;
    private readonly long[] _scratch;

    public StepInputs(Device device, ModelConfig config, DType dtype, int maxTokens, int maxPositions)
    {
        (_device, _maxTokens) = (device, maxTokens);
        _windows = [.. config.Windows.Distinct()];
        var half = config.Rotary.Dimension / 2;
        var indexCount = IndexArrays + (4 * _windows.Length);
        long indexBytes = Align((long)maxTokens * sizeof(int)), tableBytes = Align((long)maxPositions * half * sizeof(float)), lossBytes = Align((long)maxTokens * dtype.Accumulator().SizeInBytes());
        Bytes = (indexCount * indexBytes) + (2 * tableBytes) + lossBytes + 512;
        _buffer = device.Allocate(Bytes, "index arrays");
        _arrays = [.. Enumerable.Range(0, indexCount).Select(i => _buffer.View(DType.Int32, new Shape(maxTokens), i * indexBytes))];
        var offset = indexCount * indexBytes;
        RotaryCos = _buffer.View(DType.Float32, new Shape(maxPositions, half), offset);
        RotarySin = _buffer.View(DType.Float32, new Shape(maxPositions, half), offset + tableBytes);
        Losses = _buffer.View(dtype.Accumulator(), new Shape(maxTokens), offset + (2 * tableBytes));
        LossScale = _buffer.View(dtype.Accumulator(), new Shape(1), offset + (2 * tableBytes) + lossBytes);
        DropoutSeed = _buffer.View(DType.Int64, new Shape(1), offset + (2 * tableBytes) + lossBytes + 256);
        (_order, _ends, _scratch) = (new int[maxTokens], new int[maxTokens], new long[maxTokens]);
        _intervals = [.. Enumerable.Range(0, 4).Select(_ => new int[maxTokens])];
        if (device is PlanningDevice) return;
        var table = RotaryTable.Create(config.Rotary, maxPositions);
        device.CopyFromHost(MemoryMarshal.AsBytes<float>(table.Cos), RotaryCos);
        device.CopyFromHost(MemoryMarshal.AsBytes<float>(table.Sin), RotarySin);
    }

    public long Bytes { get; }

    public Tensor Losses { get; }

    public Tensor LossScale { get; }

    public Tensor DropoutSeed { get; }

    private Tensor RotaryCos { get; }

    private Tensor RotarySin { get; }

    /// <summary>Points a context at the first tokens of the arrays.</summary>
    public void Bind(StepContext context, int tokens)
    {
        context.TokenCount = tokens;
        (context.TokenIds, context.Positions, context.Labels) = (_arrays[0].Rows(0, tokens), _arrays[1].Rows(0, tokens), _arrays[2].Rows(0, tokens));
        (context.TokenOrder, context.SegmentEnds) = (_arrays[3].Rows(0, tokens), _arrays[4].Rows(0, tokens));
        (context.RotaryCos, context.RotarySin, context.LossScale, context.DropoutSeed) = (RotaryCos, RotarySin, LossScale, DropoutSeed);
        for (var i = 0; i < _windows.Length; i++)
        {
            var at = IndexArrays + (4 * i);
            context.Intervals[_windows[i]] = new AttentionIntervals(_arrays[at].Rows(0, tokens), _arrays[at + 1].Rows(0, tokens), _arrays[at + 2].Rows(0, tokens), _arrays[at + 3].Rows(0, tokens));
        }
    }

    /// <summary>Sends a batch to the device and points the context at it.</summary>
    public void Send(StepContext context, PackedBatch batch)
    {
        var tokens = batch.TokenCount;
        if (tokens > _maxTokens) throw new ArgumentException($"A batch of {tokens} tokens; the engine was built for {_maxTokens}.");
        Bind(context, tokens);
        Copy(batch.TokenIds, context.TokenIds);
        Copy(batch.Positions, context.Positions);
        Copy(batch.Labels, context.Labels);
        EmbeddingKernel.SortTokens(batch.TokenIds.AsSpan(0, tokens), _scratch, _order, _ends);
        Copy(_order, context.TokenOrder);
        Copy(_ends, context.SegmentEnds);
        foreach (var window in _windows)
        {
            AttentionIntervals.Fill(batch.CuSeqlens.AsSpan(0, batch.SequenceCount + 1), window, _intervals[0], _intervals[1], _intervals[2], _intervals[3]);
            var target = context.Intervals[window];
            Copy(_intervals[0], target.KeyBegin);
            Copy(_intervals[1], target.KeyEnd);
            Copy(_intervals[2], target.QueryBegin);
            Copy(_intervals[3], target.QueryEnd);
        }
    }

    public void Dispose() => _buffer.Dispose();

    private static long Align(long bytes) => (bytes + 255) / 256 * 256;

    private void Copy(int[] source, Tensor target) => _device.CopyFromHost(MemoryMarshal.AsBytes(source.AsSpan(0, (int)target.Count)), target);
}
