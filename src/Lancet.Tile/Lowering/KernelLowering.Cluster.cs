using Lancet.Tile.IR;
using Lancet.Tile.Lowering.Threads;

namespace Lancet.Tile.Lowering;

// What programs of a cluster gather: each stores its numbers in the shared memory of all, and reads what the others stored in its own.
internal sealed partial class KernelLowering
{
    private bool _hasMetCluster;

    // Shared memory of a program is there once the program runs: all say so at the start, and the first gather waits for it.
    private void MeetCluster()
    {
        if (_kernel.Cluster > 1 && !_target.HasClusters) throw new TileException($"kernel {_kernel.Name}: sm_{_target.ComputeCapability} has no clusters of programs.");
        if (_kernel.Body.Operations.Exists(operation => operation.Opcode == Opcode.Gather)) _builder.Effect(ThreadOpcode.ClusterArrive, ThreadType.B32, [], []);
    }

    private void LowerGather(Operation operation)
    {
        var cluster = _kernel.Cluster;
        if (!_hasMetCluster) _builder.Effect(ThreadOpcode.ClusterWait, ThreadType.B32, [], []);
        _hasMetCluster = true;
        var thread = _builder.Special(SpecialRegister.ThreadId);
        var own = _builder.And(ThreadType.B32, _builder.Special(SpecialRegister.ProgramX), Source.Constant(cluster - 1));
        var isWriter = _converter.Guard(_builder.Compare(ThreadType.U32, Comparison.Less, thread, Source.Constant(cluster)));
        // Vectors one behind the other, each where wide accesses may start.
        var ends = new int[operation.Operands.Length];
        for (var i = 0; i < ends.Length; i++) ends[i] = (i == 0 ? 0 : ends[i - 1]) + Math.Max(WidestAccess, cluster * operation.Operands[i].Type.Element.SizeInBytes());
        var area = _shared.Allocate(ends[^1]);
        var places = ends.Select((_, i) => area + (i == 0 ? 0 : ends[i - 1])).ToArray();
        for (var i = 0; i < places.Length; i++)
        {
            var size = operation.Operands[i].Type.Element.SizeInBytes();
            var place = _builder.Add(ThreadType.U32, _builder.Multiply(ThreadType.U32, own, Source.Constant(size)), Source.Constant(places[i]));
            _builder.Effect(ThreadOpcode.StoreCluster, AccessOf(size), [], [place, thread, Scalar(operation.Operands[i]).Source], isWriter);
        }
        _builder.Effect(ThreadOpcode.ClusterArrive, ThreadType.B32, [], []);
        _builder.Effect(ThreadOpcode.ClusterWait, ThreadType.B32, [], []);
        _shared.NoteBarrier();
        for (var i = 0; i < places.Length; i++) Define(operation.Results[i], LoadGathered(operation.Results[i], places[i]));
    }

    private TileItem LoadGathered(Value result, int place)
    {
        var size = result.Type.Element.SizeInBytes();
        var run = Math.Min(result.Type.Count, WidestAccess / size);
        var elements = new Element[result.Type.Count];
        for (var first = 0; first < elements.Length; first += run)
        {
            var registers = Enumerable.Range(0, run).Select(_ => _builder.New(AccessOf(size).Class())).ToArray();
            _builder.Effect(ThreadOpcode.LoadShared, AccessOf(size), registers, [Source.Constant(place)], immediate: first * size);
            for (var i = 0; i < run; i++) elements[first + i] = new(registers[i]);
        }
        return new TileItem(_converter, result.Type, _plan.Of(result), elements);
    }

    private static ThreadType AccessOf(int size) => size == 8 ? ThreadType.B64 : ThreadType.B32;
}
