using System.Buffers.Binary;
using System.Text.Json.Nodes;

namespace Lancet.Cli.Tests;

/// <summary>A temporary folder with a copy of a golden fixture to spoil, gone at the end of the test.</summary>
internal sealed class Workspace : IDisposable
{
    public Workspace(string fixture = "llama")
    {
        Root = Directory.CreateTempSubdirectory("lancet-test-").FullName;
        foreach (var source in Directory.EnumerateFiles(Path.Combine(Checkout, "tests", "golden", fixture), "*", SearchOption.AllDirectories))
        {
            var target = Path.Combine(Root, Path.GetRelativePath(Path.Combine(Checkout, "tests", "golden", fixture), source));
            Directory.CreateDirectory(Path.GetDirectoryName(target)!);
            File.Copy(source, target);
        }
    }

    public static string Checkout { get; } = FindCheckout();

    public string Root { get; }

    public string Model => At("model");

    public string Weights => At("model", "model.safetensors");

    public string Adapter => At("adapter");

    public string Data => At("data.jsonl");

    public string Output => At("out");

    public string At(params string[] parts) => Path.Combine([Root, .. parts]);

    /// <summary>Writes rows, a line each, and returns the file.</summary>
    public string Rows(params string[] lines)
    {
        File.WriteAllLines(At("rows.jsonl"), lines);
        return At("rows.jsonl");
    }

    /// <summary>A short training run into <see cref="Output"/>; options given replace those of the same name.</summary>
    public string[] Train(params string[] more)
    {
        var options = new Dictionary<string, string> { ["--model"] = Model, ["--data"] = Data, ["--output"] = Output, ["--max-steps"] = "2" };
        for (var i = 0; i < more.Length; i += 2) options[more[i]] = more[i + 1];
        return ["train", .. options.SelectMany(option => (string[])[option.Key, option.Value])];
    }

    /// <summary>Rewrites the JSON header of a safetensors file.</summary>
    public static void EditHeader(string path, Action<JsonObject> edit)
    {
        var bytes = File.ReadAllBytes(path);
        var length = (int)BinaryPrimitives.ReadInt64LittleEndian(bytes);
        var header = JsonNode.Parse(bytes.AsSpan(8, length))!.AsObject();
        edit(header);
        var text = System.Text.Encoding.UTF8.GetBytes(header.ToJsonString());
        using var file = File.Create(path);
        Span<byte> prefix = stackalloc byte[8];
        BinaryPrimitives.WriteInt64LittleEndian(prefix, text.Length);
        file.Write(prefix);
        file.Write(text);
        file.Write(bytes.AsSpan(8 + length));
    }

    /// <summary>Changes config.json.</summary>
    public void EditConfig(Action<JsonObject> edit)
    {
        var config = JsonNode.Parse(File.ReadAllText(At("model", "config.json")))!.AsObject();
        edit(config);
        File.WriteAllText(At("model", "config.json"), config.ToJsonString());
    }

    /// <summary>Every file below the folder with its contents, to see that nothing was lost.</summary>
    public static SortedDictionary<string, byte[]> Snapshot(string folder) =>
        new(Directory.EnumerateFiles(folder, "*", SearchOption.AllDirectories).ToDictionary(path => Path.GetRelativePath(folder, path), File.ReadAllBytes), StringComparer.Ordinal);

    public void Dispose() => Directory.Delete(Root, true);

    private static string FindCheckout()
    {
        var folder = new DirectoryInfo(AppContext.BaseDirectory);
        while (folder is not null && !File.Exists(Path.Combine(folder.FullName, "Lancet.slnx"))) folder = folder.Parent;
        return folder?.FullName ?? throw new DirectoryNotFoundException($"No Lancet.slnx above {AppContext.BaseDirectory}.");
    }
}
