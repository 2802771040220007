using Lancet.Tile.IR;

namespace Lancet.Tile.Lowering;

/// <summary>
/// Chooses a layout for every tile that is held in registers. Memory operations anchor row-major layouts with wide vectors, products anchor
/// their fragments, elementwise operations follow their operands (products win), reductions drop an axis, and a vector that is only used
/// along the rows or columns of a matrix is loaded as that matrix's layout wants it. There is no global search: where two layouts meet, the
/// lowering converts.
/// </summary>
internal sealed class LayoutPlan
{
    private readonly Kernel _kernel;
    private readonly bool _hasWarpGroups;
    private readonly Dictionary<Value, LinearLayout> _layouts = [];
    private readonly HashSet<Value> _lazy = [];
    private readonly Dictionary<Value, List<Operation>> _uses = [];
    private readonly Dictionary<Operation, ProductLayouts> _products = [];
    private readonly HashSet<Operation> _sharedLoads = [];
    private readonly List<Operation> _operations = [];
    private bool _hasChanged;

    public LayoutPlan(Kernel kernel, bool hasWarpGroups)
    {
        (_kernel, _hasWarpGroups) = (kernel, hasWarpGroups);
        Collect(kernel.Body);
        foreach (var operation in _operations.Where(operation => operation.Opcode == Opcode.Load && !operation.Operands[0].IsScratch() && (operation.IsStaged || IsProductOperand(operation.Result, 0)))) _sharedLoads.Add(operation);
        foreach (var operation in _operations) MarkLazy(operation);
        do
        {
            Settle();
        }
        while (AnchorOne());
    }

    /// <summary>The layout of a tile in registers.</summary>
    public LinearLayout Of(Value value) => _layouts.TryGetValue(value, out var layout) ? layout : Blocked(value.Type);

    /// <summary>Whether a value is recomputed where it is used (see <see cref="Item.IsLazy"/>).</summary>
    public bool IsLazy(Value value) => value.Type.IsScalar || _lazy.Contains(value);

    /// <summary>Whether a loaded matrix goes to shared memory, because only products read it or because it is staged.</summary>
    public bool IsShared(Operation load) => _sharedLoads.Contains(load);

    /// <summary>All copies to scratch memory.</summary>
    public IEnumerable<Operation> Copies => _operations.Where(operation => operation.Opcode == Opcode.Copy);

    /// <summary>Layouts of a product on tensor cores; null for one with fused multiply-adds.</summary>
    public ProductLayouts? Product(Operation dot) => _products.GetValueOrDefault(dot);

    /// <summary>Whether the kernel has a product that warp groups can do.</summary>
    public bool SuitsWarpGroups => _products.Values.Any(product => product.SuitsWarpGroups);

    /// <summary>A row-major layout for a tile's shape.</summary>
    public LinearLayout Blocked(TileType type)
    {
        // One vector width for all tiles of a kernel, from the narrowest type in memory, so that tiles of one shape share a layout.
        var narrowest = Narrowest(type.Count);
        // Halves of an interleaved tile: twice as many elements are stored together.
        if (_operations.Any(operation => operation.Opcode == Opcode.Interleave && operation.Operands[0].Type.Count == type.Count))
            narrowest = Math.Max(narrowest, 2 * Narrowest(2 * type.Count));
        var perThread = Math.Max(1, type.Count / (32 * _kernel.Warps));
        return LinearLayout.Blocked(type.Dimensions, Math.Min(16 / narrowest, perThread), _kernel.Warps);
    }

    private int Narrowest(int count) => _operations
        .Where(operation => operation.Opcode is Opcode.Load or Opcode.Store or Opcode.Copy && !_sharedLoads.Contains(operation) && operation.Operands[0].Type.Count == count)
        .Select(operation => operation.Operands[0].Type.Element.SizeInBytes()).DefaultIfEmpty(4).Min();

    /// <summary>Operations that take their elements apart and put them together at little cost.</summary>
    public static bool IsCheap(Operation operation) => operation.Opcode switch
    {
        Opcode.Exp or Opcode.Exp2 or Opcode.Log or Opcode.Log2 or Opcode.Sqrt or Opcode.Rsqrt or Opcode.Tanh or Opcode.TanhAbsolute or Opcode.Erf or Opcode.Sin or Opcode.Cos or Opcode.Philox or Opcode.Lookup => false,
        Opcode.Divide or Opcode.Remainder => operation.Result.Type.Element.IsInteger(),
        _ => IsElementwise(operation.Opcode),
    };

    /// <summary>Whether an operation works on each element alone.</summary>
    public static bool IsElementwise(Opcode opcode) => opcode is >= Opcode.Add and <= Opcode.BitCast or Opcode.Lookup or Opcode.Philox;

    /// <summary>Whether an operation can be computed again wherever its result is used: no memory, no loop, little cost.</summary>
    public static bool IsRecomputable(Operation operation) =>
        operation.Opcode is Opcode.Constant or Opcode.ProgramId or Opcode.ProgramCount or Opcode.Range or Opcode.PointerAdd || IsView(operation.Opcode) || IsCheap(operation);

    /// <summary>Whether an operation only sees its operand with other axes.</summary>
    public static bool IsView(Opcode opcode) => opcode is Opcode.Broadcast or Opcode.ExpandDimension or Opcode.Transpose;

    private void Collect(Region region)
    {
        foreach (var operation in region.Operations)
        {
            _operations.Add(operation);
            foreach (var operand in operation.Operands)
            {
                if (!_uses.TryGetValue(operand, out var uses)) _uses[operand] = uses = [];
                uses.Add(operation);
            }
            if (operation.Body is not null) Collect(operation.Body);
        }
    }

    private bool IsProductOperand(Value value, int depth) =>
        value.Type.Rank == 2 && depth < 3 && _uses.TryGetValue(value, out var uses)
        && uses.All(use => (use.Opcode == Opcode.Dot && use.Operands[2] != value && value.Type.Element != DType.Float64)
            || (use.Opcode == Opcode.Transpose && IsProductOperand(use.Result, depth + 1)));

    private void MarkLazy(Operation operation)
    {
        if (operation.Results.Length != 1 || operation.Result.Type.IsScalar) return;
        if (IsRecomputable(operation) && operation.Operands.All(operand => operand.Type.IsScalar || operand.Type.IsPointer || _lazy.Contains(operand))) _lazy.Add(operation.Result);
    }

    private void Settle()
    {
        do
        {
            _hasChanged = false;
            foreach (var operation in _operations) Forward(operation);
            for (var i = _operations.Count - 1; i >= 0; i--) Backward(_operations[i]);
        }
        while (_hasChanged);
    }

    private void Forward(Operation operation)
    {
        switch (operation.Opcode)
        {
            case Opcode.Dot:
                Set(operation.Result, ProductLayout(operation));
                break;
            case Opcode.ExpandDimension when Known(operation.Operands[0]) is { } layout:
                Set(operation.Result, layout.Expand(operation.Axis));
                break;
            case Opcode.Transpose when Known(operation.Operands[0]) is { } layout:
                Set(operation.Result, layout.Project([1, 0]));
                break;
            case Opcode.Interleave when Best(Known(operation.Operands[0]), Known(operation.Operands[1])) is { } layout:
                Set(operation.Result, layout.Interleave());
                break;
            case Opcode.ReduceSum or Opcode.ReduceMax or Opcode.ReduceMin when !operation.Result.Type.IsScalar && Known(operation.Operands[0]) is { } layout:
                Set(operation.Result, layout.Slice(operation.Axis));
                break;
            case Opcode.Gather:
                // Every thread has all of a cluster's numbers.
                foreach (var result in operation.Results) Set(result, LinearLayout.InEveryThread(result.Type.Count, _kernel.Warps));
                break;
            case Opcode.For:
                for (var i = 0; i < operation.Results.Length; i++)
                {
                    var (inner, initial, next) = (operation.Body!.Arguments[i + 1], operation.Operands[i + 3], operation.Body.Operations[^1].Operands[i]);
                    if (inner.Type.IsScalar) continue;
                    Set(inner, Best(Known(next), Known(initial)));
                    Set(operation.Results[i], Known(inner));
                }
                break;
            case Opcode.If:
                for (var i = 0; i < operation.Results.Length; i++)
                    if (!operation.Results[i].Type.IsScalar) Set(operation.Results[i], Best(Known(operation.Operands[i + 1]), Known(operation.Body!.Operations[^1].Operands[i])));
                break;
            default:
                if (IsElementwise(operation.Opcode) && !IsLazy(operation.Result))
                {
                    LinearLayout? best = null;
                    foreach (var operand in operation.Operands)
                        if (operand.Type.SameShape(operation.Result.Type)) best = Best(best, Known(operand));
                    Set(operation.Result, best);
                }
                break;
        }
    }

    // A tile without a layout takes that of what it is used with.
    private void Backward(Operation operation)
    {
        switch (operation.Opcode)
        {
            case Opcode.Broadcast or Opcode.ExpandDimension or Opcode.Transpose when Known(operation.Result) is { } layout:
                Set(operation.Operands[0], layout.Project(Axes(operation)));
                break;
            case Opcode.Dot:
                Set(operation.Operands[2], Known(operation.Result));
                break;
            case Opcode.For:
                for (var i = 0; i < operation.Results.Length; i++)
                {
                    if (operation.Results[i].Type.IsScalar || Known(operation.Body!.Arguments[i + 1]) is not { } carried) continue;
                    Set(operation.Body.Operations[^1].Operands[i], carried);
                    Set(operation.Operands[i + 3], carried);
                }
                break;
            case Opcode.If:
                for (var i = 0; i < operation.Results.Length; i++)
                {
                    if (operation.Results[i].Type.IsScalar || Known(operation.Results[i]) is not { } result) continue;
                    Set(operation.Body!.Operations[^1].Operands[i], result);
                    Set(operation.Operands[i + 1], result);
                }
                break;
            default:
                if (!IsElementwise(operation.Opcode) || operation.Result.Type.IsScalar || Known(operation.Result) is not { } target) break;
                foreach (var operand in operation.Operands)
                    if (operand.Type.SameShape(operation.Result.Type)) Set(operand, target);
                break;
        }
    }

    /// <summary>Gives the first tile that has no layout yet a row-major one.</summary>
    private bool AnchorOne()
    {
        foreach (var operation in _operations)
        {
            if (operation.Opcode == Opcode.Load && _sharedLoads.Contains(operation)) continue;
            foreach (var result in operation.Results)
            {
                if (IsLazy(result) || result.Type.IsPointer || _layouts.ContainsKey(result) || IsView(operation.Opcode)) continue;
                _layouts[result] = Blocked(result.Type);
                return true;
            }
        }
        return false;
    }

    private LinearLayout ProductLayout(Operation dot)
    {
        var (a, b) = (dot.Operands[0].Type, dot.Operands[1].Type);
        var (m, k, n) = (a.Dimensions[0], a.Dimensions[1], b.Dimensions[1]);
        if (a.Element is not (DType.BFloat16 or DType.Float16) || !ProductLayouts.Fits(m, n, k)) return ProductLayouts.Scalar(m, n, _kernel.Warps);
        if (!_products.TryGetValue(dot, out var layouts)) _products[dot] = layouts = ProductLayouts.Choose(m, n, k, _kernel.Warps, IsChained(), _hasWarpGroups);
        return layouts.Accumulator();
    }

    // Whether the kernel has a product that feeds another: one whose operand is computed rather than loaded.
    private bool IsChained() => _operations.Any(operation => operation.Opcode == Opcode.Dot && operation.Operands.Take(2).Any(operand => !IsLoaded(operand)));

    private bool IsLoaded(Value value) => value.Definition is { } definition && (definition.Opcode == Opcode.Load || (definition.Opcode == Opcode.Transpose && IsLoaded(definition.Operands[0])));

    /// <summary>Axis of the result for each axis of a view's operand, −1 where the operand's extent is 1 and the result's is not or the axis is gone.</summary>
    public static int[] Axes(Operation view) => view.Opcode switch
    {
        Opcode.Transpose => [1, 0],
        Opcode.ExpandDimension => [.. Enumerable.Range(0, view.Operands[0].Type.Rank).Select(axis => axis < view.Axis ? axis : axis + 1)],
        _ => BroadcastAxes(view.Operands[0].Type, view.Result.Type),
    };

    private static int[] BroadcastAxes(TileType from, TileType to)
    {
        var axes = new int[from.Rank];
        for (var axis = 0; axis < axes.Length; axis++) axes[axis] = from.Dimensions[axis] == to.Dimensions[axis] ? axis : -1;
        return axes;
    }

    private LinearLayout? Known(Value value) => _layouts.GetValueOrDefault(value);

    private static LinearLayout? Best(LinearLayout? a, LinearLayout? b) => a is null ? b : b is { IsProduct: true } && !a.IsProduct ? b : a;

    private void Set(Value value, LinearLayout? layout)
    {
        if (layout is null || IsLazy(value) || value.Type.IsPointer || _layouts.ContainsKey(value)) return;
        if (value.Definition is { Opcode: Opcode.Load } load && _sharedLoads.Contains(load)) return;
        _layouts[value] = layout;
        _hasChanged = true;
    }
}
