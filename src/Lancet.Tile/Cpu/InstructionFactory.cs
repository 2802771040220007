using System.Numerics;
using Lancet.Tile.IR;

namespace Lancet.Tile.Cpu;

/// <summary>Chooses the instruction for an opcode and element type. Everything is instantiated by name here, so that NativeAOT sees it.</summary>
internal static class InstructionFactory
{
    public static Instruction? Binary(Opcode opcode, DType element, LaneView a, LaneView b, LaneView z) => element switch
    {
        DType.Float32 => Arithmetic<float>(opcode, a, b, z),
        DType.Float64 => Arithmetic<double>(opcode, a, b, z),
        DType.Int32 => Arithmetic<int>(opcode, a, b, z) ?? Bitwise<int>(opcode, a, b, z),
        DType.UInt32 => Arithmetic<uint>(opcode, a, b, z) ?? Bitwise<uint>(opcode, a, b, z),
        DType.Int64 => Arithmetic<long>(opcode, a, b, z) ?? Bitwise<long>(opcode, a, b, z),
        DType.Bool or DType.Int8 or DType.UInt8 => Bitwise<int>(opcode, a, b, z),
        _ => null,
    };

    public static Instruction? Unary(Opcode opcode, DType element, LaneView x, LaneView z) => (opcode, element) switch
    {
        (Opcode.Negate, DType.Float32) => new UnaryInstruction<float, NegateOperation<float>>(x, z),
        (Opcode.Negate, DType.Float64) => new UnaryInstruction<double, NegateOperation<double>>(x, z),
        (Opcode.Negate, DType.Int32 or DType.UInt32) => new UnaryInstruction<int, NegateOperation<int>>(x, z),
        (Opcode.Negate, DType.Int64) => new UnaryInstruction<long, NegateOperation<long>>(x, z),
        (Opcode.Absolute, DType.Float32) => new UnaryInstruction<float, AbsoluteOperation<float>>(x, z),
        (Opcode.Absolute, DType.Float64) => new UnaryInstruction<double, AbsoluteOperation<double>>(x, z),
        (Opcode.Absolute, DType.Int32) => new UnaryInstruction<int, AbsoluteOperation<int>>(x, z),
        (Opcode.Absolute, DType.Int64) => new UnaryInstruction<long, AbsoluteOperation<long>>(x, z),
        (Opcode.Absolute, DType.UInt32) => new CopyInstruction<int>(x, z),
        (Opcode.Not, DType.Int64) => new UnaryInstruction<long, NotOperation<long>>(x, z),
        (Opcode.Not, _) => new UnaryInstruction<int, NotOperation<int>>(x, z),
        (Opcode.Sqrt, DType.Float32) => new UnaryInstruction<float, SqrtOperation<float>>(x, z),
        (Opcode.Sqrt, DType.Float64) => new UnaryInstruction<double, SqrtOperation<double>>(x, z),
        (Opcode.Rsqrt, DType.Float32) => new UnaryInstruction<float, RsqrtOperation<float>>(x, z),
        (Opcode.Rsqrt, DType.Float64) => new UnaryInstruction<double, RsqrtOperation<double>>(x, z),
        (Opcode.Exp, _) => Elementary<ExpFunction>(element, x, z),
        (Opcode.Exp2, _) => Elementary<Exp2Function>(element, x, z),
        (Opcode.Log, _) => Elementary<LogFunction>(element, x, z),
        (Opcode.Log2, _) => Elementary<Log2Function>(element, x, z),
        (Opcode.Tanh or Opcode.TanhAbsolute, _) => Elementary<TanhFunction>(element, x, z),
        (Opcode.Erf, _) => Elementary<ErfFunction>(element, x, z),
        (Opcode.Sin, _) => Elementary<SinFunction>(element, x, z),
        (Opcode.Cos, _) => Elementary<CosFunction>(element, x, z),
        (Opcode.Floor, _) => Elementary<FloorFunction>(element, x, z),
        (Opcode.Round, _) => Elementary<RoundFunction>(element, x, z),
        _ => null,
    };

    public static Instruction Compare(Comparison comparison, DType element, LaneView a, LaneView b, LaneView z) => element switch
    {
        DType.Float32 => new CompareInstruction<float>(comparison, a, b, z),
        DType.Float64 => new CompareInstruction<double>(comparison, a, b, z),
        DType.UInt32 => new CompareInstruction<uint>(comparison, a, b, z),
        DType.Int64 => new CompareInstruction<long>(comparison, a, b, z),
        _ => new CompareInstruction<int>(comparison, a, b, z),
    };

    /// <summary>Adds the steps of a conversion from dense lanes to dense lanes.</summary>
    public static void Cast(DType from, DType to, LaneView x, LaneView z, List<Instruction> code)
    {
        // Narrow types are held in wider lanes: first change the lane type, then round to what the narrow type can hold.
        var (fromLane, toLane) = (Lane(from), Lane(to));
        var isSame = fromLane == toLane || (fromLane, toLane) is (DType.Int32, DType.UInt32) or (DType.UInt32, DType.Int32);
        if (isSame && to is DType.BFloat16 or DType.Float16 or DType.Int8 or DType.UInt8)
        {
            code.Add(Narrow(to, x, z));
            return;
        }
        if (to is DType.BFloat16 or DType.Float16)
        {
            code.Add(to == DType.BFloat16 ? NarrowCast<BFloat16Casting>(fromLane, x, z) : NarrowCast<Float16Casting>(fromLane, x, z));
            return;
        }
        code.Add((fromLane, toLane) switch
        {
            _ when isSame && x.IsDense && fromLane is not (DType.Float64 or DType.Int64) => new CopyInstruction<int>(x, z),
            _ when isSame => new CopyInstruction<long>(x, z),
            (DType.Float32, DType.Float64) => new CastInstruction<float, double, Casting>(x, z),
            (DType.Float32, DType.Int32) => new CastInstruction<float, int, Casting>(x, z),
            (DType.Float32, DType.UInt32) => new CastInstruction<float, uint, Casting>(x, z),
            (DType.Float32, DType.Int64) => new CastInstruction<float, long, Casting>(x, z),
            (DType.Float64, DType.Float32) => new CastInstruction<double, float, Casting>(x, z),
            (DType.Float64, DType.Int32) => new CastInstruction<double, int, Casting>(x, z),
            (DType.Float64, DType.UInt32) => new CastInstruction<double, uint, Casting>(x, z),
            (DType.Float64, DType.Int64) => new CastInstruction<double, long, Casting>(x, z),
            (DType.Int32, DType.Float32) => new CastInstruction<int, float, Casting>(x, z),
            (DType.Int32, DType.Float64) => new CastInstruction<int, double, Casting>(x, z),
            (DType.Int32, DType.Int64) => new CastInstruction<int, long, Casting>(x, z),
            (DType.UInt32, DType.Float32) => new CastInstruction<uint, float, Casting>(x, z),
            (DType.UInt32, DType.Float64) => new CastInstruction<uint, double, Casting>(x, z),
            (DType.UInt32, DType.Int64) => new CastInstruction<uint, long, Casting>(x, z),
            (DType.Int64, DType.Float32) => new CastInstruction<long, float, Casting>(x, z),
            (DType.Int64, DType.Float64) => new CastInstruction<long, double, Casting>(x, z),
            _ => new CastInstruction<long, int, Casting>(x, z),
        });
        if (to is DType.Int8 or DType.UInt8) code.Add(Narrow(to, z, z));
    }

    /// <summary>The same bits under another type of equal width, from dense lanes to dense lanes.</summary>
    public static Instruction BitCast(DType from, DType to, LaneView x, LaneView z) => to switch
    {
        DType.Int8 or DType.UInt8 => Narrow(to, x, z),
        DType.BFloat16 when from != to => new UnaryInstruction<float, HalfBitsAsBFloat16Operation>(x, z),
        DType.Float16 when from != to => new UnaryInstruction<float, BFloat16BitsAsHalfOperation>(x, z),
        DType.Float64 or DType.Int64 => new CopyInstruction<long>(x, z),
        _ => new CopyInstruction<int>(x, z),
    };

    /// <summary>A load; masked-off elements become <paramref name="number"/> (floats) or <paramref name="integer"/>.</summary>
    public static Instruction Load(AccessPattern pattern, DType element, LaneView z, double number, long integer, bool isChecked) => element switch
    {
        DType.Float32 => new LoadInstruction<float, PlainFormat<float>>(pattern, z, (float)number) { IsChecked = isChecked },
        DType.BFloat16 => new LoadInstruction<float, BFloat16Format>(pattern, z, (BFloat16)number) { IsChecked = isChecked },
        DType.Float16 => new LoadInstruction<float, Float16Format>(pattern, z, (float)(Half)number) { IsChecked = isChecked },
        DType.Float64 => new LoadInstruction<double, PlainFormat<double>>(pattern, z, number) { IsChecked = isChecked },
        DType.Int8 => new LoadInstruction<int, SByteFormat>(pattern, z, (int)integer) { IsChecked = isChecked },
        DType.UInt8 => new LoadInstruction<int, ByteFormat>(pattern, z, (int)integer) { IsChecked = isChecked },
        DType.Int64 => new LoadInstruction<long, PlainFormat<long>>(pattern, z, integer) { IsChecked = isChecked },
        DType.UInt32 => new LoadInstruction<uint, PlainFormat<uint>>(pattern, z, (uint)integer) { IsChecked = isChecked },
        _ => new LoadInstruction<int, PlainFormat<int>>(pattern, z, (int)integer) { IsChecked = isChecked },
    };

    public static Instruction Store(AccessPattern pattern, DType element, LaneView value, bool isChecked) => element switch
    {
        DType.Float32 => new StoreInstruction<float, PlainFormat<float>>(pattern, value) { IsChecked = isChecked },
        DType.BFloat16 => new StoreInstruction<float, BFloat16Format>(pattern, value) { IsChecked = isChecked },
        DType.Float16 => new StoreInstruction<float, Float16Format>(pattern, value) { IsChecked = isChecked },
        DType.Float64 => new StoreInstruction<double, PlainFormat<double>>(pattern, value) { IsChecked = isChecked },
        DType.Int8 => new StoreInstruction<int, SByteFormat>(pattern, value) { IsChecked = isChecked },
        DType.UInt8 => new StoreInstruction<int, ByteFormat>(pattern, value) { IsChecked = isChecked },
        DType.Int64 => new StoreInstruction<long, PlainFormat<long>>(pattern, value) { IsChecked = isChecked },
        _ => new StoreInstruction<int, PlainFormat<int>>(pattern, value) { IsChecked = isChecked },
    };

    public static Instruction Accumulate(AccessPattern pattern, DType element, LaneView value, bool isChecked) => element == DType.Float64
        ? new AccumulateInstruction<double>(pattern, value) { IsChecked = isChecked }
        : new AccumulateInstruction<float>(pattern, value) { IsChecked = isChecked };

    public static Instruction ReduceColumns(Opcode opcode, DType element, LaneView x, LaneView z) => element switch
    {
        DType.Float32 => ReduceColumns<float>(opcode, x, z),
        DType.Float64 => ReduceColumns<double>(opcode, x, z),
        DType.UInt32 => ReduceColumns<uint>(opcode, x, z),
        DType.Int64 => ReduceColumns<long>(opcode, x, z),
        _ => ReduceColumns<int>(opcode, x, z),
    };

    public static Instruction ReduceRows(Opcode opcode, DType element, int from, int outer, int n, int inner, int to) => element switch
    {
        DType.Float32 => ReduceRows<float>(opcode, from, outer, n, inner, to),
        DType.Float64 => ReduceRows<double>(opcode, from, outer, n, inner, to),
        DType.UInt32 => ReduceRows<uint>(opcode, from, outer, n, inner, to),
        DType.Int64 => ReduceRows<long>(opcode, from, outer, n, inner, to),
        _ => ReduceRows<int>(opcode, from, outer, n, inner, to),
    };

    private static DType Lane(DType element) => element switch
    {
        DType.BFloat16 or DType.Float16 => DType.Float32,
        DType.Int8 or DType.UInt8 or DType.Bool => DType.Int32,
        _ => element,
    };

    private static Instruction NarrowCast<TCasting>(DType fromLane, LaneView x, LaneView z)
        where TCasting : struct, ICastOperation<double, float>, ICastOperation<int, float>, ICastOperation<uint, float>, ICastOperation<long, float> => fromLane switch
        {
            DType.Float64 => new CastInstruction<double, float, TCasting>(x, z),
            DType.Int64 => new CastInstruction<long, float, TCasting>(x, z),
            DType.UInt32 => new CastInstruction<uint, float, TCasting>(x, z),
            _ => new CastInstruction<int, float, TCasting>(x, z),
        };

    private static Instruction Narrow(DType to, LaneView x, LaneView z) => to switch
    {
        DType.BFloat16 => new UnaryInstruction<float, FloatToBFloat16Operation>(x, z),
        DType.Float16 => new UnaryInstruction<float, FloatToHalfOperation>(x, z),
        DType.Int8 => new UnaryInstruction<int, Int32ToInt8Operation>(x, z),
        _ => new UnaryInstruction<int, Int32ToUInt8Operation>(x, z),
    };

    private static Instruction? Arithmetic<T>(Opcode opcode, LaneView a, LaneView b, LaneView z)
        where T : unmanaged, INumber<T> => opcode switch
        {
            Opcode.Add => new BinaryInstruction<T, AddOperation<T>>(a, b, z),
            Opcode.Subtract => new BinaryInstruction<T, SubtractOperation<T>>(a, b, z),
            Opcode.Multiply => new BinaryInstruction<T, MultiplyOperation<T>>(a, b, z),
            Opcode.Divide => new BinaryInstruction<T, DivideOperation<T>>(a, b, z),
            Opcode.Remainder => new BinaryInstruction<T, RemainderOperation<T>>(a, b, z),
            Opcode.Minimum => new BinaryInstruction<T, MinimumOperation<T>>(a, b, z),
            Opcode.Maximum => new BinaryInstruction<T, MaximumOperation<T>>(a, b, z),
            _ => null,
        };

    private static Instruction? Bitwise<T>(Opcode opcode, LaneView a, LaneView b, LaneView z)
        where T : unmanaged, IBinaryInteger<T> => opcode switch
        {
            Opcode.And => new BinaryInstruction<T, AndOperation<T>>(a, b, z),
            Opcode.Or => new BinaryInstruction<T, OrOperation<T>>(a, b, z),
            Opcode.Xor => new BinaryInstruction<T, XorOperation<T>>(a, b, z),
            Opcode.ShiftLeft => new BinaryInstruction<T, ShiftLeftOperation<T>>(a, b, z),
            Opcode.ShiftRight => new BinaryInstruction<T, ShiftRightOperation<T>>(a, b, z),
            _ => null,
        };

    private static Instruction? Elementary<TFunction>(DType element, LaneView x, LaneView z)
        where TFunction : struct, IFunction => element switch
        {
            DType.Float32 => new UnaryInstruction<float, SingleFunction<TFunction>>(x, z),
            DType.Float64 => new UnaryInstruction<double, DoubleFunction<TFunction>>(x, z),
            _ => null,
        };

    private static Instruction ReduceColumns<T>(Opcode opcode, LaneView x, LaneView z)
        where T : unmanaged, INumber<T> => opcode switch
        {
            Opcode.ReduceSum => new ReduceColumnsInstruction<T, AddOperation<T>>(x, z),
            Opcode.ReduceMax => new ReduceColumnsInstruction<T, MaximumOperation<T>>(x, z),
            _ => new ReduceColumnsInstruction<T, MinimumOperation<T>>(x, z),
        };

    private static Instruction ReduceRows<T>(Opcode opcode, int from, int outer, int n, int inner, int to)
        where T : unmanaged, INumber<T> => opcode switch
        {
            Opcode.ReduceSum => new ReduceRowsInstruction<T, AddOperation<T>>(from, outer, n, inner, to),
            Opcode.ReduceMax => new ReduceRowsInstruction<T, MaximumOperation<T>>(from, outer, n, inner, to),
            _ => new ReduceRowsInstruction<T, MinimumOperation<T>>(from, outer, n, inner, to),
        };
}
