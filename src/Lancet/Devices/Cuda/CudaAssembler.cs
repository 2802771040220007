using System.Runtime.InteropServices;
using System.Text;
using Lancet.Devices.Cuda.Interop;

namespace Lancet.Devices.Cuda;

/// <summary>Turns PTX into machine code with the driver's assembler, keeping what it says.</summary>
internal static unsafe class CudaAssembler
{
    private const int LogBytes = 64 << 10;
    private const int BestOptimization = 4;

    /// <summary>Assembles one module. The context of the target is current.</summary>
    /// <param name="name">Kernel, for messages.</param>
    /// <param name="ptx">PTX text.</param>
    /// <exception cref="CudaException">The assembler refuses; the message holds its log and where the PTX was written.</exception>
    public static Cubin Assemble(string name, string ptx)
    {
        var info = (byte*)NativeMemory.AllocZeroed(LogBytes);
        var error = (byte*)NativeMemory.AllocZeroed(LogBytes);
        nint state = 0;
        try
        {
            const int count = 6;
            int* options = stackalloc int[count] { JitOption.InfoLogBuffer, JitOption.InfoLogBytes, JitOption.ErrorLogBuffer, JitOption.ErrorLogBytes, JitOption.LogVerbose, JitOption.OptimizationLevel };
            // Numbers travel in the pointer's place.
            void** values = stackalloc void*[count] { info, (void*)LogBytes, error, (void*)LogBytes, (void*)1, (void*)BestOptimization };
            var text = Encoding.UTF8.GetBytes(ptx + "\0");
            int code;
            if (ptx.Contains("setmaxnreg", StringComparison.Ordinal))
            {
                // As one of several units, which is how the linker takes it, it would keep the registers that it starts with. The driver keeps its machine code.
                nint module;
                fixed (byte* pText = text) code = Driver.cuModuleLoadDataEx(out module, pText, count, options, values);
                if (code != 0) Refuse(nameof(Driver.cuModuleLoadDataEx), code, name, ptx, Text(error) + Text(info));
                CudaCheck.Driver(Driver.cuModuleUnload(module));
                return new(text, Text(info));
            }
            CudaCheck.Driver(Driver.cuLinkCreate(count, options, values, out state));
            var label = Encoding.UTF8.GetBytes(name + "\0");
            fixed (byte* pText = text, pLabel = label) code = Driver.cuLinkAddData(state, JitOption.InputPtx, pText, (nuint)text.Length, pLabel, 0, null, null);
            if (code != 0) Refuse(nameof(Driver.cuLinkAddData), code, name, ptx, Text(error) + Text(info));
            code = Driver.cuLinkComplete(state, out var cubin, out var size);
            if (code != 0) Refuse(nameof(Driver.cuLinkComplete), code, name, ptx, Text(error) + Text(info));
            return new(new ReadOnlySpan<byte>(cubin, checked((int)size)).ToArray(), Text(info));
        }
        finally
        {
            if (state != 0) _ = Driver.cuLinkDestroy(state);
            NativeMemory.Free(info);
            NativeMemory.Free(error);
        }
    }

    /// <summary>Writes PTX that the driver refused and returns the file, or null if that fails too.</summary>
    private static string? Keep(string name, string ptx)
    {
        var folder = Path.Combine(Path.GetTempPath(), "lancet-ptx");
        var path = Path.Combine(folder, PtxFolder.FileName(name, ptx));
        CacheFolder.TryWrite(path, Encoding.UTF8.GetBytes(ptx));
        return File.Exists(path) ? path : null;
    }

    private static void Refuse(string call, int code, string name, string ptx, string log)
    {
        var path = Keep(name, ptx);
        throw new CudaException(call, code, $"kernel {name}: the driver does not assemble its PTX ({call} returned {code}).{(path is null ? "" : $" The PTX is in {path}.")}\n{log.Trim()}");
    }

    private static string Text(byte* log) => Encoding.UTF8.GetString(MemoryMarshal.CreateReadOnlySpanFromNullTerminated(log));
}
