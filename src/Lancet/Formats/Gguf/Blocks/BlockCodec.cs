using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using Lancet.Tile;

namespace Lancet.Formats.Gguf.Blocks;

/// <summary>Rows of fp32 to and from the element types of GGUF files.</summary>
public static class BlockCodec
{
    private const int RowsAtATime = 16;

    /// <summary>Whether a type holds numbers that can be read and written as fp32.</summary>
    public static bool Supports(GgufTensorType type) => type is GgufTensorType.Float32 or GgufTensorType.Float16 or GgufTensorType.BFloat16 or GgufTensorType.Float64 || type.IsQuantized();

    /// <summary>Writes a row.</summary>
    /// <param name="type">Element type.</param>
    /// <param name="row">Elements; whole blocks.</param>
    /// <param name="target">Receives the row's bytes.</param>
    /// <param name="importance">
    /// How much an error in a column matters (the mean square of what it is multiplied with, or anything in proportion); as long as the row, or
    /// empty if nothing is known. Types with 8 bits and more do without.
    /// </param>
    public static void Quantize(GgufTensorType type, ReadOnlySpan<float> row, Span<byte> target, ReadOnlySpan<float> importance = default)
    {
        switch (type)
        {
            case GgufTensorType.Float32: MemoryMarshal.AsBytes(row).CopyTo(target); break;
            case GgufTensorType.Float16: ToHalf(row, MemoryMarshal.Cast<byte, Half>(target)); break;
            case GgufTensorType.BFloat16: ToBFloat16(row, MemoryMarshal.Cast<byte, BFloat16>(target)); break;
            case GgufTensorType.Q40: SmallBlocks.Quantize(row, target, importance, bits: 4, hasMinimum: false); break;
            case GgufTensorType.Q41: SmallBlocks.Quantize(row, target, importance, bits: 4, hasMinimum: true); break;
            case GgufTensorType.Q50: SmallBlocks.Quantize(row, target, importance, bits: 5, hasMinimum: false); break;
            case GgufTensorType.Q51: SmallBlocks.Quantize(row, target, importance, bits: 5, hasMinimum: true); break;
            case GgufTensorType.Q80: Q80Blocks.Quantize(row, target); break;
            case GgufTensorType.Q2K: Q2KBlocks.Quantize(row, target, importance); break;
            case GgufTensorType.Q3K: Q3KBlocks.Quantize(row, target, importance); break;
            case GgufTensorType.Q4K: Q45KBlocks.Quantize(row, target, importance, bits: 4); break;
            case GgufTensorType.Q5K: Q45KBlocks.Quantize(row, target, importance, bits: 5); break;
            case GgufTensorType.Q6K: Q6KBlocks.Quantize(row, target, importance); break;
            default: throw new ArgumentException($"Rows are not written as {type.Name()}.");
        }
    }

    /// <summary>Reads a row.</summary>
    /// <param name="type">Element type.</param>
    /// <param name="source">The row's bytes.</param>
    /// <param name="row">Receives the elements.</param>
    public static void Dequantize(GgufTensorType type, ReadOnlySpan<byte> source, Span<float> row)
    {
        switch (type)
        {
            case GgufTensorType.Float32: source.CopyTo(MemoryMarshal.AsBytes(row)); break;
            case GgufTensorType.Float16:
                FromHalf(MemoryMarshal.Cast<byte, Half>(source), row);
                break;
            case GgufTensorType.BFloat16:
                var brains = MemoryMarshal.Cast<byte, BFloat16>(source);
                for (var i = 0; i < row.Length; i++) row[i] = brains[i];
                break;
            case GgufTensorType.Float64:
                var doubles = MemoryMarshal.Cast<byte, double>(source);
                for (var i = 0; i < row.Length; i++) row[i] = (float)doubles[i];
                break;
            case GgufTensorType.Q40: SmallBlocks.Dequantize(source, row, bits: 4, hasMinimum: false); break;
            case GgufTensorType.Q41: SmallBlocks.Dequantize(source, row, bits: 4, hasMinimum: true); break;
            case GgufTensorType.Q50: SmallBlocks.Dequantize(source, row, bits: 5, hasMinimum: false); break;
            case GgufTensorType.Q51: SmallBlocks.Dequantize(source, row, bits: 5, hasMinimum: true); break;
            case GgufTensorType.Q80: Q80Blocks.Dequantize(source, row); break;
            case GgufTensorType.Q2K: Q2KBlocks.Dequantize(source, row); break;
            case GgufTensorType.Q3K: Q3KBlocks.Dequantize(source, row); break;
            case GgufTensorType.Q4K: Q45KBlocks.Dequantize(source, row, bits: 4); break;
            case GgufTensorType.Q5K: Q45KBlocks.Dequantize(source, row, bits: 5); break;
            case GgufTensorType.Q6K: Q6KBlocks.Dequantize(source, row); break;
            default: throw new ArgumentException($"Rows of {type.Name()} are not read as fp32.");
        }
    }

    /// <summary>Writes many rows on all processors.</summary>
    /// <param name="type">Element type.</param>
    /// <param name="values">Rows one behind the other.</param>
    /// <param name="columns">Elements of a row.</param>
    /// <param name="target">Receives the bytes.</param>
    /// <param name="importance">Of each column, or empty.</param>
    public static void QuantizeRows(GgufTensorType type, ReadOnlyMemory<float> values, int columns, Memory<byte> target, ReadOnlyMemory<float> importance = default)
    {
        var (rows, rowBytes) = (values.Length / columns, (int)type.Bytes(columns));
        Parallel.For(0, (rows + RowsAtATime - 1) / RowsAtATime, part =>
        {
            for (var row = part * RowsAtATime; row < Math.Min(rows, (part + 1) * RowsAtATime); row++)
                Quantize(type, values.Span.Slice(row * columns, columns), target.Span.Slice(row * rowBytes, rowBytes), importance.Span);
        });
    }

    private static void ToHalf(ReadOnlySpan<float> row, Span<Half> target)
    {
        var i = 0;
        ref var bits = ref Unsafe.As<Half, ushort>(ref MemoryMarshal.GetReference(target));
        for (; i + 8 <= row.Length; i += 8) HalfVectors.Narrow(Fit.At(row, i)).StoreUnsafe(ref bits, (nuint)i);
        for (; i < row.Length; i++) target[i] = (Half)row[i];
    }

    private static void FromHalf(ReadOnlySpan<Half> source, Span<float> row)
    {
        var i = 0;
        ref var bits = ref Unsafe.As<Half, ushort>(ref MemoryMarshal.GetReference(source));
        for (; i + 8 <= row.Length; i += 8) HalfVectors.Widen(Vector128.LoadUnsafe(ref bits, (nuint)i)).StoreUnsafe(ref MemoryMarshal.GetReference(row), (nuint)i);
        for (; i < row.Length; i++) row[i] = (float)source[i];
    }

    private static void ToBFloat16(ReadOnlySpan<float> row, Span<BFloat16> target)
    {
        for (var i = 0; i < row.Length; i++) target[i] = (BFloat16)row[i];
    }
}
