using System.Collections.Concurrent;
using System.Globalization;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace Lancet.Tests.Hub;

/// <summary>
/// A hub that takes uploads, with storage at another address, as huggingface_hub's client expects both: creation of repositories and branches, preupload, Git LFS batches in one piece or in parts, completion, verification, commits. It checks what it gets as the hub does.
/// </summary>
internal sealed class HubUploadServer : IDisposable
{
    public const string Token = "hf_secret";

    private readonly Lock _lock = new();
    private readonly ConcurrentDictionary<string, ConcurrentDictionary<int, byte[]>> _uploads = [];
    private int _commits;

    public HubUploadServer()
    {
        Hub.Intercept = request => Refuse(request) ?? Answer(request);
        Storage.Intercept = request => Refuse(request) ?? Store(request);
    }

    /// <summary>A branch: its commit, and files with whether they are large ones.</summary>
    public sealed record Branch(string Commit, IReadOnlyDictionary<string, (byte[] Bytes, bool IsLarge)> Files);

    /// <summary>A repository.</summary>
    public sealed class Repository
    {
        public bool IsPrivate { get; init; }

        public Dictionary<string, Branch> Branches { get; } = new() { ["main"] = new(new('0', 40), new Dictionary<string, (byte[], bool)> { [".gitattributes"] = ("*.safetensors"u8.ToArray(), false) }) };
    }

    public HubServer Hub { get; } = new();

    public HubServer Storage { get; } = new();

    public ConcurrentDictionary<string, Repository> Repositories { get; } = [];

    /// <summary>Contents by SHA-256.</summary>
    public ConcurrentDictionary<string, byte[]> Contents { get; } = [];

    /// <summary>Large files of more bytes than this are sent in parts of as many.</summary>
    public int PartSize { get; set; } = 100_000;

    /// <summary>What the hub calls itself; null for its address.</summary>
    public string? Name { get; set; }

    /// <summary>Answers in place of the hub or storage; null leaves it to them.</summary>
    public Func<HubRequest, HubAnswer?> Refuse { get; set; } = _ => null;

    /// <summary>Messages of commits.</summary>
    public ConcurrentQueue<string> Messages { get; } = [];

    public IEnumerable<HubRequest> Requests => Hub.Requests.Concat(Storage.Requests);

    public IReadOnlyDictionary<string, (byte[] Bytes, bool IsLarge)> Files(string branch = "main") => Repositories["org/name"].Branches[branch].Files;

    public void Dispose()
    {
        Hub.Dispose();
        Storage.Dispose();
    }

    /// <summary>Adds files to a branch as another user would.</summary>
    public void Commit(string branch, params (string Path, byte[] Bytes, bool IsLarge)[] files)
    {
        lock (_lock)
        {
            var branches = Repositories["org/name"].Branches;
            var all = new Dictionary<string, (byte[], bool)>(branches[branch].Files);
            foreach (var (path, bytes, isLarge) in files) all[path] = (bytes, isLarge);
            branches[branch] = new((++_commits).ToString("x40", CultureInfo.InvariantCulture), all);
        }
    }

    private HubAnswer Answer(HubRequest request)
    {
        var path = request.Path.Split('?')[0];
        // The address of a completion is a secret itself, and Hugging Face's clients send no token there.
        if (request.Headers.GetValueOrDefault("authorization", path == "/complete" ? $"Bearer {Token}" : "") != $"Bearer {Token}") return HubAnswer.Text(401, "{\"error\":\"Invalid credentials in Authorization header\"}");
        if (path == "/api/repos/create") return Create(JsonNode.Parse(request.Body)!);
        if (path == "/complete") return Complete(request);
        if (path == "/verify") return Contents.TryGetValue((string)JsonNode.Parse(request.Body)!["oid"]!, out var bytes) && bytes.Length == (int)JsonNode.Parse(request.Body)!["size"]! ? HubAnswer.Text(200) : HubAnswer.Text(404);
        if (path.EndsWith(".git/info/lfs/objects/batch", StringComparison.Ordinal)) return Batch(request);
        var parts = path.Split('/', 7);
        if (path.Split('/', 6) is ["", _, _, "resolve", var commit, var file]) return Repositories.Values.SelectMany(one => one.Branches.Values).FirstOrDefault(one => one.Commit == commit)?.Files.TryGetValue(file, out var found) == true ? HubServer.FileOf(found.Bytes, request) : HubAnswer.Text(404).With("X-Error-Code", "EntryNotFound");
        if (parts is not ["", "api", "models", var owner, var name, var verb, var branch] || !Repositories.TryGetValue($"{owner}/{name}", out var repository)) return HubAnswer.Text(404, "{\"error\":\"Repository not found\"}").With("X-Error-Code", "RepoNotFound");
        lock (_lock)
        {
            if (verb == "branch") return HubAnswer.Text(repository.Branches.TryAdd(branch, repository.Branches["main"]) ? 200 : 409);
            if (!repository.Branches.TryGetValue(branch, out var at)) return HubAnswer.Text(404).With("X-Error-Code", "RevisionNotFound");
            return (request.Method, verb) switch
            {
                ("GET", "revision") => HubServer.Listing(at.Commit, repository.IsPrivate, at.Files),
                ("POST", "preupload") => Preupload(JsonNode.Parse(request.Body)!),
                ("POST", "commit") => Commit(repository, branch, request),
                _ => HubAnswer.Text(405),
            };
        }
    }

    private HubAnswer Create(JsonNode wanted)
    {
        if ((string?)wanted["type"] is not (null or "model")) return HubAnswer.Text(400);
        var isNew = Repositories.TryAdd($"{wanted["organization"]}/{wanted["name"]}", new() { IsPrivate = (bool?)wanted["private"] ?? (string?)wanted["visibility"] == "private" });
        return isNew ? HubAnswer.Text(200, $"{{\"url\":\"{Hub.Address}{wanted["organization"]}/{wanted["name"]}\"}}") : HubAnswer.Text(409, "{\"error\":\"You already created this model repo\"}");
    }

    private static HubAnswer Preupload(JsonNode wanted)
    {
        var files = wanted["files"]!.AsArray().Select(file =>
        {
            var (path, size, sample) = ((string)file!["path"]!, (long)file["size"]!, Convert.FromBase64String((string)file["sample"]!));
            if (sample.Length != Math.Min(size, 512)) throw new InvalidDataException("not the first bytes");
            return $"{{\"path\":{JsonSerializer.Serialize(path)},\"uploadMode\":\"{(path.EndsWith(".safetensors", StringComparison.Ordinal) || size > 50_000 ? "lfs" : "regular")}\",\"shouldIgnore\":{(path.EndsWith(".ignored", StringComparison.Ordinal) ? "true" : "false")}}}";
        });
        return HubAnswer.Text(200, $"{{\"files\":[{string.Join(',', files)}]}}");
    }

    private HubAnswer Batch(HubRequest request)
    {
        var wanted = JsonNode.Parse(request.Body)!;
        // Hugging Face's clients for Python and JavaScript spell it differently.
        if (request.Headers["content-type"] != "application/vnd.git-lfs+json" || (string?)wanted["hash_algo"] is not ("sha256" or "sha_256")) return HubAnswer.Text(422);
        var objects = wanted["objects"]!.AsArray().Select(item => ObjectOf((string)item!["oid"]!, (long)item["size"]!));
        return HubAnswer.Text(200, $"{{\"objects\":[{string.Join(',', objects)}]}}");
    }

    private string ObjectOf(string oid, long size)
    {
        var start = $"{{\"oid\":\"{oid}\",\"size\":{size}";
        if (Contents.ContainsKey(oid)) return start + "}";
        var hub = Name ?? Hub.Address.ToString();
        var verify = $"\"verify\":{{\"href\":\"{hub}verify\"}}";
        if (size <= PartSize) return $"{start},\"actions\":{{\"upload\":{{\"href\":\"{Storage.Address}{oid}?signature=a%2Bb\",\"header\":{{\"x-kind\":\"whole\"}}}},{verify}}}}}";
        _uploads.TryAdd(oid, []);
        var parts = Enumerable.Range(1, (int)((size - 1) / PartSize) + 1).Select(part => $"\"{part}\":\"{Storage.Address}{oid}/{part}?signature=a%2Bb\"");
        return $"{start},\"actions\":{{\"upload\":{{\"href\":\"{hub}complete\",\"header\":{{\"chunk_size\":\"{PartSize}\",{string.Join(',', parts)}}}}},{verify}}}}}";
    }

    private HubAnswer Store(HubRequest request)
    {
        // Two ways to say who one is are one too many for storage.
        if (request.Method != "PUT" || request.Body.Length == 0 || request.Headers.ContainsKey("authorization") || !request.Path.EndsWith("?signature=a+b", StringComparison.Ordinal)) return HubAnswer.Text(400, "<Code>InvalidRequest</Code>");
        var path = request.Path[1..request.Path.IndexOf('?')].Split('/');
        if (path.Length == 2)
        {
            _uploads[path[0]][int.Parse(path[1], CultureInfo.InvariantCulture)] = request.Body;
            return HubAnswer.Text(200).With("ETag", $"\"{HubServer.Sha1(request.Body)}\"");
        }
        if (HubServer.Sha256(request.Body) != path[0]) return HubAnswer.Text(400, "<Code>BadDigest</Code>");
        Contents[path[0]] = request.Body;
        return HubAnswer.Text(200);
    }

    private HubAnswer Complete(HubRequest request)
    {
        var wanted = JsonNode.Parse(request.Body)!;
        var (oid, parts) = ((string)wanted["oid"]!, wanted["parts"]!.AsArray());
        if (!parts.Select(part => (int)part!["partNumber"]!).SequenceEqual(Enumerable.Range(1, _uploads[oid].Count))) return HubAnswer.Text(400, "parts are missing");
        if (parts.Any(part => (string?)part!["etag"] != $"\"{HubServer.Sha1(_uploads[oid][(int)part["partNumber"]!])}\"")) return HubAnswer.Text(400, "another entity tag");
        byte[] bytes = [.. parts.SelectMany(part => _uploads[oid][(int)part!["partNumber"]!])];
        if (HubServer.Sha256(bytes) != oid) return HubAnswer.Text(400, "another checksum");
        Contents[oid] = bytes;
        return HubAnswer.Text(200);
    }

    private HubAnswer Commit(Repository repository, string branch, HubRequest request)
    {
        var lines = Encoding.UTF8.GetString(request.Body).Split('\n', StringSplitOptions.RemoveEmptyEntries).Select(line => JsonNode.Parse(line)!).ToList();
        if (request.Headers["content-type"] != "application/x-ndjson" || (string?)lines[0]["key"] != "header") return HubAnswer.Text(400);
        var isRequest = request.Path.EndsWith("?create_pr=1", StringComparison.Ordinal);
        if (lines[0]["value"]!["parentCommit"] is { } parent && (string?)parent != repository.Branches[branch].Commit) return HubAnswer.Text(412, "{\"error\":\"A commit has happened since. Please refresh and try again.\"}");
        var files = new List<(string, byte[], bool)>();
        foreach (var (key, value) in lines.Skip(1).Select(line => ((string)line["key"]!, line["value"]!)))
        {
            var path = (string)value["path"]!;
            if (key == "file" && (string?)value["encoding"] == "base64") files.Add((path, Convert.FromBase64String((string)value["content"]!), false));
            else if (key == "lfsFile" && (string?)value["algo"] == "sha256" && Contents.TryGetValue((string)value["oid"]!, out var bytes) && bytes.Length == (long)value["size"]!) files.Add((path, bytes, true));
            else return HubAnswer.Text(400, $"{{\"error\":\"{path} is not there\"}}");
        }
        if (isRequest) repository.Branches["refs/pr/1"] = repository.Branches[branch];
        Messages.Enqueue((string)lines[0]["value"]!["summary"]!);
        Commit(isRequest ? "refs/pr/1" : branch, [.. files]);
        return HubAnswer.Text(200, $"{{\"success\":true,\"commitUrl\":\"{Hub.Address}org/name/commit/x\",\"commitOid\":\"{repository.Branches[isRequest ? "refs/pr/1" : branch].Commit}\"{(isRequest ? $",\"pullRequestUrl\":\"{Hub.Address}org/name/discussions/1\"" : "")}}}");
    }
}
