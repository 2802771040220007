using System.Globalization;
using System.Text;

namespace Lancet.ChatTemplates.Jinja;

/// <summary>A compiled template.</summary>
internal sealed class Template
{
    private const int MaxRange = 100_000;
    private readonly Statement _body;

    private Template(Statement body) => _body = body;

    public static Template Parse(string source) => new(new Parser(Lexer.Tokenize(source)).ParseTemplate());

    public string Render(Dictionary<string, object?> variables) => Render(variables, null, out _);

    /// <summary>Renders, and tells where the text of each of the messages comes from.</summary>
    public string Render(Dictionary<string, object?> variables, List<object?>? messages, out OutputTracker? tracker)
    {
        var output = new StringBuilder();
        tracker = messages is null ? null : new OutputTracker(output, messages);
        var scope = new Scope(null) { Tracker = tracker };
        scope.Set("raise_exception", (Callable)((arguments, _) => throw new LancetException($"the chat template refuses the conversation: {Values.Text(arguments.FirstOrDefault())}")));
        scope.Set("namespace", (Callable)((arguments, named) => new Namespace(Mapping(arguments, named))));
        scope.Set("dict", (Callable)Mapping);
        scope.Set("range", (Callable)((arguments, _) => Range(arguments)));
        scope.Set("strftime_now", (Callable)((arguments, _) => DateTime.Now.ToString(Format(Values.Text(arguments[0])), CultureInfo.InvariantCulture)));
        foreach (var (name, value) in variables) scope.Set(name, value);
        try
        {
            _body(scope, output);
        }
        catch (ArgumentOutOfRangeException error)
        {
            throw new LancetException("chat template: a function or filter lacks an argument.", error);
        }
        return output.ToString();
    }

    private static Dictionary<string, object?> Mapping(List<object?> arguments, Dictionary<string, object?> named)
    {
        var map = arguments.FirstOrDefault() is Dictionary<string, object?> given ? new Dictionary<string, object?>(given) : [];
        foreach (var (name, value) in named) map[name] = value;
        return map;
    }

    private static List<object?> Range(List<object?> arguments)
    {
        var (start, stop, step) = arguments.Count switch
        {
            1 => (0L, Values.Integer(arguments[0]), 1L),
            2 => (Values.Integer(arguments[0]), Values.Integer(arguments[1]), 1L),
            _ => (Values.Integer(arguments[0]), Values.Integer(arguments[1]), Values.Integer(arguments[2])),
        };
        if (step == 0 || Math.Abs((double)stop - start) / Math.Abs((double)step) > MaxRange) throw new LancetException($"chat template: a range of more than {MaxRange} numbers.");
        var result = new List<object?>();
        for (var i = start; step > 0 ? i < stop : i > stop; i += step) result.Add(i);
        return result;
    }

    /// <summary>A strftime pattern in .NET's terms, for the directives that templates use.</summary>
    private static string Format(string pattern)
    {
        var result = new StringBuilder();
        for (var i = 0; i < pattern.Length; i++)
        {
            if (pattern[i] != '%' || i + 1 == pattern.Length)
            {
                result.Append('\\').Append(pattern[i]);
                continue;
            }
            result.Append(pattern[++i] switch { 'd' => "dd", 'm' => "MM", 'Y' => "yyyy", 'y' => "yy", 'b' => "MMM", 'B' => "MMMM", 'A' => "dddd", 'a' => "ddd", 'H' => "HH", 'M' => "mm", 'S' => "ss", var other => $"\\{other}" });
        }
        return result.ToString();
    }
}
