using System.Globalization;
using Lancet.Formats.Gguf;
using Lancet.Formats.Gguf.Blocks;

namespace Lancet.Bench;

/// <summary>
/// GGUF block types: rates of quantising fp32 and of reading it back, beside a copy that moves as many bytes on the same threads. The two take turns in one run, and
/// a share is the median of the rounds' shares. Rates are by the processor time that was used, times the threads: what others do on the machine would otherwise be measured
/// too. Prints a Markdown table.
/// </summary>
internal static class QuantizeBenchmark
{
    private const int Rounds = 5;
    private const int Columns = 4096;
    // More than the caches hold.
    private const int Rows = 32768;
    private const int RowsAtATime = 16;

    private static readonly string[] s_types = ["f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k"];

    public static void Run()
    {
        var values = new float[Rows * Columns];
        var random = new DeterministicRandom(1);
        for (var i = 0; i < values.Length; i++) values[i] = (float)(0.02 * random.NextNormal());
        Console.WriteLine($"{Environment.ProcessorCount} threads, {Rows} × {Columns} fp32 ({values.Length * 4L / 1e6:F0} MB); medians of {Rounds} rounds. GB/s: bytes read and written. In brackets the share of a copy's rate.");
        Console.WriteLine();
        Console.WriteLine("| type | quantise, M weights/s | GB/s | dequantise, M weights/s | GB/s |");
        Console.WriteLine("|---|---|---|---|---|");
        foreach (var name in s_types) Measure(GgufMix.Find(name).Type, name, values);
    }

    private static void Measure(GgufTensorType type, string name, float[] values)
    {
        var bytes = new byte[type.Bytes(values.Length)];
        var back = new float[values.Length];
        var rowBytes = (int)type.Bytes(Columns);
        var moved = (values.Length * 4L) + bytes.Length;
        // A copy of half as many bytes reads and writes as many as the conversion does.
        var (source, target) = (new byte[moved / 2], new byte[moved / 2]);
        List<double> quantize = [], dequantize = [], quantizeShare = [], dequantizeShare = [];
        for (var round = -1; round < Rounds; round++)
        {
            var copy = Seconds(() => Parallel.For(0, 64, part => Buffer.BlockCopy(source, Start(part), target, Start(part), Start(part + 1) - Start(part))));
            var there = Seconds(() => BlockCodec.QuantizeRows(type, values, Columns, bytes));
            var here = Seconds(() => Parallel.For(0, Rows / RowsAtATime, part =>
            {
                for (var row = part * RowsAtATime; row < (part + 1) * RowsAtATime; row++) BlockCodec.Dequantize(type, bytes.AsSpan(row * rowBytes, rowBytes), back.AsSpan(row * Columns, Columns));
            }));
            // The first round compiles and touches the memory.
            if (round < 0) continue;
            quantize.Add(there);
            dequantize.Add(here);
            quantizeShare.Add(copy / there);
            dequantizeShare.Add(copy / here);
        }
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture,
            $"| {name} | {values.Length / Median(quantize) / 1e6:N0} | {moved / Median(quantize) / 1e9:F1} ({Median(quantizeShare):P0}) | {values.Length / Median(dequantize) / 1e6:N0} | {moved / Median(dequantize) / 1e9:F1} ({Median(dequantizeShare):P0}) |"));

        int Start(int part) => (int)((long)source.Length * part / 64);
    }

    private static double Seconds(Action work)
    {
        var before = Environment.CpuUsage.TotalTime;
        work();
        return (Environment.CpuUsage.TotalTime - before).TotalSeconds / Environment.ProcessorCount;
    }

    private static double Median(List<double> values)
    {
        values.Sort();
        return values[values.Count / 2];
    }
}
