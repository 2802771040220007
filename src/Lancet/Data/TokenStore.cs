using System.Collections;
using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Lancet.Data;

/// <summary>Rows whose lengths are known without reading them, and which reach a batch without arrays of their own.</summary>
internal interface IRowStore : IReadOnlyList<TokenizedRow>
{
    /// <summary>Tokens of a row.</summary>
    int LengthOf(int row);

    /// <summary>Appends a row to a batch.</summary>
    void AddTo(PackedBatch batch, int row);
}

/// <summary>
/// Tokenised rows in the order in which they were added. They are in memory as long as they fit the limit; then all of them lie in a file without a
/// name, which is gone with the process, and a row costs eight bytes of memory. Reads are reads of the file rather than of mapped pages, so that
/// they do not count as this process's memory and a failing disk is an error, not a crash.
/// </summary>
/// <param name="memoryLimit">Most bytes of tokens in memory.</param>
internal sealed class TokenStore(long memoryLimit) : IRowStore
{
    private const int FirstBuffer = 1 << 12;
    private const int WriteBuffer = 1 << 18;
    private readonly int _memoryLimit = (int)Math.Clamp(memoryLimit / sizeof(int), 0, Array.MaxLength);
    private readonly List<long> _starts = [0];
    private int[] _buffer = new int[FirstBuffer];
    private int _buffered;
    private long _written;
    private SafeFileHandle? _file;
    private string _path = "";

    /// <inheritdoc/>
    public int Count => _starts.Count - 1;

    /// <summary>Whether the rows lie in a file.</summary>
    public bool IsInFile => _file is not null;

    /// <inheritdoc/>
    public TokenizedRow this[int index]
    {
        get
        {
            // Ids come first, then as many labels.
            var row = new TokenizedRow(new int[LengthOf(index)], new int[LengthOf(index)]);
            Read(_starts[index], row.InputIds);
            Read(_starts[index] + row.InputIds.Length, row.Labels);
            return row;
        }
    }

    /// <inheritdoc/>
    public int LengthOf(int row) => (int)((_starts[row + 1] - _starts[row]) / 2);

    /// <inheritdoc/>
    public void AddTo(PackedBatch batch, int row)
    {
        var length = LengthOf(row);
        if (_file is null)
        {
            var tokens = _buffer.AsSpan((int)_starts[row], 2 * length);
            batch.Add(tokens[..length], tokens[length..]);
            return;
        }
        var rented = System.Buffers.ArrayPool<int>.Shared.Rent(2 * length);
        try
        {
            Read(_starts[row], rented.AsSpan(0, 2 * length));
            batch.Add(rented.AsSpan(0, length), rented.AsSpan(length, length));
        }
        finally
        {
            System.Buffers.ArrayPool<int>.Shared.Return(rented);
        }
    }

    /// <summary>Appends a row.</summary>
    /// <exception cref="OutputException">The file cannot be written.</exception>
    public void Add(TokenizedRow row)
    {
        Append(row.InputIds);
        Append(row.Labels);
        _starts.Add(_written + _buffered);
    }

    /// <summary>Ends the adding: what is still to be written is, and memory that was kept for more is let go.</summary>
    /// <exception cref="OutputException">The file cannot be written.</exception>
    public void Complete()
    {
        if (_file is null)
        {
            Array.Resize(ref _buffer, _buffered);
        }
        else
        {
            Flush();
            _buffer = [];
        }
        _starts.TrimExcess();
    }

    /// <inheritdoc/>
    public IEnumerator<TokenizedRow> GetEnumerator()
    {
        for (var i = 0; i < Count; i++) yield return this[i];
    }

    IEnumerator IEnumerable.GetEnumerator() => GetEnumerator();

    /// <summary>Where such files go: on Linux the place for large ones, since /tmp is often memory.</summary>
    private static string Folder => OperatingSystem.IsLinux() && string.IsNullOrEmpty(Environment.GetEnvironmentVariable("TMPDIR")) && Directory.Exists("/var/tmp") ? "/var/tmp" : Path.GetTempPath();

    private void Append(ReadOnlySpan<int> tokens)
    {
        if (_file is null && tokens.Length > _memoryLimit - _buffered) Spill();
        while (tokens.Length > 0)
        {
            if (_buffered == _buffer.Length)
            {
                if (_file is not null) Flush();
                else Array.Resize(ref _buffer, (int)Math.Min(_memoryLimit, Math.Max(2L * _buffer.Length, _buffered + (long)tokens.Length)));
            }
            var part = Math.Min(tokens.Length, _buffer.Length - _buffered);
            tokens[..part].CopyTo(_buffer.AsSpan(_buffered));
            _buffered += part;
            tokens = tokens[part..];
        }
    }

    private void Spill()
    {
        _path = Path.Combine(Folder, $"lancet-{Environment.ProcessId}-{Guid.NewGuid():N}.tokens");
        Guarded(() =>
        {
            _file = File.OpenHandle(_path, FileMode.CreateNew, FileAccess.ReadWrite, FileShare.Delete, FileOptions.DeleteOnClose | FileOptions.RandomAccess);
            // Elsewhere than on Windows a file can lose its name at once, and then does not outlive even a process that is killed.
            if (!OperatingSystem.IsWindows()) File.Delete(_path);
        });
        Flush();
        _buffer = new int[WriteBuffer];
    }

    private void Flush()
    {
        Guarded(() => RandomAccess.Write(_file!, MemoryMarshal.AsBytes(_buffer.AsSpan(0, _buffered)), _written * sizeof(int)));
        _written += _buffered;
        _buffered = 0;
    }

    private void Guarded(Action write)
    {
        try
        {
            write();
        }
        catch (Exception error) when (OutputException.IsFrom(error))
        {
            throw new OutputException($"{_path}: the tokens of the data, which do not fit into memory, cannot be written: {error.Message} Set TMPDIR to a folder with room for them (eight bytes a token).", error);
        }
    }

    private void Read(long start, Span<int> tokens)
    {
        if (_file is null)
        {
            _buffer.AsSpan((int)start, tokens.Length).CopyTo(tokens);
            return;
        }
        var bytes = MemoryMarshal.AsBytes(tokens);
        for (var at = start * sizeof(int); bytes.Length > 0;)
        {
            var read = RandomAccess.Read(_file, bytes, at);
            if (read == 0) throw new IOException($"{_path}: the file of tokens has become shorter.");
            at += read;
            bytes = bytes[read..];
        }
    }
}

/// <summary>Some rows of others, in an order of their own.</summary>
/// <param name="source">Rows.</param>
/// <param name="rows">Which of them.</param>
internal sealed class RowSelection(SftDataset source, int[] rows) : IRowStore
{
    /// <inheritdoc/>
    public int Count => rows.Length;

    /// <inheritdoc/>
    public TokenizedRow this[int index] => source.Rows[rows[index]];

    /// <inheritdoc/>
    public int LengthOf(int row) => source.LengthOf(rows[row]);

    /// <inheritdoc/>
    public void AddTo(PackedBatch batch, int row) => source.AddTo(batch, rows[row]);

    /// <inheritdoc/>
    public IEnumerator<TokenizedRow> GetEnumerator()
    {
        foreach (var row in rows) yield return source.Rows[row];
    }

    IEnumerator IEnumerable.GetEnumerator() => GetEnumerator();
}
