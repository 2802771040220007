using System.Net;

namespace Lancet.Formats.Hub;

/// <summary>Progress of a download.</summary>
/// <param name="Bytes">Bytes that are here, those of former runs included.</param>
/// <param name="TotalBytes">Bytes of all files.</param>
public readonly record struct HubProgress(long Bytes, long TotalBytes);

/// <summary>
/// Brings files of a repository into the cache that Python's huggingface_hub keeps too (<see href="https://huggingface.co/docs/huggingface_hub/guides/manage-cache"/>): <c>blobs/</c> by checksum,
/// <c>refs/</c> with commits by name, <c>snapshots/commit/</c> with relative links. What is cut goes on where it stopped, and nothing becomes a blob whose checksum (SHA-256 of large files, Git's SHA-1 of small ones)
/// is not that of the hub.
/// </summary>
public sealed class HubDownloader(HubOptions options)
{
    // Behind the name of a blob that is not whole yet.
    private const string Incomplete = ".incomplete";

    /// <summary>Brings what is missing, and returns the snapshot's folder with the files that were asked for.</summary>
    /// <param name="id">Repository and revision.</param>
    /// <param name="choose">Chooses among the repository's files.</param>
    /// <param name="progress">Hears of bytes, or null.</param>
    /// <param name="check">Gets the snapshot's folder when config.json is in it, if the repository has one, and nothing else has been fetched; what it throws ends the download.</param>
    /// <param name="cancellation">Ends the download; what is there is kept.</param>
    /// <exception cref="LancetException">The hub refuses or cannot be reached, a file is not what it should be, or the disk has too little room.</exception>
    public async Task<(string Folder, IReadOnlyList<string> Files)> DownloadAsync(HubId id, Func<IReadOnlyList<string>, IReadOnlyList<string>> choose, IProgress<HubProgress>? progress = null, Action<string>? check = null, CancellationToken cancellation = default)
    {
        var folder = Path.Combine(options.CacheFolder, id.Folder);
        if (options.IsOffline) return Cached(id, folder, choose, "HF_HUB_OFFLINE is set, and it is not in the cache");
        using var http = new HubHttp(options);
        HubListing listing;
        try
        {
            listing = await http.JsonAsync(HubListing.Call(id, options, HubPurpose.Download), HubListing.Read, cancellation).ConfigureAwait(false);
        }
        catch (Exception error) when (error is HttpRequestException or IOException)
        {
            return Cached(id, folder, choose, $"{options.Endpoint.Host} cannot be reached ({error.Message}), and it is not in the cache");
        }
        var chosen = choose([.. listing.Files.Select(file => file.Path)]).ToHashSet();
        var (commit, files) = (listing.Commit, listing.Files.Where(file => chosen.Contains(file.Path)).ToList());
        var snapshot = Path.Combine(folder, "snapshots", commit);
        try
        {
            Directory.CreateDirectory(Path.Combine(folder, "blobs"));
            Directory.CreateDirectory(snapshot);
            long total = files.Sum(file => file.Size), done = 0;
            // Several names may stand for the same contents.
            var contents = files.GroupBy(file => file.Checksum).ToList();
            DiskSpace.Require(folder, contents.Sum(same => Missing(Blob(same.First()), same.First().Size)));
            await FetchAllAsync(contents.Where(same => same.Any(IsConfig))).ConfigureAwait(false);
            if (check is not null && files.Exists(IsConfig)) check(snapshot);
            await FetchAllAsync(contents.Where(same => !same.Any(IsConfig))).ConfigureAwait(false);

            Task FetchAllAsync(IEnumerable<IGrouping<string, HubRemoteFile>> some) => Parallel.ForEachAsync(some, new ParallelOptions { MaxDegreeOfParallelism = options.Parallelism, CancellationToken = cancellation }, async (same, token) =>
            {
                var file = same.First();
                if (!File.Exists(Blob(file))) await FetchAsync(http, id, commit, file, Blob(file), count => progress?.Report(new(Interlocked.Add(ref done, count), total)), token).ConfigureAwait(false);
                else progress?.Report(new(Interlocked.Add(ref done, file.Size), total));
                foreach (var name in same) Link(snapshot, name.Path, Blob(file));
            });
            if (!id.IsCommit) AtomicFile.WriteText(Path.Combine(folder, "refs", id.Revision), commit);
        }
        catch (Exception error) when (error is HttpRequestException or IOException or UnauthorizedAccessException)
        {
            throw new LancetException($"{id}: {error.Message} What was downloaded is kept in {folder}; start again to go on.", error);
        }
        return (snapshot, [.. files.Select(file => Path.Combine(snapshot, file.Path)).Order(StringComparer.Ordinal)]);

        string Blob(HubRemoteFile file) => Path.Combine(folder, "blobs", file.Checksum);
    }

    private static bool IsConfig(HubRemoteFile file) => file.Path == "config.json";

    /// <summary>Bytes of a file that are still to be fetched.</summary>
    private static long Missing(string blob, long size) => File.Exists(blob) ? 0 : File.Exists(blob + Incomplete) ? Math.Max(0, size - new FileInfo(blob + Incomplete).Length) : size;

    private async Task FetchAsync(HubHttp http, HubId id, string commit, HubRemoteFile file, string blob, Action<long> arrived, CancellationToken cancellation)
    {
        var what = $"{id}: {file.Path}";
        // Two processes must not write the same file; the second is told so.
        using var stream = new FileStream(blob + Incomplete, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None, 1 << 16);
        if (stream.Length > file.Size) stream.SetLength(0);
        arrived(stream.Length);
        var path = $"{id.FilesPath}/resolve/{commit}/{string.Join('/', file.Path.Split('/').Select(Uri.EscapeDataString))}";
        var call = new HubCall(HttpMethod.Get, new(options.Endpoint, path), what)
        {
            Headers = headers => headers.Range = stream.Length > 0 ? new(stream.Length, null) : null,
            IsRead = status => status == HttpStatusCode.RequestedRangeNotSatisfiable,
        };
        for (var isSecond = false; ; isSecond = true)
        {
            if (stream.Length < file.Size) await http.SendAsync(call, (response, token) => AppendAsync(response, stream, file, arrived, token), cancellation).ConfigureAwait(false);
            stream.Position = 0;
            if (await HubChecksum.OfAsync(stream, file.Size, file.Checksum.Length == HubChecksum.LargeLength, null, cancellation).ConfigureAwait(false) == file.Checksum) break;
            // What an earlier run left may have been spoiled; once more from the start.
            arrived(-stream.Length);
            stream.SetLength(0);
            if (isSecond) throw new LancetException($"{what}: what arrived has another checksum than the hub says ({file.Checksum}). Start again; if that does not help, something on the way changes the file.");
        }
        stream.Flush(true);
        File.Move(blob + Incomplete, blob, true);
    }

    private async Task<bool> AppendAsync(HttpResponseMessage response, FileStream stream, HubRemoteFile file, Action<long> arrived, CancellationToken cancellation)
    {
        // A server may ignore the range, or begin elsewhere.
        var isContinued = response.StatusCode == HttpStatusCode.PartialContent && response.Content.Headers.ContentRange?.From == stream.Length;
        if (!isContinued)
        {
            arrived(-stream.Length);
            stream.SetLength(0);
            if (response.StatusCode != HttpStatusCode.OK) throw new HttpIOException(HttpRequestError.InvalidResponse, "the hub sent another range than was asked for.");
        }
        stream.Position = stream.Length;
        using var content = await response.Content.ReadAsStreamAsync(cancellation).ConfigureAwait(false);
        var buffer = new byte[1 << 17];
        using var silence = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        while (true)
        {
            silence.CancelAfter(options.Silence);
            var count = await content.ReadAsync(buffer, silence.Token).ConfigureAwait(false);
            if (count == 0) break;
            if (stream.Length + count > file.Size) throw new LancetException($"{file.Path}: the hub sends more than the {file.Size} bytes that it announced.");
            await stream.WriteAsync(buffer.AsMemory(0, count), cancellation).ConfigureAwait(false);
            arrived(count);
        }
        return stream.Length == file.Size ? true : throw new HttpIOException(HttpRequestError.ResponseEnded, $"the connection ended after {stream.Length} of {file.Size} bytes.");
    }

    private static void Link(string snapshot, string name, string blob)
    {
        var link = Path.Combine(snapshot, name);
        var target = Path.GetRelativePath(Path.GetDirectoryName(link)!, blob);
        var existing = new FileInfo(link);
        if (existing.LinkTarget == target || (existing.Exists && existing.LinkTarget is null)) return;
        Directory.CreateDirectory(Path.GetDirectoryName(link)!);
        File.Delete(link);
        try
        {
            File.CreateSymbolicLink(link, target);
        }
        catch (Exception error) when (OperatingSystem.IsWindows() && error is IOException or UnauthorizedAccessException)
        {
            // Windows lets not everybody make links.
            File.Copy(blob, link);
        }
    }

    private static (string, IReadOnlyList<string>) Cached(HubId id, string folder, Func<IReadOnlyList<string>, IReadOnlyList<string>> choose, string why)
    {
        var reference = Path.Combine(folder, "refs", id.Revision);
        var commit = id.IsCommit ? id.Revision : File.Exists(reference) ? File.ReadAllText(reference).Trim() : "";
        var snapshot = Path.Combine(folder, "snapshots", commit);
        if (!HubChecksum.IsHex(commit, 40) || !Directory.Exists(snapshot)) throw new LancetException($"{id}: {why} ({folder}).");
        // Links whose blob is gone are not there.
        string[] files = [.. Directory.EnumerateFiles(snapshot, "*", SearchOption.AllDirectories).Where(File.Exists).Select(file => Path.GetRelativePath(snapshot, file).Replace(Path.DirectorySeparatorChar, '/'))];
        return (snapshot, [.. choose(files).Select(file => Path.Combine(snapshot, file)).Order(StringComparer.Ordinal)]);
    }
}
