using System.IO.Compression;
using System.Text;
using ZstdSharp;

namespace Lancet.Data;

/// <summary>Data files as bytes and as text: decompressed by their name, decoded by their byte order mark or else as UTF-8, and damage in words.</summary>
internal static class DataFile
{
    // Bytes that are no text are an error rather than question marks in the training data, with a byte order mark as without.
    private static readonly UTF8Encoding s_utf8 = new(false, true);
    private static readonly Encoding[] s_marked = [new UTF32Encoding(false, true, true), new UTF32Encoding(true, true, true), new UTF8Encoding(true, true), new UnicodeEncoding(false, true, true), new UnicodeEncoding(true, true, true)];

    public static bool IsGzip(string path) => path.EndsWith(".gz", StringComparison.OrdinalIgnoreCase);

    public static bool IsZstandard(string path) => path.EndsWith(".zst", StringComparison.OrdinalIgnoreCase);

    /// <summary>Extension of what is compressed, in lower case.</summary>
    public static string ExtensionOf(string path) => Path.GetExtension(IsGzip(path) || IsZstandard(path) ? Path.ChangeExtension(path, null) : path).ToLowerInvariant();

    /// <summary>A file as text; bytes that are none throw <see cref="DecoderFallbackException"/>.</summary>
    /// <param name="path">File.</param>
    /// <param name="keepsBytes">Whether UTF-8 is left undecoded, each byte a character of Latin-1.</param>
    public static StreamReader OpenText(string path, bool keepsBytes = false)
    {
        var encoding = MarkOf(path);
        var stream = OpenBytes(path);
        for (var i = 0; i < encoding?.Preamble.Length; i++) stream.ReadByte();
        return new(stream, encoding is null or UTF8Encoding ? keepsBytes ? Encoding.Latin1 : s_utf8 : encoding, detectEncodingFromByteOrderMarks: false);
    }

    /// <summary>The text of a line that was read as bytes; a file with another byte order mark has been decoded by it.</summary>
    /// <exception cref="LancetException">It is no UTF-8.</exception>
    public static string Decoded(StreamReader reader, string line, string place)
    {
        if (reader.CurrentEncoding.CodePage != Encoding.Latin1.CodePage) return line;
        try
        {
            return s_utf8.GetString(Encoding.Latin1.GetBytes(line));
        }
        catch (DecoderFallbackException error)
        {
            throw new LancetException($"{place}: not valid UTF-8.", error);
        }
    }

    /// <summary>What a damaged file throws, in words.</summary>
    public static T Guarded<T>(string path, string place, Func<T> read)
    {
        try
        {
            return read();
        }
        catch (DecoderFallbackException error)
        {
            throw new LancetException(MarkOf(path) is { } marked and not UTF8Encoding ? $"{path}: not valid {marked.WebName.ToUpperInvariant()}, which its byte order mark says it is." : $"{path}:{FirstInvalidLine(path)}: not valid UTF-8.", error);
        }
        catch (Exception error) when (error is InvalidDataException or ArgumentException or EndOfStreamException or ZstdException)
        {
            throw new LancetException($"{place}: {error.Message.ReplaceLineEndings(" ")}", error);
        }
    }

    private static Stream OpenBytes(string path)
    {
        Stream stream = File.OpenRead(path);
        if (IsGzip(path)) stream = new GZipStream(stream, CompressionMode.Decompress);
        else if (IsZstandard(path)) stream = new DecompressionStream(stream, leaveOpen: false);
        return stream;
    }

    private static Encoding? MarkOf(string path)
    {
        using var stream = OpenBytes(path);
        var start = new byte[4];
        var count = stream.ReadAtLeast(start, start.Length, throwOnEndOfStream: false);
        // The mark of UTF-16 is the beginning of that of UTF-32, so the longer ones come first.
        return s_marked.FirstOrDefault(encoding => start.AsSpan(0, count).StartsWith(encoding.Preamble));
    }

    // Text is decoded many lines at a time, so the line is looked for once it is known that there is one.
    private static int FirstInvalidLine(string path)
    {
        using var reader = OpenText(path, keepsBytes: true);
        for (var number = 1; reader.ReadLine() is { } line; number++)
        {
            try
            {
                s_utf8.GetCharCount(Encoding.Latin1.GetBytes(line));
            }
            catch (DecoderFallbackException)
            {
                return number;
            }
        }
        return 0;
    }
}
