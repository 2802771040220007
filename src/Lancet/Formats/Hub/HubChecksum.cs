using System.Security.Cryptography;
using System.Text;

namespace Lancet.Formats.Hub;

/// <summary>The hub's checksums: SHA-256 of large files, and of small ones the SHA-1 that Git gives a blob: over "blob", the length, a zero and the contents.</summary>
internal static class HubChecksum
{
    /// <summary>Hexadecimal digits of a large file's checksum.</summary>
    public const int LargeLength = 64;

    /// <summary>The checksum of a stream from where it stands to its end.</summary>
    /// <param name="stream">Contents.</param>
    /// <param name="size">Bytes of the contents.</param>
    /// <param name="isLarge">Whether the file is kept as a large one.</param>
    /// <param name="read">Hears of bytes, or null.</param>
    /// <param name="cancellation">Ends it.</param>
    public static async Task<string> OfAsync(Stream stream, long size, bool isLarge, Action<long>? read, CancellationToken cancellation)
    {
        using var hash = IncrementalHash.CreateHash(isLarge ? HashAlgorithmName.SHA256 : HashAlgorithmName.SHA1);
        if (!isLarge) hash.AppendData(Encoding.ASCII.GetBytes($"blob {size}\0"));
        var buffer = new byte[1 << 17];
        while (await stream.ReadAsync(buffer, cancellation).ConfigureAwait(false) is var count and > 0)
        {
            hash.AppendData(buffer, 0, count);
            read?.Invoke(count);
        }
        return Convert.ToHexStringLower(hash.GetHashAndReset());
    }

    /// <summary>Whether a text is so many hexadecimal digits in lower case.</summary>
    public static bool IsHex(string? text, int length) => text?.Length == length && text.All(c => char.IsAsciiDigit(c) || c is >= 'a' and <= 'f');
}
