using System.Buffers.Binary;
using System.IO.MemoryMappedFiles;
using System.Text.Json;
using Lancet.Tile;

namespace Lancet.Formats;

/// <summary>A tensor inside a safetensors file.</summary>
/// <param name="Name">Name.</param>
/// <param name="Format">Element type as the file names it: F32, BF16, F16, F64, I64, I32, I8, U8 and others.</param>
/// <param name="Dimensions">Extents.</param>
/// <param name="Address">First byte, in mapped memory.</param>
/// <param name="Bytes">Size.</param>
public sealed record SafetensorsEntry(string Name, string Format, IReadOnlyList<long> Dimensions, nint Address, long Bytes)
{
    private readonly nint _address = Address;
    private nint _made;

    /// <summary>First byte, in mapped memory; of a tensor of another format, in memory that holds its values.</summary>
    public nint Address => Make is null ? _address : _made != 0 ? _made : _made = Make();

    /// <summary>Makes the bytes when they are first asked for, where the file holds them in another form.</summary>
    internal Func<nint>? Make { get; init; }

    /// <summary>Frees what <see cref="Make"/> made.</summary>
    internal Action<nint>? Unmake { get; init; }

    /// <summary>Lets go of bytes that were made and have been copied elsewhere.</summary>
    internal void Release()
    {
        if (_made != 0) Unmake?.Invoke(_made);
        _made = 0;
    }

    /// <summary>Number of elements.</summary>
    public long Count => Dimensions.Aggregate(1L, (product, extent) => product * extent);

    /// <summary>Element type, or null for types that Lancet does not compute with.</summary>
    public DType? DType => Format switch
    {
        "F32" => Tile.DType.Float32,
        "BF16" => Tile.DType.BFloat16,
        "F16" => Tile.DType.Float16,
        "F64" => Tile.DType.Float64,
        "I64" => Tile.DType.Int64,
        "I32" => Tile.DType.Int32,
        "I8" => Tile.DType.Int8,
        "U8" => Tile.DType.UInt8,
        _ => null,
    };

    /// <summary>The bytes; at most 2 GiB.</summary>
    public unsafe ReadOnlySpan<byte> Span => new((void*)Address, checked((int)Bytes));

    /// <summary>Some of the bytes.</summary>
    public unsafe ReadOnlySpan<byte> Slice(long start, int count) => start >= 0 && count >= 0 && start + count <= Bytes
        ? new((void*)(Address + (nint)start), count)
        : throw new ArgumentOutOfRangeException(nameof(start), $"Bytes {start} to {start + count} of {Bytes}.");

    /// <summary>The elements as fp32, converted from any floating-point type.</summary>
    /// <exception cref="LancetException">The elements are not floating-point numbers.</exception>
    public unsafe void CopyTo(Span<float> target)
    {
        switch (DType)
        {
            case Tile.DType.Float32: new ReadOnlySpan<float>((void*)Address, target.Length).CopyTo(target); break;
            case Tile.DType.BFloat16:
                for (var i = 0; i < target.Length; i++) target[i] = BFloat16.FromBits(((ushort*)Address)[i]);
                break;
            case Tile.DType.Float16:
                for (var i = 0; i < target.Length; i++) target[i] = (float)((Half*)Address)[i];
                break;
            case Tile.DType.Float64:
                for (var i = 0; i < target.Length; i++) target[i] = (float)((double*)Address)[i];
                break;
            default: throw new LancetException($"tensor {Name} has element type {Format}; F32, BF16, F16 or F64 is expected.");
        }
    }
}

/// <summary>
/// A safetensors file, mapped into memory and checked as a whole when it is opened: header length, every name, element type, shape and
/// offset; tensors neither overlap nor leave the file.
/// </summary>
public sealed unsafe class SafetensorsFile : IDisposable
{
    private const long MaxHeaderBytes = 100_000_000;
    private readonly MemoryMappedFile _file;
    private readonly MemoryMappedViewAccessor _view;
    private readonly Dictionary<string, SafetensorsEntry> _entries = [];

    private SafetensorsFile(string path, MemoryMappedFile file, MemoryMappedViewAccessor view) => (Path, _file, _view) = (path, file, view);

    /// <summary>The file.</summary>
    public string Path { get; }

    /// <summary>Tensors by name.</summary>
    public IReadOnlyDictionary<string, SafetensorsEntry> Entries => _entries;

    /// <summary>The header's <c>__metadata__</c>.</summary>
    public Dictionary<string, string> Metadata { get; } = [];

    /// <summary>Opens and checks a file.</summary>
    /// <exception cref="LancetException">The file is missing, truncated or malformed.</exception>
    public static SafetensorsFile Open(string path)
    {
        var length = FileLength.Of(path);
        if (length < 10) throw new LancetException($"{path}: {length} bytes is too short for a safetensors file; it is truncated or something else.");
        MemoryMappedFile? file = null;
        MemoryMappedViewAccessor? view = null;
        SafetensorsFile? result = null;
        try
        {
            file = MemoryMappedFile.CreateFromFile(path, FileMode.Open, null, 0, MemoryMappedFileAccess.Read);
            view = file.CreateViewAccessor(0, length, MemoryMappedFileAccess.Read);
            byte* start = null;
            view.SafeMemoryMappedViewHandle.AcquirePointer(ref start);
            result = new SafetensorsFile(path, file, view);
            result.ReadHeader(start, length);
            return result;
        }
        catch (Exception error)
        {
            if (result is not null)
            {
                result.Dispose();
            }
            else
            {
                view?.Dispose();
                file?.Dispose();
            }
            if (error is JsonException or IOException or UnauthorizedAccessException) throw new LancetException($"{path}: not a readable safetensors file: {error.Message}", error);
            throw;
        }
    }

    /// <summary>A tensor by name.</summary>
    /// <exception cref="LancetException">There is none.</exception>
    public SafetensorsEntry this[string name] => _entries.TryGetValue(name, out var entry) ? entry : throw new LancetException($"{Path}: tensor {name} is missing.");

    /// <inheritdoc/>
    public void Dispose()
    {
        if (!_view.SafeMemoryMappedViewHandle.IsClosed) _view.SafeMemoryMappedViewHandle.ReleasePointer();
        _view.Dispose();
        _file.Dispose();
    }

    private void ReadHeader(byte* start, long length)
    {
        var headerLength = BinaryPrimitives.ReadUInt64LittleEndian(new ReadOnlySpan<byte>(start, 8));
        if (headerLength > (ulong)Math.Min(length - 8, MaxHeaderBytes))
            throw new LancetException($"{Path}: the header claims {headerLength} bytes of a file of {length}; the file is truncated or not a safetensors file.");
        var body = start + 8 + headerLength;
        var bodyLength = length - 8 - (long)headerLength;
        using var document = JsonDocument.Parse(new UnmanagedMemory(start + 8, (int)headerLength).Memory);
        if (document.RootElement.ValueKind != JsonValueKind.Object) throw new LancetException($"{Path}: the header is not a JSON object.");
        var ranges = new List<(long Begin, long End, string Name)>();
        foreach (var property in document.RootElement.EnumerateObject())
        {
            if (property.Name == "__metadata__")
            {
                if (property.Value.ValueKind == JsonValueKind.Object)
                    foreach (var item in property.Value.EnumerateObject()) Metadata[item.Name] = item.Value.ToString();
                continue;
            }
            var entry = ReadEntry(property, body, bodyLength, out var begin);
            if (!_entries.TryAdd(entry.Name, entry)) throw new LancetException($"{Path}: tensor {entry.Name} appears twice.");
            ranges.Add((begin, begin + entry.Bytes, entry.Name));
        }
        ranges.Sort();
        for (var i = 1; i < ranges.Count; i++)
            if (ranges[i].Begin < ranges[i - 1].End) throw new LancetException($"{Path}: tensors {ranges[i - 1].Name} and {ranges[i].Name} overlap; the file is damaged.");
    }

    private SafetensorsEntry ReadEntry(JsonProperty property, byte* body, long bodyLength, out long begin)
    {
        var name = property.Name;
        LancetException Bad(string what) => new($"{Path}: tensor {name}: {what}; the file is damaged.");
        if (property.Value.ValueKind != JsonValueKind.Object || !property.Value.TryGetProperty("dtype", out var dtype) || dtype.ValueKind != JsonValueKind.String
            || !property.Value.TryGetProperty("shape", out var shape) || shape.ValueKind != JsonValueKind.Array
            || !property.Value.TryGetProperty("data_offsets", out var offsets) || offsets.ValueKind != JsonValueKind.Array || offsets.GetArrayLength() != 2)
            throw Bad("dtype, shape and data_offsets are expected");
        var dimensions = new List<long>();
        long count = 1;
        foreach (var item in shape.EnumerateArray())
        {
            if (item.ValueKind != JsonValueKind.Number || !item.TryGetInt64(out var extent) || extent < 0) throw Bad($"shape {shape.GetRawText()}");
            dimensions.Add(extent);
            try
            {
                count = checked(count * extent);
            }
            catch (OverflowException)
            {
                throw Bad($"shape {shape.GetRawText()} overflows");
            }
        }
        if (!offsets[0].TryGetInt64(out begin) || !offsets[1].TryGetInt64(out var end) || begin < 0 || end < begin || end > bodyLength)
            throw Bad($"offsets {offsets.GetRawText()} leave the {bodyLength} bytes of data");
        var format = dtype.GetString()!;
        var size = format switch { "F64" or "I64" or "U64" => 8, "F32" or "I32" or "U32" => 4, "BF16" or "F16" or "I16" or "U16" => 2, "I8" or "U8" or "BOOL" or "F8_E4M3" or "F8_E5M2" => 1, _ => throw Bad($"unknown dtype {format}") };
        if (count > long.MaxValue / size || count * size != end - begin) throw Bad($"shape {shape.GetRawText()} of {format} does not fill {end - begin} bytes");
        return new SafetensorsEntry(name, format, dimensions, (nint)(body + begin), end - begin);
    }

    /// <summary>Lets the JSON parser read mapped memory in place.</summary>
    private sealed class UnmanagedMemory(byte* start, int length) : System.Buffers.MemoryManager<byte>
    {
        public override Span<byte> GetSpan() => new(start, length);

        public override System.Buffers.MemoryHandle Pin(int elementIndex = 0) => new(start + elementIndex);

        public override void Unpin()
        {
        }

        protected override void Dispose(bool disposing)
        {
        }
    }
}
