using System.Runtime.CompilerServices;
using Lancet.Tile.IR;

namespace Lancet.Tile;

/// <summary>
/// What a kernel's author sees while the kernel is traced: parameters, program ids, ranges, memory access and loops. Elementwise arithmetic
/// is on <see cref="Tile"/>, functions on <see cref="TileMath"/>. Every operation is type-checked as it is emitted.
/// </summary>
public sealed partial class KernelBuilder
{
    private readonly string _name;
    private readonly List<Parameter> _parameters = [];
    private readonly Stack<Region> _regions = new();
    private SourceLocation _location = new("", 0);
    private int _nextId;

    internal KernelBuilder(string name)
    {
        _name = name;
        _regions.Push(new Region());
    }

    /// <summary>Warps of 32 threads that run one program on a GPU; a power of two. Does not change results.</summary>
    public int Warps { get; set; } = 4;

    /// <summary>Programs that one of a GPU's multiprocessors should have room for at the same time: each gets that share of the registers. Does not change results.</summary>
    public int ProgramsPerMultiprocessor { get; set; } = 1;

    /// <summary>
    /// Programs, next to each other along grid axis 0, that run at the same time and may <see cref="Gather"/>: a power of two up to 8, by which the grid's extent is divisible. More than one takes a GPU that
    /// has clusters (<see cref="Ptx.PtxTarget.HasClusters"/>), or the processor.
    /// </summary>
    public int Cluster { get; set; } = 1;

    /// <summary>Declares a pointer parameter to a buffer of the given element type.</summary>
    public Pointer Pointer(DType element, string? name = null) => new(this, Declare(new TileType(element, true), name ?? $"pointer{_parameters.Count}"));

    /// <summary>Declares a scalar parameter passed by value.</summary>
    public Tile Scalar(DType element, string? name = null) => new(this, Declare(new TileType(element, false), name ?? $"scalar{_parameters.Count}"));

    /// <summary>Index of the running program along grid axis 0, 1 or 2: scalar int32.</summary>
    public Tile ProgramId(int axis) => axis is < 0 or > 2
        ? throw Error($"grid axis {axis} does not exist; use 0, 1 or 2")
        : Emit(Opcode.ProgramId, new TileType(DType.Int32, false), [], axis: axis);

    /// <summary>Number of programs along grid axis 0, 1 or 2: scalar int32.</summary>
    public Tile ProgramCount(int axis) => axis is < 0 or > 2
        ? throw Error($"grid axis {axis} does not exist; use 0, 1 or 2")
        : Emit(Opcode.ProgramCount, new TileType(DType.Int32, false), [], axis: axis);

    /// <summary>The tile [0, 1, …, <paramref name="count"/> − 1] of int32. The count is a power of two.</summary>
    public Tile Range(int count) => System.Numerics.BitOperations.IsPow2(count)
        ? Emit(Opcode.Range, new TileType(DType.Int32, false, count), [])
        : throw Error($"a range of {count}: extents are powers of two; take the next one and mask");

    /// <summary>A scalar constant.</summary>
    public Tile Constant(DType element, double value) => element.IsFloat()
        ? Emit(Opcode.Constant, new TileType(element, false), [], number: value)
        : Constant(element, checked((long)value));

    /// <summary>A scalar integer or bool constant.</summary>
    public Tile Constant(DType element, long value)
    {
        if (element.IsFloat()) return Emit(Opcode.Constant, new TileType(element, false), [], number: value);
        if (IR.Passes.ScalarArithmetic.Wrap(element, value) != value) throw Error($"the constant {value} does not fit {element}");
        return Emit(Opcode.Constant, new TileType(element, false), [], integer: value);
    }

    /// <summary>A tile filled with one value.</summary>
    public Tile Full(DType element, double value, params ReadOnlySpan<int> dimensions) => Broadcast(Constant(element, value), dimensions);

    /// <summary>A tile of zeros.</summary>
    public Tile Zeros(DType element, params ReadOnlySpan<int> dimensions) => Full(element, 0, dimensions);

    /// <summary>Reads the elements at <paramref name="pointer"/>; where <paramref name="mask"/> does not hold memory is not touched and <paramref name="other"/> is the result.</summary>
    /// <param name="pointer">Where the elements are.</param>
    /// <param name="mask">Which of them are read; null for all.</param>
    /// <param name="other">The rest.</param>
    /// <param name="staged">
    /// Of a matrix in a loop with stages: on a GPU one of 16-bit elements is copied ahead through shared memory like the operands of products, so that what is on its way takes no registers. The kernel must not write what is
    /// still to be loaded.
    /// </param>
    /// <param name="file">Filled in by the compiler.</param>
    /// <param name="line">Filled in by the compiler.</param>
    public Tile Load(Pointer pointer, Tile? mask = null, double other = 0, bool staged = false, [CallerFilePath] string file = "", [CallerLineNumber] int line = 0)
    {
        At(file, line);
        var address = pointer.Value;
        var result = new TileType(address.Type.Element, false, address.Type.Dimensions);
        if (mask is null) return EmitLoad(result, [address], staged);
        var (p, m) = (address, MaskFor(mask, ref address).Value);
        p = address;
        result = new TileType(p.Type.Element, false, p.Type.Dimensions);
        return EmitLoad(result, other == 0 ? [p, m] : [p, m, Constant(result.Element, other).Value], staged);
    }

    /// <summary>Writes <paramref name="value"/> where <paramref name="mask"/> holds. The element types must be equal; the value broadcasts to the pointer's shape. Two elements never share an address.</summary>
    public void Store(Pointer pointer, Tile value, Tile? mask = null, [CallerFilePath] string file = "", [CallerLineNumber] int line = 0)
    {
        At(file, line);
        if (pointer.Element != value.Element) throw Error($"storing {value.Value.Type} through a pointer to {pointer.Element}; convert with To(DType.{pointer.Element})");
        var address = pointer.Value;
        var m = mask is null ? null : MaskFor(mask, ref address);
        var stored = Broadcast(value, address.Type.Dimensions).Value;
        EmitVoid(Opcode.Store, m is null ? [address, stored] : [address, stored, m.Value]);
    }

    /// <summary>
    /// Memory of the running program alone, <paramref name="count"/> elements that live as long as it: shared memory on a GPU (see
    /// <see cref="Ptx.PtxTarget.MaxSharedMemoryPerBlock"/>). It is read and written like other memory, undefined at first, and stands outside of loops and branches.
    /// </summary>
    public Pointer Scratch(DType element, int count, [CallerFilePath] string file = "", [CallerLineNumber] int line = 0)
    {
        At(file, line);
        return new(this, Emit(Opcode.Scratch, new TileType(element, true), [], integer: count).Value);
    }

    /// <summary>
    /// Starts to read the elements at <paramref name="source"/> into scratch memory at <paramref name="target"/> and goes on. Neither may be written, nor the
    /// target be read, before <see cref="AwaitCopies"/>.
    /// </summary>
    public void Copy(Pointer source, Pointer target, [CallerFilePath] string file = "", [CallerLineNumber] int line = 0)
    {
        At(file, line);
        if (source.Element != target.Element) throw Error($"copying {source.Element} to a pointer to {target.Element}");
        EmitVoid(Opcode.Copy, [source.Value, BroadcastValue(target.Value, source.Value.Type.Dimensions)]);
    }

    /// <summary>Waits until all copies that this program started have arrived but the <paramref name="newest"/> last ones.</summary>
    public void AwaitCopies(int newest = 0, [CallerFilePath] string file = "", [CallerLineNumber] int line = 0)
    {
        At(file, line);
        Append(new Operation(Opcode.AwaitCopies, [], [], _location) { Integer = newest });
    }

    /// <summary>Adds to memory atomically (int32 or int64 only: floating-point atomics would make results depend on the order of programs) and returns what was there.</summary>
    public Tile AtomicAdd(Pointer pointer, Tile value, Tile? mask = null, [CallerFilePath] string file = "", [CallerLineNumber] int line = 0)
    {
        At(file, line);
        if (pointer.Element is not (DType.Int32 or DType.Int64) || value.Element != pointer.Element)
            throw Error($"atomic addition of {value.Value.Type} to {pointer.Element}: int32 and int64 only");
        var address = pointer.Value;
        var m = mask is null ? null : MaskFor(mask, ref address);
        var added = Broadcast(value, address.Type.Dimensions).Value;
        return Emit(Opcode.AtomicAdd, new TileType(pointer.Element, false, address.Type.Dimensions), m is null ? [address, added] : [address, added, m.Value]);
    }

    /// <summary>
    /// Waits until another program has signalled at least <paramref name="value"/> at <paramref name="flag"/> (int32, zero before the launch); what it stored
    /// before that can then be read. For programs of one launch that add up in a fixed order. A GPU starts programs as room allows, so only ones that
    /// have surely started may be waited for: those that drew a lower number from a counter (<see cref="AtomicAdd"/>) than this one.
    /// </summary>
    public void Await(Pointer flag, Tile value, [CallerFilePath] string file = "", [CallerLineNumber] int line = 0) => At(file, line).EmitVoid(Opcode.Await, [flag.Value, value.Value]);

    /// <summary>Tells programs that <see cref="Await"/> <paramref name="value"/> at <paramref name="flag"/>, after all that this program has stored.</summary>
    public void Signal(Pointer flag, Tile value, [CallerFilePath] string file = "", [CallerLineNumber] int line = 0) => At(file, line).EmitVoid(Opcode.Signal, [flag.Value, value.Value]);

    /// <summary>
    /// What each program of the cluster gives, as vectors of <see cref="Cluster"/> elements in order of the programs, the same in all of them. Every program waits until all have
    /// come here, so it stands outside of loops and branches.
    /// </summary>
    /// <param name="values">Scalars of 32 or 64 bits.</param>
    /// <param name="file">Filled in by the compiler.</param>
    /// <param name="line">Filled in by the compiler.</param>
    public Tile[] Gather(Tile[] values, [CallerFilePath] string file = "", [CallerLineNumber] int line = 0)
    {
        At(file, line);
        if (Cluster == 1) throw Error("a gather in a kernel whose programs are alone; set Cluster first");
        foreach (var value in values)
            if (value.Rank != 0 || !Verifier.Computes(value.Element)) throw Error($"gathering {value.Value.Type}; a scalar of 32 or 64 bits is needed");
        var results = values.Select(value => NewValue(value.Value.Type.WithShape(Cluster))).ToArray();
        Append(new Operation(Opcode.Gather, [.. values.Select(value => value.Value)], results, _location));
        return [.. results.Select(value => new Tile(this, value))];
    }

    /// <summary>
    /// Reads a matrix that <see cref="StoreOpaque"/> of the same kernel wrote at <paramref name="start"/>. Its order in memory is the compiler's choice, the
    /// one in which registers hold it, so that neither an address nor a shuffle is needed; other kernels cannot read it.
    /// </summary>
    /// <param name="start">Scalar pointer to rows · columns elements, which no other argument overlaps.</param>
    /// <param name="rows">Rows.</param>
    /// <param name="columns">Columns.</param>
    /// <param name="file">Filled in by the compiler.</param>
    /// <param name="line">Filled in by the compiler.</param>
    public Tile LoadOpaque(Pointer start, int rows, int columns, [CallerFilePath] string file = "", [CallerLineNumber] int line = 0)
    {
        At(file, line);
        var address = Matrix(start, rows, columns).Value;
        var result = NewValue(new TileType(start.Element, false, rows, columns));
        Append(new Operation(Opcode.Load, [address], [result], _location) { IsOpaque = true });
        return new Tile(this, result);
    }

    /// <summary>Writes a matrix for <see cref="LoadOpaque"/> of this or another program of the same kernel.</summary>
    public void StoreOpaque(Pointer start, Tile value, [CallerFilePath] string file = "", [CallerLineNumber] int line = 0) => At(file, line).WriteOpaque(start, value, false);

    /// <summary>
    /// Adds <paramref name="value"/> (fp32) to what <see cref="StoreOpaque"/> wrote, without waiting for it to arrive. Sums come out the same every time only if
    /// programs take turns (<see cref="Await"/>). On a GPU sums below the normal range become zero.
    /// </summary>
    public void AddOpaque(Pointer start, Tile value, [CallerFilePath] string file = "", [CallerLineNumber] int line = 0)
    {
        At(file, line);
        if (value.Element is not (DType.Float32 or DType.Float64)) throw Error($"adding {value.Value.Type} in memory; fp32 is needed");
        WriteOpaque(start, value, true);
    }

    private void WriteOpaque(Pointer start, Tile value, bool accumulates)
    {
        if (start.Element != value.Element || value.Rank != 2) throw Error($"storing {value.Value.Type} through a pointer to {start.Element}; a matrix of that type is needed");
        Append(new Operation(Opcode.Store, [Matrix(start, value.Dimensions[0], value.Dimensions[1]).Value, value.Value], [], _location) { IsOpaque = true, Accumulates = accumulates });
    }

    private Pointer Matrix(Pointer start, int rows, int columns) => start + ((Range(rows) * columns).AsColumn() + Range(columns).AsRow());

    /// <summary>The fp32 entry of a constant table at each index (int32, within the table).</summary>
    public Tile Lookup(float[] table, Tile index)
    {
        if (!System.Numerics.BitOperations.IsPow2(table.Length) || table.Length > 256) throw Error($"a table of {table.Length} entries; a power of two up to 256 is needed");
        if (index.Element != DType.Int32) throw Error($"table index of type {index.Value.Type}; int32 is needed");
        return Emit(Opcode.Lookup, index.Value.Type.With(DType.Float32), [index.Value], table: table);
    }

    /// <summary>Philox-4x32-10 random bits: for each int64 counter c, word c mod 4 of block c div 4 under the key <paramref name="seed"/> (scalar int64). Equal inputs give equal bits everywhere.</summary>
    public Tile RandomBits(Tile seed, Tile counter)
    {
        if (seed.Element != DType.Int64 || seed.Rank != 0 || counter.Element != DType.Int64) throw Error("Philox takes a scalar int64 seed and int64 counters");
        return Emit(Opcode.Philox, counter.Value.Type.With(DType.UInt32), [counter.Value, seed.Value]);
    }

    /// <summary>Uniform fp32 numbers in [0, 1), multiples of 2⁻²⁴, from <see cref="RandomBits"/>.</summary>
    public Tile RandomUniform(Tile seed, Tile counter) => (RandomBits(seed, counter) >> 8).To(DType.Int32).To(DType.Float32) * (1.0 / (1 << 24));

    /// <summary>
    /// A loop at run time over low, low + step, … below high (scalar int32; step above 0). The body receives the index and the carried tiles
    /// and returns their next values, types unchanged; the loop returns the last ones.
    /// </summary>
    /// <param name="low">First index.</param>
    /// <param name="high">Bound, excluded.</param>
    /// <param name="step">Increment.</param>
    /// <param name="carried">Initial values of the carried tiles.</param>
    /// <param name="body">One iteration.</param>
    /// <param name="stages">Software-pipelining depth wished on a GPU.</param>
    /// <param name="warpSpecialized">Lets a warp group of its own, where there are any, copy what the products read, so that the others need not keep step. The kernel must not write what is copied.</param>
    /// <param name="startsAhead">
    /// Lets an iteration, where there are warp groups, end by starting the next one's first product, if that is one of what is loaded, so that tensor cores have work until the next iteration has more. Takes three
    /// stages. The kernel must not write what is loaded.
    /// </param>
    /// <param name="file">Filled in by the compiler.</param>
    /// <param name="line">Filled in by the compiler.</param>
    public Tile[] For(
        Tile low, Tile high, Tile step, Tile[] carried, Func<Tile, Tile[], Tile[]> body, int stages = 1, bool warpSpecialized = false, bool startsAhead = false, [CallerFilePath] string file = "", [CallerLineNumber] int line = 0)
    {
        At(file, line);
        foreach (var bound in (ReadOnlySpan<Tile>)[low, high, step])
            if (bound.Element != DType.Int32 || bound.Rank != 0) throw Error($"loop bound of type {bound.Value.Type}; scalar int32 is needed");
        var location = _location;
        var region = new Region();
        var index = NewValue(new TileType(DType.Int32, false));
        region.Arguments.Add(index);
        foreach (var tile in carried) region.Arguments.Add(NewValue(tile.Value.Type));
        _regions.Push(region);
        var next = body(new Tile(this, index), [.. region.Arguments.Skip(1).Select(value => new Tile(this, value))]);
        At(file, line);
        if (next.Length != carried.Length) throw Error($"the loop carries {carried.Length} tiles but its body returned {next.Length}");
        for (var i = 0; i < next.Length; i++)
            if (!next[i].Value.Type.Equals(carried[i].Value.Type)) throw Error($"carried tile {i} enters as {carried[i].Value.Type} and leaves as {next[i].Value.Type}");
        EmitVoid(Opcode.Yield, [.. next.Select(tile => tile.Value)]);
        _regions.Pop();
        var results = carried.Select(tile => NewValue(tile.Value.Type)).ToArray();
        var operation = new Operation(Opcode.For, [low.Value, high.Value, step.Value, .. carried.Select(tile => tile.Value)], results, location) { Body = region, Stages = stages, IsWarpSpecialized = warpSpecialized, StartsAhead = startsAhead };
        Append(operation);
        return [.. results.Select(value => new Tile(this, value))];
    }

    /// <summary>A loop with constant bounds.</summary>
    public Tile[] For(int low, int high, int step, Tile[] carried, Func<Tile, Tile[], Tile[]> body, int stages = 1, [CallerFilePath] string file = "", [CallerLineNumber] int line = 0) =>
        For(Constant(DType.Int32, low), Constant(DType.Int32, high), Constant(DType.Int32, step), carried, body, stages, false, false, file, line);

    /// <summary>Runs <paramref name="then"/> only in programs where the scalar condition holds.</summary>
    public void If(Tile condition, Action then, [CallerFilePath] string file = "", [CallerLineNumber] int line = 0) =>
        If(condition, [], () => { then(); return []; }, file, line);

    /// <summary>The tiles that <paramref name="then"/> returns in programs where the scalar condition holds, <paramref name="otherwise"/> in the rest.</summary>
    public Tile[] If(Tile condition, Tile[] otherwise, Func<Tile[]> then, [CallerFilePath] string file = "", [CallerLineNumber] int line = 0)
    {
        At(file, line);
        if (condition.Element != DType.Bool || condition.Rank != 0) throw Error($"condition of type {condition.Value.Type}; a scalar bool is needed");
        var location = _location;
        var region = new Region();
        _regions.Push(region);
        var values = then();
        At(file, line);
        if (values.Length != otherwise.Length) throw Error($"one branch gives {values.Length} tiles, the other {otherwise.Length}");
        for (var i = 0; i < values.Length; i++)
            if (!values[i].Value.Type.Equals(otherwise[i].Value.Type)) throw Error($"result {i} is {values[i].Value.Type} in one branch and {otherwise[i].Value.Type} in the other");
        EmitVoid(Opcode.Yield, [.. values.Select(tile => tile.Value)]);
        _regions.Pop();
        var results = otherwise.Select(tile => NewValue(tile.Value.Type)).ToArray();
        Append(new Operation(Opcode.If, [condition.Value, .. otherwise.Select(tile => tile.Value)], results, location) { Body = region });
        return [.. results.Select(value => new Tile(this, value))];
    }

    /// <summary>Sets the source line that the next operations are attributed to.</summary>
    internal KernelBuilder At(string file, int line)
    {
        _location = new SourceLocation(file, line);
        return this;
    }

    internal Kernel Finish()
    {
        if (_regions.Count != 1) throw Error("a region was left open");
        var kernel = new Kernel(_name, _parameters, _regions.Pop(), new(Warps, Cluster, ProgramsPerMultiprocessor));
        Verifier.Check(kernel);
        return kernel;
    }
}
