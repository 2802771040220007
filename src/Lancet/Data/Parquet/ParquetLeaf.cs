using System.Buffers.Binary;
using System.Globalization;
using System.Numerics;
using System.Text.Json;
using System.Text.Unicode;
using Parquet;
using Parquet.Meta;
using Parquet.Schema;
using PhysicalType = Parquet.Meta.Type;

namespace Lancet.Data.Parquet;

/// <summary>
/// A column of a Parquet file: the values of one row group with their levels, and a place in them. Values are read as their physical type and given
/// their meaning here, so that text which is no UTF-8 is seen.
/// </summary>
internal sealed class ParquetLeaf(SchemaElement element, int maxDefinitionLevel, int maxRepetitionLevel)
{
    private readonly ConvertedType? _converted = element.ConvertedType;
    private readonly LogicalType? _logical = element.LogicalType;
    private int[] _definitionLevels = [];
    private int[] _repetitionLevels = [];
    private Array _values = Array.Empty<int>();
    private int _count;
    private int _at;
    private int _valueAt;

    /// <summary>Name of the innermost column.</summary>
    public string Name => element.Name;

    /// <summary>Whether a value since the last reset was text but no UTF-8; it was written as nothing.</summary>
    public bool HasInvalidText { get; private set; }

    /// <summary>Whether all values of the row group were read.</summary>
    public bool IsAtEnd => _at == _count;

    /// <summary>Definition level of the next value.</summary>
    public int DefinitionLevel => maxDefinitionLevel == 0 ? 0 : _definitionLevels[_at];

    /// <summary>Repetition level of the next value; −1 at the end of the row group.</summary>
    public int RepetitionLevel => IsAtEnd ? -1 : maxRepetitionLevel == 0 ? 0 : _repetitionLevels[_at];

    /// <summary>Takes the meaning of the values off the file's schema, so that the library reads them as they are stored.</summary>
    public void ReadPhysically()
    {
        element.ConvertedType = null;
        element.LogicalType = null;
    }

    /// <summary>Reads the values of a row group.</summary>
    /// <exception cref="InvalidDataException">The file contradicts itself.</exception>
    public void Load(ParquetStream file, ParquetRowGroupReader group, DataField field)
    {
        if (field.MaxDefinitionLevel != maxDefinitionLevel || field.MaxRepetitionLevel != maxRepetitionLevel || field.Name != Name)
            throw new NotSupportedException($"the nesting of column {Name} is of a kind that is not supported; write it as lists of three levels, as pyarrow does");
        var metadata = group.GetMetadata(field)?.MetaData ?? throw new InvalidDataException($"column {Name} is missing in a row group");
        // Statistics are not needed, and damaged ones would stop the reading.
        metadata.Statistics = null;
        if (metadata.NumValues is < 0 or > int.MaxValue || (maxRepetitionLevel == 0 && metadata.NumValues != group.RowCount)) throw new InvalidDataException($"column {Name} has {metadata.NumValues} values for {group.RowCount} rows");
        ParquetPages.ToFirstVersion(file, metadata, maxDefinitionLevel > 0, maxRepetitionLevel > 0);
        (_count, _at, _valueAt) = ((int)metadata.NumValues, 0, 0);
        _definitionLevels = new int[maxDefinitionLevel > 0 ? _count : 0];
        _repetitionLevels = new int[maxRepetitionLevel > 0 ? _count : 0];
        _values = element.Type switch
        {
            PhysicalType.BOOLEAN => Read<bool>(group, field),
            PhysicalType.INT32 => Read<int>(group, field),
            PhysicalType.INT64 => Read<long>(group, field),
            PhysicalType.INT96 => Read<DateTime>(group, field),
            PhysicalType.FLOAT => Read<float>(group, field),
            PhysicalType.DOUBLE => Read<double>(group, field),
            _ => Read<ReadOnlyMemory<byte>>(group, field),
        };
    }

    /// <summary>Lets the row group's values go.</summary>
    public void Unload() => (_values, _definitionLevels, _repetitionLevels, _count, _at) = (Array.Empty<int>(), [], [], 0, 0);

    /// <summary>Forgets <see cref="HasInvalidText"/>.</summary>
    public void Reset() => HasInvalidText = false;

    /// <summary>Passes a null or an empty list.</summary>
    public void Skip()
    {
        if (DefinitionLevel >= maxDefinitionLevel) throw new InvalidDataException($"the levels of column {Name} contradict those of its neighbours");
        _at++;
    }

    /// <summary>The next value as the key of a map.</summary>
    public string NextAsText()
    {
        var buffer = new System.Buffers.ArrayBufferWriter<byte>();
        using (var json = new Utf8JsonWriter(buffer)) WriteNext(json);
        using var document = JsonDocument.Parse(buffer.WrittenMemory);
        return document.RootElement.ValueKind == JsonValueKind.String ? document.RootElement.GetString()! : document.RootElement.GetRawText();
    }

    /// <summary>Writes the next value.</summary>
    public void WriteNext(Utf8JsonWriter json)
    {
        if (DefinitionLevel != maxDefinitionLevel) throw new InvalidDataException($"the levels of column {Name} contradict those of its neighbours");
        _at++;
        var i = _valueAt++;
        switch (_values)
        {
            case bool[] flags: json.WriteBooleanValue(flags[i]); break;
            case int[] integers: WriteInteger(json, integers[i]); break;
            case long[] integers: WriteInteger(json, integers[i]); break;
            case float[] numbers: WriteNumber(json, numbers[i]); break;
            case double[] numbers: WriteNumber(json, numbers[i]); break;
            case DateTime[] times: json.WriteStringValue(DateTime.SpecifyKind(times[i], DateTimeKind.Utc)); break;
            case ReadOnlyMemory<byte>[] bytes: WriteBytes(json, bytes[i].Span); break;
        }
    }

    private T[] Read<T>(ParquetRowGroupReader group, DataField field) where T : struct
    {
        var values = new T[_count];
        // Without the casts null would become an empty array's memory.
        var definitionLevels = maxDefinitionLevel > 0 ? (Memory<int>?)_definitionLevels : null;
        var repetitionLevels = maxRepetitionLevel > 0 ? (Memory<int>?)_repetitionLevels : null;
        group.ReadRawAsync<T>(field, values, definitionLevels, repetitionLevels).AsTask().GetAwaiter().GetResult();
        return values;
    }

    private void WriteInteger(Utf8JsonWriter json, long value)
    {
        if (_logical?.DECIMAL is not null || _converted == ConvertedType.DECIMAL)
        {
            WriteDecimal(json, value);
        }
        else if (_logical?.DATE is not null || _converted == ConvertedType.DATE)
        {
            json.WriteStringValue(DateTime.UnixEpoch.AddDays(value).ToString("yyyy-MM-dd", CultureInfo.InvariantCulture));
        }
        else if (_logical?.TIMESTAMP is not null || _converted is ConvertedType.TIMESTAMP_MILLIS or ConvertedType.TIMESTAMP_MICROS)
        {
            var ticks = _logical?.TIMESTAMP?.Unit.NANOS is not null ? value / TimeSpan.NanosecondsPerTick
                : checked(value * (_logical?.TIMESTAMP?.Unit.MICROS is not null || _converted == ConvertedType.TIMESTAMP_MICROS ? TimeSpan.TicksPerMicrosecond : TimeSpan.TicksPerMillisecond));
            json.WriteStringValue(DateTime.UnixEpoch.AddTicks(ticks));
        }
        else if (_logical?.INTEGER is { IsSigned: false } || _converted is ConvertedType.UINT_8 or ConvertedType.UINT_16 or ConvertedType.UINT_32 or ConvertedType.UINT_64)
        {
            json.WriteNumberValue(element.Type == PhysicalType.INT32 ? (uint)value : (ulong)value);
        }
        else
        {
            json.WriteNumberValue(value);
        }
    }

    // JSON has no such numbers; pandas writes them for missing values.
    private static void WriteNumber(Utf8JsonWriter json, double value)
    {
        if (double.IsFinite(value)) json.WriteNumberValue(value);
        else json.WriteNullValue();
    }

    private static void WriteNumber(Utf8JsonWriter json, float value)
    {
        if (float.IsFinite(value)) json.WriteNumberValue(value);
        else json.WriteNullValue();
    }

    private void WriteDecimal(Utf8JsonWriter json, BigInteger unscaled)
    {
        var scale = _logical?.DECIMAL?.Scale ?? element.Scale ?? 0;
        if (scale is < 0 or > 100) throw new InvalidDataException($"column {Name} has {scale} decimal places");
        var digits = BigInteger.Abs(unscaled).ToString(CultureInfo.InvariantCulture).PadLeft(scale + 1, '0');
        json.WriteRawValue($"{(unscaled.Sign < 0 ? "-" : "")}{digits[..^scale]}{(scale > 0 ? "." : "")}{digits[^scale..]}");
    }

    private void WriteBytes(Utf8JsonWriter json, ReadOnlySpan<byte> value)
    {
        if (_logical?.DECIMAL is not null || _converted == ConvertedType.DECIMAL)
        {
            WriteDecimal(json, new BigInteger(value, isBigEndian: true));
        }
        else if (_logical?.FLOAT16 is not null && value.Length == 2)
        {
            WriteNumber(json, (float)BinaryPrimitives.ReadHalfLittleEndian(value));
        }
        else if (_logical?.UUID is not null && value.Length == 16)
        {
            json.WriteStringValue(new Guid(value, bigEndian: true));
        }
        else if (_logical?.STRING is not null || _logical?.ENUM is not null || _logical?.JSON is not null || _converted is ConvertedType.UTF8 or ConvertedType.ENUM or ConvertedType.JSON)
        {
            var isText = Utf8.IsValid(value);
            HasInvalidText |= !isText;
            json.WriteStringValue(isText ? value : default);
        }
        else
        {
            json.WriteBase64StringValue(value);
        }
    }
}
