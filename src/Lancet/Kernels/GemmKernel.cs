using Lancet.Devices;
using Lancet.Tile;
using static Lancet.Tile.TileMath;

namespace Lancet.Kernels;

/// <summary>How a product is cut up on a GPU. Does not change what is summed, only the order within blocks of K.</summary>
/// <param name="Rows">Rows of C a program computes.</param>
/// <param name="Columns">Columns of C a program computes.</param>
/// <param name="Depth">Elements of K a step multiplies.</param>
/// <param name="Stages">Steps in flight.</param>
/// <param name="Warps">Warps of a program.</param>
public readonly record struct GemmBlocks(int Rows, int Columns, int Depth, int Stages, int Warps)
{
    /// <summary>For large 16-bit products on GPUs with much shared memory (H100).</summary>
    public static GemmBlocks Large => new(128, 256, 64, 3, 8);

    /// <summary>For 16-bit products.</summary>
    public static GemmBlocks Medium => new(128, 128, 32, 3, 8);

    /// <summary>For small 16-bit products.</summary>
    public static GemmBlocks Small => new(64, 64, 32, 3, 4);

    /// <summary>For fp32 and mixed products, which run on the fp32 units.</summary>
    public static GemmBlocks Float32 => new(64, 64, 16, 2, 4);

    /// <summary>For fp32 products with few rows or columns.</summary>
    public static GemmBlocks Narrow => new(64, 16, 32, 2, 4);
}

/// <summary>
/// Matrix product in the tile language: C = α·op(A)·op(B) + β·C + bias, row-major, with leading dimensions, in fp32 sums over K in order.
/// <code>
/// C[m,n] = α · Σ_k A[m,k]·B[k,n] + β·C[m,n] + bias[n]
/// </code>
/// Transposed operands are loaded as they are stored and transposed on chip. Operands of different dtypes are widened to fp32. Programs are
/// numbered in groups of rows of blocks, so that programs that run at the same time share operands in the L2 cache.
/// </summary>
public static class GemmKernel
{
    private const int Group = 8;
    private static readonly KernelSet<Choice> Kernels = new(Trace);

    /// <summary>Computes a product of dense operands.</summary>
    /// <param name="device">Device.</param>
    /// <param name="product">Operands in fp32, bf16 or fp16 (or all fp64); no NF4.</param>
    /// <param name="blocks">How it is cut up.</param>
    public static void Multiply(Device device, in MatMul product, GemmBlocks blocks)
    {
        var (m, n, k) = (product.M, product.N, product.K);
        if (m == 0 || n == 0) return;
        var choice = new Choice(
            product.A.Tensor.DType, product.B.Tensor.DType, product.C.DType, product.A.IsTransposed, product.B.IsTransposed,
            product.A.LeadingDimension != 0 ? product.A.LeadingDimension : product.A.IsTransposed ? m : k,
            product.B.LeadingDimension != 0 ? product.B.LeadingDimension : product.B.IsTransposed ? k : n,
            product.LeadingDimensionC != 0 ? product.LeadingDimensionC : n, m % blocks.Rows == 0, n % blocks.Columns == 0, k % blocks.Depth == 0,
            product.Alpha != 1, product.Beta != 0, product.Bias.Exists, blocks);
        device.Launch(
            Kernels[choice], new Grid(checked(Blocks.Of(m, blocks.Rows) * Blocks.Of(n, blocks.Columns))),
            [product.A.Tensor, product.B.Tensor, product.C, product.Bias.Exists ? product.Bias : KernelArgument.Pointer(product.C.Address, choice.Accumulator, 1), m, n, k, product.Alpha, product.Beta]);
    }

    /// <summary>Blocks that suit a product.</summary>
    /// <param name="product">The product.</param>
    /// <param name="sharedBytes">Shared memory that the device gives a block.</param>
    public static GemmBlocks BlocksFor(in MatMul product, int sharedBytes)
    {
        if (product.A.Tensor.DType != product.B.Tensor.DType || product.A.Tensor.DType.SizeInBytes() > 2) return product.N <= 32 ? GemmBlocks.Narrow : GemmBlocks.Float32;
        var work = (long)product.M * product.N;
        // Operands in flight, and C on its way from the tensor cores' layout to rows.
        var resultBytes = product.Beta != 0 || product.Bias.Exists ? sizeof(float) : product.C.DType.SizeInBytes();
        bool Fits(GemmBlocks blocks) => (blocks.Stages * (blocks.Rows + blocks.Columns) * blocks.Depth * 2) + (blocks.Rows * blocks.Columns * resultBytes) <= sharedBytes;
        return work >= 4096L * 4096 && Fits(GemmBlocks.Large) ? GemmBlocks.Large : work > 512 * 512 && Fits(GemmBlocks.Medium) ? GemmBlocks.Medium : GemmBlocks.Small;
    }

    private static Kernel Trace(Choice choice) => Kernel.Trace("gemm", kernel =>
    {
        var blocks = choice.Blocks;
        kernel.Warps = blocks.Warps;
        var aPointer = kernel.Pointer(choice.A, "a");
        var bPointer = kernel.Pointer(choice.B, "b");
        var cPointer = kernel.Pointer(choice.C, "c");
        var biasPointer = kernel.Pointer(choice.Accumulator, "bias");
        var m = kernel.Scalar(DType.Int32, "m");
        var n = kernel.Scalar(DType.Int32, "n");
        var k = kernel.Scalar(DType.Int32, "k");
        var alpha = kernel.Scalar(DType.Float32, "alpha");
        var beta = kernel.Scalar(DType.Float32, "beta");

        var program = kernel.ProgramId(0);
        var rowBlocks = (m + (blocks.Rows - 1)) / blocks.Rows;
        var columnBlocks = (n + (blocks.Columns - 1)) / blocks.Columns;
        var groupSize = columnBlocks * Group;
        var group = program / groupSize;
        var firstRow = group * Group;
        var height = Min(rowBlocks - firstRow, Group);
        var within = program % groupSize;
        var row = (firstRow + within % height) * blocks.Rows + kernel.Range(blocks.Rows);
        var column = within / height * blocks.Columns + kernel.Range(blocks.Columns);
        var depth = kernel.Range(blocks.Depth);

        var accumulator = kernel.For(
            kernel.Constant(DType.Int32, 0), k, kernel.Constant(DType.Int32, blocks.Depth), [kernel.Zeros(choice.Accumulator, blocks.Rows, blocks.Columns)],
            (start, carried) =>
            {
                var inner = start + depth;
                var innerInside = choice.FillsDepth ? null : inner < k;
                var a = new GemmOperand(aPointer, choice.IsATransposed, choice.StrideA).Left(kernel, row, choice.FillsRows ? null : row < m, inner, innerInside);
                var b = new GemmOperand(bPointer, choice.IsBTransposed, choice.StrideB).Right(kernel, inner, innerInside, column, choice.FillsColumns ? null : column < n);
                if (choice.A != choice.B) (a, b) = (a.ToFloat32(), b.ToFloat32());
                return [Dot(a, b, carried[0])];
            }, stages: blocks.Stages)[0];

        if (choice.HasAlpha) accumulator *= alpha.To(choice.Accumulator);
        var target = cPointer + ((row.ToInt64() * choice.StrideC).AsColumn() + column.ToInt64().AsRow());
        var inside = GemmOperand.Inside(choice.FillsRows ? null : row < m, choice.FillsColumns ? null : column < n);
        if (choice.HasBeta) accumulator += beta.To(choice.Accumulator) * kernel.Load(target, inside).ToFloat32();
        if (choice.HasBias) accumulator += kernel.Load(biasPointer + column, choice.FillsColumns ? null : column < n).AsRow();
        kernel.Store(target, accumulator.To(choice.C), inside);
    });

    private readonly record struct Choice(
        DType A, DType B, DType C, bool IsATransposed, bool IsBTransposed, long StrideA, long StrideB, long StrideC, bool FillsRows, bool FillsColumns, bool FillsDepth,
        bool HasAlpha, bool HasBeta, bool HasBias, GemmBlocks Blocks)
    {
        public DType Accumulator => C == DType.Float64 ? DType.Float64 : DType.Float32;
    }
}
