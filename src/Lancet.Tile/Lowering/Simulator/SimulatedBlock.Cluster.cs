using Lancet.Tile.Lowering.Threads;

namespace Lancet.Tile.Lowering.Simulator;

// Programs of a cluster run in turns, each up to where it waits for the others. What one stores in another's shared memory lands when both have waited, as
// late as it may, and counts as being written until then.
internal sealed partial class SimulatedBlock
{
    private readonly List<ClusterStore> _arriving = [];
    private readonly int[] _arrivals;
    private SimulatedBlock[] _cluster = [];
    private int _clusterMeetings;
    private int _epochOfMeeting;

    private readonly record struct ClusterStore(Access Access, int Program, int Offset, byte[] Bytes);

    /// <summary>Runs the programs of a cluster, whose first one is at a grid point.</summary>
    public static void Run(SimulatedBlock[] cluster, int x, int y, int z)
    {
        for (var i = 0; i < cluster.Length; i++)
        {
            cluster[i]._cluster = cluster;
            cluster[i].Begin(x + i, y, z);
        }
        for (var (descends, isOver) = (false, false); !isOver; descends = !descends)
        {
            var over = 0;
            for (var i = 0; i < cluster.Length; i++)
                if (cluster[descends ? cluster.Length - 1 - i : i].Advance()) over++;
            isOver = over == cluster.Length;
            if (over > 0 && !isOver) throw new TileException($"kernel {cluster[0]._code.Program.Name}, cluster at ({x}, {y}, {z}): {over} programs have ended and the others wait for them.");
            foreach (var block in cluster) block.Land();
        }
    }

    private void BeginInCluster()
    {
        Array.Clear(_arrivals);
        (_clusterMeetings, _epochOfMeeting) = (0, _global.Epoch);
    }

    private void ArriveInCluster(Step step, int warp)
    {
        if (_arrivals[warp]++ > _clusterMeetings) throw Error(warp, -1, step, "arrives a second time before it has waited");
    }

    // All warps of the program wait here.
    private void CheckArrived(Step step)
    {
        _clusterMeetings++;
        for (var warp = 0; warp < _warps; warp++)
            if (_arrivals[warp] != _clusterMeetings) throw Error(warp, -1, step, "waits for the cluster without having arrived");
    }

    private void CheckNothingOpenInCluster()
    {
        if (Array.Exists(_arrivals, arrivals => arrivals != _clusterMeetings)) throw Error(0, -1, _steps[_counters[0]], "the program ends although it has not waited for the cluster where it arrived");
        // Stores into a program that may have ended by then.
        if (Array.Exists(_cluster, block => block._arriving.Exists(store => store.Program == _x))) throw Error(0, -1, _steps[_counters[0]], "the program ends although the cluster has not met after its stores into others");
    }

    private void StoreInCluster(Step step, int index, int warp, uint active)
    {
        if (_clusterMeetings == 0) throw Error(warp, -1, step, "stores in programs that may not have started: the cluster must meet before");
        var size = step.Instruction!.Type.Bytes();
        for (var lane = 0; lane < 32; lane++)
        {
            if ((active >> lane & 1) == 0) continue;
            var number = (int)Lanes(step.Sources[1], warp)[lane];
            if (number < 0 || number >= _cluster.Length) throw Error(warp, lane, step, $"there is no program {number} in a cluster of {_cluster.Length}");
            var target = _cluster[number];
            var offset = SharedOffset(step, warp, lane, Lanes(step.Sources[0], warp)[lane], size);
            var value = Lanes(step.Sources[2], warp)[lane];
            for (var i = offset; i < offset + size; i++)
            {
                if (target._sharedShadow[i].IsPending) throw Race(step, warp, lane, $"shared address {i} of program {number}", "overwrites what is still on its way", target._sharedShadow[i].WriteStep);
                (target._sharedShadow[i].IsPending, target._sharedShadow[i].WriteStep) = (true, index);
            }
            target._arriving.Add(new(new Access(0, index, _serial, warp, lane), _x, offset, BitConverter.GetBytes(value)[..size]));
        }
    }

    // After the cluster has met. Until then nobody may have touched the place since the meeting before.
    private void Land()
    {
        foreach (var (access, program, offset, bytes) in _arriving)
        {
            for (var i = offset; i < offset + bytes.Length; i++)
            {
                ref var shadow = ref _sharedShadow[i];
                if (Math.Max(shadow.ReadEpoch, shadow.WriteEpoch) > _epochOfMeeting)
                    throw Race(_steps[access.Step], access.Warp, access.Lane, $"shared address {i}", $"program {program} overwrites what is read or written here before the cluster has met", shadow.ReadEpoch > _epochOfMeeting ? shadow.ReadStep : shadow.WriteStep);
                shadow.IsPending = false;
            }
        }
        _epochOfMeeting = ++_global.Epoch;
        foreach (var (access, _, offset, bytes) in _arriving) WriteShared(_steps[access.Step], access with { Epoch = _epochOfMeeting }, offset, bytes, WriteKind.Ordinary);
        _arriving.Clear();
    }
}
