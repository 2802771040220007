namespace Lancet.Models;

/// <summary>
/// Cosines and sines of the rotary embedding for integer positions. Frequencies and angles are formed in fp32 as Hugging Face does, so that
/// the same angles result; the functions themselves are rounded correctly.
/// </summary>
public sealed class RotaryTable
{
    private RotaryTable(int positions, int half) => (Cos, Sin) = (new float[positions * half], new float[positions * half]);

    /// <summary>[positions, dimension / 2].</summary>
    public float[] Cos { get; }

    /// <summary>[positions, dimension / 2].</summary>
    public float[] Sin { get; }

    /// <summary>Computes the table for positions below a bound.</summary>
    /// <param name="config">Frequencies.</param>
    /// <param name="positions">Bound.</param>
    /// <param name="length">Length of the sequence; longrope has other factors beyond the original context length.</param>
    public static RotaryTable Create(RotaryConfig config, int positions, int length)
    {
        var frequencies = Frequencies(config, length);
        var table = new RotaryTable(positions, frequencies.Length);
        for (var position = 0; position < positions; position++)
        {
            for (var i = 0; i < frequencies.Length; i++)
            {
                double angle = (float)position * frequencies[i];
                table.Cos[(position * frequencies.Length) + i] = (float)((float)Math.Cos(angle) * config.AttentionFactor);
                table.Sin[(position * frequencies.Length) + i] = (float)((float)Math.Sin(angle) * config.AttentionFactor);
            }
        }
        return table;
    }

    /// <summary>The dimension / 2 angular frequencies in radians per position, for a sequence of a length.</summary>
    public static float[] Frequencies(RotaryConfig config, int length)
    {
        var half = config.Dimension / 2;
        var result = new float[half];
        var factors = length > config.OriginalMaxPositions ? config.LongFactors : config.ShortFactors;
        for (var i = 0; i < half; i++)
        {
            var power = (float)Math.Pow((float)config.Theta, 2f * i / config.Dimension);
            var plain = 1f / power;
            result[i] = config.Type switch
            {
                "linear" => plain / (float)config.Factor,
                "llama3" => Llama3(config, plain),
                "yarn" => Yarn(config, i, power),
                "longrope" => 1f / ((float)factors[i] * power),
                _ => plain,
            };
        }
        return result;
    }

    private static float Llama3(RotaryConfig config, float frequency)
    {
        var wavelength = 2 * MathF.PI / frequency;
        if (wavelength > config.OriginalMaxPositions / config.LowFrequencyFactor) return frequency / (float)config.Factor;
        if (wavelength < config.OriginalMaxPositions / config.HighFrequencyFactor) return frequency;
        var smooth = ((config.OriginalMaxPositions / wavelength) - (float)config.LowFrequencyFactor) / (float)(config.HighFrequencyFactor - config.LowFrequencyFactor);
        return ((1 - smooth) * frequency / (float)config.Factor) + (smooth * frequency);
    }

    // Peng et al., "YaRN", 2023, equations 17 to 23.
    private static float Yarn(RotaryConfig config, int i, float power)
    {
        double Dimension(double rotations) => config.Dimension * Math.Log(config.OriginalMaxPositions / (rotations * 2 * Math.PI)) / (2 * Math.Log(config.Theta));
        double low = Dimension(config.BetaFast), high = Dimension(config.BetaSlow);
        if (config.IsTruncated) (low, high) = (Math.Floor(low), Math.Ceiling(high));
        (low, high) = (Math.Max(low, 0), Math.Min(high, config.Dimension - 1));
        if (low == high) high += 0.001;
        var ramp = (float)Math.Clamp((i - low) / (high - low), 0, 1);
        return (1f / ((float)config.Factor * power) * ramp) + (1f / power * (1 - ramp));
    }
}
