using System.Text.Json;
using Lancet.Devices;
using Lancet.Formats;
using Lancet.Kernels;
using Lancet.Quantization;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Models;

/// <summary>
/// Gives the weights of a model their memory: straight from the mapped file where the processor can read the file's dtype, converted or
/// quantised otherwise. A GPU is sent the file's bytes piece by piece and converts or quantises them itself. Norm scales and biases are always held in the accumulator's dtype.
/// </summary>
internal sealed partial class WeightLoader(Device device, Checkpoint? source, DType dtype, List<DeviceBuffer> owned) : IDisposable
{
    // Bytes that are sent to a device at a time; host memory does not grow with the model.
    private const int ChunkBytes = 64 << 20;
    private const string QuantState = ".quant_state.bitsandbytes__nf4";
    private readonly List<DeviceBuffer> _owned = owned;
    private readonly bool _readsInPlace = device.PlanTarget.ReadsMappedFiles;
    private DeviceBuffer? _staging;
    private Tensor _codeTable;
    private (byte[]? Bytes, Tensor Tensor) _formerTable;

    // What a quantised checkpoint has left dense is on its skip list, and stays so.
    private readonly bool _isQuantized = source?.Entries.Keys.Any(IsQuantState) ?? false;

    private Checkpoint Source => source ?? throw new InvalidOperationException("There is no checkpoint to read.");

    /// <summary>Bytes of weights that are read in place.</summary>
    public long MappedBytes { get; private set; }

    /// <summary>Whether a tensor's name says that bitsandbytes has quantised a weight.</summary>
    public static bool IsQuantState(string name) => name.EndsWith(QuantState, StringComparison.Ordinal);

    /// <summary>Assigns a frozen weight.</summary>
    /// <param name="weight">Weight.</param>
    /// <param name="quantize">Whether projections become NF4.</param>
    public void Load(Weight weight, bool quantize)
    {
        if (source is null)
        {
            Draw(weight, quantize);
            return;
        }
        if (weight.Role is WeightRole.Projection or WeightRole.Router && Source.Entries.ContainsKey(StoredName(weight) + QuantState))
        {
            LoadNf4(weight);
            return;
        }
        var entry = Find(weight);
        if (weight.IsWide)
        {
            weight.Dense = Allocate(dtype.Accumulator(), weight.Shape, weight.Name);
            CopyTo(entry, weight.Dense);
        }
        else if (quantize && !_isQuantized && weight.Role == WeightRole.Projection && weight.Shape.Count % 2 == 0)
        {
            Quantize(weight, Resident(entry, weight.Shape));
        }
        else if (CanStay(entry))
        {
            weight.Dense = InPlace(entry, weight.Shape);
            MappedBytes += entry.Bytes;
            return;
        }
        else
        {
            weight.Dense = Allocate(weight, "elements", dtype, weight.Shape);
            CopyTo(entry, weight.Dense);
        }
        Release(entry);
    }

    /// <summary>Lets go of the host's copy of a weight that a GGUF file holds in another form.</summary>
    private void Release(SafetensorsEntry entry)
    {
        if (entry.Make is null) return;
        device.Synchronize();
        entry.Release();
    }

    /// <summary>Memory of a weight, or of a part of its NF4 form: its own, or a place in its stack, where a device's grouped products look for it.</summary>
    private Tensor Allocate(Weight weight, string part, DType type, Shape shape) => weight.Stack is { } stack && !_readsInPlace
        ? stack.Memory.Take(part, type, shape, stack.Index, (t, s) => Allocate(t, s, weight.Name)) : Allocate(type, shape, weight.Name);

    /// <inheritdoc/>
    public void Dispose()
    {
        if (_staging is null) return;
        device.Synchronize();
        _staging.Dispose();
    }

    /// <summary>Copies a weight's values into a tensor, converting them.</summary>
    public void CopyTo(Weight weight, Tensor target)
    {
        if (source is null)
        {
            Draw(weight, target);
            return;
        }
        var entry = Find(weight);
        CopyTo(entry, target);
        Release(entry);
    }

    // fp32 activations may read any float weight in place: widening is exact. 16-bit activations ask for weights of their own dtype.
    private bool CanStay(SafetensorsEntry entry) => _readsInPlace && (entry.DType == dtype || (dtype == DType.Float32 && entry.DType is DType.BFloat16 or DType.Float16));

    /// <summary>A weight's name in this checkpoint, which may be an older one.</summary>
    private string StoredName(Weight weight) =>
        !Source.Entries.ContainsKey(weight.Name) && Config.FormerWeightPrefix is { } former && weight.Name.StartsWith(Config.WeightPrefix, StringComparison.Ordinal) ? former + weight.Name[Config.WeightPrefix.Length..] : weight.Name;

    private SafetensorsEntry Find(Weight weight)
    {
        if (!Source.Entries.TryGetValue(StoredName(weight), out var entry)) throw new LancetException($"{Source.Folder}: tensor {weight.Name} is missing; the weights do not belong to this config.json.");
        var expected = Enumerable.Range(0, weight.Shape.Rank).Select(axis => weight.Shape[axis]);
        if (!entry.Dimensions.SequenceEqual(expected)) throw new LancetException($"{Source.Folder}: tensor {weight.Name} has shape [{string.Join(", ", entry.Dimensions)}]; config.json implies {weight.Shape}.");
        if (entry.DType is not { } type || !type.IsFloat()) throw new LancetException($"{Source.Folder}: tensor {weight.Name} has dtype {entry.Format}; F32, BF16, F16 or F64 is expected.");
        return entry;
    }

    private static Tensor InPlace(SafetensorsEntry entry, Shape shape) => new(entry.Address, entry.DType!.Value, shape);

    private Tensor Allocate(DType type, Shape shape, string purpose)
    {
        var buffer = device.Allocate(shape.Count * type.SizeInBytes(), purpose);
        _owned.Add(buffer);
        return buffer.View(type, shape);
    }

    private void CopyTo(SafetensorsEntry entry, Tensor target)
    {
        if (_readsInPlace)
        {
            ElementwiseKernel.Convert(device, InPlace(entry, target.Shape), target);
            return;
        }
        var (from, flat) = (entry.DType!.Value, new Tensor(target.Address, target.DType, new Shape(target.Count)));
        if (from == target.DType)
        {
            Send(entry, flat);
            return;
        }
        var step = ChunkBytes / from.SizeInBytes();
        for (long start = 0; start < flat.Count; start += step)
        {
            var part = flat.Rows(start, Math.Min(step, flat.Count - start));
            var staged = Staging(part.Count * from.SizeInBytes()).View(from, part.Shape);
            device.CopyFromHost(entry.Slice(start * from.SizeInBytes(), (int)staged.Bytes), staged);
            ElementwiseKernel.Convert(device, staged, part);
        }
    }

    /// <summary>Sends a tensor's bytes as they are.</summary>
    private void Send(SafetensorsEntry entry, Tensor target)
    {
        if (target.Bytes != entry.Bytes) throw new ArgumentException($"{entry.Bytes} bytes for {target}.");
        var bytes = new Tensor(target.Address, DType.UInt8, new Shape(entry.Bytes));
        for (long start = 0; start < entry.Bytes; start += ChunkBytes)
        {
            var count = (int)Math.Min(ChunkBytes, entry.Bytes - start);
            device.CopyFromHost(entry.Slice(start, count), bytes.Rows(start, count));
        }
    }

    /// <summary>Device memory for what is converted or quantised next. Work is queued in order, so a former use is over by then.</summary>
    private DeviceBuffer Staging(long bytes)
    {
        if (_staging is { } former && former.Bytes >= bytes) return former;
        _staging?.Dispose();
        _staging = null;
        return _staging = device.Allocate(bytes, "staging of weights");
    }

    private Tensor Resident(SafetensorsEntry entry, Shape shape)
    {
        if (_readsInPlace) return InPlace(entry, shape);
        var staged = Staging(entry.Bytes).View(entry.DType!.Value, shape);
        Send(entry, staged);
        return staged;
    }

    private void Quantize(Weight weight, Tensor dense)
    {
        var (codes, scales, nested) = Nf4Kernel.Sizes(weight.Shape.Count);
        weight.Quantized = new Nf4Weight(
            (int)weight.Shape[0], (int)weight.Shape[1], Allocate(weight, "codes", DType.UInt8, new Shape(codes)), Allocate(weight, "scales", DType.UInt8, new Shape(scales)),
            Allocate(weight, "nested", DType.Float32, new Shape(nested)), CodeTable(), Allocate(weight, "offset", DType.Float32, new Shape(1)));
        weight.Dense = weight.Quantized.Codes;
        using var workspace = device.Allocate(scales * sizeof(float), "NF4 scales");
        Nf4Kernel.Quantize(device, dense, weight.Quantized, workspace.View(DType.Float32, new Shape(scales)));
        device.Synchronize();
    }

    private Tensor CodeTable()
    {
        if (_codeTable.Exists) return _codeTable;
        _codeTable = Allocate(DType.Float32, new Shape(256), "the 8-bit code table");
        device.CopyFromHost(System.Runtime.InteropServices.MemoryMarshal.AsBytes<float>(DynamicCode.Signed), _codeTable);
        return _codeTable;
    }

    /// <summary>Reads a weight that bitsandbytes stored as NF4; one without double quantisation, whose scales are fp32, becomes dense.</summary>
    private void LoadNf4(Weight weight)
    {
        var name = StoredName(weight);
        LancetException Bad(string what) => new($"{Source.Folder}: {name}: {what}; NF4 with blocks of 64 and double quantisation with blocks of 256 is expected.");
        SafetensorsEntry Part(string suffix, string format, long count)
        {
            if (!Source.Entries.TryGetValue(name + suffix, out var part)) throw Bad($"{name + suffix} is missing");
            return part.Format == format && part.Count == count ? part : throw Bad($"{name + suffix} holds {part.Count} elements of {part.Format} instead of {count} of {format}");
        }
        var (codes, scales, nested) = Nf4Kernel.Sizes(weight.Shape.Count);
        // Two codes a byte, whatever dtype the bytes are stored as (bnb_4bit_quant_storage).
        SafetensorsEntry Codes() => Source.Entries[name] is var part && part.Bytes == codes ? part : throw Bad($"{name} holds {part.Bytes} bytes instead of {codes}");
        double offset;
        try
        {
            using var state = JsonDocument.Parse(Source.Entries[name + QuantState].Span.ToArray());
            var root = state.RootElement;
            long[] shape = [.. root.GetProperty("shape").EnumerateArray().Select(item => item.GetInt64())];
            if (!shape.SequenceEqual([weight.Shape[0], weight.Shape[1]])) throw Bad($"shape [{string.Join(", ", shape)}] where config.json implies {weight.Shape}");
            if (Source.Entries.TryGetValue(name + ".absmax", out var plain) && plain.Format == "F32")
            {
                var blockSize = root.GetProperty("blocksize").GetInt32();
                if (blockSize < 2 || blockSize % 2 != 0) throw Bad($"blocks of {blockSize}");
                WriteOut(weight, Codes(), Part(".absmax", "F32", (weight.Shape.Count + blockSize - 1) / blockSize), blockSize);
                return;
            }
            if (root.GetProperty("blocksize").GetInt32() != Nf4Weight.BlockSize || root.GetProperty("nested_blocksize").GetInt32() != Nf4Weight.NestedBlockSize) throw Bad("other block sizes");
            offset = root.GetProperty("nested_offset").GetDouble();
        }
        catch (Exception error) when (error is JsonException or KeyNotFoundException or InvalidOperationException or FormatException)
        {
            throw Bad("its quant_state is not readable");
        }
        weight.Quantized = new Nf4Weight(
            (int)weight.Shape[0], (int)weight.Shape[1], Copy("codes", Codes(), DType.UInt8), Copy("scales", Part(".absmax", "U8", scales), DType.UInt8),
            Copy("nested", Part(".nested_absmax", "F32", nested), DType.Float32), Table(Part(".nested_quant_map", "F32", 256)), Allocate(weight, "offset", DType.Float32, new Shape(1)));
        float[] offsets = [(float)offset];
        device.CopyFromHost(System.Runtime.InteropServices.MemoryMarshal.AsBytes<float>(offsets), weight.Quantized.NestedOffset);
        weight.Dense = weight.Quantized.Codes;

        Tensor Copy(string kind, SafetensorsEntry part, DType type)
        {
            var tensor = Allocate(weight, kind, type, new Shape(part.Bytes / type.SizeInBytes()));
            Send(part, tensor);
            return tensor;
        }

        // bitsandbytes writes the same table with every weight.
        Tensor Table(SafetensorsEntry part)
        {
            if (_formerTable.Bytes is { } bytes && part.Span.SequenceEqual(bytes)) return _formerTable.Tensor;
            _formerTable = (part.Span.ToArray(), Allocate(DType.Float32, new Shape(part.Count), name));
            Send(part, _formerTable.Tensor);
            return _formerTable.Tensor;
        }
    }

    /// <summary>Writes out a weight whose NF4 scales are fp32, which kernels do not read.</summary>
    private void WriteOut(Weight weight, SafetensorsEntry codes, SafetensorsEntry scales, int blockSize)
    {
        weight.Dense = Allocate(weight, "elements", dtype, weight.Shape);
        var (table, absMax, flat) = (Nf4Code.Table.ToArray(), new float[scales.Count], new Tensor(weight.Dense.Address, dtype, new Shape(weight.Shape.Count)));
        scales.CopyTo(absMax);
        var values = new float[Math.Min(ChunkBytes / sizeof(float), flat.Count)];
        for (long start = 0; start < flat.Count; start += values.Length)
        {
            var count = (int)Math.Min(values.Length, flat.Count - start);
            var packed = codes.Slice(start / 2, (count + 1) / 2);
            for (var i = 0; i < count; i++) values[i] = table[(i & 1) == 0 ? packed[i >> 1] >> 4 : packed[i >> 1] & 15] * absMax[(start + i) / blockSize];
            var staged = Staging(count * sizeof(float)).View(DType.Float32, new Shape(count));
            device.CopyFromHost(System.Runtime.InteropServices.MemoryMarshal.AsBytes(values.AsSpan(0, count)), staged);
            ElementwiseKernel.Convert(device, staged, flat.Rows(start, count));
        }
    }
}
