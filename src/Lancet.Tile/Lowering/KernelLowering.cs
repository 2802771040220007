using Lancet.Tile.IR;
using Lancet.Tile.Lowering.Threads;
using Lancet.Tile.Ptx;

namespace Lancet.Tile.Lowering;

/// <summary>
/// Turns a kernel's tile operations into what each thread does. Tiles become registers spread over threads as <see cref="LayoutPlan"/> says;
/// index arithmetic stays symbolic until memory is touched; matrices that only products read go to shared memory.
/// </summary>
internal sealed partial class KernelLowering
{
    private readonly Kernel _kernel;
    private readonly PtxTarget _target;
    private readonly ulong _divisible;
    private readonly ThreadProgram _program;
    private readonly ThreadBuilder _builder;
    private readonly ElementArithmetic _arithmetic;
    private readonly SharedMemory _shared;
    private readonly Converter _converter;
    private readonly MemoryOrder _order;
    private readonly LayoutPlan _plan;
    private readonly Stack<Dictionary<Value, Item>> _environments = new();
    private readonly Dictionary<int, (Register Register, int Scope)> _laneTables = [];
    private readonly bool _usesWarpGroups;
    private readonly Stack<(Operation Operation, Carried[] Carried, int Barriers, AheadPipeline? Ahead)> _loops = new();

    private KernelLowering(Kernel kernel, PtxTarget target, ulong divisible)
    {
        (_kernel, _target, _divisible) = (kernel, target, divisible);
        _program = new ThreadProgram { Name = kernel.Name, Warps = kernel.Warps, Cluster = kernel.Cluster, ProgramsPerMultiprocessor = kernel.Shape.ProgramsPerMultiprocessor, Parameters = kernel.Parameters };
        _builder = new ThreadBuilder(_program);
        _copyingWarps = kernel.Warps;
        _plan = new LayoutPlan(kernel, target.HasWarpGroups);
        _usesWarpGroups = target.HasWarpGroups && _plan.SuitsWarpGroups;
        _arithmetic = new ElementArithmetic(_builder, avoidsCalls: _usesWarpGroups);
        _shared = new SharedMemory(_builder);
        _converter = new Converter(_builder, _arithmetic, _shared);
        _order = new MemoryOrder(_shared);
        _shared.BarrierPassed = _order.BarrierPassed;
    }

    /// <summary>Lowers a kernel.</summary>
    /// <param name="kernel">Kernel.</param>
    /// <param name="target">GPU.</param>
    /// <param name="divisibleArguments">Bit i: argument i is divisible by 16 (a pointer: in bytes), which allows wide memory accesses.</param>
    /// <exception cref="TileException">The kernel needs more shared memory than there is, or an operation that the GPU lacks.</exception>
    public static ThreadProgram Lower(Kernel kernel, PtxTarget target, ulong divisibleArguments)
    {
        var simplified = IR.Passes.Simplifier.Run(kernel);
        var lowering = new KernelLowering(simplified, target, divisibleArguments);
        return lowering.Run();
    }

    private ThreadProgram Run()
    {
        _builder.Open(_program.Body);
        _environments.Push([]);
        _builder.Special(SpecialRegister.ThreadId);
        for (var i = 0; i < _kernel.Parameters.Count; i++) DeclareParameter(i);
        MeetCluster();
        LowerRegion(_kernel.Body);
        FinishCopies();
        AwaitProducts();
        _builder.Close();
        LowerProducer();
        if (_program.ProducerWarps > 0 && _hasMetCluster) throw new TileException($"kernel {_kernel.Name}: a warp-specialized loop in a kernel that gathers: its producer would have to come to the cluster's meetings.");
        _program.SharedBytes = _shared.Finish();
        if (_program.SharedBytes > _target.MaxSharedMemoryPerBlock)
        {
            throw new TileException(
                $"kernel {_kernel.Name}: out of shared memory: {_program.SharedBytes:N0} bytes needed, {_target.MaxSharedMemoryPerBlock:N0} available on sm_{_target.ComputeCapability}; use fewer stages or smaller blocks.");
        }
        DeadCode.Remove(_program);
        return _program;
    }

    private void DeclareParameter(int index)
    {
        var value = _kernel.Parameters[index].Value;
        var isDivisible = index < 64 && (_divisible >> index & 1) != 0;
        var type = value.Type.IsPointer ? ThreadType.U64 : ElementArithmetic.TypeOf(value.Type.Element);
        var source = _builder.Pure(ThreadOpcode.LoadParameter, type, immediate: index);
        if (value.Type.IsPointer)
        {
            _builder.SetDivisor(source.Register, isDivisible ? 16 : value.Type.Element.SizeInBytes());
            Define(value, new PointerItem(value.Type, source, null));
            return;
        }
        if (isDivisible && value.Type.Element.IsInteger()) _builder.SetDivisor(source.Register, 16);
        Define(value, new ScalarItem(value.Type, new Element(source, ElementArithmetic.IsHalf(value.Type.Element) ? RegisterPart.Low : RegisterPart.Whole)));
    }

    private void LowerRegion(Region region)
    {
        foreach (var operation in region.Operations) Lower(operation);
    }

    private Item Get(Value value)
    {
        foreach (var environment in _environments)
            if (environment.TryGetValue(value, out var item)) return item;
        throw new InvalidOperationException($"kernel {_kernel.Name}: {value} is used before it is defined.");
    }

    private void Define(Value value, Item item) => _environments.Peek()[value] = item;

    private ScalarItem Scalar(Value value) => Get(value) as ScalarItem ?? throw new InvalidOperationException($"kernel {_kernel.Name}: {value} is not a scalar.");

    private void Lower(Operation operation)
    {
        _builder.Location = operation.Location;
        try
        {
            switch (operation.Opcode)
            {
                case Opcode.Load:
                    Define(operation.Result, LowerLoad(operation));
                    break;
                case Opcode.Scratch:
                    Define(operation.Result, LowerScratch(operation));
                    break;
                case Opcode.Copy:
                    LowerCopy(operation);
                    break;
                case Opcode.AwaitCopies:
                    LowerAwaitCopies(operation);
                    break;
                case Opcode.Store:
                    LowerStore(operation);
                    break;
                case Opcode.AtomicAdd:
                    Define(operation.Result, LowerAtomicAdd(operation));
                    break;
                case Opcode.Await:
                    LowerAwait(operation);
                    break;
                case Opcode.Signal:
                    LowerSignal(operation);
                    break;
                case Opcode.Gather:
                    LowerGather(operation);
                    break;
                case Opcode.ReduceSum or Opcode.ReduceMax or Opcode.ReduceMin:
                    Define(operation.Result, LowerReduce(operation));
                    break;
                case Opcode.Interleave:
                    Define(operation.Result, LowerInterleave(operation));
                    break;
                case Opcode.Dot:
                    Define(operation.Result, LowerDot(operation));
                    break;
                case Opcode.For:
                    LowerFor(operation);
                    break;
                case Opcode.If:
                    LowerIf(operation);
                    break;
                case Opcode.Yield:
                    break;
                default:
                    Define(operation.Result, LowerPure(operation));
                    break;
            }
        }
        catch (TileException exception) when (!exception.Message.StartsWith("kernel ", StringComparison.Ordinal))
        {
            throw new TileException($"kernel {_kernel.Name}, {operation.Location}: {exception.Message}");
        }
    }

    /// <summary>Lowers an operation without effects from the items of its operands.</summary>
    private Item LowerPure(Operation operation)
    {
        var type = operation.Result.Type;
        switch (operation.Opcode)
        {
            case Opcode.ProgramId:
                return new ScalarItem(type, new(_builder.Special(SpecialRegister.ProgramX + operation.Axis)));
            case Opcode.ProgramCount:
                return new ScalarItem(type, new(_builder.Special(SpecialRegister.ProgramCountX + operation.Axis)));
            case Opcode.Constant:
                return new ScalarItem(type, ElementArithmetic.Constant(type.Element, operation.Number, operation.Integer));
            case Opcode.Range:
                return new AffineItem(_builder, type, Source.Constant(0L), [(0, Source.Constant(1))]);
            case Opcode.Broadcast or Opcode.ExpandDimension or Opcode.Transpose:
                return Get(operation.Operands[0]).View(type, LayoutPlan.Axes(operation));
            case Opcode.PointerAdd:
                var pointer = (PointerItem)Get(operation.Operands[0]);
                var offset = Get(operation.Operands[1]);
                return new PointerItem(type, pointer.Address, pointer.Offset is null ? offset : AddOffsets(pointer.Offset, offset, type)) { IsShared = pointer.IsShared };
            default:
                return LowerElementwise(operation, [.. operation.Operands.Select(Get)]);
        }
    }

    // Pairs lie in neighbouring registers of one thread, so nothing moves.
    private TileItem LowerInterleave(Operation operation)
    {
        var (a, b) = (Get(operation.Operands[0]), Get(operation.Operands[1]));
        var known = a is TileItem first ? first.Layout : b is TileItem second ? second.Layout : _plan.Blocked(operation.Operands[0].Type);
        var (even, odd) = (a.In(known), b.In(known));
        var elements = new Element[2 * even.Length];
        for (var i = 0; i < even.Length; i++) (elements[2 * i], elements[(2 * i) + 1]) = (even[i], odd[i]);
        return new TileItem(_converter, operation.Result.Type, known.Interleave(), elements);
    }

    private Item AddOffsets(Item a, Item b, TileType pointer)
    {
        var type = new TileType(a.DType == DType.Int64 || b.DType == DType.Int64 ? DType.Int64 : DType.Int32, false, pointer.Dimensions);
        if (Affine(a, type.Element) is { } x && Affine(b, type.Element) is { } y) return Simplify(Combine(x, y, type, 1));
        var from = a.DType;
        var other = b.DType;
        return new LazyItem(type, [a, b], elements => _arithmetic.Binary(
            Opcode.Add, type.Element, _arithmetic.Cast([elements[0]], from, type.Element)[0], _arithmetic.Cast([elements[1]], other, type.Element)[0]));
    }

    private Item LowerElementwise(Operation operation, Item[] operands)
    {
        var type = operation.Result.Type;
        if (Array.TrueForAll(operands, operand => operand is ScalarItem))
            return new ScalarItem(type, Apply(operation, [.. operands.Select(operand => ((ScalarItem)operand).Element)]));
        if (AffineResult(operation, operands) is { } affine) return affine;
        if (Decided(operation, operands) is { } decided) return decided;
        if (_plan.IsLazy(operation.Result)) return new LazyItem(type, operands, elements => Apply(operation, elements)) { Operation = operation };
        var layout = _plan.Of(operation.Result);
        if (operation.Opcode == Opcode.Philox && RandomWords(operands[0], ((ScalarItem)operands[1]).Element, layout) is { } words) return new TileItem(_converter, type, layout, words);
        var inputs = operands.Select(operand => operand.In(layout)).ToArray();
        return new TileItem(_converter, type, layout, ApplyAll(operation, inputs, layout.RegisterCount));
    }

    // Random words of counters of which it is known where blocks of four begin; null where it is not.
    private Element[]? RandomWords(Item counters, Element seed, LinearLayout layout)
    {
        if (Affine(counters, DType.Int64) is not { } affine) return null;
        var (thread, offsets) = affine.Split(layout);
        if (!Array.TrueForAll(offsets, offset => offset.IsConstant)) return null;
        if (_builder.Divisor(thread) % 4 != 0) return ExchangedRandomWords(affine, seed, layout);
        return [.. offsets.Select(offset => _arithmetic.PhiloxBlock(_builder.Add(ThreadType.S64, thread, Source.Constant(offset.Bits & ~3L)), seed)[offset.Bits & 3]).Select(word => new Element(word))];
    }

    // Where neighbouring lanes want the halves of the same blocks, as products' results lie: of every two blocks the even lane makes the first and the odd lane the second, and they exchange halves. Null elsewhere.
    private Element[]? ExchangedRandomWords(AffineItem counters, Element seed, LinearLayout layout)
    {
        var steps = counters.Terms.Where(term => layout.Lanes[0][term.Axis] != 0).ToArray();
        if (steps is not [{ Coefficient: { IsConstant: true } coefficient } step] || coefficient.Bits * layout.Lanes[0][step.Axis] != 2) return null;
        var (thread, offsets) = counters.Split(new LinearLayout(layout.Rank, [.. layout.Registers], [new int[layout.Rank], .. layout.Lanes.Skip(1)], [.. layout.Warps]));
        var blocks = offsets.Select(offset => offset.Bits & ~3L).Distinct().ToArray();
        if (_builder.Divisor(thread) % 4 != 0 || blocks.Length % 2 != 0 || Array.Exists(offsets, offset => (offset.Bits & 2) != 0)) return null;
        var isOdd = _builder.Compare(ThreadType.U32, Comparison.NotEqual, _builder.And(ThreadType.B32, _builder.Special(SpecialRegister.ThreadId), Source.Constant(1)), Source.Constant(0));
        Source Either(Source odd, Source even) => _builder.Select(ThreadType.B32, isOdd, odd, even);
        var halves = new Dictionary<long, Source[]>();
        for (var i = 0; i < blocks.Length; i += 2)
        {
            var own = _arithmetic.PhiloxBlock(_builder.Add(ThreadType.S64, thread, _builder.Select(ThreadType.B64, isOdd, Source.Constant(blocks[i + 1]), Source.Constant(blocks[i]))), seed);
            Source Other(int word) => Shuffle(new Element(Either(own[word], own[word + 2])), 1, DType.UInt32).Source;
            var (first, second) = (Other(0), Other(1));
            halves[blocks[i]] = [Either(first, own[0]), Either(second, own[1])];
            halves[blocks[i + 1]] = [Either(own[2], first), Either(own[3], second)];
        }
        return [.. offsets.Select(offset => new Element(halves[offset.Bits & ~3L][offset.Bits & 1]))];
    }

    private Element[] ApplyAll(Operation operation, Element[][] inputs, int count)
    {
        if (operation.Opcode == Opcode.Cast) return _arithmetic.Cast(inputs[0], operation.Operands[0].Type.Element, operation.Result.Type.Element);
        if (operation.Opcode == Opcode.TanhAbsolute && Scaled(operation.Operands[0]) is { } scaled) return _arithmetic.TanhAbsolute(Get(scaled.X).In(_plan.Of(operation.Result)), scaled.Factor);
        var result = new Element[count];
        var arguments = new Element[inputs.Length];
        for (var register = 0; register < count; register++)
        {
            for (var i = 0; i < inputs.Length; i++) arguments[i] = inputs[i][register];
            result[register] = Apply(operation, arguments);
        }
        return result;
    }

    // x and c of an fp32 value that is x·c for a constant c > 0.
    private static (Value X, float Factor)? Scaled(Value value)
    {
        if (value.Definition is not { Opcode: Opcode.Multiply } product || value.Type.Element != DType.Float32) return null;
        for (var i = 0; i < 2; i++)
            if (IR.Passes.Folding.Constant(product.Operands[i]) is { Number: > 0 } constant) return (product.Operands[1 - i], (float)constant.Number);
        return null;
    }

    private Element Apply(Operation operation, Element[] x)
    {
        var element = operation.Operands[0].Type.Element;
        switch (operation.Opcode)
        {
            case Opcode.Cast:
                return _arithmetic.Cast([x[0]], element, operation.Result.Type.Element)[0];
            case Opcode.BitCast:
                return x[0];
            case Opcode.Compare:
                return _arithmetic.Compare(operation.Comparison, element, x[0], x[1]);
            case Opcode.Select:
                return _arithmetic.Select(operation.Result.Type.Element, x[0], x[1], x[2]);
            case Opcode.Lookup:
                return LookUp(operation.Table!, x[0]);
            case Opcode.Philox:
                return _arithmetic.Philox(x[0], x[1]);
            default:
                return x.Length == 1 ? _arithmetic.Unary(operation.Opcode, element, x[0]) : _arithmetic.Binary(operation.Opcode, element, x[0], x[1]);
        }
    }

    private Element LookUp(float[] table, Element index)
    {
        var number = _program.Tables.FindIndex(known => known.AsSpan().SequenceEqual(table));
        if (number < 0)
        {
            number = _program.Tables.Count;
            _program.Tables.Add(table);
        }
        if (table.Length <= 32) return LookUpInLanes(number, table.Length, index);
        var address = _builder.Add(ThreadType.U64, _builder.Pure(ThreadOpcode.TableAddress, ThreadType.U64, immediate: number), _builder.Pure(ThreadOpcode.MultiplyWide, ThreadType.S32, index.Source, Source.Constant(4)));
        var result = _builder.New(RegisterClass.Bits32);
        _builder.Append(new ThreadInstruction(ThreadOpcode.LoadGlobal, ThreadType.B32, [result], [address]) { IsReadOnly = true, Location = _builder.Location });
        return new(result);
    }

    // A small table lies in the lanes of every warp, an entry a lane, and a shuffle fetches: no memory is touched after the first use.
    private Element LookUpInLanes(int number, int length, Element index)
    {
        if (!_laneTables.TryGetValue(number, out var held) || !_builder.IsOpen(held.Scope))
        {
            var entry = _builder.And(ThreadType.B32, _builder.Special(SpecialRegister.ThreadId), Source.Constant(length - 1));
            var address = _builder.Add(ThreadType.U64, _builder.Pure(ThreadOpcode.TableAddress, ThreadType.U64, immediate: number), _builder.Pure(ThreadOpcode.MultiplyWide, ThreadType.S32, entry, Source.Constant(4)));
            held = (_builder.New(RegisterClass.Bits32), _builder.Scope);
            _builder.Append(new ThreadInstruction(ThreadOpcode.LoadGlobal, ThreadType.B32, [held.Register], [address]) { IsReadOnly = true, Location = _builder.Location });
            _laneTables[number] = held;
        }
        var result = _builder.New(RegisterClass.Bits32);
        _builder.Effect(ThreadOpcode.ShuffleIndex, ThreadType.B32, [result], [held.Register, index.Source]);
        return new(result);
    }
}
