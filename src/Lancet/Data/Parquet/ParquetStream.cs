namespace Lancet.Data.Parquet;

/// <summary>A file that throws at its end: the library takes the −1 of <see cref="Stream.ReadByte"/> for a byte that never ends a number.</summary>
internal sealed class ParquetStream(string path) : FileStream(path, FileMode.Open, FileAccess.Read, FileShare.Read)
{
    public override int ReadByte() => base.ReadByte() is var value and >= 0 ? value : throw new EndOfStreamException("the file ends too early.");
}
