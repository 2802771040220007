using System.Numerics;
using System.Runtime.InteropServices;

namespace Lancet.Tile.Lowering.Simulator;

// Named barriers, where some warps arrive and go on, and others wait. All memory written before a meeting counts as seen after it by everyone, which is
// more than is true; what an asynchronous copy or a product still uses is found out anyway.
internal sealed partial class SimulatedBlock
{
    private readonly Dictionary<int, Meeting> _meetings = [];
    private readonly bool[] _isWaiting;
    private readonly bool[] _isReleased;

    /// <summary>Warps that have come to a named barrier without waiting, those that wait, and where one of the former is.</summary>
    private record struct Meeting(uint Arrived, uint Waiting, Step? Place, int PlaceWarp);

    private ref Meeting MeetingAt(Step step, int warp)
    {
        var lanes = Lanes(step.Sources[0], warp);
        for (var lane = 1; lane < 32; lane++)
            if (lanes[lane] != lanes[0]) throw Error(warp, lane, step, "the barrier's number differs between lanes");
        if (lanes[0] is 0 or > 15) throw Error(warp, -1, step, $"there is no named barrier {lanes[0]}");
        return ref CollectionsMarshal.GetValueRefOrAddDefault(_meetings, (int)lanes[0], out _);
    }

    private void Arrive(Step step, int warp)
    {
        step.Executions++;
        ref var meeting = ref MeetingAt(step, warp);
        if ((meeting.Arrived >> warp & 1) != 0) throw Error(warp, -1, step, "arrives a second time before the others have come");
        (meeting.Arrived, meeting.Place, meeting.PlaceWarp) = (meeting.Arrived | 1u << warp, step, warp);
        Meet(ref meeting, step, warp);
    }

    private bool MayPass(Step step, int warp)
    {
        if (!_isWaiting[warp])
        {
            step.Executions++;
            ref var meeting = ref MeetingAt(step, warp);
            _isWaiting[warp] = true;
            meeting.Waiting |= 1u << warp;
            Meet(ref meeting, step, warp);
        }
        if (!_isReleased[warp]) return false;
        _isReleased[warp] = _isWaiting[warp] = false;
        return true;
    }

    // Lets the waiting warps go on if all have come.
    private void Meet(ref Meeting meeting, Step step, int warp)
    {
        var (come, needed) = (BitOperations.PopCount(meeting.Arrived) + BitOperations.PopCount(meeting.Waiting), (int)step.Instruction!.Immediate / 32);
        if (come < needed) return;
        if (meeting.Waiting == 0) throw Error(warp, -1, step, "arrives a second time before the first has been waited for");
        for (var waiting = 0; waiting < _warps; waiting++) _isReleased[waiting] |= (meeting.Waiting >> waiting & 1) != 0;
        meeting = default;
        _epoch = ++_global.Epoch;
    }

    private void CheckNobodyArrived()
    {
        foreach (var (number, meeting) in _meetings)
            if (meeting.Place is { } place) throw Error(meeting.PlaceWarp, -1, place, $"the program ends although nobody has waited for this arrival at barrier {number}");
        _meetings.Clear();
    }
}
