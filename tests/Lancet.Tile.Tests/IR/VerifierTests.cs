using Lancet.Tile.IR;

namespace Lancet.Tile.Tests.IR;

/// <summary>IR built by hand, wrong in one place.</summary>
public class VerifierTests
{
    private static readonly TileType s_float8 = new(DType.Float32, false, 8), s_int = new(DType.Int32, false), s_int8 = new(DType.Int32, false, 8), s_bool = new(DType.Bool, false);
    private readonly Region _body = new();
    private readonly List<Parameter> _parameters = [];
    private readonly Value _n, _pointer;
    private int _id;

    public VerifierTests()
    {
        _n = Parameter("n", s_int);
        _pointer = Parameter("x", new TileType(DType.Float32, true));
    }

    [Fact]
    public void What_is_right_passes()
    {
        var range = Add(_body, Opcode.Range, s_int8);
        var region = new Region();
        region.Arguments.AddRange([Value(s_int), Value(s_int8)]);
        Add(region, Opcode.Yield, [], Add(region, Opcode.Add, s_int8, region.Arguments[1], range));
        var loop = Nest(Opcode.For, region, [s_int8], _n, _n, _n, range);
        Add(_body, Opcode.Negate, s_int8, loop.Result);
        Check();
    }

    [Fact]
    public void Use_before_definition()
    {
        var late = Value(s_int);
        Add(_body, Opcode.Negate, s_int, late);
        Append(_body, new Operation(Opcode.Negate, [_n], [late], Here(2)));
        Fails("Negate at Hand.cs:1", "%2 is used before it is defined", "in: %3: i32 = negate %2");
    }

    [Fact]
    public void Use_outside_the_loop_that_defines_it()
    {
        var region = new Region();
        region.Arguments.Add(Value(s_int));
        var inner = Add(region, Opcode.Negate, s_int, region.Arguments[0]);
        Add(region, Opcode.Yield, []);
        Nest(Opcode.For, region, [], _n, _n, _n);
        Add(_body, Opcode.Not, s_int, inner);
        Fails("Not", $"{inner} is used outside the loop or branch that defines it");
    }

    [Fact]
    public void The_tracer_reports_a_tile_that_left_its_loop()
    {
        var error = Assert.Throws<TileException>(() => Kernel.Trace("leak", k =>
        {
            var x = k.Pointer(DType.Int32);
            Tile? leaked = null;
            k.For(0, 4, 1, [], (i, c) =>
            {
                leaked = i + 1;
                return [];
            });
            k.Store(x, leaked!);
        }));
        Assert.Contains("kernel leak, Store at VerifierTests.cs:", error.Message, StringComparison.Ordinal);
        Assert.Contains("outside the loop", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_tile_of_another_kernel()
    {
        Tile? other = null;
        Kernel.Trace("first", k => other = k.Range(8) + k.Range(8));
        var error = Assert.Throws<TileException>(() => Kernel.Trace("second", k => k.Store(k.Pointer(DType.Int32) + k.Range(8), other!)));
        Assert.Contains("kernel second, Store at", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Definition_twice()
    {
        var value = Add(_body, Opcode.Negate, s_int, _n);
        _body.Operations.Add(new Operation(Opcode.Not, [_n], [value], Here(9)));
        Fails("Not at Hand.cs:9", "%2 is defined twice");
    }

    [Fact]
    public void Wrong_operand_type()
    {
        Add(_body, Opcode.Add, s_int8, _n, _n);
        Fails("Add", "the operand %0 has type i32; i32[8] is needed");
    }

    [Theory]
    [InlineData(Opcode.Exp2, DType.Int32)]
    [InlineData(Opcode.Add, DType.BFloat16)]
    [InlineData(Opcode.And, DType.Float32)]
    [InlineData(Opcode.ShiftLeft, DType.UInt8)]
    [InlineData(Opcode.Not, DType.Int8)]
    [InlineData(Opcode.Negate, DType.Bool)]
    [InlineData(Opcode.Remainder, DType.Float64)]
    public void Element_type_that_the_opcode_does_not_take(Opcode opcode, DType element)
    {
        var type = new TileType(element, false);
        var x = Add(_body, Opcode.Constant, type);
        if (opcode.IsUnary()) Add(_body, opcode, type, x);
        else Add(_body, opcode, type, x, x);
        Fails($"{opcode} does not take {type}");
    }

    [Fact]
    public void Extents_that_are_no_powers_of_two()
    {
        Add(_body, Opcode.Range, new TileType(DType.Int32, false, 12));
        Fails("%2 has type i32[12]; extents are powers of two");
    }

    [Fact]
    public void Four_axes_and_too_many_elements()
    {
        Add(_body, Opcode.Broadcast, new TileType(DType.Int32, false, 1, 1, 1, 1), _n);
        Fails("at most 3 axes");
        _body.Operations.Clear();
        Add(_body, Opcode.Broadcast, new TileType(DType.Int32, false, 1 << 20, 1 << 20), _n);
        Fails("at most 16777216 elements");
    }

    [Fact]
    public void Loop_without_a_yield()
    {
        var region = new Region();
        region.Arguments.Add(Value(s_int));
        Nest(Opcode.For, region, [], _n, _n, _n);
        Fails("For at", "the body does not end in a yield");
    }

    [Fact]
    public void Yield_of_another_type()
    {
        var region = new Region();
        region.Arguments.AddRange([Value(s_int), Value(s_int)]);
        Add(region, Opcode.Yield, [], Add(region, Opcode.Range, s_int8));
        Nest(Opcode.For, region, [s_int], _n, _n, _n, _n);
        Fails("Yield", "yielded value 0 %4 has type i32[8]; i32 is needed");
    }

    [Fact]
    public void Yield_of_too_few_values_and_operations_behind_it()
    {
        var condition = Add(_body, Opcode.Compare, s_bool, _n, _n);
        var region = new Region();
        Add(region, Opcode.Yield, []);
        Nest(Opcode.If, region, [s_int], condition, _n);
        Fails("0 values are yielded but the If at Hand.cs:1 has 1 results");
        _body.Operations.RemoveAt(1);
        region.Operations.Add(region.Operations[0]);
        Nest(Opcode.If, region, [], condition);
        Fails("operations follow the yield");
    }

    [Fact]
    public void Yield_in_the_kernel_and_a_body_where_none_belongs()
    {
        Add(_body, Opcode.Yield, []);
        Fails("a yield in the kernel's body");
        _body.Operations.Clear();
        Append(_body, new Operation(Opcode.Negate, [_n], [Value(s_int)], Here(1)) { Body = new Region() });
        Fails("only loops and branches have a body");
        _body.Operations.Clear();
        Add(_body, Opcode.If, [], Add(_body, Opcode.Compare, s_bool, _n, _n));
        Fails("the body is missing");
    }

    [Fact]
    public void Loop_bounds_and_arguments()
    {
        var region = new Region();
        region.Arguments.Add(Value(s_int));
        Add(region, Opcode.Yield, []);
        Nest(Opcode.For, region, [], _n, _pointer, _n);
        Fails("the loop bound %1 has type *f32; i32 is needed");
        _body.Operations.Clear();
        region.Arguments.Add(Value(s_int));
        Nest(Opcode.For, region, [], _n, _n, _n);
        Fails("the body has 2 arguments; the index and 0 carried tiles are needed");
    }

    [Fact]
    public void Memory_access()
    {
        Add(_body, Opcode.Load, s_int, _n);
        Fails("the address %0 has type i32; a pointer is needed");
        _body.Operations.Clear();
        Add(_body, Opcode.Load, s_int, _pointer);
        Fails("the result has type i32; f32 is needed");
        _body.Operations.Clear();
        Add(_body, Opcode.Store, [], _pointer, _n);
        Fails("the stored value %0 has type i32; f32 is needed");
        _body.Operations.Clear();
        Add(_body, Opcode.Load, new TileType(DType.Float32, false), _pointer, _n);
        Fails("the mask %0 has type i32; bool is needed");
        _body.Operations.Clear();
        var value = Add(_body, Opcode.Cast, new TileType(DType.Float32, false), _n);
        Add(_body, Opcode.AtomicAdd, new TileType(DType.Float32, false), _pointer, value);
        Fails("AtomicAdd does not take f32");
    }

    [Fact]
    public void Tables_constants_and_axes()
    {
        var range = Add(_body, Opcode.Range, s_int8);
        Append(_body, new Operation(Opcode.Lookup, [range], [Value(s_float8)], Here(4)) { Table = [1, 2, 3] });
        Fails("Lookup at Hand.cs:4", "a table of 3 entries");
        _body.Operations.Clear();
        Append(_body, new Operation(Opcode.Constant, [], [Value(new TileType(DType.UInt8, false))], Here(5)) { Integer = 256 });
        Fails("256 does not fit u8");
        _body.Operations.Clear();
        Append(_body, new Operation(Opcode.ProgramId, [], [Value(s_int)], Here(6)) { Axis = 3 });
        Fails("grid axis 3");
        _body.Operations.Clear();
        Append(_body, new Operation(Opcode.ReduceSum, [Add(_body, Opcode.Range, s_int8)], [Value(s_int)], Here(7)) { Axis = 1 });
        Fails("axis 1 of i32[8] does not exist");
    }

    [Fact]
    public void Shapes_of_products_broadcasts_and_transposes()
    {
        var range = Add(_body, Opcode.Range, s_int8);
        Add(_body, Opcode.Broadcast, new TileType(DType.Int32, false, 16), range);
        Fails("i32[8] cannot be broadcast to i32[16]");
        _body.Operations.RemoveAt(1);
        Add(_body, Opcode.Transpose, s_int8, range);
        Fails("transposing i32[8]; a matrix is needed");
        _body.Operations.RemoveAt(1);
        Add(_body, Opcode.Dot, s_float8, range, range, range);
        Fails("product of i32[8] and i32[8]");
        _body.Operations.RemoveAt(1);
        Add(_body, Opcode.BitCast, new TileType(DType.Int64, false, 8), range);
        Fails("i32[8] and i64[8] differ in width");
    }

    [Fact]
    public void Names_and_warps()
    {
        var error = Assert.Throws<TileException>(() => Kernel.Trace("two words", _ => { }));
        Assert.Contains("letters, digits and underscores", error.Message, StringComparison.Ordinal);
        error = Assert.Throws<TileException>(() => Kernel.Trace("warps", k => k.Warps = 3));
        Assert.Contains("3 warps", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Random_kernels_pass()
    {
        for (var seed = 0; seed < 50; seed++) Verifier.Check(RandomKernel.Build(seed));
    }

    private static SourceLocation Here(int line) => new("/src/Hand.cs", line);

    private static Value Append(Region region, Operation operation)
    {
        foreach (var result in operation.Results) result.Definition = operation;
        region.Operations.Add(operation);
        return operation.Results.Length > 0 ? operation.Results[0] : null!;
    }

    private Value Value(TileType type) => new(_id++, type);

    private Value Parameter(string name, TileType type)
    {
        _parameters.Add(new Parameter(name, Value(type)));
        return _parameters[^1].Value;
    }

    private Value Add(Region region, Opcode opcode, TileType type, params Value[] operands) => Append(region, new Operation(opcode, operands, [Value(type)], Here(1)));

    private void Add(Region region, Opcode opcode, TileType[] types, params Value[] operands) => Append(region, new Operation(opcode, operands, [.. types.Select(Value)], Here(1)));

    private Operation Nest(Opcode opcode, Region region, TileType[] types, params Value[] operands)
    {
        var operation = new Operation(opcode, operands, [.. types.Select(Value)], Here(1)) { Body = region };
        Append(_body, operation);
        return operation;
    }

    private void Check(int cluster = 1) => Verifier.Check(new Kernel("by_hand", _parameters, _body, new(4, cluster)));

    private void Fails(params string[] parts)
    {
        var error = Assert.Throws<TileException>(() => Check());
        Assert.StartsWith("kernel by_hand", error.Message, StringComparison.Ordinal);
        foreach (var part in parts) Assert.Contains(part, error.Message, StringComparison.Ordinal);
    }
}
