using System.Numerics;
using System.Text;

namespace Lancet.Tile.Lowering;

/// <summary>
/// Who holds which element of a tile: a map over GF(2) from the bits of (register, lane, warp) to tile coordinates. Each bit has a basis, a
/// coordinate vector; the element that a thread holds in a register is the exclusive or of the bases of the bits that are set. A basis of
/// zeros on a lane or warp bit means that those threads hold copies.
/// </summary>
/// <remarks>The idea is Triton's (Zhou et al., "Linear Layouts", 2025). Extents are powers of two.</remarks>
internal sealed class LinearLayout : IEquatable<LinearLayout>
{
    private readonly int[][] _registers;
    private readonly int[][] _lanes;
    private readonly int[][] _warps;

    /// <summary>Creates a layout from its bases, lowest bit first; each basis has a number an axis.</summary>
    public LinearLayout(int rank, int[][] registers, int[][] lanes, int[][] warps)
    {
        if (lanes.Length != 5) throw new ArgumentException("A warp has 32 lanes: 5 bases.");
        foreach (var basis in registers.Concat(lanes).Concat(warps))
            if (basis.Length != rank) throw new ArgumentException($"A basis of {basis.Length} numbers in a layout of rank {rank}.");
        (Rank, _registers, _lanes, _warps) = (rank, registers, lanes, warps);
    }

    /// <summary>Axes of the tile.</summary>
    public int Rank { get; }

    /// <summary>Elements that a thread holds.</summary>
    public int RegisterCount => 1 << _registers.Length;

    /// <summary>Bases of the register bits.</summary>
    public IReadOnlyList<int[]> Registers => _registers;

    /// <summary>Bases of the lane bits.</summary>
    public IReadOnlyList<int[]> Lanes => _lanes;

    /// <summary>Bases of the warp bits.</summary>
    public IReadOnlyList<int[]> Warps => _warps;

    /// <summary>Whether this is the accumulator of a tensor-core product; such layouts win where two meet.</summary>
    public bool IsProduct { get; init; }

    /// <summary>Basis of a bit of the thread's number: lanes, then warps.</summary>
    public int[] Thread(int bit) => bit < 5 ? _lanes[bit] : _warps[bit - 5];

    /// <summary>Bits of the thread's number.</summary>
    public int ThreadBits => 5 + _warps.Length;

    /// <summary>Coordinate of an element along an axis.</summary>
    public int Coordinate(int axis, int register, int lane = 0, int warp = 0) =>
        Combine(_registers, register, axis) ^ Combine(_lanes, lane, axis) ^ Combine(_warps, warp, axis);

    /// <summary>The row-major place of an element in a tile of the given shape.</summary>
    public int Index(ReadOnlySpan<int> shape, int register, int lane = 0, int warp = 0)
    {
        var index = 0;
        for (var axis = 0; axis < Rank; axis++) index = (index * shape[axis]) + Coordinate(axis, register, lane, warp);
        return index;
    }

    /// <summary>
    /// The layout of a view: axis a of the source is axis <paramref name="from"/>[a] of this tile, or −1 for an axis of extent 1. Registers that
    /// would hold the same element are dropped.
    /// </summary>
    public LinearLayout Project(ReadOnlySpan<int> from)
    {
        var axes = from.ToArray();
        int[] Map(int[] basis) => [.. axes.Select(axis => axis < 0 ? 0 : basis[axis])];
        return new(axes.Length, [.. _registers.Select(Map).Where(basis => basis.Any(x => x != 0))], [.. _lanes.Select(Map)], [.. _warps.Select(Map)]) { IsProduct = IsProduct };
    }

    /// <summary>The layout of a reduction along an axis: that axis dropped.</summary>
    public LinearLayout Slice(int axis) => Project([.. Enumerable.Range(0, Rank).Where(a => a != axis)]);

    /// <summary>The layout after an axis of extent 1 was inserted.</summary>
    public LinearLayout Expand(int axis) => Project([.. Enumerable.Range(0, Rank + 1).Select(a => a == axis ? -1 : a < axis ? a : a - 1)]);

    /// <summary>The layout of two interleaved tiles of this layout: a thread's pairs become neighbours.</summary>
    public LinearLayout Interleave()
    {
        int[] Double(int[] basis) => [.. basis[..^1], 2 * basis[^1]];
        return new(Rank, [Basis(Rank, Rank - 1, 1), .. _registers.Select(Double)], [.. _lanes.Select(Double)], [.. _warps.Select(Double)]) { IsProduct = IsProduct };
    }

    /// <summary>For every register of <paramref name="target"/> the register of this layout that holds the same element in the same thread, for all threads; null if some element lies in another thread.</summary>
    public int[]? RegistersOf(LinearLayout target)
    {
        if (target.Rank != Rank || target._warps.Length != _warps.Length) return null;
        for (var bit = 0; bit < ThreadBits; bit++)
            if (!Thread(bit).AsSpan().SequenceEqual(target.Thread(bit))) return null;
        var places = new Dictionary<long, int>();
        for (var register = RegisterCount - 1; register >= 0; register--) places[Key(register)] = register;
        var map = new int[target.RegisterCount];
        for (var register = 0; register < map.Length; register++)
            if (!places.TryGetValue(target.Key(register), out map[register])) return null;
        return map;
    }

    /// <summary>Neighbouring elements along an axis that a thread holds in neighbouring registers: a power of two.</summary>
    public int Contiguous(int axis)
    {
        var count = 0;
        while (count < _registers.Length)
        {
            var basis = _registers[count];
            if (basis[axis] != 1 << count || basis.Where((x, a) => a != axis && x != 0).Any()) break;
            count++;
        }
        return 1 << count;
    }

    /// <summary>Bits of the thread's number whose change does not change the element: copies.</summary>
    public int ReplicatedThreads()
    {
        var mask = 0;
        for (var bit = 0; bit < ThreadBits; bit++)
            if (Thread(bit).All(x => x == 0)) mask |= 1 << bit;
        return mask;
    }

    /// <inheritdoc/>
    public bool Equals(LinearLayout? other) =>
        other is not null && Rank == other.Rank && Same(_registers, other._registers) && Same(_lanes, other._lanes) && Same(_warps, other._warps);

    /// <inheritdoc/>
    public override bool Equals(object? obj) => Equals(obj as LinearLayout);

    /// <inheritdoc/>
    public override int GetHashCode()
    {
        var hash = new HashCode();
        foreach (var basis in _registers.Concat(_lanes).Concat(_warps))
            foreach (var x in basis) hash.Add(x);
        return hash.ToHashCode();
    }

    /// <inheritdoc/>
    public override string ToString()
    {
        var text = new StringBuilder();
        foreach (var (name, bases) in ((string, int[][])[])[("register", _registers), ("lane", _lanes), ("warp", _warps)])
            text.Append(text.Length == 0 ? "" : " ").Append(name).Append('[').AppendJoin(' ', bases.Select(basis => $"({string.Join(',', basis)})")).Append(']');
        return text.ToString();
    }

    /// <summary>
    /// Row-major: the thread's first registers hold <paramref name="vector"/> neighbours along the last axis, then come lanes, warps and the
    /// remaining registers. What memory operations want.
    /// </summary>
    public static LinearLayout Blocked(ReadOnlySpan<int> shape, int vector, int warps)
    {
        var bases = new List<int[]>();
        for (var axis = shape.Length - 1; axis >= 0; axis--)
            for (var bit = 1; bit < shape[axis]; bit <<= 1) bases.Add(Basis(shape.Length, axis, bit));
        var rank = shape.Length;
        var vectorBits = Math.Min(BitOperations.Log2((uint)vector), bases.Count);
        var warpBits = BitOperations.Log2((uint)warps);
        int[] At(int index) => index < bases.Count ? bases[index] : new int[rank];
        int[][] registers = [.. bases.Take(vectorBits), .. bases.Skip(vectorBits + 5 + warpBits)];
        return new(rank, registers, [.. Enumerable.Range(vectorBits, 5).Select(At)], [.. Enumerable.Range(vectorBits + 5, warpBits).Select(At)]);
    }

    /// <summary>A vector that every thread holds whole.</summary>
    public static LinearLayout InEveryThread(int count, int warps) =>
        new(1, [.. Enumerable.Range(0, BitOperations.Log2((uint)count)).Select(bit => new[] { 1 << bit })], [.. Enumerable.Repeat(new int[1], 5)], [.. Enumerable.Repeat(new int[1], BitOperations.Log2((uint)warps))]);

    /// <summary>A basis that is a unit of one axis.</summary>
    public static int[] Basis(int rank, int axis, int value)
    {
        var basis = new int[rank];
        basis[axis] = value;
        return basis;
    }

    private static int Combine(int[][] bases, int bits, int axis)
    {
        var value = 0;
        for (var bit = 0; bit < bases.Length; bit++)
            if ((bits >> bit & 1) != 0) value ^= bases[bit][axis];
        return value;
    }

    private static bool Same(int[][] a, int[][] b) => a.Length == b.Length && a.Zip(b).All(pair => pair.First.AsSpan().SequenceEqual(pair.Second));

    private long Key(int register)
    {
        long key = 0;
        for (var axis = 0; axis < Rank; axis++) key = (key << 20) | (uint)Combine(_registers, register, axis);
        return key;
    }
}
