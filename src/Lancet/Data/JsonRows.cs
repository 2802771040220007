using System.Text;
using System.Text.Json;

namespace Lancet.Data;

/// <summary>Rows of JSON files: an object a line, or an array of objects, of which one at a time is in memory.</summary>
internal static class JsonRows
{
    public static IEnumerable<(JsonElement, string)> Lines(string path, Action<LancetException>? refused)
    {
        // Bytes as characters: lines end at the same places, and text that is no UTF-8 spoils its own line only.
        if (!RowReader.IsRead(() => DataFile.Guarded(path, $"{path}:1", () => DataFile.OpenText(path, keepsBytes: true)), refused, out var reader)) yield break;
        using var owned = reader;
        for (var number = 1; ; number++)
        {
            var place = $"{path}:{number}";
            if (!RowReader.IsRead(() => DataFile.Guarded(path, place, reader.ReadLine), refused, out var line) || line is null) yield break;
            if (!string.IsNullOrWhiteSpace(line) && RowReader.IsRead(() => Object(Parse(DataFile.Decoded(reader, line, place), place), place), refused, out var row)) yield return (row, place);
        }
    }

    public static IEnumerable<(JsonElement, string)> Array(string path, Action<LancetException>? refused)
    {
        if (!RowReader.IsRead(() => DataFile.Guarded(path, path, () => DataFile.OpenText(path)), refused, out var text)) yield break;
        using var reader = new ArrayReader(path, text);
        for (var number = 1; ; number++)
        {
            var place = $"{path}: row {number}";
            if (!RowReader.IsRead(() => DataFile.Guarded(path, place, reader.Next), refused, out var item) || item.ValueKind == JsonValueKind.Undefined) yield break;
            if (RowReader.IsRead(() => Object(item, place), refused, out var row)) yield return (row, place);
        }
    }

    private static JsonElement Parse(string text, string place)
    {
        try
        {
            using var document = JsonDocument.Parse(text);
            return document.RootElement.Clone();
        }
        catch (JsonException error)
        {
            throw NotJson(place, error);
        }
    }

    private static LancetException NotJson(string place, JsonException error) => new($"{place}: not valid JSON: {error.Message}", error);

    private static JsonElement Object(JsonElement row, string place) => row.ValueKind == JsonValueKind.Object ? row : throw new LancetException($"{place}: a JSON object is expected.");

    /// <summary>Elements of an array one by one. The buffer holds the current one, and grows to the longest.</summary>
    private sealed class ArrayReader(string path, StreamReader text) : IDisposable
    {
        private readonly Encoder _encoder = Encoding.UTF8.GetEncoder();
        private readonly char[] _characters = new char[1 << 14];
        private byte[] _buffer = new byte[1 << 16];
        private int _start;
        private int _end;
        private bool _isComplete;
        private bool _isInArray;
        private JsonReaderState _state;

        /// <summary>The next element; nothing behind the last.</summary>
        public JsonElement Next()
        {
            try
            {
                while (true)
                {
                    var reader = new Utf8JsonReader(_buffer.AsSpan(_start, _end - _start), _isComplete, _state);
                    if (reader.Read())
                    {
                        if (!_isInArray)
                        {
                            if (reader.TokenType != JsonTokenType.StartArray) throw new LancetException($"{path}: a JSON array of rows is expected; for one object a line use the extension .jsonl.");
                            _isInArray = true;
                            Consume(reader);
                            continue;
                        }
                        if (reader.TokenType == JsonTokenType.EndArray)
                        {
                            Consume(reader);
                            CheckEnd();
                            return default;
                        }
                        if (JsonDocument.TryParseValue(ref reader, out var document))
                        {
                            using (document)
                            {
                                Consume(reader);
                                return document.RootElement.Clone();
                            }
                        }
                    }
                    Fill();
                }
            }
            catch (JsonException error)
            {
                throw NotJson(path, error);
            }
        }

        public void Dispose() => text.Dispose();

        private void Consume(in Utf8JsonReader reader)
        {
            _start += (int)reader.BytesConsumed;
            _state = reader.CurrentState;
        }

        // Behind the array there is nothing but blanks; the JSON reader says so itself.
        private void CheckEnd()
        {
            while (true)
            {
                var reader = new Utf8JsonReader(_buffer.AsSpan(_start, _end - _start), _isComplete, _state);
                reader.Read();
                Consume(reader);
                if (_isComplete) return;
                Fill();
            }
        }

        private void Fill()
        {
            _buffer.AsSpan(_start, _end - _start).CopyTo(_buffer);
            (_start, _end) = (0, _end - _start);
            // A character has three bytes at most, and one may wait in the encoder for its second half.
            var room = 3 * (_characters.Length + 1);
            // An element that does not fit is parsed again when there is twice as much of it, so the work stays in proportion.
            if (_buffer.Length - _end < room) System.Array.Resize(ref _buffer, checked(2 * _buffer.Length));
            while (!_isComplete && _buffer.Length - _end >= room)
            {
                var count = text.Read(_characters);
                _isComplete = count == 0;
                _end += _encoder.GetBytes(_characters.AsSpan(0, count), _buffer.AsSpan(_end), flush: _isComplete);
            }
        }
    }
}
