using Lancet.Devices;
using Lancet.Tile;
using static Lancet.Tile.TileMath;

namespace Lancet.Kernels;

/// <summary>
/// Matrix products of experts in the tile language, one launch for all experts: programs find their expert and rows in a table on the device.
/// <code>
/// product    C[r,n]    = α · Σ_k A[r,k]·B[e][k,n] + β·C[r,n]     r in rows of expert e; k in order
/// gradient   C[e][m,n] += α · Σ_r A[r,m]·B[r,n]                  r in rows of expert e, in order
/// </code>
/// The grid has room for the worst distribution of rows; programs beyond the last block do nothing. Nothing is added up across programs.
/// </summary>
public static class GroupedGemmKernel
{
    private static readonly KernelSet<Choice> ProductKernels = new(TraceProduct);
    private static readonly KernelSet<GradientChoice> GradientKernels = new(TraceGradient);

    /// <summary>Rows of a block that suit an average number of rows an expert.</summary>
    /// <param name="dtype">Dtype of the operands.</param>
    /// <param name="rows">Rows of all experts.</param>
    /// <param name="experts">Experts.</param>
    public static int BlockRows(DType dtype, int rows, int experts) => dtype.SizeInBytes() <= 2 && rows >= experts * GemmBlocks.Medium.Rows ? GemmBlocks.Medium.Rows : GemmBlocks.Small.Rows;

    /// <summary>Computes a product for each expert.</summary>
    /// <param name="device">Device.</param>
    /// <param name="product">Dense operands, with a table of blocks.</param>
    public static void Multiply(Device device, in GroupedMatMul product)
    {
        var rows = product.Rows;
        if (rows.Count == 0 || product.N == 0) return;
        var (first, distance) = Stack(product.B);
        var (a, b, c) = (product.A.Tensor.DType, first.Tensor.DType, product.C.Tensor.DType);
        var blocks = BlocksFor(a == b ? a : DType.Float32, rows.BlockRows, product.N);
        var choice = new Choice(
            a, b, c, first.IsTransposed, product.A.RowStride, first.LeadingDimension != 0 ? first.LeadingDimension : first.IsTransposed ? product.K : product.N, product.C.RowStride,
            product.N % blocks.Columns == 0, product.K % blocks.Depth == 0, product.Alpha != 1, product.Beta != 0, blocks);
        device.Launch(
            ProductKernels[choice], new Grid(checked((int)rows.Blocks.Shape[0] * Blocks.Of(product.N, blocks.Columns))),
            [product.A.Tensor, Span(first, distance, rows.ExpertCount), product.C.Tensor, rows.Starts, rows.Blocks, distance, product.N, product.K, product.Alpha, product.Beta]);
    }

    /// <summary>Adds to the gradient of each expert's matrix.</summary>
    /// <param name="device">Device.</param>
    /// <param name="product">Dense operands.</param>
    public static void Accumulate(Device device, in GroupedGradient product)
    {
        if (product.M == 0 || product.N == 0) return;
        var (first, distance) = Stack(product.C);
        // While a step is planned, gradients have no memory yet.
        var c = first.Tensor.Exists ? first.Tensor.DType : product.A.Tensor.DType.Accumulator();
        var blocks = BlocksFor(product.A.Tensor.DType, GemmBlocks.Small.Rows, product.N);
        var choice = new GradientChoice(product.A.Tensor.DType, c, product.A.RowStride, product.B.RowStride, product.M % blocks.Rows == 0, product.N % blocks.Columns == 0, product.Alpha != 1, blocks);
        var target = first.Tensor.Exists ? Span(first, distance, product.Rows.ExpertCount) : KernelArgument.Pointer(0, c, 1);
        device.Launch(
            GradientKernels[choice], new Grid(Blocks.Of(product.M, blocks.Rows) * Blocks.Of(product.N, blocks.Columns), product.Rows.ExpertCount),
            [product.A.Tensor, product.B.Tensor, target, product.Rows.Starts, distance, product.M, product.N, product.Alpha]);
    }

    private static GemmBlocks BlocksFor(DType dtype, int rows, int columns)
    {
        var blocks = dtype.SizeInBytes() > 2 ? GemmBlocks.Float32 : rows == GemmBlocks.Medium.Rows ? GemmBlocks.Medium : GemmBlocks.Small;
        // Adapters have few columns.
        return blocks with { Columns = Math.Clamp(Blocks.PowerOfTwo(columns), 16, blocks.Columns) };
    }

    /// <summary>The first matrix and the elements from each to the next.</summary>
    private static (MatMulOperand First, long Distance) Stack(IExpertMatrices matrices)
    {
        var first = matrices[0];
        if (matrices.Count == 1 || !first.Tensor.Exists) return (first, 0);
        var bytes = matrices[1].Tensor.Address - first.Tensor.Address;
        for (var expert = 0; expert < matrices.Count; expert++)
        {
            var matrix = matrices[expert];
            if (matrix.Quantized is not null || matrix.Tensor.Address - first.Tensor.Address != expert * bytes)
                throw new InvalidOperationException("Experts' matrices must be dense and lie at equal distances.");
        }
        return (first, bytes / first.Tensor.DType.SizeInBytes());
    }

    private static KernelArgument Span(MatMulOperand first, long distance, int experts) =>
        KernelArgument.Pointer(first.Tensor.Address, first.Tensor.DType, ((experts - 1) * distance) + first.Tensor.Count);

    private static Kernel TraceProduct(Choice choice) => Kernel.Trace("grouped_gemm", kernel =>
    {
        var blocks = choice.Blocks;
        kernel.Warps = blocks.Warps;
        var aPointer = kernel.Pointer(choice.A, "a");
        var bPointer = kernel.Pointer(choice.B, "b");
        var cPointer = kernel.Pointer(choice.C, "c");
        var starts = kernel.Pointer(DType.Int32, "starts");
        var table = kernel.Pointer(DType.Int32, "blocks");
        var distance = kernel.Scalar(DType.Int64, "distance");
        var n = kernel.Scalar(DType.Int32, "n");
        var k = kernel.Scalar(DType.Int32, "k");
        var alpha = kernel.Scalar(DType.Float32, "alpha");
        var beta = kernel.Scalar(DType.Float32, "beta");

        // Neighbouring programs share rows of A and an expert.
        var columnBlocks = (n + (blocks.Columns - 1)) / blocks.Columns;
        var block = kernel.ProgramId(0) / columnBlocks;
        var expert = kernel.Load(table + block * 2);
        var exists = expert >= 0;
        expert = Max(expert, 0);
        var row = kernel.Load(table + (block * 2 + 1)) + kernel.Range(blocks.Rows);
        var rowInside = row < Select(exists, kernel.Load(starts + (expert + 1)), 0);
        var column = kernel.ProgramId(0) % columnBlocks * blocks.Columns + kernel.Range(blocks.Columns);
        var columnInside = choice.FillsColumns ? null : column < n;
        var depth = kernel.Range(blocks.Depth);
        var weights = bPointer + expert.ToInt64() * distance;

        var accumulator = kernel.For(
            kernel.Constant(DType.Int32, 0), Select(exists, k, 0), kernel.Constant(DType.Int32, blocks.Depth), [kernel.Zeros(choice.Accumulator, blocks.Rows, blocks.Columns)],
            (start, carried) =>
            {
                var inner = start + depth;
                var innerInside = choice.FillsDepth ? null : inner < k;
                var a = new GemmOperand(aPointer, false, choice.StrideA).Left(kernel, row, rowInside, inner, innerInside);
                var b = new GemmOperand(weights, choice.IsTransposed, choice.StrideB).Right(kernel, inner, innerInside, column, columnInside);
                if (choice.A != choice.B) (a, b) = (a.ToFloat32(), b.ToFloat32());
                return [Dot(a, b, carried[0])];
            }, stages: blocks.Stages)[0];

        if (choice.HasAlpha) accumulator *= alpha.To(choice.Accumulator);
        var target = cPointer + ((row.ToInt64() * choice.StrideC).AsColumn() + column.ToInt64().AsRow());
        var inside = GemmOperand.Inside(rowInside, columnInside);
        if (choice.HasBeta) accumulator += beta.To(choice.Accumulator) * kernel.Load(target, inside).ToFloat32();
        kernel.Store(target, accumulator.To(choice.C), inside);
    });

    private static Kernel TraceGradient(GradientChoice choice) => Kernel.Trace("grouped_gemm_gradient", kernel =>
    {
        var blocks = choice.Blocks;
        kernel.Warps = blocks.Warps;
        var aPointer = kernel.Pointer(choice.DType, "a");
        var bPointer = kernel.Pointer(choice.DType, "b");
        var cPointer = kernel.Pointer(choice.C, "c");
        var starts = kernel.Pointer(DType.Int32, "starts");
        var distance = kernel.Scalar(DType.Int64, "distance");
        var m = kernel.Scalar(DType.Int32, "m");
        var n = kernel.Scalar(DType.Int32, "n");
        var alpha = kernel.Scalar(DType.Float32, "alpha");

        var columnBlocks = (n + (blocks.Columns - 1)) / blocks.Columns;
        var row = kernel.ProgramId(0) / columnBlocks * blocks.Rows + kernel.Range(blocks.Rows);
        var column = kernel.ProgramId(0) % columnBlocks * blocks.Columns + kernel.Range(blocks.Columns);
        var (rowInside, columnInside) = (choice.FillsRows ? null : row < m, choice.FillsColumns ? null : column < n);
        var expert = kernel.ProgramId(1);
        var depth = kernel.Range(blocks.Depth);
        var end = kernel.Load(starts + (expert + 1));
        var accumulator = kernel.For(
            kernel.Load(starts + expert), end, kernel.Constant(DType.Int32, blocks.Depth), [kernel.Zeros(choice.Accumulator, blocks.Rows, blocks.Columns)],
            (start, carried) =>
            {
                var inner = start + depth;
                var innerInside = inner < end;
                var a = new GemmOperand(aPointer, true, choice.StrideA).Left(kernel, row, rowInside, inner, innerInside);
                var b = new GemmOperand(bPointer, false, choice.StrideB).Right(kernel, inner, innerInside, column, columnInside);
                return [Dot(a, b, carried[0])];
            }, stages: blocks.Stages)[0];
        if (choice.HasAlpha) accumulator *= alpha.To(choice.Accumulator);
        var target = cPointer + expert.ToInt64() * distance + ((row.ToInt64() * n.ToInt64()).AsColumn() + column.ToInt64().AsRow());
        var inside = GemmOperand.Inside(rowInside, columnInside);
        kernel.Store(target, (kernel.Load(target, inside).ToFloat32() + accumulator).To(choice.C), inside);
    });

    private readonly record struct Choice(
        DType A, DType B, DType C, bool IsTransposed, long StrideA, long StrideB, long StrideC, bool FillsColumns, bool FillsDepth, bool HasAlpha, bool HasBeta, GemmBlocks Blocks)
    {
        public DType Accumulator => C == DType.Float64 ? DType.Float64 : DType.Float32;
    }

    private readonly record struct GradientChoice(DType DType, DType C, long StrideA, long StrideB, bool FillsRows, bool FillsColumns, bool HasAlpha, GemmBlocks Blocks)
    {
        public DType Accumulator => C == DType.Float64 ? DType.Float64 : DType.Float32;
    }
}
