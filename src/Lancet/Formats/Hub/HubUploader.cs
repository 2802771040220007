using System.Net;
using System.Text.Json;

namespace Lancet.Formats.Hub;

/// <summary>What an upload is to do.</summary>
public sealed record HubUploadOptions
{
    /// <summary>Whether a repository that is created is private.</summary>
    public bool IsPrivate { get; init; }

    /// <summary>First line of the commit.</summary>
    public string Message { get; init; } = "Upload with Lancet";

    /// <summary>Whether the commit becomes a pull request on the branch instead.</summary>
    public bool CreatesPullRequest { get; init; }
}

/// <summary>Progress of an upload.</summary>
/// <param name="IsSending">Whether bytes are sent; before that, files are read for their checksums.</param>
/// <param name="Bytes">Bytes done.</param>
/// <param name="TotalBytes">Bytes to do.</param>
public readonly record struct HubUploadProgress(bool IsSending, long Bytes, long TotalBytes);

/// <summary>What became of a file.</summary>
public enum HubUploadOutcome
{
    /// <summary>Its contents were sent.</summary>
    Sent,

    /// <summary>The hub had the contents, of an upload that was cut or under another name, and they got this name.</summary>
    Linked,

    /// <summary>The branch has the same file.</summary>
    Unchanged,

    /// <summary>The repository's .gitignore leaves it out.</summary>
    Ignored,
}

/// <summary>What an upload did.</summary>
/// <param name="IsNew">Whether the repository was created.</param>
/// <param name="Commit">Commit that holds the files.</param>
/// <param name="PullRequest">Address of the pull request, or null for none.</param>
/// <param name="Files">Each file and what became of it.</param>
public sealed record HubUploadResult(bool IsNew, string Commit, string? PullRequest, IReadOnlyList<(HubLocalFile File, HubUploadOutcome Outcome)> Files);

/// <summary>A file on its way.</summary>
/// <param name="Local">The file.</param>
/// <param name="IsLarge">Whether the hub keeps it as a large one.</param>
/// <param name="IsIgnored">Whether the hub would leave it out.</param>
/// <param name="Checksum">As the hub counts it; empty until it is known.</param>
internal sealed record HubUploadFile(HubLocalFile Local, bool IsLarge, bool IsIgnored, string Checksum = "");

/// <summary>
/// Brings files into a repository of the hub in one commit, as Python's huggingface_hub does (<c>_commit_api.py</c>, <c>lfs.py</c>): the hub says which files are large; those go to storage first, the others with the commit. What the branch has already is not sent.
/// Files are read as they are sent, so memory does not grow with them. An upload that ends early has committed nothing, and one that is started again finds what storage has.
/// </summary>
public sealed class HubUploader(HubOptions options)
{
    private const int FilesOfRequest = 256;
    private const int SampleBytes = 512;

    /// <summary>Uploads files.</summary>
    /// <param name="id">Repository and branch; either is created if it is not there.</param>
    /// <param name="files">Files, each path once.</param>
    /// <param name="how">What to do.</param>
    /// <param name="progress">Hears of bytes, or null.</param>
    /// <param name="cancellation">Ends the upload; what storage has is kept there, and nothing is committed.</param>
    /// <exception cref="LancetException">There is no token, the hub refuses, somebody else changed the same files, or a file changed here.</exception>
    /// <exception cref="OutputException">The hub cannot be reached, or stays busy.</exception>
    public async Task<HubUploadResult> UploadAsync(HubId id, IReadOnlyList<HubLocalFile> files, HubUploadOptions how, IProgress<HubUploadProgress>? progress = null, CancellationToken cancellation = default)
    {
        Check(id);
        using var http = new HubHttp(options);
        try
        {
            var (listing, isNew) = await OpenAsync(http, id, how, cancellation).ConfigureAwait(false);
            var all = await ChecksumsAsync(await ModesAsync(http, id, files, how, cancellation).ConfigureAwait(false), progress, cancellation).ConfigureAwait(false);
            var there = listing.Checksums;
            var changed = all.Where(file => !file.IsIgnored && there.GetValueOrDefault(file.Local.Path) != file.Checksum).ToList();
            long total = changed.Sum(file => file.Local.Size), done = 0;
            var linked = await SendAsync(http, id, changed.Where(file => file.IsLarge), Report, cancellation).ConfigureAwait(false);
            foreach (var file in changed.Where(file => file.Local.HasChanged)) throw new LancetException($"{file.Local.Source} changed while it was uploaded; nothing was committed. Start again once it is complete.");
            var (commit, request) = changed.Count == 0 ? (listing.Commit, null) : await new HubCommit(http, options, id, how).MakeAsync(listing, changed, Report, cancellation).ConfigureAwait(false);
            return new(isNew, commit, request, [.. all.Select(file => (file.Local, file.IsIgnored ? HubUploadOutcome.Ignored : !changed.Contains(file) ? HubUploadOutcome.Unchanged : linked.Contains(file) ? HubUploadOutcome.Linked : HubUploadOutcome.Sent))]);

            void Report(long bytes) => progress?.Report(new(true, Interlocked.Add(ref done, bytes), total));
        }
        catch (Exception error) when (error is HttpRequestException or IOException or UnauthorizedAccessException)
        {
            throw new OutputException($"{id}: {error.Message} Nothing was committed; large files that were uploaded whole are kept: start again to go on.", error);
        }
    }

    /// <summary>Refuses what no upload can do, before anything is prepared for it.</summary>
    /// <param name="id">Repository and branch.</param>
    /// <exception cref="LancetException">There is no token, the network is not to be used, or a commit is named.</exception>
    public void Check(HubId id)
    {
        if (options.IsOffline) throw new LancetException($"{id}: HF_HUB_OFFLINE is set, so nothing is uploaded. Unset it first.");
        if (options.Token is null) throw new LancetException($"{id}: uploading needs a token with the right to write. Set HF_TOKEN, or log in with hf auth login; tokens are made at {new Uri(options.Endpoint, "/settings/tokens")}.");
        if (id.IsCommit) throw new LancetException($"{id}: a commit never changes; name a branch.");
    }

    /// <summary>The branch as it is, made if it is not there, and whether the repository is new.</summary>
    private async Task<(HubListing Listing, bool IsNew)> OpenAsync(HubHttp http, HubId id, HubUploadOptions how, CancellationToken cancellation)
    {
        var call = HubListing.Call(id, options, HubPurpose.Upload);
        var (isNew, hasRepository, hasBranch) = (false, false, false);
        while (true)
        {
            // Once it was made, its absence is an error.
            var tolerant = call with { IsRead = status => status == HttpStatusCode.NotFound && !hasBranch };
            var (listing, lacksBranch) = await http.SendAsync(tolerant, async (response, token) => response.StatusCode == HttpStatusCode.NotFound
                ? (null, hasRepository || (response.Headers.TryGetValues("X-Error-Code", out var codes) && codes.First() == "RevisionNotFound"))
                : (await http.ReadJsonAsync(call, response, HubListing.Read, token).ConfigureAwait(false), false), cancellation).ConfigureAwait(false);
            if (listing is not null)
            {
                if (how.IsPrivate && !listing.IsPrivate) throw new LancetException($"{id}: the repository is there and public, so what goes there will be, too. Make it private at {new Uri(options.Endpoint, $"/{id.Name}/settings")}, or leave --private out.");
                return (listing, isNew);
            }
            if (!lacksBranch) isNew = await CreateAsync(http, id, how, cancellation).ConfigureAwait(false);
            hasRepository = true;
            hasBranch = lacksBranch || id.Revision == "main";
            if (lacksBranch) await PostAsync(http, id, $"{id.ApiPath}/branch/{Uri.EscapeDataString(id.Revision)}", _ => { }, cancellation).ConfigureAwait(false);
        }
    }

    private Task<bool> CreateAsync(HubHttp http, HubId id, HubUploadOptions how, CancellationToken cancellation) => PostAsync(http, id, "/api/repos/create", json =>
    {
        var parts = id.Name.Split('/');
        json.WriteString("type", "model");
        json.WriteString("organization", parts[0]);
        json.WriteString("name", parts[1]);
        // An organisation may have a default of its own, which only a wish replaces.
        if (how.IsPrivate) json.WriteBoolean("private", true);
    }, cancellation);

    /// <summary>Makes something, and returns whether it was not there.</summary>
    private Task<bool> PostAsync(HubHttp http, HubId id, string path, Action<Utf8JsonWriter> write, CancellationToken cancellation) => http.SendAsync(new(HttpMethod.Post, new(options.Endpoint, path), id.ToString(), HubPurpose.Upload)
    {
        Content = _ => HubJson.Content("application/json", write),
        IsRead = status => status == HttpStatusCode.Conflict,
    }, (response, _) => Task.FromResult(response.IsSuccessStatusCode), cancellation);

    /// <summary>Asks the hub which files are large and which it leaves out; it looks at names, sizes and first bytes.</summary>
    private async Task<List<HubUploadFile>> ModesAsync(HubHttp http, HubId id, IReadOnlyList<HubLocalFile> files, HubUploadOptions how, CancellationToken cancellation)
    {
        var result = new List<HubUploadFile>();
        foreach (var some in files.Chunk(FilesOfRequest))
        {
            var samples = some.Select(SampleOf).ToArray();
            var call = new HubCall(HttpMethod.Post, new(options.Endpoint, $"{id.ApiPath}/preupload/{Uri.EscapeDataString(id.Revision)}{(how.CreatesPullRequest ? "?create_pr=1" : "")}"), id.ToString(), HubPurpose.Upload)
            {
                Content = _ => HubJson.Content("application/json", json =>
                {
                    json.WriteStartArray("files");
                    foreach (var (file, sample) in some.Zip(samples))
                    {
                        json.WriteStartObject();
                        json.WriteString("path", file.Path);
                        json.WriteNumber("size", file.Size);
                        json.WriteBase64String("sample", sample);
                        json.WriteEndObject();
                    }
                    json.WriteEndArray();
                }),
            };
            result.AddRange(await http.JsonAsync(call, root => ReadModes(root, some), cancellation).ConfigureAwait(false));
        }
        return result;
    }

    private static List<HubUploadFile> ReadModes(JsonElement root, HubLocalFile[] files)
    {
        var modes = root.GetProperty("files").EnumerateArray().DistinctBy(file => file.GetProperty("path").GetString()!).ToDictionary(file => file.GetProperty("path").GetString()!);
        return [.. files.Select(file =>
        {
            var (mode, isLarge) = (modes[file.Path], modes[file.Path].GetProperty("uploadMode").GetString() switch { "lfs" => true, "regular" => false, var other => throw new FormatException($"'{other}' is no way to upload {file.Path}.") });
            // Storage takes no empty files.
            return new HubUploadFile(file, isLarge && file.Size > 0, mode.TryGetProperty("shouldIgnore", out var ignored) && ignored.ValueKind == JsonValueKind.True);
        })];
    }

    private static byte[] SampleOf(HubLocalFile file)
    {
        using var stream = file.Open();
        var sample = new byte[Math.Min(SampleBytes, file.Size)];
        stream.ReadExactly(sample);
        return sample;
    }

    private async Task<IReadOnlyList<HubUploadFile>> ChecksumsAsync(List<HubUploadFile> files, IProgress<HubUploadProgress>? progress, CancellationToken cancellation)
    {
        long total = files.Where(file => !file.IsIgnored).Sum(file => file.Local.Size), done = 0;
        var result = files.ToArray();
        await Parallel.ForAsync(0, result.Length, new ParallelOptions { MaxDegreeOfParallelism = options.Parallelism, CancellationToken = cancellation }, async (i, token) =>
        {
            var file = result[i];
            if (file.IsIgnored) return;
            using var stream = file.Local.Open();
            result[i] = file with { Checksum = await HubChecksum.OfAsync(stream, file.Local.Size, file.IsLarge, count => progress?.Report(new(false, Interlocked.Add(ref done, count), total)), token).ConfigureAwait(false) };
        }).ConfigureAwait(false);
        return result;
    }

    /// <summary>Sends large files, and returns those whose contents the hub had.</summary>
    private async Task<HashSet<HubUploadFile>> SendAsync(HubHttp http, HubId id, IEnumerable<HubUploadFile> files, Action<long> sent, CancellationToken cancellation)
    {
        using var large = new HubLargeFiles(http, options, id, sent);
        var linked = new HashSet<HubUploadFile>();
        // Several names may stand for the same contents.
        await Parallel.ForEachAsync(files.GroupBy(file => file.Checksum), new ParallelOptions { MaxDegreeOfParallelism = options.Parallelism, CancellationToken = cancellation }, async (same, token) =>
        {
            var wasSent = await large.UploadAsync(same.First(), token).ConfigureAwait(false);
            foreach (var file in same.Skip(1)) sent(file.Local.Size);
            lock (linked) linked.UnionWith(same.Skip(wasSent ? 1 : 0));
        }).ConfigureAwait(false);
        return linked;
    }
}
