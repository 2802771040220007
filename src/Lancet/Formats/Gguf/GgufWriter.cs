using System.Text;

namespace Lancet.Formats.Gguf;

/// <summary>A tensor to be written: its bytes are asked for only when it is its turn.</summary>
/// <param name="Name">Name.</param>
/// <param name="Type">Element type.</param>
/// <param name="Dimensions">Extents, slowest first.</param>
/// <param name="Write">Writes exactly the tensor's bytes.</param>
public sealed record GgufOutput(string Name, GgufTensorType Type, IReadOnlyList<long> Dimensions, Action<Stream> Write)
{
    /// <summary>Size in bytes.</summary>
    public long Bytes => Type.Bytes(Dimensions.Aggregate(1L, (product, extent) => product * extent));
}

/// <summary>Writes GGUF files, version 3, tensor by tensor and atomically.</summary>
public static class GgufWriter
{
    private const int Alignment = GgufHeader.DefaultAlignment;

    /// <summary>Writes a file.</summary>
    /// <param name="path">File.</param>
    /// <param name="metadata">Key/value pairs.</param>
    /// <param name="tensors">Tensors in the order of the file.</param>
    /// <exception cref="OutputException">The disk has too little room, or the file cannot be written.</exception>
    public static void Write(string path, GgufMetadata metadata, IReadOnlyList<GgufOutput> tensors)
    {
        var header = Header(metadata, tensors);
        DiskSpace.Require(path, header.Length + tensors.Sum(tensor => Padded(tensor.Bytes)));
        AtomicFile.Write(path, stream =>
        {
            stream.Write(header);
            foreach (var tensor in tensors)
            {
                var start = stream.Position;
                tensor.Write(stream);
                if (stream.Position - start != tensor.Bytes) throw new InvalidOperationException($"Tensor {tensor.Name} wrote {stream.Position - start} bytes instead of {tensor.Bytes}.");
                stream.Write(new byte[Padded(tensor.Bytes) - tensor.Bytes]);
            }
        });
    }

    private static long Padded(long bytes) => (bytes + Alignment - 1) & -Alignment;

    private static byte[] Header(GgufMetadata metadata, IReadOnlyList<GgufOutput> tensors)
    {
        using var buffer = new MemoryStream();
        using var writer = new BinaryWriter(buffer);
        writer.Write(GgufHeader.Magic);
        writer.Write(3u);
        writer.Write((ulong)tensors.Count);
        writer.Write((ulong)metadata.Items.Count);
        foreach (var (key, value) in metadata.Items)
        {
            WriteText(writer, key);
            writer.Write(TypeOf(value));
            WriteValue(writer, value);
        }
        long offset = 0;
        foreach (var tensor in tensors)
        {
            WriteText(writer, tensor.Name);
            writer.Write((uint)tensor.Dimensions.Count);
            foreach (var extent in tensor.Dimensions.Reverse()) writer.Write((ulong)extent);
            writer.Write((uint)tensor.Type);
            writer.Write((ulong)offset);
            offset += Padded(tensor.Bytes);
        }
        writer.Write(new byte[Padded(buffer.Length) - buffer.Length]);
        writer.Flush();
        return buffer.ToArray();
    }

    private static void WriteText(BinaryWriter writer, string text)
    {
        var bytes = Encoding.UTF8.GetBytes(text);
        writer.Write((ulong)bytes.Length);
        writer.Write(bytes);
    }

    private static uint TypeOf(object value) => value switch
    {
        byte => 0,
        sbyte => 1,
        ushort => 2,
        short => 3,
        uint => 4,
        int => 5,
        float => 6,
        bool => 7,
        string => 8,
        Array => 9,
        ulong => 10,
        long => 11,
        double => 12,
        _ => throw new ArgumentException($"GGUF has no type for {value.GetType().Name}."),
    };

    private static uint ElementTypeOf(Array list) => list switch
    {
        // To the runtime an array of signed bytes is one of unsigned ones too, hence the comparison of element types.
        byte[] when list.GetType() == typeof(byte[]) => 0,
        sbyte[] => 1,
        ushort[] when list.GetType() == typeof(ushort[]) => 2,
        short[] => 3,
        uint[] when list.GetType() == typeof(uint[]) => 4,
        int[] => 5,
        float[] => 6,
        bool[] => 7,
        string[] => 8,
        ulong[] when list.GetType() == typeof(ulong[]) => 10,
        long[] => 11,
        double[] => 12,
        object[] => 9,
        _ => throw new ArgumentException($"GGUF has no type for {list.GetType().Name}."),
    };

    private static void WriteValue(BinaryWriter writer, object value)
    {
        switch (value)
        {
            case byte number: writer.Write(number); break;
            case sbyte number: writer.Write(number); break;
            case ushort number: writer.Write(number); break;
            case short number: writer.Write(number); break;
            case uint number: writer.Write(number); break;
            case int number: writer.Write(number); break;
            case float number: writer.Write(number); break;
            case bool flag: writer.Write((byte)(flag ? 1 : 0)); break;
            case string text: WriteText(writer, text); break;
            case ulong number: writer.Write(number); break;
            case long number: writer.Write(number); break;
            case double number: writer.Write(number); break;
            case Array list:
                writer.Write(ElementTypeOf(list));
                writer.Write((ulong)list.Length);
                foreach (var item in list) WriteValue(writer, item!);
                break;
            default: throw new ArgumentException($"GGUF has no type for {value.GetType().Name}.");
        }
    }
}
