using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using Lancet.Tile;
using Lancet.Tile.Cpu;

namespace Lancet.Devices.Cpu;

/// <summary>
/// Matrix products on the processor: C = alpha · op(A) · op(B) + beta · C + bias. A is packed once for all threads into rows of the register tile's
/// height; each thread packs the columns of B that it needs, in strips of the tile's width, and multiplies them while they are in its cache. Both are
/// converted to fp32 on the way; a block of C is accumulated in fp32 and each tile written once, when its last product is in (after Goto and van de Geijn,
/// "Anatomy of High-Performance Matrix Multiplication", 2008).
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
    private const int RowBlock = 528;
    private const int PackedRows = 96;
    private const int ColumnBlock = 96;
    private const int LongColumnBlock = 320;
    private const int SharedFloats = 2 << 20;
    private const int TasksPerThread = 6;
    // A result that no cache holds goes past the caches, which saves reading it first.
    private const long StreamedBytes = 32 << 20;

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
        var blocks = new Blocking(m, n, k, pool.ThreadCount);
        var memory = (float*)workspace.Ensure(blocks.WorkspaceBytes);
        var product = new Product
        {
            N = n,
            K = k,
            A = a,
            B = b,
            C = c,
            CType = cType,
            Ldc = ldc,
            Alpha = alpha,
            Beta = beta,
            Bias = (float*)bias,
            IsDirect = m <= DirectRows * MicroKernel.Rows && !b.IsTransposed && b.IsFloat32,
            IsStreamed = cType == DType.Float32 && beta == 0 && (long)m * n * sizeof(float) >= StreamedBytes && (nint)c % Vector512<byte>.Count == 0 && ldc % Vector512<float>.Count == 0,
            RowBlock = blocks.Rows,
            ColumnBlock = blocks.Columns,
            PackedA = blocks.IsShared ? memory : null,
            Worker = memory + blocks.Shared,
            PerWorker = blocks.PerWorker,
            PackedBOffset = blocks.OwnA,
            TileOffset = blocks.OwnA + blocks.PackedB,
            BufferOffset = blocks.OwnA + blocks.PackedB + blocks.Tile,
        };
        for (product.RowStart = 0; product.RowStart < m; product.RowStart += blocks.Panel)
        {
            product.RowCount = Math.Min(blocks.Panel, m - product.RowStart);
            if (blocks.IsShared) pool.Run(Blocks(product.RowCount, PackedRows) * Blocks(k, DepthBlock), &PackA, (nint)(&product));
            pool.Run(Blocks(product.RowCount, blocks.Rows) * Blocks(n, blocks.Columns), &Block, (nint)(&product));
        }
    }

    /// <summary>Bytes of packing buffers that a product needs.</summary>
    public static long WorkspaceBytes(int m, int n, int k, DType cType, int threads) => m == 0 || n == 0 || cType == DType.Float64 ? 0 : new Blocking(m, n, k, threads).WorkspaceBytes;

    /// <summary>Bytes of packing buffers that suffice for every summed extent up to <paramref name="mostK"/>: they grow with it until A is too large to be shared, and then no more.</summary>
    public static long LargestWorkspaceBytes(int m, int n, int mostK, DType cType, int threads) =>
        Math.Max(WorkspaceBytes(m, n, Math.Min(mostK, SharedFloats / RowBlock), cType, threads), WorkspaceBytes(m, n, mostK, cType, threads));

    private static int RoundUp(int value, int to) => (value + to - 1) / to * to;

    private static int Blocks(int count, int size) => (count + size - 1) / size;

    private static long Aligned(long floats) => (floats + 15) / 16 * 16;

    /// <summary>Packs some rows of A over one block of depth for all threads.</summary>
    private static void PackA(nint context, int task, int worker)
    {
        ref var p = ref *(Product*)context;
        var rowTasks = Blocks(p.RowCount, PackedRows);
        int row = task % rowTasks * PackedRows, start = task / rowTasks * DepthBlock;
        var depth = Math.Min(DepthBlock, p.K - start);
        OperandPacking.Pack(p.A, p.A.IsTransposed, p.RowStart + row, Math.Min(PackedRows, p.RowCount - row), start, depth, MicroKernel.Rows, p.SharedA(row, start, depth), p.Own(worker) + p.BufferOffset);
    }

    /// <summary>Computes a block of C, all of its depth.</summary>
    private static void Block(nint context, int task, int worker)
    {
        ref var p = ref *(Product*)context;
        int height = MicroKernel.Rows, width = MicroKernel.Columns;
        var rowBlocks = Blocks(p.RowCount, p.RowBlock);
        int row = task % rowBlocks * p.RowBlock, column = task / rowBlocks * p.ColumnBlock;
        int rows = Math.Min(p.RowBlock, p.RowCount - row), columns = Math.Min(p.ColumnBlock, p.N - column);
        var own = p.Own(worker);
        float* packedB = own + p.PackedBOffset, tile = own + p.TileOffset, buffer = own + p.BufferOffset;
        var stride = TileStride(p.ColumnBlock);
        var start = 0;
        do
        {
            var depth = Math.Min(DepthBlock, p.K - start);
            var a = own;
            if (p.PackedA is not null) a = p.SharedA(row, start, depth);
            else OperandPacking.Pack(p.A, p.A.IsTransposed, p.RowStart + row, rows, start, depth, height, a, buffer);
            // Columns that lie along stored rows are packed all at once, because those rows are then read in longer pieces.
            var isPacked = !p.B.IsTransposed && !p.IsDirect;
            if (isPacked) OperandPacking.Pack(p.B, true, column, columns, start, depth, width, packedB, buffer);
            for (var j = 0; j < columns; j += width)
            {
                var count = Math.Min(width, columns - j);
                var b = packedB;
                long strideB = width;
                if (isPacked)
                {
                    b += (long)j * depth;
                }
                else if (p.IsDirect && count == width)
                {
                    b = p.B.Float32At(start, column + j);
                    strideB = p.B.RowStride;
                }
                else
                {
                    OperandPacking.Pack(p.B, !p.B.IsTransposed, column + j, count, start, depth, width, b, buffer);
                }
                for (var i = 0; i < rows; i += height)
                {
                    var sums = tile + (i * stride) + j;
                    MicroKernel.Multiply(depth, a + ((long)i * depth), b, strideB, sums, stride, start == 0, a + ((long)(i + height) * depth));
                    if (start + depth < p.K) continue;
                    for (var r = i; r < Math.Min(i + height, rows); r++, sums += stride) WriteRow(ref p, sums, p.RowStart + row + r, column + j, count);
                }
            }
            start += depth;
        }
        while (start < p.K);
        if (p.IsStreamed) Sse.StoreFence();
    }

    // One cache line more than needed, lest the rows of a tile fall on the same few sets of the cache.
    private static int TileStride(int columns) => columns + 16;

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
                if (p.IsStreamed) value.StoreAlignedNonTemporal(target + i);
                else value.Store(target + i);
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

    /// <summary>How a product is cut up: blocks of C that keep every thread busy, and rows of A that are packed at a time.</summary>
    private readonly struct Blocking
    {
        public Blocking(int m, int n, int k, int threads)
        {
            int height = MicroKernel.Rows, width = MicroKernel.Columns;
            // Neither this nor the size of a buffer depends on how m is cut, so that a smaller batch never needs a larger workspace.
            IsShared = (long)RowBlock * k <= SharedFloats;
            var columns = IsShared ? ColumnBlock : LongColumnBlock;
            int mostRows = Math.Min(RoundUp(m, height), RowBlock), mostColumns = Math.Min(RoundUp(n, width), columns);
            // Blocks of equal size rather than a small one at the end.
            Rows = RoundUp(Blocks(m, Blocks(m, RowBlock)), height);
            Columns = RoundUp(Blocks(n, Blocks(n, columns)), width);
            Panel = IsShared ? Math.Max(1, SharedFloats / Math.Max(1, k) / Rows) * Rows : m;
            // A thread that packs A for itself had better use it for many columns.
            var tasks = IsShared ? TasksPerThread * threads : threads;
            while (Blocks(m, Rows) * (long)Blocks(n, Columns) < tasks && Columns > width) Columns = RoundUp(Columns / 2, width);
            while (Blocks(m, Rows) * (long)Blocks(n, Columns) < tasks && Rows > 2 * height) Rows = RoundUp(Rows / 2, height);
            var depth = Math.Min(DepthBlock, k);
            Shared = IsShared ? Aligned(Math.Min((long)RoundUp(m, height) * k, SharedFloats)) : 0;
            OwnA = IsShared ? 0 : Aligned((long)mostRows * depth);
            PackedB = Aligned((long)mostColumns * depth);
            Tile = Aligned((long)mostRows * TileStride(mostColumns));
            PerWorker = OwnA + PackedB + Tile + OperandPacking.BufferSize;
            WorkspaceBytes = (Shared + (PerWorker * threads)) * sizeof(float);
        }

        /// <summary>Whether A is packed once for all threads: unless its rows are so long that too few of them fit.</summary>
        public bool IsShared { get; }

        public int Rows { get; }

        public int Columns { get; }

        /// <summary>Rows of A that are packed at a time.</summary>
        public int Panel { get; }

        public long Shared { get; }

        public long OwnA { get; }

        public long PackedB { get; }

        public long Tile { get; }

        public long PerWorker { get; }

        public long WorkspaceBytes { get; }
    }

    private struct Product
    {
        public int RowStart, RowCount, N, K, RowBlock, ColumnBlock;
        public GemmOperand A, B;
        public void* C;
        public DType CType;
        public bool IsDirect, IsStreamed;
        public long Ldc, PerWorker, PackedBOffset, TileOffset, BufferOffset;
        public float Alpha, Beta;
        public float* Bias, PackedA, Worker;

        public readonly float* Own(int worker) => Worker + (worker * PerWorker);

        public readonly float* SharedA(int row, int start, int depth) => PackedA + ((long)start * RoundUp(RowCount, MicroKernel.Rows)) + ((long)row * depth);
    }
}
