using System.Globalization;
using System.Text;
using System.Text.RegularExpressions;

namespace Lancet.ChatTemplates.Jinja;

internal enum TokenKind
{
    Text,
    OutputBegin,
    OutputEnd,
    BlockBegin,
    BlockEnd,
    Name,
    String,
    Integer,
    Float,
    Operator,
    End,
}

internal readonly record struct Token(TokenKind Kind, string Text, int Line);

/// <summary>Cuts a template into tokens, with Jinja's whitespace control and Hugging Face's settings trim_blocks and lstrip_blocks.</summary>
internal static partial class Lexer
{
    private static readonly string[] s_operators = ["==", "!=", "<=", ">=", "//", "**", "+", "-", "*", "/", "%", "~", "<", ">", "=", "(", ")", "[", "]", "{", "}", ",", ":", ".", "|"];

    public static List<Token> Tokenize(string source)
    {
        var tokens = new List<Token>();
        source = source.Replace("\r\n", "\n", StringComparison.Ordinal);
        // As in Jinja's default, the newline that ends the file is not text.
        if (source.EndsWith('\n')) source = source[..^1];
        int at = 0, line = 1;
        var trimsNext = false;
        var trimsNewline = false;
        while (at < source.Length)
        {
            var open = FindOpening(source, at);
            var text = source[at..open];
            var textLine = line;
            line += text.AsSpan().Count('\n');
            var isLineStart = at == 0;
            if (trimsNext) text = text.TrimStart();
            else if (trimsNewline && text.StartsWith('\n')) (text, isLineStart) = (text[1..], true);
            (trimsNext, trimsNewline) = (false, false);
            if (open >= source.Length)
            {
                if (text.Length > 0) tokens.Add(new(TokenKind.Text, text, textLine));
                break;
            }
            var kind = source[open + 1];
            if (open + 2 < source.Length && source[open + 2] == '-') text = text.TrimEnd();
            else if (kind != '{' && !(open + 2 < source.Length && source[open + 2] == '+')) text = StripLine(text, isLineStart);
            if (text.Length > 0) tokens.Add(new(TokenKind.Text, text, textLine));
            if (kind == '#')
            {
                var close = source.IndexOf("#}", open + 2, StringComparison.Ordinal);
                if (close < 0) throw new LancetException($"chat template, line {line}: a comment is not closed.");
                line += source.AsSpan(open, close - open).Count('\n');
                (trimsNext, trimsNewline) = (source[close - 1] == '-' && close > open + 2, true);
                at = close + 2;
                continue;
            }
            if (kind == '%' && RawBegin().Match(source, open) is { Success: true } begin)
            {
                if (RawEnd().Match(source, open + begin.Length) is not { Success: true } end) throw new LancetException($"chat template, line {line}: {{% endraw %}} is missing.");
                var raw = source[(open + begin.Length)..end.Index];
                if (begin.Groups[1].Value == "-") raw = raw.TrimStart();
                raw = end.Groups[1].Value switch { "-" => raw.TrimEnd(), "+" => raw, _ => StripLine(raw, false) };
                if (raw.Length > 0) tokens.Add(new(TokenKind.Text, raw, line));
                at = end.Index + end.Length;
                line += source.AsSpan(open, at - open).Count('\n');
                (trimsNext, trimsNewline) = (end.Groups[2].Value == "-", end.Groups[2].Value == "");
                continue;
            }
            at = open + 2;
            if (at < source.Length && source[at] is '-' or '+') at++;
            tokens.Add(new(kind == '{' ? TokenKind.OutputBegin : TokenKind.BlockBegin, "", line));
            at = Inside(source, at, kind == '{' ? "}}" : "%}", tokens, ref line, out var sign);
            tokens.Add(new(kind == '{' ? TokenKind.OutputEnd : TokenKind.BlockEnd, "", line));
            (trimsNext, trimsNewline) = (sign == '-', kind == '%' && sign != '+');
        }
        tokens.Add(new(TokenKind.End, "", line));
        return tokens;
    }

    [GeneratedRegex(@"\G\{%[-+]?\s*raw\s*(-?)%\}")]
    private static partial Regex RawBegin();

    [GeneratedRegex(@"\{%([-+]?)\s*endraw\s*([-+]?)%\}")]
    private static partial Regex RawEnd();

    private static int FindOpening(string source, int from)
    {
        for (var i = from; i + 1 < source.Length; i++)
            if (source[i] == '{' && source[i + 1] is '{' or '%' or '#' && source[i] == '{') return i;
        return source.Length;
    }

    /// <summary>lstrip_blocks: blanks between the start of a line and a block tag go.</summary>
    private static string StripLine(string text, bool isStart)
    {
        var end = text.Length;
        while (end > 0 && text[end - 1] is ' ' or '\t' && end > 0) end--;
        return end == 0 ? (isStart ? "" : text) : text[end - 1] == '\n' ? text[..end] : text;
    }

    private static int Inside(string source, int at, string close, List<Token> tokens, ref int line, out char sign)
    {
        var depth = 0;
        while (true)
        {
            while (at < source.Length && char.IsWhiteSpace(source[at]))
                if (source[at++] == '\n') line++;
            if (at >= source.Length) throw new LancetException($"chat template, line {line}: a tag is not closed.");
            if (depth == 0 && string.CompareOrdinal(source, at, close, 0, 2) == 0)
            {
                sign = '\0';
                return at + 2;
            }
            if (depth == 0 && source[at] is '-' or '+' && string.CompareOrdinal(source, at + 1, close, 0, 2) == 0 && depth == 0)
            {
                sign = source[at];
                return at + 3;
            }
            var c = source[at];
            if (c is '\'' or '"')
            {
                at = Quoted(source, at, tokens, ref line);
            }
            else if (char.IsAsciiDigit(c))
            {
                var start = at;
                at = Digits(source, at);
                // After a dot it is an index: a.0.1 is the second item of the first.
                var isFloat = tokens[^1] is not { Kind: TokenKind.Operator, Text: "." } && at + 1 < source.Length && source[at] == '.' && char.IsAsciiDigit(source[at + 1]);
                if (isFloat) at = Digits(source, at + 1);
                if (Exponent(source, at) is var end && end > at) (isFloat, at) = (true, end);
                tokens.Add(new(isFloat ? TokenKind.Float : TokenKind.Integer, source[start..at].Replace("_", "", StringComparison.Ordinal), line));
            }
            else if (char.IsLetter(c) || c == '_')
            {
                var start = at;
                while (at < source.Length && (char.IsLetterOrDigit(source[at]) || source[at] == '_')) at++;
                tokens.Add(new(TokenKind.Name, source[start..at], line));
            }
            else
            {
                var position = at;
                var symbol = Array.Find(s_operators, op => string.CompareOrdinal(source, position, op, 0, op.Length) == 0)
                    ?? throw new LancetException($"chat template, line {line}: unexpected character '{c}'.");
                if (symbol is "{" or "(" or "[") depth++;
                if (symbol is "}" or ")" or "]") depth--;
                tokens.Add(new(TokenKind.Operator, symbol, line));
                at += symbol.Length;
            }
        }
    }

    /// <summary>The end of a run of digits, which may have single underscores between them.</summary>
    private static int Digits(string source, int at)
    {
        while (at < source.Length && (char.IsAsciiDigit(source[at]) || (source[at] == '_' && at + 1 < source.Length && char.IsAsciiDigit(source[at + 1])))) at++;
        return at;
    }

    /// <summary>The end of an exponent, or the same place if there is none.</summary>
    private static int Exponent(string source, int at)
    {
        if (at >= source.Length || source[at] is not ('e' or 'E')) return at;
        var digits = at + 1 < source.Length && source[at + 1] is '+' or '-' ? at + 2 : at + 1;
        return digits < source.Length && char.IsAsciiDigit(source[digits]) ? Digits(source, digits) : at;
    }

    private static int Quoted(string source, int at, List<Token> tokens, ref int line)
    {
        var quote = source[at++];
        var text = new StringBuilder();
        var start = line;
        while (at < source.Length && source[at] != quote)
        {
            var c = source[at++];
            if (c == '\n') line++;
            if (c != '\\' || at >= source.Length)
            {
                text.Append(c);
                continue;
            }
            c = source[at++];
            if (c == 'u' && at + 4 <= source.Length && int.TryParse(source.AsSpan(at, 4), NumberStyles.HexNumber, CultureInfo.InvariantCulture, out var code))
            {
                text.Append((char)code);
                at += 4;
                continue;
            }
            text.Append(c switch { 'n' => "\n", 't' => "\t", 'r' => "\r", '\\' or '\'' or '"' => c.ToString(), _ => "\\" + c });
        }
        if (at >= source.Length) throw new LancetException($"chat template, line {start}: a string is not closed.");
        tokens.Add(new(TokenKind.String, text.ToString(), start));
        return at + 1;
    }
}
