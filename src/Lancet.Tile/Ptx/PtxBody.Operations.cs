using Lancet.Tile.IR;
using Lancet.Tile.Lowering.Threads;

namespace Lancet.Tile.Ptx;

internal sealed partial class PtxBody
{
    private void WriteOperation(ThreadInstruction i)
    {
        switch (i.Opcode)
        {
            case ThreadOpcode.Move:
                Guarded($"mov.{MoveType(i.Type)} {D(i)}, {(i.Type == ThreadType.Predicate && i.Sources[0].IsConstant ? (i.Sources[0].Bits & 1) * -1 : Operand(i, 0))};");
                break;
            case ThreadOpcode.Add: Arithmetic(i, "add", "add"); break;
            case ThreadOpcode.Subtract: Arithmetic(i, "sub", "sub"); break;
            case ThreadOpcode.Multiply: Arithmetic(i, "mul", "mul.lo"); break;
            case ThreadOpcode.MultiplyAdd: Arithmetic(i, "fma.rn", "mad.lo"); break;
            case ThreadOpcode.MultiplyHigh: Arithmetic(i, null, "mul.hi"); break;
            case ThreadOpcode.MultiplyWide: Plain(i, i.Type.IsSigned() ? "mul.wide.s32" : "mul.wide.u32"); break;
            case ThreadOpcode.Divide: Arithmetic(i, "div.rn", "div"); break;
            case ThreadOpcode.Remainder: Arithmetic(i, null, "rem"); break;
            case ThreadOpcode.Minimum: Extremum(i, "min"); break;
            case ThreadOpcode.Maximum: Extremum(i, "max"); break;
            case ThreadOpcode.And: Plain(i, $"and.{Bits(i.Type)}"); break;
            case ThreadOpcode.Or: Plain(i, $"or.{Bits(i.Type)}"); break;
            case ThreadOpcode.Xor: Plain(i, $"xor.{Bits(i.Type)}"); break;
            case ThreadOpcode.Not: Plain(i, $"not.{Bits(i.Type)}"); break;
            case ThreadOpcode.ShiftLeft: Plain(i, $"shl.{Bits(i.Type)}"); break;
            case ThreadOpcode.ShiftRight: Plain(i, $"shr.{Integer(i)}"); break;
            case ThreadOpcode.Negate: Plain(i, i.Type.IsFloat() ? $"neg.{Float(i)}" : $"neg.{Signed(i)}"); break;
            case ThreadOpcode.Absolute: Plain(i, i.Type.IsFloat() ? $"abs.{Float(i)}" : $"abs.{Signed(i)}"); break;
            case ThreadOpcode.Exp2Approximate when i.Type == ThreadType.F32: Plain(i, i.Immediate == 0 ? "ex2.approx.f32" : "ex2.approx.ftz.f32"); break;
            case ThreadOpcode.ReciprocalApproximate when i.Type == ThreadType.F32: Plain(i, i.Immediate == 0 ? "rcp.approx.f32" : "rcp.approx.ftz.f32"); break;
            case ThreadOpcode.SquareRoot: Plain(i, $"sqrt.rn.{Float(i)}"); break;
            case ThreadOpcode.Floor: Plain(i, $"cvt.rmi.{Float(i)}.{Float(i)}"); break;
            case ThreadOpcode.Round: Plain(i, $"cvt.rni.{Float(i)}.{Float(i)}"); break;
            case ThreadOpcode.Compare: Compare(i); break;
            case ThreadOpcode.Select: Select(i); break;
            case ThreadOpcode.Convert: Convert(i, i.SourceType, i.Type, D(i), InRegister(i, 0)); break;
            case ThreadOpcode.ConvertPair: Plain(i, $"cvt.rn.{Half(i, i.Type)}x2.f32"); break;
            case ThreadOpcode.Permute: Guarded($"prmt.b32 {D(i)}, {Operand(i, 0)}, {Operand(i, 1)}, 0x{i.Immediate & 0xFFFF:X4};"); break;
            case ThreadOpcode.ReadSpecial: Guarded($"mov.u32 {D(i)}, {Special(i)};"); break;
            case ThreadOpcode.LoadParameter: LoadParameter(i); break;
            case ThreadOpcode.TableAddress: Guarded($"mov.u64 {D(i)}, {TableName(program, (int)i.Immediate)};"); break;
            case ThreadOpcode.ShuffleXor: Shuffle(i); break;
            case ThreadOpcode.ShuffleIndex: Line($"shfl.sync.idx.b32 {D(i)}, {InRegister(i, 0)}, {InRegister(i, 1)}, 31, 0xffffffff;"); break;
            case ThreadOpcode.Barrier: Line(program.ProducerWarps == 0 ? "bar.sync 0;" : $"bar.sync 0, {program.Warps * 32};"); break;
            case ThreadOpcode.NamedArrive: Line($"bar.arrive {InRegister(i, 0)}, {i.Immediate};"); break;
            case ThreadOpcode.NamedWait: Line($"bar.sync {InRegister(i, 0)}, {i.Immediate};"); break;
            default: WriteMemoryOperation(i); break;
        }
    }

    private string D(ThreadInstruction instruction) => Name(instruction.Destinations[0]);

    /// <summary>An instruction whose operands are its destination and all its sources in order.</summary>
    private void Plain(ThreadInstruction i, string mnemonic)
    {
        var operands = D(i);
        for (var index = 0; index < i.Sources.Length; index++) operands += ", " + (index == 0 && i.Sources.Length < 3 ? InRegister(i, 0) : Operand(i, index));
        Guarded($"{mnemonic} {operands};");
    }

    private void Arithmetic(ThreadInstruction i, string? ofFloats, string ofIntegers)
    {
        if (i.Type == ThreadType.F32 || i.Type == ThreadType.F64) Plain(i, $"{ofFloats ?? throw Error(i, "no such operation on floating-point numbers")}.{Float(i)}");
        else Plain(i, $"{ofIntegers}.{(ofIntegers is "add" or "sub" or "mul.lo" or "mad.lo" ? Signed(i) : Integer(i))}");
    }

    private void Extremum(ThreadInstruction i, string mnemonic)
    {
        if (i.Type == ThreadType.F32)
        {
            Plain(i, mnemonic + ".NaN.f32");
            return;
        }
        if (i.Type != ThreadType.F64)
        {
            Plain(i, $"{mnemonic}.{Integer(i)}");
            return;
        }
        // min and max of fp64 ignore NaNs and have no variant that keeps them; a sum keeps them.
        string a = InRegister(i, 0), b = InRegister(i, 1), least = Scratch(RegisterClass.Bits64), sum = Scratch(RegisterClass.Bits64), isNaN = Scratch(RegisterClass.Predicate);
        Line($"{mnemonic}.f64 {least}, {a}, {b};");
        Line($"add.f64 {sum}, {a}, {b};");
        Line($"setp.nan.f64 {isNaN}, {a}, {b};");
        Guarded($"selp.b64 {D(i)}, {sum}, {least}, {isNaN};");
    }

    private void Compare(ThreadInstruction i)
    {
        string a = InRegister(i, 0), b = Operand(i, 1);
        if (i.Type == ThreadType.Predicate)
        {
            if (i.Comparison is not (Comparison.Equal or Comparison.NotEqual)) throw Error(i, "predicates have no order");
            var differ = i.Comparison == Comparison.NotEqual ? D(i) : Scratch(RegisterClass.Predicate);
            Guarded($"xor.pred {differ}, {a}, {b};");
            if (i.Comparison == Comparison.Equal) Guarded($"not.pred {D(i)}, {differ};");
            return;
        }
        var comparison = i.Comparison switch
        {
            Comparison.Equal => "eq",
            Comparison.NotEqual => i.Type.IsFloat() ? "neu" : "ne",
            Comparison.Less => "lt",
            Comparison.LessOrEqual => "le",
            Comparison.Greater => "gt",
            _ => "ge",
        };
        Guarded($"setp.{comparison}.{(i.Type.IsFloat() ? Float(i) : Integer(i))} {D(i)}, {a}, {b};");
    }

    private void Select(ThreadInstruction i)
    {
        string a = Operand(i, 0), b = Operand(i, 1), condition = InRegister(i, 2);
        if (i.Type != ThreadType.Predicate)
        {
            Guarded($"selp.{MoveType(i.Type)} {D(i)}, {a}, {b}, {condition};");
            return;
        }
        string first = Scratch(RegisterClass.Predicate), second = Scratch(RegisterClass.Predicate);
        Line($"and.pred {first}, {a}, {condition};");
        Line($"not.pred {second}, {condition};");
        Line($"and.pred {second}, {b}, {second};");
        Guarded($"or.pred {D(i)}, {first}, {second};");
    }

    private void LoadParameter(ThreadInstruction i)
    {
        var parameter = (int)i.Immediate;
        Guarded($"ld.param.{Bits(i.Type)} {D(i)}, [{ParameterName(program, parameter)}];");
        if (program.Parameters[parameter].Value.Type.IsPointer) Guarded($"cvta.to.global.u64 {D(i)}, {D(i)};");
    }

    private void Shuffle(ThreadInstruction i)
    {
        var a = InRegister(i, 0);
        if (i.Type.Class() == RegisterClass.Bits32)
        {
            Line($"shfl.sync.bfly.b32 {D(i)}, {a}, {i.Immediate}, 31, 0xffffffff;");
            return;
        }
        if (i.Type.Class() != RegisterClass.Bits64) throw Error(i, "predicates cannot be shuffled");
        string low = Scratch(RegisterClass.Bits32), high = Scratch(RegisterClass.Bits32);
        Line($"mov.b64 {{{low}, {high}}}, {a};");
        Line($"shfl.sync.bfly.b32 {low}, {low}, {i.Immediate}, 31, 0xffffffff;");
        Line($"shfl.sync.bfly.b32 {high}, {high}, {i.Immediate}, 31, 0xffffffff;");
        Line($"mov.b64 {D(i)}, {{{low}, {high}}};");
    }

    private string Special(ThreadInstruction i) => (SpecialRegister)i.Immediate switch
    {
        SpecialRegister.ThreadId => "%tid.x",
        SpecialRegister.ProgramX => "%ctaid.x",
        SpecialRegister.ProgramY => "%ctaid.y",
        SpecialRegister.ProgramZ => "%ctaid.z",
        SpecialRegister.ProgramCountX => "%nctaid.x",
        SpecialRegister.ProgramCountY => "%nctaid.y",
        SpecialRegister.ProgramCountZ => "%nctaid.z",
        _ => throw Error(i, $"special register {i.Immediate}"),
    };

    /// <summary>f32 or f64; arithmetic on 16-bit numbers is done in fp32.</summary>
    private string Float(ThreadInstruction i) => i.Type switch
    {
        ThreadType.F32 => "f32",
        ThreadType.F64 => "f64",
        _ => throw Error(i, "fp32 or fp64 is needed"),
    };

    private string Half(ThreadInstruction i, ThreadType type) => type switch
    {
        ThreadType.BF16 => "bf16",
        ThreadType.F16 => "f16",
        _ => throw Error(i, $"bf16 or fp16 is needed, not {type}"),
    };

    /// <summary>The integer type of the instruction; untyped bits count as unsigned, narrow ones are held extended.</summary>
    private string Integer(ThreadInstruction i) => i.Type switch
    {
        ThreadType.S8 or ThreadType.S32 => "s32",
        ThreadType.S64 => "s64",
        ThreadType.B64 or ThreadType.U64 => "u64",
        ThreadType.U8 or ThreadType.U16 or ThreadType.B32 or ThreadType.U32 => "u32",
        _ => throw Error(i, "an integer type is needed"),
    };

    private string Signed(ThreadInstruction i) => Integer(i).Replace('u', 's');
}
