using System.Globalization;
using System.Text.Json;

namespace Lancet.Formats.Hub;

/// <summary>
/// Uploads large files over Git LFS's batch API (<see href="https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md"/>), with the hub's transfer in parts. Asked where a file's bytes are to go, the hub names one address; or one for each
/// part of <c>chunk_size</c> bytes, and one that is told the parts' entity tags in the end; or none, if it has the contents. Addresses are signed and expire, so they are asked for file by file, and again when one is refused.
/// </summary>
/// <param name="http">Requests.</param>
/// <param name="options">Options.</param>
/// <param name="id">Repository and branch.</param>
/// <param name="sent">Hears of bytes; of negative numbers when some have to be sent again.</param>
internal sealed class HubLargeFiles(HubHttp http, HubOptions options, HubId id, Action<long> sent) : IDisposable
{
    private const int MostBatches = 4;
    private const string MediaType = "application/vnd.git-lfs+json";
    private static readonly Uri s_hub = new("https://huggingface.co");

    // Files and their parts share the connections.
    private readonly SemaphoreSlim _connections = new(options.Parallelism);

    private sealed record Target(Uri Uri, IReadOnlyList<KeyValuePair<string, string>> Headers);

    private sealed record Actions(Target Upload, Target? Verify, long PartSize, Uri[] Parts);

    /// <summary>The parts of a file that storage has.</summary>
    private sealed class Parts(HubUploadFile file, Actions actions)
    {
        public string?[] Tags { get; } = new string?[actions.Parts.Length];

        public Uri Completion => actions.Upload.Uri;

        public bool AreComplete => !Tags.Contains(null);

        public long Bytes => Enumerable.Range(0, Tags.Length).Sum(part => Tags[part] is null ? 0 : LengthOf(part));

        public long LengthOf(int part) => Math.Min(actions.PartSize, file.Local.Size - part * actions.PartSize);
    }

    public void Dispose() => _connections.Dispose();

    /// <summary>Uploads a file, unless the hub has its contents.</summary>
    /// <returns>Whether bytes were sent.</returns>
    public async Task<bool> UploadAsync(HubUploadFile file, CancellationToken cancellation)
    {
        Parts? parts = null;
        for (var batch = 1; ; batch++)
        {
            if (await BatchAsync(file, cancellation).ConfigureAwait(false) is not { } actions)
            {
                sent(file.Local.Size - (parts?.Bytes ?? 0));
                return batch > 1;
            }
            try
            {
                if (actions.Parts.Length == 0)
                {
                    await PutAsync(file, actions.Upload, 0, file.Local.Size, cancellation).ConfigureAwait(false);
                }
                else
                {
                    // The same address at the end is the same upload: what it has need not be sent again.
                    if (parts?.Completion != actions.Upload.Uri)
                    {
                        sent(-(parts?.Bytes ?? 0));
                        parts = new(file, actions);
                    }
                    await PutPartsAsync(file, actions, parts, cancellation).ConfigureAwait(false);
                    await CompleteAsync(file, actions, parts, cancellation).ConfigureAwait(false);
                }
                if (actions.Verify is { } verify) await VerifyAsync(file, verify, cancellation).ConfigureAwait(false);
                return true;
            }
            catch (HubStorageException) when (batch < MostBatches)
            {
                if (parts is not { AreComplete: true }) continue;
                // All parts were there, and yet they were refused.
                sent(-parts.Bytes);
                parts = null;
            }
        }
    }

    private string NameOf(HubUploadFile file) => $"{id}: {file.Local.Path}";

    private Task<Actions?> BatchAsync(HubUploadFile file, CancellationToken cancellation)
    {
        var call = new HubCall(HttpMethod.Post, new(options.Endpoint, $"{id.FilesPath}.git/info/lfs/objects/batch"), NameOf(file), HubPurpose.Upload)
        {
            Headers = headers => headers.Accept.Add(new(MediaType)),
            Content = _ => HubJson.Content(MediaType, json =>
            {
                json.WriteString("operation", "upload");
                json.WriteStartArray("transfers");
                json.WriteStringValue("basic");
                json.WriteStringValue("multipart");
                json.WriteEndArray();
                json.WriteStartArray("objects");
                json.WriteStartObject();
                json.WriteString("oid", file.Checksum);
                json.WriteNumber("size", file.Local.Size);
                json.WriteEndObject();
                json.WriteEndArray();
                json.WriteString("hash_algo", "sha256");
                json.WriteStartObject("ref");
                json.WriteString("name", id.Revision);
                json.WriteEndObject();
            }),
        };
        return http.JsonAsync(call, root => Read(root, file), cancellation);
    }

    private Actions? Read(JsonElement root, HubUploadFile file)
    {
        var found = root.GetProperty("objects").EnumerateArray().First(item => item.GetProperty("oid").GetString() == file.Checksum);
        if (found.TryGetProperty("error", out var error)) throw new LancetException($"{NameOf(file)}: {options.Endpoint.Host} does not take the file: {error.GetProperty("message").GetString()} ({error.GetProperty("code")}).");
        if (!found.TryGetProperty("actions", out var actions) || actions.ValueKind != JsonValueKind.Object || !actions.TryGetProperty("upload", out var upload)) return null;
        var verify = actions.TryGetProperty("verify", out var check) && check.ValueKind == JsonValueKind.Object ? TargetOf(check) : null;
        var target = TargetOf(upload);
        var chunk = target.Headers.FirstOrDefault(header => header.Key == "chunk_size").Value;
        if (chunk is null) return new(target, verify, 0, []);
        var parts = target.Headers.Where(header => header.Key.All(char.IsAsciiDigit)).OrderBy(header => header.Key.Length).ThenBy(header => header.Key, StringComparer.Ordinal).Select(header => AddressOf(header.Value)).ToArray();
        if (!long.TryParse(chunk, NumberStyles.None, CultureInfo.InvariantCulture, out var size) || size == 0 || parts.Length != (file.Local.Size - 1) / size + 1) throw new FormatException($"{parts.Length} parts of {chunk} bytes are no {file.Local.Size} bytes.");
        return new(target with { Headers = [] }, verify, size, parts);
    }

    private Target TargetOf(JsonElement action) => new(AddressOf(action.GetProperty("href").GetString()!),
        action.TryGetProperty("header", out var header) && header.ValueKind == JsonValueKind.Object ? [.. header.EnumerateObject().Select(item => KeyValuePair.Create(item.Name, item.Value.ToString()))] : []);

    private Uri AddressOf(string text)
    {
        var uri = new Uri(options.Endpoint, text);
        // A mirror may pass on what the hub says of itself.
        if (uri.Host == s_hub.Host && options.Endpoint.Host != s_hub.Host) uri = new(options.Endpoint, uri.PathAndQuery);
        http.RequireEncryption(uri, $"{id}: large files are to go to");
        return uri;
    }

    private Task PutPartsAsync(HubUploadFile file, Actions actions, Parts parts, CancellationToken cancellation) =>
        Parallel.ForEachAsync(Enumerable.Range(0, parts.Tags.Length).Where(part => parts.Tags[part] is null), new ParallelOptions { MaxDegreeOfParallelism = options.Parallelism, CancellationToken = cancellation }, async (part, token) =>
        {
            var tag = await PutAsync(file, new(actions.Parts[part], []), part * actions.PartSize, parts.LengthOf(part), token).ConfigureAwait(false);
            parts.Tags[part] = tag ?? throw new LancetException($"{NameOf(file)}: {actions.Parts[part].Host} did not confirm part {part + 1} with an entity tag.");
        });

    /// <summary>Sends a part of a file, or all of it, and returns storage's entity tag.</summary>
    private async Task<string?> PutAsync(HubUploadFile file, Target target, long offset, long length, CancellationToken cancellation)
    {
        var count = 0L;
        var call = new HubCall(HttpMethod.Put, target.Uri, NameOf(file), HubPurpose.Storage)
        {
            // The last megabytes are with the operating system when they count as sent; a slow line takes its time for them.
            Silence = options.Silence * 5,
            Headers = headers =>
            {
                foreach (var (name, value) in target.Headers) headers.TryAddWithoutValidation(name, value);
            },
            Content = alive =>
            {
                sent(-count);
                count = 0;
                return new FileContent(file.Local, offset, length, bytes =>
                {
                    alive();
                    count += bytes;
                    sent(bytes);
                });
            },
        };
        await _connections.WaitAsync(cancellation).ConfigureAwait(false);
        try
        {
            return await http.SendAsync(call, (response, _) => Task.FromResult(response.Headers.TryGetValues("ETag", out var tags) ? tags.First() : null), cancellation).ConfigureAwait(false);
        }
        catch
        {
            sent(-count);
            throw;
        }
        finally
        {
            _connections.Release();
        }
    }

    private Task CompleteAsync(HubUploadFile file, Actions actions, Parts parts, CancellationToken cancellation) => TellAsync(file, actions.Upload, HubPurpose.Storage, json =>
    {
        json.WriteString("oid", file.Checksum);
        json.WriteStartArray("parts");
        for (var part = 0; part < parts.Tags.Length; part++)
        {
            json.WriteStartObject();
            json.WriteNumber("partNumber", part + 1);
            json.WriteString("etag", parts.Tags[part]);
            json.WriteEndObject();
        }
        json.WriteEndArray();
    }, cancellation);

    private Task VerifyAsync(HubUploadFile file, Target target, CancellationToken cancellation) => TellAsync(file, target, HubPurpose.Upload, json =>
    {
        json.WriteString("oid", file.Checksum);
        json.WriteNumber("size", file.Local.Size);
    }, cancellation);

    private Task TellAsync(HubUploadFile file, Target target, HubPurpose purpose, Action<Utf8JsonWriter> write, CancellationToken cancellation)
    {
        var call = new HubCall(HttpMethod.Post, target.Uri, NameOf(file), purpose)
        {
            Headers = headers =>
            {
                headers.Accept.Add(new(MediaType));
                foreach (var (name, value) in target.Headers) headers.TryAddWithoutValidation(name, value);
            },
            Content = _ => HubJson.Content(MediaType, write),
            // Parts are put together, and contents compared with their checksum, before the answer.
            Silence = options.Silence * 5,
        };
        return http.SendAsync(call, (_, _) => Task.FromResult(true), cancellation);
    }
}
