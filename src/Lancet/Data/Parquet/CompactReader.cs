namespace Lancet.Data.Parquet;

/// <summary>
/// Reads structs of <see href="https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md">Thrift's compact protocol</see>, in which Parquet's footer and page
/// headers are written. Every length is checked against what is there.
/// </summary>
internal ref struct CompactReader(ReadOnlySpan<byte> bytes)
{
    private const int MaxDepth = 32;
    private readonly ReadOnlySpan<byte> _bytes = bytes;

    /// <summary>A field of a struct: its number, and whether its value is a struct, true or something else.</summary>
    public delegate bool FieldReader(ref CompactReader reader, int field, int type);

    /// <summary>Type of a truth value that is true, of an integer of 32 bits, and of a struct.</summary>
    public const int True = 1, Integer32 = 5, Structure = 12;

    /// <summary>Bytes that were read.</summary>
    public int At { get; private set; }

    /// <summary>Passes a struct, which is thereby checked.</summary>
    public void SkipStruct() => ReadStruct((ref _, _, _) => false, 0);

    /// <summary>Reads a struct; fields that the caller does not read are passed.</summary>
    public void ReadStruct(FieldReader read) => ReadStruct(read, 0);

    /// <summary>An integer of 32 bits.</summary>
    public int ReadInteger()
    {
        var number = Number();
        return unchecked((int)((long)(number >> 1) ^ -(long)(number & 1)));
    }

    private void ReadStruct(FieldReader read, int depth)
    {
        if (depth > MaxDepth) throw Damaged();
        var field = 0L;
        while (Byte() is var header && header != 0)
        {
            // The field's number is a difference in the upper bits, or follows.
            field = header >> 4 == 0 ? ReadInteger() : field + (header >> 4);
            var type = header & 15;
            if (!read(ref this, (int)field, type)) Skip(type, depth, isInList: false);
        }
    }

    private void Skip(int type, int depth, bool isInList)
    {
        switch (type)
        {
            case True or 2: if (isInList) Byte(); break;
            case 3: Byte(); break;
            case 4 or Integer32 or 6: Number(); break;
            case 7: Skip(8); break;
            case 8: Skip(Number()); break;
            case 9 or 10:
                var header = Byte();
                var count = header >> 4 == 15 ? Number() : (ulong)(header >> 4);
                for (var i = 0UL; i < count; i++) Skip(header & 15, depth + 1, isInList: true);
                break;
            case Structure: ReadStruct((ref _, _, _) => false, depth + 1); break;
            default: throw Damaged();
        }
    }

    private int Byte() => At < _bytes.Length ? _bytes[At++] : throw Damaged();

    private ulong Number()
    {
        var value = 0UL;
        for (var shift = 0; shift < 70; shift += 7)
        {
            var next = Byte();
            value |= (ulong)(next & 127) << shift;
            if (next < 128) return value;
        }
        throw Damaged();
    }

    private void Skip(ulong count)
    {
        if (count > (ulong)(_bytes.Length - At)) throw Damaged();
        At += (int)count;
    }

    private static InvalidDataException Damaged() => new("its footer or a page's header is damaged.");
}
