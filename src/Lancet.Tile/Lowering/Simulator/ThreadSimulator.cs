using Lancet.Tile.Lowering.Threads;

namespace Lancet.Tile.Lowering.Simulator;

/// <summary>
/// Runs a thread program on host memory, warp by warp, as strictly as the PTX memory model allows a GPU to be unkind: asynchronous copies land
/// as late as they may, warps run in different orders between barriers, and every race, stray access and undefined value is an error.
/// </summary>
internal static class ThreadSimulator
{
    /// <summary>Runs every program of the grid, one after the other, those of a cluster in turns.</summary>
    /// <param name="program">What each thread does.</param>
    /// <param name="grid">How many programs.</param>
    /// <param name="arguments">One for each parameter; pointers to host memory.</param>
    /// <param name="instructionLimit">Warp instructions after which the kernel is taken to hang.</param>
    /// <exception cref="TileException">The program does something that is undefined on a GPU; the message names kernel, program, warp, lane, instruction and source line.</exception>
    public static SimulationReport Run(ThreadProgram program, Grid grid, ReadOnlySpan<KernelArgument> arguments, long instructionLimit = 2_000_000_000)
    {
        if (arguments.Length != program.Parameters.Count) throw new TileException($"kernel {program.Name} takes {program.Parameters.Count} arguments but was given {arguments.Length}.");
        for (var i = 0; i < arguments.Length; i++)
        {
            var type = program.Parameters[i].Value.Type;
            if (type.IsPointer != arguments[i].IsPointer || type.Element != arguments[i].Element)
                throw new TileException($"kernel {program.Name}, argument {i} ({program.Parameters[i].Name}): {type} is needed, {(arguments[i].IsPointer ? "a pointer to " : "a scalar of ")}{arguments[i].Element} was given.");
        }
        if (grid.X % program.Cluster != 0) throw new TileException($"kernel {program.Name}: a grid of {grid.X} programs along x cannot be parted into clusters of {program.Cluster}.");
        var code = SimulatedCode.Compile(program);
        using var memory = new GlobalMemory(program, arguments);
        var copy = arguments.ToArray();
        SimulatedBlock[] cluster = [.. Enumerable.Range(0, program.Cluster).Select(_ => new SimulatedBlock(code, grid, memory, copy) { InstructionLimit = instructionLimit })];
        for (var z = 0; z < grid.Z; z++)
            for (var y = 0; y < grid.Y; y++)
                for (var x = 0; x < grid.X; x += cluster.Length)
                    SimulatedBlock.Run(cluster, x, y, z);
        return Report(code, cluster.Sum(block => block.Barriers));
    }

    private static SimulationReport Report(SimulatedCode code, long barriers)
    {
        var executed = code.Steps.Where(step => step.Instruction is not null && step.Executions > 0).ToArray();
        var counts = executed.GroupBy(step => step.Instruction!.Opcode).ToDictionary(group => group.Key, group => group.Sum(step => step.Executions));
        var traffic = executed.Where(step => step.IdealTraffic > 0)
            .GroupBy(step => (step.Instruction!.Location, step.Instruction.Opcode))
            .Select(group => new MemoryTraffic(group.Key.Location, group.Key.Opcode, group.Sum(step => step.Executions), group.Sum(step => step.IdealTraffic), group.Sum(step => step.ActualTraffic)))
            .OrderBy(line => line.Location.File, StringComparer.Ordinal).ThenBy(line => line.Location.Line)
            .ToArray();
        return new SimulationReport(executed.Sum(step => step.Executions), barriers, counts, traffic);
    }
}
