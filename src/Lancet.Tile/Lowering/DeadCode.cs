using Lancet.Tile.Lowering.Threads;

namespace Lancet.Tile.Lowering;

/// <summary>Removes instructions whose results nobody reads, and fences for products of warp groups where there are none.</summary>
internal static class DeadCode
{
    public static void Remove(ThreadProgram program)
    {
        // A kernel may suit warp groups and have operands that they cannot describe.
        if (!Contains(program.Body, ThreadOpcode.WarpGroupMultiply)) RemoveAll(program.Body, ThreadOpcode.ProxyFence);
        int before;
        do
        {
            var read = new HashSet<int>();
            Mark(program.Body, read);
            Mark(program.Producer, read);
            before = 0;
            Sweep(program.Body, read, ref before);
            Sweep(program.Producer, read, ref before);
        }
        while (before > 0);
    }

    private static bool Contains(List<ThreadNode> nodes, ThreadOpcode opcode) => nodes.Exists(node => node switch
    {
        ThreadInstruction instruction => instruction.Opcode == opcode,
        ThreadLoop loop => Contains(loop.Body, opcode),
        ThreadBranch branch => Contains(branch.Body, opcode),
        _ => false,
    });

    private static void RemoveAll(List<ThreadNode> nodes, ThreadOpcode opcode)
    {
        nodes.RemoveAll(node => node is ThreadInstruction instruction && instruction.Opcode == opcode);
        foreach (var node in nodes)
        {
            if (node is ThreadLoop loop) RemoveAll(loop.Body, opcode);
            else if (node is ThreadBranch branch) RemoveAll(branch.Body, opcode);
        }
    }

    private static void Mark(List<ThreadNode> nodes, HashSet<int> read)
    {
        foreach (var node in nodes)
        {
            switch (node)
            {
                case ThreadInstruction instruction:
                    foreach (var source in instruction.Sources)
                        if (!source.IsConstant) read.Add(source.Register.Id);
                    if (instruction.Guard.Exists) read.Add(instruction.Guard.Id);
                    break;
                case ThreadLoop loop:
                    read.Add(loop.Condition.Id);
                    Mark(loop.Header, read);
                    Mark(loop.Body, read);
                    break;
                case ThreadBranch branch:
                    read.Add(branch.Condition.Id);
                    Mark(branch.Body, read);
                    break;
            }
        }
    }

    private static void Sweep(List<ThreadNode> nodes, HashSet<int> read, ref int removed)
    {
        for (var i = nodes.Count - 1; i >= 0; i--)
        {
            switch (nodes[i])
            {
                case ThreadInstruction instruction when !HasEffect(instruction) && !instruction.Destinations.Any(register => read.Contains(register.Id)):
                    nodes.RemoveAt(i);
                    removed++;
                    break;
                case ThreadLoop loop:
                    Sweep(loop.Header, read, ref removed);
                    Sweep(loop.Body, read, ref removed);
                    break;
                case ThreadBranch branch:
                    Sweep(branch.Body, read, ref removed);
                    if (branch.Body.Count > 0) break;
                    nodes.RemoveAt(i);
                    removed++;
                    break;
            }
        }
    }

    private static bool HasEffect(ThreadInstruction instruction) => instruction.Opcode is ThreadOpcode.StoreGlobal or ThreadOpcode.StoreShared or ThreadOpcode.AtomicAdd or ThreadOpcode.CopyAsync
        or ThreadOpcode.InitializeMbarrier or ThreadOpcode.ExpectBytes or ThreadOpcode.CopyTensor or ThreadOpcode.AwaitBytes or ThreadOpcode.CommitCopies or ThreadOpcode.WaitCopies or ThreadOpcode.Barrier or ThreadOpcode.WarpGroupFence or ThreadOpcode.CommitProducts or ThreadOpcode.WaitProducts
        or ThreadOpcode.ProxyFence or ThreadOpcode.AddGlobal or ThreadOpcode.AwaitFlag or ThreadOpcode.SignalFlag
        or ThreadOpcode.NamedArrive or ThreadOpcode.NamedWait or ThreadOpcode.StoreCluster or ThreadOpcode.ClusterArrive or ThreadOpcode.ClusterWait;
}
