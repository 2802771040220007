using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using Lancet.Tile;
using Lancet.Tile.Cpu;

namespace Lancet.Devices.Cpu;

/// <summary>Packs rows or columns of an operand as fp32 into strips, [strip][depth][width], the order in which <see cref="MicroKernel"/> reads them. What a strip lacks in width is zero.</summary>
internal static unsafe class OperandPacking
{
    private const int WidenedRows = 8;
    private const int PrefetchedRows = 8;

    /// <summary>Elements of the buffer that packing needs for itself.</summary>
    public const int BufferSize = WidenedRows * CpuGemm.DepthBlock;

    /// <summary>Packs elements [first, first + count) of the operand's stored columns if <paramref name="isAlong"/>, else of its stored rows, over a depth of at most <see cref="CpuGemm.DepthBlock"/>.</summary>
    public static void Pack(in GemmOperand operand, bool isAlong, int first, int count, int start, int depth, int width, float* target, float* buffer)
    {
        if (isAlong) Along(operand, first, count, start, depth, width, target);
        else for (var i = 0; i < count; i += width) Across(operand, first + i, Math.Min(width, count - i), start, depth, width, target + ((long)i * depth), buffer);
    }

    /// <summary>Packs strips whose elements lie along stored rows: stored row k holds them side by side, so all strips are filled row by row.</summary>
    public static void Along(in GemmOperand operand, int first, int count, int start, int depth, int width, float* target)
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
    public static void Across(in GemmOperand operand, int first, int count, int start, int depth, int width, float* target, float* rows)
    {
        for (var from = 0; from < depth; from += CpuGemm.DepthBlock)
        {
            var run = Math.Min(CpuGemm.DepthBlock, depth - from);
            var at = target + ((long)from * width);
            if (operand.IsFloat32)
            {
                TransposedCopy.Copy(operand.Float32At(first, start + from), operand.RowStride, count, run, at, width);
            }
            else
            {
                // Rows of other formats are widened eight at a time and then transposed.
                for (var i = 0; i < count; i += WidenedRows)
                {
                    var some = Math.Min(WidenedRows, count - i);
                    for (var j = 0; j < some; j++) operand.ReadRow(first + i + j, start + from, run, rows + (j * CpuGemm.DepthBlock));
                    TransposedCopy.Copy(rows, CpuGemm.DepthBlock, some, run, at + i, width);
                }
            }
            for (var i = count; i < width; i++)
                for (var k = 0; k < run; k++) at[((long)k * width) + i] = 0;
        }
    }
}
