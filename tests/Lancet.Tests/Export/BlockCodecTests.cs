using Lancet.Formats.Gguf;
using Lancet.Formats.Gguf.Blocks;

namespace Lancet.Tests.Export;

/// <summary>Block types: what they keep of numbers, and llama.cpp's quantiser beside Lancet's.</summary>
public sealed class BlockCodecTests(LlamaCpp llama) : IClassFixture<LlamaCpp>
{
    private const int Columns = 768;

    /// <summary>Quantised types, with the most that a number in a group may be off, as a share of the range of the group's numbers.</summary>
    public static TheoryData<GgufTensorType, double> Types => new()
    {
        { GgufTensorType.Q80, 0.5 / 127 },
        // The largest number of the other sign can lie half a step beyond the last integer.
        { GgufTensorType.Q40, 1.0 / 8 },
        { GgufTensorType.Q41, 0.53 / 15 },
        { GgufTensorType.Q50, 1.0 / 16 },
        { GgufTensorType.Q51, 0.55 / 31 },
        // Scales are rounded too here, and a range is left at its ends where the rest gains by it.
        { GgufTensorType.Q2K, 0.5 },
        { GgufTensorType.Q3K, 0.5 },
        { GgufTensorType.Q4K, 0.1 },
        { GgufTensorType.Q5K, 0.05 },
        { GgufTensorType.Q6K, 0.05 },
    };

    public static TheoryData<GgufTensorType, bool> WithAndWithoutImportance => [.. Types.Where(type => type.Data.Item1 != GgufTensorType.Q80).SelectMany(type => new[] { (type.Data.Item1, false), (type.Data.Item1, true) }), (GgufTensorType.Q80, false)];

    [Theory]
    [MemberData(nameof(Types))]
    public void No_number_is_further_off_than_a_step(GgufTensorType type, double share)
    {
        var values = Values(4, 11);
        var back = RoundTrip(type, values);
        for (var group = 0; group < values.Length; group += 16)
        {
            // Blocks of 32 and groups of 16 or 32: the range of 32 bounds both.
            var range = values.Skip(group / 32 * 32).Take(32).Append(0).ToList();
            for (var i = group; i < group + 16; i++) Assert.True(Math.Abs(values[i] - back[i]) <= (share * (range.Max() - range.Min())) + 1e-6, $"{i}: {values[i]} became {back[i]} in a range of {range.Max() - range.Min()}");
        }
    }

    [Theory]
    [MemberData(nameof(Types))]
    public void Zeros_and_constants_and_outliers_survive(GgufTensorType type, double share)
    {
        Assert.All(RoundTrip(type, new float[Columns]), value => Assert.Equal(0, value));
        foreach (var constant in new[] { 1f, -0.75f, 3e-3f })
            Assert.All(RoundTrip(type, [.. Enumerable.Repeat(constant, Columns)]), value => Assert.InRange(value / constant, 1 - share - 0.01, 1 + share + 0.01));
        var outlier = new float[Columns];
        outlier[300] = -4096;
        var back = RoundTrip(type, outlier);
        Assert.InRange(back[300] / outlier[300], 0.98, 1.02);
        Assert.All(back, value => Assert.True(float.IsFinite(value)));
    }

    [Theory]
    [MemberData(nameof(Types))]
    public void Rows_and_threads_do_not_matter(GgufTensorType type, double share)
    {
        _ = share;
        var values = Values(37, 5);
        var (together, alone) = (new byte[type.Bytes(values.Length)], new byte[type.Bytes(Columns)]);
        BlockCodec.QuantizeRows(type, values, Columns, together);
        for (var row = 0; row < 37; row++)
        {
            BlockCodec.Quantize(type, values.AsSpan(row * Columns, Columns), alone);
            Assert.Equal(alone, together.AsSpan(row * alone.Length, alone.Length).ToArray());
        }
    }

    [Theory]
    [MemberData(nameof(Types))]
    public void Any_bytes_are_read_as_llama_cpp_reads_them(GgufTensorType type, double share)
    {
        _ = share;
        llama.Require();
        var random = new DeterministicRandom(8);
        var bytes = new byte[type.Bytes(64 * Columns)];
        for (var i = 0; i < bytes.Length; i++) bytes[i] = (byte)random.NextInt32(256);
        var (expected, actual) = (GgmlLibrary.Dequantize(type, bytes, 64 * Columns), new float[64 * Columns]);
        BlockCodec.Dequantize(type, bytes, actual);
        // Fused or not, sums may differ in their last bit; scales that are not finite are not.
        for (var i = 0; i < actual.Length; i++)
            Assert.True(Math.Abs(expected[i] - actual[i]) <= 1e-6 * Math.Abs(expected[i]) + 2e-3 || (!float.IsFinite(expected[i]) && !float.IsFinite(actual[i])), $"{i}: {expected[i]}, {actual[i]}");
    }

    /// <summary>The square error, weighted where there are weights, of normal and heavy-tailed numbers: at most 1 % above llama.cpp's own.</summary>
    [Theory]
    [MemberData(nameof(WithAndWithoutImportance))]
    public void Errors_are_those_of_llama_cpps_quantiser(GgufTensorType type, bool hasImportance)
    {
        llama.Require();
        const int rows = 64;
        var values = Values(rows, 3);
        var random = new DeterministicRandom(17);
        float[]? importance = hasImportance ? [.. Enumerable.Range(0, Columns).Select(_ => (float)Math.Exp(2 * random.NextNormal()))] : null;
        var ours = new byte[type.Bytes(values.Length)];
        BlockCodec.QuantizeRows(type, values, Columns, ours, importance);
        var theirs = GgmlLibrary.Quantize(type, values, Columns, importance);
        var (mine, other) = (Error(GgmlLibrary.Dequantize(type, ours, values.Length)), Error(GgmlLibrary.Dequantize(type, theirs, values.Length)));
        TestContext.Current.SendDiagnosticMessage($"{type} importance {hasImportance}: {mine / other}");
        Assert.True(mine <= 1.01 * other, $"{mine} against llama.cpp's {other}: {mine / other}");

        double Error(float[] back) => values.Select((value, i) => (importance?[i % Columns] ?? 1) * Math.Pow(value - back[i], 2)).Sum();
    }

    [Fact]
    public void Every_half_and_what_lies_between_is_converted_as_dotnet_does()
    {
        var halves = new Half[1 << 16];
        for (var i = 0; i < halves.Length; i++) halves[i] = BitConverter.UInt16BitsToHalf((ushort)i);
        var wide = new float[halves.Length];
        BlockCodec.Dequantize(GgufTensorType.Float16, System.Runtime.InteropServices.MemoryMarshal.AsBytes(halves.AsSpan()), wide);
        for (var i = 0; i < wide.Length; i++) Assert.True(wide[i].Equals((float)halves[i]), $"{i:X}: {wide[i]}");
        // Each number, its neighbours, and the halfway points to the next, where ties are decided.
        float[] numbers = [.. wide.SelectMany(value => new[] { value, MathF.BitIncrement(value), MathF.BitDecrement(value), value * 1.00048828125f, value + (value * 0.00024414062f), value * 3e-5f }), 65519.99f, 65520, 1e30f, float.Epsilon];
        numbers = [.. numbers, .. new float[(8 - (numbers.Length % 8)) % 8]];
        var narrow = new Half[numbers.Length];
        BlockCodec.Quantize(GgufTensorType.Float16, numbers, System.Runtime.InteropServices.MemoryMarshal.AsBytes(narrow.AsSpan()));
        for (var i = 0; i < numbers.Length; i++) Assert.True(narrow[i].Equals((Half)numbers[i]), $"{numbers[i]:R}: {narrow[i]} instead of {(Half)numbers[i]}");
    }

    private static float[] RoundTrip(GgufTensorType type, float[] values)
    {
        var (bytes, back) = (new byte[type.Bytes(values.Length)], new float[values.Length]);
        BlockCodec.QuantizeRows(type, values, Columns, bytes);
        for (var row = 0; row < values.Length / Columns; row++) BlockCodec.Dequantize(type, bytes.AsSpan(row * (int)type.Bytes(Columns), (int)type.Bytes(Columns)), back.AsSpan(row * Columns, Columns));
        return back;
    }

    /// <summary>Normal numbers of deviation 0.02 as in trained weights, an eighth of the rows with heavy tails.</summary>
    private static float[] Values(int rows, long seed)
    {
        var random = new DeterministicRandom(seed);
        return [.. Enumerable.Range(0, rows * Columns).Select(i => (float)(0.02 * (i / Columns % 8 == 7 ? Math.Pow(random.NextNormal(), 3) : random.NextNormal())))];
    }
}
