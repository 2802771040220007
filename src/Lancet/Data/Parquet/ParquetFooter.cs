using System.Buffers.Binary;

namespace Lancet.Data.Parquet;

/// <summary>
/// Walks a Parquet file's footer once before the library reads it, which would never come back from some damaged ones.
/// </summary>
internal static class ParquetFooter
{
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
        new CompactReader(footer).SkipStruct();
    }
}
