using System.Text.Json;

namespace Lancet.Formats.Hub;

/// <summary>A file of a repository.</summary>
/// <param name="Path">Path in the repository.</param>
/// <param name="Checksum">SHA-256 of a large file, Git's SHA-1 of a small one.</param>
/// <param name="Size">Bytes.</param>
internal readonly record struct HubRemoteFile(string Path, string Checksum, long Size);

/// <summary>What a repository holds at a revision.</summary>
/// <param name="Commit">The commit that the revision stands for.</param>
/// <param name="IsPrivate">Whether only some may see it.</param>
/// <param name="Files">All files.</param>
internal sealed record HubListing(string Commit, bool IsPrivate, IReadOnlyList<HubRemoteFile> Files)
{
    /// <summary>Checksums by path.</summary>
    public Dictionary<string, string> Checksums => Files.DistinctBy(file => file.Path).ToDictionary(file => file.Path, file => file.Checksum);

    /// <summary>The request that answers with a listing.</summary>
    public static HubCall Call(HubId id, HubOptions options, HubPurpose purpose) =>
        new(HttpMethod.Get, new(options.Endpoint, $"{id.ApiPath}/revision/{Uri.EscapeDataString(id.Revision)}?blobs=true"), id.ToString(), purpose);

    /// <summary>Reads a listing.</summary>
    /// <exception cref="FormatException">Something in it is not what it should be; other exceptions are those of <see cref="JsonElement"/>.</exception>
    public static HubListing Read(JsonElement root)
    {
        var commit = root.GetProperty("sha").GetString()!;
        if (!HubChecksum.IsHex(commit, 40)) throw new FormatException($"'{commit}' is no commit.");
        return new(commit, root.TryGetProperty("private", out var isPrivate) && isPrivate.ValueKind == JsonValueKind.True, [.. root.GetProperty("siblings").EnumerateArray().Select(FileOf)]);
    }

    private static HubRemoteFile FileOf(JsonElement sibling)
    {
        var path = sibling.GetProperty("rfilename").GetString()!;
        var isLarge = sibling.TryGetProperty("lfs", out var lfs) && lfs.ValueKind == JsonValueKind.Object;
        var checksum = (isLarge ? lfs.GetProperty("sha256") : sibling.GetProperty("blobId")).GetString()!;
        var size = (isLarge ? lfs.GetProperty("size") : sibling.GetProperty("size")).GetInt64();
        // A name becomes a path on this machine.
        if (path.Length == 0 || path.Contains('\\', StringComparison.Ordinal) || path.Split('/').Any(part => part is "" or "." or "..") || System.IO.Path.IsPathRooted(path)) throw new FormatException($"'{path}' is no file name.");
        if (!HubChecksum.IsHex(checksum, isLarge ? HubChecksum.LargeLength : 40) || size < 0) throw new FormatException($"'{path}' has no checksum.");
        return new(path, checksum, size);
    }
}
