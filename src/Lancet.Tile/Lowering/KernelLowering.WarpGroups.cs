using Lancet.Tile.IR;
using Lancet.Tile.Lowering.Threads;

namespace Lancet.Tile.Lowering;

// Products of warp groups (wgmma): four warps multiply 64 rows at once, B and, where it lies there, A straight from shared memory. They run beside
// what the warps do until the result is used.
internal sealed partial class KernelLowering
{
    private const int GroupRows = 64;

    private readonly List<PendingProduct> _pendingProducts = [];
    private int _committedProducts;
    private Register _warpGroup;
    private int _warpGroupScope;

    /// <summary>A product that is under way.</summary>
    /// <param name="Number">Of its group, from 1.</param>
    /// <param name="Scope">Where it was started.</param>
    private sealed record PendingProduct(int Number, int Scope);

    private static bool CanDescribe(Item operand) => operand is not SharedItem shared || shared.Tile.Pitch >= 32;

    private TileItem MultiplyInWarpGroups(Operation operation, ProductLayouts layouts, Item a, Item b, LinearLayout layout, Element[] accumulator, Register[]? into = null)
    {
        var right = DescribeRight(InSharedMemory(b));
        // What already lies in shared memory needs no registers.
        a = FindInSharedMemory(a) ?? Placed(a, layouts.Left());
        var isLeftTransposed = a is SharedItem { IsTransposed: true };
        var left = a is SharedItem shared && CanDescribeLeft(shared) ? DescribeLeft(shared) : FragmentsOf(a, layouts);
        var replaces = Array.TrueForAll(accumulator, element => element.Source is { IsConstant: true, Bits: 0 });
        var steps = Enumerable.Range(0, layouts.K / 16).Select(step => (Source[])[.. left(step), right.Step(step)]).ToArray();
        var sums = into ?? Accumulators(operation) ?? [.. accumulator.Select(_ => _builder.New(RegisterClass.Bits32))];
        _builder.Forget(sums);
        for (var i = 0; i < sums.Length && !replaces; i++) _builder.Assign(sums[i], accumulator[i].Source);
        _builder.Effect(ThreadOpcode.WarpGroupFence, ThreadType.B32, [], []);
        for (var step = 0; step < steps.Length; step++)
        {
            _builder.Effect(
                ThreadOpcode.WarpGroupMultiply, a.DType == DType.BFloat16 ? ThreadType.BF16 : ThreadType.F16, sums, steps[step],
                immediate: replaces && step == 0 ? 0 : 1, width: layouts.N, isTransposed: right.IsTransposed,
                isLeftTransposed: isLeftTransposed && steps[step].Length == 2);
        }
        _builder.Effect(ThreadOpcode.CommitProducts, ThreadType.B32, [], []);
        var pending = new PendingProduct(++_committedProducts, _builder.Scope);
        _pendingProducts.Add(pending);
        return new TileItem(_converter, operation.Result.Type, layout, [.. sums.Select(sum => new Element(sum))], () => Await(pending));
    }

    /// <summary>
    /// The registers of the loop-carried value that a product's result becomes, or that it adds to, to be added up in place; null if there is none, or if its
    /// old value is used after the product.
    /// </summary>
    private Register[]? Accumulators(Operation product)
    {
        if (!_loops.TryPeek(out var loop)) return null;
        var body = loop.Operation.Body!;
        var index = Array.IndexOf(body.Operations[^1].Operands, product.Result);
        if (index < 0) index = body.Arguments.IndexOf(product.Operands[2]) - 1;
        var place = body.Operations.IndexOf(product);
        if (index < 0 || place < 0) return null;
        // Views read their tile where they are used.
        var old = new HashSet<Value> { body.Arguments[index + 1] };
        foreach (var view in body.Operations.Where(operation => LayoutPlan.IsView(operation.Opcode) && old.Contains(operation.Operands[0]))) old.Add(view.Result);
        return body.Operations.Skip(place + 1).Any(later => Uses(later, old)) ? null : loop.Carried[index].Registers;
    }

    private static bool Uses(Operation operation, HashSet<Value> values) =>
        operation.Operands.Any(values.Contains) || (operation.Body?.Operations.Any(inner => Uses(inner, values)) ?? false);

    private Func<int, Source[]> FragmentsOf(Item item, ProductLayouts layouts)
    {
        var fragments = Fragments(item, layouts, isLeft: true);
        return step => fragments(0, step);
    }

    // By way of a shuffle, so that the assembler knows that it is the same for a warp.
    private Source WarpGroup()
    {
        if (!_warpGroup.Exists || !_builder.IsOpen(_warpGroupScope))
        {
            (_warpGroup, _warpGroupScope) = (_builder.New(RegisterClass.Bits32), _builder.Scope);
            const int threadBits = 7;
            var number = _builder.ShiftRight(ThreadType.U32, _builder.Special(SpecialRegister.ThreadId), threadBits);
            _builder.Effect(ThreadOpcode.ShuffleIndex, ThreadType.B32, [_warpGroup], [number, Source.Constant(0)]);
        }
        return _warpGroup;
    }

    // A stored transpose has a panel for each warp group.
    private static bool CanDescribeLeft(SharedItem item) => CanDescribe(item) && (!item.IsTransposed || item.Tile.PanelColumns == GroupRows);

    // Stored rows run along the outer extent, a warp group's 64 rows after the other; or along the summed extent, a warp group's 64 columns in a panel.
    private Func<int, Source[]> DescribeLeft(SharedItem item)
    {
        var tile = item.Tile;
        var start = tile.Offset;
        var outer = item.IsTransposed ? tile.Columns : tile.Rows;
        if (outer > GroupRows)
        {
            var groupBytes = item.IsTransposed ? tile.PanelBytes : GroupRows * tile.Pitch;
            start = _builder.Add(ThreadType.U32, start, _builder.Multiply(ThreadType.U32, WarpGroup(), Source.Constant(groupBytes)));
        }
        var describe = Describe(tile, start, item.IsTransposed ? tile.PanelBytes : 0);
        return step => [describe(item.IsTransposed ? tile.Step(step * 16, 0) : tile.Step(0, step * 16))];
    }

    // Stored rows run along the columns of B, which is then the transpose of what is stored, or along the summed extent.
    private (Func<int, Source> Step, bool IsTransposed) DescribeRight(SharedItem item)
    {
        var tile = item.Tile;
        var describe = Describe(tile, tile.Offset, item.IsTransposed ? 0 : tile.PanelBytes);
        return (step => describe(item.IsTransposed ? tile.Step(0, step * 16) : tile.Step(step * 16, 0)), !item.IsTransposed);
    }

    // The hardware swizzles the sum of all that it adds up, so steps within a row are added, not exclusive-ored.
    private Func<(int Bits, int Bytes), Source> Describe(SharedTile tile, Source start, int leading)
    {
        var fields = new MatrixDescriptor(tile.Pitch, leading, 8 * tile.Pitch, 0);
        var low = _builder.Or(ThreadType.B32, _builder.Pure(ThreadOpcode.SharedUnits, ThreadType.U32, start), Source.Constant(fields.LowBits));
        return step => _builder.Pure(
            ThreadOpcode.DescribeMatrix, ThreadType.B64, _builder.Add(ThreadType.U32, low, Source.Constant((step.Bits + step.Bytes) / MatrixDescriptor.AddressUnit)), immediate: fields.HighBits);
    }

    /// <summary>Waits for a product, if nobody has yet.</summary>
    private void Await(PendingProduct product)
    {
        if (!_pendingProducts.Contains(product)) return;
        _builder.Effect(ThreadOpcode.WaitProducts, ThreadType.B32, [], [], immediate: _committedProducts - product.Number);
        // A branch that waits may not be taken.
        if (_builder.Scope == product.Scope) _pendingProducts.RemoveAll(other => other.Number <= product.Number);
    }

    /// <summary>Waits for all products.</summary>
    private void AwaitProducts()
    {
        if (_pendingProducts.Count > 0) Await(_pendingProducts[^1]);
    }
}
