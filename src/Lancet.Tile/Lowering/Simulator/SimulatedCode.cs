using Lancet.Tile.Lowering.Threads;

namespace Lancet.Tile.Lowering.Simulator;

/// <summary>What happens to the program counter, or that an ordinary instruction executes.</summary>
internal enum StepKind
{
    Execute,
    Barrier,
    NamedArrive,
    NamedWait,
    ClusterWait,
    AwaitBytes,
    Jump,
    JumpUnless,
    Exit,
}

/// <summary>One entry of the flat instruction array.</summary>
internal sealed class Step
{
    public required StepKind Kind { get; init; }

    public ThreadInstruction? Instruction { get; init; }

    /// <summary>Per-lane function of an arithmetic instruction; null for those that need more than one lane or memory.</summary>
    public Func<ulong, ulong, ulong, ulong>? Function { get; init; }

    public int[] Sources { get; init; } = [];

    public int[] Destinations { get; init; } = [];

    /// <summary>Slot of the guard or of the condition; −1 if none.</summary>
    public int Guard { get; init; } = -1;

    /// <summary>Where a jump goes.</summary>
    public int Target { get; set; }

    public long Executions { get; set; }

    public long IdealTraffic { get; set; }

    public long ActualTraffic { get; set; }

    public override string ToString() => Instruction is null ? Kind.ToString() : $"{Instruction.Opcode}.{Instruction.Type} at {Instruction.Location}";
}

/// <summary>A thread program with its control flow flattened and its registers and constants numbered as slots.</summary>
internal sealed class SimulatedCode
{
    private readonly Dictionary<int, int> _registers = [];
    private readonly Dictionary<ulong, int> _constants = [];

    private SimulatedCode(ThreadProgram program) => Program = program;

    public ThreadProgram Program { get; }

    public List<Step> Steps { get; } = [];

    public int SlotCount { get; private set; }

    /// <summary>Where the producer warps begin.</summary>
    public int ProducerStart { get; private set; }

    /// <summary>Constants: value and slot.</summary>
    public IEnumerable<(ulong Bits, int Slot)> Constants => _constants.Select(pair => (pair.Key, pair.Value));

    /// <summary>Flattens a program.</summary>
    /// <exception cref="TileException">An instruction is malformed.</exception>
    public static SimulatedCode Compile(ThreadProgram program)
    {
        if (program.Warps is < 1 or > 32) throw new TileException($"kernel {program.Name}: {program.Warps} warps; 1 to 32 are possible.");
        var code = new SimulatedCode(program);
        code.Flatten(program.Body);
        code.Steps.Add(new Step { Kind = StepKind.Exit });
        code.ProducerStart = code.Steps.Count;
        if (program.ProducerWarps == 0) return code;
        code.Flatten(program.Producer);
        code.Steps.Add(new Step { Kind = StepKind.Exit });
        return code;
    }

    private void Flatten(List<ThreadNode> nodes)
    {
        foreach (var node in nodes)
        {
            switch (node)
            {
                case ThreadInstruction instruction:
                    Steps.Add(Translate(instruction));
                    break;
                case ThreadLoop loop:
                    var start = Steps.Count;
                    Flatten(loop.Header);
                    var leave = new Step { Kind = StepKind.JumpUnless, Guard = Condition(loop.Condition) };
                    Steps.Add(leave);
                    Flatten(loop.Body);
                    Steps.Add(new Step { Kind = StepKind.Jump, Target = start });
                    leave.Target = Steps.Count;
                    break;
                case ThreadBranch branch:
                    var skip = new Step { Kind = StepKind.JumpUnless, Guard = Condition(branch.Condition) };
                    Steps.Add(skip);
                    Flatten(branch.Body);
                    skip.Target = Steps.Count;
                    break;
            }
        }
    }

    private Step Translate(ThreadInstruction instruction)
    {
        if (instruction.Problem() is { } problem) throw new TileException($"kernel {Program.Name}, {instruction.Location}: {instruction.Opcode}.{instruction.Type} has {problem}.");
        var sources = new int[instruction.Sources.Length];
        for (var i = 0; i < sources.Length; i++) sources[i] = Slot(instruction.Sources[i], instruction.SourceTypeOf(i));
        return new Step
        {
            Kind = instruction.Opcode switch
            {
                ThreadOpcode.Barrier => StepKind.Barrier,
                ThreadOpcode.NamedArrive => StepKind.NamedArrive,
                ThreadOpcode.NamedWait => StepKind.NamedWait,
                ThreadOpcode.ClusterWait => StepKind.ClusterWait,
                ThreadOpcode.AwaitBytes => StepKind.AwaitBytes,
                _ => StepKind.Execute,
            },
            Instruction = instruction,
            Function = ScalarOperations.For(instruction, Program),
            Sources = sources,
            Destinations = [.. instruction.Destinations.Select(Slot)],
            Guard = instruction.Guard.Exists ? Slot(instruction.Guard) : -1,
        };
    }

    private int Condition(Register register) => register.Class == RegisterClass.Predicate && register.Exists
        ? Slot(register)
        : throw new TileException($"kernel {Program.Name}: a loop or branch depends on register {register.Id} of {register.Class}; a predicate is needed.");

    private int Slot(Register register)
    {
        if (!_registers.TryGetValue(register.Id, out var slot)) _registers.Add(register.Id, slot = SlotCount++);
        return slot;
    }

    private int Slot(Source source, ThreadType type)
    {
        if (!source.IsConstant) return Slot(source.Register);
        var bits = type.Class() switch
        {
            RegisterClass.Predicate => (ulong)source.Bits & 1,
            RegisterClass.Bits64 => (ulong)source.Bits,
            _ => (uint)source.Bits,
        };
        if (!_constants.TryGetValue(bits, out var slot)) _constants.Add(bits, slot = SlotCount++);
        return slot;
    }
}
