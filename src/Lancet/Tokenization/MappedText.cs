using System.Text;

namespace Lancet.Tokenization;

/// <summary>A text that was changed on its way to the tokens, and the index of the input's character that each of its UTF-16 units comes from.</summary>
/// <param name="Text">Text.</param>
/// <param name="Origins">An index for each unit; null where they follow one another from <paramref name="Start"/>.</param>
/// <param name="Start">Index of the first unit where nothing was changed.</param>
internal readonly record struct MappedText(string Text, int[]? Origins, int Start)
{
    /// <summary>The input's character that a unit comes from.</summary>
    public int Origin(int index) => Origins is null ? Start + index : Origins[index];

    /// <summary>A part of the text.</summary>
    public MappedText Slice(int start, int end) => (start, end) == (0, Text.Length) ? this : new(Text[start..end], Origins?[start..end], Start + start);

    /// <summary>Builds a changed text unit by unit.</summary>
    internal sealed class Builder(MappedText source)
    {
        private readonly StringBuilder _text = new(source.Text.Length + 16);
        private readonly List<int> _origins = new(source.Text.Length + 16);

        /// <summary>Units written so far.</summary>
        public int Length => _text.Length;

        /// <summary>Copies units of the source.</summary>
        public void Copy(int start, int end)
        {
            _text.Append(source.Text, start, end - start);
            for (var i = start; i < end; i++) _origins.Add(source.Origin(i));
        }

        /// <summary>Writes text that stands for a unit of the source.</summary>
        public void Write(ReadOnlySpan<char> text, int from)
        {
            _text.Append(text);
            var origin = source.Text.Length == 0 ? source.Start : source.Origin(Math.Clamp(from, 0, source.Text.Length - 1));
            for (var i = 0; i < text.Length; i++) _origins.Add(origin);
        }

        /// <summary>The text.</summary>
        public MappedText Build() => new(_text.ToString(), [.. _origins], source.Start);
    }
}
