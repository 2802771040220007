using Lancet.Tile.IR;
using Lancet.Tile.Lowering.Threads;
using static System.BitConverter;

namespace Lancet.Tile.Tests.Lowering;

/// <summary>Every instruction that computes in registers, against plain C#, over numbers at the edges.</summary>
public class SimulatorArithmeticTests
{
    private static readonly long[] s_integers = [0, 1, -1, 2, 3, -5, 7, 31, 32, 33, 63, 64, 65, 100, 255, 256, 0x8000, 0xFFFF, int.MaxValue, int.MinValue, uint.MaxValue, 0x1_0000_0000, long.MaxValue, long.MinValue, 0x1234_5678_9ABC_DEF0];
    private static readonly float[] s_floats = [0, -0f, 1, -1, 0.5f, 1.5f, 2.5f, -2.5f, 3.3f, 1e-40f, 1e38f, 127.6f, -129, 300, 65536, 70000, 2147483648f, -2147483904f, 4294967296f, 1e19f, float.MaxValue, float.PositiveInfinity, float.NegativeInfinity, float.NaN, 1.00390625f];

    /// <summary>Applies an instruction to all pairs (and a third operand) of the given register values.</summary>
    internal static void Check(ThreadOpcode opcode, ThreadType type, ulong[] values, Func<ulong, ulong, ulong, ulong> expected, ThreadType sourceType = ThreadType.B32, Comparison comparison = default, long immediate = 0)
    {
        var arity = opcode.Arity().Sources;
        var count = values.Length * values.Length;
        var padded = (count + 31) / 32 * 32;
        using var a = new HostArray<ulong>(padded, DType.Int64);
        using var b = new HostArray<ulong>(padded, DType.Int64);
        using var result = new HostArray<ulong>(padded, DType.Int64);
        for (var i = 0; i < padded; i++) (a.Span[i], b.Span[i]) = (values[i / values.Length % values.Length], values[i % values.Length]);
        var lab = new ThreadLab();
        Register[] pointers = [lab.Pointer(), lab.Pointer(), lab.Pointer()];
        var index = lab.Emit(ThreadOpcode.MultiplyAdd, ThreadType.U32, [lab.Emit(ThreadOpcode.ReadSpecial, ThreadType.U32, [], (long)SpecialRegister.ProgramX), Source.Constant(32), lab.ThreadId()]);
        var prototype = new ThreadInstruction(opcode, type, [], new Source[arity]) { SourceType = sourceType };
        var operands = new Source[arity];
        for (var i = 0; i < arity; i++)
        {
            var kind = prototype.SourceTypeOf(i);
            operands[i] = kind.Class() == RegisterClass.Predicate
                ? lab.Emit(ThreadOpcode.Compare, Raw(type), [lab.Load(ThreadOpcode.LoadGlobal, Raw(type), lab.Address(pointers[1], index, 8)), Source.Constant(0)], comparison: Comparison.NotEqual)
                : lab.Load(ThreadOpcode.LoadGlobal, Raw(kind), lab.Address(pointers[i == 1 ? 1 : 0], index, 8));
        }
        var d = lab.Emit(opcode, type, operands, immediate, sourceType, comparison);
        if (d.Class == RegisterClass.Predicate) d = lab.Emit(ThreadOpcode.Select, ThreadType.B64, [Source.Constant(1), Source.Constant(0), d]);
        if (d.Class == RegisterClass.Bits32) d = lab.Emit(ThreadOpcode.Convert, ThreadType.U64, [d], sourceType: ThreadType.U32);
        lab.Store(ThreadOpcode.StoreGlobal, ThreadType.B64, lab.Address(pointers[2], index, 8), d);
        lab.Run(new Grid(padded / 32), a.Argument, b.Argument, result.Argument);
        for (var i = 0; i < count; i++)
        {
            var (x, y) = (Narrowed(a.Span[i], 0), Narrowed(b.Span[i], 1));
            var (wanted, got) = (expected(x, y, x), result.Span[i]);
            if (wanted != got) Assert.Fail($"{opcode}.{type} {sourceType} {comparison} of 0x{x:X} and 0x{y:X}: 0x{wanted:X} expected, 0x{got:X} computed");
        }

        static ThreadType Raw(ThreadType kind) => kind.Class() == RegisterClass.Bits64 ? ThreadType.B64 : ThreadType.B32;

        ulong Narrowed(ulong bits, int operand) => operand < arity && prototype.SourceTypeOf(operand).Class() == RegisterClass.Bits32 ? (uint)bits : bits;
    }

    private static ulong[] Integers => [.. s_integers.Select(value => (ulong)value)];

    private static ulong[] Singles => [.. s_floats.Select(value => (ulong)SingleToUInt32Bits(value))];

    private static ulong[] Doubles => [.. s_floats.Select(value => DoubleToUInt64Bits(value))];

    [Fact]
    public void Integers_of_32_bits()
    {
        void Signed(ThreadOpcode opcode, Func<int, int, int, long> f) => Check(opcode, ThreadType.S32, Integers, (a, b, c) => (uint)f((int)a, (int)b, (int)c));
        void Unsigned(ThreadOpcode opcode, Func<uint, uint, uint, ulong> f) => Check(opcode, ThreadType.U32, Integers, (a, b, c) => (uint)f((uint)a, (uint)b, (uint)c));
        Signed(ThreadOpcode.Add, (a, b, _) => unchecked(a + b));
        Signed(ThreadOpcode.Subtract, (a, b, _) => unchecked(a - b));
        Signed(ThreadOpcode.Multiply, (a, b, _) => unchecked(a * b));
        Signed(ThreadOpcode.MultiplyAdd, (a, b, c) => unchecked(a * b + c));
        Unsigned(ThreadOpcode.MultiplyHigh, (a, b, _) => (ulong)a * b >> 32);
        Signed(ThreadOpcode.Divide, (a, b, _) => b == 0 ? -1 : (long)a / b);
        Unsigned(ThreadOpcode.Divide, (a, b, _) => b == 0 ? uint.MaxValue : a / b);
        Signed(ThreadOpcode.Remainder, (a, b, _) => b == 0 ? a : (long)a % b);
        Unsigned(ThreadOpcode.Remainder, (a, b, _) => b == 0 ? a : a % b);
        Signed(ThreadOpcode.Minimum, (a, b, _) => Math.Min(a, b));
        Unsigned(ThreadOpcode.Minimum, (a, b, _) => Math.Min(a, b));
        Signed(ThreadOpcode.Maximum, (a, b, _) => Math.Max(a, b));
        Unsigned(ThreadOpcode.Maximum, (a, b, _) => Math.Max(a, b));
        Unsigned(ThreadOpcode.And, (a, b, _) => a & b);
        Unsigned(ThreadOpcode.Or, (a, b, _) => a | b);
        Unsigned(ThreadOpcode.Xor, (a, b, _) => a ^ b);
        Unsigned(ThreadOpcode.Not, (a, _, _) => ~a);
        Unsigned(ThreadOpcode.ShiftLeft, (a, b, _) => b >= 32 ? 0 : a << (int)b);
        Unsigned(ThreadOpcode.ShiftRight, (a, b, _) => b >= 32 ? 0 : a >> (int)b);
        Signed(ThreadOpcode.ShiftRight, (a, b, _) => (uint)b >= 32 ? a >> 31 : a >> b);
        Signed(ThreadOpcode.Negate, (a, _, _) => -(long)a);
        Signed(ThreadOpcode.Absolute, (a, _, _) => Math.Abs((long)a));
        Unsigned(ThreadOpcode.Move, (a, _, _) => a);
        Check(ThreadOpcode.MultiplyWide, ThreadType.S32, Integers, (a, b, _) => (ulong)((long)(int)a * (int)b));
        Check(ThreadOpcode.MultiplyWide, ThreadType.U32, Integers, (a, b, _) => (ulong)(uint)a * (uint)b);
        Unsigned(ThreadOpcode.Select, (a, b, _) => b != 0 ? a : b);
    }

    [Fact]
    public void Integers_of_64_bits()
    {
        void Signed(ThreadOpcode opcode, Func<long, long, long, Int128> f) => Check(opcode, ThreadType.S64, Integers, (a, b, c) => unchecked((ulong)f((long)a, (long)b, (long)c)));
        void Unsigned(ThreadOpcode opcode, Func<ulong, ulong, ulong, ulong> f) => Check(opcode, ThreadType.U64, Integers, f);
        Signed(ThreadOpcode.Add, (a, b, _) => (Int128)a + b);
        Signed(ThreadOpcode.Subtract, (a, b, _) => (Int128)a - b);
        Signed(ThreadOpcode.Multiply, (a, b, _) => (Int128)a * b);
        Signed(ThreadOpcode.MultiplyAdd, (a, b, c) => (Int128)a * b + c);
        Signed(ThreadOpcode.Divide, (a, b, _) => b == 0 ? -1 : (Int128)a / b);
        Unsigned(ThreadOpcode.Divide, (a, b, _) => b == 0 ? ulong.MaxValue : a / b);
        Signed(ThreadOpcode.Remainder, (a, b, _) => b == 0 ? a : (Int128)a % b);
        Unsigned(ThreadOpcode.Remainder, (a, b, _) => b == 0 ? a : a % b);
        Signed(ThreadOpcode.Minimum, (a, b, _) => Math.Min(a, b));
        Unsigned(ThreadOpcode.Minimum, (a, b, _) => Math.Min(a, b));
        Signed(ThreadOpcode.Maximum, (a, b, _) => Math.Max(a, b));
        Unsigned(ThreadOpcode.Maximum, (a, b, _) => Math.Max(a, b));
        Unsigned(ThreadOpcode.And, (a, b, _) => a & b);
        Unsigned(ThreadOpcode.Or, (a, b, _) => a | b);
        Unsigned(ThreadOpcode.Xor, (a, b, _) => a ^ b);
        Unsigned(ThreadOpcode.Not, (a, _, _) => ~a);
        Unsigned(ThreadOpcode.ShiftLeft, (a, b, _) => (uint)b >= 64 ? 0 : a << (int)b);
        Unsigned(ThreadOpcode.ShiftRight, (a, b, _) => (uint)b >= 64 ? 0 : a >> (int)b);
        Signed(ThreadOpcode.ShiftRight, (a, b, _) => (uint)b >= 64 ? a >> 63 : a >> (int)b);
        Signed(ThreadOpcode.Negate, (a, _, _) => -(Int128)a);
        Signed(ThreadOpcode.Absolute, (a, _, _) => Int128.Abs(a));
        Unsigned(ThreadOpcode.Select, (a, b, _) => b != 0 ? a : b);
    }

    [Fact]
    public void Numbers_of_fp32()
    {
        void Single(ThreadOpcode opcode, Func<float, float, float, float> f) =>
            Check(opcode, ThreadType.F32, Singles, (a, b, c) => SingleToUInt32Bits(f(UInt32BitsToSingle((uint)a), UInt32BitsToSingle((uint)b), UInt32BitsToSingle((uint)c))));
        Single(ThreadOpcode.Add, (a, b, _) => a + b);
        Single(ThreadOpcode.Subtract, (a, b, _) => a - b);
        Single(ThreadOpcode.Multiply, (a, b, _) => a * b);
        Single(ThreadOpcode.MultiplyAdd, MathF.FusedMultiplyAdd);
        Single(ThreadOpcode.Divide, (a, b, _) => a / b);
        Single(ThreadOpcode.Minimum, (a, b, _) => MathF.Min(a, b));
        Single(ThreadOpcode.Maximum, (a, b, _) => MathF.Max(a, b));
        Single(ThreadOpcode.Negate, (a, _, _) => -a);
        Single(ThreadOpcode.Absolute, (a, _, _) => MathF.Abs(a));
        Single(ThreadOpcode.SquareRoot, (a, _, _) => MathF.Sqrt(a));
        Single(ThreadOpcode.Floor, (a, _, _) => MathF.Floor(a));
        Single(ThreadOpcode.Round, (a, _, _) => MathF.Round(a));
        Single(ThreadOpcode.Exp2Approximate, (a, _, _) => (float)Math.Pow(2, a));
        Single(ThreadOpcode.ReciprocalApproximate, (a, _, _) => 1 / a);
        static float Flushed(float value) => float.IsSubnormal(value) ? MathF.CopySign(0, value) : value;
        Check(ThreadOpcode.ReciprocalApproximate, ThreadType.F32, Singles, (a, _, _) => SingleToUInt32Bits(Flushed(1 / Flushed(UInt32BitsToSingle((uint)a)))), immediate: 1);
        Single(ThreadOpcode.Select, (a, b, _) => SingleToUInt32Bits(b) != 0 ? a : b);
    }

    [Fact]
    public void Numbers_of_fp64()
    {
        void Double(ThreadOpcode opcode, Func<double, double, double, double> f) =>
            Check(opcode, ThreadType.F64, Doubles, (a, b, c) => DoubleToUInt64Bits(f(UInt64BitsToDouble(a), UInt64BitsToDouble(b), UInt64BitsToDouble(c))));
        Double(ThreadOpcode.Add, (a, b, _) => a + b);
        Double(ThreadOpcode.Subtract, (a, b, _) => a - b);
        Double(ThreadOpcode.Multiply, (a, b, _) => a * b);
        Double(ThreadOpcode.MultiplyAdd, Math.FusedMultiplyAdd);
        Double(ThreadOpcode.Divide, (a, b, _) => a / b);
        Double(ThreadOpcode.Minimum, (a, b, _) => Math.Min(a, b));
        Double(ThreadOpcode.Maximum, (a, b, _) => Math.Max(a, b));
        Double(ThreadOpcode.Negate, (a, _, _) => -a);
        Double(ThreadOpcode.Absolute, (a, _, _) => Math.Abs(a));
        Double(ThreadOpcode.SquareRoot, (a, _, _) => Math.Sqrt(a));
        Double(ThreadOpcode.Floor, (a, _, _) => Math.Floor(a));
        Double(ThreadOpcode.Round, (a, _, _) => Math.Round(a));
    }

    [Fact]
    public void Comparisons()
    {
        static ulong Truth<T>(Comparison comparison, T a, T b) where T : System.Numerics.INumber<T> => comparison switch
        {
            Comparison.Equal => a == b,
            Comparison.NotEqual => a != b,
            Comparison.Less => a < b,
            Comparison.LessOrEqual => a <= b,
            Comparison.Greater => a > b,
            _ => a >= b,
        } ? 1UL : 0;
        foreach (var comparison in Enum.GetValues<Comparison>())
        {
            Check(ThreadOpcode.Compare, ThreadType.S32, Integers, (a, b, _) => Truth(comparison, (int)a, (int)b), comparison: comparison);
            Check(ThreadOpcode.Compare, ThreadType.U32, Integers, (a, b, _) => Truth(comparison, (uint)a, (uint)b), comparison: comparison);
            Check(ThreadOpcode.Compare, ThreadType.S64, Integers, (a, b, _) => Truth(comparison, (long)a, (long)b), comparison: comparison);
            Check(ThreadOpcode.Compare, ThreadType.U64, Integers, (a, b, _) => Truth(comparison, a, b), comparison: comparison);
            Check(ThreadOpcode.Compare, ThreadType.F32, Singles, (a, b, _) => Truth(comparison, UInt32BitsToSingle((uint)a), UInt32BitsToSingle((uint)b)), comparison: comparison);
            Check(ThreadOpcode.Compare, ThreadType.F64, Doubles, (a, b, _) => Truth(comparison, UInt64BitsToDouble(a), UInt64BitsToDouble(b)), comparison: comparison);
        }
    }

    [Fact]
    public void Conversions_between_integers()
    {
        void Convert(ThreadType from, ThreadType to, Func<ulong, ulong> f) => Check(ThreadOpcode.Convert, to, Integers, (a, _, _) => f(a), from);
        Convert(ThreadType.S32, ThreadType.S64, a => (ulong)(int)a);
        Convert(ThreadType.U32, ThreadType.S64, a => (uint)a);
        Convert(ThreadType.S64, ThreadType.S32, a => (uint)a);
        Convert(ThreadType.S64, ThreadType.U8, a => (byte)a);
        Convert(ThreadType.S32, ThreadType.S8, a => (uint)(sbyte)a);
        Convert(ThreadType.S32, ThreadType.U8, a => (byte)a);
        Convert(ThreadType.U8, ThreadType.S32, a => (byte)a);
        Convert(ThreadType.S8, ThreadType.S32, a => (uint)(sbyte)a);
        Convert(ThreadType.S8, ThreadType.S64, a => (ulong)(sbyte)a);
        Convert(ThreadType.U16, ThreadType.U32, a => (ushort)a);
        Convert(ThreadType.U8, ThreadType.S8, a => (uint)(sbyte)(byte)a);
    }

    [Fact]
    public void Conversions_between_integers_and_floats()
    {
        void From(ThreadType from, Func<ulong, float> f)
        {
            Check(ThreadOpcode.Convert, ThreadType.F32, Integers, (a, _, _) => SingleToUInt32Bits(f(a)), from);
            Check(ThreadOpcode.Convert, ThreadType.BF16, Integers, (a, _, _) => ((BFloat16)f(a)).Bits, from);
        }
        From(ThreadType.S32, a => (int)a);
        From(ThreadType.U32, a => (uint)a);
        From(ThreadType.S64, a => (long)a);
        From(ThreadType.U8, a => (byte)a);
        From(ThreadType.S8, a => (sbyte)a);
        Check(ThreadOpcode.Convert, ThreadType.F64, Integers, (a, _, _) => DoubleToUInt64Bits((long)a), ThreadType.S64);
        void To(ThreadType to, Func<double, decimal, ulong> f, decimal low, decimal high)
        {
            ulong Saturated(double value) => f(value, double.IsNaN(value) ? 0 : value <= (double)low ? low : value >= (double)high ? high : Math.Truncate((decimal)value));
            Check(ThreadOpcode.Convert, to, Singles, (a, _, _) => Saturated(UInt32BitsToSingle((uint)a)), ThreadType.F32);
            Check(ThreadOpcode.Convert, to, Doubles, (a, _, _) => Saturated(UInt64BitsToDouble(a)), ThreadType.F64);
        }
        To(ThreadType.S32, (_, x) => (uint)(int)x, int.MinValue, int.MaxValue);
        To(ThreadType.U32, (_, x) => (uint)x, 0, uint.MaxValue);
        To(ThreadType.S64, (_, x) => (ulong)(long)x, long.MinValue, long.MaxValue);
        To(ThreadType.S8, (_, x) => (uint)(sbyte)x, sbyte.MinValue, sbyte.MaxValue);
        To(ThreadType.U8, (_, x) => (byte)x, 0, byte.MaxValue);
    }

    [Fact]
    public void Conversions_between_floats()
    {
        static ulong Half(float value) => float.IsNaN(value) ? 0x7FFFu : HalfToUInt16Bits((Half)value);
        static ulong Brain(float value) => float.IsNaN(value) ? 0x7FFFu : ((BFloat16)value).Bits;
        Check(ThreadOpcode.Convert, ThreadType.F64, Singles, (a, _, _) => DoubleToUInt64Bits(UInt32BitsToSingle((uint)a)), ThreadType.F32);
        Check(ThreadOpcode.Convert, ThreadType.F32, Doubles, (a, _, _) => SingleToUInt32Bits((float)UInt64BitsToDouble(a)), ThreadType.F64);
        Check(ThreadOpcode.Convert, ThreadType.BF16, Singles, (a, _, _) => Brain(UInt32BitsToSingle((uint)a)), ThreadType.F32);
        Check(ThreadOpcode.Convert, ThreadType.F16, Singles, (a, _, _) => Half(UInt32BitsToSingle((uint)a)), ThreadType.F32);
        Check(ThreadOpcode.Convert, ThreadType.F32, Integers, (a, _, _) => (uint)a << 16, ThreadType.BF16);
        Check(ThreadOpcode.Convert, ThreadType.F32, Integers, (a, _, _) => SingleToUInt32Bits((float)UInt16BitsToHalf((ushort)a)), ThreadType.F16);
        Check(ThreadOpcode.ConvertPair, ThreadType.BF16, Singles, (a, b, _) => Brain(UInt32BitsToSingle((uint)a)) << 16 | Brain(UInt32BitsToSingle((uint)b)));
        Check(ThreadOpcode.ConvertPair, ThreadType.F16, Singles, (a, b, _) => Half(UInt32BitsToSingle((uint)a)) << 16 | Half(UInt32BitsToSingle((uint)b)));
    }

    [Fact]
    public void Bytes_are_picked_by_nibbles()
    {
        Check(ThreadOpcode.Permute, ThreadType.B32, Integers, (a, _, _) => (uint)a, immediate: 0x3210);
        Check(ThreadOpcode.Permute, ThreadType.B32, Integers, (a, b, _) => (uint)(a & 0xFFFF | b << 16), immediate: 0x5410);
        Check(ThreadOpcode.Permute, ThreadType.B32, Integers, (a, b, _) => (uint)((a >> 16 & 0xFFFF) | (uint)b >> 16 << 16), immediate: 0x7632);
        Check(ThreadOpcode.Permute, ThreadType.B32, Integers, (a, _, _) => (sbyte)a < 0 ? uint.MaxValue : 0, immediate: 0x8888);
    }

    [Fact]
    public void Predicates_combine()
    {
        using var result = new HostArray<uint>(32, DType.Int32);
        var lab = new ThreadLab();
        var pointer = lab.Pointer(DType.Int32);
        var id = lab.ThreadId();
        var low = lab.Emit(ThreadOpcode.Compare, ThreadType.U32, [id, Source.Constant(16)], comparison: Comparison.Less);
        var odd = lab.Emit(ThreadOpcode.Compare, ThreadType.U32, [lab.Emit(ThreadOpcode.And, ThreadType.B32, [id, Source.Constant(1)]), Source.Constant(1)]);
        Register P(ThreadOpcode opcode, params Source[] sources) => lab.Emit(opcode, ThreadType.Predicate, sources);
        Register[] bits =
        [
            P(ThreadOpcode.And, low, odd), P(ThreadOpcode.Or, low, odd), P(ThreadOpcode.Xor, low, odd), P(ThreadOpcode.Not, low), P(ThreadOpcode.Move, odd),
            P(ThreadOpcode.Select, low, odd, odd), P(ThreadOpcode.Select, Source.Constant(1), low, odd), P(ThreadOpcode.And, low, Source.Constant(1)), P(ThreadOpcode.Move, Source.Constant(1)),
            lab.Emit(ThreadOpcode.Compare, ThreadType.Predicate, [low, odd]), lab.Emit(ThreadOpcode.Compare, ThreadType.Predicate, [low, odd], comparison: Comparison.NotEqual),
        ];
        var sum = lab.Constant(ThreadType.B32, 0);
        for (var i = 0; i < bits.Length; i++) sum = lab.Emit(ThreadOpcode.Or, ThreadType.B32, [sum, lab.Emit(ThreadOpcode.Select, ThreadType.B32, [Source.Constant(1 << i), Source.Constant(0), bits[i]])]);
        lab.Store(ThreadOpcode.StoreGlobal, ThreadType.B32, lab.Address(pointer, id, 4), sum);
        lab.Run(result.Argument);
        for (var i = 0; i < 32; i++)
        {
            var (l, o) = (i < 16, i % 2 == 1);
            bool[] expected = [l && o, l || o, l != o, !l, o, o ? l : o, o || l, l, true, l == o, l != o];
            for (var bit = 0; bit < expected.Length; bit++) Assert.True(expected[bit] == ((result.Span[i] >> bit & 1) != 0), $"lane {i}, bit {bit}");
        }
    }
}
