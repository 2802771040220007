using Lancet.Tile.IR;
using Lancet.Tile.Lowering.Threads;
using static System.BitConverter;
using Operation = System.Func<ulong, ulong, ulong, ulong>;

namespace Lancet.Tile.Lowering.Simulator;

/// <summary>
/// Arithmetic of one lane, as functions of up to three register values (32-bit values in the low half, predicates as 0 or 1). Results are
/// those of the PTX instruction that the printer writes; conversions are in the other part.
/// </summary>
internal static partial class ScalarOperations
{
    /// <summary>The function of an instruction, or null if it needs memory or other lanes.</summary>
    /// <exception cref="TileException">The instruction does not exist for its type.</exception>
    public static Operation? For(ThreadInstruction instruction, ThreadProgram program) => instruction.Opcode switch
    {
        ThreadOpcode.ReadSpecial or ThreadOpcode.LoadParameter or ThreadOpcode.TableAddress or ThreadOpcode.LoadGlobal or ThreadOpcode.StoreGlobal or
            ThreadOpcode.AtomicAdd or ThreadOpcode.LoadShared or ThreadOpcode.StoreShared or ThreadOpcode.CopyAsync or ThreadOpcode.CommitCopies or
            ThreadOpcode.WaitCopies or ThreadOpcode.Barrier or ThreadOpcode.ShuffleXor or ThreadOpcode.ShuffleIndex or ThreadOpcode.LoadMatrix or ThreadOpcode.MatrixMultiply or
            ThreadOpcode.WarpGroupMultiply or ThreadOpcode.WarpGroupFence or ThreadOpcode.CommitProducts or ThreadOpcode.WaitProducts or ThreadOpcode.ProxyFence or
            ThreadOpcode.AddGlobal or ThreadOpcode.AwaitFlag or ThreadOpcode.SignalFlag or ThreadOpcode.NamedArrive or ThreadOpcode.NamedWait or
            ThreadOpcode.StoreCluster or ThreadOpcode.ClusterArrive or ThreadOpcode.ClusterWait or
            ThreadOpcode.InitializeMbarrier or ThreadOpcode.ExpectBytes or ThreadOpcode.CopyTensor or ThreadOpcode.AwaitBytes => null,
        _ => Create(instruction) ?? throw new TileException($"kernel {program.Name}, {instruction.Location}: {instruction.Opcode} does not exist for {(instruction.Opcode == ThreadOpcode.Convert ? instruction.SourceType + " to " : "")}{instruction.Type}."),
    };

    private static Operation? Create(ThreadInstruction i)
    {
        switch (i.Opcode)
        {
            case ThreadOpcode.Move: return static (a, _, _) => a;
            case ThreadOpcode.And: return static (a, b, _) => a & b;
            case ThreadOpcode.Or: return static (a, b, _) => a | b;
            case ThreadOpcode.Xor: return static (a, b, _) => a ^ b;
            case ThreadOpcode.Not:
                return i.Type.Class() switch
                {
                    RegisterClass.Predicate => static (a, _, _) => a ^ 1,
                    RegisterClass.Bits64 => static (a, _, _) => ~a,
                    _ => static (a, _, _) => (uint)~a,
                };
            case ThreadOpcode.Select: return static (a, b, condition) => condition != 0 ? a : b;
            case ThreadOpcode.Compare: return Compare(i.Type, i.Comparison);
            case ThreadOpcode.Convert: return Convert(i.SourceType, i.Type);
            case ThreadOpcode.ConvertPair:
                return i.Type switch
                {
                    ThreadType.BF16 => static (a, b, _) => ToBFloat16(F(a)) << 16 | ToBFloat16(F(b)),
                    ThreadType.F16 => static (a, b, _) => ToFloat16(F(a)) << 16 | ToFloat16(F(b)),
                    _ => null,
                };
            case ThreadOpcode.Exp2Approximate when i.Type == ThreadType.F32 && i.Immediate != 0:
                return static (a, _, _) => Math.Pow(2, F(a)) is var power && power < 1.17549435e-38 ? 0 : B((float)power);
            case ThreadOpcode.ReciprocalApproximate when i.Type == ThreadType.F32 && i.Immediate != 0:
                return static (a, _, _) => B(Flushed(1 / Flushed(F(a))));
            case ThreadOpcode.DescribeMatrix:
                var high = (ulong)i.Immediate << 32;
                return (a, _, _) => high | (uint)a;
            case ThreadOpcode.SharedUnits: return static (a, _, _) => (uint)a / MatrixDescriptor.AddressUnit;
            case ThreadOpcode.Permute: return Permute((int)i.Immediate);
            case ThreadOpcode.MultiplyWide:
                return i.Type.IsSigned()
                ? static (a, b, _) => (ulong)((long)(int)a * (int)b)
                : static (a, b, _) => (ulong)(uint)a * (uint)b;
            default:
                return i.Type switch
                {
                    ThreadType.F32 => OfSingle(i.Opcode),
                    ThreadType.F64 => OfDouble(i.Opcode),
                    ThreadType.B64 or ThreadType.S64 or ThreadType.U64 => Of64Bits(i.Opcode, i.Type.IsSigned()),
                    ThreadType.Predicate or ThreadType.BF16 or ThreadType.F16 => null,
                    _ => Of32Bits(i.Opcode, i.Type.IsSigned()),
                };
        }
    }

    private static Operation? OfSingle(ThreadOpcode opcode) => opcode switch
    {
        ThreadOpcode.Add => static (a, b, _) => B(F(a) + F(b)),
        ThreadOpcode.Subtract => static (a, b, _) => B(F(a) - F(b)),
        ThreadOpcode.Multiply => static (a, b, _) => B(F(a) * F(b)),
        ThreadOpcode.MultiplyAdd => static (a, b, c) => B(MathF.FusedMultiplyAdd(F(a), F(b), F(c))),
        ThreadOpcode.Divide => static (a, b, _) => B(F(a) / F(b)),
        ThreadOpcode.Minimum => static (a, b, _) => B(MathF.Min(F(a), F(b))),
        ThreadOpcode.Maximum => static (a, b, _) => B(MathF.Max(F(a), F(b))),
        ThreadOpcode.Negate => static (a, _, _) => a ^ 0x8000_0000,
        ThreadOpcode.Absolute => static (a, _, _) => a & 0x7FFF_FFFF,
        ThreadOpcode.Exp2Approximate => static (a, _, _) => B((float)Math.Pow(2, F(a))),
        ThreadOpcode.ReciprocalApproximate => static (a, _, _) => B(1 / F(a)),
        ThreadOpcode.SquareRoot => static (a, _, _) => B(MathF.Sqrt(F(a))),
        ThreadOpcode.Floor => static (a, _, _) => B(MathF.Floor(F(a))),
        ThreadOpcode.Round => static (a, _, _) => B(MathF.Round(F(a), MidpointRounding.ToEven)),
        _ => null,
    };

    private static Operation? OfDouble(ThreadOpcode opcode) => opcode switch
    {
        ThreadOpcode.Add => static (a, b, _) => B(D(a) + D(b)),
        ThreadOpcode.Subtract => static (a, b, _) => B(D(a) - D(b)),
        ThreadOpcode.Multiply => static (a, b, _) => B(D(a) * D(b)),
        ThreadOpcode.MultiplyAdd => static (a, b, c) => B(Math.FusedMultiplyAdd(D(a), D(b), D(c))),
        ThreadOpcode.Divide => static (a, b, _) => B(D(a) / D(b)),
        ThreadOpcode.Minimum => static (a, b, _) => B(Math.Min(D(a), D(b))),
        ThreadOpcode.Maximum => static (a, b, _) => B(Math.Max(D(a), D(b))),
        ThreadOpcode.Negate => static (a, _, _) => a ^ 0x8000_0000_0000_0000,
        ThreadOpcode.Absolute => static (a, _, _) => a & 0x7FFF_FFFF_FFFF_FFFF,
        ThreadOpcode.SquareRoot => static (a, _, _) => B(Math.Sqrt(D(a))),
        ThreadOpcode.Floor => static (a, _, _) => B(Math.Floor(D(a))),
        ThreadOpcode.Round => static (a, _, _) => B(Math.Round(D(a), MidpointRounding.ToEven)),
        _ => null,
    };

    // Division by zero gives all ones and leaves the dividend as the remainder, as NVIDIA's GPUs do (PTX leaves it open).
    private static Operation? Of32Bits(ThreadOpcode opcode, bool signed) => opcode switch
    {
        ThreadOpcode.Add => static (a, b, _) => (uint)(a + b),
        ThreadOpcode.Subtract => static (a, b, _) => (uint)(a - b),
        ThreadOpcode.Multiply => static (a, b, _) => (uint)(a * b),
        ThreadOpcode.MultiplyAdd => static (a, b, c) => (uint)(a * b + c),
        ThreadOpcode.MultiplyHigh when signed => static (a, b, _) => (uint)((long)(int)a * (int)b >> 32),
        ThreadOpcode.MultiplyHigh => static (a, b, _) => (ulong)(uint)a * (uint)b >> 32,
        ThreadOpcode.Divide when signed => static (a, b, _) => (int)b == 0 ? uint.MaxValue : (uint)((long)(int)a / (int)b),
        ThreadOpcode.Divide => static (a, b, _) => b == 0 ? uint.MaxValue : a / b,
        ThreadOpcode.Remainder when signed => static (a, b, _) => (int)b == 0 ? a : (uint)((long)(int)a % (int)b),
        ThreadOpcode.Remainder => static (a, b, _) => b == 0 ? a : a % b,
        ThreadOpcode.Minimum when signed => static (a, b, _) => (int)a < (int)b ? a : b,
        ThreadOpcode.Minimum => static (a, b, _) => Math.Min(a, b),
        ThreadOpcode.Maximum when signed => static (a, b, _) => (int)a > (int)b ? a : b,
        ThreadOpcode.Maximum => static (a, b, _) => Math.Max(a, b),
        ThreadOpcode.ShiftLeft => static (a, b, _) => b > 31 ? 0 : (uint)(a << (int)b),
        ThreadOpcode.ShiftRight when signed => static (a, b, _) => (uint)((int)a >> (int)Math.Min(b, 31)),
        ThreadOpcode.ShiftRight => static (a, b, _) => b > 31 ? 0 : a >> (int)b,
        ThreadOpcode.Negate => static (a, _, _) => (uint)-(long)a,
        ThreadOpcode.Absolute => static (a, _, _) => (uint)Math.Abs((long)(int)a),
        _ => null,
    };

    private static Operation? Of64Bits(ThreadOpcode opcode, bool signed) => opcode switch
    {
        ThreadOpcode.Add => static (a, b, _) => a + b,
        ThreadOpcode.Subtract => static (a, b, _) => a - b,
        ThreadOpcode.Multiply => static (a, b, _) => a * b,
        ThreadOpcode.MultiplyAdd => static (a, b, c) => a * b + c,
        ThreadOpcode.Divide when signed => static (a, b, _) => (long)b switch { 0 => ulong.MaxValue, -1 => 0 - a, var divisor => (ulong)((long)a / divisor) },
        ThreadOpcode.Divide => static (a, b, _) => b == 0 ? ulong.MaxValue : a / b,
        ThreadOpcode.Remainder when signed => static (a, b, _) => (long)b switch { 0 => a, -1 => 0, var divisor => (ulong)((long)a % divisor) },
        ThreadOpcode.Remainder => static (a, b, _) => b == 0 ? a : a % b,
        ThreadOpcode.Minimum when signed => static (a, b, _) => (ulong)Math.Min((long)a, (long)b),
        ThreadOpcode.Minimum => static (a, b, _) => Math.Min(a, b),
        ThreadOpcode.Maximum when signed => static (a, b, _) => (ulong)Math.Max((long)a, (long)b),
        ThreadOpcode.Maximum => static (a, b, _) => Math.Max(a, b),
        ThreadOpcode.ShiftLeft => static (a, b, _) => b > 63 ? 0 : a << (int)b,
        ThreadOpcode.ShiftRight when signed => static (a, b, _) => (ulong)((long)a >> (int)Math.Min(b, 63)),
        ThreadOpcode.ShiftRight => static (a, b, _) => b > 63 ? 0 : a >> (int)b,
        ThreadOpcode.Negate => static (a, _, _) => 0 - a,
        ThreadOpcode.Absolute => static (a, _, _) => (long)a < 0 ? 0 - a : a,
        _ => null,
    };

    private static Operation? Compare(ThreadType type, Comparison comparison)
    {
        if (type == ThreadType.Predicate && comparison is not (Comparison.Equal or Comparison.NotEqual)) return null;
        switch (type)
        {
            case ThreadType.BF16 or ThreadType.F16: return null;
            case ThreadType.F32 or ThreadType.F64:
                Func<ulong, double> value = type == ThreadType.F32 ? static bits => F(bits) : static bits => D(bits);
                return comparison switch
                {
                    Comparison.Equal => (a, b, _) => P(value(a) == value(b)),
                    Comparison.NotEqual => (a, b, _) => P(value(a) != value(b)),
                    Comparison.Less => (a, b, _) => P(value(a) < value(b)),
                    Comparison.LessOrEqual => (a, b, _) => P(value(a) <= value(b)),
                    Comparison.Greater => (a, b, _) => P(value(a) > value(b)),
                    _ => (a, b, _) => P(value(a) >= value(b)),
                };
            default:
                // Flipping the sign bit turns signed order into unsigned order.
                var flip = !type.IsSigned() ? 0 : type == ThreadType.S64 ? 1UL << 63 : 1UL << 31;
                return comparison switch
                {
                    Comparison.Equal => static (a, b, _) => P(a == b),
                    Comparison.NotEqual => static (a, b, _) => P(a != b),
                    Comparison.Less => (a, b, _) => P((a ^ flip) < (b ^ flip)),
                    Comparison.LessOrEqual => (a, b, _) => P((a ^ flip) <= (b ^ flip)),
                    Comparison.Greater => (a, b, _) => P((a ^ flip) > (b ^ flip)),
                    _ => (a, b, _) => P((a ^ flip) >= (b ^ flip)),
                };
        }
    }

    private static Operation Permute(int selector) => (a, b, _) =>
    {
        var bytes = b << 32 | a;
        uint result = 0;
        for (var i = 0; i < 4; i++)
        {
            var nibble = selector >> 4 * i & 15;
            var picked = (uint)(bytes >> 8 * (nibble & 7)) & 0xFF;
            if ((nibble & 8) != 0) picked = (picked & 0x80) != 0 ? 0xFFu : 0;
            result |= picked << 8 * i;
        }
        return result;
    };

    private static float F(ulong bits) => UInt32BitsToSingle((uint)bits);

    private static float Flushed(float value) => float.IsSubnormal(value) ? MathF.CopySign(0, value) : value;

    private static double D(ulong bits) => UInt64BitsToDouble(bits);

    private static ulong B(float value) => SingleToUInt32Bits(value);

    private static ulong B(double value) => DoubleToUInt64Bits(value);

    private static ulong P(bool value) => value ? 1UL : 0;
}
