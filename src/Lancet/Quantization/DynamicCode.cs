namespace Lancet.Quantization;

/// <summary>
/// The dynamic 8-bit number format of block-wise quantisation (Dettmers et al., "8-bit Optimizers via Block-wise Quantization", 2022): a
/// decimal exponent coded in unary and a linear fraction in the bits that are left. 256 values in [−1, 1] (signed) or [0, 1].
/// </summary>
public static class DynamicCode
{
    /// <summary>How many decimal exponents there are.</summary>
    internal const int Decades = 7;

    /// <summary>The signed table, ascending.</summary>
    public static float[] Signed { get; } = Create(true);

    /// <summary>The unsigned table, ascending.</summary>
    public static float[] Unsigned { get; } = Create(false);

    /// <summary>Midpoints of neighbours of a table, with +∞ at the end: the code of x is the number of midpoints below x.</summary>
    public static float[] Midpoints(ReadOnlySpan<float> table)
    {
        var result = new float[table.Length];
        for (var i = 0; i + 1 < table.Length; i++) result[i] = (float)(((double)table[i] + table[i + 1]) / 2);
        result[^1] = float.PositiveInfinity;
        return result;
    }

    /// <summary>Upper end of a decade, which begins at a tenth of it.</summary>
    internal static double Scale(int decade) => Math.Pow(10, decade - Decades + 1);

    private static float[] Create(bool isSigned)
    {
        var values = new List<float>(256);
        for (var i = 0; i < Decades; i++)
        {
            var fractions = 1 << (isSigned ? i : i + 1);
            // Means of neighbouring bounds of `fractions` equal parts of [0.1, 1], times the scale.
            for (var j = 0; j < fractions; j++)
            {
                var value = (float)((0.1 + (0.9 * (j + 0.5) / fractions)) * Scale(i));
                values.Add(value);
                if (isSigned) values.Add(-value);
            }
        }
        values.Add(0);
        values.Add(1);
        values.Sort();
        return [.. values];
    }
}
