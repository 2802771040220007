using System.Security.Cryptography;
using System.Text;
using Lancet.Tile;
using Lancet.Tile.Ptx;

namespace Lancet.Devices.Cuda;

/// <summary>
/// A folder that receives the PTX of kernels as they are compiled, for people to read: a file for each kernel variant, named
/// <c>KERNEL-DIVISIBLE-smNN-HASH.ptx</c> with the divisible arguments as hexadecimal bits (<see cref="KernelVariant"/>). Comments hold the kernel's source lines.
/// </summary>
public sealed class PtxFolder
{
    private const int HashDigits = 12;

    /// <summary>Names the folder, creating it where it is missing.</summary>
    /// <param name="path">Folder; files of other runs in it stay.</param>
    /// <exception cref="OutputException">It cannot be created.</exception>
    public PtxFolder(string path)
    {
        Path = path;
        try
        {
            Directory.CreateDirectory(path);
        }
        catch (Exception error) when (OutputException.IsFrom(error))
        {
            throw new OutputException($"{path}: the folder for PTX cannot be created: {error.Message}", error);
        }
    }

    /// <summary>The folder.</summary>
    public string Path { get; }

    /// <summary>The folder that LANCET_DUMP_PTX names, or null.</summary>
    public static PtxFolder? FromEnvironment() => Environment.GetEnvironmentVariable("LANCET_DUMP_PTX") is { Length: > 0 } path ? new(path) : null;

    /// <summary>Compiles kernels without a GPU and writes them.</summary>
    /// <param name="variants">Kernels, such as those of <see cref="Planning.StepPlan.Kernels"/>.</param>
    /// <param name="target">GPU that they are compiled for; it need not be there.</param>
    /// <returns>The files, each once.</returns>
    /// <exception cref="LancetException">A kernel cannot be compiled for this GPU; the message names it.</exception>
    /// <exception cref="OutputException">A file cannot be written.</exception>
    public IReadOnlyCollection<string> Compile(IEnumerable<KernelVariant> variants, PtxTarget target)
    {
        // Two kernels of one text and one variant are one file.
        var files = new SortedSet<string>(StringComparer.Ordinal);
        foreach (var variant in variants)
        {
            try
            {
                files.Add(Write(variant, target, PtxCompiler.Compile(variant.Kernel, target, variant.DivisibleArguments)));
            }
            catch (TileException error)
            {
                throw new LancetException($"A kernel cannot be compiled for sm_{target.ComputeCapability}: {error.Message}", error);
            }
        }
        return files;
    }

    /// <summary>Writes a compiled kernel and returns the file.</summary>
    /// <exception cref="OutputException">It cannot be written.</exception>
    internal string Write(KernelVariant variant, PtxTarget target, PtxKernel compiled)
    {
        var file = System.IO.Path.Combine(Path, FileName($"{variant.Kernel.Name}-{variant.DivisibleArguments:x}-sm{target.ComputeCapability}", compiled.Text));
        try
        {
            File.WriteAllText(file, compiled.Text);
        }
        catch (Exception error) when (OutputException.IsFrom(error))
        {
            throw new OutputException($"{file}: the PTX cannot be written: {error.Message}", error);
        }
        return file;
    }

    /// <summary>A file name that tells texts apart.</summary>
    internal static string FileName(string name, string ptx) => $"{name}-{Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(ptx)))[..HashDigits]}.ptx";
}
