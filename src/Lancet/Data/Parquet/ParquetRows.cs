using System.Buffers;
using System.Globalization;
using System.Text.Json;
using Parquet;
using Parquet.Schema;

namespace Lancet.Data.Parquet;

/// <summary>
/// Rows of Parquet files as JSON objects: structs are objects, lists arrays, maps objects; times are ISO 8601, binary values base64. One row group is
/// in memory at a time.
/// </summary>
internal static class ParquetRows
{
    public static IEnumerable<(JsonElement Row, string Place)> Read(string path, Action<LancetException>? refused)
    {
        if (!RowReader.IsRead(() => Guarded(path, () => new ParquetTable(path)), refused, out var table)) yield break;
        using (table)
        {
            var number = 0L;
            for (var i = 0; i < table.GroupCount; i++)
            {
                var group = i;
                if (!RowReader.IsRead(() => Guarded($"{path}: row group {group + 1}", () => table.Load(group)), refused, out var rows)) yield break;
                for (var row = 0L; row < rows; row++)
                {
                    var place = string.Create(CultureInfo.InvariantCulture, $"{path}: row {++number}");
                    if (!RowReader.IsRead(() => Guarded(place, table.Next), refused, out var next)) yield break;
                    if (RowReader.IsRead(() => next.InvalidColumn is null ? next.Row : throw new LancetException($"{place}: {next.InvalidColumn} is not valid UTF-8."), refused, out var value)) yield return (value, place);
                }
                if (!RowReader.IsRead(() => Guarded($"{path}: row group {group + 1}", table.CheckEnd), refused, out _)) yield break;
            }
            if (number == 0 && refused is null) throw new LancetException($"{path}: no rows.");
        }
    }

    /// <summary>What the library throws for damaged files is of any kind.</summary>
    private static T Guarded<T>(string place, Func<T> read)
    {
        try
        {
            return read();
        }
        catch (Exception error) when (error is not (LancetException or UnauthorizedAccessException))
        {
            throw new LancetException($"{place}: not readable as Parquet: {error.Message.ReplaceLineEndings(" ").TrimEnd('.')}. The file may be cut or damaged: write or download it anew.", error);
        }
    }

    private sealed class ParquetTable : IDisposable
    {
        private readonly ParquetStream _stream;
        private readonly ParquetReader _reader;
        private readonly ParquetNode _root;
        private readonly DataField[] _fields;
        private readonly ArrayBufferWriter<byte> _buffer = new();

        public ParquetTable(string path)
        {
            _stream = new(path);
            try
            {
                ParquetFooter.Check(_stream);
                _reader = ParquetReader.CreateAsync(_stream).GetAwaiter().GetResult();
                _root = ParquetNode.TreeOf(_reader.Metadata!.Schema);
                foreach (var leaf in _root.Leaves) leaf.ReadPhysically();
                _fields = _reader.Schema.GetDataFields();
                if (_fields.Length != _root.Leaves.Count) throw new NotSupportedException("the schema is of a kind that is not supported.");
            }
            catch
            {
                _stream.Dispose();
                throw;
            }
        }

        public int GroupCount => _reader.RowGroupCount;

        /// <summary>Reads a row group and says how many rows it has.</summary>
        public long Load(int index)
        {
            var group = _reader.OpenRowGroupReader(index);
            for (var i = 0; i < _fields.Length; i++) _root.Leaves[i].Unload();
            if (group.RowCount < 0) throw new InvalidDataException($"it has {group.RowCount} rows.");
            for (var i = 0; i < _fields.Length; i++) _root.Leaves[i].Load(_stream, group, _fields[i]);
            return group.RowCount;
        }

        public (JsonElement Row, string? InvalidColumn) Next()
        {
            _buffer.ResetWrittenCount();
            foreach (var leaf in _root.Leaves) leaf.Reset();
            using (var json = new Utf8JsonWriter(_buffer)) _root.WriteRow(json);
            using var document = JsonDocument.Parse(_buffer.WrittenMemory);
            return (document.RootElement.Clone(), _root.Leaves.FirstOrDefault(leaf => leaf.HasInvalidText)?.Name);
        }

        /// <summary>Values that belong to no row are a sign that rows were cut wrongly.</summary>
        public bool CheckEnd() => _root.Leaves.All(leaf => leaf.IsAtEnd) ? true : throw new InvalidDataException("there are more values than rows.");

        public void Dispose() => _stream.Dispose();
    }
}
