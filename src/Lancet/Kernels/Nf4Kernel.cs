using Lancet.Devices;
using Lancet.Quantization;
using Lancet.Tensors;
using Lancet.Tile;
using static Lancet.Tile.TileMath;

namespace Lancet.Kernels;

/// <summary>
/// NF4 with double quantisation (Dettmers et al., "QLoRA", 2023) in the layout of bitsandbytes; see <see cref="Nf4Weight"/>.
/// <code>
/// quantise     a_b = max |w| over block b of 64        code = nearest NF4 value to w / a_b
///              c = mean of all a_b      A_n = max |a_b − c| over 256 blocks      scale code = nearest dynamic 8-bit value to (a_b − c) / A_n
/// dequantise   w = NF4[code] · (dynamic[scale code] · A_n + c)
/// </code>
/// The base weight is frozen, so there is no gradient; dX = dY·W dequantises it again.
/// </summary>
public static class Nf4Kernel
{
    private const int Half = Nf4Weight.BlockSize / 2;
    private const int BlocksPerProgram = 32;

    private static readonly KernelSet<DType> QuantizeKernels = new(TraceQuantize);
    private static readonly KernelSet<(DType DType, int Columns, long Stride, bool IsStack)> DequantizeKernels = new(TraceDequantize);
    private static readonly Kernel MeanKernel = TraceMean();
    private static readonly Kernel ScaleKernel = TraceScales();

    /// <summary>Bytes of each part of a quantised weight, in the order codes, scale codes, second-level scales.</summary>
    public static (long Codes, long Scales, long NestedScales) Sizes(long count) =>
        ((count + 1) / 2, Blocks.Of(count, Nf4Weight.BlockSize), Blocks.Of(Blocks.Of(count, Nf4Weight.BlockSize), Nf4Weight.NestedBlockSize));

    /// <summary>Quantises a dense matrix.</summary>
    /// <param name="device">Device.</param>
    /// <param name="weight">[rows, columns] in fp32, bf16 or fp16; an even number of elements.</param>
    /// <param name="target">Where the parts go; <see cref="Nf4Weight.NestedCodeTable"/> is filled in already.</param>
    /// <param name="absMax">Workspace: fp32, one per block of 64.</param>
    public static void Quantize(Device device, Tensor weight, Nf4Weight target, Tensor absMax)
    {
        var blocks = Blocks.Of(weight.Count, Nf4Weight.BlockSize);
        device.Launch(QuantizeKernels[weight.DType], new Grid(Blocks.Of(blocks, BlocksPerProgram)), [weight, target.Codes, absMax, weight.Count]);
        device.Launch(MeanKernel, new Grid(1), [absMax, target.NestedOffset, blocks]);
        device.Launch(ScaleKernel, new Grid(Blocks.Of(blocks, Nf4Weight.NestedBlockSize)), [absMax, target.NestedOffset, target.AbsMaxCodes, target.NestedAbsMax, blocks]);
    }

    /// <summary>Writes out a quantised matrix.</summary>
    /// <param name="device">Device.</param>
    /// <param name="weight">The quantised matrix.</param>
    /// <param name="target">[rows, columns] in fp32, bf16 or fp16.</param>
    public static void Dequantize(Device device, Nf4Weight weight, Tensor target) => device.Launch(
        DequantizeKernels[(target.DType, 0, 0, false)], new Grid(Blocks.Of(Blocks.Of(target.Count, Nf4Weight.BlockSize), BlocksPerProgram)),
        [weight.Codes, weight.AbsMaxCodes, weight.NestedAbsMax, weight.NestedCodeTable, weight.NestedOffset, target, target.Count]);

    /// <summary>Writes out several quantised matrices, whose parts lie one behind the other: codes, scale codes, second-level scales and offsets, with one table.</summary>
    /// <param name="device">Device.</param>
    /// <param name="first">The first of them.</param>
    /// <param name="target">[matrices, rows, columns] in fp32, bf16 or fp16.</param>
    public static void DequantizeStack(Device device, Nf4Weight first, Tensor target)
    {
        var (matrices, count) = ((int)target.Shape[0], target.Shape.RowCount);
        var (codes, scales, nested) = Sizes(count);
        KernelArgument All(Tensor part, long each) => KernelArgument.Pointer(part.Address, part.DType, matrices * each);
        device.Launch(
            DequantizeKernels[(target.DType, 0, 0, true)], new Grid(Blocks.Of(Blocks.Of(count, Nf4Weight.BlockSize), BlocksPerProgram), matrices),
            [All(first.Codes, codes), All(first.AbsMaxCodes, scales), All(first.NestedAbsMax, nested), first.NestedCodeTable, All(first.NestedOffset, 1), target, count]);
    }

    /// <summary>Writes out a quantised matrix into a block of a wider one.</summary>
    /// <param name="device">Device.</param>
    /// <param name="weight">The quantised matrix, whose columns are a multiple of 64.</param>
    /// <param name="target">[rows, columns] in fp32, bf16 or fp16.</param>
    public static void DequantizeRows(Device device, Nf4Weight weight, ColumnSlice target)
    {
        if (weight.Columns % Nf4Weight.BlockSize != 0) throw new ArgumentException($"Rows of {weight.Columns} elements are no whole blocks of {Nf4Weight.BlockSize}.");
        var count = (long)weight.Rows * weight.Columns;
        device.Launch(
            DequantizeKernels[(target.Tensor.DType, weight.Columns, target.RowStride, false)], new Grid(weight.Rows, Blocks.Of(weight.Columns / Nf4Weight.BlockSize, BlocksPerProgram)),
            [weight.Codes, weight.AbsMaxCodes, weight.NestedAbsMax, weight.NestedCodeTable, weight.NestedOffset, target.Tensor, count]);
    }

    private static Kernel TraceQuantize(DType dtype) => Kernel.Trace("nf4_quantize", k =>
    {
        var weight = k.Pointer(dtype, "weight");
        var codes = k.Pointer(DType.UInt8, "codes");
        var absMax = k.Pointer(DType.Float32, "abs_max");
        var count = k.Scalar(DType.Int64, "count");
        var block = k.ProgramId(0) * BlocksPerProgram + k.Range(BlocksPerProgram);
        var pair = block.ToInt64().AsColumn() * Half + k.Range(Half).ToInt64().AsRow();
        var even = k.Load(weight + pair * 2, pair * 2 < count).To(DType.Float32);
        var odd = k.Load(weight + (pair * 2 + 1), pair * 2 + 1 < count).To(DType.Float32);
        var scale = ReduceMax(Max(Abs(even), Abs(odd)), 1);
        k.Store(absMax + block, scale, block.ToInt64() * Nf4Weight.BlockSize < count);
        var inverse = QuantizationTiles.InverseOf(scale).AsColumn();
        var packed = (Code(k, even * inverse) << 4) + Code(k, odd * inverse);
        k.Store(codes + pair, packed.To(DType.UInt8), pair * 2 < count);
    });

    // The code is the number of midpoints between neighbouring NF4 values that lie below x.
    private static Tile.Tile Code(KernelBuilder k, Tile.Tile x)
    {
        var table = Nf4Code.Table;
        var code = k.Zeros(DType.Int32, x.Dimensions);
        for (var i = 0; i + 1 < table.Length; i++)
            code += Select(x > (float)(((double)table[i] + table[i + 1]) / 2), k.Full(DType.Int32, 1, x.Dimensions), 0);
        return code;
    }

    private static Kernel TraceMean() => Kernel.Trace("nf4_mean", k =>
    {
        var absMax = k.Pointer(DType.Float32, "abs_max");
        var offset = k.Pointer(DType.Float32, "nested_offset");
        var count = k.Scalar(DType.Int32, "blocks");
        var lane = k.Range(Blocks.Elementwise);
        var sum = k.For(k.Constant(DType.Int32, 0), count, k.Constant(DType.Int32, Blocks.Elementwise), [k.Zeros(DType.Float64, Blocks.Elementwise)], (first, carried) =>
            [carried[0] + k.Load(absMax + (first + lane), first + lane < count).To(DType.Float64)])[0];
        k.Store(offset, (Sum(sum) / count.To(DType.Float64)).To(DType.Float32));
    });

    private static Kernel TraceScales() => Kernel.Trace("nf4_scales", k =>
    {
        var absMax = k.Pointer(DType.Float32, "abs_max");
        var offset = k.Pointer(DType.Float32, "nested_offset");
        var codes = k.Pointer(DType.UInt8, "abs_max_codes");
        var nested = k.Pointer(DType.Float32, "nested_abs_max");
        var count = k.Scalar(DType.Int32, "blocks");
        var block = k.ProgramId(0) * Nf4Weight.NestedBlockSize + k.Range(Nf4Weight.NestedBlockSize);
        var inside = block < count;
        var value = Select(inside, k.Load(absMax + block, inside) - k.Load(offset), 0);
        var scale = ReduceMax(Abs(value));
        k.Store(nested + k.ProgramId(0), scale);
        k.Store(codes + block, QuantizationTiles.Encode(k, true, value * QuantizationTiles.InverseOf(scale)), inside);
    });

    // Programs along axis 0: all blocks of a dense target (Columns are 0 then), of each matrix of a stack along axis 1; or rows, whose blocks lie along axis 1.
    private static Kernel TraceDequantize((DType DType, int Columns, long Stride, bool IsStack) choice) => Kernel.Trace("nf4_dequantize", k =>
    {
        var codes = k.Pointer(DType.UInt8, "codes");
        var scales = k.Pointer(DType.UInt8, "abs_max_codes");
        var nested = k.Pointer(DType.Float32, "nested_abs_max");
        var table = k.Pointer(DType.Float32, "nested_code_table");
        var offset = k.Pointer(DType.Float32, "nested_offset");
        var target = k.Pointer(choice.DType, "target");
        var count = k.Scalar(DType.Int64, "count");
        var isDense = choice.Columns == 0;
        if (choice.IsStack)
        {
            var matrix = k.ProgramId(1).ToInt64();
            var eachScales = (count + (Nf4Weight.BlockSize - 1)) / Nf4Weight.BlockSize;
            (codes, scales, nested) = (codes + matrix * ((count + 1) / 2), scales + matrix * eachScales, nested + matrix * ((eachScales + (Nf4Weight.NestedBlockSize - 1)) / Nf4Weight.NestedBlockSize));
            (offset, target) = (offset + matrix, target + matrix * count);
        }
        var blocksPerRow = choice.Columns / Nf4Weight.BlockSize;
        var inRow = k.ProgramId(isDense ? 0 : 1) * BlocksPerProgram + k.Range(BlocksPerProgram);
        var block = isDense ? inRow : k.ProgramId(0) * blocksPerRow + inRow;
        var exists = isDense ? block.ToInt64() * Nf4Weight.BlockSize < count : inRow < blocksPerRow;
        Tile.Tile Inside(Tile.Tile element, int perBlock) => isDense ? element < count : inRow.AsColumn() * perBlock + k.Range(perBlock).AsRow() < blocksPerRow * perBlock;
        var scale = k.Load(table + k.Load(scales + block, exists).To(DType.Int32), exists) * k.Load(nested + block / Nf4Weight.NestedBlockSize, exists) + k.Load(offset);
        var pair = block.ToInt64().AsColumn() * Half + k.Range(Half).ToInt64().AsRow();
        var packed = k.Load(codes + pair, Inside(pair * 2, Half)).To(DType.Int32);
        var nf4 = Nf4Code.Table.ToArray();
        var value = Interleave(k.Lookup(nf4, packed >> 4), k.Lookup(nf4, packed & 15)) * scale.AsColumn();
        var element = (isDense ? block : inRow).ToInt64().AsColumn() * Nf4Weight.BlockSize + k.Range(Nf4Weight.BlockSize).ToInt64().AsRow();
        k.Store(target + (isDense ? element : k.ProgramId(0).ToInt64() * choice.Stride + element), value.To(choice.DType), Inside(element, Nf4Weight.BlockSize));
    });
}
