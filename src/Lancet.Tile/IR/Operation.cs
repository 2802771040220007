namespace Lancet.Tile.IR;

/// <summary>Where in a kernel's C# source an operation was written.</summary>
/// <param name="File">Path of the source file, as the compiler saw it.</param>
/// <param name="Line">Line number, from 1; 0 if unknown.</param>
public readonly record struct SourceLocation(string File, int Line)
{
    /// <summary>For example <c>NormKernel.cs:42</c>.</summary>
    public override string ToString() => Line == 0 ? "unknown" : $"{Path.GetFileName(File)}:{Line}";
}

/// <summary>One SSA value: a result of an operation, an argument of a region, or a kernel parameter.</summary>
public sealed class Value(int id, TileType type)
{
    /// <summary>Number unique within the kernel.</summary>
    public int Id { get; } = id;

    /// <summary>Type of the value.</summary>
    public TileType Type { get; } = type;

    /// <summary>The operation that produces it; null for kernel parameters and region arguments.</summary>
    public Operation? Definition { get; internal set; }

    /// <summary>Of an address, the pointer that it follows from: a kernel parameter, or a region's argument.</summary>
    internal Value Root
    {
        get
        {
            var value = this;
            while (value.Definition is { } definition) value = definition.Operands[0];
            return value;
        }
    }

    /// <inheritdoc/>
    public override string ToString() => $"%{Id}";
}

/// <summary>A straight list of operations ending in <see cref="Opcode.Yield"/> (a kernel's body has none).</summary>
public sealed class Region
{
    /// <summary>Values defined on entry: for a loop, the index and then the carried tiles.</summary>
    public List<Value> Arguments { get; } = [];

    /// <summary>The operations, in order of execution.</summary>
    public List<Operation> Operations { get; } = [];
}

/// <summary>One operation of the IR: operands in, results out, attributes beside them.</summary>
public sealed class Operation(Opcode opcode, Value[] operands, Value[] results, SourceLocation location)
{
    /// <summary>What the operation does.</summary>
    public Opcode Opcode { get; } = opcode;

    /// <summary>Values read.</summary>
    public Value[] Operands { get; } = operands;

    /// <summary>Values defined.</summary>
    public Value[] Results { get; } = results;

    /// <summary>The only result.</summary>
    public Value Result => Results[0];

    /// <summary>Where it was written.</summary>
    public SourceLocation Location { get; } = location;

    /// <summary>Body of <see cref="Opcode.For"/> and <see cref="Opcode.If"/>.</summary>
    public Region? Body { get; init; }

    /// <summary>Grid axis, reduction axis or inserted axis.</summary>
    public int Axis { get; init; }

    /// <summary>Predicate of <see cref="Opcode.Compare"/>.</summary>
    public Comparison Comparison { get; init; }

    /// <summary>Value of an integer or bool <see cref="Opcode.Constant"/>; elements of a <see cref="Opcode.Scratch"/>; copies that <see cref="Opcode.AwaitCopies"/> does not wait for.</summary>
    public long Integer { get; init; }

    /// <summary>Value of a floating-point <see cref="Opcode.Constant"/>.</summary>
    public double Number { get; init; }

    /// <summary>Entries of <see cref="Opcode.Lookup"/>; a power of two of them, at most 256.</summary>
    public float[]? Table { get; init; }

    /// <summary>Software-pipelining depth wished for a <see cref="Opcode.For"/> on the GPU; 1 for none.</summary>
    public int Stages { get; init; } = 1;

    /// <summary>Of a <see cref="Opcode.For"/>: a warp group of its own copies what the loop's products read, where the GPU has warp groups.</summary>
    public bool IsWarpSpecialized { get; init; }

    /// <summary>Of a <see cref="Opcode.For"/>: the first product of what an iteration loads is started by the iteration before, where the GPU has warp groups.</summary>
    public bool StartsAhead { get; init; }

    /// <summary>Of a <see cref="Opcode.Load"/>: the matrix goes through shared memory although not only products read it, so that a loop's <see cref="Stages"/> fetch it ahead.</summary>
    public bool IsStaged { get; init; }

    /// <summary>Of a <see cref="Opcode.Load"/> or <see cref="Opcode.Store"/>: the matrix lies densely behind its first element, in an order of the compiler's choosing.</summary>
    public bool IsOpaque { get; init; }

    /// <summary>Of an opaque <see cref="Opcode.Store"/>: the value is added to what is there.</summary>
    public bool Accumulates { get; init; }

    /// <summary>The same operation with other operands, results and body.</summary>
    internal Operation With(Value[] operands, Value[] results, Region? body = null)
    {
        var copy = new Operation(Opcode, operands, results, Location)
        {
            Body = body,
            Axis = Axis,
            Comparison = Comparison,
            Integer = Integer,
            Number = Number,
            Table = Table,
            Stages = Stages,
            IsWarpSpecialized = IsWarpSpecialized,
            StartsAhead = StartsAhead,
            IsStaged = IsStaged,
            IsOpaque = IsOpaque,
            Accumulates = Accumulates,
        };
        foreach (var result in results) result.Definition = copy;
        return copy;
    }
}

/// <summary>A kernel's formal parameter.</summary>
/// <param name="Name">Name for messages.</param>
/// <param name="Value">Its SSA value: a scalar, or a scalar pointer.</param>
public sealed record Parameter(string Name, Value Value);
