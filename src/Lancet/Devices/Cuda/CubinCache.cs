using System.Buffers.Binary;
using System.Globalization;
using System.Security.Cryptography;
using System.Text;

namespace Lancet.Devices.Cuda;

/// <summary>Machine code of a kernel and what the assembler said about it.</summary>
/// <param name="Image">The cubin; or PTX, ending with a zero, where the driver has to assemble it whole.</param>
/// <param name="Log">The assembler's notes: registers, spills, performance warnings.</param>
internal sealed record Cubin(byte[] Image, string Log);

/// <summary>
/// Compiled kernels on disk. The name of an entry is the hash of everything that decides its contents: PTX, driver version, architecture. An
/// entry is a header, the SHA-256 of the rest, the length of the log, the log, the cubin; what does not add up is as good as absent.
/// </summary>
/// <param name="folder">Where entries lie.</param>
/// <param name="driverVersion">As the driver reports it.</param>
/// <param name="computeCapability">Architecture.</param>
internal sealed class CubinCache(string folder, int driverVersion, int computeCapability)
{
    private const int HashBytes = 32;
    private const int Start = 8 + HashBytes;

    private static ReadOnlySpan<byte> Header => "LCUBIN1\n"u8;

    /// <summary>File of a kernel.</summary>
    public string PathOf(string ptx)
    {
        var key = string.Create(CultureInfo.InvariantCulture, $"{driverVersion} sm_{computeCapability}\n");
        return Path.Combine(folder, Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(key + ptx))) + ".cubin");
    }

    /// <summary>The entry of a kernel, or null if it is absent or damaged.</summary>
    public Cubin? Find(string ptx)
    {
        if (CacheFolder.TryRead(PathOf(ptx)) is not { } bytes) return null;
        if (bytes.Length < Start + sizeof(int) || !bytes.AsSpan(0, Header.Length).SequenceEqual(Header)) return null;
        var body = bytes.AsSpan(Start);
        if (!SHA256.HashData(body).AsSpan().SequenceEqual(bytes.AsSpan(Header.Length, HashBytes))) return null;
        var logLength = BinaryPrimitives.ReadInt32LittleEndian(body);
        if (logLength < 0 || logLength > body.Length - sizeof(int)) return null;
        return new(body[(sizeof(int) + logLength)..].ToArray(), Encoding.UTF8.GetString(body.Slice(sizeof(int), logLength)));
    }

    /// <summary>Keeps an entry; without a writable disk nothing happens.</summary>
    public void Add(string ptx, Cubin cubin)
    {
        var log = Encoding.UTF8.GetBytes(cubin.Log);
        var bytes = new byte[Start + sizeof(int) + log.Length + cubin.Image.Length];
        Header.CopyTo(bytes);
        BinaryPrimitives.WriteInt32LittleEndian(bytes.AsSpan(Start), log.Length);
        log.CopyTo(bytes.AsSpan(Start + sizeof(int)));
        cubin.Image.CopyTo(bytes.AsSpan(Start + sizeof(int) + log.Length));
        SHA256.HashData(bytes.AsSpan(Start), bytes.AsSpan(Header.Length, HashBytes));
        CacheFolder.TryWrite(PathOf(ptx), bytes);
    }
}
