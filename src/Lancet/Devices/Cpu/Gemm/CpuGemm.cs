using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using Lancet.Tile;
using Lancet.Tile.Cpu;

namespace Lancet.Devices.Cpu;

/// <summary>
/// Matrix products on the processor: C = alpha · op(A) · op(B) + beta · C + bias. B is packed slab by slab into columns of the register tile's
/// width, A block by block into rows of its height, both converted to fp32 on the way; a block of C is accumulated in fp32 and written once
/// (Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", 2008).
/// </summary>
/// <remarks>
/// An element of C is the sum of its blocks of <see cref="DepthBlock"/> products, each a chain of fused multiply-adds in order of k, added up
/// in order. It depends on its row of A and its column of B alone: not on M, N, the place of the row, the threads or the block sizes.
/// </remarks>
public static unsafe class CpuGemm
{
    /// <summary>Products summed in registers before they are added to C.</summary>
    public const int DepthBlock = 256;

    // Up to so many register tiles of rows, packing B costs more than it saves.
    private const int DirectRows = 3;
    private const int PackedRows = 8;
    private const int PrefetchedRows = 8;
    private const int RowBlock = 96;
    private const int ColumnBlock = 512;
    private const long SlabBytes = 8 << 20;
    private const int StripsPerTask = 4;
    private const int LongDepth = 4096;
    private const int LongDepthColumns = 1024;

    /// <summary>Computes the product and returns when it is done.</summary>
    /// <param name="pool">Threads.</param>
    /// <param name="m">Rows of C.</param>
    /// <param name="n">Columns of C.</param>
    /// <param name="k">Summed extent; with 0, C becomes beta · C + bias.</param>
    /// <param name="a">Left operand.</param>
    /// <param name="b">Right operand.</param>
    /// <param name="c">Result, row-major.</param>
    /// <param name="cType">fp32, bf16, fp16 or fp64.</param>
    /// <param name="ldc">Elements between rows of C.</param>
    /// <param name="alpha">Factor of the product.</param>
    /// <param name="beta">Factor of the former C; with 0 it is not read.</param>
    /// <param name="bias">Added to each row: n elements of fp32 (fp64 if C is fp64), or null.</param>
    /// <param name="workspace">Packing buffers.</param>
    public static void Multiply(WorkerPool pool, int m, int n, int k, in GemmOperand a, in GemmOperand b, void* c, DType cType, long ldc, float alpha, float beta, void* bias, GemmWorkspace workspace)
    {
        if (m == 0 || n == 0) return;
        if (cType == DType.Float64)
        {
            MultiplyDouble(m, n, k, a, b, (double*)c, ldc, alpha, beta, (double*)bias);
            return;
        }
        var isDirect = m <= DirectRows * MicroKernel.Rows && !b.IsTransposed && b.IsFloat32;
        var blocks = new Blocking(m, n, k, pool.ThreadCount, isDirect);
        var memory = (float*)workspace.Ensure(blocks.WorkspaceBytes);
        var product = new Product
        {
            M = m,
            A = a,
            B = b,
            C = c,
            CType = cType,
            Ldc = ldc,
            Alpha = alpha,
            Beta = beta,
            Bias = (float*)bias,
            IsDirect = isDirect,
            RowBlock = blocks.Rows,
            ColumnBlock = blocks.Columns,
            PackedB = memory,
            Accumulator = blocks.Accumulator == 0 ? null : memory + blocks.PackedB,
            AccumulatorStride = blocks.AccumulatorStride,
            Worker = memory + blocks.PackedB + blocks.Accumulator,
            PerWorker = blocks.PerWorker,
            TileOffset = blocks.PackedA,
            RowOffset = blocks.PackedA + blocks.Tile,
        };
        for (var start = 0; start < n; start += blocks.Slab)
        {
            (product.SlabStart, product.SlabCount) = (start, Math.Min(blocks.Slab, n - start));
            product.From = 0;
            do
            {
                (product.Depth, product.IsLast) = (Math.Min(blocks.Depth, k - product.From), k - product.From <= blocks.Depth);
                if (!isDirect) pool.Run(Blocks(product.SlabCount, StripsPerTask * MicroKernel.Columns), &PackB, (nint)(&product));
                pool.Run(Blocks(m, blocks.Rows) * Blocks(product.SlabCount, blocks.Columns), &Block, (nint)(&product));
                product.From += product.Depth;
            }
            while (product.From < k);
        }
    }

    /// <summary>Bytes of packing buffers that a product needs.</summary>
    public static long WorkspaceBytes(int m, int n, int k, DType cType, int threads) => m == 0 || n == 0 || cType == DType.Float64 ? 0 : new Blocking(m, n, k, threads, false).WorkspaceBytes;

    private static int RoundUp(int value, int to) => (value + to - 1) / to * to;

    private static int Blocks(int count, int size) => (count + size - 1) / size;

    private static long Aligned(long floats) => (floats + 15) / 16 * 16;

    /// <summary>Packs a few strips of columns of B, each [depth][width], missing columns as zeros.</summary>
    private static void PackB(nint context, int task, int worker)
    {
        ref var p = ref *(Product*)context;
        var width = MicroKernel.Columns;
        var strip = task * StripsPerTask;
        var first = p.SlabStart + (strip * width);
        var count = Math.Min(StripsPerTask * width, p.SlabStart + p.SlabCount - first);
        var target = p.PackedB + ((long)strip * width * p.Depth);
        if (!p.B.IsTransposed)
        {
            PackAlong(p.B, first, count, p.From, p.Depth, width, target);
            return;
        }
        for (var i = 0; i < count; i += width) PackAcross(p.B, first + i, Math.Min(width, count - i), p.From, p.Depth, width, target + ((long)i * p.Depth), p.WorkerRow(worker));
    }

    /// <summary>Packs strips whose elements lie along stored rows: stored row k holds them side by side, so all strips are filled row by row.</summary>
    private static void PackAlong(in GemmOperand operand, int first, int count, int start, int depth, int width, float* target)
    {
        var whole = count / width;
        var rest = count - (whole * width);
        var stripSize = (long)depth * width;
        for (var k = 0; k < depth; k++, target += width)
        {
            operand.Prefetch(start + k + PrefetchedRows, first, count);
            var strip = target;
            if (operand.IsFloat32)
            {
                var source = operand.Float32At(start + k, first);
                for (var s = 0; s < whole; s++, strip += stripSize, source += width) CopyStrip(source, strip, width);
            }
            else if (operand.IsBFloat16)
            {
                var source = operand.BFloat16At(start + k, first);
                for (var s = 0; s < whole; s++, strip += stripSize, source += width) WidenStrip(source, strip, width);
            }
            else
            {
                for (var s = 0; s < whole; s++, strip += stripSize) operand.ReadRow(start + k, first + (s * width), width, strip);
            }
            if (rest == 0) continue;
            operand.ReadRow(start + k, first + (whole * width), rest, strip);
            for (var i = rest; i < width; i++) strip[i] = 0;
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void CopyStrip(float* source, float* target, int width)
    {
        var i = 0;
        for (; i + 16 <= width; i += 16) Vector512.Load(source + i).Store(target + i);
        if (i + 8 <= width)
        {
            Vector256.Load(source + i).Store(target + i);
            i += 8;
        }
        if (i + 4 <= width)
        {
            Vector128.Load(source + i).Store(target + i);
            i += 4;
        }
        for (; i < width; i++) target[i] = source[i];
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void WidenStrip(ushort* source, float* target, int width)
    {
        var i = 0;
        for (; i + 16 <= width; i += 16) (Vector512.WidenLower(Vector256.Load(source + i).ToVector512()) << 16).AsSingle().Store(target + i);
        for (; i < width; i++) target[i] = BFloat16.FromBits(source[i]);
    }

    /// <summary>Packs strips whose elements lie across stored rows: each stored row is one of them, running along k.</summary>
    private static void PackAcross(in GemmOperand operand, int first, int count, int start, int depth, int width, float* target, float* rows)
    {
        for (var from = 0; from < depth; from += DepthBlock)
        {
            var run = Math.Min(DepthBlock, depth - from);
            var at = target + ((long)from * width);
            if (operand.IsFloat32)
            {
                TransposedCopy.Copy(operand.Float32At(first, start + from), operand.RowStride, count, run, at, width);
            }
            else
            {
                // Rows of other formats are widened eight at a time and then transposed.
                for (var i = 0; i < count; i += PackedRows)
                {
                    var some = Math.Min(PackedRows, count - i);
                    for (var j = 0; j < some; j++) operand.ReadRow(first + i + j, start + from, run, rows + (j * DepthBlock));
                    TransposedCopy.Copy(rows, DepthBlock, some, run, at + i, width);
                }
            }
            for (var i = count; i < width; i++)
                for (var k = 0; k < run; k++) at[((long)k * width) + i] = 0;
        }
    }

    private static void Block(nint context, int task, int worker)
    {
        ref var p = ref *(Product*)context;
        int height = MicroKernel.Rows, width = MicroKernel.Columns;
        var rowBlocks = Blocks(p.M, p.RowBlock);
        int firstRow = task % rowBlocks * p.RowBlock, firstColumn = task / rowBlocks * p.ColumnBlock;
        int rows = Math.Min(p.RowBlock, p.M - firstRow), columns = Math.Min(p.ColumnBlock, p.SlabCount - firstColumn);
        var packed = p.Worker + (worker * p.PerWorker);
        long stride = RoundUp(columns, width);
        var tile = packed + p.TileOffset;
        if (p.Accumulator is not null)
        {
            stride = p.AccumulatorStride;
            tile = p.Accumulator + (firstRow * stride) + firstColumn;
        }
        for (var start = 0; start < p.Depth; start += DepthBlock)
        {
            var depth = Math.Min(DepthBlock, p.Depth - start);
            if (p.A.IsTransposed) PackAlong(p.A, firstRow, rows, p.From + start, depth, height, packed);
            else for (var i = 0; i < rows; i += height) PackAcross(p.A, firstRow + i, Math.Min(height, rows - i), p.From + start, depth, height, packed + ((long)i * depth), p.WorkerRow(worker));
            for (var j = 0; j < columns; j += width)
            {
                long strideB = width;
                var b = p.PackedB + ((long)(firstColumn + j) * p.Depth) + ((long)start * width);
                if (p.IsDirect && columns - j >= width)
                {
                    b = p.B.Float32At(start, firstColumn + j);
                    strideB = p.B.RowStride;
                }
                else if (p.IsDirect)
                {
                    b = p.WorkerRow(worker);
                    PackAlong(p.B, firstColumn + j, columns - j, start, depth, width, b);
                }
                // The first tiles ask for the strip of B that comes next, or for more of this one's A once that is done.
                var next = b + (width * (long)p.Depth);
                for (var i = 0; i < rows; i += height)
                {
                    MicroKernel.Multiply(depth, packed + ((long)i * depth), b, strideB, tile + (i * stride) + j, stride, p.From + start == 0, next);
                    next += depth * (long)MicroKernel.LineFloats;
                    if (next >= b + (width * ((long)p.Depth + depth))) next = packed + ((long)i * depth);
                }
            }
        }
        if (!p.IsLast) return;
        if (p.Depth == 0) new Span<float>(tile, checked((int)(RoundUp(rows, height) * stride))).Clear();
        for (var i = 0; i < rows; i++) WriteRow(ref p, tile + (i * stride), firstRow + i, p.SlabStart + firstColumn, columns);
    }

    private static void WriteRow(ref Product p, float* tile, int row, int column, int count)
    {
        var at = (row * p.Ldc) + column;
        var bias = p.Bias is null ? null : p.Bias + column;
        if (p.CType == DType.Float32)
        {
            var target = (float*)p.C + at;
            var i = 0;
            for (; i <= count - 16; i += 16)
            {
                var value = Vector512.Load(tile + i) * Vector512.Create(p.Alpha);
                if (p.Beta != 0) value += Vector512.Create(p.Beta) * Vector512.Load(target + i);
                if (bias is not null) value += Vector512.Load(bias + i);
                value.Store(target + i);
            }
            for (; i < count; i++) target[i] = Finish(ref p, tile[i], target[i], bias, i);
        }
        else if (p.CType == DType.BFloat16)
        {
            var target = (BFloat16*)p.C + at;
            for (var i = 0; i < count; i++) target[i] = (BFloat16)Finish(ref p, tile[i], p.Beta == 0 ? 0 : target[i], bias, i);
        }
        else
        {
            var target = (Half*)p.C + at;
            for (var i = 0; i < count; i++) target[i] = (Half)Finish(ref p, tile[i], p.Beta == 0 ? 0 : (float)target[i], bias, i);
        }
    }

    private static float Finish(ref Product p, float sum, float former, float* bias, int i)
    {
        var value = sum * p.Alpha;
        if (p.Beta != 0) value += p.Beta * former;
        return bias is null ? value : value + bias[i];
    }

    private static void MultiplyDouble(int m, int n, int k, in GemmOperand a, in GemmOperand b, double* c, long ldc, float alpha, float beta, double* bias)
    {
        for (var i = 0; i < m; i++)
        {
            for (var j = 0; j < n; j++)
            {
                var sum = 0.0;
                for (var x = 0; x < k; x++) sum += (a.IsTransposed ? a.DoubleAt(x, i) : a.DoubleAt(i, x)) * (b.IsTransposed ? b.DoubleAt(j, x) : b.DoubleAt(x, j));
                ref var target = ref c[(i * ldc) + j];
                target = (alpha * sum) + (beta == 0 ? 0 : beta * target) + (bias is null ? 0 : bias[j]);
            }
        }
    }

    /// <summary>How a product is cut up: blocks of C that keep every thread busy, and columns of B that are packed at a time.</summary>
    private readonly struct Blocking
    {
        public Blocking(int m, int n, int k, int threads, bool isDirect)
        {
            int height = MicroKernel.Rows, width = MicroKernel.Columns;
            // Blocks of equal size rather than a small one at the end.
            Rows = RoundUp(Blocks(m, Blocks(m, RowBlock)), height);
            Columns = RoundUp(Blocks(n, Blocks(n, ColumnBlock)), width);
            // What is packed of B at a time does not depend on m, so that a smaller batch never needs a larger workspace. A long K is cut, not
            // N, because A is read once for each cut of N.
            Slab = isDirect ? RoundUp(n, Columns) : k <= LongDepth
                ? (int)Math.Clamp(SlabBytes / (sizeof(float) * Math.Max(1L, k)) / Columns * Columns, Columns, RoundUp(n, Columns))
                : Math.Min(Blocks(n, Columns), Math.Max(1, LongDepthColumns / Columns)) * Columns;
            Depth = isDirect || k <= LongDepth ? k : (int)(SlabBytes / (sizeof(float) * Slab) / DepthBlock * DepthBlock);
            PackedB = isDirect ? 0 : Aligned((long)Slab * Depth);
            AccumulatorStride = Depth >= k ? 0 : Slab + 16;
            Accumulator = RoundUp(m, height) * AccumulatorStride;
            while ((long)Blocks(m, Rows) * Blocks(n, Columns) < 3 * threads && Columns > 2 * width) Columns = RoundUp(Columns / 2, width);
            while ((long)Blocks(m, Rows) * Blocks(n, Columns) < 3 * threads && Rows > 2 * height) Rows = RoundUp(Rows / 2, height);
            PackedA = Aligned((long)Rows * Math.Min(DepthBlock, Math.Max(k, 1)));
            Tile = Accumulator > 0 ? 0 : Aligned((long)Rows * Columns);
            PerWorker = PackedA + Tile + (Math.Max(PackedRows, width) * DepthBlock);
            WorkspaceBytes = (PackedB + Accumulator + (PerWorker * threads)) * sizeof(float);
        }

        public int Rows { get; }

        public int Columns { get; }

        public int Slab { get; }

        /// <summary>Extent of K that is packed at a time; where it is less than k, sums are kept in an accumulator in between.</summary>
        public int Depth { get; }

        public long PackedB { get; }

        public long Accumulator { get; }

        public long AccumulatorStride { get; }

        public long PackedA { get; }

        public long Tile { get; }

        public long PerWorker { get; }

        public long WorkspaceBytes { get; }
    }

    private struct Product
    {
        public int M, RowBlock, ColumnBlock, SlabStart, SlabCount, From, Depth;
        public GemmOperand A, B;
        public void* C;
        public DType CType;
        public bool IsDirect, IsLast;
        public long Ldc, PerWorker, TileOffset, RowOffset, AccumulatorStride;
        public float Alpha, Beta;
        public float* Bias, PackedB, Accumulator, Worker;

        public readonly float* WorkerRow(int worker) => Worker + (worker * PerWorker) + RowOffset;
    }
}
