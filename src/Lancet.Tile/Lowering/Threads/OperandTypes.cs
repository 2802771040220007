namespace Lancet.Tile.Lowering.Threads;

/// <summary>Says how an instruction reads each source and writes each destination, for the printer and the simulator alike.</summary>
internal static class OperandTypes
{
    /// <summary>Kind of register that holds a value of this type.</summary>
    public static RegisterClass Class(this ThreadType type) => type switch
    {
        ThreadType.Predicate => RegisterClass.Predicate,
        ThreadType.B64 or ThreadType.S64 or ThreadType.U64 or ThreadType.F64 => RegisterClass.Bits64,
        _ => RegisterClass.Bits32,
    };

    /// <summary>Bytes of one element of this type in memory.</summary>
    public static int Bytes(this ThreadType type) => type switch
    {
        ThreadType.U8 or ThreadType.S8 => 1,
        ThreadType.U16 or ThreadType.BF16 or ThreadType.F16 => 2,
        ThreadType.B64 or ThreadType.S64 or ThreadType.U64 or ThreadType.F64 => 8,
        ThreadType.Predicate => throw new ArgumentException("A predicate has no memory format.", nameof(type)),
        _ => 4,
    };

    /// <summary>Whether arithmetic of this type is floating-point.</summary>
    public static bool IsFloat(this ThreadType type) => type is ThreadType.F32 or ThreadType.F64 or ThreadType.BF16 or ThreadType.F16;

    /// <summary>Whether this type orders, shifts and widens as a signed integer.</summary>
    public static bool IsSigned(this ThreadType type) => type is ThreadType.S8 or ThreadType.S32 or ThreadType.S64;

    /// <summary>Type of source number <paramref name="index"/>.</summary>
    public static ThreadType SourceTypeOf(this ThreadInstruction instruction, int index) => instruction.Opcode switch
    {
        ThreadOpcode.ShiftLeft or ThreadOpcode.ShiftRight when index == 1 => ThreadType.U32,
        ThreadOpcode.MultiplyWide => instruction.Type.IsSigned() ? ThreadType.S32 : ThreadType.U32,
        ThreadOpcode.Select when index == 2 => ThreadType.Predicate,
        ThreadOpcode.Convert => instruction.SourceType,
        ThreadOpcode.ConvertPair => ThreadType.F32,
        ThreadOpcode.Permute => ThreadType.B32,
        ThreadOpcode.LoadGlobal => ThreadType.U64,
        ThreadOpcode.StoreGlobal or ThreadOpcode.AtomicAdd or ThreadOpcode.AwaitFlag or ThreadOpcode.SignalFlag or ThreadOpcode.AddGlobal when index == 0 => ThreadType.U64,
        ThreadOpcode.LoadShared or ThreadOpcode.LoadMatrix => ThreadType.U32,
        ThreadOpcode.StoreShared when index == 0 => ThreadType.U32,
        ThreadOpcode.StoreCluster when index < 2 => ThreadType.U32,
        ThreadOpcode.InitializeMbarrier or ThreadOpcode.ExpectBytes or ThreadOpcode.AwaitBytes => ThreadType.U32,
        ThreadOpcode.CopyTensor => index is 1 or 2 ? ThreadType.S32 : ThreadType.U32,
        ThreadOpcode.CopyAsync => index == 1 ? ThreadType.U64 : ThreadType.U32,
        ThreadOpcode.MatrixMultiply => index < 6 ? ThreadType.B32 : ThreadType.F32,
        ThreadOpcode.DescribeMatrix or ThreadOpcode.SharedUnits => ThreadType.U32,
        ThreadOpcode.WarpGroupMultiply => index < instruction.Sources.Length - 1 && instruction.Sources.Length > 2 ? ThreadType.B32 : ThreadType.B64,
        _ => instruction.Type,
    };

    /// <summary>Type of every destination.</summary>
    public static ThreadType DestinationType(this ThreadInstruction instruction) => instruction.Opcode switch
    {
        ThreadOpcode.Compare => ThreadType.Predicate,
        ThreadOpcode.MultiplyWide => instruction.Type.IsSigned() ? ThreadType.S64 : ThreadType.U64,
        ThreadOpcode.ConvertPair or ThreadOpcode.Permute or ThreadOpcode.LoadMatrix => ThreadType.B32,
        ThreadOpcode.ReadSpecial => ThreadType.U32,
        ThreadOpcode.TableAddress => ThreadType.U64,
        ThreadOpcode.MatrixMultiply or ThreadOpcode.WarpGroupMultiply => ThreadType.F32,
        ThreadOpcode.DescribeMatrix => ThreadType.B64,
        _ => instruction.Type,
    };

    /// <summary>Numbers of destinations and sources that the instruction must have; −1 sources: as many more as there are elements.</summary>
    public static (int Destinations, int Sources) Arity(this ThreadOpcode opcode) => opcode switch
    {
        ThreadOpcode.ReadSpecial or ThreadOpcode.LoadParameter or ThreadOpcode.TableAddress => (1, 0),
        ThreadOpcode.Move or ThreadOpcode.Not or ThreadOpcode.Negate or ThreadOpcode.Absolute or ThreadOpcode.Exp2Approximate or
            ThreadOpcode.SquareRoot or ThreadOpcode.Floor or ThreadOpcode.Round or ThreadOpcode.Convert or ThreadOpcode.ShuffleXor or
            ThreadOpcode.ReciprocalApproximate or ThreadOpcode.SharedUnits or ThreadOpcode.DescribeMatrix => (1, 1),
        ThreadOpcode.MultiplyAdd or ThreadOpcode.Select => (1, 3),
        ThreadOpcode.LoadGlobal or ThreadOpcode.LoadShared or ThreadOpcode.LoadMatrix => (-1, 1),
        ThreadOpcode.StoreGlobal or ThreadOpcode.StoreShared or ThreadOpcode.AddGlobal => (0, -1),
        ThreadOpcode.AtomicAdd => (1, 2),
        ThreadOpcode.AwaitFlag or ThreadOpcode.SignalFlag => (0, 2),
        ThreadOpcode.NamedArrive or ThreadOpcode.NamedWait or ThreadOpcode.InitializeMbarrier or ThreadOpcode.ExpectBytes => (0, 1),
        ThreadOpcode.AwaitBytes => (0, 2),
        ThreadOpcode.CopyTensor => (0, 4),
        ThreadOpcode.CopyAsync or ThreadOpcode.StoreCluster => (0, 3),
        ThreadOpcode.CommitCopies or ThreadOpcode.WaitCopies or ThreadOpcode.Barrier or ThreadOpcode.ClusterArrive or ThreadOpcode.ClusterWait or
            ThreadOpcode.WarpGroupFence or ThreadOpcode.CommitProducts or ThreadOpcode.WaitProducts or ThreadOpcode.ProxyFence => (0, 0),
        ThreadOpcode.MatrixMultiply => (4, 10),
        _ => (1, 2),
    };

    /// <summary>What is wrong with the instruction's operands, or null.</summary>
    public static string? Problem(this ThreadInstruction instruction)
    {
        int given = instruction.Destinations.Length, read = instruction.Sources.Length;
        var isWarpGroup = instruction.Opcode == ThreadOpcode.WarpGroupMultiply;
        if (isWarpGroup && instruction.Width is not (8 or 16 or 32 or 64 or 128 or 256)) return $"a width of {instruction.Width}";
        var (destinations, sources) = isWarpGroup ? (instruction.Width / 2, read == 5 ? 5 : 2) : instruction.Opcode.Arity();
        if (destinations >= 0 ? given != destinations : given is not (1 or 2 or 4)) return $"{given} destinations";
        if (sources >= 0 ? read != sources : read is not (2 or 3 or 5)) return $"{read} sources";
        var written = instruction.DestinationType();
        foreach (var destination in instruction.Destinations)
            if (!destination.Exists || destination.Class != written.Class()) return $"a {written} result in {Describe(destination)}";
        for (var i = 0; i < read; i++)
        {
            var (source, type) = (instruction.Sources[i], instruction.SourceTypeOf(i));
            if (!source.IsConstant && source.Register.Class != type.Class()) return $"source {i} of type {type} in {Describe(source.Register)}";
        }
        if (instruction.Guard.Exists && instruction.Guard.Class != RegisterClass.Predicate) return $"a guard in {Describe(instruction.Guard)}";
        if (instruction.Guard.Exists && IsCollective(instruction.Opcode)) return "a guard, but all lanes must take part";
        if (instruction.Opcode == ThreadOpcode.CopyAsync && instruction.Width is not (4 or 8 or 16)) return $"a width of {instruction.Width}";
        return null;
    }

    /// <summary>Whether all lanes of a warp must execute the instruction together.</summary>
    public static bool IsCollective(this ThreadOpcode opcode) => opcode is ThreadOpcode.Barrier or ThreadOpcode.ShuffleXor or ThreadOpcode.ShuffleIndex or ThreadOpcode.LoadMatrix or
        ThreadOpcode.MatrixMultiply or ThreadOpcode.CommitCopies or ThreadOpcode.WaitCopies or ThreadOpcode.WarpGroupMultiply or ThreadOpcode.WarpGroupFence or
        ThreadOpcode.CommitProducts or ThreadOpcode.WaitProducts or ThreadOpcode.ProxyFence or ThreadOpcode.AwaitFlag or
        ThreadOpcode.NamedArrive or ThreadOpcode.NamedWait or ThreadOpcode.ClusterArrive or ThreadOpcode.ClusterWait or ThreadOpcode.AwaitBytes;

    private static string Describe(Register register) => register.Exists ? $"register {register.Id} of {register.Class}" : "no register";
}
