using System.Text;
using System.Text.Json.Nodes;
using Lancet.Formats.Hub;

namespace Lancet.Tests.Hub;

/// <summary>Uploads to a hub that behaves, and to one that does not.</summary>
public sealed class HubUploadTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("lancet-push").FullName;
    private readonly HubUploadServer _server = new();
    private readonly List<TimeSpan> _waits = [];
    private readonly HubId _id = HubId.Parse("org/name", HubRepositoryKind.Model);

    public HubUploadTests()
    {
        Write("README.md", 300);
        Write("config.json", 4000);
        Write("empty.txt", 0);
        Write("empty.safetensors", 0);
        Write("adapter_model.safetensors", 70_000);
        Write("tokenizer.json", 60_000);
        Write("weights/model.safetensors", 450_001);
    }

    private HubOptions Options => new() { Endpoint = _server.Hub.Address, CacheFolder = _folder, Token = HubUploadServer.Token, Attempts = 4, Wait = (wait, _) => { lock (_waits) _waits.Add(wait); return Task.CompletedTask; } };

    public void Dispose()
    {
        _server.Dispose();
        Directory.Delete(_folder, true);
    }

    [Fact]
    public async Task What_arrives_is_what_lies_here_and_is_not_sent_again()
    {
        var reports = new List<HubUploadProgress>();
        var result = await Upload(how: new() { Message = "Zeile \"eins\"\n{" }, progress: new Sink(reports));
        Assert.True(result.IsNew);
        Assert.All(result.Files, file => Assert.Equal(HubUploadOutcome.Sent, file.Outcome));
        AssertArrived();
        Assert.Equal(["adapter_model.safetensors", "tokenizer.json", "weights/model.safetensors"], _server.Files().Where(file => file.Value.IsLarge).Select(file => file.Key).Order(StringComparer.Ordinal));
        Assert.Equal("Zeile \"eins\"\n{", Assert.Single(_server.Messages));
        Assert.False(_server.Repositories["org/name"].IsPrivate);
        // Two files in one piece, one in five parts.
        Assert.Equal(2 + 5, _server.Storage.Requests.Count);
        Assert.All(_server.Storage.Requests, request => Assert.DoesNotContain(request.Headers, header => header.Value.Contains(HubUploadServer.Token, StringComparison.Ordinal)));
        // The batch may name headers of a file in one piece.
        Assert.Equal(2, _server.Storage.Requests.Count(request => request.Headers.GetValueOrDefault("x-kind") == "whole"));
        Assert.All(_server.Hub.Requests, request => Assert.Equal($"Bearer {HubUploadServer.Token}", request.Headers["authorization"]));
        foreach (var isSending in (bool[])[false, true])
        {
            var phase = reports.Where(report => report.IsSending == isSending).ToList();
            Assert.All(phase, report => Assert.Equal(584_301, report.TotalBytes));
            Assert.Equal(584_301, phase.Max(report => report.Bytes));
        }
        var requests = _server.Requests.Count();
        var again = await Upload();
        Assert.False(again.IsNew);
        Assert.Equal(result.Commit, again.Commit);
        Assert.All(again.Files, file => Assert.Equal(HubUploadOutcome.Unchanged, file.Outcome));
        // The listing, and which files are large.
        Assert.Equal(requests + 2, _server.Requests.Count());
    }

    [Fact]
    public async Task Only_what_changed_is_committed_and_what_else_is_there_stays()
    {
        await Upload();
        _server.Commit("main", ("theirs.txt", [7], false));
        Write("README.md", 301);
        File.Copy(At("adapter_model.safetensors"), At("copy.safetensors"));
        var result = await Upload();
        Assert.Equal(["README.md"], result.Files.Where(file => file.Outcome == HubUploadOutcome.Sent).Select(file => file.File.Path));
        Assert.Equal(["copy.safetensors"], result.Files.Where(file => file.Outcome == HubUploadOutcome.Linked).Select(file => file.File.Path));
        Assert.Equal(7, _server.Storage.Requests.Count);
        AssertArrived();
        Assert.Equal([7], _server.Files()["theirs.txt"].Bytes);
    }

    [Fact]
    public async Task Private_holds_for_a_new_repository_and_is_refused_for_a_public_one()
    {
        await Upload(how: new() { IsPrivate = true });
        Assert.True(_server.Repositories["org/name"].IsPrivate);
        Write("README.md", 10);
        await Upload(how: new() { IsPrivate = true });
        _server.Repositories["org/name"] = new() { IsPrivate = false };
        Assert.Contains("there and public", (await Assert.ThrowsAsync<LancetException>(() => Upload(how: new() { IsPrivate = true }))).Message);
        Assert.Single(_server.Files());
        // Nor is anything sent to a hub that made a public one all the same.
        _server.Repositories.Clear();
        _server.Refuse = request => request.Path == "/api/repos/create" && _server.Repositories.TryAdd("org/name", new()) ? HubAnswer.Text(200) : null;
        var stored = _server.Storage.Requests.Count;
        Assert.Contains("there and public", (await Assert.ThrowsAsync<LancetException>(() => Upload(how: new() { IsPrivate = true }))).Message);
        Assert.Equal(stored, _server.Storage.Requests.Count);
        Assert.Single(_server.Files());
    }

    [Fact]
    public async Task A_branch_is_created_and_a_pull_request_leaves_it_alone()
    {
        var branch = _id with { Revision = "runs/two" };
        Assert.True((await Upload(branch)).IsNew);
        AssertArrived("runs/two");
        Assert.Single(_server.Files());
        var result = await Upload(how: new() { CreatesPullRequest = true });
        Assert.EndsWith("/org/name/discussions/1", result.PullRequest);
        AssertArrived("refs/pr/1");
        Assert.Single(_server.Files());
        Assert.Contains("a commit never changes", (await Assert.ThrowsAsync<LancetException>(() => Upload(_id with { Revision = new('a', 40) }))).Message);
    }

    [Theory]
    [InlineData("GET", "/revision/", 401, "does not accept the token (401: they say so). Set HF_TOKEN")]
    [InlineData("GET", "/revision/", 403, "may not do this (403: they say so). It needs the right to write")]
    [InlineData("POST", "/api/repos/create", 403, "may not do this (403: they say so)")]
    [InlineData("POST", "/preupload/", 404, "does not find it (404: they say so)")]
    [InlineData("POST", "/objects/batch", 403, "adapter_model.safetensors: the token")]
    [InlineData("POST", "/objects/batch", 413, "too large for 127.0.0.1 (413: they say so)")]
    [InlineData("POST", "/verify", 400, "answered 400: they say so")]
    [InlineData("POST", "/commit/", 400, "org/name: 127.0.0.1 answered 400: they say so")]
    [InlineData("POST", "/commit/", 401, "does not accept the token")]
    [InlineData("POST", "/commit/", 413, "too large for 127.0.0.1 (413: they say so). Nothing was committed")]
    public async Task Refusals_are_told_in_the_hubs_words_and_not_repeated(string method, string path, int status, string message)
    {
        File.Delete(At("tokenizer.json"));
        Directory.Delete(At("weights"), true);
        var times = 0;
        _server.Refuse = request => request.Method == method && request.Path.Contains(path, StringComparison.Ordinal) && times++ >= 0 ? HubAnswer.Text(status, "{\"error\":\"they\\u001b say so.\"}") : null;
        var error = (await Assert.ThrowsAsync<LancetException>(() => Upload())).Message;
        Assert.Contains(message.Replace("they say", "they  say", StringComparison.Ordinal), error);
        Assert.DoesNotContain(HubUploadServer.Token, error);
        Assert.Equal(1, times);
        Assert.Empty(_waits);
        Assert.True(!_server.Repositories.ContainsKey("org/name") || _server.Files().Count == 1);
    }

    [Fact]
    public async Task A_repository_that_is_made_meanwhile_is_used()
    {
        _server.Refuse = request =>
        {
            if (request.Path == "/api/repos/create") _server.Repositories.TryAdd("org/name", new());
            return null;
        };
        Assert.False((await Upload()).IsNew);
        AssertArrived();
        // One that is there, but not for this token to see.
        _server.Refuse = request => request.Path.Contains("/revision/", StringComparison.Ordinal) ? HubAnswer.Text(404).With("X-Error-Code", "RepoNotFound") : null;
        Assert.Contains("whether the token may see it", (await Assert.ThrowsAsync<LancetException>(() => Upload(_id with { Revision = "other" }))).Message);
    }

    [Theory]
    [InlineData("/revision/", 429)]
    [InlineData("/objects/batch", 503)]
    [InlineData("signature", 500)]
    [InlineData("/complete", 502)]
    [InlineData("/commit/", 429)]
    [InlineData("/commit/", 504)]
    public async Task A_busy_server_is_asked_again_when_it_says(string path, int status)
    {
        var busy = 2;
        _server.Refuse = request => request.Path.Contains(path, StringComparison.Ordinal) && Interlocked.Decrement(ref busy) >= 0 ? HubAnswer.Text(status).With("Retry-After", "17") : null;
        await Upload();
        AssertArrived();
        Assert.Equal([TimeSpan.FromSeconds(17), TimeSpan.FromSeconds(17)], _waits);
        Write("README.md", 12);
        Write("weights/model.safetensors", 450_002);
        _server.Refuse = request => request.Path.Contains(path, StringComparison.Ordinal) ? HubAnswer.Text(status) : null;
        var error = (await Assert.ThrowsAsync<OutputException>(() => Upload())).Message;
        Assert.Contains($"answered {status} X", error);
        Assert.Contains("4 times", error);
        Assert.Single(_server.Messages);
    }

    [Fact]
    public async Task Of_a_cut_upload_only_the_part_that_was_cut_is_sent_again()
    {
        var (cuts, reports) = (0, new List<HubUploadProgress>());
        _server.Storage.CutBody = request => request.Path.Contains("/3?", StringComparison.Ordinal) && cuts++ < 2 ? 40_000 : null;
        await Upload(progress: new Sink(reports));
        AssertArrived();
        Assert.Equal([1, 1, 3, 1, 1], Enumerable.Range(1, 5).Select(part => _server.Storage.Requests.Count(request => request.Path.Contains($"/{part}?", StringComparison.Ordinal))));
        Assert.Equal([TimeSpan.FromSeconds(1), TimeSpan.FromSeconds(2)], _waits);
        Assert.Equal(584_301, reports[^1].Bytes);
        Assert.All(reports, report => Assert.InRange(report.Bytes, 0, report.TotalBytes));
    }

    [Fact]
    public async Task A_connection_that_falls_silent_is_given_up_for_another()
    {
        var silent = 0;
        _server.Storage.IsSilent = request => request.Path.Contains("/2?", StringComparison.Ordinal) && silent++ == 0;
        await Upload(options: Options with { Silence = TimeSpan.FromSeconds(0.4) });
        AssertArrived();
        Assert.True(silent > 1);
        Write("tokenizer.json", 60_001);
        _server.Storage.IsSilent = _ => true;
        Assert.Contains("127.0.0.1 was silent for 2 seconds", (await Assert.ThrowsAsync<OutputException>(() => Upload(options: Options with { Attempts = 1, Silence = TimeSpan.FromSeconds(0.4) }))).Message);
    }

    [Fact]
    public async Task Another_run_sends_only_what_a_former_one_did_not()
    {
        _server.Storage.CutBody = request => request.Path.Contains("/3?", StringComparison.Ordinal) ? 40_000 : null;
        var error = (await Assert.ThrowsAsync<OutputException>(() => Upload(options: Options with { Parallelism = 1 }))).Message;
        Assert.Contains("start again to go on", error);
        Assert.Single(_server.Files());
        _server.Storage.CutBody = _ => null;
        var before = _server.Storage.Requests.Count;
        var result = await Upload();
        AssertArrived();
        Assert.Equal(["adapter_model.safetensors", "tokenizer.json"], result.Files.Where(file => file.Outcome == HubUploadOutcome.Linked).Select(file => file.File.Path));
        Assert.All(_server.Storage.Requests.Skip(before), request => Assert.Contains("/", request.Path[1..], StringComparison.Ordinal));
    }

    [Fact]
    public async Task An_address_that_expired_is_asked_for_anew_and_parts_that_are_there_stay()
    {
        var refused = 0;
        _server.Refuse = request => request.Path.Contains("/4?signature", StringComparison.Ordinal) && refused++ == 0 ? HubAnswer.Text(403, "<Code>AccessDenied</Code><Message>Request has expired</Message>") : null;
        // One at a time: else a part that is on its way when another is refused may arrive and yet be sent again.
        await Upload(options: Options with { Parallelism = 1 });
        AssertArrived();
        Assert.Equal([1, 1, 1, 2, 1], Enumerable.Range(1, 5).Select(part => _server.Storage.Requests.Count(request => request.Path.Contains($"/{part}?", StringComparison.Ordinal))));
        Assert.Equal(4, _server.Hub.Requests.Count(request => request.Path.EndsWith("/batch", StringComparison.Ordinal)));
        Write("tokenizer.json", 60_001);
        _server.Refuse = request => request.Path.Contains("signature", StringComparison.Ordinal) ? HubAnswer.Text(403, "<Code>AccessDenied</Code>") : null;
        Assert.Contains("tokenizer.json: 127.0.0.1 answered 403 X: <Code>AccessDenied</Code>.", (await Assert.ThrowsAsync<HubStorageException>(() => Upload())).Message);
    }

    [Fact]
    public async Task A_branch_that_moved_is_built_upon_unless_the_same_file_changed()
    {
        await Upload();
        Write("README.md", 20);
        var theirs = ("theirs.txt", new byte[] { 7 }, false);
        _server.Refuse = Once(() => _server.Commit("main", theirs));
        await Upload();
        AssertArrived();
        Assert.Equal([7], _server.Files()["theirs.txt"].Bytes);
        Write("README.md", 21);
        _server.Refuse = Once(() => _server.Commit("main", ("README.md", [8], false)));
        Assert.Contains("somebody else changed README.md", (await Assert.ThrowsAsync<LancetException>(() => Upload())).Message);
        Assert.Equal([8], _server.Files()["README.md"].Bytes);
        await Upload();
        AssertArrived();

        Func<HubRequest, HubAnswer?> Once(Action act)
        {
            var isDone = false;
            return request =>
            {
                if (request.Path.Contains("/commit/", StringComparison.Ordinal) && !isDone)
                {
                    isDone = true;
                    act();
                }
                return null;
            };
        }
    }

    [Theory]
    [InlineData(409)]
    [InlineData(412)]
    public async Task A_branch_that_always_moves_is_given_up(int status)
    {
        _server.Refuse = request => request.Path.Contains("/commit/", StringComparison.Ordinal) ? HubAnswer.Text(status) : null;
        Assert.Contains("somebody else committed at the same time. The commit was tried 4 times", (await Assert.ThrowsAsync<OutputException>(() => Upload())).Message);
    }

    [Fact]
    public async Task A_commit_whose_answer_is_lost_is_made_once()
    {
        _server.Repositories["org/name"] = new();
        var isLost = false;
        var answer = _server.Hub.Intercept;
        _server.Hub.Intercept = request =>
        {
            var result = answer(request);
            if (!request.Path.Contains("/commit/", StringComparison.Ordinal) || isLost) return result;
            isLost = true;
            return result! with { CutAfter = 5 };
        };
        var commit = (await Upload()).Commit;
        AssertArrived();
        Assert.Single(_server.Messages);
        Assert.Equal(_server.Repositories["org/name"].Branches["main"].Commit, commit);
        // Of a pull request nobody can tell.
        isLost = false;
        Write("README.md", 22);
        Assert.Contains("may have been made all the same; look at", (await Assert.ThrowsAsync<OutputException>(() => Upload(how: new() { CreatesPullRequest = true }))).Message);
    }

    [Fact]
    public async Task Without_a_token_and_offline_nothing_is_asked()
    {
        Assert.Contains("Set HF_TOKEN", (await Assert.ThrowsAsync<LancetException>(() => Upload(options: Options with { Token = null }))).Message);
        Assert.Contains("HF_HUB_OFFLINE is set", (await Assert.ThrowsAsync<LancetException>(() => Upload(options: Options with { IsOffline = true }))).Message);
        Assert.Empty(_server.Requests);
        _server.Dispose();
        Assert.Contains("Nothing was committed", (await Assert.ThrowsAsync<OutputException>(() => Upload())).Message);
    }

    [Fact]
    public async Task A_file_that_changes_on_the_way_is_not_committed()
    {
        var isDone = false;
        _server.Refuse = request =>
        {
            if (request.Path.EndsWith("/complete", StringComparison.Ordinal) && !isDone)
            {
                isDone = true;
                Write("weights/model.safetensors", 450_002);
            }
            return null;
        };
        Assert.Contains("model.safetensors changed while it was uploaded", (await Assert.ThrowsAsync<LancetException>(() => Upload())).Message);
        Assert.Single(_server.Files());
        await Upload();
        AssertArrived();
    }

    [Fact]
    public async Task What_the_repository_ignores_and_what_the_hub_does_not_take_is_said()
    {
        Write("notes.ignored", 100_000);
        var result = await Upload();
        Assert.Equal("notes.ignored", Assert.Single(result.Files, file => file.Outcome == HubUploadOutcome.Ignored).File.Path);
        Assert.DoesNotContain("notes.ignored", _server.Files().Keys);
        File.Delete(At("notes.ignored"));
        Write("tokenizer.json", 60_001);
        _server.Refuse = request => request.Path.EndsWith("/batch", StringComparison.Ordinal) ? HubAnswer.Text(200, $"{{\"objects\":[{{\"oid\":\"{(string)JsonNode.Parse(request.Body)!["objects"]![0]!["oid"]!}\",\"size\":1,\"error\":{{\"code\":422,\"message\":\"no room\"}}}}]}}") : null;
        Assert.Contains("does not take the file: no room (422)", (await Assert.ThrowsAsync<LancetException>(() => Upload())).Message);
        _server.Refuse = request => request.Path.EndsWith("/batch", StringComparison.Ordinal) ? HubAnswer.Text(200, "{\"objects\":[]}") : null;
        Assert.Contains("is not understood", (await Assert.ThrowsAsync<LancetException>(() => Upload())).Message);
    }

    [Fact]
    public async Task A_mirror_that_passes_on_the_hubs_name_is_used_all_the_same()
    {
        _server.Name = "https://huggingface.co/";
        await Upload();
        AssertArrived();
        Assert.Equal(3, _server.Hub.Requests.Count(request => request.Path == "/verify"));
    }

    [Fact]
    public void Checkpoints_records_and_hidden_files_stay_unless_asked_for()
    {
        var kept = HubUploadFiles.Find(_folder, false).Files;
        foreach (var name in (string[])["checkpoints/step-1/training_state.safetensors", "training_state.json", ".env", "weights/.hidden/x", "config.resolved.yaml", "report.html", "model.safetensors.tmp", ".git/config", "weights/.cache/x"]) Write(name, 1);
        Directory.CreateSymbolicLink(At("again"), _folder);
        File.CreateSymbolicLink(At("nowhere"), At("absent"));
        var (files, leftOut) = HubUploadFiles.Find(_folder, false);
        Assert.Equal(kept, files);
        Assert.Equal([".env", ".git/", "again/", "checkpoints/", "config.resolved.yaml", "model.safetensors.tmp", "nowhere", "report.html", "training_state.json", "weights/.cache/", "weights/.hidden/"], leftOut.Select(item => item.Path).Order(StringComparer.Ordinal));
        var all = HubUploadFiles.Find(_folder, true);
        Assert.Equal([".git/", "again/", "nowhere", "weights/.cache/"], all.LeftOut.Select(item => item.Path).Order(StringComparer.Ordinal));
        Assert.Equal(kept.Count + 7, all.Files.Count);
    }

    [Fact]
    public async Task A_single_file_goes_alone_and_a_link_stands_for_its_file()
    {
        Assert.Equal("README.md", Assert.Single(HubUploadFiles.Find(At("README.md"), false).Files).Path);
        Assert.Contains("no such folder", Assert.Throws<LancetException>(() => HubUploadFiles.Find(At("absent"), false)).Message);
        Write("checkpoint/training_state.json", 1);
        Assert.Contains("nothing to upload; left out are training_state.json", Assert.Throws<LancetException>(() => HubUploadFiles.Find(At("checkpoint"), false)).Message);
        // As in the cache of the hub.
        File.CreateSymbolicLink(At("linked.safetensors"), "weights/model.safetensors");
        await Upload();
        Assert.Equal(File.ReadAllBytes(At("weights/model.safetensors")), _server.Files()["linked.safetensors"].Bytes);
        AssertArrived();
    }

    [Theory]
    [InlineData("org/name", "main")]
    [InlineData("org/name@runs/2", "runs/2")]
    [InlineData("org", null)]
    [InlineData("a/b/c", null)]
    [InlineData("org/name@", null)]
    [InlineData("org/na me", null)]
    public void A_target_is_the_name_of_a_repository_whatever_lies_here(string text, string? revision)
    {
        if (revision is null) Assert.Contains("org/name@branch", Assert.Throws<LancetException>(() => HubId.Parse(text, HubRepositoryKind.Model)).Message);
        else Assert.Equal(revision, HubId.Parse(text, HubRepositoryKind.Model).Revision);
    }

    private string At(string path) => Path.Combine(_folder, path);

    private void Write(string path, int length)
    {
        Directory.CreateDirectory(Path.GetDirectoryName(At(path))!);
        File.WriteAllBytes(At(path), [.. Enumerable.Range(0, length).Select(i => (byte)(i * 7 % 251 + length % 3))]);
    }

    private Task<HubUploadResult> Upload(HubId? id = null, HubUploadOptions? how = null, HubOptions? options = null, IProgress<HubUploadProgress>? progress = null) =>
        new HubUploader(options ?? Options).UploadAsync(id ?? _id, HubUploadFiles.Find(_folder, false).Files, how ?? new(), progress);

    private void AssertArrived(string branch = "main")
    {
        foreach (var file in HubUploadFiles.Find(_folder, false).Files) Assert.Equal(File.ReadAllBytes(file.Source), _server.Files(branch)[file.Path].Bytes);
    }

    private sealed class Sink(List<HubUploadProgress> reports) : IProgress<HubUploadProgress>
    {
        public void Report(HubUploadProgress value)
        {
            lock (reports) reports.Add(value);
        }
    }
}
