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

    /// <summary>llama_model_quantize: a whole file as a mix.</summary>
    public static void QuantizeModel(string source, string target, int fileType)
    {
        var library = NativeLibrary.Load(Directory.GetFiles(LlamaCpp.Libraries, "libllama.*").Single());
        ((delegate* unmanaged<delegate* unmanaged<int, nint, nint, void>, nint, void>)NativeLibrary.GetExport(library, "llama_log_set"))(&Ignore, 0);
        var parameters = ((delegate* unmanaged<ModelParameters>)NativeLibrary.GetExport(library, "llama_model_quantize_default_params"))();
        (parameters.Threads, parameters.FileType) = (2, fileType);
        var (from, to) = (Marshal.StringToCoTaskMemUTF8(source), Marshal.StringToCoTaskMemUTF8(target));
        var result = ((delegate* unmanaged<nint, nint, ModelParameters*, uint>)NativeLibrary.GetExport(library, "llama_model_quantize"))(from, to, &parameters);
        Marshal.FreeCoTaskMem(from);
        Marshal.FreeCoTaskMem(to);
        Assert.Equal(0u, result);
    }

    [UnmanagedCallersOnly]
    private static void Ignore(int level, nint text, nint data)
    {
    }

    /// <summary>The start of llama_model_quantize_params; the library fills in the rest, which is shorter than this.</summary>
    [StructLayout(LayoutKind.Sequential, Size = 1024)]
    private struct ModelParameters
    {
        public int Threads;
        public int FileType;
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
