using Lancet.Tile.IR;
using Lancet.Tile.IR.Passes;

namespace Lancet.Tile.Cpu;

/// <summary>
/// An integer or address tile in closed form: Offset + i·S0 + j·S1 + k·S2 at index (i, j, k). Index arithmetic stays in this form as long as it
/// is affine, so that most address tiles are never written out. For addresses, Offset is in bytes and the strides are in elements.
/// </summary>
internal struct AffineValue
{
    public long Offset, S0, S1, S2;

    public readonly long Stride(int axis) => axis switch { 0 => S0, 1 => S1, _ => S2 };

    /// <summary>Whether every element in the given extents lies within int32.</summary>
    public readonly bool FitsInt32(int[] shape)
    {
        var (low, high) = (Offset, Offset);
        for (var axis = 0; axis < shape.Length; axis++)
        {
            var reach = Stride(axis) * (shape[axis] - 1);
            if (reach < 0) low += reach;
            else high += reach;
        }
        return low >= int.MinValue && high <= int.MaxValue;
    }

    public void SetStride(int axis, long value)
    {
        if (axis == 0) S0 = value;
        else if (axis == 1) S1 = value;
        else S2 = value;
    }
}

/// <summary>A mask in closed form: true where every index lies in its axis's half-open interval.</summary>
internal struct BoxMask
{
    public int Low0, High0, Low1, High1, Low2, High2;

    public readonly (int Low, int High) this[int axis] => axis switch { 0 => (Low0, High0), 1 => (Low1, High1), _ => (Low2, High2) };

    public void Set(int axis, int low, int high)
    {
        if (axis == 0) (Low0, High0) = (low, high);
        else if (axis == 1) (Low1, High1) = (low, high);
        else (Low2, High2) = (low, high);
    }
}

internal sealed unsafe class SetAffineInstruction(int target, long offset, long stride) : Instruction
{
    public override void Execute(ref Frame frame) => *frame.At<AffineValue>(target) = new AffineValue { Offset = offset, S0 = stride };
}

internal sealed unsafe class LoadArgumentInstruction(int target, int parameter, bool isFloat) : Instruction
{
    public override void Execute(ref Frame frame)
    {
        if (isFloat) *frame.At<long>(target) = frame.Arguments[parameter];
        else *frame.At<AffineValue>(target) = new AffineValue { Offset = frame.Arguments[parameter] };
    }
}

internal sealed unsafe class ScratchInstruction(int target, int offset) : Instruction
{
    public override void Execute(ref Frame frame) => *frame.At<AffineValue>(target) = new AffineValue { Offset = (long)(frame.Scratch + offset) };
}

internal sealed unsafe class ProgramInstruction(int target, int axis, bool isCount) : Instruction
{
    public override void Execute(ref Frame frame) =>
        *frame.At<AffineValue>(target) = new AffineValue { Offset = isCount ? frame.ProgramCount(axis) : frame.ProgramId(axis) };
}

/// <summary>z = a ± b, or a pointer moved by b elements.</summary>
internal sealed unsafe class AffineAddInstruction(int a, int b, int z, int sign, int elementSize, bool wraps) : Instruction
{
    public override void Execute(ref Frame frame)
    {
        AffineValue* pa = frame.At<AffineValue>(a), pb = frame.At<AffineValue>(b);
        var offset = pa->Offset + (sign * pb->Offset * elementSize);
        *frame.At<AffineValue>(z) = new AffineValue
        {
            Offset = wraps ? (int)offset : offset,
            S0 = pa->S0 + (sign * pb->S0),
            S1 = pa->S1 + (sign * pb->S1),
            S2 = pa->S2 + (sign * pb->S2),
        };
    }
}

/// <summary>z = a · scalar.</summary>
internal sealed unsafe class AffineScaleInstruction(int a, int scalar, int z, bool wraps) : Instruction
{
    public override void Execute(ref Frame frame)
    {
        var pa = frame.At<AffineValue>(a);
        var factor = frame.At<AffineValue>(scalar)->Offset;
        var offset = pa->Offset * factor;
        *frame.At<AffineValue>(z) = new AffineValue { Offset = wraps ? (int)offset : offset, S0 = pa->S0 * factor, S1 = pa->S1 * factor, S2 = pa->S2 * factor };
    }
}

/// <summary>Integer arithmetic on scalars; <paramref name="b"/> is null for operations of one operand. Division by zero gives 0.</summary>
internal sealed unsafe class ScalarIntegerInstruction(Opcode opcode, DType element, int a, int? b, int z) : Instruction
{
    public override void Execute(ref Frame frame)
    {
        var x = frame.At<AffineValue>(a)->Offset;
        var result = b is { } right
            ? ScalarArithmetic.Binary(opcode, element, x, frame.At<AffineValue>(right)->Offset)
            : ScalarArithmetic.Unary(opcode, element, x);
        *frame.At<AffineValue>(z) = new AffineValue { Offset = result ?? 0 };
    }
}

/// <summary>
/// Stops where a closed form passes the ends of int32 and its elements are about to be used as numbers of more than 32 bits: they would be
/// wrapped on other machines, and neither is what the kernel's author meant.
/// </summary>
internal sealed unsafe class CheckInt32Instruction(int a, int[] shape, Operation operation, string kernelName) : Instruction
{
    public override void Execute(ref Frame frame)
    {
        if (frame.At<AffineValue>(a)->FitsInt32(shape)) return;
        throw new TileException($"kernel {kernelName}, {operation.Opcode} at {operation.Location}: an int32 index tile passes 2^31 (program {frame.X}, {frame.Y}, {frame.Z}); compute it in int64, with ToInt64().");
    }
}

/// <summary>The same numbers with axes moved: axis d of the result is axis <c>from[d]</c> of the operand, −1 for a repeated axis.</summary>
internal sealed unsafe class AffineAxesInstruction(int a, int z, int[] from, bool wraps) : Instruction
{
    public override void Execute(ref Frame frame)
    {
        var source = *frame.At<AffineValue>(a);
        var result = new AffineValue { Offset = wraps ? (int)source.Offset : source.Offset };
        for (var axis = 0; axis < from.Length; axis++) result.SetStride(axis, from[axis] < 0 ? 0 : source.Stride(from[axis]));
        *frame.At<AffineValue>(z) = result;
    }
}

/// <summary>A loaded or computed scalar becomes a closed form.</summary>
internal sealed unsafe class ScalarToAffineInstruction(int lane, int z, bool is32) : Instruction
{
    public override void Execute(ref Frame frame) => *frame.At<AffineValue>(z) = new AffineValue { Offset = is32 ? *frame.At<int>(lane) : *frame.At<long>(lane) };
}

/// <summary>A closed form written out as lanes.</summary>
internal sealed unsafe class AffineToLanesInstruction(int a, int z, int[] shape, bool is32, int elementSize) : Instruction
{
    public override void Execute(ref Frame frame)
    {
        var value = *frame.At<AffineValue>(a);
        var (d0, d1, d2) = (shape.Length > 0 ? shape[0] : 1, shape.Length > 1 ? shape[1] : 1, shape.Length > 2 ? shape[2] : 1);
        int* narrow = frame.At<int>(z);
        var wide = frame.At<long>(z);
        for (var i = 0; i < d0; i++)
        {
            for (var j = 0; j < d1; j++)
            {
                var start = value.Offset + (((i * value.S0) + (j * value.S1)) * elementSize);
                for (var k = 0; k < d2; k++)
                {
                    if (is32) *narrow++ = (int)(start + (k * value.S2));
                    else *wide++ = start + (k * value.S2 * elementSize);
                }
            }
        }
    }
}

/// <summary>The mask a ⋚ b where a − b grows or falls along one axis only.</summary>
internal sealed unsafe class BoxCompareInstruction(Comparison comparison, int a, int b, int z, int axis, int[] shape) : Instruction
{
    public override void Execute(ref Frame frame)
    {
        AffineValue* pa = frame.At<AffineValue>(a), pb = frame.At<AffineValue>(b);
        // a ⋚ b  ⇔  offset + stride · i ⋚ 0
        var (offset, stride) = (Difference(pa->Offset, pb->Offset), pa->Stride(axis) - pb->Stride(axis));
        var (low, high) = (0L, (long)shape[axis]);
        var relation = comparison;
        if (relation == Comparison.Less) (offset, relation) = (offset + 1, Comparison.LessOrEqual);
        else if (relation == Comparison.Greater) (offset, relation) = (offset - 1, Comparison.GreaterOrEqual);
        if (relation == Comparison.GreaterOrEqual) (offset, stride, relation) = (-offset, -stride, Comparison.LessOrEqual);
        if (stride == 0)
        {
            if (relation == Comparison.LessOrEqual ? offset > 0 : offset != 0) high = low;
        }
        else if (relation == Comparison.LessOrEqual)
        {
            // stride · i ≤ −offset
            if (stride > 0) high = Math.Min(high, FloorDivide(-offset, stride) + 1);
            else low = Math.Max(low, -FloorDivide(-offset, -stride));
        }
        else if (-offset % stride != 0 || -offset / stride < 0 || -offset / stride >= high)
        {
            high = low;
        }
        else
        {
            (low, high) = (-offset / stride, (-offset / stride) + 1);
        }
        var box = new BoxMask { High0 = 1, High1 = 1, High2 = 1 };
        for (var d = 0; d < shape.Length; d++) box.Set(d, 0, shape[d]);
        box.Set(axis, (int)Math.Min(low, shape[axis]), (int)Math.Max(high, 0));
        *frame.At<BoxMask>(z) = box;
    }

    /// <summary>x − y, kept a little away from the ends of int64 so that it can be negated and moved by 1; too far from 0 to matter there.</summary>
    private static long Difference(long x, long y)
    {
        var difference = x - y;
        if (((x ^ y) & (x ^ difference)) < 0) difference = x < 0 ? long.MinValue : long.MaxValue;
        return Math.Clamp(difference, long.MinValue + 2, long.MaxValue - 2);
    }

    private static long FloorDivide(long x, long y) => (x / y) - (x % y != 0 && (x < 0) != (y < 0) ? 1 : 0);
}

internal sealed unsafe class BoxAndInstruction(int a, int b, int z) : Instruction
{
    public override void Execute(ref Frame frame)
    {
        BoxMask pa = *frame.At<BoxMask>(a), pb = *frame.At<BoxMask>(b);
        *frame.At<BoxMask>(z) = new BoxMask
        {
            Low0 = Math.Max(pa.Low0, pb.Low0),
            High0 = Math.Min(pa.High0, pb.High0),
            Low1 = Math.Max(pa.Low1, pb.Low1),
            High1 = Math.Min(pa.High1, pb.High1),
            Low2 = Math.Max(pa.Low2, pb.Low2),
            High2 = Math.Min(pa.High2, pb.High2),
        };
    }
}

/// <summary>A box moved to other axes; repeated axes (−1, or extent 1 to more) are all in or all out.</summary>
internal sealed unsafe class BoxAxesInstruction(int a, int z, int[] from, int[] fromShape, int[] shape) : Instruction
{
    public override void Execute(ref Frame frame)
    {
        var source = *frame.At<BoxMask>(a);
        var result = new BoxMask { High0 = 1, High1 = 1, High2 = 1 };
        var isEmpty = false;
        for (var axis = 0; axis < fromShape.Length; axis++) isEmpty |= source[axis].High <= source[axis].Low;
        for (var axis = 0; axis < shape.Length; axis++)
        {
            if (isEmpty) result.Set(axis, 0, 0);
            else if (from[axis] < 0 || fromShape[from[axis]] != shape[axis]) result.Set(axis, 0, shape[axis]);
            else result.Set(axis, source[from[axis]].Low, source[from[axis]].High);
        }
        *frame.At<BoxMask>(z) = result;
    }
}

internal sealed unsafe class BoxToLanesInstruction(int a, int z, int[] shape) : Instruction
{
    public override void Execute(ref Frame frame)
    {
        var box = *frame.At<BoxMask>(a);
        var (d0, d1, d2) = (shape.Length > 0 ? shape[0] : 1, shape.Length > 1 ? shape[1] : 1, shape.Length > 2 ? shape[2] : 1);
        var lane = frame.At<int>(z);
        for (var i = 0; i < d0; i++)
            for (var j = 0; j < d1; j++)
                for (var k = 0; k < d2; k++)
                    *lane++ = i >= box.Low0 && i < box.High0 && j >= box.Low1 && j < box.High1 && k >= box.Low2 && k < box.High2 ? -1 : 0;
    }
}
