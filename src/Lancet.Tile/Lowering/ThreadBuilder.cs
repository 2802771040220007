using Lancet.Tile.IR;
using Lancet.Tile.Lowering.Threads;

namespace Lancet.Tile.Lowering;

/// <summary>
/// Appends instructions to a thread program. Pure instructions are folded where their operands are constants and emitted once where the same
/// one has been computed already on the way to this place. Knows which powers of two divide an integer register, from which alignment follows.
/// </summary>
internal sealed class ThreadBuilder(ThreadProgram program)
{
    private const long MostDivisor = 1L << 30;
    private readonly Stack<(List<ThreadNode> Nodes, Dictionary<Key, Source> Known, int Id)> _scopes = new();
    private readonly Dictionary<int, long> _divisors = [];
    private int _nextRegister = 1;
    private int _nextScope;

    public ThreadProgram Program { get; } = program;

    /// <summary>The thread that counts as the first: of a producer warp, its own.</summary>
    public int FirstThread { get; set; }

    public SourceLocation Location { get; set; } = new("", 0);

    /// <summary>Number of the innermost open scope.</summary>
    public int Scope => _scopes.Peek().Id;

    public bool IsOpen(int scope) => _scopes.Any(open => open.Id == scope);

    public void Open(List<ThreadNode> nodes) => _scopes.Push((nodes, [], _nextScope++));

    public void Close() => _scopes.Pop();

    public Register New(RegisterClass kind) => new(_nextRegister++, kind);

    public static RegisterClass ClassOf(ThreadType type) => type switch
    {
        ThreadType.Predicate => RegisterClass.Predicate,
        ThreadType.B64 or ThreadType.S64 or ThreadType.U64 or ThreadType.F64 => RegisterClass.Bits64,
        _ => RegisterClass.Bits32,
    };

    /// <summary>The largest power of two known to divide an integer operand.</summary>
    public long Divisor(Source source) => source.IsConstant
        ? source.Bits == 0 ? MostDivisor : Math.Min(MostDivisor, source.Bits & -source.Bits)
        : _divisors.GetValueOrDefault(source.Register.Id, 1);

    public void SetDivisor(Register register, long divisor) => _divisors[register.Id] = divisor;

    /// <summary>Emits an instruction without folding or sharing.</summary>
    public void Append(ThreadNode node) => _scopes.Peek().Nodes.Add(node);

    /// <summary>Forgets what was computed from registers that are about to be assigned again.</summary>
    public void Forget(IEnumerable<Register> registers)
    {
        var ids = registers.Select(register => register.Id).ToHashSet();
        bool Uses(Source source) => !source.IsConstant && ids.Contains(source.Register.Id);
        foreach (var scope in _scopes)
            foreach (var key in scope.Known.Keys.Where(key => Uses(key.A) || Uses(key.B) || Uses(key.C)).ToList()) scope.Known.Remove(key);
    }

    /// <summary>Emits an instruction with effects.</summary>
    public void Effect(ThreadOpcode opcode, ThreadType type, Register[] destinations, Source[] sources, Register guard = default, long immediate = 0, int width = 0, bool isTransposed = false, bool isLeftTransposed = false) =>
        Append(new ThreadInstruction(opcode, type, destinations, sources) { Guard = guard, Immediate = immediate, Width = width, IsTransposed = isTransposed, IsLeftTransposed = isLeftTransposed, Location = Location });

    /// <summary>Assigns a register that may be assigned elsewhere too.</summary>
    public void Assign(Register target, Source value)
    {
        if (value.Register == target) return;
        var type = target.Class switch { RegisterClass.Predicate => ThreadType.Predicate, RegisterClass.Bits64 => ThreadType.B64, _ => ThreadType.B32 };
        Effect(ThreadOpcode.Move, type, [target], [value]);
    }

    /// <summary>A constant or register in a register of its own, which may be assigned again.</summary>
    public Register Variable(RegisterClass kind, Source value)
    {
        var register = New(kind);
        Assign(register, value);
        return register;
    }

    public Source Add(ThreadType type, Source a, Source b) => Pure(ThreadOpcode.Add, type, a, b);

    public Source Subtract(ThreadType type, Source a, Source b) => Pure(ThreadOpcode.Subtract, type, a, b);

    public Source Multiply(ThreadType type, Source a, Source b) => Pure(ThreadOpcode.Multiply, type, a, b);

    public Source And(ThreadType type, Source a, Source b) => Pure(ThreadOpcode.And, type, a, b);

    public Source Or(ThreadType type, Source a, Source b) => Pure(ThreadOpcode.Or, type, a, b);

    public Source Xor(ThreadType type, Source a, Source b) => Pure(ThreadOpcode.Xor, type, a, b);

    public Source ShiftLeft(ThreadType type, Source a, int count) => Pure(ThreadOpcode.ShiftLeft, type, a, Source.Constant(count));

    public Source ShiftRight(ThreadType type, Source a, int count) => Pure(ThreadOpcode.ShiftRight, type, a, Source.Constant(count));

    public Source Fma(Source a, Source b, Source c) => Pure(ThreadOpcode.MultiplyAdd, ThreadType.F32, a, b, c);

    public Source Compare(ThreadType type, Comparison comparison, Source a, Source b) => Pure(ThreadOpcode.Compare, type, a, b, comparison: comparison);

    public Source Select(ThreadType type, Source condition, Source a, Source b) => Pure(ThreadOpcode.Select, type, a, b, condition);

    public Source Convert(ThreadType to, ThreadType from, Source a) => Pure(ThreadOpcode.Convert, to, a, sourceType: from);

    public Source Special(SpecialRegister register)
    {
        var value = Pure(ThreadOpcode.ReadSpecial, ThreadType.U32, immediate: (long)register);
        return register == SpecialRegister.ThreadId && FirstThread > 0 ? Subtract(ThreadType.U32, value, Source.Constant(FirstThread)) : value;
    }

    /// <summary>Emits a pure instruction, or finds its result.</summary>
    public Source Pure(
        ThreadOpcode opcode, ThreadType type, Source a = default, Source b = default, Source c = default, long immediate = 0, ThreadType sourceType = default, Comparison comparison = default)
    {
        if (Folding.TryFold(opcode, type, sourceType, comparison, a, b, c) is { } folded) return folded;
        if (Folding.IsCommutative(opcode) && a.IsConstant && !b.IsConstant) (a, b) = (b, a);
        var key = new Key(opcode, type, sourceType, comparison, immediate, a, b, c);
        foreach (var scope in _scopes)
            if (scope.Known.TryGetValue(key, out var known)) return known;
        var result = New(opcode == ThreadOpcode.Compare ? RegisterClass.Predicate : opcode == ThreadOpcode.MultiplyWide ? RegisterClass.Bits64 : ClassOf(type));
        Append(new ThreadInstruction(opcode, type, [result], Operands(opcode, a, b, c)) { Immediate = immediate, SourceType = sourceType, Comparison = comparison, Location = Location });
        _scopes.Peek().Known[key] = result;
        if (type is not (ThreadType.F32 or ThreadType.F64 or ThreadType.Predicate)) TrackDivisor(opcode, result, a, b);
        return result;
    }

    private static Source[] Operands(ThreadOpcode opcode, Source a, Source b, Source c) => opcode switch
    {
        ThreadOpcode.ReadSpecial or ThreadOpcode.LoadParameter or ThreadOpcode.TableAddress => [],
        ThreadOpcode.Move or ThreadOpcode.Not or ThreadOpcode.Negate or ThreadOpcode.Absolute or ThreadOpcode.Exp2Approximate or ThreadOpcode.SquareRoot or ThreadOpcode.Floor
            or ThreadOpcode.Round or ThreadOpcode.Convert or ThreadOpcode.ShuffleXor or ThreadOpcode.ReciprocalApproximate or ThreadOpcode.SharedUnits or ThreadOpcode.DescribeMatrix => [a],
        ThreadOpcode.MultiplyAdd or ThreadOpcode.Select => [a, b, c],
        _ => [a, b],
    };

    private void TrackDivisor(ThreadOpcode opcode, Register result, Source a, Source b)
    {
        long Times(long x, long y) => x >= MostDivisor / y ? MostDivisor : x * y;
        var divisor = opcode switch
        {
            ThreadOpcode.Add or ThreadOpcode.Subtract or ThreadOpcode.Minimum or ThreadOpcode.Maximum or ThreadOpcode.Select or ThreadOpcode.Or or ThreadOpcode.Xor => Math.Min(Divisor(a), Divisor(b)),
            ThreadOpcode.And => Math.Max(Divisor(a), Divisor(b)),
            ThreadOpcode.Multiply or ThreadOpcode.MultiplyWide => Times(Divisor(a), Divisor(b)),
            ThreadOpcode.ShiftLeft when b.IsConstant && b.Bits is >= 0 and < 31 => Times(Divisor(a), 1L << (int)b.Bits),
            ThreadOpcode.Convert or ThreadOpcode.Negate => Divisor(a),
            _ => 1,
        };
        if (divisor > 1) _divisors[result.Id] = divisor;
    }

    private readonly record struct Key(ThreadOpcode Opcode, ThreadType Type, ThreadType SourceType, Comparison Comparison, long Immediate, Source A, Source B, Source C);
}

/// <summary>Arithmetic on constants, and identities, at compile time. Floating-point arithmetic is left alone.</summary>
internal static class Folding
{
    public static bool IsCommutative(ThreadOpcode opcode) => opcode is ThreadOpcode.Add or ThreadOpcode.Multiply or ThreadOpcode.MultiplyWide or ThreadOpcode.And or ThreadOpcode.Or or ThreadOpcode.Xor;

    public static Source? TryFold(ThreadOpcode opcode, ThreadType type, ThreadType sourceType, Comparison comparison, Source a, Source b, Source c)
    {
        if (opcode == ThreadOpcode.Select)
        {
            if (c.IsConstant) return c.Bits != 0 ? a : b;
            return a == b ? a : null;
        }
        if (type == ThreadType.Predicate) return FoldPredicate(opcode, a, b);
        if (type is ThreadType.F32 or ThreadType.F64 or ThreadType.BF16 or ThreadType.F16 || (opcode == ThreadOpcode.Convert && sourceType is ThreadType.F32 or ThreadType.F64 or ThreadType.BF16 or ThreadType.F16)) return null;
        var is64 = ThreadBuilder.ClassOf(type) == RegisterClass.Bits64;
        Source Result(long bits) => Source.Constant(is64 ? bits : type is ThreadType.U32 or ThreadType.U16 or ThreadType.U8 ? (uint)bits : (int)bits);
        if (a.IsConstant && opcode is ThreadOpcode.Negate or ThreadOpcode.Not or ThreadOpcode.Convert && a.IsConstant)
        {
            return opcode switch
            {
                ThreadOpcode.Negate => Result(-a.Bits),
                ThreadOpcode.Not => Result(~a.Bits),
                _ => type is ThreadType.S64 or ThreadType.U64 or ThreadType.B64 ? Source.Constant(sourceType is ThreadType.U32 ? (uint)a.Bits : a.Bits) : Result(a.Bits),
            };
        }
        if (a.IsConstant && b.IsConstant)
        {
            switch (opcode)
            {
                case ThreadOpcode.Add: return Result(unchecked(a.Bits + b.Bits));
                case ThreadOpcode.Subtract: return Result(unchecked(a.Bits - b.Bits));
                case ThreadOpcode.Multiply: return Result(unchecked(a.Bits * b.Bits));
                case ThreadOpcode.MultiplyWide: return Source.Constant(type == ThreadType.U32 ? (long)((ulong)(uint)a.Bits * (uint)b.Bits) : (long)(int)a.Bits * (int)b.Bits);
                case ThreadOpcode.And: return Result(a.Bits & b.Bits);
                case ThreadOpcode.Or: return Result(a.Bits | b.Bits);
                case ThreadOpcode.Xor: return Result(a.Bits ^ b.Bits);
                case ThreadOpcode.ShiftLeft when b.Bits is >= 0 and < 32: return Result(a.Bits << (int)b.Bits);
                case ThreadOpcode.Divide when b.Bits != 0 && type is ThreadType.S32 or ThreadType.S64: return b.Bits == -1 ? null : Result(a.Bits / b.Bits);
                case ThreadOpcode.Remainder when b.Bits != 0 && type is ThreadType.S32 or ThreadType.S64: return b.Bits == -1 ? null : Result(a.Bits % b.Bits);
                case ThreadOpcode.Minimum when type is ThreadType.S32 or ThreadType.S64: return Result(Math.Min(a.Bits, b.Bits));
                case ThreadOpcode.Maximum when type is ThreadType.S32 or ThreadType.S64: return Result(Math.Max(a.Bits, b.Bits));
                case ThreadOpcode.Compare when type is ThreadType.S32 or ThreadType.S64: return Source.Constant(Holds(comparison, a.Bits.CompareTo(b.Bits)) ? 1L : 0L);
            }
        }
        return FoldIdentity(opcode, type, a, b);
    }

    public static bool Holds(Comparison comparison, int order) => comparison switch
    {
        Comparison.Equal => order == 0,
        Comparison.NotEqual => order != 0,
        Comparison.Less => order < 0,
        Comparison.LessOrEqual => order <= 0,
        Comparison.Greater => order > 0,
        _ => order >= 0,
    };

    private static Source? FoldIdentity(ThreadOpcode opcode, ThreadType type, Source a, Source b)
    {
        bool Is(Source source, long value) => source.IsConstant && source.Bits == value;
        switch (opcode)
        {
            case ThreadOpcode.Add or ThreadOpcode.Or or ThreadOpcode.Xor:
                if (Is(b, 0)) return a;
                if (Is(a, 0)) return b;
                break;
            case ThreadOpcode.Subtract or ThreadOpcode.ShiftLeft or ThreadOpcode.ShiftRight:
                if (Is(b, 0)) return a;
                break;
            case ThreadOpcode.Multiply:
                if (Is(b, 1)) return a;
                if (Is(a, 1)) return b;
                if (Is(a, 0) || Is(b, 0)) return Source.Constant(0L);
                break;
            case ThreadOpcode.MultiplyWide when Is(a, 0) || Is(b, 0):
                return Source.Constant(0L);
            case ThreadOpcode.And when Is(a, 0) || Is(b, 0):
                return Source.Constant(0L);
            case ThreadOpcode.Divide when Is(b, 1):
                return a;
        }
        return null;
    }

    private static Source? FoldPredicate(ThreadOpcode opcode, Source a, Source b)
    {
        switch (opcode)
        {
            case ThreadOpcode.Not when a.IsConstant:
                return Source.Constant(a.Bits == 0 ? 1L : 0L);
            case ThreadOpcode.And:
                if (a.IsConstant) return a.Bits != 0 ? b : a;
                if (b.IsConstant) return b.Bits != 0 ? a : b;
                return a == b ? a : null;
            case ThreadOpcode.Or:
                if (a.IsConstant) return a.Bits != 0 ? a : b;
                if (b.IsConstant) return b.Bits != 0 ? b : a;
                return a == b ? a : null;
            case ThreadOpcode.Xor when a.IsConstant && b.IsConstant:
                return Source.Constant(a.Bits ^ b.Bits);
        }
        return null;
    }
}
