using System.Runtime.InteropServices;
using Lancet.Tile.IR;
using Lancet.Tile.Ptx;

namespace Lancet.Tile.Lowering.Threads;

/// <summary>Kind of a virtual register.</summary>
internal enum RegisterClass
{
    Predicate,
    Bits32,
    Bits64,
}

/// <summary>A virtual register of one thread.</summary>
/// <param name="Id">Number, from 1, unique over all classes.</param>
/// <param name="Class">Kind.</param>
internal readonly record struct Register(int Id, RegisterClass Class)
{
    public bool Exists => Id != 0;
}

/// <summary>An operand: a register, or the bits of a constant (of the instruction's type; a float's bits in the low half).</summary>
[StructLayout(LayoutKind.Auto)]
internal readonly record struct Source(Register Register, long Bits)
{
    public bool IsConstant => !Register.Exists;

    public static implicit operator Source(Register register) => new(register, 0);

    public static Source Constant(long bits) => new(default, bits);

    public static Source Constant(float value) => new(default, (uint)BitConverter.SingleToInt32Bits(value));

    public static Source Constant(double value) => new(default, BitConverter.DoubleToInt64Bits(value));
}

/// <summary>A node of a thread program: an instruction, a loop or a branch. Conditions of loops and branches are equal in all threads of a program.</summary>
internal abstract class ThreadNode;

/// <summary>One instruction.</summary>
internal sealed class ThreadInstruction(ThreadOpcode opcode, ThreadType type, Register[] destinations, Source[] sources) : ThreadNode
{
    public ThreadOpcode Opcode { get; } = opcode;

    public ThreadType Type { get; } = type;

    public Register[] Destinations { get; } = destinations;

    public Source[] Sources { get; } = sources;

    /// <summary>Executes only where this predicate holds (or does not, if <see cref="IsGuardNegated"/>); none if absent.</summary>
    public Register Guard { get; init; }

    public bool IsGuardNegated { get; init; }

    public long Immediate { get; init; }

    /// <summary>For <see cref="ThreadOpcode.CopyAsync"/>: bytes to add to the global address.</summary>
    public long SourceOffset { get; init; }

    public ThreadType SourceType { get; init; }

    public Comparison Comparison { get; init; }

    public int Width { get; init; }

    public bool IsTransposed { get; init; }

    public bool IsLeftTransposed { get; init; }

    /// <summary>For <see cref="ThreadOpcode.LoadGlobal"/>: the memory is not written while the kernel runs.</summary>
    public bool IsReadOnly { get; init; }

    public SourceLocation Location { get; init; }
}

/// <summary>Runs <see cref="Body"/> while <see cref="Condition"/>, which <see cref="Header"/> computes before every iteration, holds.</summary>
internal sealed class ThreadLoop : ThreadNode
{
    public List<ThreadNode> Header { get; } = [];

    public Register Condition { get; set; }

    public List<ThreadNode> Body { get; } = [];
}

/// <summary>Runs <see cref="Body"/> if <see cref="Condition"/> holds.</summary>
internal sealed class ThreadBranch : ThreadNode
{
    public Register Condition { get; set; }

    public List<ThreadNode> Body { get; } = [];
}

/// <summary>
/// A lowered kernel: what each of its <c>Warps · 32</c> threads does. The PTX printer prints it and the simulator runs it, so what tests see is
/// what the GPU gets. Registers may be assigned more than once (loop-carried values, guarded loads).
/// </summary>
internal sealed class ThreadProgram
{
    public required string Name { get; init; }

    public required int Warps { get; init; }

    /// <summary>Programs of a cluster.</summary>
    public int Cluster { get; init; } = 1;

    /// <summary>Programs for which a multiprocessor's registers must suffice.</summary>
    public int ProgramsPerMultiprocessor { get; init; } = 1;

    public required IReadOnlyList<Parameter> Parameters { get; init; }

    public List<ThreadNode> Body { get; init; } = [];

    /// <summary>Warps behind the others, which run <see cref="Producer"/> instead of the body and take no part in barriers.</summary>
    public int ProducerWarps { get; set; }

    /// <summary>The last of the producer warps, which do nothing but give up registers.</summary>
    public int IdleProducerWarps { get; set; }

    /// <summary>What the producer warps do.</summary>
    public List<ThreadNode> Producer { get; init; } = [];

    /// <summary>Threads of a program.</summary>
    public int Threads => (Warps + ProducerWarps) * 32;

    /// <summary>Constant fp32 tables, in global memory.</summary>
    public List<float[]> Tables { get; init; } = [];

    /// <summary>Matrices that blocks are copied from.</summary>
    public List<TensorMap> TensorMaps { get; init; } = [];

    /// <summary>Bytes of shared memory.</summary>
    public int SharedBytes { get; set; }

    /// <summary>Conversions between layouts that move data between threads; for reports and tests.</summary>
    public int LayoutConversions { get; set; }
}
