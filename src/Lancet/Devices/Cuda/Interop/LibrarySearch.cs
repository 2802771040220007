namespace Lancet.Devices.Cuda.Interop;

/// <summary>What the search for libraries asks of the machine, so that tests can answer instead.</summary>
internal interface ILibraryHost
{
    /// <summary>Whether this is Windows.</summary>
    bool IsWindows { get; }

    /// <summary>An environment variable, or null.</summary>
    string? Variable(string name);

    /// <summary>Whether a file is there.</summary>
    bool FileExists(string path);

    /// <summary>Folders inside a folder whose names match a pattern with *; none if it is not there.</summary>
    IEnumerable<string> Folders(string parent, string pattern);
}

/// <summary>The native libraries that CUDA needs: what they are called and where they may lie.</summary>
/// <remarks>
/// Order: LANCET_CUDA_PATH; the loader's own search by plain name; CUDA_PATH and CUDA_HOME; toolkits in their usual places; Python
/// packages (nvidia/cublas of CUDA 12, nvidia/cu13 of CUDA 13) in the active environment, of the python3 on PATH, of the system and user.
/// Newer major versions come first.
/// </remarks>
internal static class LibrarySearch
{
    /// <summary>Names of the driver's library.</summary>
    public static string[] DriverNames(bool isWindows) => isWindows ? ["nvcuda.dll"] : ["libcuda.so.1", "libcuda.so"];

    /// <summary>Names of cuBLASLt, newest first.</summary>
    public static string[] CublasLtNames(bool isWindows) => isWindows
        ? ["cublasLt64_13.dll", "cublasLt64_12.dll"]
        : ["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"];

    /// <summary>What to hand to the loader, in order: plain names and full paths of files that exist.</summary>
    /// <param name="names">Acceptable file names, best first.</param>
    /// <param name="host">The machine.</param>
    public static IEnumerable<string> Candidates(string[] names, ILibraryHost host)
    {
        foreach (var path in Existing(OwnFolders(host), names, host)) yield return path;
        foreach (var name in names) yield return name;
        foreach (var path in Existing(ToolkitFolders(host).Concat(PythonFolders(host)), names, host)) yield return path;
    }

    private static IEnumerable<string> Existing(IEnumerable<string> folders, string[] names, ILibraryHost host)
    {
        string[] all = [.. folders.Distinct()];
        return names.SelectMany(name => all.Select(folder => Join(host, folder, name))).Where(host.FileExists);
    }

    private static IEnumerable<string> OwnFolders(ILibraryHost host) => host.Variable("LANCET_CUDA_PATH") is { Length: > 0 } root ? Inside(host, root) : [];

    private static IEnumerable<string> ToolkitFolders(ILibraryHost host)
    {
        foreach (var variable in (string[])["CUDA_PATH", "CUDA_HOME"])
        {
            if (host.Variable(variable) is { Length: > 0 } root)
                foreach (var folder in Inside(host, root)) yield return folder;
        }
        if (host.IsWindows)
        {
            var programs = host.Variable("ProgramFiles") ?? @"C:\Program Files";
            foreach (var root in host.Folders(Join(host, programs, "NVIDIA GPU Computing Toolkit", "CUDA"), "v*").OrderDescending(StringComparer.Ordinal))
                foreach (var folder in Inside(host, root)) yield return folder;
            yield break;
        }
        foreach (var root in host.Folders("/usr/local", "cuda*").OrderDescending(StringComparer.Ordinal).Append("/opt/cuda"))
            foreach (var folder in Inside(host, root)) yield return folder;
        foreach (var folder in (string[])["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib/wsl/lib"]) yield return folder;
    }

    // A toolkit's root, or the folder of the libraries itself.
    private static string[] Inside(ILibraryHost host, string root) => host.IsWindows
        ? [root, Join(host, root, "bin"), Join(host, root, "bin", "x64"), Join(host, root, "bin", "x86_64")]
        : [root, Join(host, root, "lib64"), Join(host, root, "lib"), Join(host, root, "targets", "x86_64-linux", "lib"), Join(host, root, "targets", "sbsa-linux", "lib")];

    private static IEnumerable<string> PythonFolders(ILibraryHost host)
    {
        foreach (var packages in PackageFolders(host))
        {
            var nvidia = Join(host, packages, "nvidia");
            foreach (var folder in host.Folders(nvidia, "cu*").OrderDescending(StringComparer.Ordinal))
            {
                yield return Join(host, folder, host.IsWindows ? "bin" : "lib");
                if (host.IsWindows) yield return Join(host, folder, "bin", "x86_64");
            }
        }
    }

    private static IEnumerable<string> PackageFolders(ILibraryHost host)
    {
        var prefixes = new List<string>();
        foreach (var variable in (string[])["VIRTUAL_ENV", "CONDA_PREFIX"])
            if (host.Variable(variable) is { Length: > 0 } prefix) prefixes.Add(prefix);
        var path = (host.Variable("PATH") ?? "").Split(host.IsWindows ? ';' : ':', StringSplitOptions.RemoveEmptyEntries);
        foreach (var folder in path)
        {
            if (!host.FileExists(Join(host, folder, host.IsWindows ? "python.exe" : "python3"))) continue;
            prefixes.Add(host.IsWindows ? folder : Parent(folder));
        }
        if (host.IsWindows)
        {
            foreach (var prefix in prefixes.Distinct()) yield return Join(host, prefix, "Lib", "site-packages");
            yield break;
        }
        prefixes.AddRange(["/usr/local", "/usr"]);
        if (host.Variable("HOME") is { Length: > 0 } home) prefixes.Add(home + "/.local");
        foreach (var folder in (host.Variable("PYTHONPATH") ?? "").Split(':', StringSplitOptions.RemoveEmptyEntries)) yield return folder;
        foreach (var prefix in prefixes.Distinct())
        {
            foreach (var python in host.Folders(prefix + "/lib", "python3*").OrderDescending(StringComparer.Ordinal))
            {
                yield return python + "/site-packages";
                yield return python + "/dist-packages";
            }
        }
    }

    private static string Parent(string folder) => folder.TrimEnd('/') is var trimmed && trimmed.LastIndexOf('/') is > 0 and var at ? trimmed[..at] : "/";

    private static string Join(ILibraryHost host, params ReadOnlySpan<string> parts) => string.Join(host.IsWindows ? '\\' : '/', parts.ToArray());
}

/// <summary>The machine that Lancet runs on.</summary>
internal sealed class LibraryHost : ILibraryHost
{
    public bool IsWindows => OperatingSystem.IsWindows();

    public string? Variable(string name) => Environment.GetEnvironmentVariable(name);

    public bool FileExists(string path) => File.Exists(path);

    public IEnumerable<string> Folders(string parent, string pattern)
    {
        try
        {
            return Directory.Exists(parent) ? Directory.GetDirectories(parent, pattern) : [];
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            return [];
        }
    }
}
