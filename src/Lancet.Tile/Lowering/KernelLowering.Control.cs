using Lancet.Tile.IR;
using Lancet.Tile.Lowering.Threads;

namespace Lancet.Tile.Lowering;

// Loops and branches. Their conditions are scalars, so all threads of a program take the same way.
internal sealed partial class KernelLowering
{
    private void LowerFor(Operation operation)
    {
        var region = operation.Body!;
        var (low, high, step) = (Scalar(operation.Operands[0]).Source, Scalar(operation.Operands[1]).Source, Scalar(operation.Operands[2]).Source);
        var carried = new Carried[operation.Results.Length];
        for (var i = 0; i < carried.Length; i++) carried[i] = Carry(region.Arguments[i + 1], Get(operation.Operands[i + 3]));
        var pipeline = Pipeline.Plan(this, operation);
        if (pipeline is null) FinishCopies();
        AwaitProducts();

        var index = _builder.Variable(RegisterClass.Bits32, low);
        _builder.SetDivisor(index, Math.Min(_builder.Divisor(low), _builder.Divisor(step)));
        pipeline?.Prologue(low, high, step);
        var loop = new ThreadLoop();
        _builder.Append(loop);
        _builder.Open(loop.Header);
        var condition = _builder.Compare(ThreadType.S32, Comparison.Less, index, high);
        loop.Condition = condition.Register;
        _builder.Close();

        _builder.Open(loop.Body);
        _environments.Push([]);
        var barriers = _shared.Barriers;
        _loops.Push((operation, carried, barriers, pipeline as AheadPipeline));
        _order.BeginLoop();
        _shared.AssumeDirty();
        Define(region.Arguments[0], new ScalarItem(region.Arguments[0].Type, new Element(index)));
        for (var i = 0; i < carried.Length; i++) Define(region.Arguments[i + 1], carried[i].Item);
        pipeline?.BeginIteration(index, high, step);
        LowerRegion(region);
        pipeline?.BehindBody();
        if (pipeline is not { KeepsProducts: true })
        {
            FinishCopies();
            AwaitProducts();
        }
        var yields = region.Operations[^1].Operands;
        AssignAll([.. Enumerable.Range(0, carried.Length).Select(i => (carried[i], Get(yields[i])))]);
        pipeline?.EndIteration();
        _order.EndLoop();
        _builder.Assign(index, _builder.Add(ThreadType.S32, index, step));
        _loops.Pop();
        _shared.Barriers = barriers;
        _environments.Pop();
        _builder.Close();
        _shared.AssumeDirty();
        pipeline?.Epilogue();
        for (var i = 0; i < carried.Length; i++) Define(operation.Results[i], carried[i].Item);
    }

    private void LowerIf(Operation operation)
    {
        var region = operation.Body!;
        FinishCopies();
        var condition = Scalar(operation.Operands[0]).Source;
        if (condition.IsConstant)
        {
            if (condition.Bits != 0) LowerRegion(region);
            for (var i = 0; i < operation.Results.Length; i++) Define(operation.Results[i], Get(condition.Bits != 0 ? region.Operations[^1].Operands[i] : operation.Operands[i + 1]));
            return;
        }
        var results = new Carried[operation.Results.Length];
        for (var i = 0; i < results.Length; i++) results[i] = Carry(operation.Results[i], Get(operation.Operands[i + 1]));
        var multiplies = Multiplies(region);
        if (multiplies) AwaitProducts();
        // Inside, a wait would be one that may not happen.
        foreach (var value in ReadFromOutside(region)) Get(value).Settle();
        var branch = new ThreadBranch { Condition = condition.Register };
        _builder.Append(branch);
        var (saved, barriers) = (_order.Save(), _shared.Barriers);
        _builder.Open(branch.Body);
        _environments.Push([]);
        LowerRegion(region);
        FinishCopies();
        if (multiplies) AwaitProducts();
        AssignAll([.. Enumerable.Range(0, results.Length).Select(i => (results[i], Get(region.Operations[^1].Operands[i])))]);
        _environments.Pop();
        _builder.Close();
        // The branch may not have been taken: what was pending before it still is.
        _order.Merge(saved);
        _shared.Barriers = barriers;
        _shared.AssumeDirty();
        for (var i = 0; i < results.Length; i++) Define(operation.Results[i], results[i].Item);
    }

    private static bool Multiplies(Region region) =>
        region.Operations.Any(inner => inner.Opcode is Opcode.Dot or Opcode.For || (inner.Opcode == Opcode.If && Multiplies(inner.Body!)));

    private static HashSet<Value> ReadFromOutside(Region region)
    {
        var values = new HashSet<Value>();
        foreach (var operation in region.Operations)
        {
            values.UnionWith(operation.Operands);
            if (operation.Body is not null) values.UnionWith(ReadFromOutside(operation.Body));
        }
        values.ExceptWith(region.Arguments);
        foreach (var operation in region.Operations) values.ExceptWith(operation.Results);
        return values;
    }

    /// <summary>Gives a value that is assigned more than once registers of its own, and its first value.</summary>
    private Carried Carry(Value value, Item initial)
    {
        var type = value.Type;
        var layout = type.IsScalar ? Single() : _plan.Of(value);
        var kind = ThreadBuilder.ClassOf(ElementArithmetic.TypeOf(type.Element));
        var isHalf = ElementArithmetic.IsHalf(type.Element);
        var registers = _arithmetic.Words(initial.In(layout), isHalf).Select(word => _builder.Variable(kind, word)).ToArray();
        var elements = ElementArithmetic.Elements([.. registers.Select(register => (Source)register)], layout.RegisterCount, isHalf);
        return new(registers, layout, type.IsScalar ? new ScalarItem(type, elements[0]) : new TileItem(_converter, type, layout, elements));
    }

    /// <summary>Assigns all at once: no target is overwritten while it is still to be read.</summary>
    private void AssignAll((Carried Target, Item Value)[] pairs)
    {
        var moves = new List<(Register Target, Source Value)>();
        foreach (var (target, value) in pairs)
        {
            // What a product adds up in place may still be under way.
            if (value is TileItem tile && tile.IsIn(target.Registers)) continue;
            var words = _arithmetic.Words(value.In(target.Layout), ElementArithmetic.IsHalf(value.DType));
            for (var i = 0; i < words.Length; i++) moves.Add((target.Registers[i], words[i]));
        }
        moves.RemoveAll(move => move.Value.Register == move.Target);
        var targets = moves.Select(move => move.Target).ToHashSet();
        for (var i = 0; i < moves.Count; i++)
            if (targets.Contains(moves[i].Value.Register)) moves[i] = (moves[i].Target, _builder.Variable(moves[i].Target.Class, moves[i].Value));
        foreach (var (target, value) in moves) _builder.Assign(target, value);
    }

    private sealed record Carried(Register[] Registers, LinearLayout Layout, Item Item);
}
