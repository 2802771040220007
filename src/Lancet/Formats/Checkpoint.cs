using System.Text.Json;
using Lancet.Formats.Gguf;
using Lancet.Tile;

namespace Lancet.Formats;

/// <summary>The weights of a model folder: <c>model.safetensors</c>, or the shards that <c>model.safetensors.index.json</c> names.</summary>
public sealed class Checkpoint : IDisposable
{
    private readonly List<SafetensorsFile> _files = [];
    private readonly Dictionary<string, SafetensorsEntry> _entries = [];
    private GgufWeights? _gguf;

    private Checkpoint(string folder) => Folder = folder;

    /// <summary>The folder.</summary>
    public string Folder { get; }

    /// <summary>Tensors by name.</summary>
    public IReadOnlyDictionary<string, SafetensorsEntry> Entries => _entries;

    /// <summary>Opens the weights of a folder or of a GGUF file.</summary>
    /// <param name="folder">Folder or file.</param>
    /// <param name="dtype">Dtype that quantised weights of a GGUF file become.</param>
    /// <exception cref="LancetException">Files are missing or malformed.</exception>
    public static Checkpoint Open(string folder, DType dtype = DType.Float32)
    {
        var result = new Checkpoint(folder);
        try
        {
            if (GgufFile.IsGguf(folder))
            {
                result._gguf = new GgufWeights(folder, dtype);
                foreach (var entry in result._gguf.Entries) result._entries.Add(entry.Name, entry);
                return result;
            }
            foreach (var name in FileNames(folder))
            {
                var file = SafetensorsFile.Open(Path.Combine(folder, name));
                result._files.Add(file);
                foreach (var (key, entry) in file.Entries)
                    if (!result._entries.TryAdd(key, entry)) throw new LancetException($"{file.Path}: tensor {key} is in another shard as well.");
            }
            return result;
        }
        catch
        {
            result.Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _gguf?.Dispose();
        foreach (var file in _files) file.Dispose();
    }

    private static IEnumerable<string> FileNames(string folder)
    {
        var single = Path.Combine(folder, "model.safetensors");
        var index = Path.Combine(folder, "model.safetensors.index.json");
        if (!File.Exists(index)) return File.Exists(single) ? ["model.safetensors"] : throw new LancetException($"{folder}: neither model.safetensors nor model.safetensors.index.json is there. PyTorch .bin files are not read; convert them to safetensors.");
        try
        {
            using var document = JsonDocument.Parse(File.ReadAllBytes(index));
            if (!document.RootElement.TryGetProperty("weight_map", out var map) || map.ValueKind != JsonValueKind.Object) throw new LancetException($"{index}: weight_map is missing.");
            string[] names = [.. map.EnumerateObject().Select(item => item.Value.GetString() ?? "").Distinct().Order(StringComparer.Ordinal)];
            foreach (var name in names)
                if (name.Length == 0 || Path.GetFileName(name) != name) throw new LancetException($"{index}: shard name \"{name}\" must be a file in the same folder.");
            return names;
        }
        catch (Exception error) when (error is JsonException or InvalidOperationException)
        {
            throw new LancetException($"{index}: not a valid index: {error.Message}", error);
        }
    }
}
