namespace Lancet.Data.Parquet;

/// <summary>
/// A Parquet file, and bytes that seem to lie behind its end: pages that were rewritten (<see cref="ParquetPages"/>). It throws at its end, because the library takes the −1 of
/// <see cref="Stream.ReadByte"/> for a byte that never ends a number.
/// </summary>
internal sealed class ParquetStream(string path) : Stream
{
    private readonly FileStream _file = new(path, FileMode.Open, FileAccess.Read, FileShare.Read);
    private byte[] _attached = [];

    public override bool CanRead => true;

    public override bool CanSeek => true;

    public override bool CanWrite => false;

    /// <summary>The file's length; what is attached begins there.</summary>
    public override long Length => _file.Length;

    public override long Position { get; set; }

    /// <summary>Puts bytes behind the file's end, in place of those before, and says where they are.</summary>
    public long Attach(byte[] bytes)
    {
        _attached = bytes;
        return Length;
    }

    public override int Read(Span<byte> buffer)
    {
        var behind = Position - Length;
        int count;
        if (behind >= 0)
        {
            count = (int)Math.Clamp(_attached.Length - behind, 0, buffer.Length);
            _attached.AsSpan((int)Math.Min(behind, _attached.Length), count).CopyTo(buffer);
        }
        else
        {
            if (_file.Position != Position) _file.Position = Position;
            count = _file.Read(buffer[..(int)Math.Min(buffer.Length, -behind)]);
        }
        Position += count;
        return count;
    }

    public override int Read(byte[] buffer, int offset, int count) => Read(buffer.AsSpan(offset, count));

    public override ValueTask<int> ReadAsync(Memory<byte> buffer, CancellationToken cancellationToken = default) => new(Read(buffer.Span));

    public override Task<int> ReadAsync(byte[] buffer, int offset, int count, CancellationToken cancellationToken) => Task.FromResult(Read(buffer.AsSpan(offset, count)));

    public override int ReadByte()
    {
        Span<byte> one = stackalloc byte[1];
        return Read(one) == 1 ? one[0] : throw new EndOfStreamException("the file ends too early.");
    }

    public override long Seek(long offset, SeekOrigin origin) => Position = origin switch { SeekOrigin.Begin => offset, SeekOrigin.Current => Position + offset, _ => Length + offset } is >= 0 and var place ? place : throw new IOException("a place before the file's beginning.");

    public override void Flush()
    {
    }

    public override void SetLength(long value) => throw new NotSupportedException();

    public override void Write(byte[] buffer, int offset, int count) => throw new NotSupportedException();

    protected override void Dispose(bool disposing)
    {
        if (disposing) _file.Dispose();
        base.Dispose(disposing);
    }
}
