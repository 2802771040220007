namespace Lancet.Tile.IR.Passes;

/// <summary>
/// One walk over a kernel that builds the simplified copy: every operation is folded if it can be, else merged with an equal one that
/// dominates it, else placed in the outermost loop body (or the kernel's body) where its operands exist.
/// </summary>
internal sealed class Rewriter
{
    private readonly Dictionary<Value, Value> _map = [];
    private readonly Dictionary<Value, int> _levelOf = [];
    private readonly List<Level> _levels = [];
    private readonly Folding _folding;
    private int _nextId;

    private Rewriter() => _folding = new Folding(this);

    private Level Current => _levels[^1];

    /// <summary>A simplified copy of the kernel; it may still hold dead code.</summary>
    public static Kernel Run(Kernel kernel)
    {
        var pass = new Rewriter();
        var body = new Region();
        pass._levels.Add(new Level(body, false));
        var parameters = kernel.Parameters.Select(parameter => new Parameter(parameter.Name, pass.Enter(parameter.Value))).ToArray();
        foreach (var operation in kernel.Body.Operations) pass.Visit(operation);
        return new Kernel(kernel.Name, parameters, body, kernel.Shape);
    }

    /// <summary>Adds a pure operation with one result, or finds what stands for it already.</summary>
    internal Value Emit(Operation like, Opcode opcode, TileType type, Value[] operands, int axis = 0, long integer = 0, double number = 0)
    {
        var operation = new Operation(opcode, operands, [new Value(_nextId, type)], like.Location)
        {
            Axis = axis,
            Integer = integer,
            Number = number,
        };
        return Place(operation);
    }

    private Value NewValue(TileType type)
    {
        var value = new Value(_nextId++, type);
        _levelOf[value] = _levels.Count - 1;
        return value;
    }

    /// <summary>A parameter or region argument.</summary>
    private Value Enter(Value value) => _map[value] = NewValue(value.Type);

    private Value[] Mapped(ReadOnlySpan<Value> values)
    {
        var mapped = new Value[values.Length];
        for (var i = 0; i < mapped.Length; i++) mapped[i] = _map[values[i]];
        return mapped;
    }

    private void Visit(Operation operation)
    {
        switch (operation.Opcode)
        {
            case Opcode.For:
                VisitFor(operation);
                break;
            case Opcode.If:
                VisitIf(operation);
                break;
            case Opcode.Scratch or Opcode.Load or Opcode.Store or Opcode.Copy or Opcode.AwaitCopies or Opcode.AtomicAdd or Opcode.Await or Opcode.Signal or Opcode.Gather:
                Append(operation, Mapped(operation.Operands), [.. operation.Results.Select(Enter)], null);
                break;
            default:
                var operands = Mapped(operation.Operands);
                _map[operation.Result] = _folding.Fold(operation, operands)
                    ?? Place(operation.With(operands, [new Value(_nextId, operation.Result.Type)]));
                break;
        }
    }

    private void Append(Operation operation, Value[] operands, Value[] results, Region? body) =>
        Current.Region.Operations.Add(operation.With(operands, results, body));

    /// <summary>The result of an equal operation that dominates this place, else of this one, put as far out as it may go.</summary>
    private Value Place(Operation operation)
    {
        var key = new OperationKey(operation);
        for (var level = _levels.Count - 1; level >= 0; level--)
            if (_levels[level].Known.TryGetValue(key, out var known)) return known;
        var target = _levels.Count - 1;
        var needed = 0;
        foreach (var operand in operation.Operands) needed = Math.Max(needed, _levelOf[operand]);
        if (operation.Opcode.IsFree()) target = 0;
        else if (operation.Opcode.IsSpeculatable())
            while (target > needed && _levels[target].IsLoop) target--;
        var result = operation.Result;
        result.Definition = operation;
        _nextId++;
        _levelOf[result] = target;
        _levels[target].Known.Add(key, result);
        _levels[target].Region.Operations.Add(operation);
        return result;
    }

    private void VisitFor(Operation loop)
    {
        var body = loop.Body!;
        var operands = Mapped(loop.Operands);
        var yield = body.Operations[^1];
        var trips = Trips(operands);
        if (trips == 0)
        {
            for (var i = 0; i < loop.Results.Length; i++) _map[loop.Results[i]] = operands[i + 3];
            return;
        }
        if (trips == 1)
        {
            _map[body.Arguments[0]] = operands[0];
            for (var i = 1; i < body.Arguments.Count; i++) _map[body.Arguments[i]] = operands[i + 2];
            Inline(body, loop.Results);
            return;
        }
        var region = new Region();
        _levels.Add(new Level(region, true));
        region.Arguments.Add(Enter(body.Arguments[0]));
        // A tile that every iteration hands on as it came is no carried tile.
        var kept = new List<int>();
        for (var i = 0; i < loop.Results.Length; i++)
        {
            var argument = body.Arguments[i + 1];
            if (yield.Operands[i] == argument)
            {
                _map[argument] = _map[loop.Results[i]] = operands[i + 3];
                continue;
            }
            kept.Add(i);
            region.Arguments.Add(Enter(argument));
        }
        VisitBody(body);
        Append(yield, [.. kept.Select(i => _map[yield.Operands[i]])], [], null);
        _levels.RemoveAt(_levels.Count - 1);
        Append(loop, [.. operands[..3], .. kept.Select(i => operands[i + 3])], [.. kept.Select(i => Enter(loop.Results[i]))], region);
    }

    private void VisitIf(Operation branch)
    {
        var body = branch.Body!;
        var operands = Mapped(branch.Operands);
        if (Folding.Integer(operands[0]) is { } condition)
        {
            if (condition != 0) Inline(body, branch.Results);
            else for (var i = 0; i < branch.Results.Length; i++) _map[branch.Results[i]] = operands[i + 1];
            return;
        }
        var region = new Region();
        _levels.Add(new Level(region, false));
        VisitBody(body);
        var yield = body.Operations[^1];
        var values = Mapped(yield.Operands);
        var kept = new List<int>();
        for (var i = 0; i < values.Length; i++)
        {
            if (values[i] == operands[i + 1]) _map[branch.Results[i]] = values[i];
            else kept.Add(i);
        }
        Append(yield, [.. kept.Select(i => values[i])], [], null);
        _levels.RemoveAt(_levels.Count - 1);
        Append(branch, [operands[0], .. kept.Select(i => operands[i + 1])], [.. kept.Select(i => Enter(branch.Results[i]))], region);
    }

    private void Inline(Region body, Value[] results)
    {
        VisitBody(body);
        for (var i = 0; i < results.Length; i++) _map[results[i]] = _map[body.Operations[^1].Operands[i]];
    }

    private void VisitBody(Region body)
    {
        for (var i = 0; i < body.Operations.Count - 1; i++) Visit(body.Operations[i]);
    }

    /// <summary>How often a loop runs if that is 0 or 1 for certain; else null.</summary>
    private static int? Trips(Value[] bounds)
    {
        if (Folding.Integer(bounds[0]) is not { } low || Folding.Integer(bounds[1]) is not { } high || Folding.Integer(bounds[2]) is not { } step || step <= 0) return null;
        return low >= high ? 0 : low + step >= high ? 1 : null;
    }

    /// <summary>A region under construction and the pure operations in it.</summary>
    private sealed record Level(Region Region, bool IsLoop)
    {
        public Dictionary<OperationKey, Value> Known { get; } = [];
    }

    /// <summary>What makes two pure operations equal.</summary>
    private sealed class OperationKey : IEquatable<OperationKey>
    {
        private readonly Operation _operation;
        private readonly int[] _operands;

        public OperationKey(Operation operation)
        {
            _operation = operation;
            _operands = [.. operation.Operands.Select(value => value.Id)];
            if (operation.Opcode.IsCommutative() && !operation.Result.Type.Element.IsFloat()) Array.Sort(_operands);
        }

        public bool Equals(OperationKey? other) => other is not null
            && _operation.Opcode == other._operation.Opcode
            && _operands.AsSpan().SequenceEqual(other._operands)
            && _operation.Result.Type.Equals(other._operation.Result.Type)
            && _operation.Axis == other._operation.Axis
            && _operation.Comparison == other._operation.Comparison
            && _operation.Integer == other._operation.Integer
            && BitConverter.DoubleToInt64Bits(_operation.Number) == BitConverter.DoubleToInt64Bits(other._operation.Number)
            && _operation.Table.AsSpan().SequenceEqual(other._operation.Table);

        public override bool Equals(object? obj) => Equals(obj as OperationKey);

        public override int GetHashCode()
        {
            var hash = new HashCode();
            hash.Add(_operation.Opcode);
            foreach (var operand in _operands) hash.Add(operand);
            hash.Add(_operation.Axis);
            hash.Add(_operation.Integer);
            hash.Add(_operation.Number);
            return hash.ToHashCode();
        }
    }
}
