namespace Lancet.Tile.Lowering;

/// <summary>
/// Keeps memory in program order between threads of one program. A tile operation happens as a whole, but its elements belong to
/// different threads, so a load and a store of the same buffer need a barrier between them unless every element is touched by the same
/// thread in both, which equal layouts without copies guarantee for in-place updates. Arguments of one element type may be the same memory: a
/// backward pass writes dX over dY.
/// </summary>
internal sealed class MemoryOrder(SharedMemory shared)
{
    private List<Access> _loads = [];
    private List<Access> _stores = [];
    private readonly HashSet<Access> _reads = [];
    private readonly Stack<(List<Access> Loads, List<Access> Stores)> _bodies = new();

    /// <summary>Whether a thread's opaque stores may not be known to the program's other threads: since the last barrier, or in a loop's former iteration.</summary>
    public bool HasUnshownStores { get; private set; }

    /// <summary>Whether a signal was awaited that only the warp that waited knows of: since the last barrier, or in a loop's former iteration.</summary>
    public bool HasUnknownSignals { get; private set; }

    /// <summary>After one warp waited for another program's signal.</summary>
    public void NoteAwait() => HasUnknownSignals = true;

    /// <summary>After an opaque store, of elements that no other access touches but the same thread's.</summary>
    public void NoteOpaqueStore() => HasUnshownStores = true;

    /// <summary>Before a load; no layout where <see cref="Access"/> has none.</summary>
    public void Load(PointerItem pointer, LinearLayout? layout)
    {
        var load = Access.Of(pointer, layout);
        if (Conflicts(_stores, load)) shared.Barrier();
        _loads.Add(load);
        _reads.Add(load);
        foreach (var body in _bodies) body.Loads.Add(load);
    }

    /// <summary>Before a store; no layout where <see cref="Access"/> has none.</summary>
    public void Store(PointerItem pointer, LinearLayout? layout)
    {
        var store = Access.Of(pointer, layout);
        if (Conflicts(_loads, store) || Conflicts(_stores, store)) shared.Barrier();
        AddStore(store);
    }

    /// <summary>Whether a loop's body is being lowered.</summary>
    public bool IsInLoop => _bodies.Count > 0;

    /// <summary>Whether elements of the pointer's type were read in a layout anywhere before: it may be those that threads now write again.</summary>
    public bool WasRead(PointerItem pointer, LinearLayout layout) => _reads.Contains(Access.Of(pointer, layout));

    /// <summary>After copies to shared memory were awaited: each thread knows of its own only, whatever barriers were passed since they started.</summary>
    public void NoteCopy(DType element, LinearLayout? layout) => AddStore(new Access(element, true, layout));

    private void AddStore(Access store)
    {
        _stores.Add(store);
        foreach (var body in _bodies) body.Stores.Add(store);
    }

    public void BarrierPassed()
    {
        _loads = [];
        _stores = [];
        HasUnshownStores = HasUnknownSignals = false;
    }

    public void BeginLoop()
    {
        _bodies.Push(([], []));
        HasUnshownStores = HasUnknownSignals = true;
    }

    /// <summary>At the end of a loop's body: what is pending must not meet the next iteration's accesses.</summary>
    public void EndLoop()
    {
        var (loads, stores) = _bodies.Pop();
        if (_stores.Any(store => Conflicts(loads, store) || Conflicts(stores, store))
            || _loads.Any(load => Conflicts(stores, load))) shared.Barrier();
    }

    /// <summary>What is pending, to be restored after a branch that may not have been taken.</summary>
    public (List<Access> Loads, List<Access> Stores, bool HasUnshownStores, bool HasUnknownSignals) Save() => ([.. _loads], [.. _stores], HasUnshownStores, HasUnknownSignals);

    public void Merge((List<Access> Loads, List<Access> Stores, bool HasUnshownStores, bool HasUnknownSignals) saved)
    {
        HasUnshownStores |= saved.HasUnshownStores;
        HasUnknownSignals |= saved.HasUnknownSignals;
        _loads = [.. _loads, .. saved.Loads];
        _stores = [.. _stores, .. saved.Stores];
    }

    private static bool Conflicts(List<Access> accesses, Access access) => accesses.Any(other =>
        other.Element == access.Element && other.IsShared == access.IsShared && (access.Layout is not { } layout || other.Layout is null || !layout.Equals(other.Layout) || layout.ReplicatedThreads() != 0));

    /// <summary>A load or a store of elements of one type in shared or global memory; no layout for a scalar, or where threads meet elements of others.</summary>
    public readonly record struct Access(DType Element, bool IsShared, LinearLayout? Layout)
    {
        public static Access Of(PointerItem pointer, LinearLayout? layout) => new(pointer.Type.Element, pointer.IsShared, layout);
    }
}
