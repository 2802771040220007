using System.Text;

namespace Lancet.ChatTemplates.Jinja;

/// <summary>A function or macro that a template can call: positional and keyword arguments in, a value out.</summary>
internal delegate object? Callable(List<object?> arguments, Dictionary<string, object?> named);

/// <summary>The value of a name that was never set.</summary>
internal sealed class Undefined
{
    public static readonly Undefined Value = new();

    public override string ToString() => "";
}

/// <summary>What namespace() makes: a mapping whose fields a template may set.</summary>
internal sealed class Namespace(Dictionary<string, object?> fields) : Dictionary<string, object?>(fields);

/// <summary>A pair that groupby makes: the key and the list of its items.</summary>
internal sealed class Group(object? key, List<object?> items) : List<object?>([key, items]);

/// <summary>Content in parts, which knows whether the template looked into it.</summary>
internal sealed class ContentParts(List<object?> parts) : List<object?>(parts)
{
    public bool WasRead { get; set; }
}

/// <summary>Variables of a render, in nested scopes, and the limits that keep a hostile template from running or growing for ever.</summary>
internal sealed class Scope(Scope? parent)
{
    private const int MaxSteps = 2_000_000;
    private const int MaxCharacters = 50_000_000;
    private readonly Dictionary<string, object?> _variables = [];
    private readonly Limits _limits = parent?._limits ?? new Limits();

    public object? Get(string name)
    {
        for (var scope = this; scope is not null; scope = scope.Parent)
            if (scope._variables.TryGetValue(name, out var value)) return value;
        return Undefined.Value;
    }

    public void Set(string name, object? value) => _variables[name] = value;

    private Scope? Parent { get; } = parent;

    /// <summary>The scope around all.</summary>
    public Scope Root => Parent?.Root ?? this;

    /// <summary>Watches where output comes from, or null.</summary>
    public OutputTracker? Tracker
    {
        get => _limits.Tracker;
        set => _limits.Tracker = value;
    }

    /// <summary>Counts a step of work.</summary>
    public void Step()
    {
        if (++_limits.Steps > MaxSteps) throw new LancetException("chat template: gave up after two million steps; does it loop?");
    }

    /// <summary>Counts characters that are made.</summary>
    public string Made(string text)
    {
        if ((_limits.Characters += text.Length) > MaxCharacters) throw new LancetException("chat template: gave up after fifty million characters of text.");
        return text;
    }

    /// <summary>Enters a call; calls may be 100 deep.</summary>
    public IDisposable Enter() => new Call(_limits);

    private sealed class Limits
    {
        public int Steps;
        public long Characters;
        public int Depth;
        public OutputTracker? Tracker;
    }

    private sealed class Call : IDisposable
    {
        private readonly Limits _limits;

        public Call(Limits limits)
        {
            _limits = limits;
            if (++_limits.Depth > 100) throw new LancetException("chat template: macros call each other more than 100 deep.");
        }

        public void Dispose() => _limits.Depth--;
    }
}

/// <summary>How a block of statements ended.</summary>
internal enum Flow
{
    Normal,
    Break,
    Continue,
}

/// <summary>A compiled piece of a template.</summary>
internal delegate Flow Statement(Scope scope, StringBuilder output);

/// <summary>A compiled expression.</summary>
internal delegate object? Expression(Scope scope);
