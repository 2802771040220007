using System.Reflection;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Lancet.Devices.Cuda.Interop;

/// <summary>Loads the driver and cuBLASLt on first use, from wherever <see cref="LibrarySearch"/> finds them. Nothing is loaded before.</summary>
internal static class NativeLibraries
{
    /// <summary>Name of the driver's library in the import declarations.</summary>
    public const string Driver = "lancet-cuda-driver";

    /// <summary>Name of cuBLASLt in the import declarations.</summary>
    public const string CublasLt = "lancet-cublaslt";

    private static readonly LibraryHost s_host = new();
    private static readonly Lazy<(nint Handle, string Path)> s_driver = new(() => Load(LibrarySearch.DriverNames(s_host.IsWindows)));
    private static readonly Lazy<(nint Handle, string Path)> s_cublasLt = new(() => Load(LibrarySearch.CublasLtNames(s_host.IsWindows)));

    /// <summary>What the driver's library was loaded as, or null where there is none.</summary>
    public static string? DriverPath => s_driver.Value.Handle == 0 ? null : s_driver.Value.Path;

    /// <summary>What cuBLASLt was loaded as, or null where there is none.</summary>
    public static string? CublasLtPath => s_cublasLt.Value.Handle == 0 ? null : s_cublasLt.Value.Path;

#pragma warning disable CA2255 // the resolver has to be in place before the first import of this assembly is called
    [ModuleInitializer]
    internal static void Register() => NativeLibrary.SetDllImportResolver(typeof(NativeLibraries).Assembly, Resolve);
#pragma warning restore CA2255

    private static nint Resolve(string name, Assembly assembly, DllImportSearchPath? searchPath) => name switch
    {
        Driver => s_driver.Value.Handle,
        CublasLt => s_cublasLt.Value.Handle,
        _ => 0,
    };

    /// <summary>Loads a library by the first of its names that is found; handle 0 where there is none.</summary>
    internal static (nint Handle, string Path) Load(string[] names)
    {
        foreach (var candidate in LibrarySearch.Candidates(names, s_host))
            if (NativeLibrary.TryLoad(candidate, out var handle)) return (handle, candidate);
        return (0, "");
    }
}
