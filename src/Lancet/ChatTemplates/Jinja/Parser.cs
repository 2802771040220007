using System.Globalization;

namespace Lancet.ChatTemplates.Jinja;

/// <summary>Compiles expressions by recursive descent, in Jinja's order of precedence.</summary>
internal sealed partial class Parser(List<Token> tokens)
{
    // Deeper or longer than any template that people write, and shallow enough for the stack of any thread.
    private const int MaxDepth = 100;
    private const int MaxExpressionTokens = 2000;
    private int _at;
    private int _depth;
    private bool _readsVarargs;
    private bool _readsKwargs;

    private Token Current => tokens[_at];

    private LancetException Error(string message) => new($"chat template, line {Current.Line}: {message}");

    private bool IsOperator(string symbol) => Current.Kind == TokenKind.Operator && Current.Text == symbol;

    private bool IsName(string name) => Current.Kind == TokenKind.Name && Current.Text == name;

    private bool AcceptOperator(string symbol)
    {
        if (!IsOperator(symbol)) return false;
        _at++;
        return true;
    }

    private bool AcceptName(string name)
    {
        if (!IsName(name)) return false;
        _at++;
        return true;
    }

    private void ExpectOperator(string symbol)
    {
        if (!AcceptOperator(symbol)) throw Error($"'{symbol}' is expected.");
    }

    private string ExpectName() => Current.Kind == TokenKind.Name ? tokens[_at++].Text : throw Error("a name is expected.");

    /// <summary>Parses one level deeper.</summary>
    private T Nested<T>(Func<T> parse)
    {
        if (++_depth > MaxDepth) throw Error($"nested more than {MaxDepth} deep.");
        var result = parse();
        _depth--;
        return result;
    }

    private Expression ParseExpression()
    {
        var start = _at;
        var result = Nested(ParseConditional);
        return _at - start <= MaxExpressionTokens ? result : throw Error($"an expression of more than {MaxExpressionTokens} parts.");
    }

    /// <summary>value if condition else other.</summary>
    private Expression ParseConditional()
    {
        var value = ParseOr();
        if (!AcceptName("if")) return value;
        var condition = ParseOr();
        Expression otherwise = AcceptName("else") ? ParseExpression() : _ => Undefined.Value;
        return scope => Values.IsTrue(condition(scope)) ? value(scope) : otherwise(scope);
    }

    private Expression ParseOr()
    {
        var left = ParseAnd();
        while (AcceptName("or"))
        {
            var (a, b) = (left, ParseAnd());
            left = scope => a(scope) is var value && Values.IsTrue(value) ? value : b(scope);
        }
        return left;
    }

    private Expression ParseAnd()
    {
        var left = ParseNot();
        while (AcceptName("and"))
        {
            var (a, b) = (left, ParseNot());
            left = scope => a(scope) is var value && !Values.IsTrue(value) ? value : b(scope);
        }
        return left;
    }

    private Expression ParseNot()
    {
        if (!AcceptName("not")) return ParseComparison();
        var operand = Nested(ParseNot);
        return scope => !Values.IsTrue(operand(scope));
    }

    /// <summary>Comparisons; a chain holds if each of its links does: a &lt; b &lt; c.</summary>
    private Expression ParseComparison()
    {
        var first = ParseSum();
        var links = new List<(Func<object?, object?, bool> Holds, Expression Right)>();
        while (ParseComparator() is { } holds) links.Add((holds, ParseSum()));
        return links switch
        {
            [] => first,
            [var (holds, right)] => scope => holds(first(scope), right(scope)),
            _ => scope => Chained(first(scope), links, scope),
        };
    }

    private static object Chained(object? left, List<(Func<object?, object?, bool> Holds, Expression Right)> links, Scope scope)
    {
        foreach (var (holds, right) in links)
        {
            var value = right(scope);
            if (!holds(left, value)) return false;
            left = value;
        }
        return true;
    }

    /// <summary>The comparison that comes next, or null.</summary>
    private Func<object?, object?, bool>? ParseComparator()
    {
        if (AcceptName("in")) return (a, b) => Values.Contains(b, a);
        if (IsName("not") && tokens[_at + 1] is { Kind: TokenKind.Name, Text: "in" })
        {
            _at += 2;
            return (a, b) => !Values.Contains(b, a);
        }
        Func<object?, object?, bool>? holds = Current.Kind != TokenKind.Operator ? null : Current.Text switch
        {
            "==" => Values.Equals,
            "!=" => (a, b) => !Values.Equals(a, b),
            "<" => (a, b) => Values.Compare(a, b) < 0,
            ">" => (a, b) => Values.Compare(a, b) > 0,
            "<=" => (a, b) => Values.Compare(a, b) <= 0,
            ">=" => (a, b) => Values.Compare(a, b) >= 0,
            _ => null,
        };
        if (holds is not null) _at++;
        return holds;
    }

    private Expression ParseSum()
    {
        var left = ParseProduct();
        while (Current.Kind == TokenKind.Operator && Current.Text is "+" or "-" or "~" && Current.Kind == TokenKind.Operator)
        {
            var symbol = tokens[_at++].Text;
            var (a, b) = (left, ParseProduct());
            left = symbol == "~" ? scope => scope.Made(Values.Text(a(scope)) + Values.Text(b(scope))) : scope => Counted(scope, Values.Arithmetic(symbol, a(scope), b(scope)));
        }
        return left;
    }

    private Expression ParseProduct()
    {
        var left = ParseUnary();
        while (Current.Kind == TokenKind.Operator && Current.Text is "*" or "/" or "//" or "%" or "**" && Current.Kind == TokenKind.Operator)
        {
            var symbol = tokens[_at++].Text;
            var (a, b) = (left, ParseUnary());
            left = scope => Counted(scope, Values.Arithmetic(symbol, a(scope), b(scope)));
        }
        return left;
    }

    private static object Counted(Scope scope, object value)
    {
        scope.Step();
        return value is string text ? scope.Made(text) : value;
    }

    private Expression ParseUnary() => ParseUnary(true);

    /// <summary>A sign binds less than attributes and calls, and more than filters and tests.</summary>
    private Expression ParseUnary(bool takesFilters)
    {
        if (AcceptOperator("-"))
        {
            var operand = Nested(() => ParseUnary(false));
            return ParsePostfix(Negated, takesFilters);
            object? Negated(Scope scope) => operand(scope) switch { long i => (object)unchecked(-i), bool b => b ? -1L : 0L, var value => -Values.Number(value) };
        }
        if (AcceptOperator("+"))
        {
            var operand = Nested(() => ParseUnary(false));
            return ParsePostfix(Same, takesFilters);
            object? Same(Scope scope) => operand(scope) switch { long i => (object)i, bool b => b ? 1L : 0L, var value => Values.Number(value) };
        }
        return ParsePostfix(ParsePrimary(), takesFilters);
    }

    private Expression ParsePostfix(Expression value, bool takesFilters = true)
    {
        while (true)
        {
            var target = value;
            if (AcceptOperator("."))
            {
                if (Current.Kind == TokenKind.Integer)
                {
                    var index = long.TryParse(tokens[_at++].Text, CultureInfo.InvariantCulture, out var number) ? number : throw Error("an index is too large.");
                    value = scope => Members.Item(target(scope), index);
                    continue;
                }
                var name = ExpectName();
                value = scope => Members.Attribute(target(scope), name);
            }
            else if (AcceptOperator("["))
            {
                value = ParseSubscript(target);
            }
            else if (AcceptOperator("("))
            {
                var (positional, named) = ParseArguments();
                var line = Current.Line;
                value = scope =>
                {
                    scope.Step();
                    if (target(scope) is not Callable function) throw new LancetException($"chat template, line {line}: something that is not a function is called.");
                    using (scope.Enter()) return function(Evaluate(positional, scope), Evaluate(named, scope));
                };
            }
            else if (takesFilters && AcceptOperator("|"))
            {
                value = ParseFilter(target);
            }
            else if (takesFilters && AcceptName("is"))
            {
                var isNegated = AcceptName("not");
                var name = ExpectName();
                Expression? argument = null;
                if (AcceptOperator("("))
                {
                    argument = ParseExpression();
                    ExpectOperator(")");
                }
                else if (name is "equalto" or "eq" or "ne" or "in" or "sameas" or "divisibleby" or "gt" or "lt" or "ge" or "le")
                {
                    argument = ParsePrimary();
                }
                var test = Filters.Test(name) ?? throw Error($"the test '{name}' is not known.");
                value = scope => test(target(scope), argument?.Invoke(scope)) != isNegated;
            }
            else
            {
                return value;
            }
        }
    }

    private Expression ParseFilter(Expression target)
    {
        var name = ExpectName();
        var (positional, named) = AcceptOperator("(") ? ParseArguments() : ([], []);
        var filter = Filters.Find(name) ?? throw Error($"the filter '{name}' is not known.");
        return scope =>
        {
            scope.Step();
            var result = filter(target(scope), Evaluate(positional, scope), Evaluate(named, scope));
            return result is string text ? scope.Made(text) : result;
        };
    }

    private Expression ParseSubscript(Expression target)
    {
        Expression? start = null, stop = null, step = null;
        var isSlice = false;
        if (!IsOperator(":")) start = ParseExpression();
        if (AcceptOperator(":"))
        {
            isSlice = true;
            if (!IsOperator(":") && !IsOperator("]")) stop = ParseExpression();
            if (AcceptOperator(":") && !IsOperator("]")) step = ParseExpression();
        }
        ExpectOperator("]");
        return isSlice
            ? scope => Members.Slice(target(scope), start?.Invoke(scope), stop?.Invoke(scope), step?.Invoke(scope))
            : scope => Members.Item(target(scope), start!(scope));
    }

    /// <summary>Arguments up to the closing parenthesis; a named one without a name is a mapping after two stars.</summary>
    private (List<Expression> Positional, List<(string? Name, Expression Value)> Named) ParseArguments()
    {
        var positional = new List<Expression>();
        var named = new List<(string? Name, Expression Value)>();
        while (!AcceptOperator(")"))
        {
            if (Current.Kind == TokenKind.Name && tokens[_at + 1] is { Kind: TokenKind.Operator, Text: "=" })
            {
                var name = ExpectName();
                _at++;
                named.Add((name, ParseExpression()));
            }
            else if (AcceptOperator("**"))
            {
                named.Add((null, ParseExpression()));
            }
            else if (AcceptOperator("*"))
            {
                var list = ParseExpression();
                positional.Add(scope => new Spread(Values.Iterate(list(scope))));
            }
            else
            {
                positional.Add(ParseExpression());
            }
            if (!IsOperator(")")) ExpectOperator(",");
        }
        return (positional, named);
    }

    /// <summary>Values of positional arguments, those after a star one by one.</summary>
    private static List<object?> Evaluate(List<Expression> positional, Scope scope)
    {
        var result = new List<object?>(positional.Count);
        foreach (var argument in positional)
        {
            if (argument(scope) is var value && value is Spread spread) result.AddRange(spread.Items);
            else result.Add(value);
        }
        return result;
    }

    private static Dictionary<string, object?> Evaluate(List<(string? Name, Expression Value)> named, Scope scope)
    {
        var result = new Dictionary<string, object?>(named.Count);
        foreach (var (name, expression) in named)
        {
            var value = expression(scope);
            if (name is not null) result[name] = value;
            else if (value is Dictionary<string, object?> map) foreach (var (key, item) in map) result[key] = item;
            else throw new LancetException($"chat template: ** needs a mapping, not {Values.Describe(value)}.");
        }
        return result;
    }

    private sealed record Spread(IEnumerable<object?> Items);

    private Expression ParsePrimary()
    {
        var token = tokens[_at++];
        switch (token.Kind)
        {
            case TokenKind.String:
                var text = token.Text;
                while (Current.Kind == TokenKind.String) text += tokens[_at++].Text;
                return _ => text;
            case TokenKind.Integer:
                return long.TryParse(token.Text, CultureInfo.InvariantCulture, out var integer) ? _ => integer : throw Error($"{token.Text} is too large.");
            case TokenKind.Float:
                var number = double.Parse(token.Text, CultureInfo.InvariantCulture);
                return _ => number;
            case TokenKind.Name:
                _readsVarargs |= token.Text == "varargs";
                _readsKwargs |= token.Text == "kwargs";
                return token.Text switch
                {
                    "true" or "True" => _ => true,
                    "false" or "False" => _ => false,
                    "none" or "None" => _ => null,
                    var name => scope => scope.Get(name),
                };
            case TokenKind.Operator when token.Text == "(":
                if (AcceptOperator(")")) return _ => new List<object?>();
                var first = ParseExpression();
                if (!IsOperator(","))
                {
                    ExpectOperator(")");
                    return first;
                }
                return ParseList(first, ")");
            case TokenKind.Operator when token.Text == "[":
                return AcceptOperator("]") ? _ => new List<object?>() : ParseList(ParseExpression(), "]");
            case TokenKind.Operator when token.Text == "{":
                var pairs = new List<(Expression Key, Expression Value)>();
                while (!AcceptOperator("}"))
                {
                    var key = ParseExpression();
                    ExpectOperator(":");
                    pairs.Add((key, ParseExpression()));
                    if (!IsOperator("}")) ExpectOperator(",");
                }
                return scope =>
                {
                    var map = new Dictionary<string, object?>();
                    foreach (var (key, item) in pairs) map[Values.Text(key(scope))] = item(scope);
                    return map;
                };
            default:
                _at--;
                throw Error("an expression is expected.");
        }
    }

    private Expression ParseList(Expression first, string close)
    {
        var items = new List<Expression> { first };
        while (!AcceptOperator(close))
        {
            ExpectOperator(",");
            if (AcceptOperator(close)) break;
            items.Add(ParseExpression());
        }
        return scope => items.Select(item => item(scope)).ToList();
    }
}
