using System.Globalization;
using System.Text;
using Lancet.Tile.IR;
using Lancet.Tile.Lowering.Threads;

namespace Lancet.Tile.Ptx;

/// <summary>Writes the statements of one entry point: control flow, registers, operands. The instructions themselves are in the other part.</summary>
internal sealed partial class PtxBody(ThreadProgram program)
{
    // Registers of a thread where two warp groups run the body and one is the producer: of 65,536 each group has a third at first, 168 a thread.
    private const int BodyRegisters = 232;
    private const int ProducerRegisters = 40;

    private static readonly string[] s_prefixes = ["%p", "%r", "%rd"];

    private readonly StringBuilder _text = new();
    private readonly Dictionary<int, string> _names = [];
    private readonly int[] _counts = new int[3];

    // Shared addresses in the program count from its first byte, but that byte's address in the shared window is only known when the module is
    // linked (1024 on Hopper). Sums of it and a register are kept until the register changes or the block of straight code ends.
    private readonly Dictionary<int, string> _sharedAddresses = [];
    private SourceLocation _location;
    private int _labels;
    private string _guard = "";

    /// <summary>The statements, after <see cref="Write()"/>.</summary>
    public StringBuilder Text => _text;

    /// <summary>Whether the module must declare shared memory.</summary>
    public bool UsesSharedMemory { get; private set; } = program.SharedBytes > 0;

    /// <summary>Whether the module holds products of warp groups, which only <c>sm_90a</c> has.</summary>
    public bool UsesWarpGroups { get; private set; }

    public static string SharedName(ThreadProgram program) => $"{program.Name}_shared";

    public static string TableName(ThreadProgram program, int table) => $"{program.Name}_table_{table}";

    public static string ParameterName(ThreadProgram program, int parameter) => $"{program.Name}_param_{parameter}";

    public static string MapName(ThreadProgram program, int map) => $"{program.Name}_map_{map}";

    /// <summary>Writes the whole body.</summary>
    public void Write()
    {
        if (program.ProducerWarps > 0)
        {
            var (thread, isProducer) = (Scratch(RegisterClass.Bits32), Scratch(RegisterClass.Predicate));
            Line($"mov.u32 {thread}, %tid.x;");
            Line($"setp.ge.u32 {isProducer}, {thread}, {program.Warps * 32};");
            Line($"@{isProducer} bra.uni $producer;");
            Line($"setmaxnreg.inc.sync.aligned.u32 {BodyRegisters};");
        }
        Write(program.Body);
        if (program.ProducerWarps > 0)
        {
            Line("ret;");
            Label("$producer");
            Line($"setmaxnreg.dec.sync.aligned.u32 {ProducerRegisters};");
            if (program.IdleProducerWarps > 0) LeaveIdleWarps();
            Write(program.Producer);
        }
        if (UsesSharedMemory) _text.Insert(0, $"    mov.u32 %shared, {SharedName(program)};\n");
    }

    private void LeaveIdleWarps()
    {
        var (thread, isIdle) = (Scratch(RegisterClass.Bits32), Scratch(RegisterClass.Predicate));
        Line($"mov.u32 {thread}, %tid.x;");
        Line($"setp.ge.u32 {isIdle}, {thread}, {program.Threads - (program.IdleProducerWarps * 32)};");
        Line($"@{isIdle} ret;");
    }

    /// <summary>Appends the declarations of all registers.</summary>
    public void AppendDeclarations(StringBuilder text)
    {
        string[] types = [".pred", ".b32", ".b64"];
        for (var i = 0; i < 3; i++)
            if (_counts[i] > 0) text.Append(CultureInfo.InvariantCulture, $"    .reg {types[i]} {s_prefixes[i]}<{_counts[i]}>;\n");
        if (UsesSharedMemory) text.Append("    .reg .b32 %shared;\n");
        text.Append('\n');
    }

    private void Write(List<ThreadNode> nodes)
    {
        foreach (var node in nodes)
        {
            switch (node)
            {
                case ThreadInstruction instruction:
                    Write(instruction);
                    break;
                case ThreadLoop loop:
                    var number = _labels++;
                    Label($"$loop_{number}");
                    Write(loop.Header);
                    Line($"@!{Name(loop.Condition)} bra.uni $loop_end_{number};");
                    Write(loop.Body);
                    Line($"bra.uni $loop_{number};");
                    Label($"$loop_end_{number}");
                    break;
                case ThreadBranch branch:
                    var end = _labels++;
                    Line($"@!{Name(branch.Condition)} bra.uni $branch_end_{end};");
                    Write(branch.Body);
                    Label($"$branch_end_{end}");
                    break;
            }
        }
    }

    private void Write(ThreadInstruction instruction)
    {
        if (instruction.Problem() is { } problem) throw Error(instruction, problem);
        if (instruction.Location.Line > 0 && instruction.Location != _location)
        {
            _location = instruction.Location;
            Line($"// {_location}");
        }
        _guard = instruction.Guard.Exists ? $"@{(instruction.IsGuardNegated ? "!" : "")}{Name(instruction.Guard)} " : "";
        WriteOperation(instruction);
        _guard = "";
        foreach (var destination in instruction.Destinations) _sharedAddresses.Remove(destination.Id);
    }

    /// <summary>Writes a statement that the instruction's guard, if any, applies to.</summary>
    private void Guarded(string statement) => Line(_guard + statement);

    private void Line(string statement) => _text.Append("    ").Append(statement).Append('\n');

    private void Label(string label)
    {
        _sharedAddresses.Clear();
        _text.Append(label).Append(":\n");
    }

    private string Name(Register register)
    {
        if (!_names.TryGetValue(register.Id, out var name)) _names.Add(register.Id, name = Scratch(register.Class));
        return name;
    }

    private string Scratch(RegisterClass kind) => s_prefixes[(int)kind] + _counts[(int)kind]++.ToString(CultureInfo.InvariantCulture);

    /// <summary>Source number <paramref name="index"/> as an operand: its register or an immediate.</summary>
    private string Operand(ThreadInstruction instruction, int index)
    {
        var source = instruction.Sources[index];
        var type = instruction.SourceTypeOf(index);
        if (!source.IsConstant) return Name(source.Register);
        return type == ThreadType.Predicate ? Materialised(type, source.Bits) : Immediate(type, source.Bits);
    }

    /// <summary>Source number <paramref name="index"/> in a register, for places where PTX takes no immediate.</summary>
    private string InRegister(ThreadInstruction instruction, int index)
    {
        var source = instruction.Sources[index];
        return source.IsConstant ? Materialised(instruction.SourceTypeOf(index), source.Bits) : Name(source.Register);
    }

    private string Materialised(ThreadType type, long bits)
    {
        var scratch = Scratch(type.Class());
        Line(type == ThreadType.Predicate ? $"mov.pred {scratch}, {(bits & 1) * -1};" : $"mov.{MoveType(type)} {scratch}, {Immediate(type, bits)};");
        return scratch;
    }

    private static string Immediate(ThreadType type, long bits) => type switch
    {
        ThreadType.F32 => $"0f{(uint)bits:X8}",
        ThreadType.F64 => $"0d{(ulong)bits:X16}",
        ThreadType.S8 or ThreadType.S32 => ((int)bits).ToString(CultureInfo.InvariantCulture),
        ThreadType.B32 when (uint)bits > int.MaxValue => $"0x{(uint)bits:X8}",
        ThreadType.B64 or ThreadType.S64 or ThreadType.U64 => bits < -int.MaxValue || bits > uint.MaxValue ? $"0x{(ulong)bits:X16}" : bits.ToString(CultureInfo.InvariantCulture),
        ThreadType.BF16 or ThreadType.F16 => $"0x{(ushort)bits:X4}",
        _ => ((uint)bits).ToString(CultureInfo.InvariantCulture),
    };

    /// <summary>[address + immediate] in global memory.</summary>
    private string GlobalAddress(ThreadInstruction instruction, int index, long offset) => $"[{InRegister(instruction, index)}{Offset(offset)}]";

    /// <summary>[address + immediate] in shared memory.</summary>
    private string SharedAddress(ThreadInstruction instruction, int index, long offset)
    {
        UsesSharedMemory = true;
        var source = instruction.Sources[index];
        return source.IsConstant ? $"[%shared{Offset((uint)source.Bits + offset)}]" : $"[{SharedSum(source)}{Offset(offset)}]";
    }

    /// <summary>Address in the shared window, in a register.</summary>
    private string SharedSum(Source source)
    {
        UsesSharedMemory = true;
        if (source.IsConstant)
        {
            var place = Scratch(RegisterClass.Bits32);
            Line($"add.u32 {place}, %shared, {(uint)source.Bits};");
            return place;
        }
        if (!_sharedAddresses.TryGetValue(source.Register.Id, out var sum))
        {
            sum = Scratch(RegisterClass.Bits32);
            Line($"add.u32 {sum}, {Name(source.Register)}, %shared;");
            _sharedAddresses.Add(source.Register.Id, sum);
        }
        return sum;
    }

    private static string Offset(long offset) => offset == 0 ? "" : offset.ToString("+0;-0", CultureInfo.InvariantCulture);

    private static string Bits(ThreadType type) => type.Class() switch
    {
        RegisterClass.Predicate => "pred",
        RegisterClass.Bits64 => "b64",
        _ => "b32",
    };

    /// <summary>Type for a move or selection of a value or of an immediate as <see cref="Immediate"/> writes it.</summary>
    private static string MoveType(ThreadType type) => type switch
    {
        ThreadType.F32 => "f32",
        ThreadType.F64 => "f64",
        _ => Bits(type),
    };

    private TileException Error(ThreadInstruction instruction, string what) =>
        new($"kernel {program.Name}, {instruction.Location}: cannot print {instruction.Opcode}.{instruction.Type}: {what}.");
}
