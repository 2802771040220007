namespace Lancet.Tile.Lowering.Simulator;

// cp.async: a copy lands when its thread waits for its group and not before. What it brings may be read by its own thread from then on and by
// all threads after the next barrier. Its target counts as being written from the start of the copy to the wait.
internal sealed unsafe partial class SimulatedBlock
{
    private readonly List<PendingCopy>[] _open;
    private readonly Queue<List<PendingCopy>>[] _groups;

    private readonly record struct PendingCopy(int Step, int Lane, int Target, long Source, int Width, int Count);

    private void StartCopy(Step step, int index, int warp, uint active)
    {
        var width = step.Instruction!.Width;
        var targets = Lanes(step.Sources[0], warp);
        var origins = Lanes(step.Sources[1], warp);
        var counts = Lanes(step.Sources[2], warp);
        Span<long> touched = stackalloc long[32];
        touched.Fill(Untouched);
        for (var lane = 0; lane < 32; lane++)
        {
            if ((active >> lane & 1) == 0) continue;
            var target = SharedOffset(step, warp, lane, targets[lane], width);
            var (source, count) = ((long)origins[lane] + step.Instruction.SourceOffset, (int)counts[lane]);
            if (count < 0 || count > width) throw Error(warp, lane, step, $"copies {count} of {width} bytes");
            if (source % width != 0) throw Error(warp, lane, step, $"global address 0x{source:X} is not aligned to {width} bytes");
            if (count > 0) ReadGlobal(step, index, warp, lane, source, count, false, 1);
            BeginCopy(step, new Access(_epoch, index, _serial, warp, lane), target, width);
            touched[lane] = target;
            _open[warp].Add(new PendingCopy(index, lane, target, source, width, count));
        }
        CountTraffic(step, touched, width, false);
    }

    /// <summary>From now on until the copy lands its target counts as being written.</summary>
    private void BeginCopy(Step step, in Access access, int target, long bytes)
    {
        for (var i = target; i < target + bytes; i++)
        {
            ref var shadow = ref _sharedShadow[i];
            if (shadow.IsPending) throw Race(step, access.Warp, access.Lane, $"shared address {i}", "overwrites what an asynchronous copy is still bringing: a wait is missing or covers too few groups", shadow.WriteStep);
            if (MemoryShadow.Write(ref shadow, access, WriteKind.Asynchronous, false, false, out var other) is { } problem) throw Race(step, access.Warp, access.Lane, $"shared address {i}", problem, other);
            CheckNotReadByProducts(step, access.Warp, access.Lane, i, shadow);
            shadow.IsPending = true;
        }
    }

    private void CommitCopies(int warp)
    {
        _groups[warp].Enqueue(_open[warp]);
        _open[warp] = [];
    }

    private void WaitForCopies(int warp, int newest)
    {
        while (_groups[warp].Count > newest)
            foreach (var copy in _groups[warp].Dequeue())
                Land(copy, warp);
    }

    private void Land(PendingCopy copy, int warp)
    {
        Span<byte> bytes = stackalloc byte[copy.Width];
        bytes.Clear();
        new ReadOnlySpan<byte>((void*)copy.Source, copy.Count).CopyTo(bytes);
        for (var i = 0; i < copy.Width; i++) _sharedShadow[copy.Target + i].IsPending = false;
        WriteShared(_steps[copy.Step], new Access(_epoch, copy.Step, _serial, warp, copy.Lane), copy.Target, bytes, WriteKind.Asynchronous);
    }

    private void CheckNoCopiesPending(int warp)
    {
        var copy = _open[warp].Count > 0 ? _open[warp][0] : _groups[warp].SelectMany(group => group).FirstOrDefault();
        if (copy.Width != 0) throw Error(warp, copy.Lane, _steps[copy.Step], "the program ends before this asynchronous copy was waited for");
        _groups[warp].Clear();
    }
}
