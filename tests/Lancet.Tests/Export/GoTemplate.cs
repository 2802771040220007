namespace Lancet.Tests.Export;

/// <summary>As much of Go's text/template as Ollama's templates here use: range with index and value, if, else, else if, fields, eq, and, not.</summary>
internal sealed class GoTemplate
{
    private readonly List<string> _parts = [];
    private int _at;

    private GoTemplate(string source)
    {
        for (var at = 0; at < source.Length;)
        {
            var open = source.IndexOf("{{", at, StringComparison.Ordinal);
            if (open < 0) open = source.Length;
            _parts.Add(source[at..open]);
            if (open == source.Length) break;
            var close = source.IndexOf("}}", open, StringComparison.Ordinal);
            Assert.True(close > 0, "an action is not closed");
            _parts.Add(source[(open + 2)..close].Trim());
            at = close + 2;
        }
    }

    /// <summary>Renders turns as Ollama does: the system message is a turn like the others, and a field of its own.</summary>
    public static string Render(string source, IReadOnlyList<(string Role, string Content)> messages)
    {
        var template = new GoTemplate(source);
        var scope = new Scope(messages, string.Join("\n\n", messages.Where(turn => turn.Role == "system").Select(turn => turn.Content)), null, 0);
        var text = template.Block(scope, true, out var end);
        Assert.Null(end);
        return text;
    }

    private sealed record Scope(IReadOnlyList<(string Role, string Content)> Messages, string System, (string Role, string Content)? Turn, int Index);

    /// <summary>Texts (at even places) and actions up to an end or else, which is returned.</summary>
    private string Block(Scope scope, bool isWanted, out string? end)
    {
        var text = "";
        for (; _at < _parts.Count; _at++)
        {
            if (_at % 2 == 0)
            {
                if (isWanted) text += _parts[_at];
                continue;
            }
            var action = _parts[_at];
            if (action == "end" || action.StartsWith("else", StringComparison.Ordinal))
            {
                end = action;
                return text;
            }
            if (action.StartsWith("range", StringComparison.Ordinal)) text += Range(scope, isWanted);
            else if (action.StartsWith("if ", StringComparison.Ordinal)) text += If(scope, isWanted, action[3..]);
            else if (isWanted) text += Value(scope, action);
        }
        end = null;
        return text;
    }

    private string Range(Scope scope, bool isWanted)
    {
        var (text, start) = ("", ++_at);
        var turns = isWanted ? scope.Messages.Count : 0;
        for (var i = 0; i < Math.Max(1, turns); i++)
        {
            _at = start;
            text += Block(turns == 0 ? scope : scope with { Turn = scope.Messages[i], Index = i }, turns > 0, out var end);
            Assert.Equal("end", end);
        }
        return text;
    }

    private string If(Scope scope, bool isWanted, string condition)
    {
        var (text, isDone) = ("", !isWanted);
        while (true)
        {
            _at++;
            var holds = !isDone && (condition.Length == 0 || IsTrue(scope, condition));
            text += Block(scope, holds, out var end);
            isDone |= holds;
            Assert.NotNull(end);
            if (end == "end") return text;
            condition = end == "else" ? "" : end["else if ".Length..];
        }
    }

    private static bool IsTrue(Scope scope, string condition)
    {
        if (condition.StartsWith("not ", StringComparison.Ordinal)) return !IsTrue(scope, condition[4..]);
        if (condition.StartsWith("and ", StringComparison.Ordinal))
        {
            var open = condition.IndexOf('(', StringComparison.Ordinal);
            return IsTrue(scope, condition[4..open].Trim()) && IsTrue(scope, condition[(open + 1)..^1]);
        }
        if (!condition.StartsWith("eq ", StringComparison.Ordinal)) return Value(scope, condition).Length > 0;
        var parts = condition.Split(' ', 3);
        return Value(scope, parts[1]) == parts[2].Trim('"');
    }

    private static string Value(Scope scope, string name) => name switch
    {
        ".Role" => scope.Turn!.Value.Role,
        ".Content" => scope.Turn!.Value.Content,
        ".System" when scope.Turn is null => scope.System,
        "$.System" => scope.System,
        "$i" => scope.Index.ToString(System.Globalization.CultureInfo.InvariantCulture),
        _ => throw new ArgumentException($"{name} is not there."),
    };
}
