using System.Buffers.Binary;
using System.IO.Compression;
using K4os.Compression.LZ4;
using Parquet.Meta;
using Snappier;
using ZstdSharp;

namespace Lancet.Data.Parquet;

/// <summary>
/// Data pages of the second version, which the library does not read, as pages of the first: levels in front of the values instead of beside them, all uncompressed
/// (<see href="https://parquet.apache.org/docs/file-format/data-pages/">the format's description</see>).
/// </summary>
internal static class ParquetPages
{
    private const int DataPage = 0, DictionaryPage = 2, SecondDataPage = 3;
    private const int RunLength = 3;

    // Statistics in headers are cut to this by all writers.
    private const int MaxHeader = 1 << 16;

    private struct Header
    {
        public int Type, UncompressedSize, CompressedSize, Values, Encoding, DefinitionBytes, RepetitionBytes, Size;
        public bool IsCompressed;
    }

    /// <summary>Rewrites the pages of a column in a row group if they are of the second version.</summary>
    /// <param name="file">File.</param>
    /// <param name="column">Where they are; changed to where they are then.</param>
    /// <param name="hasDefinitionLevels">Whether values have definition levels.</param>
    /// <param name="hasRepetitionLevels">Whether values have repetition levels.</param>
    /// <exception cref="InvalidDataException">The pages are damaged.</exception>
    public static void ToFirstVersion(ParquetStream file, ColumnMetaData column, bool hasDefinitionLevels, bool hasRepetitionLevels)
    {
        var start = column.DictionaryPageOffset is > 0 and var dictionary ? Math.Min(dictionary, column.DataPageOffset) : column.DataPageOffset;
        if (start < 0 || column.TotalCompressedSize < 0 || start > file.Length - column.TotalCompressedSize) throw new InvalidDataException("its pages lie outside the file.");
        if (!IsSecondVersion(file, start, column.TotalCompressedSize)) return;
        if (column.TotalCompressedSize > Array.MaxLength) throw new NotSupportedException("a column of more than 2 GB in one row group is not supported.");
        var bytes = new byte[column.TotalCompressedSize];
        file.Seek(start, SeekOrigin.Begin);
        file.ReadExactly(bytes);
        var pages = new MemoryStream();
        long? values = null, names = null;
        for (var at = 0; at < bytes.Length;)
        {
            var header = ReadHeader(bytes.AsSpan(at));
            at += header.Size;
            if (header.CompressedSize < 0 || header.CompressedSize > bytes.Length - at) throw Damaged();
            var page = bytes.AsMemory(at, header.CompressedSize);
            at += header.CompressedSize;
            if (header.Type is not (DataPage or DictionaryPage or SecondDataPage)) continue;
            if (header.Type == DictionaryPage) names ??= pages.Length;
            else values ??= pages.Length;
            var body = header.Type == SecondDataPage ? Body(page, header, column.Codec, hasDefinitionLevels, hasRepetitionLevels) : Decompressed(page, header.UncompressedSize, column.Codec);
            Write(pages, header, body);
        }
        var place = file.Attach(pages.ToArray());
        (column.Codec, column.TotalCompressedSize, column.TotalUncompressedSize) = (CompressionCodec.UNCOMPRESSED, pages.Length, pages.Length);
        (column.DataPageOffset, column.DictionaryPageOffset) = (place + (values ?? throw Damaged()), names is { } first ? place + first : null);
    }

    private static bool IsSecondVersion(ParquetStream file, long start, long size)
    {
        for (var at = 0L; at < size;)
        {
            var bytes = new byte[Math.Min(MaxHeader, size - at)];
            file.Seek(start + at, SeekOrigin.Begin);
            file.ReadExactly(bytes);
            var header = ReadHeader(bytes);
            // Writers stay with one version; what a dictionary is followed by tells which.
            if (header.Type is DataPage or SecondDataPage) return header.Type == SecondDataPage;
            if (header.CompressedSize < 0) throw Damaged();
            at += header.Size + header.CompressedSize;
        }
        return false;
    }

    private static Header ReadHeader(ReadOnlySpan<byte> bytes)
    {
        var header = new Header { IsCompressed = true };
        var reader = new CompactReader(bytes);
        reader.ReadStruct((ref reader, field, type) =>
        {
            if (field is 5 or 7 or 8 && type == CompactReader.Structure)
            {
                var isSecond = field == 8;
                reader.ReadStruct((ref reader, field, type) =>
                {
                    if (isSecond && field == 7 && type is CompactReader.True or 2)
                    {
                        // A truth value is in its type.
                        header.IsCompressed = type == CompactReader.True;
                        return true;
                    }
                    if (type != CompactReader.Integer32) return false;
                    var value = reader.ReadInteger();
                    if (field == 1) header.Values = value;
                    if (field == (isSecond ? 4 : 2)) header.Encoding = value;
                    if (isSecond && field == 5) header.DefinitionBytes = value;
                    if (isSecond && field == 6) header.RepetitionBytes = value;
                    return true;
                });
                return true;
            }
            if (field is < 1 or > 3 || type != CompactReader.Integer32) return false;
            var number = reader.ReadInteger();
            if (field == 1) header.Type = number;
            if (field == 2) header.UncompressedSize = number;
            if (field == 3) header.CompressedSize = number;
            return true;
        });
        header.Size = reader.At;
        return header;
    }

    /// <summary>Repetition levels, definition levels and values, each kind of level behind its length.</summary>
    private static byte[] Body(ReadOnlyMemory<byte> page, Header header, CompressionCodec codec, bool hasDefinitionLevels, bool hasRepetitionLevels)
    {
        var (repetition, definition) = (header.RepetitionBytes, header.DefinitionBytes);
        if (repetition < 0 || definition < 0 || (long)repetition + definition > Math.Min(page.Length, header.UncompressedSize)) throw Damaged();
        var levels = repetition + definition;
        var values = page[levels..];
        // A page without values has nothing to decompress, whatever it says.
        var plain = header.IsCompressed && values.Length > 0 ? Decompressed(values, header.UncompressedSize - levels, codec) : values.ToArray();
        var body = new MemoryStream();
        if (hasRepetitionLevels) AddLevels(page.Span[..repetition]);
        if (hasDefinitionLevels) AddLevels(page.Span[repetition..levels]);
        body.Write(plain);
        return body.ToArray();

        void AddLevels(ReadOnlySpan<byte> part)
        {
            Span<byte> length = stackalloc byte[4];
            BinaryPrimitives.WriteInt32LittleEndian(length, part.Length);
            body.Write(length);
            body.Write(part);
        }
    }

    private static byte[] Decompressed(ReadOnlyMemory<byte> bytes, int size, CompressionCodec codec)
    {
        // No method makes more of less: a size beyond is damage, and must not be allocated.
        if (size < 0 || (codec is CompressionCodec.SNAPPY or CompressionCodec.LZ4_RAW && size > 256L * bytes.Length)) throw Damaged();
        switch (codec)
        {
            case CompressionCodec.UNCOMPRESSED:
                return bytes.Length == size ? bytes.ToArray() : throw Damaged();
            case CompressionCodec.SNAPPY:
                return Snappy.GetUncompressedLength(bytes.Span) == size ? Snappy.DecompressToArray(bytes.Span) : throw Damaged();
            case CompressionCodec.LZ4_RAW:
                var plain = new byte[size];
                return LZ4Codec.Decode(bytes.Span, plain) == size ? plain : throw Damaged();
            default:
                using (var source = new MemoryStream(bytes.ToArray()))
                using (Stream stream = codec switch
                {
                    CompressionCodec.GZIP => new GZipStream(source, CompressionMode.Decompress),
                    CompressionCodec.BROTLI => new BrotliStream(source, CompressionMode.Decompress),
                    CompressionCodec.ZSTD => new DecompressionStream(source),
                    _ => throw new NotSupportedException($"pages compressed with {codec} are not supported."),
                })
                {
                    var result = new MemoryStream();
                    var chunk = new byte[1 << 16];
                    for (int count; (count = stream.Read(chunk)) > 0;)
                    {
                        result.Write(chunk.AsSpan(0, count));
                        if (result.Length > size) throw Damaged();
                    }
                    return result.Length == size ? result.ToArray() : throw Damaged();
                }
        }
    }

    /// <summary>A page of the first version, or a dictionary, uncompressed.</summary>
    private static void Write(MemoryStream pages, Header header, byte[] body)
    {
        var isDictionary = header.Type == DictionaryPage;
        Field(5, 1, isDictionary ? DictionaryPage : DataPage);
        Field(5, 1, body.Length);
        Field(5, 1, body.Length);
        // The struct's field is 7 for a dictionary and 5 for a data page, behind 3.
        pages.WriteByte((byte)(((isDictionary ? 4 : 2) << 4) | CompactReader.Structure));
        Field(5, 1, header.Values);
        Field(5, 1, header.Encoding);
        for (var i = 0; !isDictionary && i < 2; i++) Field(5, 1, RunLength);
        pages.WriteByte(0);
        pages.WriteByte(0);
        pages.Write(body);

        void Field(int type, int step, int value)
        {
            pages.WriteByte((byte)((step << 4) | type));
            var number = (uint)((value << 1) ^ (value >> 31));
            for (; number >= 128; number >>= 7) pages.WriteByte((byte)(number | 128));
            pages.WriteByte((byte)number);
        }
    }

    private static InvalidDataException Damaged() => new("a page's sizes are damaged.");
}
