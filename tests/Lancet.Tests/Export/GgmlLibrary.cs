using System.Runtime.InteropServices;
using Lancet.Formats.Gguf;

namespace Lancet.Tests.Export;

/// <summary>llama.cpp's own quantiser and dequantisers, from the libraries that tests/llama-cpp installs.</summary>
internal static unsafe class GgmlLibrary
{
    private static readonly Lazy<nint> s_library = new(() => NativeLibrary.Load(Path.Combine(LlamaCpp.Libraries, "libggml-base.so")));

    /// <summary>ggml_quantize_chunk: rows of fp32 as a type.</summary>
    public static byte[] Quantize(GgufTensorType type, float[] values, int columns, float[]? importance)
    {
        var result = new byte[type.Bytes(values.Length)];
        var quantize = (delegate* unmanaged<int, float*, void*, long, long, long, float*, nuint>)NativeLibrary.GetExport(s_library.Value, "ggml_quantize_chunk");
        fixed (float* source = values, weights = importance)
        fixed (byte* target = result) Assert.Equal((nuint)result.Length, quantize((int)type, source, target, 0, values.Length / columns, columns, weights));
        return result;
    }

    /// <summary>to_float of a type's traits.</summary>
    public static float[] Dequantize(GgufTensorType type, byte[] bytes, int count)
    {
        var traits = ((delegate* unmanaged<int, Traits*>)NativeLibrary.GetExport(s_library.Value, "ggml_get_type_traits"))((int)type);
        var result = new float[count];
        fixed (byte* source = bytes)
        fixed (float* target = result) traits->ToFloat(source, target, count);
        return result;
    }

    [StructLayout(LayoutKind.Sequential)]
    private struct Traits
    {
        public nint Name;
        public long BlockSize;
        public long Interleave;
        public nuint TypeSize;
        public byte IsQuantized;
        public delegate* unmanaged<void*, float*, long, void> ToFloat;
    }
}
