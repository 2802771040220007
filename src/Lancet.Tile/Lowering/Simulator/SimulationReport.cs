using Lancet.Tile.IR;
using Lancet.Tile.Lowering.Threads;

namespace Lancet.Tile.Lowering.Simulator;

/// <summary>How well the memory accesses of one kind on one source line went.</summary>
/// <param name="Location">Line of the kernel's C# source.</param>
/// <param name="Opcode">Kind of access.</param>
/// <param name="Executions">Warp instructions executed.</param>
/// <param name="Ideal">Fewest possible wavefronts (shared memory) or 32-byte sectors (global memory) for the bytes moved.</param>
/// <param name="Actual">Wavefronts or sectors that the addresses really need.</param>
internal sealed record MemoryTraffic(SourceLocation Location, ThreadOpcode Opcode, long Executions, long Ideal, long Actual)
{
    /// <summary>For example <c>NormKernel.cs:42 LoadShared: 8 accesses, 64 wavefronts (32 ideal)</c>.</summary>
    public override string ToString() => $"{Location} {Opcode}: {Executions} accesses, {Actual} {(Opcode is ThreadOpcode.LoadGlobal or ThreadOpcode.StoreGlobal ? "sectors" : "wavefronts")} ({Ideal} ideal)";
}

/// <summary>What a simulated launch did.</summary>
/// <param name="Instructions">Warp instructions executed, control flow left out.</param>
/// <param name="Barriers">Barriers passed, each counted once a program.</param>
/// <param name="Counts">Warp instructions executed, by opcode.</param>
/// <param name="Traffic">Memory accesses, by source line and kind.</param>
internal sealed record SimulationReport(long Instructions, long Barriers, IReadOnlyDictionary<ThreadOpcode, long> Counts, IReadOnlyList<MemoryTraffic> Traffic)
{
    /// <summary>Wavefronts beyond the ideal over all accesses to shared memory.</summary>
    public long BankConflicts => Traffic.Where(line => line.Opcode is not (ThreadOpcode.LoadGlobal or ThreadOpcode.StoreGlobal)).Sum(line => line.Actual - line.Ideal);
}
