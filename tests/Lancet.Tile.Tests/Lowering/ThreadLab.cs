using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Lancet.Tile.IR;
using Lancet.Tile.Lowering.Simulator;
using Lancet.Tile.Lowering.Threads;
using Lancet.Tile.Ptx;

namespace Lancet.Tile.Tests.Lowering;

/// <summary>Builds thread programs by hand and runs them on arrays.</summary>
internal sealed class ThreadLab(int warps = 1, int sharedBytes = 0, string name = "lab")
{
    private readonly List<Parameter> _parameters = [];
    private readonly Stack<List<ThreadNode>> _scopes = new([[]]);
    private int _registers;

    /// <summary>What the program is printed for.</summary>
    public PtxTarget Target { get; init; } = PtxTarget.Sm80;

    public int Cluster { get; init; } = 1;

    public List<float[]> Tables { get; } = [];

    public List<TensorMap> TensorMaps { get; } = [];

    /// <summary>The register of the predicate under which the next instructions run.</summary>
    public Register Guard { get; set; }

    public bool IsGuardNegated { get; set; }

    public ThreadProgram Program => new()
    {
        Name = name,
        Warps = warps,
        Cluster = Cluster,
        Parameters = _parameters,
        Body = _scopes.Peek(),
        Tables = Tables,
        TensorMaps = TensorMaps,
        SharedBytes = sharedBytes,
    };

    public Register New(ThreadType type) => new(++_registers, type.Class());

    /// <summary>Declares a parameter and loads it.</summary>
    public Register Parameter(DType element, bool isPointer)
    {
        _parameters.Add(new Parameter($"p{_parameters.Count}", new Value(_parameters.Count, new TileType(element, isPointer))));
        var type = isPointer ? ThreadType.U64 : element.SizeInBytes() == 8 ? ThreadType.B64 : ThreadType.B32;
        return Emit(ThreadOpcode.LoadParameter, type, [], _parameters.Count - 1, line: 1);
    }

    public Register Pointer(DType element = DType.Int64) => Parameter(element, true);

    public Register Emit(ThreadOpcode opcode, ThreadType type, Source[] sources, long immediate = 0, ThreadType sourceType = ThreadType.B32, Comparison comparison = default, [CallerLineNumber] int line = 0)
    {
        var destination = New(new ThreadInstruction(opcode, type, [], sources) { SourceType = sourceType }.DestinationType());
        Do(opcode, type, [destination], sources, immediate, sourceType, comparison, line: line);
        return destination;
    }

    public void Do(ThreadOpcode opcode, ThreadType type, Register[] destinations, Source[] sources, long immediate = 0, ThreadType sourceType = ThreadType.B32, Comparison comparison = default, int width = 0, bool transposed = false, bool readOnly = false, [CallerLineNumber] int line = 0) =>
        _scopes.Peek().Add(new ThreadInstruction(opcode, type, destinations, sources)
        {
            Guard = Guard,
            IsGuardNegated = IsGuardNegated,
            Immediate = immediate,
            SourceType = sourceType,
            Comparison = comparison,
            Width = width,
            IsTransposed = transposed,
            IsReadOnly = readOnly,
            Location = new SourceLocation("/src/Lab.cs", line),
        });

    public void Do(ThreadOpcode opcode, long immediate = 0, [CallerLineNumber] int line = 0) => Do(opcode, ThreadType.B32, [], [], immediate, line: line);

    public void Barrier([CallerLineNumber] int line = 0) => Do(ThreadOpcode.Barrier, line: line);

    public Register ThreadId() => Emit(ThreadOpcode.ReadSpecial, ThreadType.U32, [], (long)SpecialRegister.ThreadId, line: 1);

    public Register Constant(ThreadType type, long bits) => Emit(ThreadOpcode.Move, type, [Source.Constant(bits)]);

    /// <summary>pointer + index · bytes, as a 64-bit address.</summary>
    public Register Address(Source pointer, Source index, int bytes) =>
        Emit(ThreadOpcode.Add, ThreadType.U64, [pointer, Emit(ThreadOpcode.MultiplyWide, ThreadType.U32, [index, Source.Constant(bytes)])]);

    public Register Load(ThreadOpcode opcode, ThreadType type, Source address, long offset = 0, bool readOnly = false, [CallerLineNumber] int line = 0)
    {
        var result = New(type);
        Do(opcode, type, [result], [address], offset, readOnly: readOnly, line: line);
        return result;
    }

    public void Store(ThreadOpcode opcode, ThreadType type, Source address, Source value, long offset = 0, [CallerLineNumber] int line = 0) =>
        Do(opcode, type, [], [address, value], offset, line: line);

    public void Loop(Func<Register> condition, Action body)
    {
        var loop = new ThreadLoop();
        _scopes.Peek().Add(loop);
        _scopes.Push(loop.Header);
        loop.Condition = condition();
        _scopes.Pop();
        _scopes.Push(loop.Body);
        body();
        _scopes.Pop();
    }

    public void Branch(Register condition, Action body)
    {
        var branch = new ThreadBranch { Condition = condition };
        _scopes.Peek().Add(branch);
        _scopes.Push(branch.Body);
        body();
        _scopes.Pop();
    }

    /// <summary>Prints the program, has the PTX checked, and runs it.</summary>
    public SimulationReport Run(Grid grid, params KernelArgument[] arguments)
    {
        PtxChecker.Check(Print());
        return ThreadSimulator.Run(Program, grid, arguments, 1_000_000);
    }

    public string Print() => PtxPrinter.Print(Program, Target);

    /// <summary>Runs one program.</summary>
    public SimulationReport Run(params KernelArgument[] arguments) => Run(new Grid(1), arguments);

    /// <summary>What running it complains about.</summary>
    public string Failure(params KernelArgument[] arguments) => Assert.Throws<TileException>(() => Run(arguments)).Message;
}

/// <summary>An array of zeros at a fixed, 64-byte aligned address.</summary>
internal sealed unsafe class HostArray<T>(int count, DType element) : IDisposable
    where T : unmanaged
{
    private readonly T* _data = Zeroed(Math.Max(64, count * sizeof(T)));

    public HostArray(T[] values, DType element) : this(values.Length, element) => values.CopyTo(Span);

    public Span<T> Span => new(_data, count);

    public KernelArgument Argument => KernelArgument.Pointer((nint)_data, element, count * sizeof(T) / element.SizeInBytes());

    public void Dispose() => NativeMemory.AlignedFree(_data);

    private static T* Zeroed(int bytes)
    {
        var memory = NativeMemory.AlignedAlloc((nuint)bytes, 64);
        NativeMemory.Clear(memory, (nuint)bytes);
        return (T*)memory;
    }
}

/// <summary>Matrices of bf16 or fp16 for products.</summary>
internal static class RandomHalves
{
    /// <summary>Numbers from −1 to 1.</summary>
    public static HostArray<ushort> Of(int count, DType dtype, int seed)
    {
        var random = new Random(seed);
        var array = new HostArray<ushort>(count, dtype);
        foreach (ref var element in array.Span)
        {
            var value = (float)((random.NextDouble() * 2) - 1);
            element = dtype == DType.BFloat16 ? ((BFloat16)value).Bits : BitConverter.HalfToUInt16Bits((Half)value);
        }
        return array;
    }
}
