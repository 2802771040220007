using Lancet.Tile.Lowering.Threads;

namespace Lancet.Tile.Lowering.Simulator;

// wgmma: a product runs when its warp waits for its group and not before. Until then its accumulators have no value, and neither its registers nor
// the shared memory that it reads may be written. Each warp computes its sixteen of the group's 64 rows.
internal sealed partial class SimulatedBlock
{
    private const int WarpsOfGroup = 4;

    private readonly List<PendingProduct>[] _openProducts;
    private readonly Queue<List<PendingProduct>>[] _productGroups;

    // Slots that pending products use, with how many; when each slot was last written; the last fence of registers of each warp.
    private readonly Dictionary<int, int>[] _busySlots;
    private readonly int[] _writtenSlots;
    private readonly int[] _registerFences;

    // Places that a warp wrote since its last proxy fence.
    private readonly List<(int Offset, int Bytes)>[] _unfenced;
    private readonly bool _hasProxyFences;

    private sealed record PendingProduct(Step Step, int Index, MatrixDescriptor? A, MatrixDescriptor B);

    private void StartProduct(Step step, int index, int warp)
    {
        var instruction = step.Instruction!;
        var isShared = step.Sources.Length == 2;
        var product = new PendingProduct(step, index, isShared ? Descriptor(step, 0, warp) : null, Descriptor(step, step.Sources.Length - 1, warp));
        foreach (var slot in (int[])[.. step.Destinations, .. isShared ? [] : step.Sources[..4]])
        {
            // Products of one shape may follow each other on the same accumulators.
            if (_busySlots[warp].ContainsKey(slot)) continue;
            if (_writtenSlots[slot * _warps + warp] > _registerFences[warp]) throw Error(warp, -1, step, "uses registers that were written after the last fence");
        }
        foreach (var slot in step.Destinations)
            if (instruction.Immediate != 0 && !_busySlots[warp].ContainsKey(slot) && _defined[slot * _warps + warp] != uint.MaxValue) throw Error(warp, -1, step, "an accumulator has no value");
        foreach (var slot in Slots(product)) _busySlots[warp][slot] = _busySlots[warp].GetValueOrDefault(slot) + 1;
        foreach (var slot in step.Destinations) _defined[slot * _warps + warp] = 0;
        foreach (var place in Places(product, warp))
        {
            ReadForProduct(product, warp, place);
            for (var i = place; i < place + 2; i++) _sharedShadow[i].PendingReads++;
        }
        _openProducts[warp].Add(product);
    }

    private static IEnumerable<int> Slots(PendingProduct product) => product.Step.Destinations.Concat(product.A is null ? product.Step.Sources.Take(4) : []);

    private MatrixDescriptor Descriptor(Step step, int source, int warp)
    {
        var lanes = Lanes(step.Sources[source], warp);
        for (var lane = 1; lane < 32; lane++)
            if (lanes[lane] != lanes[0]) throw Error(warp, lane, step, "a descriptor differs between lanes");
        var descriptor = MatrixDescriptor.Of(lanes[0]);
        if (descriptor.Pitch == 0) throw Error(warp, -1, step, "a descriptor without swizzle");
        return descriptor;
    }

    /// <summary>Shared addresses of the elements that a warp's part of a product reads: A's rows of this warp, and all of B.</summary>
    private IEnumerable<int> Places(PendingProduct product, int warp)
    {
        if (product.A is { } a)
            for (var row = 0; row < 16; row++)
                for (var k = 0; k < 16; k++) yield return PlaceOfA(product, a, warp, row, k);
        for (var column = 0; column < product.Step.Instruction!.Width; column++)
            for (var k = 0; k < 16; k++) yield return product.B.Of(column, k, product.Step.Instruction.IsTransposed);
    }

    private static int PlaceOfA(PendingProduct product, MatrixDescriptor a, int warp, int row, int k) =>
        a.Of((warp % WarpsOfGroup * 16) + row, k, product.Step.Instruction!.IsLeftTransposed);

    private void ReadForProduct(PendingProduct product, int warp, int place)
    {
        if (place + 2 > _shared.Length) throw Error(warp, -1, product.Step, $"shared address {place} of a descriptor is outside the {_shared.Length} bytes of shared memory");
        ReadShared(product.Step, product.Index, warp, 0, place, 2, isByProduct: true);
        if (_sharedShadow[place].IsUnfenced) throw Race(product.Step, warp, -1, $"shared address {place}", "reads through a descriptor what was written without a proxy fence before the barrier", _sharedShadow[place].WriteStep);
    }

    private void CommitProducts(int warp)
    {
        _productGroups[warp].Enqueue(_openProducts[warp]);
        _openProducts[warp] = [];
    }

    private void WaitForProducts(int warp, int newest)
    {
        while (_productGroups[warp].Count > newest)
            foreach (var product in _productGroups[warp].Dequeue())
                Finish(product, warp);
    }

    private void Finish(PendingProduct product, int warp)
    {
        var step = product.Step;
        var instruction = step.Instruction!;
        var isBFloat16 = instruction.Type == ThreadType.BF16;
        foreach (var place in Places(product, warp))
        {
            for (var i = place; i < place + 2; i++) _sharedShadow[i].PendingReads--;
            ReadForProduct(product, warp, place);
        }
        var columns = instruction.Width;
        var a = new float[16 * 16];
        var b = new float[16 * columns];
        float Half(int place) => Halves(BitConverter.ToUInt16(_shared, place), isBFloat16).Low;
        for (var k = 0; k < 16; k++)
        {
            if (product.A is { } matrix)
                for (var row = 0; row < 16; row++) a[row * 16 + k] = Half(PlaceOfA(product, matrix, warp, row, k));
            for (var column = 0; column < columns; column++) b[k * columns + column] = Half(product.B.Of(column, k, instruction.IsTransposed));
        }
        if (product.A is null)
            for (var lane = 0; lane < 32; lane++)
                for (var register = 0; register < 4; register++)
                {
                    int row = (lane >> 2) + (register & 1) * 8, column = (lane & 3) * 2 + (register >> 1) * 8;
                    (a[row * 16 + column], a[row * 16 + column + 1]) = Halves(Lanes(step.Sources[register], warp)[lane], isBFloat16);
                }
        for (var register = 0; register < step.Destinations.Length; register++)
        {
            var results = Lanes(step.Destinations[register], warp);
            for (var lane = 0; lane < 32; lane++)
            {
                int row = (lane >> 2) + (register >> 1 & 1) * 8, column = (lane & 3) * 2 + (register & 1) + (register >> 2) * 8;
                var sum = instruction.Immediate == 0 ? 0 : BitConverter.UInt32BitsToSingle((uint)results[lane]);
                for (var k = 0; k < 16; k++) sum += a[row * 16 + k] * b[k * columns + column];
                results[lane] = BitConverter.SingleToUInt32Bits(sum);
            }
        }
        foreach (var slot in Slots(product))
            if (--_busySlots[warp][slot] == 0) _busySlots[warp].Remove(slot);
        foreach (var slot in step.Destinations)
            if (!_busySlots[warp].ContainsKey(slot)) _defined[slot * _warps + warp] = uint.MaxValue;
    }

    /// <summary>Notes that an instruction writes registers.</summary>
    private void NoteWrites(Step step, int warp)
    {
        foreach (var slot in step.Destinations)
        {
            if (_busySlots[warp].Count > 0 && _busySlots[warp].ContainsKey(slot)) throw Error(warp, -1, step, "overwrites a register that a pending product uses");
            _writtenSlots[slot * _warps + warp] = _serial;
        }
    }

    private void FenceProxy(int warp)
    {
        foreach (var (offset, bytes) in _unfenced[warp])
            for (var i = offset; i < offset + bytes; i++) _sharedShadow[i].IsUnfenced = false;
        _unfenced[warp].Clear();
    }

    private void CheckNoProductsPending(int warp)
    {
        var product = _openProducts[warp].Count > 0 ? _openProducts[warp][0] : _productGroups[warp].SelectMany(group => group).FirstOrDefault();
        if (product is not null) throw Error(warp, -1, product.Step, "the program ends before this product was waited for");
        _productGroups[warp].Clear();
        _unfenced[warp].Clear();
        _registerFences[warp] = 0;
    }
}
