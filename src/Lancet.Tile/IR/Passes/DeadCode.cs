using System.Runtime.InteropServices;

namespace Lancet.Tile.IR.Passes;

/// <summary>
/// Drops every operation that no store or atomic depends on, carried tiles that only feed themselves included, and renumbers the values.
/// </summary>
internal sealed class DeadCode
{
    private readonly HashSet<Value> _liveValues = [];
    private readonly HashSet<Operation> _liveOperations = [];
    private readonly Dictionary<Operation, Operation> _parents = [];
    private readonly Dictionary<Value, (Operation Loop, int Index)> _carried = [];
    private readonly Stack<Value> _pending = new();
    private readonly Dictionary<Value, Value> _map = [];
    private int _nextId;

    private DeadCode()
    {
    }

    /// <summary>A copy of the kernel without dead code.</summary>
    public static Kernel Remove(Kernel kernel)
    {
        var pass = new DeadCode();
        pass.Index(kernel.Body, null);
        pass.MarkRoots(kernel.Body);
        while (pass._pending.TryPop(out var value)) pass.Follow(value);
        var parameters = kernel.Parameters.Select(parameter => new Parameter(parameter.Name, pass.Copy(parameter.Value))).ToArray();
        var body = new Region();
        pass.CopyOperations(kernel.Body, body);
        return new Kernel(kernel.Name, parameters, body, kernel.Shape);
    }

    private void Index(Region region, Operation? parent)
    {
        foreach (var operation in region.Operations)
        {
            if (parent is not null) _parents[operation] = parent;
            if (operation.Body is not { } body) continue;
            for (var i = 1; i < body.Arguments.Count; i++) _carried[body.Arguments[i]] = (operation, i - 1);
            Index(body, operation);
        }
    }

    private void MarkRoots(Region region)
    {
        foreach (var operation in region.Operations)
        {
            if (operation.Opcode.WritesMemory()) MarkOperation(operation);
            if (operation.Body is { } body) MarkRoots(body);
        }
    }

    /// <summary>The operation runs: so do those around it, and what it reads whatever its results are.</summary>
    private void MarkOperation(Operation operation)
    {
        if (!_liveOperations.Add(operation)) return;
        var always = operation.Opcode switch { Opcode.For => 3, Opcode.If => 1, _ => operation.Operands.Length };
        for (var i = 0; i < always; i++) MarkValue(operation.Operands[i]);
        if (_parents.TryGetValue(operation, out var parent)) MarkOperation(parent);
    }

    private void MarkValue(Value value)
    {
        if (_liveValues.Add(value)) _pending.Push(value);
    }

    private void Follow(Value value)
    {
        if (_carried.TryGetValue(value, out var carried))
        {
            MarkOperation(carried.Loop);
            MarkCarried(carried.Loop, carried.Index);
        }
        else if (value.Definition is { } operation)
        {
            MarkOperation(operation);
            var index = Array.IndexOf(operation.Results, value);
            if (operation.Opcode == Opcode.For)
            {
                MarkCarried(operation, index);
            }
            else if (operation.Opcode == Opcode.If)
            {
                MarkValue(operation.Operands[index + 1]);
                MarkValue(operation.Body!.Operations[^1].Operands[index]);
            }
        }
    }

    private void MarkCarried(Operation loop, int index)
    {
        MarkValue(loop.Operands[index + 3]);
        MarkValue(loop.Body!.Operations[^1].Operands[index]);
    }

    private Value Copy(Value value)
    {
        ref var copy = ref CollectionsMarshal.GetValueRefOrAddDefault(_map, value, out var isKnown);
        return isKnown ? copy! : copy = new Value(_nextId++, value.Type);
    }

    private void CopyOperations(Region from, Region to)
    {
        foreach (var operation in from.Operations)
        {
            if (!_liveOperations.Contains(operation)) continue;
            to.Operations.Add(operation.Body is null
                ? operation.With([.. operation.Operands.Select(Copy)], [.. operation.Results.Select(Copy)])
                : CopyNested(operation, operation.Body));
        }
    }

    private Operation CopyNested(Operation operation, Region from)
    {
        var isLoop = operation.Opcode == Opcode.For;
        var fixedOperands = isLoop ? 3 : 1;
        // A loop carries a tile if either the result or the tile itself is read; both then have an initial and a next value.
        var kept = Enumerable.Range(0, operation.Results.Length)
            .Where(i => _liveValues.Contains(operation.Results[i]) || (isLoop && _liveValues.Contains(from.Arguments[i + 1]))).ToArray();
        Value[] operands = [.. operation.Operands[..fixedOperands].Select(Copy), .. kept.Select(i => Copy(operation.Operands[i + fixedOperands]))];
        var body = new Region();
        if (isLoop)
        {
            body.Arguments.Add(Copy(from.Arguments[0]));
            body.Arguments.AddRange(kept.Select(i => Copy(from.Arguments[i + 1])));
        }
        CopyOperations(from, body);
        var yield = from.Operations[^1];
        body.Operations.Add(yield.With([.. kept.Select(i => Copy(yield.Operands[i]))], []));
        return operation.With(operands, [.. kept.Select(i => Copy(operation.Results[i]))], body);
    }
}
