using System.IO.MemoryMappedFiles;
using Lancet.Formats.Gguf.Blocks;

namespace Lancet.Formats.Gguf;

/// <summary>A GGUF file, mapped into memory; its header is checked as a whole when it is opened.</summary>
public sealed unsafe class GgufFile : IDisposable
{
    private const int RowsAtATime = 16;

    private readonly MemoryMappedFile _file;
    private readonly MemoryMappedViewAccessor _view;
    private readonly nint _start;

    private GgufFile(string path, MemoryMappedFile file, MemoryMappedViewAccessor view, nint start, GgufHeader header) => (Path, _file, _view, _start, Header) = (path, file, view, start, header);

    /// <summary>The file.</summary>
    public string Path { get; }

    /// <summary>Keys and tensors.</summary>
    public GgufHeader Header { get; }

    /// <summary>Whether a path is that of a GGUF file rather than a model folder.</summary>
    public static bool IsGguf(string path) => path.EndsWith(".gguf", StringComparison.OrdinalIgnoreCase) && !Directory.Exists(path);

    /// <summary>Opens and checks a file.</summary>
    /// <exception cref="LancetException">The file is missing, truncated or malformed.</exception>
    public static GgufFile Open(string path)
    {
        var length = FileLength.Of(path);
        MemoryMappedFile? file = null;
        MemoryMappedViewAccessor? view = null;
        byte* start = null;
        try
        {
            if (length < 24) throw new LancetException($"{path}: {length} bytes is too short for a GGUF file; it is truncated or something else.");
            file = MemoryMappedFile.CreateFromFile(path, FileMode.Open, null, 0, MemoryMappedFileAccess.Read);
            view = file.CreateViewAccessor(0, length, MemoryMappedFileAccess.Read);
            view.SafeMemoryMappedViewHandle.AcquirePointer(ref start);
            var header = GgufHeader.Read(new ReadOnlySpan<byte>(start, (int)Math.Min(length, int.MaxValue)), length, path);
            return new GgufFile(path, file, view, (nint)start, header);
        }
        catch (Exception error)
        {
            if (start is not null) view!.SafeMemoryMappedViewHandle.ReleasePointer();
            view?.Dispose();
            file?.Dispose();
            if (error is IOException or UnauthorizedAccessException) throw new LancetException($"{path}: not a readable GGUF file: {error.Message}", error);
            throw;
        }
    }

    /// <summary>Address of a tensor's bytes in mapped memory.</summary>
    public nint AddressOf(GgufTensor tensor) => _start + (nint)tensor.Offset;

    /// <summary>Some of a tensor's bytes.</summary>
    public ReadOnlySpan<byte> Slice(GgufTensor tensor, long start, int count) => start >= 0 && count >= 0 && start + count <= tensor.Bytes
        ? new((void*)(_start + (nint)(tensor.Offset + start)), count)
        : throw new ArgumentOutOfRangeException(nameof(start), $"Bytes {start} to {start + count} of {tensor.Bytes}.");

    /// <summary>One of the matrices that a tensor is a stack of, as a tensor.</summary>
    internal static GgufTensor MatrixOf(GgufTensor tensor, int matrix)
    {
        var one = tensor with { Dimensions = [.. tensor.Dimensions.Skip(1)] };
        return one with { Offset = tensor.Offset + (matrix * one.Bytes) };
    }

    /// <summary>A tensor's elements as fp32, dequantised on all processors.</summary>
    /// <exception cref="LancetException">There is no such tensor, or it holds no floating-point numbers.</exception>
    public float[] Read(string name)
    {
        if (!Header.Tensors.TryGetValue(name, out var tensor)) throw new LancetException($"{Path}: tensor {name} is missing.");
        var values = new float[tensor.Count];
        fixed (float* target = values) Read(tensor, target);
        return values;
    }

    /// <summary>Writes a tensor's elements as fp32, dequantised on all processors.</summary>
    internal void Read(GgufTensor tensor, float* target)
    {
        var (columns, source, type) = (tensor.Columns, AddressOf(tensor), tensor.Type);
        if (!BlockCodec.Supports(type)) throw new LancetException($"{Path}: tensor {tensor.Name} is of type {type.Name()}; floating-point or quantised numbers are expected.");
        var rows = columns == 0 ? 0 : tensor.Count / columns;
        var rowBytes = type.Bytes(columns);
        Parallel.For(0, (int)((rows + RowsAtATime - 1) / RowsAtATime), part =>
        {
            for (var row = (long)part * RowsAtATime; row < Math.Min(rows, (part + 1L) * RowsAtATime); row++)
                BlockCodec.Dequantize(type, new ReadOnlySpan<byte>((void*)(source + (nint)(row * rowBytes)), (int)rowBytes), new Span<float>(target + (row * columns), (int)columns));
        });
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        if (!_view.SafeMemoryMappedViewHandle.IsClosed) _view.SafeMemoryMappedViewHandle.ReleasePointer();
        _view.Dispose();
        _file.Dispose();
    }
}
