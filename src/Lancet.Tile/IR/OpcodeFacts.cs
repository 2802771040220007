namespace Lancet.Tile.IR;

/// <summary>What passes need to know about opcodes.</summary>
internal static class OpcodeFacts
{
    /// <summary>Whether the result depends on the operands and attributes alone and nothing else happens.</summary>
    public static bool IsPure(this Opcode opcode) =>
        !opcode.WritesMemory() && opcode is not (Opcode.Scratch or Opcode.Load or Opcode.Gather or Opcode.For or Opcode.If or Opcode.Yield);

    /// <summary>Whether the operation changes memory, so that it stays even if nothing uses its result.</summary>
    public static bool WritesMemory(this Opcode opcode) => opcode is Opcode.Store or Opcode.Copy or Opcode.AwaitCopies or Opcode.AtomicAdd or Opcode.Await or Opcode.Signal;

    /// <summary>Whether a pure operation may run where the kernel's author did not ask for it: all but the table look-up, whose index must lie in the table.</summary>
    public static bool IsSpeculatable(this Opcode opcode) => opcode.IsPure() && opcode != Opcode.Lookup;

    /// <summary>Whether the operation has no operands and costs nothing, so that it may stand at the top of the kernel.</summary>
    public static bool IsFree(this Opcode opcode) => opcode is Opcode.Constant or Opcode.ProgramId or Opcode.ProgramCount or Opcode.Range;

    /// <summary>Whether the order of the two operands does not matter for integers. (For floats it may decide which NaN comes out.)</summary>
    public static bool IsCommutative(this Opcode opcode) =>
        opcode is Opcode.Add or Opcode.Multiply or Opcode.And or Opcode.Or or Opcode.Xor or Opcode.Minimum or Opcode.Maximum;

    /// <summary>Whether the operation has two operands and a result of one type.</summary>
    public static bool IsBinary(this Opcode opcode) => opcode is >= Opcode.Add and <= Opcode.ShiftRight;

    /// <summary>Whether the operation has one operand and a result of its type.</summary>
    public static bool IsUnary(this Opcode opcode) => opcode is >= Opcode.Negate and <= Opcode.Round;

    /// <summary>Whether a pointer leads to scratch memory. (Loops and branches hand no pointers on.)</summary>
    public static bool IsScratch(this Value pointer) => pointer.Definition is { } definition && (definition.Opcode == Opcode.Scratch || (definition.Operands.Length > 0 && definition.Operands[0].IsScratch()));

    /// <summary>Whether the operation is a reduction.</summary>
    public static bool IsReduction(this Opcode opcode) => opcode is Opcode.ReduceSum or Opcode.ReduceMax or Opcode.ReduceMin;
}
