using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using Lancet.Quantization;
using Lancet.Tile;

namespace Lancet.Devices.Cpu;

/// <summary>
/// A stored row-major matrix as an operand of a product, used as it is or transposed. It can hand out rows as fp32, whatever it is stored as,
/// so that weights are converted while they are packed and never as a whole.
/// </summary>
public readonly unsafe struct GemmOperand
{
    private const int CacheLineBytes = 64;
    private readonly void* _data;
    private readonly byte* _absMaxCodes;
    private readonly float* _nestedAbsMax;
    private readonly float* _nestedTable;
    private readonly float _nestedOffset;
    private readonly DType _dtype;
    private readonly bool _isNf4;

    private GemmOperand(void* data, DType dtype, long rowStride, bool isTransposed, bool isNf4, byte* absMaxCodes, float* nestedAbsMax, float* nestedTable, float nestedOffset)
    {
        _data = data;
        _dtype = dtype;
        RowStride = rowStride;
        IsTransposed = isTransposed;
        _isNf4 = isNf4;
        _absMaxCodes = absMaxCodes;
        _nestedAbsMax = nestedAbsMax;
        _nestedTable = nestedTable;
        _nestedOffset = nestedOffset;
    }

    /// <summary>Elements from one stored row to the next.</summary>
    public long RowStride { get; }

    /// <summary>Whether the stored matrix is used transposed.</summary>
    public bool IsTransposed { get; }

    /// <summary>A matrix of fp32, bf16, fp16 or fp64 elements.</summary>
    public static GemmOperand Dense(void* data, DType dtype, long rowStride, bool isTransposed) => dtype.IsFloat()
        ? new(data, dtype, rowStride, isTransposed, false, null, null, null, 0)
        : throw new ArgumentException($"A matrix of {dtype} cannot be multiplied.", nameof(dtype));

    /// <summary>An NF4 weight with double quantisation; see <see cref="Nf4Weight"/>. Its rows have <paramref name="columns"/> elements.</summary>
    public static GemmOperand Nf4(byte* codes, byte* absMaxCodes, float* nestedAbsMax, float* nestedTable, float nestedOffset, long columns, bool isTransposed) =>
        new(codes, DType.UInt8, columns, isTransposed, true, absMaxCodes, nestedAbsMax, nestedTable, nestedOffset);

    /// <summary>Whether rows of fp32 can be used in place.</summary>
    internal bool IsFloat32 => !_isNf4 && _dtype == DType.Float32;

    /// <summary>Whether rows are bf16.</summary>
    internal bool IsBFloat16 => !_isNf4 && _dtype == DType.BFloat16;

    /// <summary>Address of an element of a bf16 matrix.</summary>
    internal ushort* BFloat16At(long row, long column) => (ushort*)_data + (row * RowStride) + column;

    /// <summary>Address of an element of an fp32 matrix.</summary>
    internal float* Float32At(long row, long column) => (float*)_data + (row * RowStride) + column;

    /// <summary>One element as fp64, for fp64 products.</summary>
    internal double DoubleAt(long row, long column)
    {
        if (_dtype == DType.Float64 && !_isNf4) return ((double*)_data)[(row * RowStride) + column];
        float value;
        ReadRow(row, column, 1, &value);
        return value;
    }

    /// <summary>Asks for a part of a stored row that will be read soon: rows lie too far apart for the processor to foresee them. The row need not exist.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal void Prefetch(long row, long column, int count)
    {
        if (!Sse.IsSupported) return;
        var element = (row * RowStride) + column;
        var (first, bytes) = _isNf4 ? (element / 2, count / 2) : (element * _dtype.SizeInBytes(), count * _dtype.SizeInBytes());
        for (var i = 0; i < bytes; i += CacheLineBytes) Sse.Prefetch0((byte*)_data + first + i);
    }

    /// <summary>Elements [column, column + count) of a stored row as fp32.</summary>
    internal void ReadRow(long row, long column, int count, float* target)
    {
        var start = (row * RowStride) + column;
        if (_isNf4)
        {
            ReadNf4(start, count, target);
            return;
        }
        switch (_dtype)
        {
            case DType.Float32:
                Unsafe.CopyBlockUnaligned(target, (float*)_data + start, (uint)(count * sizeof(float)));
                break;
            case DType.BFloat16:
                var narrow = (ushort*)_data + start;
                var i = 0;
                for (; i <= count - 16; i += 16) (Vector512.WidenLower(Vector256.Load(narrow + i).ToVector512()) << 16).AsSingle().Store(target + i);
                for (; i < count; i++) target[i] = BFloat16.FromBits(narrow[i]);
                break;
            case DType.Float16:
                for (var j = 0; j < count; j++) target[j] = (float)((Half*)_data)[start + j];
                break;
            default:
                for (var j = 0; j < count; j++) target[j] = (float)((double*)_data)[start + j];
                break;
        }
    }

    private void ReadNf4(long start, int count, float* target)
    {
        var codes = (byte*)_data;
        fixed (float* table = Nf4Code.Table)
        {
            var lookup = Vector512.Load(table);
            var end = start + count;
            while (start < end)
            {
                var block = start / Nf4Weight.BlockSize;
                var stop = Math.Min(end, (block + 1) * Nf4Weight.BlockSize);
                var scale = (_nestedTable[_absMaxCodes[block]] * _nestedAbsMax[block / Nf4Weight.NestedBlockSize]) + _nestedOffset;
                if ((start & 1) == 0 && Vector512.IsHardwareAccelerated)
                {
                    for (; start + 16 <= stop; start += 16, target += 16)
                    {
                        // Eight bytes hold sixteen codes, the first of each pair in the high nibble.
                        var bytes = Vector128.CreateScalar(*(ulong*)(codes + (start >> 1))).AsByte();
                        var high = (bytes.AsUInt16() >>> 4).AsByte() & Vector128.Create((byte)15);
                        var low = bytes & Vector128.Create((byte)15);
                        var nibbles = Sse2.IsSupported ? Sse2.UnpackLow(high, low) : Interleave(high, low);
                        var (lower, upper) = (Vector128.WidenLower(nibbles), Vector128.WidenUpper(nibbles));
                        var indices = Vector512.Create(Vector256.Create(Vector128.WidenLower(lower), Vector128.WidenUpper(lower)), Vector256.Create(Vector128.WidenLower(upper), Vector128.WidenUpper(upper)));
                        (Vector512.Shuffle(lookup, indices.AsInt32()) * Vector512.Create(scale)).Store(target);
                    }
                }
                for (; start < stop; start++)
                {
                    var packed = codes[start >> 1];
                    *target++ = table[(start & 1) == 0 ? packed >> 4 : packed & 15] * scale;
                }
            }
        }
    }

    private static Vector128<byte> Interleave(Vector128<byte> high, Vector128<byte> low)
    {
        var result = Vector128<byte>.Zero;
        for (var i = 0; i < 8; i++) result = result.WithElement(2 * i, high[i]).WithElement((2 * i) + 1, low[i]);
        return result;
    }
}
