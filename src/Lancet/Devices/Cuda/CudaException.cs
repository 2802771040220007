using System.Runtime.CompilerServices;
using System.Text;

namespace Lancet.Devices.Cuda;

/// <summary>A call to the CUDA driver or to cuBLASLt failed; the message names the call and holds the library's own words.</summary>
public sealed class CudaException : LancetException
{
    /// <summary>Creates an exception.</summary>
    /// <param name="call">Function that failed.</param>
    /// <param name="code">What it returned.</param>
    /// <param name="message">Complete message.</param>
    public CudaException(string call, int code, string message)
        : base(message) => (Call, Code) = (call, code);

    /// <summary>Function that failed.</summary>
    public string Call { get; }

    /// <summary>What it returned.</summary>
    public int Code { get; }
}

/// <summary>The one place where return codes are looked at.</summary>
internal static unsafe class CudaCheck
{
    internal const int OutOfMemory = 2;
    private const int NoDevice = 100;

    /// <summary>Throws if a driver call failed.</summary>
    /// <param name="code">What it returned.</param>
    /// <param name="call">The call's source text; its name is what precedes the parenthesis.</param>
    /// <exception cref="CudaException">The code is not 0.</exception>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Driver(int code, [CallerArgumentExpression(nameof(code))] string call = "")
    {
        if (code != 0) Throw(code, Name(call), "");
    }

    /// <summary>Throws a driver error with more words.</summary>
    public static void Throw(int code, string call, string what)
    {
        var (name, text) = Describe(code);
        throw new CudaException(call, code, $"{(what.Length == 0 ? "" : what + ": ")}{call} failed with {name} ({code}): {text}.{Advice(code)}");
    }

    /// <summary>Throws if a call of cuBLASLt failed.</summary>
    /// <param name="code">What it returned.</param>
    /// <param name="what">The product.</param>
    /// <param name="call">The call's source text.</param>
    /// <exception cref="CudaException">The code is not 0.</exception>
    public static void CublasLt(int code, string what = "", [CallerArgumentExpression(nameof(code))] string call = "")
    {
        if (code != 0) throw new CudaException(Name(call), code, $"{(what.Length == 0 ? "" : what + ": ")}{Name(call)} failed with {CublasStatus(code)} ({code}).");
    }

    /// <summary>Name of a function in the text of a call.</summary>
    internal static string Name(string call)
    {
        var end = call.IndexOf('(', StringComparison.Ordinal);
        if (end < 0) end = call.Length;
        return call[(call.LastIndexOf('.', end - 1) + 1)..end];
    }

    private static (string Name, string Text) Describe(int code)
    {
        try
        {
            var name = Interop.Driver.cuGetErrorName(code, out var nameText) == 0 ? Read(nameText) : "an unknown error";
            var text = Interop.Driver.cuGetErrorString(code, out var errorText) == 0 ? Read(errorText) : "no description";
            return (name, text);
        }
        catch (DllNotFoundException)
        {
            return ("an error", "the driver is not loaded");
        }
    }

    private static string Advice(int code) => code switch
    {
        OutOfMemory => " Lower --max-seq-length or --batch-size, choose another --activation-policy or --method qlora, or end other programs on this GPU.",
        NoDevice => " No NVIDIA GPU is visible to this process; look at CUDA_VISIBLE_DEVICES.",
        700 or 710 or 715 or 716 or 717 or 718 or 719 => " A kernel queued earlier failed; LANCET_CUDA_SYNC=1 waits after each launch and names it. The device cannot be used any more in this process.",
        _ => "",
    };

    private static string CublasStatus(int code) => code switch
    {
        1 => "CUBLAS_STATUS_NOT_INITIALIZED",
        3 => "CUBLAS_STATUS_ALLOC_FAILED",
        7 => "CUBLAS_STATUS_INVALID_VALUE",
        8 => "CUBLAS_STATUS_ARCH_MISMATCH",
        11 => "CUBLAS_STATUS_MAPPING_ERROR",
        13 => "CUBLAS_STATUS_EXECUTION_FAILED",
        14 => "CUBLAS_STATUS_INTERNAL_ERROR",
        15 => "CUBLAS_STATUS_NOT_SUPPORTED",
        _ => "an unknown status",
    };

    private static string Read(byte* text) => text is null ? "" : Encoding.UTF8.GetString(System.Runtime.InteropServices.MemoryMarshal.CreateReadOnlySpanFromNullTerminated(text));
}
