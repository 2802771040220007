using Lancet.Tile;
using static Lancet.Tile.TileMath;

namespace Lancet.Kernels;

/// <content>What the kernels are made of: blocks of rows and heads, a program's keys, and the choice of extents, warps and stages.</content>
public sealed partial class AttentionKernel
{
    /// <summary>What the kernels share: blocks of heads in and out, and scores in units of log₂. <c>columns</c> is the width of a step.</summary>
    private sealed class Parts(KernelBuilder k, Choice choice, int columns)
    {
        /// <summary>
        /// First row and head of a program: what takes longest comes first, all heads of a block together, and a few heads after the others, so that their keys and values stay in
        /// the GPU's cache. The last block's second half may have no rows.
        /// </summary>
        public (Tile.Tile First, Tile.Tile Head) Take(Pointer order, int heads)
        {
            var together = HeadsTogether(heads);
            var (place, head) = (k.ProgramId(0) / together, k.ProgramId(1) * together + k.ProgramId(0) % together);
            var block = k.Load(order + place / choice.BlockPrograms) * choice.BlockPrograms + place % choice.BlockPrograms;
            return (block * choice.RowBlock, head);
        }

        public Tile.Tile Load(Pointer pointer, Tile.Tile row, Tile.Tile count, Tile.Tile head, long stride) => k.Load(Address(pointer, row, head, stride), Inside(row, count));

        public void Store(Pointer pointer, Tile.Tile row, Tile.Tile count, Tile.Tile head, long stride, Tile.Tile value, Tile.Tile? rows = null) =>
            k.Store(Address(pointer, row, head, stride), value.To(choice.DType), rows is null ? Inside(row, count) : Inside(row, count) & rows.AsColumn());

        /// <summary>What <see cref="Capped"/> gives, times this, is a score in units of log₂: positive, so the largest stays the largest.</summary>
        public double Unit => choice.Shape.SoftCap == 0 ? choice.Shape.Scale * Log2E : choice.Shape.SoftCap * Log2E;

        /// <summary>q·k as it is, or tanh(scale · q·k / c) where scores are capped: scores but for a factor.</summary>
        public Tile.Tile Capped(Tile.Tile x)
        {
            if (choice.Shape.SoftCap == 0) return x;
            var ratio = x * (choice.Shape.Scale / choice.Shape.SoftCap);
            return choice.DType.SizeInBytes() == 2 ? TanhAbsolute(ratio) : Tanh(ratio);
        }

        /// <summary>
        /// Replaces what is not visible. Bounds never fall from row to row, so a block of columns from the last row's begin to the first
        /// row's end is visible to all rows and skips this.
        /// </summary>
        public Tile.Tile Mask(Tile.Tile value, Tile.Tile column, Tile.Tile start, Tile.Tile begin, Tile.Tile end, (Tile.Tile LastBegin, Tile.Tile FirstEnd) edges, double other) =>
            k.If((start < edges.LastBegin) | (start + columns > edges.FirstEnd), [value], () =>
                [Select((column.AsRow() >= begin.AsColumn()) & (column.AsRow() < end.AsColumn()), value, other)])[0];

        /// <summary>Gradient of q·k, but for the scale, from the gradient of the score; <paramref name="s"/> is what <see cref="Capped"/> gave.</summary>
        public Tile.Tile UncappedGradient(Tile.Tile ds, Tile.Tile s) => choice.Shape.SoftCap == 0 ? ds : ds * (1 - s * s);

        private Pointer Address(Pointer pointer, Tile.Tile row, Tile.Tile head, long stride) =>
            pointer + ((row.ToInt64() * stride).AsColumn() + (head * choice.Shape.HeadDimension + k.Range(choice.Width)).AsRow());

        private Tile.Tile Inside(Tile.Tile row, Tile.Tile count) => (row < count).AsColumn() & (k.Range(choice.Width) < choice.Shape.HeadDimension).AsRow();
    }

    /// <summary>A program's block of keys, where rows are keys: parameters, rows, and what a step of queries gives.</summary>
    private sealed class KeyRows
    {
        private readonly KernelBuilder _k;
        private readonly Choice _choice;
        private readonly int _columns;
        private readonly Pointer _q, _key, _v, _dOut, _logSumExp, _delta, _dk, _dv;
        private Tile.Tile _row = null!, _head = null!, _values = null!, _begin = null!, _end = null!;
        private (Tile.Tile LastBegin, Tile.Tile FirstEnd) _edges;

        /// <summary>Declares the parameters. <paramref name="columns"/> is the width of a step.</summary>
        public KeyRows(KernelBuilder k, Choice choice, int columns)
        {
            (_k, _choice, _columns) = (k, choice, columns);
            Parts = new Parts(k, choice, columns);
            _q = k.Pointer(choice.DType, "q");
            _key = k.Pointer(choice.DType, "k");
            _v = k.Pointer(choice.DType, "v");
            _dOut = k.Pointer(choice.DType, "d_o");
            _logSumExp = k.Pointer(choice.Accumulator, "log_sum_exp");
            _delta = k.Pointer(choice.Accumulator, "delta");
            _dk = k.Pointer(choice.DType, "d_k");
            _dv = k.Pointer(choice.DType, "d_v");
            Begins = k.Pointer(DType.Int32, "query_begin");
            Ends = k.Pointer(DType.Int32, "query_end");
            Count = k.Scalar(DType.Int32, "count");
        }

        public Parts Parts { get; }

        public Pointer Begins { get; }

        public Pointer Ends { get; }

        public Tile.Tile Count { get; }

        /// <summary>The first row.</summary>
        public Tile.Tile First { get; private set; } = null!;

        /// <summary>The last row that is there.</summary>
        public Tile.Tile Last { get; private set; } = null!;

        public Tile.Tile Keys { get; private set; } = null!;

        /// <summary>Loads the rows from the first on.</summary>
        public void Take(Tile.Tile first, Tile.Tile head)
        {
            (First, _head) = (first, head);
            _row = first + _k.Range(_choice.RowBlock);
            Keys = Parts.Load(_key, _row, Count, head, _choice.StrideK);
            _values = Parts.Load(_v, _row, Count, head, _choice.StrideV);
            _begin = _k.Load(Begins + _row, _row < Count, int.MaxValue);
            _end = _k.Load(Ends + _row, _row < Count);
            Last = Min(first + _choice.RowBlock, Count) - 1;
            _edges = (_k.Load(Begins + Last), _k.Load(Ends + Min(first, Last)));
        }

        /// <summary>A step's queries, from the start on.</summary>
        public QueryStep Queries(Tile.Tile head, Tile.Tile start)
        {
            var column = start + _k.Range(_columns);
            var rows = Parts.Load(_q, column, Count, head, _choice.StrideQ);
            var gradients = Parts.Load(_dOut, column, Count, head, _choice.Shape.QueryHeads * _choice.Shape.HeadDimension);
            // Columns past the end are masked, whatever their statistics.
            var log = _k.Load(_logSumExp + (head * Count + column), column < Count).AsRow();
            return new(start, column, rows, gradients, log, _k.Load(_delta + (head * Count + column), column < Count).AsRow());
        }

        /// <summary>sᵀ but for a factor, and dpᵀ.</summary>
        public (Tile.Tile S, Tile.Tile Dp) Products(QueryStep step) => (Parts.Capped(Dot(Keys, step.Rows.Transposed())), Dot(_values, step.Gradients.Transposed()));

        /// <summary>pᵀ.</summary>
        public Tile.Tile Probabilities(QueryStep step, Tile.Tile s) => Parts.Mask(Exp2(s * Parts.Unit - step.Log), step.Column, step.Start, _begin, _end, _edges, 0);

        /// <summary>dsᵀ but for the scale.</summary>
        public Tile.Tile ScoreGradients(QueryStep step, Tile.Tile s, Tile.Tile p, Tile.Tile dp) => Parts.UncappedGradient(p * (dp - step.Delta), s).To(_choice.DType);

        /// <summary>Writes dk, from its sum but for the scale, and dv, as far as they are there.</summary>
        public void Store(Tile.Tile? sumOfKeys, Tile.Tile? sumOfValues)
        {
            if (sumOfKeys is not null) Parts.Store(_dk, _row, Count, _head, _choice.StrideGradient, sumOfKeys * _choice.Shape.Scale);
            if (sumOfValues is not null) Parts.Store(_dv, _row, Count, _head, _choice.StrideGradient, sumOfValues);
        }
    }

    /// <summary>Queries of one step where rows are keys: L and δ lie along the columns.</summary>
    private sealed record QueryStep(Tile.Tile Start, Tile.Tile Column, Tile.Tile Rows, Tile.Tile Gradients, Tile.Tile Log, Tile.Tile Delta);

    private readonly record struct Choice(AttentionShape Shape, DType DType, long StrideQ, long StrideK, long StrideV, long StrideO, long StrideGradient, bool IsSmall, bool HasWarpGroups)
    {
        public DType Accumulator => DType.Accumulator();

        public int Width => Blocks.PowerOfTwo(Shape.HeadDimension);

        /// <summary>Rows of a program: fewer where heads are wide, so that the blocks fit the GPU's shared memory; 64 for each warp group.</summary>
        public int RowBlock => IsForWarpGroups ? 16 * ForwardWarps : IsTight ? 16 : IsWide && (IsSmall || DType.SizeInBytes() > 2) ? 32 : 64;

        /// <summary>Programs of a block of <see cref="AttentionIntervals.Block"/> rows, for each head.</summary>
        public int BlockPrograms => AttentionIntervals.Block / RowBlock;

        /// <summary>Columns of a step where rows are keys.</summary>
        public int ColumnBlock => IsTight ? 16 : IsWide ? 32 : 64;

        /// <summary>Columns of a step of values' gradients by themselves, which need the scores' block of keys only.</summary>
        public int ValueColumns => 64;

        /// <summary>Columns of a step of the forward pass: warp groups have registers for twice as many, and narrow heads leave room for two programs instead.</summary>
        public int ForwardColumns => !IsForWarpGroups ? ColumnBlock : Width == 128 ? 128 : 64;

        /// <summary>Steps of loading ahead; 16-bit blocks are small enough for two.</summary>
        public int Stages => DType.SizeInBytes() > 2 ? 1 : 2;

        /// <summary>Steps of loading ahead where rows are queries: those of wide heads that warp groups make are short.</summary>
        public int QueryStages => MakesGradientsApart ? 3 : Stages;

        /// <summary>Steps of loading ahead where rows are keys: warp groups have room for one more, and use it.</summary>
        public int KeyStages => IsForWarpGroups ? 3 : Stages;

        /// <summary>
        /// Whether the forward pass has warps that only copy, and begins each step's scores before the product of the step before. Heads of 256 need the registers that
        /// both take; of narrow ones a multiprocessor has two programs, which do each other's waiting.
        /// </summary>
        public bool HasProducer => IsForWarpGroups && Width == 128;

        /// <summary>Warps of the forward kernel. Two warp groups share what is read of a step's wide heads; narrow ones rather make more programs.</summary>
        public int ForwardWarps => IsForWarpGroups && Width > 64 ? 8 : 4;

        /// <summary>Warps of the backward kernels: their accumulators of wide heads need the registers of eight.</summary>
        public int BackwardWarps => IsForWarpGroups ? ForwardWarps : Width > 128 ? 8 : 4;

        /// <summary>Warps of the kernel of δ.</summary>
        public int DeltaWarps => Width > 128 ? 8 : 4;

        /// <summary>
        /// Whether one kernel makes all gradients: two warp groups hold those of keys and values, and a part of the queries'. One group, which narrow heads
        /// have, would add to the queries' twice as often for half as many products, and is slower.
        /// </summary>
        public bool MakesGradientsTogether => IsForWarpGroups && Width == 128;

        /// <summary>Whether dK and dV have a kernel each: 64 rows of one of them, 256 wide, take half of a warp group's registers.</summary>
        public bool MakesGradientsApart => IsForWarpGroups && Width > 128;

        private bool IsForWarpGroups => HasWarpGroups && DType.SizeInBytes() == 2;

        private bool IsTight => IsSmall && Width * DType.SizeInBytes() > 512;

        private bool IsWide => Width * DType.SizeInBytes() > (IsSmall && DType.SizeInBytes() > 2 ? 128 : 256);
    }
}
