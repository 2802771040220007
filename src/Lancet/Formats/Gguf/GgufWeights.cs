using System.Runtime.InteropServices;
using Lancet.Models;
using Lancet.Tile;

namespace Lancet.Formats.Gguf;

/// <summary>
/// The weights of a GGUF file under Hugging Face's names and in Hugging Face's form. Those that are stored like that are read where they lie in the mapped file; the others
/// are put in order, and dequantised, when they are first asked for.
/// </summary>
internal sealed unsafe class GgufWeights : IDisposable
{
    private const int ChunkElements = 1 << 16;
    private readonly GgufFile _file;
    private readonly DType _dtype;
    private readonly HashSet<nint> _memory = [];

    public GgufWeights(string path, DType dtype)
    {
        _file = GgufFile.Open(path);
        _dtype = dtype is DType.BFloat16 or DType.Float16 ? dtype : DType.Float32;
        try
        {
            var config = ModelConfig.Parse(GgufConfig.ToJson(_file), path);
            var architecture = GgufArchitecture.Of(config);
            foreach (var weight in new DecoderModel(config).Weights) Add(path, weight, GgufTensorMap.Of(architecture, config, weight));
        }
        catch
        {
            _file.Dispose();
            throw;
        }
    }

    /// <summary>Weights by Hugging Face's names.</summary>
    public List<SafetensorsEntry> Entries { get; } = [];

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (var address in _memory.ToList()) Free(address);
        _file.Dispose();
    }

    private void Add(string path, Weight weight, GgufTensorMap map)
    {
        // What is not there is reported by whoever needs it, under the name that a checkpoint would have.
        if (!_file.Header.Tensors.TryGetValue(map.Name, out var tensor)) return;
        var expected = GgufExporter.Dimensions(weight.Shape);
        if (map.Expert >= 0)
        {
            if (tensor.Dimensions.Count != 3 || map.Expert >= tensor.Dimensions[0]) throw new LancetException($"{path}: tensor {map.Name} has shape [{string.Join(", ", tensor.Dimensions)}]; a matrix for each expert is expected.");
            tensor = GgufFile.MatrixOf(tensor, map.Expert);
        }
        // Row vectors may be stored as matrices of one row.
        if (tensor.Count != weight.Shape.Count || tensor.Columns != expected[^1]) throw new LancetException($"{path}: tensor {map.Name} has shape [{string.Join(", ", tensor.Dimensions)}]; the keys imply {weight.Shape}.");
        var plain = tensor.Type switch { GgufTensorType.Float32 => DType.Float32, GgufTensorType.Float16 => DType.Float16, GgufTensorType.BFloat16 => DType.BFloat16, _ => (DType?)null };
        // 16-bit values that only change places keep their dtype.
        var dtype = plain is { } type && (type == DType.Float32 || (map.Addend == 0 && map.Factor == 1)) ? type : _dtype;
        var bytes = weight.Shape.Count * dtype.SizeInBytes();
        Entries.Add(plain is not null && map.IsIdentity
            ? new SafetensorsEntry(weight.Name, Format(dtype), expected, _file.AddressOf(tensor), bytes)
            : new SafetensorsEntry(weight.Name, Format(dtype), expected, 0, bytes) { Make = () => Make(tensor, map, weight, dtype, bytes), Unmake = Free });
    }

    private void Free(nint address)
    {
        if (_memory.Remove(address)) NativeMemory.AlignedFree((void*)address);
    }

    private nint Make(GgufTensor tensor, GgufTensorMap map, Weight weight, DType dtype, long bytes)
    {
        var address = (nint)NativeMemory.AlignedAlloc((nuint)bytes, 64);
        _memory.Add(address);
        if (map.IsIdentity && dtype == DType.Float32)
        {
            _file.Read(tensor, (float*)address);
            return address;
        }
        var stored = new float[tensor.Count];
        fixed (float* target = stored) _file.Read(tensor, target);
        var values = map.FromFile(stored, weight.Shape.Rank == 1 ? 1 : (int)tensor.Columns);
        switch (dtype)
        {
            case DType.Float32: values.CopyTo(new Span<float>((void*)address, values.Length)); break;
            case DType.Float16: Parallel.For(0, (values.Length + ChunkElements - 1) / ChunkElements, part => Convert(part, i => ((Half*)address)[i] = (Half)values[i])); break;
            default: Parallel.For(0, (values.Length + ChunkElements - 1) / ChunkElements, part => Convert(part, i => ((BFloat16*)address)[i] = (BFloat16)values[i])); break;
        }
        return address;

        void Convert(int part, Action<int> set)
        {
            for (var i = part * ChunkElements; i < Math.Min(values.Length, (part + 1) * ChunkElements); i++) set(i);
        }
    }

    private static string Format(DType dtype) => dtype switch { DType.Float16 => "F16", DType.BFloat16 => "BF16", _ => "F32" };
}
