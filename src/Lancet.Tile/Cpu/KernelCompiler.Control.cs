using Lancet.Tile.IR;

namespace Lancet.Tile.Cpu;

// Loops and branches: carried tiles live in slots of their own, to which the bodies' yields copy.
internal sealed partial class KernelCompiler
{
    private void CompileFor(Operation operation)
    {
        var body = operation.Body!;
        var carried = operation.Operands.Length - 3;
        var slots = new Slot[carried];
        for (var i = 0; i < carried; i++)
        {
            var (initial, argument) = (operation.Operands[i + 3], body.Arguments[i + 1]);
            var from = LanesOf(initial);
            slots[i] = _layout.Allocate(from.Count * LaneSize(argument.Type));
            slots[i].IsPinned = true;
            CopyTo(argument.Type, from, slots[i]);
        }
        int low = ScalarOf(operation.Operands[0]), high = ScalarOf(operation.Operands[1]), step = ScalarOf(operation.Operands[2]);
        var index = NewAffine(body.Arguments[0], []);
        var outerCode = _code;
        _code = [];
        for (var i = 0; i < carried; i++)
        {
            var (rows, cols) = Extent(body.Arguments[i + 1].Type);
            slots[i].Users = 1;
            _forms[body.Arguments[i + 1]] = new Form.Lanes(LaneView.Dense(slots[i].Offset, rows, cols), slots[i]);
        }
        CompileRegion(body);
        _scope.Index = body.Operations.Count - 1;
        EmitYield(body.Operations[^1].Operands, slots);
        foreach (var argument in body.Arguments) Release(argument);
        CloseScope(body);
        outerCode.Add(new ForInstruction(low, high, step, index, [.. _code], $"kernel {_kernel.Name}, For at {operation.Location}"));
        _code = outerCode;
        for (var i = 0; i < carried; i++)
        {
            var (rows, cols) = Extent(operation.Results[i].Type);
            (slots[i].IsPinned, slots[i].Users) = (false, 1);
            _forms[operation.Results[i]] = new Form.Lanes(LaneView.Dense(slots[i].Offset, rows, cols), slots[i]);
        }
    }

    private void CompileIf(Operation operation)
    {
        var body = operation.Body!;
        var condition = LanesOf(operation.Operands[0]).Offset;
        var slots = new Slot[operation.Results.Length];
        var outerCode = _code;
        var otherwise = operation.Operands.Skip(1).Select(LanesOf).ToArray();
        _code = [];
        for (var i = 0; i < slots.Length; i++)
        {
            slots[i] = _layout.Allocate(otherwise[i].Count * LaneSize(operation.Results[i].Type));
            CopyTo(operation.Results[i].Type, otherwise[i], slots[i]);
        }
        var elseCode = _code;
        _code = [];
        CompileRegion(body);
        EmitYield(body.Operations[^1].Operands, slots);
        CloseScope(body);
        outerCode.Add(new IfInstruction(condition, [.. _code], [.. elseCode]));
        _code = outerCode;
        for (var i = 0; i < slots.Length; i++)
        {
            var (rows, cols) = Extent(operation.Results[i].Type);
            slots[i].Users = 1;
            _forms[operation.Results[i]] = new Form.Lanes(LaneView.Dense(slots[i].Offset, rows, cols), slots[i]);
        }
    }

    /// <summary>Copies yielded values to their slots as if at once: a source that lies in a target, other than in place, is copied aside first.</summary>
    private void EmitYield(Value[] values, Slot[] slots)
    {
        var views = new LaneView[values.Length];
        var temporaries = new List<Slot>();
        for (var i = 0; i < values.Length; i++)
        {
            views[i] = LanesOf(values[i]);
            var view = views[i];
            var isInPlace = view.IsDense && view.Offset == slots[i].Offset;
            if (isInPlace || !slots.Any(slot => view.Offset >= slot.Offset && view.Offset < slot.Offset + slot.Size)) continue;
            var aside = _layout.Allocate(views[i].Count * LaneSize(values[i].Type));
            temporaries.Add(aside);
            CopyTo(values[i].Type, views[i], aside);
            views[i] = LaneView.Dense(aside.Offset, views[i].Rows, views[i].Cols);
        }
        for (var i = 0; i < values.Length; i++) CopyTo(values[i].Type, views[i], slots[i]);
        temporaries.ForEach(_layout.Free);
    }

    private void CopyTo(TileType type, LaneView from, Slot slot)
    {
        var to = LaneView.Dense(slot.Offset, from.Rows, from.Cols);
        if (from.IsDense && from.Offset == slot.Offset) return;
        _code.Add(LaneSize(type) == 4 ? new CopyInstruction<int>(from, to) : new CopyInstruction<long>(from, to));
    }
}
