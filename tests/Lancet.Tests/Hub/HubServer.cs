using System.Collections.Concurrent;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Security.Cryptography;
using System.Text;

namespace Lancet.Tests.Hub;

/// <summary>An answer of the test server.</summary>
internal sealed record HubAnswer(int Status, byte[] Body)
{
    public Dictionary<string, string> Headers { get; init; } = [];

    /// <summary>Bytes of the body after which the connection is cut; −1 for none.</summary>
    public int CutAfter { get; init; } = -1;

    public HubAnswer With(string name, string value) => this with { Headers = new(Headers) { [name] = value } };

    public static HubAnswer Text(int status, string text = "") => new(status, Encoding.UTF8.GetBytes(text));
}

/// <summary>A request that the test server got.</summary>
internal sealed record HubRequest(string Path, Dictionary<string, string> Headers)
{
    public string Method { get; init; } = "GET";

    public byte[] Body { get; init; } = [];
}

/// <summary>A hub in this process: one repository's files over the API of huggingface.co, with failures on demand.</summary>
internal sealed class HubServer : IDisposable
{
    private readonly TcpListener _listener = new(IPAddress.Loopback, 0);

    public HubServer()
    {
        _listener.Start();
        _ = Accept();
    }

    public Uri Address => new($"http://127.0.0.1:{((IPEndPoint)_listener.LocalEndpoint).Port.ToString(CultureInfo.InvariantCulture)}");

    public ConcurrentQueue<HubRequest> Requests { get; } = [];

    /// <summary>Answers a request in place of the repository; null leaves it to that.</summary>
    public Func<HubRequest, HubAnswer?> Intercept { get; set; } = _ => null;

    /// <summary>Bytes of a request's body after which the connection is cut; null for none.</summary>
    public Func<HubRequest, int?> CutBody { get; set; } = _ => null;

    /// <summary>Whether a request is never answered, its connection left open.</summary>
    public Func<HubRequest, bool> IsSilent { get; set; } = _ => false;

    /// <summary>Files with whether they are kept in LFS.</summary>
    public Dictionary<string, (byte[] Bytes, bool IsLarge)> Files { get; } = [];

    public string Commit { get; set; } = new('c', 40);

    /// <summary>Repository as in the paths: org/name or datasets/org/name.</summary>
    public string Repository { get; set; } = "org/name";

    public static string Sha1(byte[] bytes) => Convert.ToHexStringLower(SHA1.HashData([.. Encoding.ASCII.GetBytes($"blob {bytes.Length}\0"), .. bytes]));

    public static string Sha256(byte[] bytes) => Convert.ToHexStringLower(SHA256.HashData(bytes));

    public void Dispose() => _listener.Dispose();

    public static HubAnswer FileOf(byte[] bytes, HubRequest request)
    {
        if (!request.Headers.TryGetValue("range", out var range)) return new(200, bytes);
        var first = int.Parse(range["bytes=".Length..^1], CultureInfo.InvariantCulture);
        return new(206, bytes[first..]) { Headers = { ["Content-Range"] = $"bytes {first}-{bytes.Length - 1}/{bytes.Length}" } };
    }

    private async Task Accept()
    {
        try
        {
            while (true) _ = Serve(await _listener.AcceptTcpClientAsync());
        }
        catch (Exception error) when (error is ObjectDisposedException or SocketException)
        {
            // The test is over.
        }
    }

    private async Task Serve(TcpClient client)
    {
        using var owned = client;
        try
        {
            await using var stream = client.GetStream();
            var head = (await HeadAsync(stream)).Split("\r\n");
            var first = head[0].Split(' ');
            var headers = new Dictionary<string, string>(StringComparer.OrdinalIgnoreCase);
            foreach (var line in head.Skip(1)) headers[line[..line.IndexOf(':')]] = line[(line.IndexOf(':') + 1)..].Trim();
            var request = new HubRequest(Uri.UnescapeDataString(first[1]), headers) { Method = first[0], Body = new byte[int.Parse(headers.GetValueOrDefault("content-length", "0"), CultureInfo.InvariantCulture)] };
            if (CutBody(request) is { } cut)
            {
                await stream.ReadExactlyAsync(request.Body.AsMemory(0, cut));
                Requests.Enqueue(request);
                return;
            }
            await stream.ReadExactlyAsync(request.Body);
            Requests.Enqueue(request);
            if (IsSilent(request)) await stream.ReadExactlyAsync(new byte[1]);
            var answer = Intercept(request) ?? Answer(request);
            var text = new StringBuilder($"HTTP/1.1 {answer.Status} X\r\nContent-Length: {answer.Body.Length}\r\nConnection: close\r\n");
            foreach (var (name, value) in answer.Headers) text.Append(CultureInfo.InvariantCulture, $"{name}: {value}\r\n");
            await stream.WriteAsync(Encoding.ASCII.GetBytes(text.Append("\r\n").ToString()));
            await stream.WriteAsync(answer.CutAfter < 0 ? answer.Body : answer.Body.AsMemory(0, answer.CutAfter));
        }
        catch (IOException)
        {
            // The other side hung up.
        }
    }

    /// <summary>The hub's answer about a repository at a commit.</summary>
    public static HubAnswer Listing(string commit, bool isPrivate, IReadOnlyDictionary<string, (byte[] Bytes, bool IsLarge)> files)
    {
        var siblings = files.Select(file => $"{{\"rfilename\":\"{file.Key}\",\"size\":{file.Value.Bytes.Length},\"blobId\":\"{Sha1(file.Value.Bytes)}\"{(file.Value.IsLarge ? $",\"lfs\":{{\"sha256\":\"{Sha256(file.Value.Bytes)}\",\"size\":{file.Value.Bytes.Length},\"pointerSize\":134}}" : "")}}}");
        return HubAnswer.Text(200, $"{{\"sha\":\"{commit}\",\"private\":{(isPrivate ? "true" : "false")},\"siblings\":[{string.Join(',', siblings)}]}}");
    }

    /// <summary>Request line and headers.</summary>
    private static async Task<string> HeadAsync(NetworkStream stream)
    {
        var bytes = new List<byte>();
        var one = new byte[1];
        while (bytes.Count < 4 || !bytes[^4..].SequenceEqual("\r\n\r\n"u8.ToArray()))
        {
            await stream.ReadExactlyAsync(one);
            bytes.Add(one[0]);
        }
        return Encoding.ASCII.GetString([.. bytes[..^4]]);
    }

    private HubAnswer Answer(HubRequest request)
    {
        var api = Repository.StartsWith("datasets/", StringComparison.Ordinal) ? $"/api/{Repository}/revision/" : $"/api/models/{Repository}/revision/";
        if (request.Path.StartsWith(api, StringComparison.Ordinal)) return Listing(Commit, false, Files);
        var prefix = $"/{Repository}/resolve/{Commit}/";
        return request.Path.StartsWith(prefix, StringComparison.Ordinal) && Files.TryGetValue(request.Path[prefix.Length..], out var found) ? FileOf(found.Bytes, request)
            : HubAnswer.Text(404).With("X-Error-Code", "EntryNotFound");
    }
}
