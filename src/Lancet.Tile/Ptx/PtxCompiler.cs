using Lancet.Tile.IR;

namespace Lancet.Tile.Ptx;

/// <summary>A kernel as PTX text, and what a launch of it needs.</summary>
/// <param name="EntryName">Name of the module's only entry.</param>
/// <param name="Text">A whole PTX module.</param>
/// <param name="ThreadsPerBlock">Threads of a block, along x.</param>
/// <param name="SharedMemoryBytes">Dynamic shared memory to ask for at launch.</param>
/// <param name="Parameters">Formal parameters, as in the kernel.</param>
public sealed record PtxKernel(string EntryName, string Text, int ThreadsPerBlock, int SharedMemoryBytes, IReadOnlyList<Parameter> Parameters);

/// <summary>A GPU to compile for.</summary>
/// <param name="ComputeCapability">Such as 80, 86, 89, 90.</param>
/// <param name="MaxSharedMemoryPerBlock">Bytes that a block may ask for.</param>
public sealed record PtxTarget(int ComputeCapability, int MaxSharedMemoryPerBlock);

/// <summary>Turns kernels into PTX.</summary>
public static class PtxCompiler
{
    /// <summary>Compiles a kernel.</summary>
    public static PtxKernel Compile(Kernel kernel, PtxTarget target) => throw new NotImplementedException("The PTX compiler is not there yet.");
}
