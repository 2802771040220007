using Lancet.Tile.IR;

namespace Lancet.Tile.Ptx;

/// <summary>A kernel as PTX text, and what a launch of it needs.</summary>
/// <param name="EntryName">Name of the module's only entry.</param>
/// <param name="Text">A whole PTX module.</param>
/// <param name="ThreadsPerBlock">Threads of a block, along x.</param>
/// <param name="SharedMemoryBytes">Dynamic shared memory to ask for at launch.</param>
/// <param name="Parameters">Formal parameters, as in the kernel.</param>
public sealed record PtxKernel(string EntryName, string Text, int ThreadsPerBlock, int SharedMemoryBytes, IReadOnlyList<Parameter> Parameters)
{
    /// <summary>Tensor maps that the kernel takes behind its parameters.</summary>
    public IReadOnlyList<TensorMap> TensorMaps { get; init; } = [];
}
