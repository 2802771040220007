using System.Numerics;
using Lancet.Tile.Ptx;

namespace Lancet.Tile.Lowering.Simulator;

// Copies of whole blocks (TMA): they land when a warp waits for their mbarrier's phase and not before, and may be read after the next barrier; products need no proxy fence for them.
// Their target counts as being written from the start of the copy to that wait.
internal sealed unsafe partial class SimulatedBlock
{
    private const int BlockAlignment = 1024;
    private const int PieceBytes = 16;
    private const int PiecesOfRow = TensorMap.BlockColumns * 2 / PieceBytes;

    private readonly Dictionary<int, Mbarrier> _mbarriers = [];

    /// <summary>Phases that are complete, and of the one under way whether somebody has arrived, the bytes that it expects, and its copies.</summary>
    private sealed class Mbarrier
    {
        public int Phases { get; set; }

        public bool HasArrival { get; set; }

        public long Expected { get; set; }

        public List<BlockCopy> Copies { get; } = [];
    }

    private readonly record struct BlockCopy(TensorMap Map, int Target, int Column, int Row)
    {
        public long Bytes => Map.BlockRows * TensorMap.BlockColumns * 2L;
    }

    private void InitializeMbarrier(Step step, int warp, uint active)
    {
        var lane = OnlyLane(step, warp, active);
        var place = (int)Lanes(step.Sources[0], warp)[lane];
        if (place % 8 != 0 || place < 0 || place + 8 > _shared.Length) throw Error(warp, lane, step, $"there is no place for an mbarrier at shared address {place}");
        if (!_mbarriers.TryAdd(place, new())) throw Error(warp, lane, step, $"shared address {place} is an mbarrier already");
    }

    private void ExpectBytes(Step step, int warp, uint active)
    {
        var lane = OnlyLane(step, warp, active);
        var barrier = MbarrierAt(step, warp, lane, 0);
        if (barrier.HasArrival) throw Error(warp, lane, step, "arrives a second time before the first has been waited for");
        (barrier.HasArrival, barrier.Expected) = (true, step.Instruction!.Immediate);
    }

    private void StartBlockCopy(Step step, int index, int warp, uint active)
    {
        var lane = OnlyLane(step, warp, active);
        var map = _code.Program.TensorMaps[(int)step.Instruction!.Immediate];
        var copy = new BlockCopy(map, (int)Lanes(step.Sources[0], warp)[lane], (int)Lanes(step.Sources[1], warp)[lane], (int)Lanes(step.Sources[2], warp)[lane]);
        if (copy.Target % BlockAlignment != 0) throw Error(warp, lane, step, $"shared address {copy.Target} is not aligned to {BlockAlignment} bytes");
        if (copy.Target < 0 || copy.Target + copy.Bytes > _shared.Length) throw Error(warp, lane, step, $"{copy.Bytes} bytes at shared address {copy.Target} are outside the {_shared.Length} bytes of shared memory");
        BeginCopy(step, new Access(_epoch, index, _serial, warp, lane), copy.Target, copy.Bytes);
        for (var row = 0; row < map.BlockRows; row++)
            if (RowAddress(copy, row) is { } address) ReadGlobal(step, index, warp, lane, address, TensorMap.BlockColumns * 2, false, PieceBytes);
        MbarrierAt(step, warp, lane, 3).Copies.Add(copy);
    }

    // Whether the phase that a warp waits for is complete. Who has arrived has started all copies by then.
    private bool HasBytes(Step step, int warp)
    {
        foreach (var source in step.Sources)
            if (_defined[(source * _warps) + warp] != uint.MaxValue) throw Error(warp, -1, step, "an operand has no value");
        var barrier = MbarrierAt(step, warp, 0, 0);
        var parity = (int)Lanes(step.Sources[1], warp)[0];
        if (parity is not (0 or 1)) throw Error(warp, -1, step, $"a parity of {parity}");
        if (barrier.Phases % 2 == parity)
        {
            if (!barrier.HasArrival) return false;
            Complete(barrier, step, warp);
        }
        step.Executions++;
        return true;
    }

    private void Complete(Mbarrier barrier, Step step, int warp)
    {
        var brought = barrier.Copies.Sum(copy => copy.Bytes);
        if (brought != barrier.Expected) throw Error(warp, -1, step, $"waits forever: {barrier.Expected} bytes are expected, copies bring {brought}");
        foreach (var copy in barrier.Copies) Land(copy);
        barrier.Copies.Clear();
        (barrier.HasArrival, barrier.Phases) = (false, barrier.Phases + 1);
    }

    private void Land(BlockCopy copy)
    {
        Span<byte> row = stackalloc byte[TensorMap.BlockColumns * 2];
        for (var i = copy.Target; i < copy.Target + copy.Bytes; i++)
        {
            ref var shadow = ref _sharedShadow[i];
            (shadow.IsPending, shadow.IsInitialized, shadow.IsUnfenced, shadow.WriteEpoch) = (false, true, false, _epoch);
        }
        for (var r = 0; r < copy.Map.BlockRows; r++)
        {
            row.Clear();
            if (RowAddress(copy, r) is { } address) new ReadOnlySpan<byte>((void*)address, row.Length).CopyTo(row);
            for (var piece = 0; piece < PiecesOfRow; piece++)
            {
                var place = copy.Target + (r * row.Length) + ((piece ^ (r % PiecesOfRow)) * PieceBytes);
                row.Slice(piece * PieceBytes, PieceBytes).CopyTo(_shared.AsSpan(place));
            }
        }
    }

    // Where a row of a block begins, or null past the last and before the first row.
    private long? RowAddress(BlockCopy copy, int row)
    {
        var number = copy.Row + row;
        return number < 0 || number >= (int)_arguments[copy.Map.Rows].Bits ? null : _arguments[copy.Map.Pointer].Bits + (((number * copy.Map.Stride) + copy.Column) * 2);
    }

    private Mbarrier MbarrierAt(Step step, int warp, int lane, int source)
    {
        var place = (int)Lanes(step.Sources[source], warp)[lane];
        return _mbarriers.GetValueOrDefault(place) ?? throw Error(warp, lane, step, $"shared address {place} is no mbarrier");
    }

    private int OnlyLane(Step step, int warp, uint active) =>
        BitOperations.IsPow2(active) ? BitOperations.TrailingZeroCount(active) : throw Error(warp, -1, step, "is for one lane only");

    private void CheckNoBlocksPending()
    {
        foreach (var (place, barrier) in _mbarriers)
            if (barrier.HasArrival || barrier.Copies.Count > 0) throw new TileException($"kernel {_code.Program.Name}, program ({_x}, {_y}, {_z}): the program ends before the copies of the mbarrier at shared address {place} were waited for.");
        _mbarriers.Clear();
    }
}
