using System.Buffers.Binary;
using System.Text.Json;
using Lancet.Tile;

namespace Lancet.Formats;

/// <summary>A tensor to be written: its bytes are asked for only when it is its turn.</summary>
/// <param name="Name">Name.</param>
/// <param name="DType">Element type.</param>
/// <param name="Dimensions">Extents.</param>
/// <param name="Write">Writes exactly the tensor's bytes.</param>
public sealed record SafetensorsOutput(string Name, DType DType, IReadOnlyList<long> Dimensions, Action<Stream> Write)
{
    /// <summary>Size in bytes.</summary>
    public long Bytes => Dimensions.Aggregate(1L, (product, extent) => product * extent) * DType.SizeInBytes();
}

/// <summary>Writes safetensors files tensor by tensor, atomically.</summary>
public static class SafetensorsWriter
{
    /// <summary>Writes one file.</summary>
    /// <param name="path">File.</param>
    /// <param name="tensors">Tensors in the order of the file.</param>
    /// <param name="metadata">Written as <c>__metadata__</c>.</param>
    public static void Write(string path, IReadOnlyList<SafetensorsOutput> tensors, IReadOnlyDictionary<string, string>? metadata = null) => AtomicFile.Write(path, stream =>
    {
        var header = Header(tensors, metadata);
        Span<byte> length = stackalloc byte[8];
        BinaryPrimitives.WriteUInt64LittleEndian(length, (ulong)header.Length);
        stream.Write(length);
        stream.Write(header);
        foreach (var tensor in tensors)
        {
            var start = stream.Position;
            tensor.Write(stream);
            if (stream.Position - start != tensor.Bytes) throw new InvalidOperationException($"Tensor {tensor.Name} wrote {stream.Position - start} bytes instead of {tensor.Bytes}.");
        }
    });

    /// <summary>Writes a model as one file, or as shards with <c>model.safetensors.index.json</c> where it is larger than a shard.</summary>
    /// <param name="folder">Folder.</param>
    /// <param name="tensors">Tensors in order.</param>
    /// <param name="maxShardBytes">Most bytes of a shard.</param>
    public static void WriteModel(string folder, IReadOnlyList<SafetensorsOutput> tensors, long maxShardBytes = 5_000_000_000)
    {
        var metadata = new Dictionary<string, string> { ["format"] = "pt" };
        var shards = new List<List<SafetensorsOutput>> { new() };
        long bytes = 0;
        foreach (var tensor in tensors)
        {
            if (bytes + tensor.Bytes > maxShardBytes && shards[^1].Count > 0)
            {
                shards.Add([]);
                bytes = 0;
            }
            shards[^1].Add(tensor);
            bytes += tensor.Bytes;
        }
        if (shards.Count == 1)
        {
            Write(Path.Combine(folder, "model.safetensors"), tensors, metadata);
            RemoveFormer(folder, ["model.safetensors"]);
            return;
        }
        var names = Enumerable.Range(1, shards.Count).Select(i => $"model-{i:00000}-of-{shards.Count:00000}.safetensors").ToArray();
        for (var i = 0; i < shards.Count; i++) Write(Path.Combine(folder, names[i]), shards[i], metadata);
        AtomicFile.Write(Path.Combine(folder, "model.safetensors.index.json"), stream =>
        {
            using var json = new Utf8JsonWriter(stream, new JsonWriterOptions { Indented = true });
            json.WriteStartObject();
            json.WriteStartObject("metadata");
            json.WriteNumber("total_size", tensors.Sum(tensor => tensor.Bytes));
            json.WriteEndObject();
            json.WriteStartObject("weight_map");
            for (var i = 0; i < shards.Count; i++)
                foreach (var tensor in shards[i]) json.WriteString(tensor.Name, names[i]);
            json.WriteEndObject();
            json.WriteEndObject();
        });
        RemoveFormer(folder, [.. names, "model.safetensors.index.json"]);
    }

    /// <summary>Removes the files of a model that was in the folder before; its index would otherwise go on naming its own shards.</summary>
    private static void RemoveFormer(string folder, IReadOnlyList<string> written)
    {
        foreach (var pattern in (string[])["model.safetensors.index.json", "model.safetensors", "model-*-of-*.safetensors"])
            foreach (var path in Directory.GetFiles(folder, pattern))
                if (!written.Contains(Path.GetFileName(path))) File.Delete(path);
    }

    private static byte[] Header(IReadOnlyList<SafetensorsOutput> tensors, IReadOnlyDictionary<string, string>? metadata)
    {
        using var buffer = new MemoryStream();
        using (var json = new Utf8JsonWriter(buffer))
        {
            json.WriteStartObject();
            if (metadata is { Count: > 0 })
            {
                json.WriteStartObject("__metadata__");
                foreach (var (key, value) in metadata) json.WriteString(key, value);
                json.WriteEndObject();
            }
            long offset = 0;
            foreach (var tensor in tensors)
            {
                json.WriteStartObject(tensor.Name);
                json.WriteString("dtype", Format(tensor.DType));
                json.WriteStartArray("shape");
                foreach (var extent in tensor.Dimensions) json.WriteNumberValue(extent);
                json.WriteEndArray();
                json.WriteStartArray("data_offsets");
                json.WriteNumberValue(offset);
                json.WriteNumberValue(offset += tensor.Bytes);
                json.WriteEndArray();
                json.WriteEndObject();
            }
            json.WriteEndObject();
        }
        // Spaces up to a multiple of 8 keep the data aligned, as the reference implementation does.
        while (buffer.Length % 8 != 0) buffer.WriteByte((byte)' ');
        return buffer.ToArray();
    }

    private static string Format(DType dtype) => dtype switch
    {
        DType.Float32 => "F32",
        DType.BFloat16 => "BF16",
        DType.Float16 => "F16",
        DType.Float64 => "F64",
        DType.Int64 => "I64",
        DType.Int32 => "I32",
        DType.Int8 => "I8",
        DType.UInt8 => "U8",
        _ => throw new ArgumentException($"{dtype} has no name in safetensors files."),
    };
}
