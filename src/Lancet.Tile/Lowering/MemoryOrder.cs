namespace Lancet.Tile.Lowering;

/// <summary>
/// Keeps global memory in program order between threads of one program. A tile operation happens as a whole, but its elements belong to
/// different threads, so a load and a store of the same buffer need a barrier between them unless every element is touched by the same
/// thread in both, which equal layouts without copies guarantee for in-place updates.
/// </summary>
internal sealed class MemoryOrder(SharedMemory shared)
{
    private List<(int Parameter, LinearLayout? Layout)> _loads = [];
    private List<(int Parameter, LinearLayout? Layout)> _stores = [];
    private readonly Stack<(List<(int, LinearLayout?)> Loads, List<(int, LinearLayout?)> Stores)> _bodies = new();

    /// <summary>Before a load; no layout for a scalar.</summary>
    public void Load(int parameter, LinearLayout? layout)
    {
        if (Conflicts(_stores, parameter, layout)) shared.Barrier();
        _loads.Add((parameter, layout));
        foreach (var body in _bodies) body.Loads.Add((parameter, layout));
    }

    /// <summary>Before a store; no layout for a scalar.</summary>
    public void Store(int parameter, LinearLayout? layout)
    {
        // Threads with copies read what another thread writes. Buffers of different parameters may be one (in-place updates).
        var hasCopies = layout is not null && layout.ReplicatedThreads() != 0 && _loads.Any(load => load.Layout is not null);
        if (hasCopies || Conflicts(_loads, parameter, layout) || Conflicts(_stores, parameter, layout)) shared.Barrier();
        _stores.Add((parameter, layout));
        foreach (var body in _bodies) body.Stores.Add((parameter, layout));
    }

    public void BarrierPassed()
    {
        _loads = [];
        _stores = [];
    }

    public void BeginLoop() => _bodies.Push(([], []));

    /// <summary>At the end of a loop's body: what is pending must not meet the next iteration's accesses.</summary>
    public void EndLoop()
    {
        var (loads, stores) = _bodies.Pop();
        if (_stores.Any(store => Conflicts(loads, store.Parameter, store.Layout) || Conflicts(stores, store.Parameter, store.Layout))
            || _loads.Any(load => Conflicts(stores, load.Parameter, load.Layout))) shared.Barrier();
    }

    /// <summary>What is pending, to be restored after a branch that may not have been taken.</summary>
    public (List<(int, LinearLayout?)> Loads, List<(int, LinearLayout?)> Stores) Save() => ([.. _loads], [.. _stores]);

    public void Merge((List<(int, LinearLayout?)> Loads, List<(int, LinearLayout?)> Stores) saved)
    {
        _loads = [.. _loads, .. saved.Loads];
        _stores = [.. _stores, .. saved.Stores];
    }

    private static bool Conflicts(List<(int Parameter, LinearLayout? Layout)> accesses, int parameter, LinearLayout? layout) => accesses.Any(access =>
        access.Parameter == parameter && (layout is null || access.Layout is null || !layout.Equals(access.Layout) || layout.ReplicatedThreads() != 0));
}
