using System.Buffers.Binary;
using System.Text;

namespace Lancet.Formats.Gguf;

/// <summary>A tensor of a GGUF file.</summary>
/// <param name="Name">Name.</param>
/// <param name="Type">Element type.</param>
/// <param name="Dimensions">Extents, slowest first as in safetensors: [out, in] for a matrix.</param>
/// <param name="Offset">First byte, counted from the start of the file.</param>
public sealed record GgufTensor(string Name, GgufTensorType Type, IReadOnlyList<long> Dimensions, long Offset)
{
    /// <summary>Number of elements.</summary>
    public long Count => Dimensions.Aggregate(1L, (product, extent) => product * extent);

    /// <summary>Size in bytes.</summary>
    public long Bytes => Type.Bytes(Count);

    /// <summary>Elements of a row.</summary>
    public long Columns => Dimensions.Count == 0 ? 1 : Dimensions[^1];
}

/// <summary>
/// What stands before the data of a GGUF file (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), versions 2 and 3, little endian.
/// Every count, length, shape and offset is checked against the bytes there are before it is used, so that a damaged file is an error and
/// nothing else.
/// </summary>
public sealed class GgufHeader
{
    /// <summary>First four bytes of a file.</summary>
    public const uint Magic = 0x46554747;

    /// <summary>Alignment of tensors where the file names none.</summary>
    public const int DefaultAlignment = 32;

    private const int MaxDimensions = 4;
    private const int MaxDepth = 4;

    private GgufHeader(GgufMetadata metadata, IReadOnlyDictionary<string, GgufTensor> tensors) => (Metadata, Tensors) = (metadata, tensors);

    /// <summary>Key/value pairs.</summary>
    public GgufMetadata Metadata { get; }

    /// <summary>Tensors by name.</summary>
    public IReadOnlyDictionary<string, GgufTensor> Tensors { get; }

    /// <summary>Reads and checks a header.</summary>
    /// <param name="bytes">The start of the file, at most 2 GiB of it.</param>
    /// <param name="fileLength">Length of the whole file.</param>
    /// <param name="path">File, for messages.</param>
    /// <exception cref="LancetException">The header is truncated, malformed, or names types that are not supported.</exception>
    public static GgufHeader Read(ReadOnlySpan<byte> bytes, long fileLength, string path)
    {
        var reader = new Reader(bytes, path);
        if (bytes.Length < 24) throw reader.Error($"{fileLength} bytes is too short for a GGUF file; it is truncated or something else.");
        if (reader.UInt32() != Magic) throw reader.Error("not a GGUF file: it does not begin with \"GGUF\".");
        var version = reader.UInt32();
        if (version is not (2 or 3)) throw reader.Error((version & 0xFFFF) == 0 ? "a big-endian GGUF file; convert it to little endian." : $"GGUF version {version}; 2 and 3 are supported.");
        var (tensorCount, pairCount) = (reader.UInt64(), reader.UInt64());
        // The shortest tensor is an empty name, no dimensions, a type and an offset; the shortest pair an empty key, a type and a byte.
        if (tensorCount > (ulong)bytes.Length / 24) throw reader.Error($"the header claims {tensorCount} tensors, more than fit into the file; it is damaged.");
        if (pairCount > (ulong)bytes.Length / 13) throw reader.Error($"the header claims {pairCount} keys, more than fit into the file; it is damaged.");
        var metadata = new GgufMetadata(path);
        for (var i = 0UL; i < pairCount; i++)
        {
            var key = reader.Text("a key");
            metadata.Add(key, reader.Value(reader.UInt32(), key, 0));
        }
        var alignment = metadata.Integer("general.alignment") ?? DefaultAlignment;
        if (alignment is < 1 or > 1 << 20 || (alignment & (alignment - 1)) != 0) throw reader.Error($"general.alignment is {alignment}; a power of two is expected.");
        var tensors = new List<GgufTensor>((int)tensorCount);
        for (var i = 0UL; i < tensorCount; i++) tensors.Add(reader.Tensor());
        var start = (reader.Position + alignment - 1) & -alignment;
        return new(metadata, Place(tensors, start, alignment, fileLength, path));
    }

    /// <summary>Counts offsets from the start of the file and checks that tensors neither overlap nor leave it.</summary>
    private static Dictionary<string, GgufTensor> Place(List<GgufTensor> tensors, long start, long alignment, long fileLength, string path)
    {
        var result = new Dictionary<string, GgufTensor>(tensors.Count);
        foreach (var tensor in tensors)
        {
            LancetException Bad(string what) => new($"{path}: tensor {tensor.Name}: {what}; the file is truncated or damaged.");
            if (tensor.Offset % alignment != 0) throw Bad($"offset {tensor.Offset} is not a multiple of {alignment}");
            // Counts were checked for overflow, so nothing here can.
            if (tensor.Offset > fileLength - start || tensor.Bytes > fileLength - start - tensor.Offset) throw Bad($"{tensor.Bytes} bytes at {tensor.Offset} leave the file of {fileLength} bytes");
            if (!result.TryAdd(tensor.Name, tensor with { Offset = start + tensor.Offset })) throw Bad("it appears twice");
        }
        GgufTensor? former = null;
        foreach (var tensor in result.Values.OrderBy(tensor => tensor.Offset))
        {
            if (former is not null && tensor.Offset < former.Offset + former.Bytes) throw new LancetException($"{path}: tensors {former.Name} and {tensor.Name} overlap; the file is damaged.");
            if (tensor.Bytes > 0) former = tensor;
        }
        return result;
    }

    private ref struct Reader(ReadOnlySpan<byte> bytes, string path)
    {
        private readonly ReadOnlySpan<byte> _bytes = bytes;
        private readonly string _path = path;
        private int _at;

        public readonly long Position => _at;

        public readonly LancetException Error(string message) => new($"{_path}: {message}");

        public uint UInt32() => BinaryPrimitives.ReadUInt32LittleEndian(Take(4));

        public ulong UInt64() => BinaryPrimitives.ReadUInt64LittleEndian(Take(8));

        public string Text(string what)
        {
            var length = UInt64();
            if (length > (ulong)(_bytes.Length - _at)) throw Error($"{what} claims {length} bytes at {_at}, beyond the end; the file is truncated or damaged.");
            return Encoding.UTF8.GetString(Take((int)length));
        }

        public object Value(uint type, string key, int depth) => type switch
        {
            0 => Take(1)[0],
            1 => (sbyte)Take(1)[0],
            2 => BinaryPrimitives.ReadUInt16LittleEndian(Take(2)),
            3 => BinaryPrimitives.ReadInt16LittleEndian(Take(2)),
            4 => UInt32(),
            5 => BinaryPrimitives.ReadInt32LittleEndian(Take(4)),
            6 => BinaryPrimitives.ReadSingleLittleEndian(Take(4)),
            7 => Take(1)[0] != 0,
            8 => Text(key),
            9 => List(UInt32(), key, depth),
            10 => UInt64(),
            11 => BinaryPrimitives.ReadInt64LittleEndian(Take(8)),
            12 => BinaryPrimitives.ReadDoubleLittleEndian(Take(8)),
            _ => throw Error($"key {key} has the unknown type {type}; the file is damaged or of a newer version."),
        };

        public GgufTensor Tensor()
        {
            var name = Text("a tensor's name");
            var rank = UInt32();
            if (rank > MaxDimensions) throw Error($"tensor {name} has {rank} dimensions; at most {MaxDimensions} are possible.");
            var dimensions = new long[rank];
            long count = 1;
            for (var axis = (int)rank - 1; axis >= 0; axis--)
            {
                var extent = UInt64();
                // Blocks are at most 256 elements of 4 bytes each, hence the room above the count.
                if (extent > long.MaxValue >> 12 || (extent > 0 && count > (long.MaxValue >> 12) / (long)extent)) throw Error($"tensor {name} has more elements than can be counted; the file is damaged.");
                dimensions[axis] = (long)extent;
                count *= (long)extent;
            }
            var (type, offset) = ((GgufTensorType)UInt32(), UInt64());
            if (!GgufTensorTypes.IsKnown(type)) throw Error($"tensor {name} has type {(uint)type}, which is not supported; f32, f16, bf16, q8_0, q4_0 to q5_1 and q2_k to q6_k are.");
            var columns = rank == 0 ? 1 : dimensions[^1];
            if (count > 0 && columns % type.BlockSize() != 0) throw Error($"tensor {name} has rows of {columns} elements, no multiple of the {type.BlockSize()} of a {type.Name()} block; the file is damaged.");
            return offset <= long.MaxValue ? new(name, type, dimensions, (long)offset) : throw Error($"tensor {name} has the offset {offset}; the file is damaged.");
        }

        private object List(uint type, string key, int depth)
        {
            var count = UInt64();
            var size = type switch { 0 or 1 or 7 => 1, 2 or 3 => 2, 4 or 5 or 6 => 4, 10 or 11 or 12 => 8, 8 => 8, 9 => 12, _ => throw Error($"key {key} is an array of the unknown type {type}; the file is damaged or of a newer version.") };
            if (count > (ulong)((_bytes.Length - _at) / size)) throw Error($"key {key} claims {count} values, more than fit into the file; it is truncated or damaged.");
            var length = (int)count;
            switch (type)
            {
                case 0: return Take(length).ToArray();
                case 4: return Items(length, 4, BinaryPrimitives.ReadUInt32LittleEndian);
                case 5: return Items(length, 4, BinaryPrimitives.ReadInt32LittleEndian);
                case 6: return Items(length, 4, BinaryPrimitives.ReadSingleLittleEndian);
                case 7: return Items(length, 1, item => item[0] != 0);
                case 1: return Items(length, 1, item => (sbyte)item[0]);
                case 2: return Items(length, 2, BinaryPrimitives.ReadUInt16LittleEndian);
                case 3: return Items(length, 2, BinaryPrimitives.ReadInt16LittleEndian);
                case 10: return Items(length, 8, BinaryPrimitives.ReadUInt64LittleEndian);
                case 11: return Items(length, 8, BinaryPrimitives.ReadInt64LittleEndian);
                case 12: return Items(length, 8, BinaryPrimitives.ReadDoubleLittleEndian);
                case 8:
                    var texts = new string[length];
                    for (var i = 0; i < length; i++) texts[i] = Text(key);
                    return texts;
                default:
                    if (depth >= MaxDepth) throw Error($"key {key} nests arrays more than {MaxDepth} deep.");
                    var lists = new object[length];
                    for (var i = 0; i < length; i++) lists[i] = List(UInt32(), key, depth + 1);
                    return lists;
            }
        }

        private delegate T ItemReader<T>(ReadOnlySpan<byte> item);

        private T[] Items<T>(int count, int size, ItemReader<T> read)
        {
            var items = Take(count * size);
            var result = new T[count];
            for (var i = 0; i < count; i++) result[i] = read(items.Slice(i * size, size));
            return result;
        }

        private ReadOnlySpan<byte> Take(int count)
        {
            if (count > _bytes.Length - _at) throw Error($"the header ends after {_bytes.Length} bytes, in the middle of a value; the file is truncated.");
            _at += count;
            return _bytes.Slice(_at - count, count);
        }
    }
}
