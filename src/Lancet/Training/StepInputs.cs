using System.Runtime.InteropServices;
using Lancet.Data;
using Lancet.Devices;
using Lancet.Kernels;
using Lancet.Layers;
using Lancet.Models;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Training;

/// <summary>
/// The device tensors that a batch fills in before each pass: ids, positions, labels, visibility, and the rotary tables. The arrays of a batch lie one behind the other, so that one copy sends
/// them: the device waits for it between two steps.
/// </summary>
internal sealed class StepInputs : IDisposable
{
    private const int WindowArrays = 6;

    // Steps whose head has as many rows share a recording, so there are few different numbers.
    private const int HeadShares = 8;
    private const int LeastHeadShare = 16;
    private readonly Device _device;
    private readonly DeviceBuffer _buffer;
    private readonly int _maxTokens;
    private readonly bool _sortsTokens;
    private readonly int[] _windows;
    private readonly int[] _host;
    private readonly long[] _scratch;
    private readonly RotaryConfig[] _rotaries;
    private readonly RotaryTensors[] _tables;
    private readonly int[] _rowsOfTables;
    private readonly int _arrays;
    private int _stride;

    /// <summary>Allocates the tensors and computes the tables.</summary>
    /// <param name="device">Device.</param>
    /// <param name="config">Model.</param>
    /// <param name="dtype">Dtype of activations.</param>
    /// <param name="maxTokens">Most tokens of a batch.</param>
    /// <param name="maxPositions">Longest sequence.</param>
    /// <param name="sortsTokens">Whether batches come with the order of their ids, which a trained embedding's gradient needs.</param>
    public StepInputs(Device device, ModelConfig config, DType dtype, int maxTokens, int maxPositions, bool sortsTokens = false)
    {
        (_device, _maxTokens, _sortsTokens) = (device, maxTokens, sortsTokens);
        _windows = [.. config.Windows.Distinct()];
        _rotaries = [.. config.Rotaries];
        var tables = Array.ConvertAll(_rotaries, rotary => Tables(rotary, maxPositions));
        var arrays = FirstOfWindow(_windows.Length);
        // Positions are a table's rows, unless it has two parts.
        _rowsOfTables = Array.ConvertAll(tables, parts => parts.Length > 1 ? arrays++ : (int)IndexArray.Positions);
        _arrays = arrays;
        long indexBytes = Align((long)maxTokens * sizeof(int)), lossBytes = Align((long)maxTokens * dtype.Accumulator().SizeInBytes());
        long TableBytes(int i) => Align((long)tables[i].Sum(part => part.Positions) * _rotaries[i].Dimension / 2 * sizeof(float));
        var offset = _arrays * indexBytes;
        Bytes = offset + lossBytes + 512 + Enumerable.Range(0, tables.Length).Sum(i => 2 * TableBytes(i));
        _buffer = device.Allocate(Bytes, "index arrays");
        Losses = _buffer.View(dtype.Accumulator(), new Shape(maxTokens), offset);
        LossScale = _buffer.View(dtype.Accumulator(), new Shape(1), offset + lossBytes);
        DropoutSeed = _buffer.View(DType.Int64, new Shape(1), offset + lossBytes + 256);
        offset += lossBytes + 512;
        _tables = new RotaryTensors[tables.Length];
        for (var i = 0; i < tables.Length; i++)
        {
            var shape = new Shape(tables[i].Sum(part => part.Positions), _rotaries[i].Dimension / 2);
            _tables[i] = new(default, _buffer.View(DType.Float32, shape, offset), _buffer.View(DType.Float32, shape, offset + TableBytes(i)));
            offset += 2 * TableBytes(i);
        }
        (_host, _scratch) = ([], []);
        if (device is PlanningDevice) return;
        (_host, _scratch) = (new int[_arrays * indexBytes / sizeof(int)], new long[sortsTokens ? maxTokens : 0]);
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

    /// <summary>Arrays of one number a token, in the order in which they lie.</summary>
    private enum IndexArray
    {
        TokenIds,
        Positions,
        Labels,
        TokenOrder,
        SegmentEnds,
        LabelRows,
        LabelSlots,

        // For each window its intervals and orders, then rows of rotary tables.
        OfWindows,
    }

    public long Bytes { get; }

    public Tensor Losses { get; }

    public Tensor LossScale { get; }

    public Tensor DropoutSeed { get; }

    /// <summary>Points a context at the arrays of so many tokens.</summary>
    public void Bind(StepContext context, int tokens)
    {
        _stride = (int)(Align((long)tokens * sizeof(int)) / sizeof(int));
        Tensor Whole(IndexArray array) => Device((int)array, tokens);
        (context.TokenCount, context.HeadRows) = (tokens, tokens);
        (context.TokenIds, context.Positions, context.Labels) = (Whole(IndexArray.TokenIds), Whole(IndexArray.Positions), Whole(IndexArray.Labels));
        (context.TokenOrder, context.SegmentEnds) = (Whole(IndexArray.TokenOrder), Whole(IndexArray.SegmentEnds));
        (context.LossScale, context.DropoutSeed) = (LossScale, DropoutSeed);
        context.RotaryTables.Clear();
        for (var i = 0; i < _tables.Length; i++) context.RotaryTables.Add(_tables[i] with { Rows = Device(_rowsOfTables[i], tokens) });
        for (var i = 0; i < _windows.Length; i++)
        {
            var (at, blocks) = (FirstOfWindow(i), AttentionIntervals.Blocks(tokens));
            context.Intervals[_windows[i]] = new AttentionIntervals(Device(at, tokens), Device(at + 1, tokens), Device(at + 2, tokens), Device(at + 3, tokens), Device(at + 4, blocks), Device(at + 5, blocks));
        }
    }

    /// <summary>Sends a batch to the device and points the context at it.</summary>
    public void Send(StepContext context, PackedBatch batch)
    {
        var tokens = batch.TokenCount;
        if (tokens > _maxTokens) throw new ArgumentException($"A batch of {tokens} tokens; the engine was built for {_maxTokens}.");
        Bind(context, tokens);
        Span<int> Whole(IndexArray array) => Host((int)array, tokens);
        batch.TokenIds.AsSpan(0, tokens).CopyTo(Whole(IndexArray.TokenIds));
        batch.Positions.AsSpan(0, tokens).CopyTo(Whole(IndexArray.Positions));
        FillLabels(context, batch.Labels.AsSpan(0, tokens));
        if (_sortsTokens && context.IsTraining) EmbeddingKernel.SortTokens(batch.TokenIds.AsSpan(0, tokens), _scratch, Whole(IndexArray.TokenOrder), Whole(IndexArray.SegmentEnds));
        for (var i = 0; i < _tables.Length; i++)
            if (_rowsOfTables[i] != (int)IndexArray.Positions) FindRows(batch, _rotaries[i].OriginalMaxPositions, Host(_rowsOfTables[i], tokens));
        for (var i = 0; i < _windows.Length; i++)
        {
            var (at, blocks) = (FirstOfWindow(i), AttentionIntervals.Blocks(tokens));
            Span<int> keyBegin = Host(at, tokens), keyEnd = Host(at + 1, tokens), queryBegin = Host(at + 2, tokens), queryEnd = Host(at + 3, tokens);
            AttentionIntervals.Fill(batch.CuSeqlens.AsSpan(0, batch.SequenceCount + 1), _windows[i], keyBegin, keyEnd, queryBegin, queryEnd);
            AttentionIntervals.OrderKeys(queryBegin, queryEnd, Host(at + 4, blocks));
            AttentionIntervals.OrderQueries(keyBegin, keyEnd, Host(at + 5, blocks));
        }
        _device.CopyFromHost(MemoryMarshal.AsBytes(_host.AsSpan(0, _arrays * _stride)), Device(0, _arrays * _stride));
    }

    /// <summary>All labels; or those that are there and which tokens have them, if that spares the head an eighth of its rows or more.</summary>
    private void FillLabels(StepContext context, ReadOnlySpan<int> labels)
    {
        var count = labels.Length - labels.Count(PackedBatch.IgnoredLabel);
        var share = Blocks.Of(Blocks.Of(labels.Length, HeadShares), LeastHeadShare) * LeastHeadShare;
        var rows = Math.Max(1, Blocks.Of(count, share)) * share;
        if (rows >= labels.Length)
        {
            labels.CopyTo(Host((int)IndexArray.Labels, labels.Length));
            return;
        }
        context.HeadRows = rows;
        (context.Labels, context.LabelRows, context.LabelSlots) = (Device((int)IndexArray.Labels, rows), Device((int)IndexArray.LabelRows, rows), Device((int)IndexArray.LabelSlots, labels.Length));
        Span<int> chosen = Host((int)IndexArray.Labels, rows), tokens = Host((int)IndexArray.LabelRows, rows), slots = Host((int)IndexArray.LabelSlots, labels.Length);
        chosen.Fill(PackedBatch.IgnoredLabel);
        tokens.Clear();
        var next = 0;
        for (var t = 0; t < labels.Length; t++)
        {
            slots[t] = labels[t] == PackedBatch.IgnoredLabel ? -1 : next;
            if (slots[t] >= 0) (tokens[next], chosen[next++]) = (t, labels[t]);
        }
    }

    public void Dispose() => _buffer.Dispose();

    /// <summary>The parts of a table: how many positions, and the length of the sequences that they are for. Two if the frequencies depend on that.</summary>
    private static (int Positions, int Length)[] Tables(RotaryConfig rotary, int maxPositions) => rotary.IsLengthDependent && maxPositions > rotary.OriginalMaxPositions
        ? [(rotary.OriginalMaxPositions, rotary.OriginalMaxPositions), (maxPositions, maxPositions)]
        : [(maxPositions, maxPositions)];

    /// <summary>Rows of a table in two parts: sequences that go beyond the original context read the second.</summary>
    private static void FindRows(PackedBatch batch, int original, Span<int> rows)
    {
        for (var sequence = 0; sequence < batch.SequenceCount; sequence++)
        {
            var (begin, end) = (batch.CuSeqlens[sequence], batch.CuSeqlens[sequence + 1]);
            // The last position, so that a row of generation, which is one token, counts what came before it.
            var first = end > begin && batch.Positions[end - 1] >= original ? original : 0;
            for (var token = begin; token < end; token++) rows[token] = first + batch.Positions[token];
        }
    }

    private static long Align(long bytes) => (bytes + 255) / 256 * 256;

    private static int FirstOfWindow(int window) => (int)IndexArray.OfWindows + (WindowArrays * window);

    private Tensor Device(int array, int count) => _buffer.View(DType.Int32, new Shape(count), (long)array * _stride * sizeof(int));

    private Span<int> Host(int array, int count) => _host.AsSpan(array * _stride, count);
}
