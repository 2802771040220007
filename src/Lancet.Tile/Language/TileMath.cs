using System.Runtime.CompilerServices;
using Lancet.Tile.IR;

namespace Lancet.Tile;

/// <summary>The functions of the tile language, meant for <c>using static Lancet.Tile.TileMath</c>.</summary>
public static class TileMath
{
    /// <summary>2 to the power x.</summary>
    public static Tile Exp2(Tile x) => x.Builder.Unary(Opcode.Exp2, x);

    /// <summary>e to the power x.</summary>
    public static Tile Exp(Tile x) => x.Builder.Unary(Opcode.Exp, x);

    /// <summary>Binary logarithm.</summary>
    public static Tile Log2(Tile x) => x.Builder.Unary(Opcode.Log2, x);

    /// <summary>Natural logarithm.</summary>
    public static Tile Log(Tile x) => x.Builder.Unary(Opcode.Log, x);

    /// <summary>Square root.</summary>
    public static Tile Sqrt(Tile x) => x.Builder.Unary(Opcode.Sqrt, x);

    /// <summary>1 / √x.</summary>
    public static Tile Rsqrt(Tile x) => x.Builder.Unary(Opcode.Rsqrt, x);

    /// <summary>Hyperbolic tangent.</summary>
    public static Tile Tanh(Tile x) => x.Builder.Unary(Opcode.Tanh, x);

    /// <summary>
    /// Hyperbolic tangent whose error is at most 2⁻²², whatever the result: where small results need not be exact to a part of themselves, in a third of the instructions. For what
    /// is multiplied by a constant and added to, or rounded to 16 bits, such as capped scores of 16-bit models.
    /// </summary>
    public static Tile TanhAbsolute(Tile x) => x.Builder.Unary(Opcode.TanhAbsolute, x);

    /// <summary>Gauss error function.</summary>
    public static Tile Erf(Tile x) => x.Builder.Unary(Opcode.Erf, x);

    /// <summary>Sine, radians.</summary>
    public static Tile Sin(Tile x) => x.Builder.Unary(Opcode.Sin, x);

    /// <summary>Cosine, radians.</summary>
    public static Tile Cos(Tile x) => x.Builder.Unary(Opcode.Cos, x);

    /// <summary>Absolute value.</summary>
    public static Tile Abs(Tile x) => x.Builder.Unary(Opcode.Absolute, x);

    /// <summary>Largest integral value not above x.</summary>
    public static Tile Floor(Tile x) => x.Builder.Unary(Opcode.Floor, x);

    /// <summary>Nearest integral value, ties to even.</summary>
    public static Tile Round(Tile x) => x.Builder.Unary(Opcode.Round, x);

    /// <summary>Logistic function 1 / (1 + e^(−x)).</summary>
    public static Tile Sigmoid(Tile x) => 1 / (1 + Exp(-x));

    /// <summary>The smaller of two, elementwise; a NaN gives NaN.</summary>
    public static Tile Min(Tile a, Tile b) => a.Builder.Binary(Opcode.Minimum, a, b);

    /// <summary>The smaller of a tile and a literal.</summary>
    public static Tile Min(Tile a, double b) => a.Builder.Binary(Opcode.Minimum, a, a.Builder.Literal(b, a));

    /// <summary>The larger of two, elementwise; a NaN gives NaN.</summary>
    public static Tile Max(Tile a, Tile b) => a.Builder.Binary(Opcode.Maximum, a, b);

    /// <summary>The larger of a tile and a literal.</summary>
    public static Tile Max(Tile a, double b) => a.Builder.Binary(Opcode.Maximum, a, a.Builder.Literal(b, a));

    /// <summary><paramref name="a"/> where the condition holds, <paramref name="b"/> elsewhere; the three broadcast.</summary>
    public static Tile Select(Tile condition, Tile a, Tile b) => condition.Builder.Select(condition, a, b);

    /// <summary>A tile where the condition holds, a literal elsewhere.</summary>
    public static Tile Select(Tile condition, Tile a, double b) => condition.Builder.Select(condition, a, a.Builder.Literal(b, a));

    /// <summary>A literal where the condition holds, a tile elsewhere.</summary>
    public static Tile Select(Tile condition, double a, Tile b) => condition.Builder.Select(condition, b.Builder.Literal(a, b), b);

    /// <summary>Sum along an axis (the only one of a vector by default), which the result lacks. The order of summation is fixed.</summary>
    public static Tile Sum(Tile x, int axis = 0, [CallerFilePath] string file = "", [CallerLineNumber] int line = 0) =>
        x.Builder.At(file, line).Reduce(Opcode.ReduceSum, x, axis);

    /// <summary>Largest element along an axis, which the result lacks.</summary>
    public static Tile ReduceMax(Tile x, int axis = 0, [CallerFilePath] string file = "", [CallerLineNumber] int line = 0) =>
        x.Builder.At(file, line).Reduce(Opcode.ReduceMax, x, axis);

    /// <summary>Smallest element along an axis, which the result lacks.</summary>
    public static Tile ReduceMin(Tile x, int axis = 0, [CallerFilePath] string file = "", [CallerLineNumber] int line = 0) =>
        x.Builder.At(file, line).Reduce(Opcode.ReduceMin, x, axis);

    /// <summary>Elements of two tiles in turn along the last axis: z[…, 2j] = a[…, j], z[…, 2j + 1] = b[…, j].</summary>
    public static Tile Interleave(Tile a, Tile b) => a.Builder.Interleave(a, b);

    /// <summary>Matrix product a[M,K] · b[K,N], added to accumulator[M,N] if one is given. a and b have one floating-point type; the result is fp32, or fp64 for fp64.</summary>
    public static Tile Dot(Tile a, Tile b, Tile? accumulator = null, [CallerFilePath] string file = "", [CallerLineNumber] int line = 0) =>
        a.Builder.At(file, line).Dot(a, b, accumulator);
}
