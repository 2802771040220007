using System.Text;

namespace Lancet.ChatTemplates.Jinja;

// Statements: for, if, set, macro, filter, generation, break and continue.
internal sealed partial class Parser
{
    public Statement ParseTemplate()
    {
        var body = ParseBlock();
        return Current.Kind == TokenKind.End ? body : throw Error($"unexpected '{tokens[_at + 1].Text}'.");
    }

    /// <summary>Statements up to a closing tag, which stays unread.</summary>
    private Statement ParseBlock(params string[] closings) => Nested(() => ParseStatements(closings));

    private Statement ParseStatements(string[] closings)
    {
        var statements = new List<Statement>();
        while (true)
        {
            switch (Current.Kind)
            {
                case TokenKind.End:
                    return closings.Length == 0 ? Sequence(statements) : throw Error($"{{% {closings[^1]} %}} is missing.");
                case TokenKind.Text:
                    var text = tokens[_at++].Text;
                    statements.Add((scope, output) =>
                    {
                        output.Append(scope.Made(text));
                        return Flow.Normal;
                    });
                    break;
                case TokenKind.OutputBegin:
                    _at++;
                    var value = ParseExpression();
                    Close(TokenKind.OutputEnd);
                    statements.Add((scope, output) =>
                    {
                        output.Append(scope.Made(Values.Text(value(scope))));
                        return Flow.Normal;
                    });
                    break;
                default:
                    if (closings.Contains(tokens[_at + 1].Text)) return Sequence(statements);
                    _at++;
                    statements.Add(ParseTag());
                    break;
            }
        }
    }

    private static Statement Sequence(List<Statement> statements)
    {
        var all = statements.ToArray();
        return (scope, output) =>
        {
            foreach (var statement in all)
            {
                scope.Step();
                if (statement(scope, output) is var flow && flow != Flow.Normal) return flow;
            }
            return Flow.Normal;
        };
    }

    private void Close(TokenKind kind)
    {
        if (Current.Kind != kind) throw Error($"unexpected '{Current.Text}'.");
        _at++;
    }

    private void CloseTag(string name)
    {
        _at++;
        if (ExpectName() != name) throw Error($"{{% {name} %}} is expected.");
        Close(TokenKind.BlockEnd);
    }

    private Statement ParseTag()
    {
        var tag = ExpectName();
        switch (tag)
        {
            case "for": return ParseFor();
            case "if": return ParseIf();
            case "set": return ParseSet();
            case "macro": return ParseMacro();
            case "call": return ParseCall();
            case "generation":
                Close(TokenKind.BlockEnd);
                var body = ParseBlock("endgeneration");
                CloseTag("endgeneration");
                return (scope, output) =>
                {
                    var start = output.Length;
                    var flow = body(scope, output);
                    scope.Tracker?.EndGeneration(output, start);
                    return flow;
                };
            case "filter":
                var held = "";
                var filter = ParseFilters(ParseFilter(_ => held));
                Close(TokenKind.BlockEnd);
                var filtered = ParseBlock("endfilter");
                CloseTag("endfilter");
                return (scope, output) =>
                {
                    var inner = new StringBuilder();
                    var flow = filtered(scope, inner);
                    held = inner.ToString();
                    output.Append(Values.Text(filter(scope)));
                    return flow;
                };
            case "with": return ParseWith();
            case "break" or "continue":
                Close(TokenKind.BlockEnd);
                return (_, _) => tag == "break" ? Flow.Break : Flow.Continue;
            default:
                throw Error($"the tag '{tag}' is not supported.");
        }
    }

    /// <summary>The filters that follow, each after a bar.</summary>
    private Expression ParseFilters(Expression value)
    {
        while (AcceptOperator("|")) value = ParseFilter(value);
        return value;
    }

    /// <summary>Names that are set for a block only; their values are those of the outside.</summary>
    private Statement ParseWith()
    {
        var values = new List<(string Name, Expression Value)>();
        while (Current.Kind != TokenKind.BlockEnd)
        {
            if (values.Count > 0) ExpectOperator(",");
            var name = ExpectName();
            ExpectOperator("=");
            values.Add((name, ParseExpression()));
        }
        Close(TokenKind.BlockEnd);
        var body = ParseBlock("endwith");
        CloseTag("endwith");
        return (scope, output) =>
        {
            var inner = new Scope(scope);
            foreach (var (name, value) in values) inner.Set(name, value(scope));
            return body(inner, output);
        };
    }

    private Statement ParseFor()
    {
        var isGrouped = AcceptOperator("(");
        var names = new List<string> { ExpectName() };
        while (AcceptOperator(",")) names.Add(ExpectName());
        if (isGrouped) ExpectOperator(")");
        if (!AcceptName("in")) throw Error("'in' is expected.");
        var source = ParseOr();
        var condition = AcceptName("if") ? ParseExpression() : null;
        Close(TokenKind.BlockEnd);
        var body = ParseBlock("endfor", "else");
        Statement? otherwise = null;
        if (tokens[_at + 1].Text == "else")
        {
            CloseTag("else");
            otherwise = ParseBlock("endfor");
        }
        CloseTag("endfor");
        return (scope, output) =>
        {
            var items = new List<object?>();
            foreach (var item in Values.Iterate(source(scope)))
            {
                scope.Step();
                if (condition is not null)
                {
                    var trial = new Scope(scope);
                    Bind(trial, names, item);
                    if (!Values.IsTrue(condition(trial))) continue;
                }
                items.Add(item);
            }
            List<object?>? last = null;
            if (items.Count == 0) return otherwise?.Invoke(scope, output) ?? Flow.Normal;
            for (var i = 0; i < items.Count; i++)
            {
                scope.Step();
                var place = i;
                var inner = new Scope(scope);
                Bind(inner, names, items[i]);
                inner.Set("loop", new Dictionary<string, object?>
                {
                    ["index"] = (long)i + 1,
                    ["index0"] = (long)i,
                    ["first"] = i == 0,
                    ["last"] = i == items.Count - 1,
                    ["length"] = (long)items.Count,
                    ["revindex"] = (long)items.Count - i,
                    ["revindex0"] = (long)items.Count - i - 1,
                    ["previtem"] = i == 0 ? Undefined.Value : items[i - 1],
                    ["nextitem"] = i == items.Count - 1 ? Undefined.Value : items[i + 1],
                    ["depth"] = 1L,
                    ["depth0"] = 0L,
                    ["cycle"] = (Callable)((arguments, _) => arguments.Count > 0 ? arguments[place % arguments.Count] : throw new LancetException("chat template: loop.cycle() without values.")),
                    ["changed"] = (Callable)((arguments, _) =>
                    {
                        var isSame = last is not null && Values.Equals(last, arguments);
                        last = arguments;
                        return !isSame;
                    }),
                });
                var start = output.Length;
                var flow = body(inner, output);
                scope.Tracker?.EndTurn(items[i], output, start);
                if (flow == Flow.Break) break;
            }
            return Flow.Normal;
        };
    }

    private static void Bind(Scope scope, List<string> names, object? item)
    {
        if (names.Count == 1)
        {
            scope.Set(names[0], item);
            return;
        }
        if (item is not List<object?> parts || parts.Count != names.Count) throw new LancetException($"chat template: an item cannot be unpacked into {names.Count} names.");
        for (var i = 0; i < names.Count; i++) scope.Set(names[i], parts[i]);
    }

    private Statement ParseIf()
    {
        var branches = new List<(Expression? Condition, Statement Body)>();
        Expression? condition = ParseExpression();
        while (true)
        {
            Close(TokenKind.BlockEnd);
            var body = condition is null ? ParseBlock("endif") : ParseBlock("endif", "elif", "else");
            branches.Add((condition, body));
            _at++;
            var next = ExpectName();
            if (next == "endif") break;
            condition = next == "elif" ? ParseExpression() : null;
        }
        Close(TokenKind.BlockEnd);
        return (scope, output) =>
        {
            foreach (var (test, body) in branches)
                if (test is null || Values.IsTrue(test(scope))) return body(scope, output);
            return Flow.Normal;
        };
    }

    private Statement ParseSet()
    {
        var isGrouped = AcceptOperator("(");
        var names = new List<string> { ExpectName() };
        string? attribute = null;
        if (AcceptOperator(".")) attribute = ExpectName();
        while (AcceptOperator(",")) names.Add(ExpectName());
        if (isGrouped) ExpectOperator(")");
        if (AcceptOperator("="))
        {
            var value = ParseExpression();
            if (IsOperator(",")) value = ParseTuple(value);
            Close(TokenKind.BlockEnd);
            return (scope, _) =>
            {
                Assign(scope, value(scope));
                return Flow.Normal;
            };
        }
        var held = "";
        var filtered = ParseFilters(_ => held);
        Close(TokenKind.BlockEnd);
        var body = ParseBlock("endset");
        CloseTag("endset");
        return (scope, _) =>
        {
            var text = new StringBuilder();
            body(new Scope(scope), text);
            held = text.ToString();
            Assign(scope, filtered(scope));
            return Flow.Normal;
        };

        void Assign(Scope scope, object? value)
        {
            if (attribute is null) Bind(scope, names, value);
            else if (scope.Get(names[0]) is Namespace fields) fields[attribute] = value;
            else throw new LancetException($"chat template: {names[0]} is not a namespace.");
        }
    }

    private Expression ParseTuple(Expression first)
    {
        var items = new List<Expression> { first };
        while (AcceptOperator(",")) items.Add(ParseExpression());
        return scope => items.Select(item => item(scope)).ToList();
    }

    private Statement ParseMacro()
    {
        var name = ExpectName();
        ExpectOperator("(");
        var macro = ParseMacroBody(name, true, "endmacro");
        return (scope, _) =>
        {
            scope.Set(name, Macro(scope, macro));
            return Flow.Normal;
        };
    }

    /// <summary>Calls a macro that can call the block's body back as caller().</summary>
    private Statement ParseCall()
    {
        var parameters = AcceptOperator("(") ? ParseParameters() : [];
        var target = ParsePostfix(ParsePrimary());
        var macro = ParseMacroBody("caller", false, "endcall") with { Parameters = parameters };
        return (scope, output) =>
        {
            var inner = new Scope(scope);
            // A macro runs in the scope of its definition, so the body reaches it through the scope that all share.
            var outer = scope.Root.Get("caller");
            scope.Root.Set("caller", Macro(inner, macro));
            output.Append(scope.Made(Values.Text(target(inner))));
            scope.Root.Set("caller", outer);
            return Flow.Normal;
        };
    }

    private List<(string Name, Expression? Default)> ParseParameters()
    {
        var parameters = new List<(string Name, Expression? Default)>();
        while (!AcceptOperator(")"))
        {
            var parameter = ExpectName();
            parameters.Add((parameter, AcceptOperator("=") ? ParseExpression() : null));
            if (!IsOperator(")")) ExpectOperator(",");
        }
        return parameters;
    }

    /// <summary>A macro's parameters (unless they were read before) and its statements up to the closing tag.</summary>
    private MacroBody ParseMacroBody(string name, bool hasParameters, string closing)
    {
        var outer = (_readsVarargs, _readsKwargs);
        (_readsVarargs, _readsKwargs) = (false, false);
        var parameters = hasParameters ? ParseParameters() : [];
        Close(TokenKind.BlockEnd);
        var body = ParseBlock(closing);
        CloseTag(closing);
        var macro = new MacroBody(name, parameters, body, _readsVarargs, _readsKwargs);
        (_readsVarargs, _readsKwargs) = outer;
        return macro;
    }

    private sealed record MacroBody(string Name, List<(string Name, Expression? Default)> Parameters, Statement Body, bool TakesVarargs, bool TakesKwargs);

    private static Callable Macro(Scope scope, MacroBody macro) => (arguments, named) =>
    {
        var parameters = macro.Parameters;
        if (arguments.Count > parameters.Count && !macro.TakesVarargs) throw new LancetException($"chat template: the macro '{macro.Name}' takes {parameters.Count} arguments, not {arguments.Count}.");
        var others = named.Where(item => !parameters.Exists(parameter => parameter.Name == item.Key)).ToDictionary();
        if (others.Count > 0 && !macro.TakesKwargs) throw new LancetException($"chat template: the macro '{macro.Name}' takes no argument '{others.First().Key}'.");
        var inner = new Scope(scope);
        for (var i = 0; i < parameters.Count; i++)
            inner.Set(parameters[i].Name, i < arguments.Count ? arguments[i] : named.TryGetValue(parameters[i].Name, out var value) ? value : parameters[i].Default is { } other ? other(inner) : Undefined.Value);
        if (macro.TakesVarargs) inner.Set("varargs", arguments.Skip(parameters.Count).ToList());
        if (macro.TakesKwargs) inner.Set("kwargs", others);
        var text = new StringBuilder();
        macro.Body(inner, text);
        return text.ToString();
    };
}
