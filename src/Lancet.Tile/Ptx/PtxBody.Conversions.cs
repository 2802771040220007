using Lancet.Tile.Lowering.Threads;

namespace Lancet.Tile.Ptx;

internal sealed partial class PtxBody
{
    private void Convert(ThreadInstruction i, ThreadType from, ThreadType to, string d, string a)
    {
        if (from == ThreadType.Predicate || to == ThreadType.Predicate) throw Error(i, "predicates are selected and compared, not converted");
        switch (from.IsFloat(), to.IsFloat())
        {
            case (true, true): FloatToFloat(i, from, to, d, a); break;
            case (true, false): FloatToInteger(i, from, to, d, a); break;
            case (false, true): IntegerToFloat(i, from, to, d, a); break;
            default: IntegerToInteger(from, to, d, a); break;
        }
    }

    private void FloatToFloat(ThreadInstruction i, ThreadType from, ThreadType to, string d, string a)
    {
        switch (from, to)
        {
            case (ThreadType.F32, ThreadType.BF16 or ThreadType.F16):
                // The pair conversion puts its second source in the low half and needs no 16-bit register; 0 goes into the high half.
                Guarded($"cvt.rn.{Half(i, to)}x2.f32 {d}, 0f00000000, {a};");
                break;
            case (ThreadType.BF16, ThreadType.F32):
                Guarded($"shl.b32 {d}, {a}, 16;");
                break;
            case (ThreadType.F16, ThreadType.F32 or ThreadType.F64):
                Line($"{{ .reg .b16 low, high; mov.b32 {{low, high}}, {a}; {_guard}cvt.{Float32Or64(to)}.f16 {d}, low; }}");
                break;
            case (ThreadType.F64, ThreadType.F16):
                Line($"{{ .reg .b16 low, high; cvt.rn.f16.f64 low, {a}; mov.b16 high, 0; {_guard}mov.b32 {d}, {{low, high}}; }}");
                break;
            case (ThreadType.F32, ThreadType.F64):
                Guarded($"cvt.f64.f32 {d}, {a};");
                break;
            case (ThreadType.F64, ThreadType.F32):
                Guarded($"cvt.rn.f32.f64 {d}, {a};");
                break;
            case (ThreadType.BF16, ThreadType.F64) or (ThreadType.BF16, ThreadType.F16) or (ThreadType.F16, ThreadType.BF16):
                var single = Scratch(RegisterClass.Bits32);
                FloatToFloat(i, from, ThreadType.F32, single, a);
                FloatToFloat(i, ThreadType.F32, to, d, single);
                break;
            case var (same, other) when same == other:
                Guarded($"mov.{Bits(to)} {d}, {a};");
                break;
            default:
                throw Error(i, $"no correctly rounded conversion from {from} to {to}");
        }
    }

    private void FloatToInteger(ThreadInstruction i, ThreadType from, ThreadType to, string d, string a)
    {
        if (from is ThreadType.BF16 or ThreadType.F16)
        {
            var single = Scratch(RegisterClass.Bits32);
            FloatToFloat(i, from, ThreadType.F32, single, a);
            (from, a) = (ThreadType.F32, single);
        }
        var source = Float32Or64(from);
        switch (to)
        {
            case ThreadType.U8 or ThreadType.U16:
                var unsigned = Scratch(RegisterClass.Bits32);
                FloatToInteger(i, from, ThreadType.U32, unsigned, a);
                Guarded($"min.u32 {d}, {unsigned}, {(to == ThreadType.U8 ? byte.MaxValue : ushort.MaxValue)};");
                break;
            case ThreadType.S8:
                var signed = Scratch(RegisterClass.Bits32);
                FloatToInteger(i, from, ThreadType.S32, signed, a);
                Guarded($"min.s32 {signed}, {signed}, {sbyte.MaxValue};");
                Guarded($"max.s32 {d}, {signed}, {sbyte.MinValue};");
                break;
            case ThreadType.S32 or ThreadType.U32 or ThreadType.B32 when from == ThreadType.F32:
                Guarded($"cvt.rzi.{IntegerName(to)}.f32 {d}, {a};");
                break;
            default:
                // Only fp32 to 32 bits gives 0 for NaN (PTX ISA, cvt); elsewhere NaN would give the lowest or the middle number.
                string number = Scratch(to.Class()), isNaN = Scratch(RegisterClass.Predicate);
                Line($"cvt.rzi.{IntegerName(to)}.{source} {number}, {a};");
                Line($"setp.nan.{source} {isNaN}, {a}, {a};");
                Guarded($"selp.{Bits(to)} {d}, 0, {number}, {isNaN};");
                break;
        }
    }

    /// <summary>To 16-bit formats by way of fp32: two roundings for integers above 2²⁴, as in the simulator.</summary>
    private void IntegerToFloat(ThreadInstruction i, ThreadType from, ThreadType to, string d, string a)
    {
        if (to is ThreadType.BF16 or ThreadType.F16)
        {
            var single = Scratch(RegisterClass.Bits32);
            IntegerToFloat(i, from, ThreadType.F32, single, a);
            FloatToFloat(i, ThreadType.F32, to, d, single);
            return;
        }
        if (from is ThreadType.U8 or ThreadType.S8 or ThreadType.U16)
        {
            var extended = Scratch(RegisterClass.Bits32);
            IntegerToInteger(from, from, extended, a);
            a = extended;
        }
        Guarded($"cvt.rn.{Float32Or64(to)}.{IntegerName(from)} {d}, {a};");
    }

    private void IntegerToInteger(ThreadType from, ThreadType to, string d, string a)
    {
        if (to.Class() == RegisterClass.Bits64 && from.Class() == RegisterClass.Bits64)
        {
            Guarded($"mov.b64 {d}, {a};");
            return;
        }
        if (from.Class() == RegisterClass.Bits64)
        {
            var low = to.Bytes() == 4 ? d : Scratch(RegisterClass.Bits32);
            Guarded($"cvt.u32.u64 {low}, {a};");
            if (to.Bytes() < 4) Extend(to, d, low);
            return;
        }
        if (to.Class() == RegisterClass.Bits64)
        {
            var extended = from.Bytes() < 4 ? Scratch(RegisterClass.Bits32) : a;
            if (from.Bytes() < 4) Extend(from, extended, a);
            Guarded(from.IsSigned() ? $"cvt.s64.s32 {d}, {extended};" : $"cvt.u64.u32 {d}, {extended};");
            return;
        }
        if (to.Bytes() < from.Bytes() || from.Bytes() == 4) Extend(to, d, a);
        else if (to.Bytes() == 4 || to == from) Extend(from, d, a);
        else
        {
            var extended = Scratch(RegisterClass.Bits32);
            Extend(from, extended, a);
            Extend(to, d, extended);
        }
    }

    /// <summary>The low bits of a, extended to 32 as the type says.</summary>
    private void Extend(ThreadType type, string d, string a) => Guarded(type switch
    {
        ThreadType.U8 => $"and.b32 {d}, {a}, 255;",
        ThreadType.U16 => $"and.b32 {d}, {a}, 65535;",
        ThreadType.S8 => $"cvt.s32.s8 {d}, {a};",
        _ => $"mov.b32 {d}, {a};",
    });

    private static string Float32Or64(ThreadType type) => type == ThreadType.F64 ? "f64" : "f32";

    private static string IntegerName(ThreadType type) => (type.IsSigned() ? "s" : "u") + (type.Class() == RegisterClass.Bits64 ? "64" : "32");
}
