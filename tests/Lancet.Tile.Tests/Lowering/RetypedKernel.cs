using Lancet.Tile.IR;

namespace Lancet.Tile.Tests.Lowering;

/// <summary>Makes the kernel that computes the same in another precision: every floating-point tile, pointer and scalar gets the one type.</summary>
internal sealed class RetypedKernel
{
    private readonly DType _type;
    private readonly Dictionary<Value, Value> _values = [];
    private List<Operation> _operations = [];
    private int _next;

    private RetypedKernel(DType type) => _type = type;

    public static Kernel Of(Kernel kernel, DType type)
    {
        var rewriter = new RetypedKernel(type);
        var parameters = kernel.Parameters.Select(parameter => new Parameter(parameter.Name, rewriter.Map(parameter.Value))).ToArray();
        return new Kernel($"{kernel.Name}_as_{type}", parameters, rewriter.Rewrite(kernel.Body), kernel.Shape);
    }

    private TileType Retyped(TileType type) => type.Element.IsFloat() ? new TileType(_type, type.IsPointer, type.Dimensions) : type;

    private Value New(TileType type) => new(_next++, type);

    private Value Map(Value value) => _values[value] = New(Retyped(value.Type));

    private Region Rewrite(Region region)
    {
        var outer = _operations;
        var result = new Region();
        _operations = result.Operations;
        foreach (var argument in region.Arguments) result.Arguments.Add(Map(argument));
        foreach (var operation in region.Operations) Rewrite(operation);
        _operations = outer;
        return result;
    }

    private void Rewrite(Operation operation)
    {
        var operands = operation.Operands.Select(operand => _values[operand]).ToArray();
        switch (operation.Opcode)
        {
            case Opcode.Cast when operands[0].Type.Equals(Retyped(operation.Result.Type)):
                _values[operation.Result] = operands[0];
                return;
            case Opcode.BitCast:
                var bits = New(operation.Result.Type);
                Append(operation, Opcode.BitCast, [Converted(operation, operands[0], operation.Operands[0].Type)], [bits]);
                _values[operation.Result] = Converted(operation, bits, Retyped(bits.Type));
                return;
            case Opcode.Lookup:
                var entry = New(operation.Result.Type);
                Append(operation, Opcode.Lookup, operands, [entry]);
                _values[operation.Result] = Converted(operation, entry, Retyped(entry.Type));
                return;
        }
        var body = operation.Body is null ? null : Rewrite(operation.Body);
        Append(operation, operation.Opcode, operands, [.. operation.Results.Select(Map)], body);
    }

    private Value Converted(Operation operation, Value value, TileType type)
    {
        if (value.Type.Equals(type)) return value;
        var result = New(type);
        Append(operation, Opcode.Cast, [value], [result]);
        return result;
    }

    private void Append(Operation model, Opcode opcode, Value[] operands, Value[] results, Region? body = null)
    {
        var operation = new Operation(opcode, operands, results, model.Location)
        {
            Body = body,
            Axis = model.Axis,
            Comparison = model.Comparison,
            Integer = model.Integer,
            Number = model.Number,
            Table = model.Table,
            Stages = model.Stages,
            IsOpaque = model.IsOpaque,
            Accumulates = model.Accumulates,
        };
        foreach (var result in results) result.Definition = operation;
        _operations.Add(operation);
    }
}
