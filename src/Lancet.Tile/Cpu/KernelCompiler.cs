using Lancet.Tile.IR;

namespace Lancet.Tile.Cpu;

/// <summary>
/// Compiles a kernel's IR to a list of <see cref="Instruction"/>s over scratch memory. Every value is kept in one of three forms: lanes
/// written out (or a repeated view of such), an affine closed form (index and address tiles), or a box (masks made of range comparisons).
/// Lanes are 4 bytes for fp32, int32, uint32, bool (0 or −1) and the narrow formats, which are held widened; 8 bytes for fp64, int64 and
/// addresses. Slots of dead values are reused, elementwise results overwrite a dying operand.
/// </summary>
internal sealed partial class KernelCompiler
{
    private readonly Kernel _kernel;
    private readonly bool _isChecked;
    private readonly ScratchLayout _layout = new();
    private readonly Dictionary<Value, Form> _forms = [];
    private readonly Dictionary<Value, MemoryRange> _ranges = [];
    private readonly List<Instruction[]> _phases = [];
    private List<Instruction> _code = [];
    private Scope _scope = new([]);

    private KernelCompiler(Kernel kernel, bool isChecked) => (_kernel, _isChecked) = (kernel, isChecked);

    public static CompiledKernel Compile(Kernel kernel, bool isChecked)
    {
        var compiler = new KernelCompiler(kernel, isChecked);
        for (var i = 0; i < kernel.Parameters.Count; i++) compiler.DeclareParameter(i);
        compiler.CompileRegion(kernel.Body);
        compiler.EndPhase();
        return new CompiledKernel([.. compiler._phases], compiler._layout.Size);
    }

    // What follows waits until the whole cluster has come here.
    private void EndPhase()
    {
        _phases.Add([.. _code]);
        _code = [];
    }

    private void DeclareParameter(int index)
    {
        var value = _kernel.Parameters[index].Value;
        if (value.Type.IsPointer || value.Type.Element is DType.Int32 or DType.Int64)
        {
            var target = NewAffine(value, new bool[0]);
            _code.Add(new LoadArgumentInstruction(target, index, false));
            if (value.Type.IsPointer) _ranges[value] = new(_kernel.Parameters[index].Name, index);
        }
        else
        {
            var slot = _layout.Allocate(8);
            slot.Users = 1;
            _forms[value] = new Form.Lanes(LaneView.Dense(slot.Offset, 1, 1), slot);
            _code.Add(new LoadArgumentInstruction(slot.Offset, index, true));
        }
    }

    private void CompileRegion(Region region)
    {
        var outer = _scope;
        _scope = new Scope(LastUses(region));
        for (var i = 0; i < region.Operations.Count; i++)
        {
            var operation = region.Operations[i];
            _scope.Index = i;
            if (operation.Opcode == Opcode.Yield) break;
            CompileOperation(operation);
            foreach (var value in _scope.DyingAt(i)) Release(value);
            foreach (var result in operation.Results)
                if (!_scope.LastUse.ContainsKey(result)) Release(result);
        }
        _scope.Outer = outer;
    }

    /// <summary>Ends the region's scope: whatever is still alive in it is released.</summary>
    private void CloseScope(Region region)
    {
        foreach (var written in _scope.Written.Values) _layout.Free(written.Slot!);
        _scope.Written.Clear();
        foreach (var operation in region.Operations)
            foreach (var result in operation.Results) Release(result);
        _scope = _scope.Outer!;
    }

    /// <summary>Index of the last operation of the region that uses each value, directly or inside a nested region; only values defined in this region are in it.</summary>
    private static Dictionary<Value, int> LastUses(Region region)
    {
        var own = new HashSet<Value>(region.Arguments);
        foreach (var operation in region.Operations) own.UnionWith(operation.Results);
        var last = new Dictionary<Value, int>();
        for (var i = 0; i < region.Operations.Count; i++)
            foreach (var value in Uses(region.Operations[i]))
                if (own.Contains(value)) last[value] = i;
        return last;
    }

    private static IEnumerable<Value> Uses(Operation operation) => operation.Body is null
        ? operation.Operands
        : operation.Operands.Concat(operation.Body.Operations.SelectMany(Uses));

    private void Release(Value value)
    {
        if (_scope.Written.Remove(value, out var written)) _layout.Free(written.Slot!);
        if (!_forms.Remove(value, out var form) || form is not Form.Lanes { Slot: { } slot }) return;
        if (--slot.Users == 0 && !slot.IsPinned) _layout.Free(slot);
    }

    private bool DiesNow(Value value) => _scope.LastUse.TryGetValue(value, out var last) && last == _scope.Index;

    // ---- forms of values

    private int NewDescriptor() => _layout.Allocate(32).Offset;

    private int NewAffine(Value value, bool[] varies)
    {
        var target = NewDescriptor();
        _forms[value] = new Form.Affine(target, varies);
        return target;
    }

    private static (int Rows, int Cols) Extent(TileType type) => type.Rank switch
    {
        0 => (1, 1),
        1 => (1, type.Dimensions[0]),
        2 => (type.Dimensions[0], type.Dimensions[1]),
        _ => (type.Dimensions[0] * type.Dimensions[1], type.Dimensions[2]),
    };

    private static int LaneSize(TileType type) => type.IsPointer || type.Element is DType.Float64 or DType.Int64 ? 8 : 4;

    private LaneView NewLanes(Value value)
    {
        var (rows, cols) = Extent(value.Type);
        var slot = _layout.Allocate(rows * cols * LaneSize(value.Type));
        slot.Users = 1;
        var view = LaneView.Dense(slot.Offset, rows, cols);
        _forms[value] = new Form.Lanes(view, slot);
        return view;
    }

    private Form NewForm(Value value)
    {
        NewLanes(value);
        return _forms[value];
    }

    /// <summary>Lanes for an elementwise result: over a dying operand if one fits, else new.</summary>
    private LaneView NewLanesOver(Value value, params ReadOnlySpan<Value> operands)
    {
        foreach (var operand in operands)
        {
            if (!DiesNow(operand) || LaneSize(operand.Type) != LaneSize(value.Type) || !operand.Type.SameShape(value.Type)) continue;
            if (_forms[operand] is not Form.Lanes { Slot: { Users: 1 } slot, View: { IsDense: true } view } || view.Offset != slot.Offset) continue;
            slot.Users++;
            _forms[value] = new Form.Lanes(view, slot);
            return view;
        }
        return NewLanes(value);
    }

    /// <summary>The value as lanes of any strides, written out if it is in closed form.</summary>
    private LaneView LanesOf(Value value)
    {
        switch (_forms[value])
        {
            case Form.Lanes lanes:
                return lanes.View;
            default:
                for (var scope = _scope; scope is not null; scope = scope.Outer)
                    if (scope.Written.TryGetValue(value, out var written)) return written.View;
                return WriteOut(value);
        }
    }

    private LaneView WriteOut(Value value)
    {
        var (rows, cols) = Extent(value.Type);
        var slot = _layout.Allocate(rows * cols * LaneSize(value.Type));
        var view = LaneView.Dense(slot.Offset, rows, cols);
        _scope.Written[value] = new Form.Lanes(view, slot);
        if (_forms[value] is Form.Affine affine)
        {
            var size = value.Type.IsPointer ? value.Type.Element.SizeInBytes() : 1;
            _code.Add(new AffineToLanesInstruction(affine.Descriptor, slot.Offset, [.. value.Type.Dimensions], LaneSize(value.Type) == 4, size));
        }
        else
        {
            _code.Add(new BoxToLanesInstruction(((Form.Box)_forms[value]).Descriptor, slot.Offset, [.. value.Type.Dimensions]));
        }
        return view;
    }

    /// <summary>The value as lanes whose rows are contiguous or repeat one element.</summary>
    private LaneView RowsOf(Value value)
    {
        var view = LanesOf(value);
        return view.IsRowWise ? view : Dense(value);
    }

    /// <summary>The value as dense lanes.</summary>
    private LaneView Dense(Value value)
    {
        var view = LanesOf(value);
        if (view.IsDense) return view;
        for (var scope = _scope; scope is not null; scope = scope.Outer)
            if (scope.Written.TryGetValue(value, out var written)) return written.View;
        var slot = _layout.Allocate(view.Count * LaneSize(value.Type));
        var dense = LaneView.Dense(slot.Offset, view.Rows, view.Cols);
        _code.Add(LaneSize(value.Type) == 4 ? new CopyInstruction<int>(view, dense) : new CopyInstruction<long>(view, dense));
        _scope.Written[value] = new Form.Lanes(dense, slot);
        return dense;
    }

    /// <summary>The closed form of an integer value if it has one or is a scalar; null otherwise.</summary>
    private Form.Affine? AffineOf(Value value)
    {
        if (value.Type.Element is not (DType.Int32 or DType.Int64) && !value.Type.IsPointer) return null;
        if (_forms[value] is Form.Affine affine) return affine;
        if (value.Type.IsPointer || _forms[value] is not Form.Lanes { View.IsScalar: true } lanes) return null;
        var target = NewDescriptor();
        _code.Add(new ScalarToAffineInstruction(lanes.View.Offset, target, LaneSize(value.Type) == 4));
        return new Form.Affine(target, new bool[value.Type.Rank]);
    }

    private int ScalarOf(Value value) => AffineOf(value)!.Descriptor;

    private TileException Error(Operation operation, string message) => new($"kernel {_kernel.Name}, {operation.Location}: {message}.");

    /// <summary>How a value is kept.</summary>
    private abstract record Form
    {
        /// <summary>Lanes in memory; Slot is null for views that own nothing.</summary>
        public sealed record Lanes(LaneView View, Slot? Slot) : Form;

        /// <summary>An <see cref="AffineValue"/>; <c>Varies</c> tells along which axes its stride may differ from 0.</summary>
        public sealed record Affine(int Descriptor, bool[] Varies) : Form
        {
            public bool IsUniform => !Varies.Contains(true);
        }

        /// <summary>A <see cref="BoxMask"/>.</summary>
        public sealed record Box(int Descriptor) : Form;
    }

    private sealed class Scope(Dictionary<Value, int> lastUse)
    {
        private readonly ILookup<int, Value> _dying = lastUse.ToLookup(pair => pair.Value, pair => pair.Key);

        public Dictionary<Value, int> LastUse { get; } = lastUse;

        public int Index { get; set; }

        public Scope? Outer { get; set; }

        /// <summary>Closed forms and strided views that were written out in this region.</summary>
        public Dictionary<Value, Form.Lanes> Written { get; } = [];

        public IEnumerable<Value> DyingAt(int index) => _dying[index];
    }
}

/// <summary>The result of compilation.</summary>
/// <param name="Phases">Instructions of one program, one list but where it gathers: a cluster's programs all run one before any runs the next.</param>
/// <param name="ScratchBytes">Scratch memory that one program needs, whole cache lines.</param>
internal sealed record CompiledKernel(Instruction[][] Phases, int ScratchBytes);
