using System.Net;
using System.Text.Json;

namespace Lancet.Formats.Hub;

/// <summary>
/// Makes the commit of an upload exactly once. A commit names the one before it, and the hub refuses it if the branch has moved. After a refusal of that kind, or an answer that never came, the branch is looked at again: what is there
/// is done; what others changed meanwhile is not overwritten; else the commit is put on top of theirs.
/// </summary>
/// <param name="http">Requests.</param>
/// <param name="options">Options.</param>
/// <param name="id">Repository and branch.</param>
/// <param name="how">What to do.</param>
internal sealed class HubCommit(HubHttp http, HubOptions options, HubId id, HubUploadOptions how)
{
    /// <summary>What came of an attempt: a commit, or why there may be none.</summary>
    private readonly record struct Attempt(string? Commit, string? PullRequest, string Why, TimeSpan Wait);

    /// <summary>Makes the commit.</summary>
    /// <param name="before">The branch as the upload found it.</param>
    /// <param name="files">Files to commit; large ones are in storage.</param>
    /// <param name="sent">Hears of bytes of small files.</param>
    /// <param name="cancellation">Ends it.</param>
    /// <returns>The commit, and the address of its pull request if it is one.</returns>
    public async Task<(string Commit, string? PullRequest)> MakeAsync(HubListing before, IReadOnlyList<HubUploadFile> files, Action<long> sent, CancellationToken cancellation)
    {
        var former = before.Checksums;
        for (var (attempt, parent) = (1, before.Commit); ; attempt++)
        {
            var result = await TryAsync(parent, files, sent, attempt, cancellation).ConfigureAwait(false);
            if (result.Commit is { } commit) return (commit, result.PullRequest);
            if (how.CreatesPullRequest) throw new OutputException($"{id}: {result.Why} The pull request may have been made all the same; look at {new Uri(options.Endpoint, $"{id.FilesPath}/discussions")} before you start again.");
            if (attempt >= options.Attempts) throw new OutputException($"{id}: {result.Why} The commit was tried {attempt} times. Wait some minutes and start again; large files that were uploaded are kept.");
            await options.Wait(result.Wait, cancellation).ConfigureAwait(false);
            var now = await http.JsonAsync(HubListing.Call(id, options, HubPurpose.Upload), HubListing.Read, cancellation).ConfigureAwait(false);
            var there = now.Checksums;
            if (files.All(file => there.GetValueOrDefault(file.Local.Path) == file.Checksum)) return (now.Commit, null);
            if (files.FirstOrDefault(file => there.GetValueOrDefault(file.Local.Path) is var current && current != file.Checksum && current != former.GetValueOrDefault(file.Local.Path)) is { } conflict)
                throw new LancetException($"{id}: somebody else changed {conflict.Local.Path} on the hub meanwhile; nothing was committed. Start again to replace it.");
            parent = now.Commit;
        }
    }

    private async Task<Attempt> TryAsync(string parent, IReadOnlyList<HubUploadFile> files, Action<long> sent, int attempt, CancellationToken cancellation)
    {
        var count = 0L;
        var call = new HubCall(HttpMethod.Post, new(options.Endpoint, $"{id.ApiPath}/commit/{Uri.EscapeDataString(id.Revision)}{(how.CreatesPullRequest ? "?create_pr=1" : "")}"), id.ToString(), HubPurpose.Upload)
        {
            Attempts = 1,
            IsRead = status => HubHttp.IsTemporary(status) || HasMoved(status),
            // A commit of many files takes the hub its time.
            Silence = options.Silence * 5,
            Content = alive => new CommitContent(how.Message, parent, files, bytes =>
            {
                alive();
                count += bytes;
                sent(bytes);
            }),
        };
        try
        {
            var result = await http.SendAsync(call, async (response, token) => response.IsSuccessStatusCode
                ? await http.ReadJsonAsync(call, response, Read, token).ConfigureAwait(false)
                : new(null, null, HasMoved(response.StatusCode) ? "somebody else committed at the same time." : $"{options.Endpoint.Host} answered {(int)response.StatusCode} {response.ReasonPhrase}.", HubHttp.WaitAfter(response, attempt)), cancellation).ConfigureAwait(false);
            if (result.Commit is null) sent(-count);
            return result;
        }
        catch (Exception error) when (error is HttpRequestException or IOException)
        {
            sent(-count);
            return new(null, null, error.Message, HubHttp.WaitAfter(null, attempt));
        }
    }

    private static Attempt Read(JsonElement root) => new(root.GetProperty("commitOid").GetString()!, root.TryGetProperty("pullRequestUrl", out var request) && request.ValueKind == JsonValueKind.String ? request.GetString() : null, "", default);

    private static bool HasMoved(HttpStatusCode status) => status is HttpStatusCode.Conflict or HttpStatusCode.PreconditionFailed;
}
