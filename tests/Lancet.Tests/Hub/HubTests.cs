using System.Text;
using Lancet.Formats;
using Lancet.Formats.Gguf;
using Lancet.Formats.Hub;

namespace Lancet.Tests.Hub;

/// <summary>Downloads from a hub that behaves, and from one that does not.</summary>
public sealed class HubTests : IDisposable
{
    private static readonly byte[] s_weights = [.. Enumerable.Range(0, 300_000).Select(i => (byte)(i * 7 % 251))];
    private readonly string _cache = Directory.CreateTempSubdirectory("lancet-hub").FullName;
    private readonly HubServer _server = new();
    private readonly List<TimeSpan> _waits = [];
    private readonly HubId _id = new(HubRepositoryKind.Model, "org/name", "main");

    public HubTests()
    {
        _server.Files["config.json"] = ("{}"u8.ToArray(), false);
        _server.Files["model.safetensors"] = (s_weights, true);
        _server.Files["tokenizer.json"] = (Encoding.UTF8.GetBytes("{\"a\":1}"), false);
        _server.Files["pytorch_model.bin"] = ([1, 2, 3], true);
        _server.Files["onnx/model.safetensors"] = ([1], true);
        _server.Files["consolidated.safetensors"] = ([1, 2], true);
    }

    private HubOptions Options => new() { Endpoint = _server.Address, CacheFolder = _cache, Token = "hf_secret", Attempts = 4, Wait = (wait, _) => { lock (_waits) _waits.Add(wait); return Task.CompletedTask; } };

    private string Repository => Path.Combine(_cache, "models--org--name");

    private string Snapshot => Path.Combine(Repository, "snapshots", _server.Commit);

    public void Dispose()
    {
        _server.Dispose();
        Directory.Delete(_cache, true);
    }

    [Fact]
    public async Task The_cache_is_laid_out_as_pythons()
    {
        var reports = new List<HubProgress>();
        var (folder, files) = await Download(Options, progress: new Sink(reports));
        Assert.Equal(Snapshot, folder);
        Assert.Equal("org/name", HubId.NameOf(folder));
        Assert.Equal("/models/base", HubId.NameOf("/models/base"));
        Assert.Equal(["config.json", "model.safetensors", "tokenizer.json"], files.Select(file => Path.GetFileName(file)));
        Assert.Equal(s_weights, File.ReadAllBytes(Path.Combine(folder, "model.safetensors")));
        Assert.Equal($"../../blobs/{HubServer.Sha256(s_weights)}", new FileInfo(Path.Combine(folder, "model.safetensors")).LinkTarget);
        Assert.Equal($"../../blobs/{HubServer.Sha1("{}"u8.ToArray())}", new FileInfo(Path.Combine(folder, "config.json")).LinkTarget);
        Assert.Equal(_server.Commit, File.ReadAllText(Path.Combine(Repository, "refs", "main")));
        Assert.Equal(3, Directory.GetFiles(Path.Combine(Repository, "blobs")).Length);
        Assert.Equal(reports[0].TotalBytes, reports.Max(report => report.Bytes));
        Assert.All(_server.Requests, request => Assert.Equal("Bearer hf_secret", request.Headers["authorization"]));
        // What is there is not fetched again, and offline nothing is asked at all.
        var requests = _server.Requests.Count;
        await Download(Options);
        Assert.Equal(requests + 1, _server.Requests.Count);
        Assert.Equal(files, (await Download(Options with { IsOffline = true })).Files);
        Assert.Equal(requests + 1, _server.Requests.Count);
        _server.Dispose();
        Assert.Equal(files, (await Download(Options)).Files);
    }

    [Fact]
    public async Task Names_in_folders_are_linked_from_there()
    {
        _server.Repository = "datasets/org/rows";
        _server.Files.Clear();
        _server.Files["data/train-00000.parquet"] = ([1], true);
        _server.Files["data/test-00000.parquet"] = ([2], true);
        _server.Files["README.md"] = ([3], false);
        var id = new HubId(HubRepositoryKind.Dataset, "org/rows", "main");
        var (folder, files) = await new HubDownloader(Options).DownloadAsync(id, HubFiles.OfDataset);
        Assert.Equal(Path.Combine(_cache, "datasets--org--rows", "snapshots", _server.Commit), folder);
        Assert.Equal($"../../../blobs/{HubServer.Sha256([1])}", new FileInfo(Assert.Single(files)).LinkTarget);
    }

    [Fact]
    public async Task A_configuration_is_checked_before_anything_else_is_fetched()
    {
        var isRefused = true;
        void Check(string folder)
        {
            Assert.Equal("{}", File.ReadAllText(Path.Combine(folder, "config.json")));
            Assert.Single(Directory.GetFiles(folder));
            if (isRefused) throw new LancetException("no such architecture");
        }
        Task Start() => new HubDownloader(Options).DownloadAsync(_id, HubFiles.OfModel, check: Check);
        Assert.Equal("no such architecture", (await Assert.ThrowsAsync<LancetException>(Start)).Message);
        Assert.DoesNotContain(_server.Requests, IsWeights);
        Assert.False(File.Exists(Path.Combine(Repository, "refs", "main")));
        isRefused = false;
        await Start();
        Assert.Equal(s_weights, File.ReadAllBytes(Path.Combine(Snapshot, "model.safetensors")));
    }

    [Fact]
    public async Task Too_little_room_is_told_before_anything_is_fetched()
    {
        _server.Intercept = request => request.Path.Contains("/api/", StringComparison.Ordinal)
            ? HubAnswer.Text(200, Encoding.UTF8.GetString(HubServer.Listing(_server.Commit, false, _server.Files).Body).Replace("300000", "1000000000000000000", StringComparison.Ordinal)) : null;
        Assert.Contains("GB are needed, ", (await Assert.ThrowsAsync<OutputException>(() => Download(Options))).Message, StringComparison.Ordinal);
        Assert.Single(_server.Requests);
    }

    [Fact]
    public async Task What_tells_of_a_model_comes_without_its_weights()
    {
        var (folder, files) = await new HubDownloader(Options).DownloadAsync(_id, HubFiles.OfModelWithoutWeights);
        Assert.Equal(["config.json", "tokenizer.json"], files.Select(file => Path.GetFileName(file)));
        Assert.DoesNotContain(_server.Requests, IsWeights);
        Assert.Equal(s_weights, File.ReadAllBytes(Path.Combine((await Download(Options)).Folder, "model.safetensors")));
        Assert.Equal(Snapshot, folder);
    }

    [Fact]
    public async Task Weights_are_read_through_the_links_of_the_cache()
    {
        var weights = Path.Combine(TestFiles.Golden("llama"), "model", "model.safetensors");
        var gguf = Path.Combine(_cache, "written.gguf");
        GgufWriter.Write(gguf, new(gguf), [new("a", GgufTensorType.Float32, [3], stream => stream.Write(new byte[12]))]);
        _server.Files["model.safetensors"] = (File.ReadAllBytes(weights), true);
        _server.Files["model.gguf"] = (File.ReadAllBytes(gguf), true);
        var (folder, _) = await new HubDownloader(Options).DownloadAsync(_id, names => names);
        using (SafetensorsFile here = SafetensorsFile.Open(weights), linked = SafetensorsFile.Open(Path.Combine(folder, "model.safetensors"))) Assert.Equal(here.Entries.Keys, linked.Entries.Keys);
        using var file = GgufFile.Open(Path.Combine(folder, "model.gguf"));
        Assert.Equal([0, 0, 0], file.Read("a"));
        File.Delete(Path.Combine(Repository, "blobs", HubServer.Sha256(File.ReadAllBytes(weights))));
        Assert.Throws<LancetException>(() => SafetensorsFile.Open(Path.Combine(folder, "model.safetensors")));
    }

    [Fact]
    public async Task A_cut_connection_goes_on_where_it_stopped()
    {
        var cuts = 0;
        _server.Intercept = request => IsWeights(request) && cuts++ < 2 ? HubServer.FileOf(s_weights, request) with { CutAfter = 100_000 } : null;
        await Download(Options);
        Assert.Equal(["", "bytes=100000-", "bytes=200000-"], _server.Requests.Where(IsWeights).Select(request => request.Headers.GetValueOrDefault("range", "")));
        Assert.Equal([TimeSpan.FromSeconds(1), TimeSpan.FromSeconds(2)], _waits);
        Assert.Equal(s_weights, File.ReadAllBytes(Path.Combine(Snapshot, "model.safetensors")));
    }

    [Fact]
    public async Task Another_run_goes_on_with_what_a_former_one_left_and_a_server_without_ranges_begins_again()
    {
        _server.Intercept = request => IsWeights(request) ? HubServer.FileOf(s_weights, request) with { CutAfter = request.Headers.ContainsKey("range") ? 0 : 50_000 } : null;
        Assert.Contains("start again to go on", (await Assert.ThrowsAsync<LancetException>(() => Download(Options))).Message);
        Assert.False(File.Exists(Path.Combine(Repository, "refs", "main")));
        var incomplete = Path.Combine(Repository, "blobs", HubServer.Sha256(s_weights) + ".incomplete");
        Assert.Equal(50_000, new FileInfo(incomplete).Length);
        _server.Intercept = request => IsWeights(request) ? new(200, s_weights) : null;
        await Download(Options);
        Assert.Equal("bytes=50000-", _server.Requests.Last(IsWeights).Headers["range"]);
        Assert.Equal(s_weights, File.ReadAllBytes(Path.Combine(Snapshot, "model.safetensors")));
        Assert.False(File.Exists(incomplete));
    }

    [Fact]
    public async Task Contents_with_another_checksum_never_become_a_blob()
    {
        // Once is mended by fetching it anew.
        var spoiled = (byte[])s_weights.Clone();
        spoiled[5]++;
        var times = 1;
        _server.Intercept = request => IsWeights(request) && times-- > 0 ? new(200, spoiled) : null;
        await Download(Options);
        Directory.Delete(Repository, true);
        _server.Intercept = request => request.Path.EndsWith("config.json", StringComparison.Ordinal) ? HubAnswer.Text(200, "[]") : null;
        Assert.Contains("config.json: what arrived has another checksum", (await Assert.ThrowsAsync<LancetException>(() => Download(Options))).Message);
        Assert.False(File.Exists(Path.Combine(Repository, "blobs", HubServer.Sha1("{}"u8.ToArray()))));
        Assert.False(File.Exists(Path.Combine(Snapshot, "config.json")));
    }

    [Fact]
    public async Task The_token_goes_to_no_other_host()
    {
        using var elsewhere = new HubServer { Intercept = request => HubServer.FileOf(s_weights, request) };
        _server.Intercept = request => !IsWeights(request) ? null
            // First as for a repository with a new name, then to where large files lie.
            : request.Path.StartsWith("/new", StringComparison.Ordinal) ? HubAnswer.Text(302).With("Location", new Uri(elsewhere.Address, "/signed?a=b").ToString())
            : HubAnswer.Text(307).With("Location", "/new/model.safetensors");
        await Download(Options);
        Assert.All(_server.Requests, request => Assert.Contains("authorization", request.Headers.Keys, StringComparer.OrdinalIgnoreCase));
        Assert.DoesNotContain("authorization", Assert.Single(elsewhere.Requests).Headers.Keys, StringComparer.OrdinalIgnoreCase);
        _server.Intercept = _ => HubAnswer.Text(302).With("Location", "/again");
        Assert.Contains("redirects", (await Assert.ThrowsAsync<LancetException>(() => Download(Options))).Message);
    }

    [Theory]
    [InlineData(429)]
    [InlineData(503)]
    public async Task A_busy_server_is_asked_again_when_it_says(int status)
    {
        var busy = 2;
        _server.Intercept = request => request.Path.StartsWith("/api", StringComparison.Ordinal) && busy-- > 0 ? HubAnswer.Text(status).With("Retry-After", "17") : null;
        await Download(Options);
        Assert.Equal([TimeSpan.FromSeconds(17), TimeSpan.FromSeconds(17)], _waits);
        _server.Intercept = _ => HubAnswer.Text(status);
        Assert.Contains($"answered {status} X 4 times", (await Assert.ThrowsAsync<LancetException>(() => Download(Options))).Message);
    }

    [Theory]
    [InlineData(401, "GatedRepo", "access is restricted. Ask for it at http://127.0.0.1")]
    [InlineData(403, "GatedRepo", "access is restricted")]
    [InlineData(401, "RepoNotFound", "there is no such repository")]
    [InlineData(404, "RepoNotFound", "nor such a folder here (404)")]
    [InlineData(404, "RevisionNotFound", "there is no such revision")]
    [InlineData(400, "", "answered 400")]
    public async Task Refusals_are_told_and_not_repeated(int status, string code, string message)
    {
        _server.Intercept = _ => HubAnswer.Text(status).With("X-Error-Code", code);
        var error = (await Assert.ThrowsAsync<LancetException>(() => Download(Options with { Token = null }))).Message;
        Assert.Contains(message, error);
        Assert.DoesNotContain("hf_secret", error);
        Assert.Single(_server.Requests);
        if (status is 401 or 403) Assert.Contains("No token was sent: set HF_TOKEN", error);
    }

    [Theory]
    [InlineData("../evil.json")]
    [InlineData("/etc/evil.json")]
    [InlineData("a/../../evil.json")]
    public async Task Names_that_lead_out_of_the_cache_are_refused(string name)
    {
        _server.Files[name] = ([1], false);
        Assert.Contains("is no file name", (await Assert.ThrowsAsync<LancetException>(() => Download(Options))).Message);
        Assert.False(Directory.Exists(Repository));
    }

    [Fact]
    public async Task Offline_what_is_missing_is_said()
    {
        Assert.Contains("HF_HUB_OFFLINE is set", (await Assert.ThrowsAsync<LancetException>(() => Download(Options with { IsOffline = true }))).Message);
        Assert.Empty(_server.Requests);
        _server.Dispose();
        Assert.Contains("cannot be reached", (await Assert.ThrowsAsync<LancetException>(() => Download(Options))).Message);
    }

    [Theory]
    [InlineData("org/name", "org/name", "main")]
    [InlineData("org/name@v1.0", "org/name", "v1.0")]
    [InlineData("org/name@refs/pr/1", "org/name", "refs/pr/1")]
    [InlineData("name", null, null)]
    [InlineData("./org/name", null, null)]
    [InlineData("../name", null, null)]
    [InlineData("/org/name", null, null)]
    [InlineData("org/name/more", null, null)]
    [InlineData("org/name@", null, null)]
    [InlineData("org/na me", null, null)]
    [InlineData("org/*.jsonl", null, null)]
    [InlineData("org/name@../x", null, null)]
    public void Only_names_of_repositories_are_ids(string text, string? name, string? revision)
    {
        var id = HubId.TryParse(text, HubRepositoryKind.Model);
        Assert.Equal((name, revision), (id?.Name, id?.Revision));
    }

    private static bool IsWeights(HubRequest request) => request.Path.EndsWith("model.safetensors", StringComparison.Ordinal);

    private Task<(string Folder, IReadOnlyList<string> Files)> Download(HubOptions options, IProgress<HubProgress>? progress = null) => new HubDownloader(options).DownloadAsync(_id, HubFiles.OfModel, progress);

    private sealed class Sink(List<HubProgress> reports) : IProgress<HubProgress>
    {
        public void Report(HubProgress value)
        {
            lock (reports) reports.Add(value);
        }
    }
}
