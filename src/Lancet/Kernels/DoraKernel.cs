using Lancet.Devices;
using Lancet.Tensors;
using Lancet.Tile;
using static Lancet.Tile.TileMath;

namespace Lancet.Kernels;

/// <summary>
/// What weight-decomposed adapters (Liu et al., "DoRA", 2024) add to LoRA: every output column has a trained magnitude m.
/// <code>
/// forward    n[o] = ‖W[o,:] + s·(B·A)[o,:]‖      g = m / n      y = g ⊙ z + b      z = x·Wᵀ + s·(x·Aᵀ)·Bᵀ
/// backward   dz = g ⊙ dy      dm[o] += Σ_t dy[t,o]·z[t,o] / n[o]      n is taken as a constant (section 4.3 of the paper)
/// </code>
/// n² = ‖W[o]‖² + s·Σⱼ B[o,j]·D[o,j] with D = 2·W·Aᵀ + s·B·(A·Aᵀ), so that B·A is never written out; ‖W[o]‖² is computed once.
/// n and g cost a product with r columns and are made again in the backward pass.
/// </summary>
public static class DoraKernel
{
    private const int Width = 256;
    private const int RowBlock = 16;
    private const int RowElements = 1024;
    private static readonly KernelSet<DType> NormKernels = new(TraceNorms);
    private static readonly KernelSet<(int Rank, DType B, DType Accumulator, long Stride)> FactorKernels = new(TraceFactors);
    private static readonly KernelSet<(int Columns, DType DType, DType Bias, long StrideX, long StrideY, bool SubtractsOne, bool HasBias, bool HasAddend, DType Source)> ScaleKernels = new(TraceScale);
    private static readonly KernelSet<(int Columns, DType DType, long StrideDy, long StrideZ, long StrideDz, DType Product)> GradientKernels = new(TraceGradient);

    /// <summary>Squared lengths of a matrix's rows.</summary>
    /// <param name="device">Device.</param>
    /// <param name="weight">[rows, columns].</param>
    /// <param name="columns">Columns.</param>
    /// <param name="rowStride">Elements from one row to the next.</param>
    /// <param name="squares">[rows] in fp32 (fp64 beside fp64 weights) that is written.</param>
    public static void SquaredNorms(Device device, Tensor weight, int columns, long rowStride, Tensor squares) =>
        device.Launch(NormKernels[weight.DType], new Grid((int)squares.Count), [weight, squares, columns, rowStride]);

    /// <summary>g and 1 / n of every output column.</summary>
    /// <param name="device">Device.</param>
    /// <param name="b">B [out, r].</param>
    /// <param name="d">D [out, r] in the accumulator's type.</param>
    /// <param name="squares">‖W[o]‖² [out].</param>
    /// <param name="magnitude">m [out].</param>
    /// <param name="scale">s.</param>
    /// <param name="factors">[2, out] that is written: g, then 1 / n; columns of a wider matrix.</param>
    public static void Factors(Device device, ColumnSlice b, Tensor d, Tensor squares, Tensor magnitude, float scale, ColumnSlice factors) => device.Launch(
        FactorKernels[((int)d.Shape.RowCount, b.Tensor.DType, d.DType, b.RowStride)], new Grid(Blocks.Of(squares.Count, RowBlock)),
        [b.Tensor, d, squares, magnitude, factors.Tensor, scale, (int)squares.Count, (int)factors.RowStride]);

    /// <summary>y = g ⊙ x + bias + addend for blocks of wider matrices.</summary>
    /// <param name="device">Device.</param>
    /// <param name="rows">Rows.</param>
    /// <param name="factors">Of <see cref="Factors"/>.</param>
    /// <param name="x">[rows, out], of y's or the accumulator's type.</param>
    /// <param name="y">[rows, out] that is written; may be x.</param>
    /// <param name="bias">[out], or absent.</param>
    /// <param name="addend">[rows, out] with the stride of y, which it may be; or absent.</param>
    /// <param name="subtractsOne">Whether the factor is g − 1.</param>
    public static void Scale(Device device, int rows, Tensor factors, ColumnSlice x, ColumnSlice y, Tensor bias = default, Tensor addend = default, bool subtractsOne = false)
    {
        var columns = (int)factors.Shape[1];
        device.Launch(
            ScaleKernels[(columns, y.Tensor.DType, factors.DType, x.RowStride, y.RowStride, subtractsOne, bias.Exists, addend.Exists, x.Tensor.DType)], new Grid(rows, Blocks.Of(columns, RowElements)),
            [x.Tensor, y.Tensor, factors, bias.Exists ? bias : factors, addend.Exists ? addend : y.Tensor]);
    }

    /// <summary>dm += Σ_t dy ⊙ z / n, and dz = g ⊙ dy in the same pass if it is wanted.</summary>
    /// <param name="device">Device.</param>
    /// <param name="rows">Rows.</param>
    /// <param name="dy">[rows, columns].</param>
    /// <param name="z">[rows, columns], of dy's or the accumulator's type.</param>
    /// <param name="inverse">1 / n [columns].</param>
    /// <param name="partial">Workspace of <see cref="ColumnSumKernel.PartialShape"/> in the accumulator's type.</param>
    /// <param name="gradient">dm [columns].</param>
    /// <param name="scale">g [columns]; not read without dz.</param>
    /// <param name="dz">[rows, columns] that is written, or absent; may be dy.</param>
    public static void MagnitudeGradient(Device device, int rows, ColumnSlice dy, ColumnSlice z, Tensor inverse, Tensor partial, Tensor gradient, Tensor scale = default, ColumnSlice dz = default)
    {
        var (programs, columns) = ((int)partial.Shape[0], (int)partial.Shape[1]);
        device.Launch(
            GradientKernels[(columns, dy.Tensor.DType, dy.RowStride, z.RowStride, dz.RowStride, z.Tensor.DType)], new Grid(programs, Blocks.Of(columns, Width)),
            [dy.Tensor, z.Tensor, inverse, dz.Tensor.Exists ? scale : inverse, dz.Tensor.Exists ? dz.Tensor : dy.Tensor, partial, rows, Blocks.Of(rows, programs)]);
        ColumnSumKernel.AddRows(device, partial, gradient);
    }

    private static Kernel TraceNorms(DType dtype) => Kernel.Trace("dora_squared_norms", k =>
    {
        var accumulator = dtype.Accumulator();
        var weight = k.Pointer(dtype, "weight");
        var squares = k.Pointer(accumulator, "squares");
        var columns = k.Scalar(DType.Int32, "columns");
        var stride = k.Scalar(DType.Int64, "row_stride");
        var row = weight + k.ProgramId(0).ToInt64() * stride;
        var sum = k.For(k.Constant(DType.Int32, 0), columns, k.Constant(DType.Int32, RowElements), [k.Zeros(accumulator, RowElements)], (first, carried) =>
        {
            var column = first + k.Range(RowElements);
            var value = k.Load(row + column, column < columns).ToFloat32();
            return [carried[0] + value * value];
        })[0];
        k.Store(squares + k.ProgramId(0), Sum(sum));
    });

    private static Kernel TraceFactors((int Rank, DType B, DType Accumulator, long Stride) choice) => Kernel.Trace("dora_factors", k =>
    {
        var b = k.Pointer(choice.B, "b");
        var d = k.Pointer(choice.Accumulator, "d");
        var squares = k.Pointer(choice.Accumulator, "squares");
        var magnitude = k.Pointer(choice.Accumulator, "magnitude");
        var factors = k.Pointer(choice.Accumulator, "factors");
        var scale = k.Scalar(DType.Float32, "scale");
        var rows = k.Scalar(DType.Int32, "rows");
        var columns = k.Scalar(DType.Int32, "columns");
        var row = k.ProgramId(0) * RowBlock + k.Range(RowBlock);
        var column = k.Range(Blocks.PowerOfTwo(choice.Rank)).AsRow();
        var inside = (row < rows).AsColumn() & (column < choice.Rank);
        Tile.Tile Place(long stride) => (row.ToInt64() * stride).AsColumn() + column.ToInt64();
        var sum = Sum(k.Load(b + Place(choice.Stride), inside).To(choice.Accumulator) * k.Load(d + Place(choice.Rank), inside), 1) * scale.To(choice.Accumulator);
        // Rows that do not exist have length 1, lest they divide by 0.
        var inverse = Rsqrt(k.Load(squares + row, row < rows, 1) + sum);
        k.Store(factors + row, k.Load(magnitude + row, row < rows) * inverse, row < rows);
        k.Store(factors + (columns + row), inverse, row < rows);
    });

    private static Kernel TraceScale((int Columns, DType DType, DType Bias, long StrideX, long StrideY, bool SubtractsOne, bool HasBias, bool HasAddend, DType Source) choice) => Kernel.Trace("dora_scale", k =>
    {
        var x = k.Pointer(choice.Source, "x");
        var y = k.Pointer(choice.DType, "y");
        var factors = k.Pointer(choice.Bias, "factors");
        var bias = k.Pointer(choice.Bias, "bias");
        var addend = k.Pointer(choice.DType, "addend");
        var row = k.ProgramId(0).ToInt64();
        var column = k.ProgramId(1) * RowElements + k.Range(RowElements);
        var inside = column < choice.Columns;
        var factor = k.Load(factors + column, inside);
        if (choice.SubtractsOne) factor -= 1;
        var value = k.Load(x + (row * choice.StrideX + column.ToInt64()), inside).ToFloat32() * factor;
        if (choice.HasBias) value += k.Load(bias + column, inside);
        var place = row * choice.StrideY + column.ToInt64();
        if (choice.HasAddend) value += k.Load(addend + place, inside).ToFloat32();
        k.Store(y + place, value.To(choice.DType), inside);
    });

    private static Kernel TraceGradient((int Columns, DType DType, long StrideDy, long StrideZ, long StrideDz, DType Product) choice) => Kernel.Trace("dora_magnitude_gradient", k =>
    {
        var accumulator = choice.DType.Accumulator();
        var dy = k.Pointer(choice.DType, "dy");
        var z = k.Pointer(choice.Product, "z");
        var inverse = k.Pointer(accumulator, "inverse");
        var scale = k.Pointer(accumulator, "scale");
        var dz = k.Pointer(choice.DType, "dz");
        var partial = k.Pointer(accumulator, "partial");
        var rows = k.Scalar(DType.Int32, "rows");
        var rowsPerProgram = k.Scalar(DType.Int32, "rows_per_program");
        var column = k.ProgramId(1) * Width + k.Range(Width);
        var inside = column < choice.Columns;
        var first = k.ProgramId(0) * rowsPerProgram;
        var end = Min(first + rowsPerProgram, rows);
        var g = choice.StrideDz > 0 ? k.Load(scale + column, inside).AsRow() : null;
        var sums = k.For(first, end, k.Constant(DType.Int32, RowBlock), [k.Zeros(accumulator, RowBlock, Width)], (start, carried) =>
        {
            var row = (start + k.Range(RowBlock)).AsColumn();
            var both = (row < end) & inside.AsRow();
            Tile.Tile Place(long stride) => row.ToInt64() * stride + column.ToInt64().AsRow();
            var gradient = k.Load(dy + Place(choice.StrideDy), both).ToFloat32();
            var value = k.Load(z + Place(choice.StrideZ), both).ToFloat32();
            if (g is not null) k.Store(dz + Place(choice.StrideDz), (gradient * g).To(choice.DType), both);
            return [carried[0] + gradient * value];
        })[0];
        k.Store(partial + (k.ProgramId(0) * choice.Columns + column), Sum(sums, 0) * k.Load(inverse + column, inside), inside);
    });
}
