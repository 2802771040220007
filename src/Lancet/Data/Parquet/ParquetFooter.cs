using System.Buffers.Binary;

namespace Lancet.Data.Parquet;

/// <summary>
/// Walks a Parquet file's footer once before the library reads it, which would never come back from some damaged ones. The footer is a struct of
/// <see href="https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md">Thrift's compact protocol</see>.
/// </summary>
internal static class ParquetFooter
{
    private const int MaxDepth = 32;
    private const int Tail = 8;

    /// <summary>Checks that the file is framed as Parquet and its footer well formed.</summary>
    /// <exception cref="InvalidDataException">It is not.</exception>
    public static void Check(Stream file)
    {
        Span<byte> ends = stackalloc byte[Tail];
        if (file.Length < Tail + 4) throw new InvalidDataException("it is too short.");
        file.ReadExactly(ends[..4]);
        var isParquet = ends[..4].SequenceEqual("PAR1"u8);
        file.Seek(-Tail, SeekOrigin.End);
        file.ReadExactly(ends);
        if (ends[4..].SequenceEqual("PARE"u8)) throw new InvalidDataException("it is encrypted.");
        if (!isParquet || !ends[4..].SequenceEqual("PAR1"u8)) throw new InvalidDataException($"it does not {(isParquet ? "end" : "begin")} with PAR1.");
        var length = BinaryPrimitives.ReadInt32LittleEndian(ends);
        if (length <= 0 || length > file.Length - Tail - 4) throw new InvalidDataException($"its footer claims {length} bytes of {file.Length}.");
        var footer = new byte[length];
        file.Seek(-Tail - length, SeekOrigin.End);
        file.ReadExactly(footer);
        new Walk(footer).Struct(0);
    }

    private sealed class Walk(byte[] bytes)
    {
        private int _at;

        public void Struct(int depth)
        {
            if (depth > MaxDepth) throw Damaged();
            while (Byte() is var header && header != 0)
            {
                // The field's number is a difference in the upper bits, or follows.
                if (header >> 4 == 0) Number();
                Value(header & 15, depth, isInList: false);
            }
        }

        private void Value(int type, int depth, bool isInList)
        {
            switch (type)
            {
                case 1 or 2: if (isInList) Byte(); break;
                case 3: Byte(); break;
                case 4 or 5 or 6: Number(); break;
                case 7: Skip(8); break;
                case 8: Skip(Number()); break;
                case 9 or 10:
                    var header = Byte();
                    var count = header >> 4 == 15 ? Number() : (ulong)(header >> 4);
                    for (var i = 0UL; i < count; i++) Value(header & 15, depth + 1, isInList: true);
                    break;
                case 12: Struct(depth + 1); break;
                default: throw Damaged();
            }
        }

        private int Byte() => _at < bytes.Length ? bytes[_at++] : throw Damaged();

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
            if (count > (ulong)(bytes.Length - _at)) throw Damaged();
            _at += (int)count;
        }

        private static InvalidDataException Damaged() => new("its footer is damaged.");
    }
}
