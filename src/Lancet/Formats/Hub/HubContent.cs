using System.Buffers.Text;
using System.Net;
using System.Text;
using System.Text.Json;

namespace Lancet.Formats.Hub;

/// <summary>A JSON object as the body of a request.</summary>
internal static class HubJson
{
    /// <param name="mediaType">Type of the body.</param>
    /// <param name="write">Writes the members.</param>
    public static HttpContent Content(string mediaType, Action<Utf8JsonWriter> write)
    {
        using var bytes = new MemoryStream();
        using (var json = new Utf8JsonWriter(bytes))
        {
            json.WriteStartObject();
            write(json);
            json.WriteEndObject();
        }
        return new ByteArrayContent(bytes.ToArray()) { Headers = { ContentType = new(mediaType) } };
    }
}

/// <summary>A part of a file as the body of a request, read as it is sent.</summary>
/// <param name="file">File.</param>
/// <param name="offset">Where the part begins.</param>
/// <param name="length">Bytes of the part.</param>
/// <param name="sent">Hears of bytes.</param>
internal sealed class FileContent(HubLocalFile file, long offset, long length, Action<int> sent) : HttpContent
{
    protected override bool TryComputeLength(out long computed)
    {
        computed = length;
        return true;
    }

    protected override Task SerializeToStreamAsync(Stream stream, TransportContext? context) => SerializeToStreamAsync(stream, context, CancellationToken.None);

    protected override async Task SerializeToStreamAsync(Stream stream, TransportContext? context, CancellationToken cancellationToken)
    {
        using var input = file.Open();
        input.Position = offset;
        var buffer = new byte[(int)Math.Min(1 << 18, Math.Max(1, length))];
        for (var left = length; left > 0;)
        {
            var count = await input.ReadAsync(buffer.AsMemory(0, (int)Math.Min(left, buffer.Length)), cancellationToken).ConfigureAwait(false);
            if (count == 0) throw new LancetException($"{file.Source} became shorter while it was uploaded; nothing was committed.");
            await stream.WriteAsync(buffer.AsMemory(0, count), cancellationToken).ConfigureAwait(false);
            left -= count;
            sent(count);
        }
    }
}

/// <summary>A commit as the hub reads it: a JSON object a line, first what is said of the commit, then the files, small ones as base64. Files are read as they are sent.</summary>
internal sealed class CommitContent : HttpContent
{
    private readonly List<(byte[] Text, HubLocalFile? File)> _pieces = [];
    private readonly Action<int> _sent;

    /// <param name="message">First line of the commit.</param>
    /// <param name="parent">Commit that the branch must stand at.</param>
    /// <param name="files">Files with their checksums.</param>
    /// <param name="sent">Hears of bytes of files.</param>
    public CommitContent(string message, string parent, IEnumerable<HubUploadFile> files, Action<int> sent)
    {
        _sent = sent;
        Add($"{{\"key\":\"header\",\"value\":{{\"summary\":{Json(message)},\"description\":\"\",\"parentCommit\":{Json(parent)}}}}}\n");
        foreach (var file in files)
        {
            if (file.IsLarge)
            {
                Add($"{{\"key\":\"lfsFile\",\"value\":{{\"path\":{Json(file.Local.Path)},\"algo\":\"sha256\",\"oid\":\"{file.Checksum}\",\"size\":{file.Local.Size}}}}}\n");
                continue;
            }
            Add($"{{\"key\":\"file\",\"value\":{{\"path\":{Json(file.Local.Path)},\"encoding\":\"base64\",\"content\":\"", file.Local);
            Add("\"}}\n");
        }
        Headers.ContentType = new("application/x-ndjson");
    }

    protected override bool TryComputeLength(out long length)
    {
        length = _pieces.Sum(piece => piece.Text.Length + (piece.File is { } file ? (file.Size + 2) / 3 * 4 : 0));
        return true;
    }

    protected override Task SerializeToStreamAsync(Stream stream, TransportContext? context) => SerializeToStreamAsync(stream, context, CancellationToken.None);

    protected override async Task SerializeToStreamAsync(Stream stream, TransportContext? context, CancellationToken cancellationToken)
    {
        // Whole groups of three bytes, so that parts of base64 can be put together.
        var bytes = new byte[3 << 14];
        var text = new byte[4 << 14];
        foreach (var (before, file) in _pieces)
        {
            await stream.WriteAsync(before, cancellationToken).ConfigureAwait(false);
            if (file is null) continue;
            using var input = file.Open();
            if (input.Length != file.Size) throw new LancetException($"{file.Source} changed while it was uploaded; nothing was committed.");
            for (var left = file.Size; left > 0;)
            {
                var count = (int)Math.Min(left, bytes.Length);
                await input.ReadExactlyAsync(bytes.AsMemory(0, count), cancellationToken).ConfigureAwait(false);
                Base64.EncodeToUtf8(bytes.AsSpan(0, count), text, out _, out var written);
                await stream.WriteAsync(text.AsMemory(0, written), cancellationToken).ConfigureAwait(false);
                left -= count;
                _sent(count);
            }
        }
    }

    private void Add(string text, HubLocalFile? file = null) => _pieces.Add((Encoding.UTF8.GetBytes(text), file));

    private static string Json(string text) => $"\"{JsonEncodedText.Encode(text)}\"";
}
