using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using Lancet.Tile.IR;

namespace Lancet.Tile.Cpu;

/// <summary>How elements of a memory format become lanes and back.</summary>
internal unsafe interface IMemoryFormat<TLane>
    where TLane : unmanaged
{
    static abstract int Size { get; }

    static abstract TLane Read(byte* source);

    static abstract void Write(byte* target, TLane value);

    static abstract void ReadRun(byte* source, TLane* target, int count);

    static abstract void WriteRun(byte* target, TLane* source, int count);
}

internal unsafe struct PlainFormat<T> : IMemoryFormat<T>
    where T : unmanaged
{
    public static int Size => sizeof(T);

    public static T Read(byte* source) => Unsafe.ReadUnaligned<T>(source);

    public static void Write(byte* target, T value) => Unsafe.WriteUnaligned(target, value);

    public static void ReadRun(byte* source, T* target, int count) => Buffer.MemoryCopy(source, target, (long)count * sizeof(T), (long)count * sizeof(T));

    public static void WriteRun(byte* target, T* source, int count) => Buffer.MemoryCopy(source, target, (long)count * sizeof(T), (long)count * sizeof(T));
}

internal unsafe struct BFloat16Format : IMemoryFormat<float>
{
    public static int Size => 2;

    public static float Read(byte* source) => BFloat16.FromBits(*(ushort*)source);

    public static void Write(byte* target, float value) => *(ushort*)target = ((BFloat16)value).Bits;

    public static void ReadRun(byte* source, float* target, int count)
    {
        var p = (ushort*)source;
        var i = 0;
        for (; i <= count - 16; i += 16) (Vector512.WidenLower(Vector256.Load(p + i).ToVector512()) << 16).AsSingle().Store(target + i);
        for (; i < count; i++) target[i] = BFloat16.FromBits(p[i]);
    }

    public static void WriteRun(byte* target, float* source, int count)
    {
        // Lanes of a bf16 tile are already rounded, so their upper halves are the value.
        var p = (ushort*)target;
        var i = 0;
        for (; i <= count - 32; i += 32)
        {
            var low = Vector512.Load((uint*)source + i) >>> 16;
            var high = Vector512.Load((uint*)source + i + 16) >>> 16;
            Vector512.Narrow(low, high).Store(p + i);
        }
        for (; i < count; i++) p[i] = (ushort)(((uint*)source)[i] >> 16);
    }
}

internal unsafe struct Float16Format : IMemoryFormat<float>
{
    public static int Size => 2;

    public static float Read(byte* source) => (float)*(Half*)source;

    public static void Write(byte* target, float value) => *(Half*)target = (Half)value;

    public static void ReadRun(byte* source, float* target, int count)
    {
        for (var i = 0; i < count; i++) target[i] = (float)((Half*)source)[i];
    }

    public static void WriteRun(byte* target, float* source, int count)
    {
        for (var i = 0; i < count; i++) ((Half*)target)[i] = (Half)source[i];
    }
}

internal unsafe struct ByteFormat : IMemoryFormat<int>
{
    public static int Size => 1;

    public static int Read(byte* source) => *source;

    public static void Write(byte* target, int value) => *target = (byte)value;

    public static void ReadRun(byte* source, int* target, int count)
    {
        for (var i = 0; i < count; i++) target[i] = source[i];
    }

    public static void WriteRun(byte* target, int* source, int count)
    {
        for (var i = 0; i < count; i++) target[i] = (byte)source[i];
    }
}

internal unsafe struct SByteFormat : IMemoryFormat<int>
{
    public static int Size => 1;

    public static int Read(byte* source) => *(sbyte*)source;

    public static void Write(byte* target, int value) => *(sbyte*)target = (sbyte)value;

    public static void ReadRun(byte* source, int* target, int count)
    {
        for (var i = 0; i < count; i++) target[i] = ((sbyte*)source)[i];
    }

    public static void WriteRun(byte* target, int* source, int count)
    {
        for (var i = 0; i < count; i++) ((sbyte*)target)[i] = (sbyte)source[i];
    }
}

/// <summary>Memory that an address may reach: a kernel's argument, or scratch memory of the program.</summary>
/// <param name="Name">For messages.</param>
/// <param name="Place">Number of the argument, or offset in scratch memory.</param>
/// <param name="ScratchCount">Elements of scratch memory; 0 for an argument.</param>
internal sealed record MemoryRange(string Name, int Place, long ScratchCount = 0)
{
    public bool IsScratch => ScratchCount > 0;

    public unsafe (long Start, long Count) Of(ref Frame frame) => IsScratch ? ((long)(frame.Scratch + Place), ScratchCount) : (frame.Arguments[Place], frame.Counts[Place]);
}

/// <summary>Where a load or store points and which of its elements are active.</summary>
/// <param name="Address">Scratch offset of an <see cref="AffineValue"/>, or of dense 8-byte addresses.</param>
/// <param name="IsAffine">Which of the two.</param>
/// <param name="Mask">Scratch offset of a <see cref="BoxMask"/> or of a lane mask; −1 for none.</param>
/// <param name="MaskView">The lane mask's view; null for a box.</param>
/// <param name="Shape">Extents.</param>
/// <param name="Range">Memory that the addresses derive from.</param>
/// <param name="Operation">For messages.</param>
/// <param name="KernelName">For messages.</param>
internal sealed record AccessPattern(int Address, bool IsAffine, int Mask, LaneView? MaskView, int[] Shape, MemoryRange Range, Operation Operation, string KernelName)
{
    public int D0 => Shape.Length == 3 ? Shape[0] : 1;

    public int D1 => Shape.Length >= 2 ? Shape[^2] : 1;

    public int D2 => Shape.Length >= 1 ? Shape[^1] : 1;

    /// <summary>Axis numbers (of box and affine form) of the three loops; a missing axis maps to one whose stride is 0 and box is [0, 1).</summary>
    public (int A0, int A1, int A2) Axes => Shape.Length switch { 3 => (0, 1, 2), 2 => (2, 0, 1), 1 => (1, 2, 0), _ => (0, 1, 2) };

    public unsafe BoxMask Box(ref Frame frame)
    {
        if (Mask >= 0 && MaskView is null) return *frame.At<BoxMask>(Mask);
        var box = new BoxMask { High0 = 1, High1 = 1, High2 = 1 };
        for (var axis = 0; axis < Shape.Length; axis++) box.Set(axis, 0, Shape[axis]);
        return box;
    }
}

/// <summary>Calls back for rows of active elements; the loops of loads, stores and bounds checks.</summary>
internal abstract unsafe class AccessInstruction(AccessPattern pattern, int elementSize) : Instruction
{
    protected AccessPattern Pattern => pattern;

    /// <summary>Whether to check every address; set for debug programs.</summary>
    public bool IsChecked { get; init; }

    /// <summary>How this touches memory.</summary>
    protected abstract AccessKind Kind { get; }

    /// <summary>Handles <paramref name="count"/> elements at <paramref name="address"/>, <paramref name="stride"/> elements apart, which are lanes <paramref name="lane"/>, lane + 1, ….</summary>
    protected abstract void Row(ref Frame frame, byte* address, long stride, int lane, int count);

    /// <summary>Handles lanes one by one under a lane mask.</summary>
    protected void Walk(ref Frame frame)
    {
        if (pattern.IsAffine && pattern.MaskView is null) WalkBox(ref frame);
        else WalkLanes(ref frame);
    }

    private void WalkBox(ref Frame frame)
    {
        var value = *frame.At<AffineValue>(pattern.Address);
        var box = pattern.Box(ref frame);
        var (a0, a1, a2) = pattern.Axes;
        var ((l0, h0), (l1, h1), (l2, h2)) = (box[a0], box[a1], box[a2]);
        var (s0, s1, s2) = (value.Stride(a0), value.Stride(a1), value.Stride(a2));
        if (l2 >= h2) return;
        for (var i = l0; i < h0; i++)
        {
            for (var j = l1; j < h1; j++)
            {
                var address = (byte*)(value.Offset + (((i * s0) + (j * s1) + (l2 * s2)) * elementSize));
                var lane = (((i * pattern.D1) + j) * pattern.D2) + l2;
                if (IsChecked) DebugState.Check(pattern, ref frame, address, s2, lane, h2 - l2, elementSize, Kind);
                Row(ref frame, address, s2, lane, h2 - l2);
            }
        }
    }

    private void WalkLanes(ref Frame frame)
    {
        var box = pattern.Box(ref frame);
        var value = pattern.IsAffine ? *frame.At<AffineValue>(pattern.Address) : default;
        var addresses = pattern.IsAffine ? null : frame.At<long>(pattern.Address);
        var (a0, a1, a2) = pattern.Axes;
        var ((l0, h0), (l1, h1), (l2, h2)) = (box[a0], box[a1], box[a2]);
        var mask = pattern.MaskView is { } view ? frame.At<int>(view.Offset) : null;
        var (maskRow, maskCol) = pattern.MaskView is { } strides ? (strides.RowStride, strides.ColStride) : (0, 0);
        for (var i = l0; i < h0; i++)
        {
            for (var j = l1; j < h1; j++)
            {
                var row = (i * pattern.D1) + j;
                for (var k = l2; k < h2; k++)
                {
                    if (mask is not null && mask[((long)row * maskRow) + ((long)k * maskCol)] == 0) continue;
                    var lane = (row * pattern.D2) + k;
                    var address = pattern.IsAffine
                        ? (byte*)(value.Offset + (((i * value.Stride(a0)) + (j * value.Stride(a1)) + (k * value.Stride(a2))) * elementSize))
                        : (byte*)addresses[lane];
                    if (IsChecked) DebugState.Check(pattern, ref frame, address, 0, lane, 1, elementSize, Kind);
                    Row(ref frame, address, 1, lane, 1);
                }
            }
        }
    }
}

internal sealed unsafe class LoadInstruction<TLane, TFormat>(AccessPattern pattern, LaneView z, TLane other) : AccessInstruction(pattern, TFormat.Size)
    where TLane : unmanaged
    where TFormat : struct, IMemoryFormat<TLane>
{
    protected override AccessKind Kind => AccessKind.Read;

    public override void Execute(ref Frame frame)
    {
        if (Pattern.Mask >= 0 || Pattern.MaskView is not null) new Span<TLane>(frame.At<TLane>(z.Offset), z.Count).Fill(other);
        Walk(ref frame);
    }

    protected override void Row(ref Frame frame, byte* address, long stride, int lane, int count)
    {
        var target = frame.At<TLane>(z.Offset) + lane;
        if (stride == 1)
        {
            if (count == 1) *target = TFormat.Read(address);
            else TFormat.ReadRun(address, target, count);
        }
        else if (stride == 0)
        {
            new Span<TLane>(target, count).Fill(TFormat.Read(address));
        }
        else
        {
            for (var i = 0; i < count; i++) target[i] = TFormat.Read(address + (i * stride * TFormat.Size));
        }
    }
}

internal sealed unsafe class StoreInstruction<TLane, TFormat>(AccessPattern pattern, LaneView value) : AccessInstruction(pattern, TFormat.Size)
    where TLane : unmanaged
    where TFormat : struct, IMemoryFormat<TLane>
{
    protected override AccessKind Kind => AccessKind.Write;

    public override void Execute(ref Frame frame) => Walk(ref frame);

    protected override void Row(ref Frame frame, byte* address, long stride, int lane, int count)
    {
        var (row, column) = (lane / value.Cols, lane % value.Cols);
        var source = frame.At<TLane>(value.Offset) + ((long)row * value.RowStride) + ((long)column * value.ColStride);
        if (stride == 1 && value.ColStride == 1)
        {
            if (count == 1) TFormat.Write(address, *source);
            else TFormat.WriteRun(address, source, count);
        }
        else
        {
            for (var i = 0; i < count; i++) TFormat.Write(address + (i * stride * TFormat.Size), source[(long)i * value.ColStride]);
        }
    }
}

/// <summary>Adds a tile to memory.</summary>
internal sealed unsafe class AccumulateInstruction<T>(AccessPattern pattern, LaneView value) : AccessInstruction(pattern, sizeof(T))
    where T : unmanaged, System.Numerics.IFloatingPointIeee754<T>
{
    protected override AccessKind Kind => AccessKind.Write;

    public override void Execute(ref Frame frame) => Walk(ref frame);

    protected override void Row(ref Frame frame, byte* address, long stride, int lane, int count)
    {
        var source = frame.At<T>(value.Offset) + ((long)(lane / value.Cols) * value.RowStride) + ((long)(lane % value.Cols) * value.ColStride);
        for (var i = 0; i < count; i++) ((T*)address)[i * stride] += source[(long)i * value.ColStride];
    }
}

internal sealed unsafe class AtomicAddInstruction(AccessPattern pattern, LaneView value, LaneView z, bool is32) : AccessInstruction(pattern, is32 ? 4 : 8)
{
    protected override AccessKind Kind => AccessKind.Atomic;

    public override void Execute(ref Frame frame)
    {
        if (Pattern.Mask >= 0 || Pattern.MaskView is not null) new Span<byte>(frame.At<byte>(z.Offset), z.Count * (is32 ? 4 : 8)).Clear();
        Walk(ref frame);
    }

    protected override void Row(ref Frame frame, byte* address, long stride, int lane, int count)
    {
        for (var i = 0; i < count; i++)
        {
            if (is32)
            {
                var added = frame.At<int>(value.Offset)[lane + i];
                frame.At<int>(z.Offset)[lane + i] = Interlocked.Add(ref *(int*)(address + (i * stride * 4)), added) - added;
            }
            else
            {
                var added = frame.At<long>(value.Offset)[lane + i];
                frame.At<long>(z.Offset)[lane + i] = Interlocked.Add(ref *(long*)(address + (i * stride * 8)), added) - added;
            }
        }
    }
}
