using System.Globalization;
using System.Text;
using System.Text.Json;

namespace Lancet.Tokenization;

/// <summary>The decoder of a tokenizer.json: what tokens become when they are text again.</summary>
internal sealed class TokenDecoder
{
    private readonly List<Func<string, bool, string>> _tokenSteps = [];
    private bool _joinsBytes;
    private bool _joinsFallbackBytes;
    private bool _isFused;
    private bool _putsSpaces;
    private (char Content, int Start, int Stop)? _strip;

    /// <summary>Reads the section of a tokenizer.json.</summary>
    /// <exception cref="LancetException">A kind is not supported.</exception>
    public static TokenDecoder Read(JsonElement root, string path)
    {
        var result = new TokenDecoder();
        // Without a decoder, tokens are words.
        if (!root.TryGetProperty("decoder", out var section) || section.ValueKind != JsonValueKind.Object) result._putsSpaces = true;
        else result.Add(section, path);
        return result;
    }

    private void Add(JsonElement json, string path)
    {
        switch (Section.Type(json))
        {
            case "Sequence":
                foreach (var part in json.GetProperty("decoders").EnumerateArray()) Add(part, path);
                break;
            case "Replace" when !_isFused && json.GetProperty("pattern").TryGetProperty("String", out var pattern):
                var (from, to) = (pattern.GetString()!, json.GetProperty("content").GetString()!);
                _tokenSteps.Add((token, _) => token.Replace(from, to, StringComparison.Ordinal));
                break;
            case "Metaspace":
                var (mark, scheme) = Section.Metaspace(json);
                _tokenSteps.Add((token, isFirst) => token.Replace(mark, isFirst && scheme != "never" ? "" : " ", StringComparison.Ordinal));
                break;
            case "ByteLevel": _joinsBytes = true; break;
            case "ByteFallback": _joinsFallbackBytes = true; break;
            case "Fuse": _isFused = true; break;
            case "Strip":
                var (content, start, stop) = (json.GetProperty("content").GetString()![0], json.GetProperty("start").GetInt32(), json.GetProperty("stop").GetInt32());
                if (_isFused) _strip = (content, start, stop);
                else _tokenSteps.Add((token, _) => Strip(token, content, start, stop));
                break;
            case var other: throw new LancetException($"{path}: decoder {other} is not supported here.");
        }
    }

    private static string Strip(string text, char content, int start, int stop)
    {
        var (from, to) = (0, text.Length);
        while (from < to && from < start && text[from] == content) from++;
        while (to > from && text.Length - to < stop && text[to - 1] == content) to--;
        return text[from..to];
    }

    /// <summary>Text that grows token by token.</summary>
    /// <param name="decoder">Decoder.</param>
    /// <param name="waitsForRuns">
    /// Whether a run of byte tokens is read as a whole: as in Hugging Face's tokenizers, every byte of a run that is not UTF-8 becomes U+FFFD.
    /// Otherwise its characters come out as they are complete.
    /// </param>
    internal sealed class State(TokenDecoder decoder, bool waitsForRuns)
    {
        private readonly Decoder _utf8 = Encoding.UTF8.GetDecoder();
        private readonly List<byte> _run = [];
        private readonly StringBuilder _output = new();
        private readonly char[] _characters = new char[8];
        private bool _isFirst = true;
        private int _strips = decoder._strip?.Start ?? 0;

        /// <summary>Adds a token.</summary>
        public void Add(string token)
        {
            foreach (var step in decoder._tokenSteps) token = step(token, _isFirst);
            if (decoder._putsSpaces && !_isFirst) _output.Append(' ');
            _isFirst = false;
            if (decoder._joinsBytes)
            {
                AddByteLevel(token);
            }
            else if (decoder._joinsFallbackBytes && token.Length == 6 && token.StartsWith("<0x", StringComparison.Ordinal) && token[5] == '>'
                && byte.TryParse(token.AsSpan(3, 2), NumberStyles.HexNumber, CultureInfo.InvariantCulture, out var value))
            {
                if (waitsForRuns) _run.Add(value);
                else Push(value);
            }
            else
            {
                EndRun();
                Append(token);
            }
        }

        /// <summary>What is complete and was not taken yet.</summary>
        public string Take()
        {
            var text = _output.ToString();
            _output.Clear();
            return text;
        }

        /// <summary>What is left at the end.</summary>
        public string Finish()
        {
            EndRun();
            var text = Take();
            return decoder._strip is { Stop: > 0 } strip ? Strip(text, strip.Content, 0, strip.Stop) : text;
        }

        private void AddByteLevel(string token)
        {
            // A token that is not written in byte-level characters, such as an added one, stands for itself.
            foreach (var c in token)
            {
                if (ByteLevel.TryGetByte(c, out _)) continue;
                Span<byte> utf8 = stackalloc byte[4];
                foreach (var rune in token.EnumerateRunes())
                    foreach (var value in utf8[..rune.EncodeToUtf8(utf8)]) Push(value);
                return;
            }
            foreach (var c in token)
            {
                ByteLevel.TryGetByte(c, out var value);
                Push(value);
            }
        }

        private void Push(byte value)
        {
            var count = _utf8.GetChars([value], _characters, false);
            Append(_characters.AsSpan(0, count));
        }

        private void EndRun()
        {
            if (_run.Count > 0)
            {
                if (System.Text.Unicode.Utf8.IsValid(System.Runtime.InteropServices.CollectionsMarshal.AsSpan(_run))) Append(Encoding.UTF8.GetString([.. _run]));
                else Append(new string('\uFFFD', _run.Count));
                _run.Clear();
            }
            var count = _utf8.GetChars([], _characters, true);
            Append(_characters.AsSpan(0, count));
        }

        private void Append(ReadOnlySpan<char> text)
        {
            while (_strips > 0 && text.Length > 0)
            {
                if (text[0] != decoder._strip!.Value.Content)
                {
                    _strips = 0;
                    break;
                }
                text = text[1..];
                _strips--;
            }
            _output.Append(text);
        }
    }
}
