using System.Numerics;
using CsCheck;
using Lancet.Tile.IR;
using static Lancet.Tile.TileMath;

namespace Lancet.Tile.Tests.Cpu;

/// <summary>Every elementwise operation on every type it takes, against one element at a time.</summary>
public class ElementwiseTests
{
    private const int Samples = 25;

    public static TheoryData<Opcode, DType> Binaries => Cases(opcode => opcode.IsBinary());

    public static TheoryData<Opcode, DType> ExactUnaries => Cases(opcode => opcode is Opcode.Negate or Opcode.Not or Opcode.Absolute or Opcode.Floor or Opcode.Round or Opcode.Sqrt);

    public static TheoryData<DType, DType> Casts
    {
        get
        {
            var cases = new TheoryData<DType, DType>();
            foreach (var from in Elements.Memory.Append(DType.Bool))
                foreach (var to in Elements.Memory)
                    if (from != to) cases.Add(from, to);
            return cases;
        }
    }

    public static TheoryData<DType, DType> BitCasts
    {
        get
        {
            var cases = new TheoryData<DType, DType>();
            foreach (var from in Elements.Memory)
                foreach (var to in Elements.Memory)
                    if (from != to && from.SizeInBytes() == to.SizeInBytes()) cases.Add(from, to);
            return cases;
        }
    }

    public static TheoryData<DType> Computed => [.. Elements.Computed];

    public static TheoryData<DType> All => [.. Elements.Memory.Append(DType.Bool)];

    [Theory]
    [MemberData(nameof(Binaries))]
    public void Binary(Opcode opcode, DType type) => Check(type, 2, (k, x) => Emit(opcode, x[0], x[1]), x => Reference(opcode, type, x[0], x[1]), type);

    [Theory]
    [MemberData(nameof(ExactUnaries))]
    public void Unary(Opcode opcode, DType type) => Check(
        type,
        1,
        (k, x) => x[0].Builder.Unary(opcode, x[0]),
        x => type.IsFloat() ? Elements.FromDouble(type, Exact(opcode, Elements.ToDouble(type, x[0]))) : opcode switch
        {
            Opcode.Not => type == DType.Bool ? 1 - x[0] : Elements.Wrap(type, ~x[0]),
            Opcode.Negate => Elements.Wrap(type, -(BigInteger)x[0]),
            _ => Elements.Wrap(type, BigInteger.Abs(x[0])),
        },
        type);

    [Theory]
    [MemberData(nameof(Computed))]
    public void Compare(DType type)
    {
        foreach (var comparison in Enum.GetValues<Comparison>())
        {
            Check(
                type,
                2,
                (k, x) => k.Compare(comparison, x[0], x[1]),
                x =>
                {
                    // fp32 widens exactly, integers are compared as such.
                    int? order = !type.IsFloat() ? x[0].CompareTo(x[1])
                        : (Elements.ToDouble(type, x[0]), Elements.ToDouble(type, x[1])) is var (a, b) && !double.IsNaN(a) && !double.IsNaN(b) ? (a < b ? -1 : a > b ? 1 : 0) : null;
                    return comparison switch
                    {
                        Comparison.Equal => order == 0,
                        Comparison.NotEqual => order != 0,
                        Comparison.Less => order < 0,
                        Comparison.LessOrEqual => order <= 0,
                        Comparison.Greater => order > 0,
                        _ => order >= 0,
                    } ? 1 : 0;
                },
                DType.Bool);
        }
    }

    [Theory]
    [MemberData(nameof(All))]
    public void Selection(DType type) => Check([DType.Bool, type, type], (k, x) => Select(x[0], x[1], x[2]), x => x[0] != 0 ? x[1] : x[2], type);

    [Theory]
    [MemberData(nameof(Casts))]
    public void Cast(DType from, DType to) => Check(from, 1, (k, x) => x[0].To(to), x => Elements.Cast(from, to, x[0]), to);

    [Theory]
    [MemberData(nameof(BitCasts))]
    public void BitCast(DType from, DType to) => Check(
        from,
        1,
        (k, x) => x[0].BitCast(to),
        // A NaN of 16 bits may become any NaN on its way, so nothing is said about its bits.
        x => to.SizeInBytes() == 2 && Elements.IsNaN(from, x[0]) ? null : to switch { DType.Int32 => (int)x[0], DType.UInt32 or DType.Float32 => (uint)x[0], DType.Int8 => (sbyte)x[0], DType.UInt8 => (byte)x[0], _ => x[0] },
        to);

    [Theory]
    [MemberData(nameof(All))]
    public void Shape_changes(DType type) => Gen.Int[0, int.MaxValue].Sample(
        seed =>
        {
            var lab = new TileLab(seed);
            var shape = lab.Shape(2);
            var (rows, columns) = (shape[0], shape[1]);
            var operand = lab.Operand(type, shape);
            var stored = type == DType.Bool ? DType.Int32 : type;
            var outputs = Enumerable.Range(0, 4).Select(_ => lab.Buffer(stored, new long[2 * rows * columns])).ToArray();
            lab.Launch((k, p) =>
            {
                var x = operand.Make(k, p);
                TileLab.Store(k, p[outputs[0]], x.Transposed());
                TileLab.Store(k, p[outputs[1]], x.ExpandDimension(0).BroadcastTo(2, rows, columns));
                TileLab.Store(k, p[outputs[2]], x.ExpandDimension(1).BroadcastTo(rows, 2, columns));
                TileLab.Store(k, p[outputs[3]], x.Transposed().ExpandDimension(2).BroadcastTo(columns, rows, 2));
            });
            for (var row = 0; row < rows; row++)
            {
                for (var column = 0; column < columns; column++)
                {
                    var expected = operand.Values[(row * columns) + column];
                    void Same(int output, int index) => Elements.AssertSame(type, expected, lab.Read(outputs[output], index), () => $"output {output} at ({row}, {column}) of [{rows}, {columns}], seed {seed}");
                    Same(0, (column * rows) + row);
                    for (var twice = 0; twice < 2; twice++)
                    {
                        Same(1, (((twice * rows) + row) * columns) + column);
                        Same(2, (((row * 2) + twice) * columns) + column);
                        Same(3, (((column * rows) + row) * 2) + twice);
                    }
                }
            }
        },
        iter: Samples);

    private static Tile Emit(Opcode opcode, Tile a, Tile b) => a.Builder.Binary(opcode, a, b);

    private static double Exact(Opcode opcode, double x) => opcode switch
    {
        Opcode.Negate => -x,
        Opcode.Absolute => Math.Abs(x),
        Opcode.Floor => Math.Floor(x),
        Opcode.Round => Math.Round(x, MidpointRounding.ToEven),
        // The fp64 root of an fp32 rounds to the correctly rounded fp32 root: 53 bits are more than 2 · 24 + 2.
        _ => Math.Sqrt(x),
    };

    private static long Reference(Opcode opcode, DType type, long x, long y)
    {
        if (type.IsFloat())
        {
            // For +, −, ×, ÷ of fp32 likewise.
            double a = Elements.ToDouble(type, x), b = Elements.ToDouble(type, y);
            return Elements.FromDouble(type, opcode switch { Opcode.Add => a + b, Opcode.Subtract => a - b, Opcode.Multiply => a * b, Opcode.Divide => a / b, Opcode.Minimum => Math.Min(a, b), _ => Math.Max(a, b) });
        }
        var width = type == DType.Int64 ? 64 : 32;
        var count = (int)(y & (width - 1));
        if (type == DType.Bool) return opcode switch { Opcode.And => x & y, Opcode.Or => x | y, _ => x ^ y };
        return Elements.Wrap(type, opcode switch
        {
            Opcode.Add => (BigInteger)x + y,
            Opcode.Subtract => (BigInteger)x - y,
            Opcode.Multiply => (BigInteger)x * y,
            Opcode.Divide => y == 0 ? 0 : (BigInteger)x / y,
            Opcode.Remainder => y == 0 ? 0 : (BigInteger)x % y,
            Opcode.Minimum => Math.Min(x, y),
            Opcode.Maximum => Math.Max(x, y),
            Opcode.And => x & y,
            Opcode.Or => x | y,
            Opcode.Xor => x ^ y,
            Opcode.ShiftLeft => (BigInteger)x << count,
            _ => (BigInteger)x >> count,
        });
    }

    private static TheoryData<Opcode, DType> Cases(Func<Opcode, bool> isWanted)
    {
        var cases = new TheoryData<Opcode, DType>();
        foreach (var opcode in Enum.GetValues<Opcode>().Where(isWanted))
            foreach (var type in Elements.Memory.Append(DType.Bool))
                if (Verifier.Takes(opcode, type)) cases.Add(opcode, type);
        return cases;
    }

    private static void Check(DType type, int operands, Func<KernelBuilder, Tile[], Tile> emit, Func<long[], long?> reference, DType result) =>
        Check([.. Enumerable.Repeat(type, operands)], emit, reference, result);

    private static void Check(DType[] types, Func<KernelBuilder, Tile[], Tile> emit, Func<long[], long?> reference, DType result) => Gen.Select(Gen.Int[0, int.MaxValue], Gen.Int[0, 3]).Sample(
        (seed, rank) =>
        {
            var lab = new TileLab(seed);
            var shape = lab.Shape(rank);
            var count = shape.Aggregate(1, (product, extent) => product * extent);
            Operand[] operands = [.. types.Select(type => lab.Operand(type, shape))];
            var output = lab.Buffer(result == DType.Bool ? DType.Int32 : result, new long[count]);
            var kernel = lab.Launch((k, p) => TileLab.Store(k, p[output], emit(k, [.. operands.Select(operand => operand.Make(k, p))])));
            for (var i = 0; i < count; i++)
            {
                long[] elements = [.. operands.Select(operand => operand.Values[i])];
                if (reference(elements) is not { } expected) continue;
                Elements.AssertSame(result, expected, lab.Read(output, i), () =>
                    $"element {i} of [{string.Join(", ", shape)}] from {string.Join(" and ", elements.Select((bits, j) => Elements.Show(types[j], bits)))}, seed {seed}, in\n{kernel}\n");
            }
        },
        iter: Samples,
        threads: 1);
}
