using System.Globalization;
using System.Text;

namespace Lancet.Tile.IR;

/// <summary>
/// Writes IR as text: an operation a line with the types of its results and the source line it comes from, regions indented. Equal kernels
/// give equal text.
/// </summary>
/// <example><code>
/// kernel scale(x: *f32 %0, n: i32 %1) warps 4
///   %2: i32[8] = range  // Scale.cs:12
///   %3: *f32[8] = broadcast %0  // Scale.cs:13
/// </code></example>
public static class Printer
{
    private const int TableEntriesShown = 8;

    /// <summary>The whole kernel.</summary>
    public static string Print(Kernel kernel)
    {
        var text = new StringBuilder();
        text.Append("kernel ").Append(kernel.Name).Append('(');
        text.AppendJoin(", ", kernel.Parameters.Select(parameter => $"{parameter.Name}: {parameter.Value.Type} {parameter.Value}"));
        text.Append(CultureInfo.InvariantCulture, $") warps {kernel.Warps}{(kernel.Cluster > 1 ? $" cluster {kernel.Cluster}" : "")}\n");
        Print(text, kernel.Body, 1);
        return text.ToString();
    }

    /// <summary>One operation without its body and source line.</summary>
    public static string Print(Operation operation)
    {
        var text = new StringBuilder();
        Head(text, operation);
        return text.ToString();
    }

    private static void Print(StringBuilder text, Region region, int depth)
    {
        foreach (var operation in region.Operations)
        {
            text.Append(' ', depth * 2);
            Head(text, operation);
            text.Append("  // ").Append(operation.Location).Append('\n');
            if (operation.Body is { } body) Print(text, body, depth + 1);
        }
    }

    private static void Head(StringBuilder text, Operation operation)
    {
        text.AppendJoin(", ", operation.Results.Select(Typed));
        if (operation.Results.Length > 0) text.Append(" = ");
        text.Append(Name(operation.Opcode.ToString()));
        switch (operation.Opcode)
        {
            case Opcode.Constant:
                text.Append(' ').Append(Literal(operation));
                break;
            case Opcode.ProgramId or Opcode.ProgramCount:
                text.Append(CultureInfo.InvariantCulture, $" {operation.Axis}");
                break;
            case Opcode.Scratch or Opcode.AwaitCopies:
                text.Append(CultureInfo.InvariantCulture, $" {operation.Integer}");
                break;
            case Opcode.Compare:
                text.Append(' ').Append(Name(operation.Comparison.ToString()));
                Operands(text, operation.Operands);
                break;
            case Opcode.For when operation.Operands.Length >= 3 && operation.Body is { Arguments.Count: > 0 } body:
                For(text, operation, body);
                break;
            case Opcode.If when operation.Operands.Length > 1:
                text.Append(' ').Append(operation.Operands[0]).Append(" else");
                Operands(text, operation.Operands.AsSpan(1));
                break;
            default:
                Operands(text, operation.Operands);
                if (operation.Opcode == Opcode.ExpandDimension || operation.Opcode.IsReduction()) text.Append(CultureInfo.InvariantCulture, $" axis {operation.Axis}");
                break;
        }
        if (operation.IsStaged) text.Append(" staged");
        if (operation.Table is { } table)
        {
            text.Append(" table [").AppendJoin(", ", table.Take(TableEntriesShown).Select(entry => entry.ToString("R", CultureInfo.InvariantCulture)));
            text.Append(table.Length > TableEntriesShown ? string.Create(CultureInfo.InvariantCulture, $", … {table.Length} entries]") : "]");
        }
    }

    private static void For(StringBuilder text, Operation operation, Region body)
    {
        text.Append(CultureInfo.InvariantCulture, $" {Typed(body.Arguments[0])} from {operation.Operands[0]} to {operation.Operands[1]} step {operation.Operands[2]}");
        if (operation.Stages != 1) text.Append(CultureInfo.InvariantCulture, $" stages {operation.Stages}");
        if (operation.IsWarpSpecialized) text.Append(" warp-specialized");
        if (operation.StartsAhead) text.Append(" ahead");
        if (body.Arguments.Count == 1) return;
        text.Append(" carrying ");
        text.AppendJoin(", ", body.Arguments.Skip(1).Select((argument, i) => i + 3 < operation.Operands.Length ? $"{Typed(argument)} = {operation.Operands[i + 3]}" : Typed(argument)));
    }

    private static void Operands(StringBuilder text, ReadOnlySpan<Value> operands)
    {
        for (var i = 0; i < operands.Length; i++) text.Append(i == 0 ? " " : ", ").Append(operands[i]);
    }

    private static string Typed(Value value) => $"{value}: {value.Type}";

    private static string Literal(Operation operation)
    {
        var element = operation.Results.Length == 1 ? operation.Result.Type.Element : DType.Float64;
        if (element == DType.Bool) return operation.Integer != 0 ? "true" : "false";
        return element.IsFloat() ? operation.Number.ToString("R", CultureInfo.InvariantCulture) : operation.Integer.ToString(CultureInfo.InvariantCulture);
    }

    /// <summary>ProgramId as program_id.</summary>
    private static string Name(string pascal)
    {
        var text = new StringBuilder(pascal.Length + 4);
        foreach (var letter in pascal)
        {
            if (char.IsUpper(letter) && text.Length > 0) text.Append('_');
            text.Append(char.ToLowerInvariant(letter));
        }
        return text.ToString();
    }
}
