using Lancet.Tile.IR;
using Lancet.Tile.Lowering.Threads;

namespace Lancet.Tile.Lowering;

/// <summary>Which part of a 32-bit register an element is.</summary>
internal enum RegisterPart : byte
{
    Whole,
    Low,
    High,
}

/// <summary>One element of a tile in one thread: a register or constant, or half of a register for 16-bit types.</summary>
internal readonly record struct Element(Source Source, RegisterPart Part = RegisterPart.Whole);

/// <summary>Arithmetic on elements: how dtypes sit in registers, and what tile operations are in instructions.</summary>
/// <param name="builder">Receives the instructions.</param>
/// <param name="avoidsCalls">See <see cref="MathExpansion.Divide"/>.</param>
internal sealed class ElementArithmetic(ThreadBuilder builder, bool avoidsCalls)
{
    private readonly MathExpansion _math = new(builder, avoidsCalls);

    /// <summary>Type of the register that holds an element (16-bit types: the half register as B32).</summary>
    public static ThreadType TypeOf(DType dtype) => dtype switch
    {
        DType.Bool => ThreadType.Predicate,
        DType.Float32 => ThreadType.F32,
        DType.Float64 => ThreadType.F64,
        DType.Int64 => ThreadType.S64,
        DType.UInt32 or DType.UInt8 => ThreadType.U32,
        DType.BFloat16 or DType.Float16 => ThreadType.B32,
        _ => ThreadType.S32,
    };

    public static bool IsHalf(DType dtype) => dtype is DType.BFloat16 or DType.Float16;

    /// <summary>A constant of a dtype.</summary>
    public static Element Constant(DType dtype, double number, long integer) => dtype switch
    {
        DType.Float32 => new(Source.Constant((float)number)),
        DType.Float64 => new(Source.Constant(number)),
        DType.BFloat16 => new(Source.Constant((long)((BFloat16)(float)number).Bits), RegisterPart.Low),
        DType.Float16 => new(Source.Constant((long)BitConverter.HalfToUInt16Bits((Half)number)), RegisterPart.Low),
        DType.UInt32 => new(Source.Constant((long)(uint)integer)),
        _ => new(Source.Constant(integer)),
    };

    /// <summary>Two 16-bit elements in one register.</summary>
    public Source Pack(Element low, Element high)
    {
        if (low.Source == high.Source && low.Part == RegisterPart.Low && high.Part == RegisterPart.High) return low.Source;
        if (low.Source.IsConstant && high.Source.IsConstant) return Source.Constant((long)(uint)(HalfBits(low) | (HalfBits(high) << 16)));
        var (a, b) = (low.Part == RegisterPart.High ? 2 : 0, high.Part == RegisterPart.High ? 6 : 4);
        return builder.Pure(ThreadOpcode.Permute, ThreadType.B32, low.Source, high.Source, immediate: a | ((a + 1) << 4) | (b << 8) | ((b + 1) << 12));
    }

    /// <summary>An element alone in a register, in its low half if it has 16 bits.</summary>
    public Source Alone(Element element) => element.Part switch
    {
        RegisterPart.High => builder.ShiftRight(ThreadType.B32, element.Source, 16),
        _ => element.Source,
    };

    /// <summary>The two elements of a packed register.</summary>
    public static (Element Low, Element High) Unpack(Source packed) => packed.IsConstant
        ? (new(Source.Constant(packed.Bits & 0xffff), RegisterPart.Low), new(Source.Constant((packed.Bits >> 16) & 0xffff), RegisterPart.Low))
        : (new(packed, RegisterPart.Low), new(packed, RegisterPart.High));

    /// <summary>A thread's elements as registers hold them: 16-bit ones in pairs, or one by itself.</summary>
    public Source[] Words(Element[] elements, bool isHalf) => isHalf && elements.Length > 1 ? [.. elements.Chunk(2).Select(pair => Pack(pair[0], pair[1]))] : [.. elements.Select(Alone)];

    /// <summary>The elements of <see cref="Words"/>.</summary>
    public static Element[] Elements(Source[] words, int count, bool isHalf) => isHalf && count > 1
        ? [.. words.Select(Unpack).SelectMany(pair => (Element[])[pair.Low, pair.High])]
        : [.. words.Select(word => new Element(word, isHalf ? RegisterPart.Low : RegisterPart.Whole))];

    /// <summary>Converts the elements of one thread; 16-bit results are made in pairs.</summary>
    public Element[] Cast(Element[] x, DType from, DType to)
    {
        if (IsHalf(to))
        {
            var wide = from == DType.Float32 ? x : Cast(x, from, DType.Float32);
            var type = to == DType.BFloat16 ? ThreadType.BF16 : ThreadType.F16;
            var result = new Element[x.Length];
            for (var i = 0; i + 1 < x.Length; i += 2)
            {
                if (wide[i].Source.IsConstant && wide[i + 1].Source.IsConstant)
                {
                    (result[i], result[i + 1]) = (Constant(to, AsFloat(wide[i]), 0), Constant(to, AsFloat(wide[i + 1]), 0));
                    continue;
                }
                (result[i], result[i + 1]) = Unpack(builder.Pure(ThreadOpcode.ConvertPair, type, wide[i + 1].Source, wide[i].Source));
            }
            if (x.Length % 2 != 0) result[^1] = wide[^1].Source.IsConstant ? Constant(to, AsFloat(wide[^1]), 0) : new(builder.Convert(type, ThreadType.F32, wide[^1].Source), RegisterPart.Low);
            return result;
        }
        return [.. x.Select(element => Cast(element, from, to))];
    }

    public Element Unary(Opcode opcode, DType dtype, Element x)
    {
        var type = TypeOf(dtype);
        var a = x.Source;
        if (dtype == DType.Float64 && opcode is not (Opcode.Negate or Opcode.Absolute or Opcode.Sqrt or Opcode.Floor or Opcode.Round))
            throw new TileException($"{opcode} of fp64 is not available on the GPU; fp64 kernels are for the CPU and tests.");
        return new(opcode switch
        {
            Opcode.Negate => builder.Pure(ThreadOpcode.Negate, dtype == DType.UInt32 ? ThreadType.S32 : type, a),
            Opcode.Not => builder.Pure(ThreadOpcode.Not, dtype == DType.Bool ? ThreadType.Predicate : dtype == DType.Int64 ? ThreadType.B64 : ThreadType.B32, a),
            Opcode.Absolute => dtype == DType.UInt32 ? a : builder.Pure(ThreadOpcode.Absolute, type, a),
            Opcode.Sqrt => builder.Pure(ThreadOpcode.SquareRoot, type, a),
            Opcode.Floor => builder.Pure(ThreadOpcode.Floor, type, a),
            Opcode.Round => builder.Pure(ThreadOpcode.Round, type, a),
            Opcode.Exp2 => _math.Exp2(a),
            Opcode.Exp => _math.Exp(a),
            Opcode.Log2 => _math.Log2(a),
            Opcode.Log => _math.Log(a),
            Opcode.Rsqrt => _math.Rsqrt(a),
            Opcode.Tanh => _math.Tanh(a),
            Opcode.TanhAbsolute => _math.TanhAbsolute(a),
            Opcode.Erf => _math.Erf(a),
            Opcode.Sin => _math.Sin(a),
            Opcode.Cos => _math.Cos(a),
            _ => throw new InvalidOperationException($"{opcode} is not unary."),
        });
    }

    /// <summary>tanh(x·<paramref name="factor"/>) within a part of 1, where the factor is positive.</summary>
    public Element[] TanhAbsolute(Element[] x, float factor) => Array.ConvertAll(x, element => new Element(_math.TanhAbsolute(element.Source, factor)));

    public Element Binary(Opcode opcode, DType dtype, Element x, Element y)
    {
        var type = TypeOf(dtype);
        var bits = dtype switch { DType.Bool => ThreadType.Predicate, DType.Int64 => ThreadType.B64, _ => ThreadType.B32 };
        var (a, b) = (x.Source, y.Source);
        return new(opcode switch
        {
            Opcode.Add => builder.Add(type, a, b),
            Opcode.Subtract => builder.Subtract(type, a, b),
            Opcode.Multiply => builder.Multiply(type, a, b),
            Opcode.Divide => Divide(type, a, b),
            Opcode.Remainder => Remainder(type, a, b),
            Opcode.Minimum => builder.Pure(ThreadOpcode.Minimum, type, a, b),
            Opcode.Maximum => builder.Pure(ThreadOpcode.Maximum, type, a, b),
            Opcode.And => builder.And(bits, a, b),
            Opcode.Or => builder.Or(bits, a, b),
            Opcode.Xor => builder.Xor(bits, a, b),
            // The tile language takes the count modulo the width; PTX clamps it.
            Opcode.ShiftLeft => builder.Pure(ThreadOpcode.ShiftLeft, bits, a, Count(dtype, b)),
            Opcode.ShiftRight => builder.Pure(ThreadOpcode.ShiftRight, type, a, Count(dtype, b)),
            _ => throw new InvalidOperationException($"{opcode} is not binary."),
        });
    }

    public Element Compare(IR.Comparison comparison, DType dtype, Element x, Element y) => new(builder.Compare(TypeOf(dtype), comparison, x.Source, y.Source));

    public Element Select(DType dtype, Element condition, Element x, Element y)
    {
        if (!IsHalf(dtype))
        {
            if (dtype == DType.Bool) // (c and a) or (not c and b)
            {
                var not = builder.Pure(ThreadOpcode.Not, ThreadType.Predicate, condition.Source);
                return new(builder.Or(ThreadType.Predicate, builder.And(ThreadType.Predicate, condition.Source, x.Source), builder.And(ThreadType.Predicate, not, y.Source)));
            }
            return new(builder.Select(ThreadBuilder.ClassOf(TypeOf(dtype)) == RegisterClass.Bits64 ? ThreadType.B64 : ThreadType.B32, condition.Source, x.Source, y.Source));
        }
        if (x == y) return x;
        return new(builder.Select(ThreadType.B32, condition.Source, Alone(x), Alone(y)), RegisterPart.Low);
    }

    /// <summary>Word <c>counter mod 4</c> of Philox block <c>counter div 4</c> (see <see cref="Opcode.Philox"/>).</summary>
    public Element Philox(Element counter, Element seed)
    {
        var words = PhiloxBlock(counter.Source, seed);
        var word = builder.And(ThreadType.B32, Low(counter.Source), Source.Constant(3));
        Source Is(int value) => builder.Compare(ThreadType.U32, IR.Comparison.Equal, word, Source.Constant(value));
        return new(builder.Select(ThreadType.B32, Is(0), words[0], builder.Select(ThreadType.B32, Is(1), words[1], builder.Select(ThreadType.B32, Is(2), words[2], words[3]))));
    }

    /// <summary>The four words of Philox block <c>counter div 4</c>. Equal blocks share their instructions.</summary>
    public Source[] PhiloxBlock(Source counter, Element seed)
    {
        const ThreadType u = ThreadType.U32;
        Source Constant(uint x) => Source.Constant((long)x);
        var block = builder.ShiftRight(ThreadType.U64, counter, 2);
        Source c0 = Low(block), c1 = High(block), c2 = Source.Constant(0L), c3 = Source.Constant(0L), k0 = Low(seed.Source), k1 = High(seed.Source);
        for (var round = 0; round < 10; round++)
        {
            var (m0, m1) = (Constant(0xD2511F53), Constant(0xCD9E8D57));
            var (p0, p1) = (builder.Pure(ThreadOpcode.MultiplyWide, u, c0, m0), builder.Pure(ThreadOpcode.MultiplyWide, u, c2, m1));
            (c0, c1, c2, c3) = (builder.Xor(ThreadType.B32, builder.Xor(ThreadType.B32, High(p1), c1), k0), Low(p1), builder.Xor(ThreadType.B32, builder.Xor(ThreadType.B32, High(p0), c3), k1), Low(p0));
            k0 = builder.Add(u, k0, Constant(0x9E3779B9));
            k1 = builder.Add(u, k1, Constant(0xBB67AE85));
        }
        return [c0, c1, c2, c3];
    }

    private Source Low(Source x) => builder.Convert(ThreadType.U32, ThreadType.U64, x);

    private Source High(Source x) => Low(builder.ShiftRight(ThreadType.U64, x, 32));

    private Element Cast(Element x, DType from, DType to)
    {
        if (from == to) return x;
        if (from == DType.BFloat16)
        {
            var wide = x.Source.IsConstant ? Source.Constant((long)(uint)(HalfBits(x) << 16))
                : x.Part == RegisterPart.High ? builder.And(ThreadType.B32, x.Source, Source.Constant(unchecked((int)0xffff0000)))
                : builder.ShiftLeft(ThreadType.B32, x.Source, 16);
            return Cast(new Element(wide), DType.Float32, to);
        }
        if (from == DType.Float16) return Cast(new Element(builder.Convert(ThreadType.F32, ThreadType.F16, Alone(x))), DType.Float32, to);
        var (source, target) = (TypeOf(from), TypeOf(to));
        if (to is DType.UInt8 or DType.Int8)
        {
            var narrow = from.IsFloat() || from == DType.Int64 ? builder.Convert(ThreadType.S32, source, x.Source) : x.Source;
            return new(to == DType.UInt8
                ? builder.And(ThreadType.B32, narrow, Source.Constant(255))
                : builder.ShiftRight(ThreadType.S32, builder.ShiftLeft(ThreadType.B32, narrow, 24), 24));
        }
        if (x.Source.IsConstant && from.IsFloat())
        {
            var value = from == DType.Float32 ? AsFloat(x) : BitConverter.Int64BitsToDouble(x.Source.Bits);
            if (to.IsFloat()) return Constant(to, value, 0);
        }
        if (x.Source.IsConstant && from.IsInteger() && to.IsFloat()) return Constant(to, x.Source.Bits, 0);
        // Integers of one width share their bits.
        if (!from.IsFloat() && !to.IsFloat() && ThreadBuilder.ClassOf(source) == ThreadBuilder.ClassOf(target)) return x;
        return new(builder.Convert(target, source, x.Source));
    }

    private Source Divide(ThreadType type, Source a, Source b)
    {
        if (type == ThreadType.F32) return _math.Divide(a, b);
        if (type == ThreadType.F64 || !b.IsConstant || b.Bits <= 0 || (b.Bits & (b.Bits - 1)) != 0) return builder.Pure(ThreadOpcode.Divide, type, a, b);
        // Towards zero: add 2ⁿ − 1 to negative dividends before the arithmetic shift.
        var shift = System.Numerics.BitOperations.Log2((ulong)b.Bits);
        if (shift == 0) return a;
        if (type is ThreadType.U32) return builder.ShiftRight(type, a, shift);
        var width = type == ThreadType.S64 ? 64 : 32;
        var sign = builder.ShiftRight(type, a, width - 1);
        var bias = builder.And(type == ThreadType.S64 ? ThreadType.B64 : ThreadType.B32, sign, Source.Constant(b.Bits - 1));
        return builder.ShiftRight(type, builder.Add(type, a, bias), shift);
    }

    private Source Remainder(ThreadType type, Source a, Source b)
    {
        if (!b.IsConstant || b.Bits <= 0 || (b.Bits & (b.Bits - 1)) != 0) return builder.Pure(ThreadOpcode.Remainder, type, a, b);
        return builder.Subtract(type, a, builder.Multiply(type, Divide(type, a, b), b));
    }

    private Source Count(DType dtype, Source b)
    {
        var width = dtype == DType.Int64 ? 64 : 32;
        var narrow = dtype == DType.Int64 ? builder.Convert(ThreadType.S32, ThreadType.S64, b) : b;
        return builder.And(ThreadType.B32, narrow, Source.Constant(width - 1));
    }

    private static long HalfBits(Element constant) => constant.Part == RegisterPart.High ? (constant.Source.Bits >> 16) & 0xffff : constant.Source.Bits & 0xffff;

    private static float AsFloat(Element constant) => BitConverter.Int32BitsToSingle((int)constant.Source.Bits);
}
