using System.Globalization;
using System.Text.RegularExpressions;

namespace Lancet.Tile.Ptx;

/// <summary>
/// Checks a printed module in place of an assembler, which CI has none of: every instruction is in <see cref="PtxInstructionTable"/> with operands of the
/// right kinds and of the module's target, registers are declared and assigned before they are used, labels exist, braces balance.
/// </summary>
internal sealed partial class PtxChecker
{
    private readonly Dictionary<string, (char Kind, int Count)> _declared = [];
    private readonly HashSet<string> _assigned = [];
    private readonly HashSet<string> _symbols = ["%tid.x", "%ctaid.x", "%ctaid.y", "%ctaid.z", "%nctaid.x", "%nctaid.y", "%nctaid.z"];
    private readonly HashSet<string> _parameters = [];
    private readonly HashSet<string> _labels = [];
    private readonly List<(string Label, int Line)> _jumps = [];
    private bool _hasWarpGroups;
    private bool _hasClusters;
    private int _line;
    private string _text = "";

    /// <summary>Checks a module as <see cref="PtxPrinter"/> writes it.</summary>
    /// <exception cref="TileException">Something is wrong; the message quotes the line.</exception>
    public static void Check(string module) => new PtxChecker().Run(module);

    private void Run(string module)
    {
        var lines = module.Split('\n');
        string[] head = [".version ", ".target sm_", ".address_size 64"];
        for (var i = 0; i < 3; i++)
            if (!lines[i].StartsWith(head[i], StringComparison.Ordinal)) throw new TileException($"PTX line {i + 1}: \"{head[i]}\" is needed.");
        _hasWarpGroups = lines[1].EndsWith('a');
        _hasClusters = lines[1].StartsWith(".target sm_90", StringComparison.Ordinal);
        var depth = 0;
        for (var i = 3; i < lines.Length; i++)
        {
            (_line, _text) = (i + 1, lines[i]);
            var comment = _text.IndexOf("//", StringComparison.Ordinal);
            var statement = (comment < 0 ? _text : _text[..comment]).Trim();
            depth += statement.Count(c => c == '{') - statement.Count(c => c == '}');
            if (depth < 0) throw Error("a brace too many");
            if (statement.Length == 0 || statement is "{" or "}" or ")" or "};") continue;
            Line(statement);
        }
        if (depth != 0) throw new TileException("PTX: a brace is not closed.");
        foreach (var (label, line) in _jumps)
            if (!_labels.Contains(label)) throw new TileException($"PTX line {line}: label {label} is not defined.");
    }

    private void Line(string line)
    {
        if (TableLine().IsMatch(line) || ProgramLine().IsMatch(line) || EntryLine().IsMatch(line)) return;
        if (Declaration().Match(line) is { Success: true } symbol) Once(_symbols, symbol.Groups[1].Value);
        else if (ParameterLine().Match(line) is { Success: true } parameter) Once(_parameters, parameter.Groups[1].Value);
        else if (LabelLine().Match(line) is { Success: true } label) Once(_labels, label.Groups[1].Value);
        else if (line.StartsWith('{') && line.EndsWith('}'))
        {
            foreach (var statement in line[1..^1].Split(';', StringSplitOptions.TrimEntries | StringSplitOptions.RemoveEmptyEntries)) Statement(statement);
            foreach (var local in _declared.Where(pair => pair.Value.Kind == 'h').Select(pair => pair.Key).ToArray())
            {
                _declared.Remove(local);
                _assigned.Remove(local);
            }
        }
        else if (line.EndsWith(';')) Statement(line[..^1]);
        else throw Error("not a statement");
    }

    private void Statement(string statement)
    {
        if (RegisterLine().Match(statement) is { Success: true } registers)
        {
            var kind = registers.Groups[1].Value switch { "pred" => 'p', "b16" => 'h', "b32" => 'r', _ => 'd' };
            foreach (var name in registers.Groups[2].Value.Split(',', StringSplitOptions.TrimEntries))
            {
                var match = Range().Match(name);
                if (!_declared.TryAdd(match.Success ? match.Groups[1].Value : name, (kind, match.Success ? int.Parse(match.Groups[2].Value, CultureInfo.InvariantCulture) : -1))) throw Error($"{name} is declared twice");
            }
            return;
        }
        if (!_hasWarpGroups && (statement.StartsWith("wgmma", StringComparison.Ordinal) || statement.StartsWith("fence.proxy.async", StringComparison.Ordinal))) throw Error("an instruction of sm_90a");
        if (!_hasClusters && statement.Contains("cluster", StringComparison.Ordinal)) throw Error("an instruction of sm_90");
        if (Guard().Match(statement) is { Success: true } guard)
        {
            Use(guard.Groups[1].Value, 'p');
            statement = statement[guard.Length..];
        }
        var space = statement.IndexOf(' ', StringComparison.Ordinal);
        var mnemonic = space < 0 ? statement : statement[..space];
        if (!PtxInstructionTable.Signatures.TryGetValue(mnemonic, out var signatures)) throw Error($"no instruction {mnemonic}");
        var operands = space < 0 ? [] : Split(statement[(space + 1)..]);
        var problem = "";
        foreach (var signature in signatures)
        {
            problem = Mismatch(signature, operands);
            if (problem.Length > 0) continue;
            Apply(signature, operands);
            return;
        }
        throw Error(problem);
    }

    private string Mismatch(string signature, List<string> operands)
    {
        var kinds = Kinds(signature);
        if (kinds.Count != operands.Count) return $"{operands.Count} operands where {kinds.Count} are needed";
        for (var i = 0; i < kinds.Count; i++)
        {
            var (kind, operand) = (kinds[i], operands[i]);
            var parts = kind.Length == 1 ? [operand] : Vector(operand);
            if (parts.Count != (kind.Length == 1 ? 1 : kind.Length - 2)) return $"{operand} is no vector of {kind.Length - 2} registers";
            foreach (var part in parts)
                if (!Fits(kind.Length == 1 ? kind[0] : kind[1], part)) return $"operand {i} is {part}, which is not of kind '{kind}'";
        }
        return "";
    }

    private bool Fits(char kind, string operand) => kind switch
    {
        'i' => Integer().IsMatch(operand),
        'R' => KindOf(operand) == 'r' || Integer().IsMatch(operand),
        'D' => KindOf(operand) == 'd' || Integer().IsMatch(operand),
        'F' => KindOf(operand) == 'r' || Single().IsMatch(operand),
        'E' => KindOf(operand) == 'd' || Double().IsMatch(operand),
        'G' => Address().Match(operand) is { Success: true } match && KindOf(match.Groups[1].Value) == 'd',
        'S' => Address().Match(operand) is { Success: true } match && KindOf(match.Groups[1].Value) == 'r',
        'A' => operand.Length > 2 && _parameters.Contains(operand[1..^1]),
        'V' => _symbols.Contains(operand),
        'P' => _parameters.Contains(operand),
        'T' => Block().Match(operand) is { Success: true } match && KindOf(match.Groups[1].Value) == 'd' && KindOf(match.Groups[2].Value) == 'r' && KindOf(match.Groups[3].Value) == 'r',
        'W' => operand == "_",
        'L' => operand.StartsWith('$'),
        _ => KindOf(operand) == kind,
    };

    private void Apply(string signature, List<string> operands)
    {
        var kinds = Kinds(signature);
        var destinations = Kinds(signature[..(signature.IndexOf('=', StringComparison.Ordinal) + 1)]).Count;
        for (var i = destinations; i < operands.Count; i++)
        {
            if (kinds[i] == "L") _jumps.Add((operands[i], _line));
            foreach (var part in kinds[i].Length == 1 ? [operands[i]] : Vector(operands[i]))
            {
                string[] registers = Address().Match(part) is { Success: true } match ? [match.Groups[1].Value] : Block().Match(part) is { Success: true } block ? [.. block.Groups.Values.Skip(1).Select(group => group.Value)] : [part];
                foreach (var register in registers)
                    if (KindOf(register) is { } kind) Use(register, kind);
            }
        }
        for (var i = 0; i < destinations; i++)
            foreach (var part in kinds[i].Length == 1 ? [operands[i]] : Vector(operands[i])) _assigned.Add(part);
    }

    private void Use(string register, char kind)
    {
        if (KindOf(register) != kind) throw Error($"{register} is not a register of kind '{kind}'");
        if (!_assigned.Contains(register)) throw Error($"{register} is used before it is assigned");
    }

    /// <summary>The class of a declared register; null for anything else.</summary>
    private char? KindOf(string name)
    {
        if (_declared.TryGetValue(name, out var single) && single.Count < 0) return single.Kind;
        var match = NumberedRegister().Match(name);
        return match.Success && _declared.TryGetValue(match.Groups[1].Value, out var range) && int.Parse(match.Groups[2].Value, CultureInfo.InvariantCulture) < range.Count ? range.Kind : null;
    }

    private static List<string> Kinds(string signature)
    {
        var kinds = new List<string>();
        for (var i = 0; i < signature.Length; i++)
        {
            if (signature[i] == '=') continue;
            var end = signature[i] == '{' ? signature.IndexOf('}', i) : i;
            kinds.Add(signature[i..(end + 1)]);
            i = end;
        }
        return kinds;
    }

    private static List<string> Split(string operands)
    {
        var result = new List<string>();
        var (start, depth) = (0, 0);
        for (var i = 0; i <= operands.Length; i++)
        {
            if (i < operands.Length && operands[i] is '{' or '[') depth++;
            if (i < operands.Length && operands[i] is '}' or ']') depth--;
            if (i < operands.Length && (operands[i] != ',' || depth > 0)) continue;
            result.Add(operands[start..i].Trim());
            start = i + 1;
        }
        return result;
    }

    private static List<string> Vector(string operand) => operand.StartsWith('{') && operand.EndsWith('}') ? [.. operand[1..^1].Split(',', StringSplitOptions.TrimEntries)] : [];

    private void Once(HashSet<string> names, string name)
    {
        if (!names.Add(name)) throw Error($"{name} is defined twice");
    }

    private TileException Error(string problem) => new($"PTX line {_line}, \"{_text.Trim()}\": {problem}.");

    [GeneratedRegex(@"^(0x[0-9A-F]{8}(, |,$|$))+$")]
    private static partial Regex TableLine();

    [GeneratedRegex(@"^\.maxntid [0-9]+, 1, 1$|^\.minnctapersm [0-9]+$|^\.explicitcluster$|^\.reqnctapercluster [248], 1, 1$")]
    private static partial Regex ProgramLine();

    [GeneratedRegex(@"^\.visible \.entry [A-Za-z_][A-Za-z0-9_]*\(\)?$")]
    private static partial Regex EntryLine();

    [GeneratedRegex(@"^(?:\.global \.align 16 \.b32|\.extern \.shared \.align 1024 \.b8) ([A-Za-z_][A-Za-z0-9_]*)\[[0-9]*\](?:;| = \{)$")]
    private static partial Regex Declaration();

    [GeneratedRegex(@"^\.param \.(?:u64|s64|f64|u32|s32|f32|align 64 \.b8) ([A-Za-z_][A-Za-z0-9_]*)(?:\[128\])?,?$")]
    private static partial Regex ParameterLine();

    [GeneratedRegex(@"^(\$[a-z_0-9]+):$")]
    private static partial Regex LabelLine();

    [GeneratedRegex(@"^\.reg \.(pred|b16|b32|b64) (.+)$")]
    private static partial Regex RegisterLine();

    [GeneratedRegex(@"^(%[a-z]+)<([0-9]+)>$")]
    private static partial Regex Range();

    [GeneratedRegex(@"^@!?(%p[0-9]+) ")]
    private static partial Regex Guard();

    [GeneratedRegex(@"^(%[a-z]+)([0-9]+)$")]
    private static partial Regex NumberedRegister();

    [GeneratedRegex(@"^(-?[0-9]+|0x[0-9A-Fa-f]+)$")]
    private static partial Regex Integer();

    [GeneratedRegex(@"^0f[0-9A-F]{8}$")]
    private static partial Regex Single();

    [GeneratedRegex(@"^0d[0-9A-F]{16}$")]
    private static partial Regex Double();

    [GeneratedRegex(@"^\[(%[a-z]+[0-9]+), \{(%[a-z]+[0-9]+), (%[a-z]+[0-9]+)\}\]$")]
    private static partial Regex Block();

    [GeneratedRegex(@"^\[(%[a-z]+[0-9]*)([+-][0-9]+)?\]$")]
    private static partial Regex Address();
}
