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
    private const int IndexArrays = 7;
    private const int WindowArrays = 6;

    // Steps whose head has as many rows share a recording, so there are few different numbers.
    private const int HeadShares = 8;
    private const int LeastHeadShare = 16;
    private readonly Device _device;
    private readonly DeviceBuffer _buffer;
    private readonly int _maxTokens;
    private readonly int[] _windows;
    private readonly Tensor[] _arrays;
    private readonly int[] _order;
    private readonly int[] _ends;
    private readonly int[][] _intervals;
    private readonly long[] _scratch;
    private readonly RotaryConfig[] _rotaries;
    private readonly RotaryTensors[] _tables;
    private readonly int[] _rows;

    public StepInputs(Device device, ModelConfig config, DType dtype, int maxTokens, int maxPositions)
    {
        (_device, _maxTokens) = (device, maxTokens);
        _windows = [.. config.Windows.Distinct()];
        _rotaries = [.. config.Rotaries];
        var tables = Array.ConvertAll(_rotaries, rotary => Tables(rotary, maxPositions));
        var indexCount = IndexArrays + (WindowArrays * _windows.Length);
        long indexBytes = Align((long)maxTokens * sizeof(int)), lossBytes = Align((long)maxTokens * dtype.Accumulator().SizeInBytes());
        long TableBytes(int i) => Align((long)tables[i].Sum(part => part.Positions) * _rotaries[i].Dimension / 2 * sizeof(float));
        Bytes = (indexCount * indexBytes) + lossBytes + 512;
        for (var i = 0; i < tables.Length; i++) Bytes += (2 * TableBytes(i)) + (tables[i].Length > 1 ? indexBytes : 0);
        _buffer = device.Allocate(Bytes, "index arrays");
        _arrays = [.. Enumerable.Range(0, indexCount).Select(i => _buffer.View(DType.Int32, new Shape(maxTokens), i * indexBytes))];
        var offset = indexCount * indexBytes;
        Losses = _buffer.View(dtype.Accumulator(), new Shape(maxTokens), offset);
        LossScale = _buffer.View(dtype.Accumulator(), new Shape(1), offset + lossBytes);
        DropoutSeed = _buffer.View(DType.Int64, new Shape(1), offset + lossBytes + 256);
        offset += lossBytes + 512;
        _tables = new RotaryTensors[tables.Length];
        for (var i = 0; i < tables.Length; i++)
        {
            var shape = new Shape(tables[i].Sum(part => part.Positions), _rotaries[i].Dimension / 2);
            var rows = tables[i].Length > 1 ? _buffer.View(DType.Int32, new Shape(maxTokens), offset + (2 * TableBytes(i))) : _arrays[1];
            _tables[i] = new(rows, _buffer.View(DType.Float32, shape, offset), _buffer.View(DType.Float32, shape, offset + TableBytes(i)));
            offset += (2 * TableBytes(i)) + (tables[i].Length > 1 ? indexBytes : 0);
        }
        (_order, _ends, _scratch, _rows) = (new int[maxTokens], new int[maxTokens], new long[maxTokens], new int[maxTokens]);
        _intervals = [.. Enumerable.Range(0, WindowArrays).Select(_ => new int[maxTokens])];
        if (device is PlanningDevice) return;
        for (var i = 0; i < tables.Length; i++)
        {
            var first = 0;
            foreach (var (positions, length) in tables[i])
            {
                var table = RotaryTable.Create(_rotaries[i], positions, length);
                device.CopyFromHost(MemoryMarshal.AsBytes<float>(table.Cos), _tables[i].Cos.Rows(first, positions));
                device.CopyFromHost(MemoryMarshal.AsBytes<float>(table.Sin), _tables[i].Sin.Rows(first, positions));
                first += positions;
            }
        }
    }

    public long Bytes { get; }

    public Tensor Losses { get; }

    public Tensor LossScale { get; }

    public Tensor DropoutSeed { get; }

    /// <summary>Points a context at the first tokens of the arrays.</summary>
    public void Bind(StepContext context, int tokens)
    {
        (context.TokenCount, context.HeadRows) = (tokens, tokens);
        (context.TokenIds, context.Positions, context.Labels) = (_arrays[0].Rows(0, tokens), _arrays[1].Rows(0, tokens), _arrays[2].Rows(0, tokens));
        (context.TokenOrder, context.SegmentEnds) = (_arrays[3].Rows(0, tokens), _arrays[4].Rows(0, tokens));
        (context.LossScale, context.DropoutSeed) = (LossScale, DropoutSeed);
        context.RotaryTables.Clear();
        foreach (var table in _tables) context.RotaryTables.Add(table with { Rows = table.Rows.Rows(0, tokens) });
        for (var i = 0; i < _windows.Length; i++)
        {
            var at = IndexArrays + (WindowArrays * i);
            context.Intervals[_windows[i]] = new AttentionIntervals(
                _arrays[at].Rows(0, tokens), _arrays[at + 1].Rows(0, tokens), _arrays[at + 2].Rows(0, tokens), _arrays[at + 3].Rows(0, tokens),
                _arrays[at + 4].Rows(0, AttentionIntervals.Blocks(tokens)), _arrays[at + 5].Rows(0, AttentionIntervals.Blocks(tokens)));
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
        SendLabels(context, batch.Labels.AsSpan(0, tokens));
        EmbeddingKernel.SortTokens(batch.TokenIds.AsSpan(0, tokens), _scratch, _order, _ends);
        Copy(_order, context.TokenOrder);
        Copy(_ends, context.SegmentEnds);
        for (var i = 0; i < _tables.Length; i++)
        {
            if (_tables[i].Rows.Address == _arrays[1].Address) continue;
            FindRows(batch, _rotaries[i].OriginalMaxPositions);
            Copy(_rows, context.RotaryTables[i].Rows);
        }
        foreach (var window in _windows)
        {
            AttentionIntervals.Fill(batch.CuSeqlens.AsSpan(0, batch.SequenceCount + 1), window, _intervals[0], _intervals[1], _intervals[2], _intervals[3]);
            var target = context.Intervals[window];
            Copy(_intervals[0], target.KeyBegin);
            Copy(_intervals[1], target.KeyEnd);
            Copy(_intervals[2], target.QueryBegin);
            Copy(_intervals[3], target.QueryEnd);
            AttentionIntervals.OrderKeys(_intervals[2].AsSpan(0, tokens), _intervals[3].AsSpan(0, tokens), _intervals[4].AsSpan(0, (int)target.KeyOrder.Count));
            Copy(_intervals[4], target.KeyOrder);
            AttentionIntervals.OrderQueries(_intervals[0].AsSpan(0, tokens), _intervals[1].AsSpan(0, tokens), _intervals[5].AsSpan(0, (int)target.QueryOrder.Count));
            Copy(_intervals[5], target.QueryOrder);
        }
    }

    /// <summary>All labels; or, for training, those that are there and which tokens have them, if that spares the head an eighth of its rows or more.</summary>
    private void SendLabels(StepContext context, ReadOnlySpan<int> labels)
    {
        var count = labels.Length - labels.Count(PackedBatch.IgnoredLabel);
        var share = Blocks.Of(Blocks.Of(labels.Length, HeadShares), LeastHeadShare) * LeastHeadShare;
        var rows = Math.Max(1, Blocks.Of(count, share)) * share;
        if (!context.IsTraining || rows >= labels.Length)
        {
            Copy(labels, context.Labels);
            return;
        }
        context.HeadRows = rows;
        (context.Labels, context.LabelRows, context.LabelSlots) = (_arrays[2].Rows(0, rows), _arrays[5].Rows(0, rows), _arrays[6].Rows(0, labels.Length));
        var (chosen, tokens, slots) = (_rows, _order, _ends);
        Array.Fill(chosen, PackedBatch.IgnoredLabel, 0, rows);
        Array.Clear(tokens, 0, rows);
        var next = 0;
        for (var t = 0; t < labels.Length; t++)
        {
            slots[t] = labels[t] == PackedBatch.IgnoredLabel ? -1 : next;
            if (slots[t] >= 0) (tokens[next], chosen[next++]) = (t, labels[t]);
        }
        Copy(chosen, context.Labels);
        Copy(tokens, context.LabelRows);
        Copy(slots, context.LabelSlots);
    }

    public void Dispose() => _buffer.Dispose();

    /// <summary>The parts of a table: how many positions, and the length of the sequences that they are for. Two if the frequencies depend on that.</summary>
    private static (int Positions, int Length)[] Tables(RotaryConfig rotary, int maxPositions) => rotary.IsLengthDependent && maxPositions > rotary.OriginalMaxPositions
        ? [(rotary.OriginalMaxPositions, rotary.OriginalMaxPositions), (maxPositions, maxPositions)]
        : [(maxPositions, maxPositions)];

    /// <summary>Rows of a table in two parts: sequences that go beyond the original context read the second.</summary>
    private void FindRows(PackedBatch batch, int original)
    {
        for (var sequence = 0; sequence < batch.SequenceCount; sequence++)
        {
            var (begin, end) = (batch.CuSeqlens[sequence], batch.CuSeqlens[sequence + 1]);
            // The last position, so that a row of generation, which is one token, counts what came before it.
            var first = end > begin && batch.Positions[end - 1] >= original ? original : 0;
            for (var token = begin; token < end; token++) _rows[token] = first + batch.Positions[token];
        }
    }

    private static long Align(long bytes) => (bytes + 255) / 256 * 256;

    private void Copy(ReadOnlySpan<int> source, Tensor target) => _device.CopyFromHost(MemoryMarshal.AsBytes(source[..(int)target.Count]), target);
}
