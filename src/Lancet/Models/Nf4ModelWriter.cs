using System.Globalization;
using System.Runtime.InteropServices;
using System.Text;
using System.Text.Json.Nodes;
using Lancet.Formats;
using Lancet.Kernels;
using Lancet.Layers;
using Lancet.Quantization;
using Lancet.Tensors;
using Lancet.Tile;

namespace Lancet.Models;

/// <summary>
/// Writes models whose projections are NF4 with double quantisation, in the layout of bitsandbytes, which transformers loads as they are. An adapter is merged in fp32 before
/// anything is quantised.
/// </summary>
public static class Nf4ModelWriter
{
    // The state holds a number that is known only when the weight is quantised; spaces behind it keep the size.
    private const int StateBytes = 256;

    /// <summary>Writes a complete model.</summary>
    /// <param name="folder">Folder, which may exist.</param>
    /// <param name="model">Model.</param>
    /// <param name="dtype">Of everything else: fp32, bf16 or fp16. Others dequantise to it and compute in it.</param>
    /// <param name="maxShardBytes">Most bytes of a file.</param>
    /// <exception cref="LancetException">A merged weight is not finite, or the files cannot be written.</exception>
    public static void Save(string folder, LanguageModel model, DType dtype = DType.BFloat16, long maxShardBytes = 5_000_000_000)
    {
        var projections = model.Decoder.Projections.Where(projection => projection.A is not null).ToDictionary(projection => projection.Weight);
        var outputs = model.Decoder.Weights.SelectMany(weight => weight.Role == WeightRole.Projection && weight.Shape.Count % 2 == 0
            ? Quantized(model, weight, projections.GetValueOrDefault(weight), dtype)
            : [ModelWriter.Output(model, weight, projections.GetValueOrDefault(weight), dtype)]).ToList();
        DiskSpace.Require(folder, outputs.Sum(output => output.Bytes));
        Directory.CreateDirectory(folder);
        SafetensorsWriter.WriteModel(folder, outputs, maxShardBytes);
        var quantization = new JsonObject
        {
            ["quant_method"] = "bitsandbytes",
            ["load_in_4bit"] = true,
            ["load_in_8bit"] = false,
            ["bnb_4bit_quant_type"] = "nf4",
            ["bnb_4bit_use_double_quant"] = true,
            ["bnb_4bit_compute_dtype"] = ModelWriter.NameOf(dtype),
            ["bnb_4bit_quant_storage"] = "uint8",
            // Linear modules that stay as they are; whoever loads the folder would look for their 4-bit form otherwise.
            ["llm_int8_skip_modules"] = new JsonArray([.. model.Decoder.Weights.Where(weight => weight.Role == WeightRole.Router).Select(weight => ModelWriter.NameIn(model, weight)[..^".weight".Length]).Prepend("lm_head").Select(name => (JsonNode)name)]),
        };
        AtomicFile.WriteText(Path.Combine(folder, "config.json"), ModelWriter.Config(model, dtype, quantization));
    }

    private static List<SafetensorsOutput> Quantized(LanguageModel model, Weight weight, LoraLinear? projection, DType dtype)
    {
        var name = ModelWriter.NameIn(model, weight);
        var (codes, scales, nested) = Nf4Kernel.Sizes(weight.Shape.Count);
        Parts? parts = null;
        // The first of the tensors quantises, the last lets go.
        SafetensorsOutput Part(string suffix, DType dtype, long[] dimensions, Func<Parts, ReadOnlySpan<byte>> bytes, bool isLast = false) => new(name + suffix, dtype, dimensions, stream =>
        {
            parts ??= Quantize(model, weight, projection);
            stream.Write(bytes(parts));
            if (isLast) parts = null;
        });
        return
        [
            Part("", DType.UInt8, [codes, 1], part => part.Codes),
            Part(".absmax", DType.UInt8, [scales], part => part.Scales),
            Part(".nested_absmax", DType.Float32, [nested], part => part.Nested),
            Part(".nested_quant_map", DType.Float32, [256], _ => MemoryMarshal.AsBytes<float>(DynamicCode.Signed)),
            Part(".quant_map", DType.Float32, [16], _ => MemoryMarshal.AsBytes(Nf4Code.Table)),
            Part(".quant_state.bitsandbytes__nf4", DType.UInt8, [StateBytes], part => State(weight, dtype, part.Offset), true),
        ];
    }

    private static Parts Quantize(LanguageModel model, Weight weight, LoraLinear? projection)
    {
        var values = ModelWriter.Merged(model, weight, projection);
        ModelWriter.CheckFinite(values, weight.Name);
        var device = model.Device;
        var (codes, scales, nested) = Nf4Kernel.Sizes(weight.Shape.Count);
        var buffers = new List<Devices.DeviceBuffer>();
        Tensor Allocate(DType dtype, long count)
        {
            buffers.Add(device.Allocate(count * dtype.SizeInBytes(), "NF4 export"));
            return buffers[^1].View(dtype, new Shape(count));
        }
        try
        {
            var dense = Allocate(DType.Float32, values.LongLength);
            device.CopyFromHost(MemoryMarshal.AsBytes<float>(values), dense);
            var table = Allocate(DType.Float32, 256);
            device.CopyFromHost(MemoryMarshal.AsBytes<float>(DynamicCode.Signed), table);
            var quantized = new Nf4Weight((int)weight.Shape[0], (int)weight.Shape[1], Allocate(DType.UInt8, codes), Allocate(DType.UInt8, scales), Allocate(DType.Float32, nested), table, Allocate(DType.Float32, 1));
            Nf4Kernel.Quantize(device, dense, quantized, Allocate(DType.Float32, scales));
            var offset = new float[1];
            device.CopyToHost(quantized.NestedOffset, MemoryMarshal.AsBytes(offset.AsSpan()));
            byte[] Read(Tensor tensor)
            {
                var bytes = new byte[tensor.Bytes];
                device.CopyToHost(tensor, bytes);
                return bytes;
            }
            return new(Read(quantized.Codes), Read(quantized.AbsMaxCodes), Read(quantized.NestedAbsMax), offset[0]);
        }
        finally
        {
            foreach (var buffer in buffers) buffer.Dispose();
        }
    }

    private static byte[] State(Weight weight, DType dtype, float offset)
    {
        var text = string.Create(CultureInfo.InvariantCulture,
            $"{{\"quant_type\": \"nf4\", \"blocksize\": {Nf4Weight.BlockSize}, \"dtype\": \"{ModelWriter.NameOf(dtype)}\", \"shape\": [{weight.Shape[0]}, {weight.Shape[1]}], \"nested_blocksize\": {Nf4Weight.NestedBlockSize}, \"nested_dtype\": \"float32\", \"nested_offset\": {(double)offset:R}}}");
        return Encoding.UTF8.GetBytes(text.PadRight(StateBytes));
    }

    private sealed record Parts(byte[] Codes, byte[] Scales, byte[] Nested, float Offset);
}
